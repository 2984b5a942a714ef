// Streams, events and graphs. Streams do nothing until somebody waits for them: who reads a result too early, or changes pinned memory
// before it was copied, is noticed.
#include <cstdio>
#include <cstring>
#include <set>

#include "state.h"

namespace driver {
namespace {

constexpr unsigned NON_BLOCKING = 1;

struct Event {
    Stream* stream = nullptr;
    uint64_t after = 0;
    // Whether somebody has asked for it since it was recorded.
    bool asked = false;
    std::shared_ptr<Graph> captured;
};

Stream default_stream;
std::set<Stream*> streams;
std::set<Event*> events;
std::set<Graph*> graphs, executables;

// Does what a stream has to do up to its operation number `until`.
int drain(Stream& s, uint64_t until) {
    size_t i = 0;
    int code = SUCCESS;
    // Operations may drain other streams, never this one: they wait for events recorded before.
    for (; s.done < until && i < s.queue.size() && !code; i++) {
        s.done++;
        code = s.queue[i]();
    }
    s.queue.erase(s.queue.begin(), s.queue.begin() + ptrdiff_t(i));
    return code ? lose_device(code) : int(SUCCESS);
}

int drain(Stream& s) { return drain(s, s.added); }

// Who waits for a stream that is being captured spoils the capture.
int spoil(Stream& s) {
    s.capture_broken = true;
    return CAPTURE_UNSUPPORTED;
}

// Whether a stream is being captured in a mode that minds what this thread does.
bool minds(const Stream& s) {
    return s.capture && (s.capturer == std::thread::id() || s.capturer == std::this_thread::get_id());
}

}  // namespace

bool is_capturing() {
    for (Stream* s : streams)
        if (minds(*s)) return true;
    return false;
}

Stream* stream_of(void* handle) {
    if (!handle) return &default_stream;
    auto* s = static_cast<Stream*>(handle);
    return streams.count(s) ? s : nullptr;
}

int enqueue(void* handle, Operation operation) {
    Stream* s = stream_of(handle);
    if (!s) return INVALID_HANDLE;
    if (s->capture) {
        s->capture->operations.push_back(std::move(operation));
        return SUCCESS;
    }
    s->queue.push_back(std::move(operation));
    s->added++;
    return SUCCESS;
}

int synchronize_default() {
    for (Stream* s : streams)
        if (minds(*s) && !(s->flags & NON_BLOCKING)) return spoil(*s);
    if (const int code = drain(default_stream)) return code;
    for (Stream* s : streams)
        if (!(s->flags & NON_BLOCKING))
            if (const int code = drain(*s)) return code;
    return SUCCESS;
}

int synchronize_all() {
    for (Stream* s : streams)
        if (minds(*s)) return spoil(*s);
    if (const int code = drain(default_stream)) return code;
    for (Stream* s : streams)
        if (const int code = drain(*s)) return code;
    return SUCCESS;
}

}  // namespace driver

using namespace driver;

API(cuStreamCreate)(void** stream, unsigned flags) {
    ENTER("cuStreamCreate");
    if (!simt::thread.context) return INVALID_CONTEXT;
    auto* s = new Stream;
    s->flags = flags;
    streams.insert(s);
    *stream = s;
    return SUCCESS;
}

API(cuStreamDestroy_v2)(void* handle) {
    ENTER("cuStreamDestroy_v2");
    Stream* s = handle ? stream_of(handle) : nullptr;
    if (!s) return INVALID_HANDLE;
    const int code = drain(*s);
    for (Event* e : events)
        if (e->stream == s) e->stream = nullptr;
    streams.erase(s);
    delete s;
    return code;
}

API(cuStreamSynchronize)(void* handle) {
    ENTER("cuStreamSynchronize");
    Stream* s = stream_of(handle);
    if (!s) return INVALID_HANDLE;
    if (s->capture) return spoil(*s);
    return s == &default_stream ? synchronize_default() : drain(*s);
}

API(cuStreamQuery)(void* handle) {
    ENTER("cuStreamQuery");
    Stream* s = stream_of(handle);
    if (!s) return INVALID_HANDLE;
    // The first question finds it at work, later ones do not: time passes when it is asked for.
    if (s->queue.empty()) return SUCCESS;
    if (const int code = drain(*s)) return code;
    return NOT_READY;
}

API(cuCtxSynchronize)() {
    ENTER("cuCtxSynchronize");
    return synchronize_all();
}

API(cuEventCreate)(void** event, unsigned) {
    ENTER("cuEventCreate");
    auto* e = new Event;
    events.insert(e);
    *event = e;
    return SUCCESS;
}

API(cuEventDestroy_v2)(void* handle) {
    ENTER("cuEventDestroy_v2");
    auto* e = static_cast<Event*>(handle);
    if (!events.erase(e)) return INVALID_HANDLE;
    delete e;
    return SUCCESS;
}

API(cuEventRecord)(void* handle, void* stream) {
    ENTER("cuEventRecord");
    auto* e = static_cast<Event*>(handle);
    Stream* s = stream_of(stream);
    if (!events.count(e) || !s) return INVALID_HANDLE;
    e->captured = s->capture;
    e->stream = s;
    e->after = s->added;
    e->asked = false;
    return SUCCESS;
}

