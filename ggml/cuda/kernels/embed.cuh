// Rows of a table of weights, decoded to the bit as src/format does.
#pragma once

#include "products.cuh"

template <class F>
DEVICE void embed(const EmbedArgs& a) {
    const u64 r = blockIdx.x;
    const u8* w = a.w + __ldg(a.token + r) * a.row_bytes;
    float* y = a.y.at + r * a.y.stride;
    if constexpr (F::PLAIN) {
#pragma unroll 1
        for (u32 i = threadIdx.x; i < a.k; i += blockDim.x) y[i] = F::load(w + u64(i) * F::BYTES);
    } else {
        constexpr u32 SPANS = F::BLOCK / F::SPAN;
#pragma unroll 1
        for (u32 i = threadIdx.x; i < a.k / F::SPAN; i += blockDim.x) {
            const u32 block = i / SPANS, s = i % SPANS;
            Piece<F::SPAN, F::SUB> p;
            F::unpack(F::template load<FromGlobal>(w + u64(block) * F::BYTES, s), s, p);
            // Kept short rather than fast: a row is decoded once a token.
#pragma unroll 1
            for (int j = 0; j < F::SPAN / 16; j++) {
                float* to = y + block * F::BLOCK + F::offset(s, j);
                const int sub = F::SUB == 16 ? j : j / 2;
#pragma unroll
                for (int e = 0; e < 16; e++) {
                    const s8 q = s8(less_bias<F::BIAS>(p.q[4 * j + e / 4]) >> (8 * (e % 4)));
                    const float v = __fmul_rn(p.scale[sub], float(q));
                    to[e] = F::HAS_MIN ? __fadd_rn(v, p.min[sub]) : v;
                }
            }
        }
    }
}
