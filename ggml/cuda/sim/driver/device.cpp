// The devices, their errors, and the failures that tests ask for.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "state.h"

namespace driver {

std::recursive_mutex lock;

namespace {

int lost = SUCCESS;
bool initialized = false;

struct Injected {
    std::string name;
    long long call;
    int code;
};

// FAKE_CUDA_FAIL="cuMemAlloc_v2:3=2,cuLaunchKernel:10=719": the third call of the one fails with 2, and so on.
std::vector<Injected> injected() {
    std::vector<Injected> all;
    const char* text = getenv("FAKE_CUDA_FAIL");
    const std::string list = text ? text : "";
    for (size_t at = 0; at < list.size();) {
        const size_t end = std::min(list.find(',', at), list.size());
        const std::string one = list.substr(at, end - at);
        const size_t colon = one.find(':'), equals = one.find('=');
        if (colon == std::string::npos || equals == std::string::npos || colon > equals) {
            fprintf(stderr, "FAKE_CUDA_FAIL: %s is no function:call=code\n", one.c_str());
            abort();
        }
        all.push_back({one.substr(0, colon), atoll(one.c_str() + colon + 1), atoi(one.c_str() + equals + 1)});
        at = end + 1;
    }
    return all;
}

// Does not need cuInit before.
bool is_early(const char* name) {
    for (const char* early : {"cuInit", "cuDriverGetVersion", "cuGetErrorName", "cuGetErrorString"})
        if (!strcmp(name, early)) return true;
    return false;
}

const struct {
    int code;
    const char *name, *text;
} CODES[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {214, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {INVALID_PTX, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {UNSUPPORTED_PTX_VERSION, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
     "the provided PTX was compiled with an unsupported toolchain."},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {702, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

}  // namespace

bool is_fatal(int code) { return code == 46 || code == 214 || (code >= 700 && code <= 720 && code != OUT_OF_RESOURCES) || code == 999; }

int lose_device(int code) {
    if (!lost) lost = code;
    return lost;
}

int enter(const char* name) {
    static const std::vector<Injected> all = injected();
    static std::map<std::string, long long> calls;
    if (!all.empty()) {
        const long long call = ++calls[name];
        for (const Injected& i : all) {
            if (i.name != name || i.call != call) continue;
            if (!is_fatal(i.code)) return i.code;
            // Kernels fail after their launch.
            lose_device(i.code);
            if (!strcmp(name, "cuLaunchKernel") || !strcmp(name, "cuGraphLaunch")) return SUCCESS;
        }
    }
    if (!is_early(name)) {
        if (!initialized) return NOT_INITIALIZED;
        if (lost) return lost;
    }
    return SUCCESS;
}

long long setting(const char* name, long long otherwise) {
    const char* text = getenv(name);
    return text && *text ? atoll(text) : otherwise;
}

int device_count() { return int(setting("FAKE_CUDA_DEVICES", 1)); }
int capability() { return int(setting("FAKE_CUDA_CAPABILITY", 89)); }
int driver_version() { return int(setting("FAKE_CUDA_DRIVER_VERSION", 13000)); }

static bool is_ordinal(int device) { return device >= 0 && device < device_count(); }

}  // namespace driver

using namespace driver;

API(cuInit)(unsigned flags) {
    ENTER("cuInit");
    if (flags) return INVALID_VALUE;
    if (device_count() == 0) return NO_DEVICE;
    initialized = true;
    return SUCCESS;
}

API(cuDriverGetVersion)(int* version) {
    ENTER("cuDriverGetVersion");
    *version = driver_version();
    return SUCCESS;
}

API(cuDeviceGetCount)(int* count) {
    ENTER("cuDeviceGetCount");
    *count = device_count();
    return SUCCESS;
}

API(cuDeviceGet)(int* device, int ordinal) {
    ENTER("cuDeviceGet");
    if (!is_ordinal(ordinal)) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}

API(cuDeviceGetName)(char* name, int length, int device) {
    ENTER("cuDeviceGetName");
    if (!is_ordinal(device)) return INVALID_DEVICE;
    snprintf(name, size_t(length), "Simulated device %d", device);
    return SUCCESS;
}

API(cuDeviceGetAttribute)(int* value, int attribute, int device) {
    ENTER("cuDeviceGetAttribute");
    if (!is_ordinal(device)) return INVALID_DEVICE;
    switch (attribute) {
        case 1: *value = 1024; break;                       // threads of a block
        case 8: *value = int(simt::SHARED_LIMIT); break;    // shared memory of a block
        case 10: *value = 32; break;                        // threads of a warp
        case 13: *value = 2520000; break;                   // clock, kHz
        case 16: *value = 4; break;                         // multiprocessors
        case 36: *value = 10501000; break;                  // memory clock, kHz
        case 37: *value = 384; break;                       // memory bus, bits
        case 38: *value = 72 << 20; break;                  // L2 cache
        case 39: *value = 1536; break;                      // threads of a multiprocessor
        case 41: *value = 1; break;                         // unified addresses
        case 75: *value = capability() / 10; break;
        case 76: *value = capability() % 10; break;
        case 81: *value = 100 << 10; break;                 // shared memory of a multiprocessor
        case 82: *value = 65536; break;                     // its registers
        case 97: *value = int(simt::SHARED_OPT_IN); break;  // shared memory of a block that asks for it
        default: *value = 0;
    }
    return SUCCESS;
}

API(cuDevicePrimaryCtxRetain)(void** context, int device) {
    ENTER("cuDevicePrimaryCtxRetain");
    if (!is_ordinal(device)) return INVALID_DEVICE;
    *context = reinterpret_cast<void*>(uintptr_t(device) + 1);
    return SUCCESS;
}

API(cuDevicePrimaryCtxRelease_v2)(int device) {
    ENTER("cuDevicePrimaryCtxRelease_v2");
    return is_ordinal(device) ? SUCCESS : INVALID_DEVICE;
}

API(cuCtxSetCurrent)(void* context) {
    ENTER("cuCtxSetCurrent");
    const auto number = reinterpret_cast<uintptr_t>(context);
    if (number > uintptr_t(device_count())) return INVALID_CONTEXT;
    simt::thread.context = int(number);
    return SUCCESS;
}

API(cuGetErrorName)(int code, const char** name) {
    for (const auto& c : CODES)
        if (c.code == code) return *name = c.name, SUCCESS;
    *name = nullptr;
    return INVALID_VALUE;
}

API(cuGetErrorString)(int code, const char** text) {
    for (const auto& c : CODES)
        if (c.code == code) return *text = c.text, SUCCESS;
    *text = nullptr;
    return INVALID_VALUE;
}
