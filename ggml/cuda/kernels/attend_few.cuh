// Attention of few rows over F16: a block has a span of a row's keys and up to eight heads that share them.
//
// What counts is reading the cache. Tensor cores take the arithmetic, so that eight heads cost no more than one, and operands go from
// memory to registers as the cores want them: each warp has 16 positions at a time and nothing is shared until the end.
//
// Scores: heads are rows, positions are columns. Rows 0 to 7 are the high halves of queries, 8 to 15 the low ones, and the sum of both is
// as good as F32. In which order elements are multiplied does not matter as long as it is the same for queries and keys: a thread's two
// words of a step, which by the book are elements 2t and 2t + 8, are here four that follow each other, so that one load of 16 bytes fills two steps.
// Values: elements are rows, heads are columns, and the contraction is over positions. The weights are where it wants them.
#pragma once

#include "attend.cuh"

#define FEW_WARPS (ATTEND_THREADS / 32)

// Rows of D elements at most; dim is how many there are, a multiple of 8.
template <u32 D>
struct FewF16 {
    const AttendArgs& a;
    CacheRows values;
    u32 table, kv, from, to;
    u32 g, t;

    // Keys g and 8 + g of 16: of each 32 elements the thread's eight.
    uint4 k[2][D / 32];
    // Values 2t, 2t + 1, 2t + 8, 2t + 9: of each 64 elements the thread's eight.
    uint4 v[D / 64][4];
    // Queries, the same elements as of keys.
    u32 q[D / 16][4];
    float back;
    // Element 64 b + 8 g + 2 j of heads 2t and 2t + 1, then the next element of them, at 4 b + j.
    float acc[D / 16][4];
    // Of head g.
    float most, sum;

    METHOD const u8* row(const CacheRows& rows, u32 pos) const { return attend_row(a, rows, table, kv, min(pos, to - 1)); }

    METHOD void load_keys(u32 base) {
#pragma unroll
        for (u32 n = 0; n < 2; n++) {
            const uint4* at = (const uint4*)row(a.k, base + 8 * n + g);
#pragma unroll
            for (u32 i = 0; i < D / 32; i++) k[n][i] = 32 * i + 8 * t < a.k.dim ? __ldg(at + 4 * i + t) : make_uint4(0, 0, 0, 0);
        }
    }

    METHOD void load_values(u32 base) {
#pragma unroll
        for (u32 p = 0; p < 4; p++) {
            const uint4* at = (const uint4*)row(values, base + 2 * t + p / 2 * 8 + p % 2);
#pragma unroll
            for (u32 b = 0; b < D / 64; b++) v[b][p] = 64 * b + 8 * g < values.dim ? __ldg(at + 8 * b + g) : make_uint4(0, 0, 0, 0);
        }
    }

    // The query of head g, or zeros.
    METHOD void load_query(const float* from) {
        float x[D / 32][8], largest = 0.0f;
#pragma unroll
        for (u32 i = 0; i < D / 32; i++) {
            const bool some = from && 32 * i + 8 * t < a.k.dim;
#pragma unroll
            for (u32 c = 0; c < 8; c++) {
                x[i][c] = some ? from[32 * i + 8 * t + c] * (a.scale * LOG2_E) : 0.0f;
                largest = fmaxf(largest, fabsf(x[i][c]));
            }
        }
        largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 2));
        const float up = scale_for_halves(largest, back);
