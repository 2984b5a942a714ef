// Scheduling of blocks, warps and fibers.
#include "simt.h"

#include <link.h>
#include <signal.h>
#include <sys/mman.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>

extern "C" void simt_switch(void** save, void* to);

#if defined(__x86_64__)
asm(R"(
.text
.globl simt_switch
.hidden simt_switch
.type simt_switch,@function
simt_switch:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp,(%rdi)
    mov %rsi,%rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
.size simt_switch,.-simt_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl simt_switch
.hidden simt_switch
.type simt_switch,%function
simt_switch:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size simt_switch,.-simt_switch
)");
#else
#error "a context switch for this processor is missing"
#endif

namespace simt {

thread_local Thread thread;

namespace {

constexpr size_t STACK = 64 * 1024, MAX_THREADS = 1024, GUARD = 256, GAP = 16;
const uint64_t CANARY = 0x7ac5ca1ab1e57ac5;

// What ends a launch, thrown on the scheduler's own stack.
struct Failure {
    const char* what;
};

Kernel* kernels;

void to_scheduler() { simt_switch(&thread.self->stack, thread.block->scheduler); }

[[noreturn]] void entry() {
    thread.block->kernel->call(thread.block->param);
    thread.self->state = State::Done;
    to_scheduler();
    abort();
}

struct sigaction before_segv, before_bus, before_ill;

// A fault of a kernel ends its launch; other faults go where they went before.
void on_fault(int signal, siginfo_t* info, void* context) {
    // Accesses are checked by the compiler (-fsanitize=alignment), and end in an instruction that does not exist.
    if (thread.block) fail(signal == SIGILL ? "a misaligned address" : "an illegal address");
    const struct sigaction& before = signal == SIGSEGV ? before_segv : signal == SIGBUS ? before_bus : before_ill;
    if (before.sa_flags & SA_SIGINFO) return before.sa_sigaction(signal, info, context);
    if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) return before.sa_handler(signal);
    sigaction(signal, &before, nullptr);
}

void catch_faults() {
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &before_segv);
    sigaction(SIGBUS, &action, &before_bus);
    sigaction(SIGILL, &action, &before_ill);
}

// Stacks and shared memory for one block at a time.
struct Worker {
    unsigned char* stacks = map(STACK * MAX_THREADS);
    unsigned char* shared = map(SHARED_OPT_IN + GUARD);
    unsigned char* arena = map(SHARED_LIMIT);
    std::vector<Fiber> fibers{MAX_THREADS};
    Worker* next = nullptr;

