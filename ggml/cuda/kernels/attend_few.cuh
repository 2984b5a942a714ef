// Attention of few rows: a block has a span of a row's keys and up to eight heads that share them.
//
// What counts is reading the cache. Tensor cores take the arithmetic, so that eight heads cost no more than one; a warp has 16
// positions at a time, and nothing is shared among warps until the end.
//
// Scores: heads are rows, positions are columns. Rows 0 to 7 are queries, 8 to 15 what their rounding has left, and the sum of both is
// the score. In which order elements are multiplied does not matter as long as it is the same for queries and keys, so a
// thread has those that lie side by side in memory.
// Values: elements are rows, heads are columns, and the contraction is over positions. The weights are where it wants them.
#pragma once

#include "attend.cuh"

#define FEW_WARPS (ATTEND_THREADS / 32)

// What a warp has come to. With g = lane / 4, t = lane % 4 a thread keeps the state of head g, and of heads 2t and 2t + 1 sums of values:
// acc[i][0] and [1] of an element, [2] and [3] of the next.
template <u32 D>
struct FewSums {
    float acc[D / 16][4];
    float most, sum;

    METHOD void clear() {
        most = -INFINITY;
        sum = 0.0f;
#pragma unroll
        for (u32 i = 0; i < D / 16; i++) {
#pragma unroll
            for (u32 c = 0; c < 4; c++) acc[i][c] = 0.0f;
        }
    }

    // Scores of positions 2t, 2t + 1, 8 + 2t and 9 + 2t for head g become weights, times 2^exponent.
    METHOD void weigh(float (&s)[2][2], float exponent) {
        float next = fmaxf(fmaxf(most, fmaxf(s[0][0], s[0][1])), fmaxf(s[1][0], s[1][1]));
        next = fmaxf(next, __shfl_xor_sync(FULL_WARP, next, 1));
        next = fmaxf(next, __shfl_xor_sync(FULL_WARP, next, 2));
        if (__any_sync(FULL_WARP, next != most)) {
            const u32 t = threadIdx.x % 4;
            const float factor = attend_weight(most, next);
            const float even = __shfl_sync(FULL_WARP, factor, 8 * t), odd = __shfl_sync(FULL_WARP, factor, 8 * t + 4);
            sum *= factor;
            most = next;
#pragma unroll
            for (u32 i = 0; i < D / 16; i++) {
                acc[i][0] *= even;
                acc[i][1] *= odd;
                acc[i][2] *= even;
                acc[i][3] *= odd;
            }
        }
#pragma unroll
        for (u32 n = 0; n < 2; n++) {
#pragma unroll
            for (u32 i = 0; i < 2; i++) {
                s[n][i] = attend_weight(s[n][i] + exponent, most);
                sum += s[n][i];
            }
        }
    }
};

// What a warp walks over.
struct FewKeys {
    u32 table, kv, from, to;
    u32 g, t;
};

// The sums of the warps, put together and written. Heads first .. first + n_heads of the row. Of each 8 E elements a thread has E that
// follow each other.
template <u32 D, u32 E>
DEVICE void few_finish(const AttendArgs& a, const FewSums<D>& s, u32 row, u32 first, u32 n_heads, u32 spans) {
    // Sums lie by their place in threads, acc[i] at 16 i + 2 g, and heads are 8 further apart than they are long, against conflicts of banks.
    SHARED(float, sums, [FEW_WARPS][ATTEND_HEADS][D + 8]);
    SHARED(float, most, [FEW_WARPS][ATTEND_HEADS]);
    SHARED(float, sum, [FEW_WARPS][ATTEND_HEADS]);
    const u32 warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    float total = s.sum;
    total += __shfl_xor_sync(FULL_WARP, total, 1);
    total += __shfl_xor_sync(FULL_WARP, total, 2);
    if (t == 0) {
        most[warp][g] = s.most;
        sum[warp][g] = total;
    }
#pragma unroll
    for (u32 i = 0; i < D / 16; i++) {
        const u32 at = 16 * i + 2 * g;
        *(float2*)&sums[warp][2 * t][at] = make_float2(s.acc[i][0], s.acc[i][2]);
        *(float2*)&sums[warp][2 * t + 1][at] = make_float2(s.acc[i][1], s.acc[i][3]);
    }
    __syncthreads();
    for (u32 h = 0; h < n_heads; h++) {
        float largest = most[0][h], factor[FEW_WARPS];
#pragma unroll
        for (u32 w = 1; w < FEW_WARPS; w++) largest = fmaxf(largest, most[w][h]);
#pragma unroll
        for (u32 w = 0; w < FEW_WARPS; w++) factor[w] = attend_weight(most[w][h], largest);
        float l = 0.0f;
#pragma unroll
        for (u32 w = 0; w < FEW_WARPS; w++) l += factor[w] * sum[w][h];
        // A span that is the only one is the result.
        float* to = spans > 1 ? attend_partial(a, row, first + h, blockIdx.x) : a.y.at + row * a.y.stride + (first + h) * a.y.head;
        const float scale = spans > 1 ? 1.0f : 1.0f / l;
        for (u32 at = threadIdx.x; at < D; at += ATTEND_THREADS) {
            const u32 c = at / (8 * E) * (8 * E) + at / 2 % 8 * E + at / 16 % (E / 2) * 2 + at % 2;
            float x = 0.0f;
#pragma unroll
            for (u32 w = 0; w < FEW_WARPS; w++) x += factor[w] * sums[w][h][at];
            if (c < a.v.dim) to[c] = x * scale;
        }
        if (spans > 1 && threadIdx.x == 0) {
            to[a.v.dim] = largest;
            to[a.v.dim + 1] = l;
        }
    }
    if (spans > 1) attend_arrive(a, row * gridDim.y + blockIdx.y, {row, 1, first, n_heads}, spans);
}

// WALKER: begin() asks for the first rows, load_query(of head g, or null), walk(sums).
template <class WALKER, u32 D, u32 E>
DEVICE void attend_few(const AttendArgs& a) {
    const u32 row = blockIdx.z, n = a.batch.pos[row] + 1, span = attend_span(n), from = blockIdx.x * span;
    if (from >= n) return;
    const u32 group = a.n_head / a.n_head_kv, tiles = (group + ATTEND_HEADS - 1) / ATTEND_HEADS;
    const u32 kv = blockIdx.y / tiles, first = blockIdx.y % tiles * ATTEND_HEADS;
    const u32 n_heads = min((u32)ATTEND_HEADS, group - first), lane = threadIdx.x % 32;
    WALKER walker{a, attend_values(a), {a.batch.table[row], kv, from, min(from + span, n), lane / 4, lane % 4}};
    walker.begin();
    walker.load_query(lane / 4 < n_heads ? attend_query(a, row, kv * group + first + lane / 4) : nullptr);
    FewSums<D> sums;
    sums.clear();
    walker.walk(sums);
    few_finish<D, E>(a, sums, row, kv * group + first, n_heads, (n + span - 1) / span);
}
