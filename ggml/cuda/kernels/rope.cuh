// Rotations, which are launched alone or before rows go into the cache.
#pragma once

#include "intrin.cuh"

// Rotates a head. Each pair is read and written by one thread, so that y may be x.
DEVICE void rope_head(const RopeArgs& a, u64 row, u64 head) {
    const float* x = a.x.at + row * a.x.stride + head * a.x.head;
    float* y = a.y.at + row * a.y.stride + head * a.y.head;
    const float* turn = a.table.at + row * a.table.stride;
    const u32 next = a.halves ? a.pairs : 1;
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