    static unsigned char* map(size_t n) {
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void* at = mmap(nullptr, n, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (at == MAP_FAILED) abort();
        return static_cast<unsigned char*>(at);
    }
};

// __shared__ variables are thread-local here, so they lie in the thread-local segment of this library: it is poisoned as a whole.
void poison_statics() {
    auto found = [](dl_phdr_info* info, size_t, void* here) {
        for (int i = 0; i < info->dlpi_phnum; i++) {
            const auto& h = info->dlpi_phdr[i];
            auto* at = static_cast<unsigned char*>(info->dlpi_tls_data);
            if (h.p_type != PT_TLS || !at || here < at || here >= at + h.p_memsz) continue;
            const Thread kept = thread;
            memset(at, POISON, h.p_memsz);
            thread = kept;
            return 1;
        }
        return 0;
    };
    dl_iterate_phdr(found, &thread);
}

void start(Fiber& f, unsigned index, Dim dim, unsigned char* stack) {
    f.state = State::Ready;
    f.index = index;
    f.id = {index % dim.x, index / dim.x % dim.y, index / dim.x / dim.y};
    f.copies.clear();
    f.groups = 0;
    memcpy(stack, &CANARY, sizeof CANARY);
    void** top = reinterpret_cast<void**>(stack + STACK);
#if defined(__x86_64__)
    // Six saved registers, where to return to, and what keeps the stack aligned as after a call.
    top -= 8;
    memset(top, 0, 64);
    top[6] = reinterpret_cast<void*>(entry);
#else
    top -= 20;
    memset(top, 0, 160);
    top[11] = reinterpret_cast<void*>(entry);
#endif
    f.stack = top;
}

// Carries out the exchanges of a warp to which everybody has come.
bool release(Fiber* warp, unsigned lanes) {
    bool any = false;
    unsigned live = 0, waiting = 0;
    for (unsigned l = 0; l < lanes; l++) {
        live |= unsigned(warp[l].state != State::Done) << l;
        waiting |= unsigned(warp[l].state == State::InExchange) << l;
    }
    for (unsigned left = waiting; left;) {
        const unsigned l0 = unsigned(__builtin_ctz(left));
        const Fiber& first = warp[l0];
        const unsigned mask = first.mask & live;
        if (!(mask >> l0 & 1)) throw Failure{"a lane is not in its own mask"};
        if ((waiting & mask) != mask) {
            left &= left - 1;
            continue;
        }
        void* args[32] = {};
        for (unsigned l = 0; l < lanes; l++) {
            if (!(mask >> l & 1)) continue;
            if ((warp[l].mask & live) != mask || warp[l].exchange != first.exchange)
                throw Failure{"lanes of a warp meet in different operations or with different masks"};
            args[l] = warp[l].arg;
        }
        if (first.exchange) first.exchange(args, mask);
        for (unsigned l = 0; l < lanes; l++)
            if (mask >> l & 1) warp[l].state = State::Ready;
        left &= ~mask;
        any = true;
    }
    return any;
}

void run_warp(Block& b, Fiber* warp, unsigned lanes, bool backwards) {
    do {
        for (unsigned i = 0; i < lanes; i++) {
            Fiber& f = warp[backwards ? lanes - 1 - i : i];
            if (f.state != State::Ready) continue;
            thread.self = &f;
            simt_switch(&b.scheduler, f.stack);
            if (thread.failure) throw Failure{thread.failure};
        }
    } while (release(warp, lanes));
}

void check_memory(const Block& b, const Worker& w) {
    for (unsigned i = 0; i < b.n; i++)
        if (memcmp(w.stacks + i * STACK, &CANARY, sizeof CANARY)) throw Failure{"a thread's stack has overflowed"};
    for (size_t i = 0; i < GUARD; i++)
        if (b.shared[b.shared_bytes + i] != POISON) throw Failure{"a thread wrote beyond the dynamic shared memory"};
    for (const SharedArray& a : b.arrays)
        for (size_t i = 0; i < GAP; i++)
            if (a.at[a.bytes + i] != POISON) throw Failure{"a thread wrote beyond a shared array"};
}

void run_block(Block& b, Worker& w) {
    thread.block = &b;
    thread.failure = nullptr;
    poison_statics();
    b.fibers = w.fibers.data();
    b.shared = w.shared;
    b.arena = w.arena;
    memset(b.shared, POISON, b.shared_bytes + GUARD);
    for (unsigned i = 0; i < b.n; i++) start(b.fibers[i], i, b.dim, w.stacks + i * STACK);
    const unsigned warps = (b.n + 31) / 32;
    unsigned order = b.id.x * 7 + b.id.y * 3 + b.id.z;
    for (;; order = order * 5 + 1) {
        for (unsigned i = 0; i < warps; i++) {
            const unsigned at = (i + (order >> 2)) % warps, first = 32 * (order & 2 ? warps - 1 - at : at);
            run_warp(b, b.fibers + first, b.n - first < 32 ? b.n - first : 32, order & 1);
        }
        unsigned done = 0, at_barrier = 0;
        for (unsigned i = 0; i < b.n; i++) {
            done += b.fibers[i].state == State::Done;
            at_barrier += b.fibers[i].state == State::AtBarrier;
        }
        if (done == b.n) break;
        if (at_barrier != b.n)
            throw Failure{done ? "threads wait for others that have ended" : "threads wait at a barrier for others that wait in their warp"};
        for (unsigned i = 0; i < b.n; i++) {
            b.fibers[i].state = State::Ready;
            b.fibers[i].vote = b.votes;
        }
        b.votes = 0;
    }
    check_memory(b, w);
}

// Blocks of one launch, taken by whoever is free.
struct Job {
    const Kernel& kernel;
    Dim grid, dim;
    size_t shared_bytes;
    const void* param;
    std::atomic<size_t> next{0};
    std::mutex lock;
    std::string error;

    void work(Worker& w) {
        const int context = thread.context;
        const size_t total = grid.count();
        for (size_t i; (i = next++) < total;) {
            Block b;
            b.grid = grid;
            b.dim = dim;
            b.n = unsigned(dim.count());
            b.kernel = &kernel;
            b.param = param;
            b.shared_bytes = shared_bytes;
            b.id = {unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y)};
            try {
                run_block(b, w);
            } catch (const Failure& f) {
                char text[512];
                const Fiber* t = thread.self;
                snprintf(text, sizeof text, "%s: %s; block (%u, %u, %u), thread (%u, %u, %u)", kernel.name, f.what, b.id.x, b.id.y,
                         b.id.z, t->id.x, t->id.y, t->id.z);
                std::lock_guard<std::mutex> hold(lock);
                if (error.empty()) error = text;
                next = total;
            }
        }
        thread = {nullptr, nullptr, nullptr, context};
    }
};

