// Products of a few rows: the time is that of reading the weights, each once.
//
// A warp makes one output (of every row; two with gate and up), lanes taking spans of the row of weights in turn. The next span is on
// its way while one is multiplied; activations come from the cache. Sums of products of integers are exact within a sub-block.
#pragma once

#include "products.cuh"

// One span with one row of activations: Σ over its activation blocks of d (Σ over sub-blocks scale Σqx + min Σx).
template <class F>
DEVICE float span_dot(const Piece<F::SPAN, F::SUB>& p, const Q8& q, u64 row, u32 k, u32 block, u32 s) {
    constexpr int GROUPS = F::SPAN / 16;
    const u64 first = row * k + block * F::BLOCK;
    const float* d = q.d + (F::ACT == 256 ? first / 256 : (first + F::offset(s, 0)) / 32);
    float result = 0, t = 0;
#pragma unroll
    for (int j = 0; j < GROUPS; j++) {
        const u64 at = first + F::offset(s, j);
        const uint4 x = __ldg(reinterpret_cast<const uint4*>(q.qs + at));
        const int sum = F::HAS_MIN || F::BIAS ? int(__ldg(q.sums + at / 16)) : 0;
        int dot = dot16(p.q + 4 * j, x, -F::BIAS * sum);
        float sums = float(sum);
        int sub = j;
        if (F::SUB == 32) {
            j++;
            const u64 at = first + F::offset(s, j);
            const uint4 x = __ldg(reinterpret_cast<const uint4*>(q.qs + at));
            const int sum2 = F::HAS_MIN || F::BIAS ? int(__ldg(q.sums + at / 16)) : 0;
            dot = dot16(p.q + 4 * j, x, dot - F::BIAS * sum2);
            sums = float(sum + sum2);
            sub = j / 2;
        }
        t = __fmaf_rn(p.scale[sub], float(dot), t);
        if (F::HAS_MIN) t = __fmaf_rn(p.min[sub], sums, t);
        if (F::ACT == 32 && j % 2) {
            result = __fmaf_rn(__ldg(d + j / 2), t, result);
            t = 0;
        }
    }
    return F::ACT == 32 ? result : __ldg(d) * t;
}

// Products of a warp's row of weights with n_rows rows, lane by lane: sums over the warp are left to the caller.
template <class F, int N>
DEVICE void row_products(const MatvecArgs& a, const u8* w, u32 x_group, float (&sum)[N]) {
    constexpr u32 SPANS = F::BLOCK / F::SPAN;
    const u32 n = a.k / F::SPAN;
    u32 i = threadIdx.x % 32;
    if (i >= n) return;
    typename F::Raw next = F::load(w + u64(i / SPANS) * F::BYTES, i % SPANS);
    while (true) {
        const typename F::Raw raw = next;
        const u32 block = i / SPANS, s = i % SPANS;
        i += 32;
        if (i < n) next = F::load(w + u64(i / SPANS) * F::BYTES, i % SPANS);
        Piece<F::SPAN, F::SUB> p;
        F::unpack(raw, s, p);
#pragma unroll
        for (int r = 0; r < N; r++)
            if (r < a.n_rows) sum[r] += span_dot<F>(p, a.q, u64(r) * a.x_groups + x_group, a.k, block, s);
        if (i >= n) return;
    }
}

// The same for plain numbers.
template <class F, int N>
DEVICE void plain_products(const MatvecArgs& a, const u8* w, const float* x, float (&sum)[N]) {
    const u32 lane = threadIdx.x % 32;
    const u64 ragged = (reinterpret_cast<u64>(w) * 4 / F::BYTES | reinterpret_cast<u64>(x) | a.x.stride * 4) & 15;
    u32 i = 0;
    if (!ragged) {
        // Four weights of each of four turns are on their way at once.
        constexpr int TURNS = 4;
        for (; i + TURNS * 128 <= a.k; i += TURNS * 128) {
            float4 v[TURNS];
#pragma unroll
            for (int t = 0; t < TURNS; t++) v[t] = F::load4(w + u64(i + t * 128 + 4 * lane) * F::BYTES);
#pragma unroll
            for (int r = 0; r < N; r++) {
                if (r >= a.n_rows) break;
#pragma unroll
                for (int t = 0; t < TURNS; t++) {
                    const float4 y = __ldg(reinterpret_cast<const float4*>(x + r * a.x.stride + i + t * 128 + 4 * lane));
                    sum[r] = __fmaf_rn(v[t].x, y.x, sum[r]);
                    sum[r] = __fmaf_rn(v[t].y, y.y, sum[r]);
                    sum[r] = __fmaf_rn(v[t].z, y.z, sum[r]);
                    sum[r] = __fmaf_rn(v[t].w, y.w, sum[r]);
                }
            }
        }
    }
    for (i += lane; i < a.k; i += 32) {
        const float v = F::load(w + u64(i) * F::BYTES);
#pragma unroll
        for (int r = 0; r < N; r++)
            if (r < a.n_rows) sum[r] = __fmaf_rn(v, __ldg(x + r * a.x.stride + i), sum[r]);
    }
}

template <class F, int N, bool GATE_UP>
DEVICE void matvec(const MatvecArgs& a) {
    const u32 out = blockIdx.x * MATVEC_OUT + threadIdx.x / 32, group = blockIdx.y;
    if (out >= a.n_out) return;
    const u32 matrix = a.ids ? __ldg(a.ids + group) : group, x_group = group / a.x_div;
    float sum[N] = {}, up[N] = {};
    const u8* w = matrix_row(a.w, a.matrix_bytes, matrix, a.row_bytes, out);
    const u8* w_up = GATE_UP ? matrix_row(a.w_up, a.matrix_bytes_up, matrix, a.row_bytes, out) : nullptr;
    if constexpr (is_plain<F>) {
        const float* x = a.x.at + x_group * a.x.head;
        plain_products<F>(a, w, x, sum);
        if (GATE_UP) plain_products<F>(a, w_up, x, up);
    } else {
        row_products<F>(a, w, x_group, sum);
        if (GATE_UP) row_products<F>(a, w_up, x_group, up);
    }
#pragma unroll
    for (int r = 0; r < N; r++) {
        if (r >= a.n_rows) break;
        float v = warp_sum(sum[r]);
        if (GATE_UP) v = silu(v) * warp_sum(up[r]);
        if (threadIdx.x % 32) continue;
        float* y = a.y.at + r * a.y.stride + group * a.y.head + out;
        if (!GATE_UP) {
            if (a.bias) v += __ldg(a.bias + out);
            if (a.add) v += *y;
        }
        *y = v;
    }
}
