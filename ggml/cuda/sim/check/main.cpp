// Whether the simulator notices what it is there for: runs ./kernels.cu through the driver's functions. Says what it did not notice,
// and ends with an error then.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

extern "C" {
int cuInit(unsigned);
int cuDevicePrimaryCtxRetain(void**, int);
int cuCtxSetCurrent(void*);
int cuMemAlloc_v2(uint64_t*, size_t);
int cuMemFree_v2(uint64_t);
int cuMemAllocHost_v2(void**, size_t);
int cuMemcpyHtoD_v2(uint64_t, const void*, size_t);
int cuMemcpyDtoH_v2(void*, uint64_t, size_t);
int cuMemcpyDtoHAsync_v2(void*, uint64_t, size_t, void*);
int cuModuleLoadData(void**, const void*);
int cuModuleGetFunction(void**, void*, const char*);
int cuFuncSetAttribute(void*, int, int);
int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
int cuStreamCreate(void**, unsigned);
int cuStreamSynchronize(void*);
int cuStreamWaitEvent(void*, void*, unsigned);
int cuEventCreate(void**, unsigned);
int cuEventRecord(void*, void*);
int cuMemcpyHtoDAsync_v2(uint64_t, const void*, size_t, void*);
int cuStreamBeginCapture_v2(void*, unsigned);
int cuStreamEndCapture(void*, void**);
int cuGraphInstantiateWithFlags(void**, void*, unsigned long long);
int cuGraphLaunch(void*, void*);
}

static int wrong = 0;

static void expect(const char* what, int got, int want) {
    if (got == want) return;
    printf("%s: %d, not %d\n", what, got, want);
    wrong++;
}

struct Args {
    uint64_t x, y;
    uint32_t n;
};

static std::string ptx(const char* version, const char* target, const char* kernel, int bytes) {
    return std::string("// text\n.version ") + version + "\n.target " + target + "\n.address_size 64\n.visible .entry " + kernel +
           "(\n\t.param .align 8 .b8 p[" + std::to_string(bytes) + "]\n)\n{\n\tret;\n}\n";
}

static void* function(const char* name) {
    void *module, *f;
    expect(name, cuModuleLoadData(&module, ptx("7.0", "sm_80", name, sizeof(Args)).c_str()), 0);
    expect(name, cuModuleGetFunction(&f, module, name), 0);
    return f;
}

static int launch(void* f, unsigned grid, unsigned threads, Args a, unsigned shared = 0, void* stream = nullptr) {
    void* params[] = {&a};
    return cuLaunchKernel(f, grid, 1, 1, threads, 1, 1, shared, stream, params, nullptr);
}

static std::vector<float> read(uint64_t at, size_t n) {
    std::vector<float> v(n);
    expect("reading back", cuMemcpyDtoH_v2(v.data(), at, n * 4), 0);
    return v;
}

static void start() {
    void* context;
    expect("cuInit", cuInit(0), 0);
    expect("a context", cuDevicePrimaryCtxRetain(&context, 0), 0);
    expect("its choice", cuCtxSetCurrent(context), 0);
}

static uint64_t memory(size_t floats) {
    uint64_t at = 0;
    const std::vector<float> ones(floats, 1);
    expect("memory", cuMemAlloc_v2(&at, floats * 4), 0);
    expect("filling it", cuMemcpyHtoD_v2(at, ones.data(), floats * 4), 0);
    return at;
}

// What is right, and mistakes that leave the device as it is.
static void results() {
    const uint64_t x = memory(512), y = memory(16);
    float values[16];
    for (int i = 0; i < 16; i++) values[i] = float(i);
    expect("values", cuMemcpyHtoD_v2(y, values, sizeof values), 0);
    expect("right_sum", launch(function("right_sum"), 4, 128, {x, y, 0}), 0);
    for (int b = 0; b < 4; b++) expect("a block's sum", int(read(x, 512)[size_t(b) * 128]), 128);
    expect("right_copy", launch(function("right_copy"), 1, 32, {x, y, 0}), 0);
    expect("the first float copied", int(read(x, 16)[0]), 15);
    for (const char* name : {"no_wait", "unset_shared", "unset_static", "no_barrier"}) {
        expect(name, launch(function(name), 4, std::string(name) == "no_barrier" ? 128 : 32, {x, y, 0}), 0);
        int nans = 0;
        for (float v : read(x, 512)) nans += std::isnan(v);
        if (nans == 0) expect(name, nans, 1);
        memory(1);
    }

    void* f = function("right_sum");
    expect("too many threads", launch(f, 1, 256, {x, y, 0}), 701);
    expect("too much shared memory", launch(f, 1, 128, {x, y, 0}, 50000), 1);
    expect("asking for more", cuFuncSetAttribute(f, 8, 60000), 0);
    expect("more shared memory", launch(f, 1, 128, {x, y, 0}, 50000), 0);
    expect("asking for too much", cuFuncSetAttribute(f, 8, 120000), 1);
    expect("a copy beyond memory", cuMemcpyHtoD_v2(x, values, 512 * 4 + 4), 1);
    expect("a free of nothing", cuMemFree_v2(x + 4), 1);
    expect("a free", cuMemFree_v2(y), 0);
    expect("a copy to what was freed", cuMemcpyHtoD_v2(y, values, 4), 1);

    void* module;
    expect("no PTX", cuModuleLoadData(&module, "hello"), 218);
    expect("PTX cut off", cuModuleLoadData(&module, ptx("7.0", "sm_80", "right_sum", 24).substr(0, 110).c_str()), 218);
    expect("PTX of the future", cuModuleLoadData(&module, ptx("9.9", "sm_80", "right_sum", 24).c_str()), 222);
    expect("PTX for another device", cuModuleLoadData(&module, ptx("7.0", "sm_120", "right_sum", 24).c_str()), 209);
    expect("other parameters", cuModuleLoadData(&module, ptx("7.0", "sm_80", "right_sum", 32).c_str()), 218);
    expect("a module", cuModuleLoadData(&module, ptx("7.0", "sm_80", "right_sum", 24).c_str()), 0);
    expect("a kernel of another module", cuModuleGetFunction(&f, module, "right_copy"), 500);
}

