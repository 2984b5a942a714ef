// Products of many rows with plain numbers, on TF32 tensor cores.
//
// F16 and BF16 weights are TF32 numbers as they are. Activations, and F32 weights, are split into two: the nearest TF32 number and the
// nearest of what is left, 22 bits of mantissa together; products of two rests are left out. Tensor cores do not round their sums to the
// nearest, so they sum 32 products at most, and F32 additions do the rest.
#pragma once

#include "tile.cuh"

#define PLAIN_STEP 32
// Rows of a step are 8 pieces of four numbers, turned round as in matmul.cuh.
DEVICE u32 plain_at(u32 row, u32 k) { return row * PLAIN_STEP + (k / 4 ^ (row & 7)) * 4; }

struct PlainShared {
    float w[MATMUL_OUT * PLAIN_STEP];
    float x[MATMUL_ROWS * PLAIN_STEP];
    u32 x_row[MATMUL_ROWS];
    u32 y_row[MATMUL_ROWS];
};

// Numbers to the two TF32 numbers whose sum they nearly are: what is left of x is the first.
template <int N>
DEVICE void split(u32 (&x)[N], u32 (&low)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) {
        const float value = __uint_as_float(x[i]);
        x[i] = to_tf32(value);
        // Neither infinities nor NaNs have a rest.
        const bool finite = (x[i] & 0x7f800000u) != 0x7f800000u;
        low[i] = finite ? to_tf32(value - __uint_as_float(x[i])) : 0;
    }
}

// A thread's numbers of a step: it has columns 4 (threadIdx.x % 8) .. + 4 of every 32nd row.
template <class F>
struct PlainAhead {
    static constexpr u32 EVERY = MATMUL_THREADS / 8, W = MATMUL_OUT / EVERY, X = MATMUL_ROWS / EVERY;
    const u8* w_row[W];
    const float* x_row[X];  // null: there is none
    bool quads;
    float4 w[W];
    float4 x[X];

    __device__ __forceinline__ PlainAhead(const MatmulArgs& a, const PlainShared& s, u32 matrix) {
        const u32 row = threadIdx.x / 8;
        u64 ragged = a.m.k * 4;
#pragma unroll
        for (u32 i = 0; i < W; i++) {
            w_row[i] = weight_row(a.m, matrix, row + i * EVERY);
            ragged |= reinterpret_cast<u64>(w_row[i]) * (4 / F::BYTES);
        }
#pragma unroll
        for (u32 i = 0; i < X; i++) {
            // Rows of activations are counted group by group, as those of 8 bits are.
            const u32 r = s.x_row[row + i * EVERY];
            const u64 at = a.tile_list ? r * a.m.x.stride : r / a.m.x_groups * a.m.x.stride + r % a.m.x_groups * a.m.x.head;
            x_row[i] = r == NO_ROW ? nullptr : a.m.x.at + at;
            ragged |= reinterpret_cast<u64>(x_row[i]);
        }
        quads = (ragged & 15) == 0;
    }
    template <class Load>
    DEVICE float4 four(u32 k, u32 n, const Load& load) {
        return make_float4(k < n ? load(k) : 0, k + 1 < n ? load(k + 1) : 0, k + 2 < n ? load(k + 2) : 0, k + 3 < n ? load(k + 3) : 0);
    }
    __device__ __forceinline__ void load(const MatvecArgs& a, u32 k0) {
        const u32 k = k0 + threadIdx.x % 8 * 4;
#pragma unroll
        for (u32 i = 0; i < W; i++) {
            const u8* at = w_row[i];
            if (quads)
                w[i] = k < a.k ? F::load4(at + u64(k) * F::BYTES) : make_float4(0, 0, 0, 0);
            else
                w[i] = four(k, a.k, [&](u32 k) { return F::load(at + u64(k) * F::BYTES); });
        }
#pragma unroll
        for (u32 i = 0; i < X; i++) {
            const float* at = x_row[i];
            if (quads)
                x[i] = at && k < a.k ? __ldg(reinterpret_cast<const float4*>(at + k)) : make_float4(0, 0, 0, 0);
            else
                x[i] = four(k, at ? a.k : 0, [&](u32 k) { return __ldg(at + k); });
        }
    }
    __device__ __forceinline__ void store(PlainShared& s) const {
        const u32 row = threadIdx.x / 8, k = threadIdx.x % 8 * 4;
#pragma unroll
        for (u32 i = 0; i < W; i++) *reinterpret_cast<float4*>(s.w + plain_at(row + i * EVERY, k)) = w[i];
#pragma unroll
        for (u32 i = 0; i < X; i++) *reinterpret_cast<float4*>(s.x + plain_at(row + i * EVERY, k)) = x[i];
    }
};

template <bool SPLIT_WEIGHTS>
DEVICE void plain_step(const PlainShared& s, u32 n_rows, float (&acc)[2][4][4]) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 out = warp % 4 * 32, row = warp / 4 * 32;
    if (row >= n_rows) return;
    float sum[2][4][4] = {};
#pragma unroll 1
    for (u32 k = 0; k < PLAIN_STEP; k += 8) {
        // Matrices of 8 rows of four numbers: of weights rows 0-7 and 8-15 of the first four columns, then of the next four.
        u32 w[2][4], w_low[2][4];
#pragma unroll
        for (u32 m = 0; m < 2; m++) {
            ldmatrix_x4(w[m], s.w + plain_at(out + m * 16 + lane % 16, k + lane / 16 * 4));
            if (SPLIT_WEIGHTS) split(w[m], w_low[m]);
        }
#pragma unroll
        for (u32 pair = 0; pair < 2; pair++) {
            if (row + pair * 16 >= n_rows) break;
            u32 x[4], low[4];
            ldmatrix_x4(x, s.x + plain_at(row + pair * 16 + lane % 8 + lane / 16 * 8, k + lane / 8 % 2 * 4));
            split(x, low);
#pragma unroll
            for (u32 half = 0; half < 2; half++)
#pragma unroll
                for (u32 m = 0; m < 2; m++) {
                    float(&to)[4] = sum[m][2 * pair + half];
                    mma_tf32(to, w[m], {low[2 * half], low[2 * half + 1]});
                    if (SPLIT_WEIGHTS) mma_tf32(to, w_low[m], {x[2 * half], x[2 * half + 1]});
                    mma_tf32(to, w[m], {x[2 * half], x[2 * half + 1]});
                }
        }
    }
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) acc[m][n][e] += sum[m][n][e];
}

template <class F>
DEVICE void matmul_plain(const MatmulArgs& a) {
    SHARED(PlainShared, all, [1]);
    PlainShared& s = all[0];
    Rows rows;
    if (!find_rows(a, s.x_row, s.y_row, rows)) return;
    __syncthreads();
    PlainAhead<F> ahead(a, s, rows.matrix);
    ahead.load(a.m, 0);
    float acc[2][4][4] = {};
#pragma unroll 1
    for (u32 k0 = 0; k0 < a.m.k; k0 += PLAIN_STEP) {
        ahead.store(s);
        __syncthreads();
        if (k0 + PLAIN_STEP < a.m.k) ahead.load(a.m, k0 + PLAIN_STEP);
        plain_step<F::BYTES == 4>(s, rows.n, acc);
        __syncthreads();
    }
    write_tile(a.m, s.y_row, rows.n, acc);
}
