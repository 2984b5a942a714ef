// Attention of few rows over F16. Operands go from memory to registers as tensor cores want them: a thread's two words of a step, by the book
// elements 2t and 2t + 8, are here four that follow each other, so that one load of 16 bytes fills two steps.
#pragma once

#include "attend_few.cuh"

// Rows of D elements at most, of a multiple of 8.
template <u32 D>
struct FewF16 {
    const AttendArgs& a;
    CacheRows values;
    FewKeys at;

    // Keys g and 8 + g of 16: of each 32 elements the thread's eight.
    uint4 k[2][D / 32];
    // Values 2t, 2t + 1, 2t + 8, 2t + 9: of each 64 elements the thread's eight.
    uint4 v[D / 64][4];
    // Queries, the same elements as of keys, a step of the product after another: all warps have the same.
    uint4 (*q)[32];
    float back;

    METHOD const u8* chunk_of(u32 pos) const { return (const u8*)__ldg(a.batch.chunks + at.table + pos / CHUNK); }

    // Rows of a chunk from position `base` on.
    METHOD const u8* rows_from(const CacheRows& rows, const u8* chunk, u32 base) const {
        return chunk + rows.offset + (u64)(at.kv * CHUNK + base % CHUNK) * rows.row;
    }

    // Where the thread's i-th eight elements begin. What would lie beyond the row is read as its first elements, and
    // meets zeros of queries or becomes elements that nobody wants: nothing has to be chosen for it in the loop.
    METHOD static u32 offset(u32 i, u32 apart, u32 mine, u32 dim) { return apart * i + 8 * mine < dim ? 2 * (apart * i + 8 * mine) : 0; }

    METHOD void load_keys(const u8* chunk, u32 base) {
        const u8* from = rows_from(a.k, chunk, base);
#pragma unroll
        for (u32 n = 0; n < 2; n++) {
            // Positions that are too many are read as the last.
            const u8* row = from + min(8 * n + at.g, at.to - 1 - base) * (u32)a.k.row;
#pragma unroll
            for (u32 i = 0; i < D / 32; i++) k[n][i] = __ldg((const uint4*)(row + offset(i, 32, at.t, a.k.dim)));
        }
    }

    METHOD void load_values(const u8* chunk, u32 base) {
        const u8* from = rows_from(values, chunk, base);
#pragma unroll
        for (u32 p = 0; p < 4; p++) {
            const u8* row = from + min(2 * at.t + p / 2 * 8 + p % 2, at.to - 1 - base) * (u32)values.row;
#pragma unroll
            for (u32 b = 0; b < D / 64; b++) v[b][p] = __ldg((const uint4*)(row + offset(b, 64, at.g, values.dim)));
        }
    }

    // The query of head g, or zeros.
    METHOD void load_query(const float* from) {
        float x[D / 32][8], largest = 0.0f;
#pragma unroll
        for (u32 i = 0; i < D / 32; i++) {
            const bool some = from && 32 * i + 8 * at.t < a.k.dim;
#pragma unroll
            for (u32 c = 0; c < 8; c++) {
                x[i][c] = some ? from[32 * i + 8 * at.t + c] * (a.scale * LOG2_E) : 0.0f;
                largest = fmaxf(largest, fabsf(x[i][c]));
            }
        }
        largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 2));
        const float up = scale_for_halves(largest, back);
        SHARED(uint4, steps, [D / 16][32]);
        q = steps;
#pragma unroll
        for (u32 i = 0; i < D / 32; i++) {
            if (i % FEW_WARPS != threadIdx.x / 32) continue;
            u32 w[2][4];
#pragma unroll
            for (u32 c = 0; c < 4; c++) {
                split_halves(x[i][2 * c] * up, x[i][2 * c + 1] * up, w[c / 2][c % 2 * 2], w[c / 2][c % 2 * 2 + 1]);
            }
#pragma unroll
            for (u32 c = 0; c < 2; c++) q[2 * i + c][threadIdx.x % 32] = make_uint4(w[c][0], w[c][1], w[c][2], w[c][3]);
        }
        __syncthreads();
    }

    // Weights of positions 2t, 2t + 1, 2t + 8 and 2t + 9 for head g, as halves.
    METHOD void weigh(FewSums<D>& sums, u32 base, u32 (&high)[2], u32 (&low)[2]) {
        float s[2][4] = {};
#pragma unroll
        for (u32 i = 0; i < D / 16; i++) {
            const uint4 step = q[i][threadIdx.x % 32];
#pragma unroll
            for (u32 n = 0; n < 2; n++) {
                const uint4 four = k[n][i / 2];
                mma_f16(s[n], {step.x, step.y, step.z, step.w}, {i % 2 ? four.z : four.x, i % 2 ? four.w : four.y});
            }
        }
        float weights[2][2];
#pragma unroll
        for (u32 n = 0; n < 2; n++) {
#pragma unroll
            for (u32 i = 0; i < 2; i++) {
                weights[n][i] = base + 8 * n + 2 * at.t + i < at.to ? (s[n][i] + s[n][i + 2]) * back : -INFINITY;
            }
        }
        sums.weigh(weights, WEIGHT_EXPONENT);
#pragma unroll
        for (u32 n = 0; n < 2; n++) split_halves(weights[n][0], weights[n][1], high[n], low[n]);
    }

    METHOD void add_values(FewSums<D>& sums, const u32 (&high)[2], const u32 (&low)[2]) {
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
                mma_f16(sums.acc[4 * b + j], pairs, high);
                mma_f16(sums.acc[4 * b + j], pairs, low);
            }
        }
    }

    METHOD u32 first() const { return at.from + threadIdx.x / 32 * 16; }

    METHOD void begin() {
        if (first() >= at.to) return;
        const u8* chunk = chunk_of(first());
        load_keys(chunk, first());
        load_values(chunk, first());
    }

    METHOD void walk(FewSums<D>& sums) {
        for (u32 base = first(), next; base < at.to; base = next) {
            next = base + FEW_WARPS * 16;
            const u8* chunk = next < at.to ? chunk_of(next) : nullptr;
            u32 high[2], low[2];
            weigh(sums, base, high, low);
            // The next 16 are on their way while these are worked on.
            if (next < at.to) load_keys(chunk, next);
            add_values(sums, high, low);
            if (next < at.to) load_values(chunk, next);
        }
    }
};
