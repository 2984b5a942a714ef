// What the products of few and of many rows share.
#pragma once

#include "formats/format.cuh"

// x / (1 + e^-x).
DEVICE float silu(float x) { return __fdiv_rn(x, 1.0f + expf(-x)); }

// Σ q x of 16 elements.
DEVICE int dot16(const u32* q, uint4 x, int sum) {
    sum = __dp4a(int(q[0]), int(x.x), sum);
    sum = __dp4a(int(q[1]), int(x.y), sum);
    sum = __dp4a(int(q[2]), int(x.z), sum);
    return __dp4a(int(q[3]), int(x.w), sum);
}
