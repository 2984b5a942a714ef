// What the parts of the simulated driver share. One lock guards all of it: the simulator does not gain from calls side by side.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "../simt.h"

#define API(...) extern "C" __attribute__((visibility("default"))) int __VA_ARGS__

namespace driver {

typedef uint64_t DevicePtr;

enum Code : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    INVALID_PTX = 218,
    UNSUPPORTED_PTX_VERSION = 222,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    OUT_OF_RESOURCES = 701,
    LAUNCH_FAILED = 719,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
};

extern std::recursive_mutex lock;

// Begins every function of the driver: counts the call, and gives the error that it is to end with, if any: one that
// FAKE_CUDA_FAIL asks for, or that of a device that is lost.
int enter(const char* name);
#define ENTER(name)                                                   \
    std::lock_guard<std::recursive_mutex> hold_(::driver::lock);      \
    if (const int code_ = ::driver::enter(name)) return code_

// Whether an error is one after which the device answers nothing but it.
bool is_fatal(int code);
// From now on every call gives this error.
int lose_device(int code);

// A number from the environment.
long long setting(const char* name, long long otherwise);
int device_count();
// Compute capability, times 10.
int capability();
int driver_version();

// Memory. Whether [at, at + n) lies in one allocation of the device, or of the host's pinned memory.
bool is_device(DevicePtr at, size_t n);
bool is_pinned(const void* at, size_t n);

// One thing that a stream has yet to do; gives an error code.
typedef std::function<int()> Operation;

struct Graph {
    std::vector<Operation> operations;
};

struct Stream {
    unsigned flags = 0;
    // What is still to do, in order, and how much has been done.
    std::vector<Operation> queue;
    uint64_t done = 0, added = 0;
    std::shared_ptr<Graph> capture;
    bool capture_broken = false;
    // The thread that calls which would spoil the capture are refused to; all threads if it is none.
    std::thread::id capturer;
};

// The stream behind a handle, null if there is none. Null is the default stream.
Stream* stream_of(void* handle);
// Puts an operation into a stream, or into the graph it captures.
int enqueue(void* stream, Operation operation);
// Does all that the default stream and those that it waits for have to do; an error while one of them is being captured.
int synchronize_default();
int synchronize_all();
// Whether any stream is being captured: then nothing may be allocated or loaded.
bool is_capturing();

struct Module {
    struct Entry {
        std::string name;
        const simt::Kernel* kernel;
        size_t param_bytes;
    };
    struct Function {
        const simt::Kernel* kernel = nullptr;
        size_t max_dynamic_shared = simt::SHARED_LIMIT;
    };
    std::vector<Entry> entries;
    std::vector<std::unique_ptr<Function>> functions;
};
Module::Function* function_of(void* handle);

}  // namespace driver