// The threads of the CPU that run blocks. One launch at a time; it and its threads are never destroyed, for the process may end at any
// moment.
class Pool {
  public:
    Pool() {
        catch_faults();
        const unsigned n = std::thread::hardware_concurrency();
        for (unsigned i = 1; i < n; i++) std::thread([this] { help(); }).detach();
        helpers_ = n > 1 ? n - 1 : 0;
    }

    void run(Job& job) {
        // Waking others costs more than a small launch.
        const bool alone = job.grid.count() == 1 || job.grid.count() * job.dim.count() < 2048 || helpers_ == 0;
        if (!alone) {
            std::lock_guard<std::mutex> hold(lock_);
            job_ = &job;
            busy_ = helpers_;
            ticket_++;
            wake_.notify_all();
        }
        job.work(mine_);
        if (!alone) {
            std::unique_lock<std::mutex> hold(lock_);
            idle_.wait(hold, [this] { return busy_ == 0; });
            job_ = nullptr;
        }
    }

  private:
    void help() {
        Worker worker;
        for (uint64_t seen = 0;;) {
            Job* job;
            {
                std::unique_lock<std::mutex> hold(lock_);
                wake_.wait(hold, [&] { return ticket_ != seen; });
                seen = ticket_;
                job = job_;
            }
            job->work(worker);
            std::lock_guard<std::mutex> hold(lock_);
            if (--busy_ == 0) idle_.notify_all();
        }
    }

    std::mutex lock_;
    std::condition_variable wake_, idle_;
    Job* job_ = nullptr;
    uint64_t ticket_ = 0;
    unsigned busy_ = 0, helpers_ = 0;
    Worker mine_;
};

}  // namespace

Registration::Registration(const char* name, size_t param_bytes, unsigned max_threads, void (*call)(const void*))
    : kernel{name, param_bytes, max_threads, call, kernels} {
    kernels = &kernel;
}

const Kernel* find_kernel(const char* name) {
    const Kernel* k = kernels;
    while (k && strcmp(k->name, name)) k = k->next;
    return k;
}

std::string launch(const Kernel& kernel, Dim grid, Dim dim, size_t shared_bytes, const void* param) {
    static std::mutex one;
    static Pool* const pool = new Pool;
    std::lock_guard<std::mutex> hold(one);
    Job job{kernel, grid, dim, shared_bytes, param, {}, {}, {}};
    pool->run(job);
    return job.error;
}

void fail(const char* what) {
    thread.failure = what;
    to_scheduler();
    abort();
}

void barrier() { barrier_votes(false); }

int barrier_votes(bool yes) {
    thread.block->votes += yes;
    thread.self->state = State::AtBarrier;
    to_scheduler();
    return thread.self->vote;
}

void exchange(unsigned mask, Exchange op, void* arg) {
    Fiber& f = *thread.self;
    f.mask = mask;
    f.exchange = op;
    f.arg = arg;
    f.state = State::InExchange;
    to_scheduler();
}

unsigned char* shared_array(const void* key, size_t bytes) {
    Block& b = *thread.block;
    for (const SharedArray& a : b.arrays)
        if (a.key == key) return a.at;
    const size_t begin = (b.arena_used + 127) / 128 * 128, end = begin + bytes + GAP;
    if (end > SHARED_LIMIT) fail("too much static shared memory");
    b.arrays.push_back({key, b.arena + begin, bytes});
    b.arena_used = end;
    memset(b.arena + begin, POISON, bytes + GAP);
    return b.arena + begin;
}

void copy_async(void* to, const void* from, unsigned bytes, unsigned some) {
    if (reinterpret_cast<uintptr_t>(to) % bytes || reinterpret_cast<uintptr_t>(from) % bytes)
        fail("an asynchronous copy of unaligned addresses");
    // Who reads before it has arrived shall notice.
    memset(to, POISON, bytes);
    thread.self->copies.push_back({to, from, bytes, some, thread.self->groups});
}

void copy_commit() { thread.self->groups++; }

void copy_wait(unsigned in_flight) {
    Fiber& f = *thread.self;
    size_t done = 0;
    for (; done < f.copies.size() && f.copies[done].group + in_flight < f.groups; done++) {
        const Copy& c = f.copies[done];
        memset(c.to, 0, c.bytes);
        memcpy(c.to, c.from, c.some);
    }
    f.copies.erase(f.copies.begin(), f.copies.begin() + ptrdiff_t(done));
}

}  // namespace simt