#pragma unroll
        for (u32 i = 0; i < D / 32; i++) {
#pragma unroll
            for (u32 w = 0; w < 4; w++) {
                u32(&step)[4] = q[2 * i + w / 2];
                split_halves(x[i][2 * w] * up, x[i][2 * w + 1] * up, step[w % 2 * 2], step[w % 2 * 2 + 1]);
            }
        }
    }

    // Weights of positions 2t, 2t + 1, 2t + 8 and 2t + 9 for head g, as halves.
    METHOD void weigh(u32 base, u32 (&high)[2], u32 (&low)[2]) {
        float s[2][4] = {};
#pragma unroll
        for (u32 i = 0; i < D / 32; i++) {
#pragma unroll
            for (u32 n = 0; n < 2; n++) {
                mma_f16(s[n], q[2 * i], {k[n][i].x, k[n][i].y});
                mma_f16(s[n], q[2 * i + 1], {k[n][i].z, k[n][i].w});
            }
        }
        float next = most;
#pragma unroll
        for (u32 n = 0; n < 2; n++) {
#pragma unroll
            for (u32 i = 0; i < 2; i++) {
                s[n][i] = base + 8 * n + 2 * t + i < to ? (s[n][i] + s[n][i + 2]) * back : -INFINITY;
                next = fmaxf(next, s[n][i]);
            }
        }
        next = fmaxf(next, __shfl_xor_sync(FULL_WARP, next, 1));
        next = fmaxf(next, __shfl_xor_sync(FULL_WARP, next, 2));
        if (__any_sync(FULL_WARP, next != most)) {
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
            const float first = attend_weight(s[n][0] + WEIGHT_EXPONENT, most);
            const float second = attend_weight(s[n][1] + WEIGHT_EXPONENT, most);
            sum += first + second;
            split_halves(first, second, high[n], low[n]);
        }
    }

    METHOD void add_values(const u32 (&high)[2], const u32 (&low)[2]) {
#pragma unroll
        for (u32 b = 0; b < D / 64; b++) {
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                u32 word[4];
#pragma unroll
                for (u32 p = 0; p < 4; p++) word[p] = j == 0 ? v[b][p].x : j == 1 ? v[b][p].y : j == 2 ? v[b][p].z : v[b][p].w;
                // Words hold two elements of a position; the product wants two positions of an element.
                const u32 pairs[4] = {
                    __byte_perm(word[0], word[1], 0x5410), __byte_perm(word[0], word[1], 0x7632),
                    __byte_perm(word[2], word[3], 0x5410), __byte_perm(word[2], word[3], 0x7632)};
                mma_f16(acc[4 * b + j], pairs, high);
                mma_f16(acc[4 * b + j], pairs, low);
            }
        }
    }

    METHOD void walk() {
        most = -INFINITY;
        sum = 0.0f;
#pragma unroll
        for (u32 i = 0; i < D / 16; i++) {
#pragma unroll
            for (u32 c = 0; c < 4; c++) acc[i][c] = 0.0f;
        }
        u32 base = from + threadIdx.x / 32 * 16;
        if (base >= to) return;
        load_keys(base);
        load_values(base);
        for (u32 next;; base = next) {
            u32 high[2], low[2];
            weigh(base, high, low);
            // The next 16 are on their way while these are worked on.
            next = base + FEW_WARPS * 16;
            if (next < to) load_keys(next);
            add_values(high, low);
            if (next >= to) break;
            load_values(next);
        }
    }
};

// The sums of the warps, put together and written. Heads first .. first + n_heads of the row.
template <u32 D>
DEVICE void few_finish(const AttendArgs& a, const FewF16<D>& s, u32 row, u32 first, u32 n_heads) {
    // Of each 64 elements, 8 g + 2 j lies at 16 j + 2 g, and heads are 8 further apart than they are long, against conflicts of banks.
    SHARED(float, sums, [FEW_WARPS][ATTEND_HEADS][D + 8]);
    SHARED(float, most, [FEW_WARPS][ATTEND_HEADS]);
    SHARED(float, sum, [FEW_WARPS][ATTEND_HEADS]);
    const u32 warp = threadIdx.x / 32, g = s.g, t = s.t;
    float total = s.sum;
    total += __shfl_xor_sync(FULL_WARP, total, 1);
    total += __shfl_xor_sync(FULL_WARP, total, 2);
    if (t == 0) {
        most[warp][g] = s.most;
        sum[warp][g] = total;
    }
#pragma unroll
    for (u32 i = 0; i < D / 16; i++) {
        const u32 at = i / 4 * 64 + i % 4 * 16 + 2 * g;
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
        float* to = attend_partial(a, row, first + h, blockIdx.x);
        for (u32 at = threadIdx.x; at < D; at += ATTEND_THREADS) {
            const u32 c = at / 64 * 64 + at / 2 % 8 * 8 + at / 16 % 4 * 2 + at % 2;
            float x = 0.0f;
#pragma unroll
            for (u32 w = 0; w < FEW_WARPS; w++) x += factor[w] * sums[w][h][at];
            if (c < a.v.dim) to[c] = x;
        }
        if (threadIdx.x == 0) {
            float x = 0.0f;
#pragma unroll
            for (u32 w = 0; w < FEW_WARPS; w++) x += factor[w] * sum[w][h];
            to[a.v.dim] = largest;
            to[a.v.dim + 1] = x;
        }
    }
}

template <u32 D>
DEVICE void attend_few_f16(const AttendArgs& a) {
    const u32 row = blockIdx.z, n = a.batch.pos[row] + 1, span = attend_span(n), from = blockIdx.x * span;
    if (from >= n) return;
    const u32 group = a.n_head / a.n_head_kv, tiles = (group + ATTEND_HEADS - 1) / ATTEND_HEADS;
    const u32 kv = blockIdx.y / tiles, first = blockIdx.y % tiles * ATTEND_HEADS;
    const u32 n_heads = min((u32)ATTEND_HEADS, group - first), lane = threadIdx.x % 32;
    FewF16<D> s{a, attend_values(a), a.batch.table[row], kv, from, min(from + span, n), lane / 4, lane % 4};
    s.load_query(s.g < n_heads ? attend_query(a, row, kv * group + first + s.g) : nullptr);
    s.walk();
    few_finish(a, s, row, kv * group + first, n_heads);
}