// Streams do their work when somebody waits; captured work when its graph is launched.
static void streams() {
    const uint64_t x = memory(128);
    void *stream, *graph, *executable, *host;
    expect("a stream", cuStreamCreate(&stream, 1), 0);
    expect("pinned memory", cuMemAllocHost_v2(&host, 4), 0);
    float* result = static_cast<float*>(host);
    *result = 0;
    void* f = function("right_sum");
    expect("a launch", launch(f, 1, 128, {x, 0, 0}, 0, stream), 0);
    expect("a copy", cuMemcpyDtoHAsync_v2(result, x, 4, stream), 0);
    expect("the result, too early", int(*result), 0);
    expect("waiting", cuStreamSynchronize(stream), 0);
    expect("the result", int(*result), 128);
    expect("capturing", cuStreamBeginCapture_v2(stream, 0), 0);
    expect("a captured launch", launch(f, 1, 128, {x, 0, 0}, 0, stream), 0);
    expect("a captured copy", cuMemcpyDtoHAsync_v2(result, x, 4, stream), 0);
    expect("the end", cuStreamEndCapture(stream, &graph), 0);
    expect("a graph", cuGraphInstantiateWithFlags(&executable, graph, 0), 0);
    // 255: the first sum and 127 ones; then that and 127 ones.
    for (int want : {255, 382}) {
        expect("the graph's launch", cuGraphLaunch(executable, stream), 0);
        expect("waiting for it", cuStreamSynchronize(stream), 0);
        expect("its result", int(*result), want);
    }
    expect("capturing again", cuStreamBeginCapture_v2(stream, 0), 0);
    expect("waiting for what is captured", cuStreamSynchronize(stream), 900);
    expect("a spoilt capture", cuStreamEndCapture(stream, &graph), 901);
}

// What one stream copies is not there for another one that does not wait for it; what one reads is copied over by another one.
static void two_streams() {
    void *compute, *copies, *copied, *computed, *host;
    expect("a stream", cuStreamCreate(&compute, 1), 0);
    expect("a stream for copies", cuStreamCreate(&copies, 1), 0);
    expect("an event", cuEventCreate(&copied, 2), 0);
    expect("another event", cuEventCreate(&computed, 2), 0);
    expect("pinned memory", cuMemAllocHost_v2(&host, 512), 0);
    auto* numbers = static_cast<float*>(host);
    void* f = function("right_sum");
    for (bool waits : {false, true}) {
        const uint64_t x = memory(128);
        for (int i = 0; i < 128; i++) numbers[i] = 2;
        expect("a copy", cuMemcpyHtoDAsync_v2(x, numbers, 512, copies), 0);
        expect("its event", cuEventRecord(copied, copies), 0);
        if (waits) expect("a stream that waits", cuStreamWaitEvent(compute, copied, 0), 0);
        expect("a launch", launch(f, 1, 128, {x, 0, 0}, 0, compute), 0);
        expect("the end", cuStreamSynchronize(compute), 0);
        expect("the sum of what was there, or of what was copied", int(read(x, 1)[0]), waits ? 256 : 128);
        expect("the end of copies", cuStreamSynchronize(copies), 0);
    }
    for (bool waits : {false, true}) {
        const uint64_t x = memory(128);
        expect("a launch", launch(f, 1, 128, {x, 0, 0}, 0, compute), 0);
        expect("its event", cuEventRecord(computed, compute), 0);
        if (waits) expect("a stream that waits", cuStreamWaitEvent(copies, computed, 0), 0);
        expect("a copy", cuMemcpyHtoDAsync_v2(x, numbers, 512, copies), 0);
        expect("the end of copies", cuStreamSynchronize(copies), 0);
        expect("the end", cuStreamSynchronize(compute), 0);
        expect("what was copied, or the sum of it", int(read(x, 1)[0]), waits ? 2 : 256);
    }
}

// Mistakes after which the device is lost: each in a process of its own.
static int mistake(const char* name) {
    const uint64_t x = memory(64), y = memory(64);
    // Sixteen threads at the barrier; an array exceeded by one; all beyond memory; an address that no float4 has.
    const bool one = !strncmp(name, "beyond_a", 8) || !strncmp(name, "beyond_d", 8) || !strcmp(name, "misaligned");
    const uint32_t n = !strcmp(name, "divergent_barrier") ? 16 : one ? 1 : 64;
    expect(name, launch(function(name), 1, !strcmp(name, "divergent_barrier") ? 64 : 32, {x, y, n}, 128), 0);
    float v;
    const int code = cuMemcpyDtoH_v2(&v, x, 4);
    expect("and then", cuMemcpyDtoH_v2(&v, x, 4), code);
    expect(name, code, 719);
    return wrong;
}

int main(int argc, char** argv) {
    start();
    if (argc > 1) return mistake(argv[1]);
    results();
    streams();
    two_streams();
    for (const char* name : {"divergent_barrier", "divergent_warp", "beyond_array", "beyond_dynamic", "beyond_memory", "misaligned"})
        expect(name, system((std::string(argv[0]) + " " + name + " 2>/dev/null").c_str()), 0);
    return wrong != 0;
}
