// Rotary position embeddings.
#include "intrin.cuh"

// The angle is a product of floats, as in the implementations that models are trained and compared with. It may be a hundred thousand
// radians: cosf would then take its slow way through local memory, and there are few enough angles for doubles.
KERNEL(rope_table, 64, RopeTableArgs) {
    float* y = a.y.at + blockIdx.x * a.y.stride;
    const float pos = (float)a.pos[blockIdx.x];
    for (u32 i = threadIdx.x; i < a.pairs; i += blockDim.x) {
        double s, c;
        sincos((double)(pos * a.freqs[i]), &s, &c);
        y[i] = (float)c * a.scale;
        y[a.pairs + i] = (float)s * a.scale;
    }
}

KERNEL(rope, 64, RopeArgs) {
    const u64 row = blockIdx.x, head = blockIdx.y;
    const float* x = a.x.at + row * a.x.stride + head * a.x.head;
    float* y = a.y.at + row * a.y.stride + head * a.y.head;
    const float* turn = a.table.at + row * a.table.stride;
    const u32 next = a.halves ? a.pairs : 1;
    // Each pair is read and written by one thread, so that y may be x.
    for (u32 i = threadIdx.x; i < a.pairs; i += blockDim.x) {
        const u32 at = a.halves ? i : 2 * i;
        const float c = turn[i], s = turn[a.pairs + i], first = x[at], second = x[at + next];
        y[at] = first * c - second * s;
        y[at + next] = first * s + second * c;
    }
    if (x != y) {
        for (u32 i = 2 * a.pairs + threadIdx.x; i < a.width; i += blockDim.x) y[i] = x[i];
    }
}
