// Memory: every allocation is a mapping of its own that ends in a page nobody may touch, so that a kernel which leaves it faults, and
// is kept in a table, so that copies which leave it fail.
#include <sys/mman.h>

#include <cstdio>
#include <cstring>
#include <map>

#include "state.h"

namespace driver {
namespace {

constexpr size_t PAGE = 65536, ALIGN = 256;
constexpr unsigned char RED = 0xbd;

struct Allocation {
    size_t bytes;
    unsigned char* map;
    size_t map_bytes;
    int context;  // 0: of the host
};
std::map<uintptr_t, Allocation> allocations;
std::map<int, size_t> used;

size_t total() { return size_t(setting("FAKE_CUDA_MEMORY", 8ll << 30)); }

void* allocate(size_t bytes, int context) {
    const size_t body = (bytes + PAGE - 1) / PAGE * PAGE, all = body + PAGE;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* map = mmap(nullptr, all, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (map == MAP_FAILED) return nullptr;
    auto* base = static_cast<unsigned char*>(map);
    mprotect(base + body, PAGE, PROT_NONE);
    // As near to the forbidden page as the alignment allows; what remains between is red.
    unsigned char* at = base + (body - bytes) / ALIGN * ALIGN;
    memset(at, simt::POISON, bytes);
    memset(at + bytes, RED, size_t(base + body - (at + bytes)));
    allocations[reinterpret_cast<uintptr_t>(at)] = {bytes, base, all, context};
    return at;
}

int release(uintptr_t at, bool host) {
    const auto found = allocations.find(at);
    if (found == allocations.end() || (found->second.context == 0) != host) return INVALID_VALUE;
    const Allocation a = found->second;
    const auto* p = reinterpret_cast<const unsigned char*>(at) + a.bytes;
    for (; p < a.map + a.map_bytes - PAGE; p++) {
        if (*p == RED) continue;
        fprintf(stderr, "simulator: something wrote beyond an allocation of %zu bytes\n", a.bytes);
        munmap(a.map, a.map_bytes);
        allocations.erase(found);
        return lose_device(ILLEGAL_ADDRESS);
    }
    used[a.context] -= a.bytes;
    munmap(a.map, a.map_bytes);
    allocations.erase(found);
    return SUCCESS;
}

const Allocation* find(uintptr_t at, size_t n) {
    auto next = allocations.upper_bound(at);
    if (next == allocations.begin()) return nullptr;
    --next;
    const Allocation& a = next->second;
    const size_t offset = at - next->first;
    return offset <= a.bytes && n <= a.bytes - offset ? &a : nullptr;
}

}  // namespace

bool is_device(DevicePtr at, size_t n) {
    const Allocation* a = find(at, n);
    return a && a->context;
}

bool is_pinned(const void* at, size_t n) {
    const Allocation* a = find(reinterpret_cast<uintptr_t>(at), n);
    return a && !a->context;
}

namespace {

template <class T>
T* pointer(DevicePtr at) {
    return reinterpret_cast<T*>(at);
}

// Host memory must not be the device's: where addresses are not unified this fails.
bool is_host(const void* at) { return at && !is_device(reinterpret_cast<DevicePtr>(at), 0); }

}  // namespace
}  // namespace driver

using namespace driver;

API(cuDeviceTotalMem_v2)(size_t* bytes, int device) {
    ENTER("cuDeviceTotalMem_v2");
    if (device < 0 || device >= device_count()) return INVALID_DEVICE;
    *bytes = total();
    return SUCCESS;
}

API(cuMemGetInfo_v2)(size_t* free, size_t* all) {
    ENTER("cuMemGetInfo_v2");
    if (!simt::thread.context) return INVALID_CONTEXT;
    *all = total();
    *free = total() - used[simt::thread.context];
    return SUCCESS;
}

API(cuMemAlloc_v2)(DevicePtr* at, size_t bytes) {
    ENTER("cuMemAlloc_v2");
    const int context = simt::thread.context;
    if (!context) return INVALID_CONTEXT;
    if (is_capturing()) return CAPTURE_UNSUPPORTED;
    if (bytes == 0) return INVALID_VALUE;
    if (bytes > total() - used[context]) return OUT_OF_MEMORY;
    void* p = allocate(bytes, context);
    if (!p) return OUT_OF_MEMORY;
    used[context] += bytes;
    *at = reinterpret_cast<DevicePtr>(p);
    return SUCCESS;
}

API(cuMemFree_v2)(DevicePtr at) {
    ENTER("cuMemFree_v2");
    if (at == 0) return SUCCESS;
    if (const int code = synchronize_all()) return code;
    return release(at, false);
}

API(cuMemHostAlloc)(void** at, size_t bytes, unsigned) {
    ENTER("cuMemHostAlloc");
    if (!simt::thread.context) return INVALID_CONTEXT;
    if (bytes == 0) return INVALID_VALUE;
    *at = allocate(bytes, 0);
    if (!*at) return OUT_OF_MEMORY;
    used[0] += bytes;
    return SUCCESS;
}

API(cuMemAllocHost_v2)(void** at, size_t bytes) {
    ENTER("cuMemAllocHost_v2");
    return cuMemHostAlloc(at, bytes, 0);
}

API(cuMemFreeHost)(void* at) {
    ENTER("cuMemFreeHost");
    if (const int code = synchronize_all()) return code;
    return release(reinterpret_cast<uintptr_t>(at), true);
}

// Copies that wait: all that the default stream waits for is done first.
API(cuMemcpyHtoD_v2)(DevicePtr to, const void* from, size_t n) {
    ENTER("cuMemcpyHtoD_v2");
    if (!is_device(to, n) || !is_host(from)) return INVALID_VALUE;
    if (const int code = synchronize_default()) return code;
    memcpy(pointer<void>(to), from, n);
    return SUCCESS;
}

API(cuMemcpyDtoH_v2)(void* to, DevicePtr from, size_t n) {
    ENTER("cuMemcpyDtoH_v2");
    if (!is_device(from, n) || !is_host(to)) return INVALID_VALUE;
    if (const int code = synchronize_default()) return code;
    memcpy(to, pointer<void>(from), n);
    return SUCCESS;
}

API(cuMemcpyDtoD_v2)(DevicePtr to, DevicePtr from, size_t n) {
    ENTER("cuMemcpyDtoD_v2");
    if (!is_device(to, n) || !is_device(from, n)) return INVALID_VALUE;
    if (const int code = synchronize_default()) return code;
    memmove(pointer<void>(to), pointer<void>(from), n);
    return SUCCESS;
}

API(cuMemsetD8_v2)(DevicePtr at, unsigned char value, size_t n) {
    ENTER("cuMemsetD8_v2");
    if (!is_device(at, n)) return INVALID_VALUE;
    if (const int code = synchronize_default()) return code;
    memset(pointer<void>(at), value, n);
    return SUCCESS;
}

// Copies in a stream. Addresses are looked at again when it is done: what was freed meanwhile is an error.
API(cuMemcpyHtoDAsync_v2)(DevicePtr to, const void* from, size_t n, void* stream) {
    ENTER("cuMemcpyHtoDAsync_v2");
    if (!is_device(to, n) || !is_host(from)) return INVALID_VALUE;
    if (is_pinned(from, n))
        return enqueue(stream, [=] {
            if (!is_device(to, n) || !is_pinned(from, n)) return int(ILLEGAL_ADDRESS);
            memcpy(pointer<void>(to), from, n);
            return int(SUCCESS);
        });
    // Memory that is not pinned is copied aside before the call returns.
    auto bytes = std::make_shared<std::vector<char>>(static_cast<const char*>(from), static_cast<const char*>(from) + n);
    return enqueue(stream, [=] {
        if (!is_device(to, n)) return int(ILLEGAL_ADDRESS);
        memcpy(pointer<void>(to), bytes->data(), n);
        return int(SUCCESS);
    });
}

API(cuMemcpyDtoHAsync_v2)(void* to, DevicePtr from, size_t n, void* stream) {
    ENTER("cuMemcpyDtoHAsync_v2");
    if (!is_device(from, n) || !is_host(to)) return INVALID_VALUE;
    const bool pinned = is_pinned(to, n);
    return enqueue(stream, [=] {
        if (!is_device(from, n) || (pinned && !is_pinned(to, n))) return int(ILLEGAL_ADDRESS);
        memcpy(to, pointer<void>(from), n);
        return int(SUCCESS);
    });
}

API(cuMemcpyDtoDAsync_v2)(DevicePtr to, DevicePtr from, size_t n, void* stream) {
    ENTER("cuMemcpyDtoDAsync_v2");
    if (!is_device(to, n) || !is_device(from, n)) return INVALID_VALUE;
    return enqueue(stream, [=] {
        if (!is_device(to, n) || !is_device(from, n)) return int(ILLEGAL_ADDRESS);
        memmove(pointer<void>(to), pointer<void>(from), n);
        return int(SUCCESS);
    });
}

API(cuMemcpyPeerAsync)(DevicePtr to, void*, DevicePtr from, void*, size_t n, void* stream) {
    ENTER("cuMemcpyPeerAsync");
    return cuMemcpyDtoDAsync_v2(to, from, n, stream);
}

API(cuMemsetD8Async)(DevicePtr at, unsigned char value, size_t n, void* stream) {
    ENTER("cuMemsetD8Async");
    if (!is_device(at, n)) return INVALID_VALUE;
    return enqueue(stream, [=] {
        if (!is_device(at, n)) return int(ILLEGAL_ADDRESS);
        memset(pointer<void>(at), value, n);
        return int(SUCCESS);
    });
}
