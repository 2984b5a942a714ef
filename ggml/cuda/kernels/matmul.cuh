// Products of many rows with blocks of integers, on int8 tensor cores.
//
// A step is 128 elements of k. Its weights are unpacked once into shared memory, as signed bytes with scales and minimums beside, from
// registers that were loaded during the step before; its activations come by asynchronous copies into one of two buffers. Sums of
// products are exact within a sub-block, then F32.
#pragma once

#include "tile.cuh"

#define STEP 128
// Rows of a tile are 8 pieces of 16 bytes, turned round by the row so that neither rows nor columns share banks.
DEVICE u32 piece(u32 row, u32 i) { return row * 8 + (i ^ (row & 7)); }

template <class F>
struct MatmulShared {
    static constexpr int SUBS = STEP / F::SUB, ACTS = F::ACT == 32 ? 4 : 1, MINS = F::HAS_MIN ? SUBS : 1;
    uint4 w[MATMUL_OUT * 8];
    uint4 x[2][MATMUL_ROWS * 8];
    // Eight more than there are, for the sake of banks.
    float scale[SUBS][MATMUL_OUT + 8];
    float min[MINS][MATMUL_OUT + 8];
    float d[ACTS][MATMUL_ROWS + 8];
    float sum[MINS][MATMUL_ROWS + 8];
    u32 x_row[MATMUL_ROWS];
    u32 y_row[MATMUL_ROWS];
};

// Spans of a step, and how many of them a thread takes.
template <class F>
constexpr u32 step_spans = STEP / F::SPAN;
template <class F>
constexpr u32 thread_spans = MATMUL_OUT * step_spans<F> / MATMUL_THREADS;

// What a thread has loaded for the step to come.
template <class F>
struct Ahead {
    typename F::Raw raw[thread_spans<F>];
    // Of row threadIdx.x / 4, columns 32 (threadIdx.x % 4) ..
    float d;
    u32 sums;
};

template <class F>
DEVICE void load_step(const MatvecArgs& a, const u8* const (&w)[thread_spans<F>], const MatmulShared<F>& s, u32 k0, Ahead<F>& ahead) {
    constexpr u32 SPANS = F::BLOCK / F::SPAN;
    const u32 span = k0 / F::SPAN + threadIdx.x % step_spans<F>;
    if (span * F::SPAN < a.k) {
#pragma unroll
        for (u32 i = 0; i < thread_spans<F>; i++) ahead.raw[i] = F::template load<FromGlobal>(w[i] + span / SPANS * F::BYTES, span % SPANS);
    }
    static_assert(MATMUL_THREADS == 4 * MATMUL_ROWS, "a thread for each 32 numbers of a step");
    const u32 row = s.x_row[threadIdx.x / 4], k = k0 + threadIdx.x % 4 * 32;
    const bool some = row != NO_ROW && k < a.k;
    const u64 at = u64(row) * a.k + k;
    if (F::ACT == 32 || threadIdx.x % 4 == 0) ahead.d = some ? __ldg(a.q.d + at / F::ACT) : 0;
    if (F::HAS_MIN) ahead.sums = some ? __ldg(reinterpret_cast<const u32*>(a.q.sums) + at / 32) : 0;
}

// Puts the activations of a step on their way.
template <class F>
DEVICE void copy_step(const MatvecArgs& a, MatmulShared<F>& s, u32 k0) {
    uint4* to = s.x[k0 / STEP % 2];
#pragma unroll
    for (u32 i = threadIdx.x; i < MATMUL_ROWS * 8; i += MATMUL_THREADS) {
        const u32 row = s.x_row[i / 8], k = k0 + i % 8 * 16;
        const bool some = row != NO_ROW && k < a.k;
        cp_async16(to + piece(i / 8, i % 8), a.q.qs + (some ? u64(row) * a.k + k : 0), some);
    }
    cp_async_commit();
}

template <class F>
DEVICE void unpack_step(const MatvecArgs& a, MatmulShared<F>& s, u32 k0, const Ahead<F>& ahead) {
    constexpr u32 SPANS = F::BLOCK / F::SPAN;
    const u32 span = k0 / F::SPAN + threadIdx.x % step_spans<F>;
    const bool some = span * F::SPAN < a.k;
    // Where groups come one after the other, a sub-block of two is said once.
    constexpr u32 EVERY = F::SUB == 32 && !F::PLANES ? 2 : 1;
#pragma unroll
    for (u32 i = 0; i < thread_spans<F>; i++) {
        const u32 row = threadIdx.x / step_spans<F> + i * (MATMUL_THREADS / step_spans<F>);
        Piece<F::SPAN, F::SUB> p;
        if (some) F::unpack(ahead.raw[i], span % SPANS, p);
#pragma unroll
        for (u32 j = 0; j < F::SPAN / 16; j++) {
            const u32 at = span / SPANS * F::BLOCK + F::offset(span % SPANS, j) - k0, sub = at / F::SUB;
            uint4 q = make_uint4(0, 0, 0, 0);
            if (some)
                q = make_uint4(less_bias<F::BIAS>(p.q[4 * j]), less_bias<F::BIAS>(p.q[4 * j + 1]), less_bias<F::BIAS>(p.q[4 * j + 2]),
                               less_bias<F::BIAS>(p.q[4 * j + 3]));
            s.w[piece(row, at / 16)] = q;
            if (j % EVERY) continue;
            const u32 of = F::SUB == 16 ? j : j / 2;
            s.scale[sub][row] = some ? p.scale[of] : 0;
            if (F::HAS_MIN) s.min[sub][row] = some ? p.min[of] : 0;
        }
    }
    const u32 row = threadIdx.x / 4, part = threadIdx.x % 4;
    if (F::ACT == 32)
        s.d[F::ACT == 32 ? part : 0][row] = ahead.d;
    else if (part == 0)
        s.d[0][row] = ahead.d;
    if constexpr (F::HAS_MIN) {
        const float first = float(short(ahead.sums)), second = float(int(ahead.sums) >> 16);
        if constexpr (F::SUB == 16) {
            s.sum[2 * part][row] = first;
            s.sum[2 * part + 1][row] = second;
        } else {
            s.sum[part][row] = first + second;
        }
    }
}