API(cuStreamWaitEvent)(void* stream, void* handle, unsigned) {
    ENTER("cuStreamWaitEvent");
    auto* e = static_cast<Event*>(handle);
    Stream* s = stream_of(stream);
    if (!events.count(e) || !s) return INVALID_HANDLE;
    if (e->captured) {
        // The stream joins the capture that the event is of.
        if (s->capture && s->capture != e->captured) return spoil(*s);
        s->capture = e->captured;
        return SUCCESS;
    }
    if (s->capture) return spoil(*s);
    Stream* from = e->stream;
    if (!from || from == s) return SUCCESS;
    const uint64_t until = e->after;
    return enqueue(stream, [=] { return streams.count(from) || from == &default_stream ? drain(*from, until) : int(SUCCESS); });
}

API(cuEventSynchronize)(void* handle) {
    ENTER("cuEventSynchronize");
    auto* e = static_cast<Event*>(handle);
    if (!events.count(e)) return INVALID_HANDLE;
    if (e->captured) return CAPTURE_UNSUPPORTED;
    return e->stream ? drain(*e->stream, e->after) : int(SUCCESS);
}

API(cuEventQuery)(void* handle) {
    ENTER("cuEventQuery");
    auto* e = static_cast<Event*>(handle);
    if (!events.count(e)) return INVALID_HANDLE;
    if (!e->stream || e->stream->done >= e->after) return SUCCESS;
    // The first question finds it at work, and nothing has been done then: who takes that for a yes is noticed.
    if (!e->asked) {
        e->asked = true;
        return NOT_READY;
    }
    return drain(*e->stream, e->after);
}

API(cuEventElapsedTime)(float* ms, void* first, void* second) {
    ENTER("cuEventElapsedTime");
    if (!events.count(static_cast<Event*>(first)) || !events.count(static_cast<Event*>(second))) return INVALID_HANDLE;
    *ms = 1.0f;
    return SUCCESS;
}

API(cuLaunchKernel)(void* handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                    void* stream, void** params, void** extra) {
    ENTER("cuLaunchKernel");
    Module::Function* f = function_of(handle);
    if (!f) return INVALID_HANDLE;
    const simt::Dim grid{gx, gy, gz}, dim{bx, by, bz};
    if (!params || extra || !grid.count() || !dim.count()) return INVALID_VALUE;
    if (gx > 0x7fffffffu || gy > 65535 || gz > 65535 || bx > 1024 || by > 1024 || bz > 64 || dim.count() > 1024) return INVALID_VALUE;
    if (shared > f->max_dynamic_shared) return INVALID_VALUE;
    if (dim.count() > f->kernel->max_threads) return OUT_OF_RESOURCES;
    const simt::Kernel* kernel = f->kernel;
    const auto* bytes = static_cast<const char*>(params[0]);
    // A new vector: its address suits every struct.
    auto param = std::make_shared<std::vector<char>>(bytes, bytes + kernel->param_bytes);
    return enqueue(stream, [=] {
        const std::string error = simt::launch(*kernel, grid, dim, shared, param->data());
        if (error.empty()) return int(SUCCESS);
        fprintf(stderr, "simulator: %s\n", error.c_str());
        return int(LAUNCH_FAILED);
    });
}

API(cuStreamBeginCapture_v2)(void* handle, unsigned mode) {
    ENTER("cuStreamBeginCapture_v2");
    Stream* s = handle ? stream_of(handle) : nullptr;
    if (!s) return handle ? INVALID_HANDLE : CAPTURE_UNSUPPORTED;
    if (s->capture) return INVALID_VALUE;
    s->capture = std::make_shared<Graph>();
    s->capture_broken = false;
    constexpr unsigned GLOBAL = 0;
    s->capturer = mode == GLOBAL ? std::thread::id() : std::this_thread::get_id();
    return SUCCESS;
}

API(cuStreamEndCapture)(void* handle, void** graph) {
    ENTER("cuStreamEndCapture");
    Stream* s = stream_of(handle);
    if (!s || !s->capture) return INVALID_VALUE;
    const std::shared_ptr<Graph> captured = s->capture;
    bool broken = false;
    for (Stream* other : streams) {
        if (other->capture != captured) continue;
        broken |= other->capture_broken;
        other->capture = nullptr;
    }
    *graph = nullptr;
    if (broken) return CAPTURE_INVALIDATED;
    auto* g = new Graph(*captured);
    graphs.insert(g);
    *graph = g;
    return SUCCESS;
}

API(cuGraphInstantiateWithFlags)(void** executable, void* graph, unsigned long long) {
    ENTER("cuGraphInstantiateWithFlags");
    auto* g = static_cast<Graph*>(graph);
    if (!graphs.count(g)) return INVALID_VALUE;
    auto* e = new Graph(*g);
    executables.insert(e);
    *executable = e;
    return SUCCESS;
}

API(cuGraphLaunch)(void* executable, void* stream) {
    ENTER("cuGraphLaunch");
    auto* g = static_cast<Graph*>(executable);
    if (!executables.count(g)) return INVALID_VALUE;
    Stream* s = stream_of(stream);
    if (!s) return INVALID_HANDLE;
    for (const Operation& o : g->operations)
        if (const int code = enqueue(stream, o)) return code;
    return SUCCESS;
}

API(cuGraphDestroy)(void* graph) {
    ENTER("cuGraphDestroy");
    auto* g = static_cast<Graph*>(graph);
    if (!graphs.erase(g)) return INVALID_VALUE;
    delete g;
    return SUCCESS;
}

API(cuGraphExecDestroy)(void* executable) {
    ENTER("cuGraphExecDestroy");
    auto* g = static_cast<Graph*>(executable);
    if (!executables.erase(g)) return INVALID_VALUE;
    delete g;
    return SUCCESS;
}