DEVICE void load_pair(float (&to)[2], const float* from) {
    const float2 v = *reinterpret_cast<const float2*>(from);
    to[0] = v.x, to[1] = v.y;
}

// Adds a step's products: acc[m][n] += d Σ over sub-blocks (scale Σqx + min Σx).
template <class F>
DEVICE void multiply_step(const MatmulShared<F>& s, u32 k0, u32 n_rows, float (&acc)[2][4][4]) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const u32 out = warp % 4 * 32, row = warp / 4 * 32;
    const uint4* x_tile = s.x[k0 / STEP % 2];
    if (row >= n_rows) return;
    constexpr u32 SUBS = 32 / F::SUB;
    float sum[2][4][4] = {};
#pragma unroll 1
    for (u32 k = 0; k < STEP / 32; k++) {
        u32 w[2][4];
        float scale[2][SUBS][2], min[2][SUBS][2];
#pragma unroll
        for (u32 m = 0; m < 2; m++) {
            ldmatrix_x4(w[m], s.w + piece(out + m * 16 + lane % 16, 2 * k + lane / 16));
#pragma unroll
            for (u32 i = 0; i < 2 * SUBS; i++) {
                const u32 sub = k * SUBS + i / 2, at = out + m * 16 + g + i % 2 * 8;
                scale[m][i / 2][i % 2] = s.scale[sub][at];
                if (F::HAS_MIN) min[m][i / 2][i % 2] = s.min[sub][at];
            }
        }
#pragma unroll
        for (u32 pair = 0; pair < 2; pair++) {
            // Sixteen rows that are not there are not multiplied.
            if (row + pair * 16 >= n_rows) break;
            u32 x[4];
            ldmatrix_x4(x, x_tile + piece(row + pair * 16 + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                const u32 n = 2 * pair + half, column = row + n * 8 + 2 * t;
                float sums[SUBS][2], d[2];
#pragma unroll
                for (u32 i = 0; i < SUBS; i++)
                    if (F::HAS_MIN) load_pair(sums[i], &s.sum[F::HAS_MIN ? k * SUBS + i : 0][column]);
                if (F::ACT == 32) load_pair(d, &s.d[F::ACT == 32 ? k : 0][column]);
#pragma unroll
                for (u32 m = 0; m < 2; m++) {
                    float part[4] = {};
                    float(&to)[4] = F::ACT == 32 ? part : sum[m][n];
#pragma unroll
                    for (u32 i = 0; i < SUBS; i++) {
                        int dot[4];
                        if (F::SUB == 32)
                            mma_s8_k32(dot, w[m], {x[2 * half], x[2 * half + 1]}, INT_AS_FLOAT);
                        else
                            mma_s8_k16(dot, {w[m][2 * i], w[m][2 * i + 1]}, x[2 * half + i], INT_AS_FLOAT);
#pragma unroll
                        for (int e = 0; e < 4; e++) {
                            to[e] = __fmaf_rn(scale[m][i][e / 2], counted_to_float(dot[e]), to[e]);
                            if (F::HAS_MIN) to[e] = __fmaf_rn(min[m][i][e / 2], sums[i][e % 2], to[e]);
                        }
                    }
                    if (F::ACT == 32) {
#pragma unroll
                        for (int e = 0; e < 4; e++) acc[m][n][e] = __fmaf_rn(d[e % 2], part[e], acc[m][n][e]);
                    }
                }
            }
        }
    }
    if constexpr (F::ACT == 256) {
#pragma unroll
        for (int n = 0; n < 4; n++) {
            float d[2];
            load_pair(d, &s.d[0][row + n * 8 + 2 * t]);
#pragma unroll
            for (int m = 0; m < 2; m++)
#pragma unroll
                for (int e = 0; e < 4; e++) acc[m][n][e] = __fmaf_rn(d[e % 2], sum[m][n][e], acc[m][n][e]);
        }
    }
}

template <class F>
DEVICE void matmul(const MatmulArgs& a) {
    SHARED(MatmulShared<F>, all, [1]);
    MatmulShared<F>& s = all[0];
    Rows rows;
    if (!find_rows(a, s.x_row, s.y_row, rows)) return;
    const u8* w[thread_spans<F>];
#pragma unroll
    for (u32 i = 0; i < thread_spans<F>; i++)
        w[i] = weight_row(a.m, rows.matrix, threadIdx.x / step_spans<F> + i * (MATMUL_THREADS / step_spans<F>));
    __syncthreads();

    Ahead<F> ahead;
    load_step<F>(a.m, w, s, 0, ahead);
    copy_step<F>(a.m, s, 0);
    float acc[2][4][4] = {};
#pragma unroll 1
    for (u32 k0 = 0; k0 < a.m.k; k0 += STEP) {
        unpack_step<F>(a.m, s, k0, ahead);
        cp_async_wait<0>();
        __syncthreads();
        if (k0 + STEP < a.m.k) {
            load_step<F>(a.m, w, s, k0 + STEP, ahead);
            copy_step<F>(a.m, s, k0 + STEP);
        }
        multiply_step<F>(s, k0, rows.n, acc);
        __syncthreads();
    }
    write_tile(a.m, s.y_row, rows.n, acc);
}
