// Attention of few rows over Q8_0. Each warp brings 16 rows at a time to shared memory as they lie, for blocks of 34 bytes suit no load.
//
// Scores are products of integers. Queries are rounded to 8 bits a block of 32, and what that leaves to 8 bits once more, in the other
// eight rows of the product: together they are good to 15 bits. Values stay integers, which halves hold exactly; their scales go into
// the weights.
#pragma once

#include "attend_few.cuh"

#define Q8_BLOCK 34
// Weights times scales are halves for values up to those of F16.
#define Q8_WEIGHT_EXPONENT 7.0f

// Rows of D elements at most.
template <u32 D>
struct FewQ8 {
    // Bytes of 16 rows, and some that are read beside the last.
    static constexpr u32 ROWS = 16 * (D / 32) * Q8_BLOCK + 16;

    const AttendArgs& a;
    CacheRows values;
    FewKeys at;
    // Of each block the thread's eight elements, rounded, and of what is left; and the blocks' scales.
    u32 q[D / 32][4];
    float scale[D / 32];
    // The warp's rows.
    u8 *keys, *vals;

    METHOD void load(const CacheRows& rows, u32 base, u8* to) const {
        const u8* from = attend_row(a, rows, at.table, at.kv, base);
        for (u32 i = threadIdx.x % 32; i < rows.row; i += 32) cp_async16(to + 16 * i, from + 16 * i);
        cp_async_commit();
    }

    // Words at an even address.
    template <u32 N>
    METHOD static void words(const u8* at, u32 (&w)[N]) {
        const u32 odd = (u32)(size_t)at & 2;
        const u32* from = (const u32*)(at - odd);
        u32 low = from[0];
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            const u32 high = from[i + 1];
            w[i] = __funnelshift_r(low, high, 8 * odd);
            low = high;
        }
    }

    METHOD static float scale_at(const u8* block) { return half_to_float(*(const u16*)block); }

    // The query of head g, or zeros.
    METHOD void load_query(const float* from) {
#pragma unroll
        for (u32 i = 0; i < D / 32; i++) {
            const bool some = from && 32 * i < a.k.dim;
            float x[8], largest = 0.0f, poison = 0.0f;
#pragma unroll
            for (u32 c = 0; c < 8; c++) {
                x[c] = some ? from[32 * i + 8 * at.t + c] : 0.0f;
                largest = fmaxf(largest, fabsf(x[c]));
                // What is not finite shall be seen in the result.
                poison += x[c] * 0.0f;
            }
#pragma unroll
            for (u32 o = 1; o < 4; o *= 2) {
                largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, o));
                poison += __shfl_xor_sync(FULL_WARP, poison, o);
            }
            const float d = largest / 127.0f, inverse = largest > 1e-30f ? 127.0f / largest : 0.0f;
            scale[i] = d * (a.scale * LOG2_E) + poison;
#pragma unroll
            for (u32 c = 0; c < 4; c++) q[i][c] = 0;
#pragma unroll
            for (u32 c = 0; c < 8; c++) {
                const int first = max(-127, min(127, __float2int_rn(x[c] * inverse)));
                const int left = max(-127, min(127, __float2int_rn((x[c] - first * d) * inverse * 254.0f)));
                q[i][c / 4 * 2] |= (first & 0xff) << c % 4 * 8;
                q[i][c / 4 * 2 + 1] |= (left & 0xff) << c % 4 * 8;
            }
        }
    }

    METHOD void scores(u32 base, float (&s)[2][2]) const {
#pragma unroll
        for (u32 n = 0; n < 2; n++) {
            s[n][0] = s[n][1] = 0.0f;
#pragma unroll
            for (u32 i = 0; i < D / 32; i++) {
                if (32 * i >= a.k.dim) break;
                u32 b[2];
                int c[4];
                words(keys + (8 * n + at.g) * a.k.row + Q8_BLOCK * i + 2 + 8 * at.t, b);
                mma_s8_k32(c, q[i], b, INT_AS_FLOAT);
#pragma unroll
                for (u32 j = 0; j < 2; j++) {
                    const float d = scale_at(keys + (8 * n + 2 * at.t + j) * a.k.row + Q8_BLOCK * i);
                    s[n][j] += d * scale[i] * (counted_to_float(c[j]) + counted_to_float(c[2 + j]) * (1.0f / 254.0f));
                }
            }
#pragma unroll
            for (u32 j = 0; j < 2; j++) {
                if (base + 8 * n + 2 * at.t + j >= at.to) s[n][j] = -INFINITY;
            }
        }
    }

    // Bytes 2 i and 2 i + 1 of a word, which are 128 too much, as halves.
    METHOD static u32 halves(u32 word, u32 i) {
        const u32 bits = __byte_perm(word, 0x64646464, i ? 0x4342 : 0x4140), bias = 0x64806480;
        __half2 x, y;
        memcpy(&x, &bits, sizeof x);
        memcpy(&y, &bias, sizeof y);
        x = __hsub2(x, y);
        u32 result;
        memcpy(&result, &x, sizeof result);
        return result;
    }

    METHOD void add_values(u32 base, const float (&p)[2][2], FewSums<D>& sums) const {
#pragma unroll
        for (u32 i = 0; i < D / 32; i++) {
            if (32 * i >= values.dim) break;
            u32 high[2], low[2], w[2][2];
#pragma unroll
            for (u32 n = 0; n < 2; n++) {
                float x[2];
#pragma unroll
                for (u32 j = 0; j < 2; j++) {
                    const u32 pos = 8 * n + 2 * at.t + j;
                    const u8* block = vals + pos * values.row + Q8_BLOCK * i;
                    // What lies beyond the last position may be anything.
                    x[j] = base + pos < at.to ? p[n][j] * scale_at(block) : 0.0f;
                    u32 word[1];
                    words(block + 2 + 4 * at.g, word);
                    w[n][j] = word[0] ^ 0x80808080;
                }
                split_halves(x[0], x[1], high[n], low[n]);
            }
#pragma unroll
            for (u32 j = 0; j < 2; j++) {
                // Of both positions bytes 2 j and 2 j + 1.
                const u32 first = __byte_perm(w[0][0], w[0][1], j ? 0x7362 : 0x5140);
                const u32 second = __byte_perm(w[1][0], w[1][1], j ? 0x7362 : 0x5140);
                const u32 pairs[4] = {halves(first, 0), halves(first, 1), halves(second, 0), halves(second, 1)};
                mma_f16(sums.acc[2 * i + j], pairs, high);
                mma_f16(sums.acc[2 * i + j], pairs, low);
            }
        }
    }

    METHOD u32 first() const { return at.from + threadIdx.x / 32 * 16; }

    METHOD void begin() {
        SHARED(uint4, buffers, [FEW_WARPS][2][ROWS / 16]);
        keys = (u8*)buffers[threadIdx.x / 32][0];
        vals = (u8*)buffers[threadIdx.x / 32][1];
        if (first() >= at.to) return;
        load(a.k, first(), keys);
        load(values, first(), vals);
    }

    METHOD void walk(FewSums<D>& sums) {
        for (u32 base = first(), next; base < at.to; base = next) {
            next = base + FEW_WARPS * 16;
            float p[2][2];
            cp_async_wait<1>();
            __syncwarp();
            scores(base, p);
            __syncwarp();
            // The next keys are on their way while values are worked on, and the other way round.
            if (next < at.to) {
                load(a.k, next, keys);
            } else {
                cp_async_commit();
            }
            sums.weigh(p, Q8_WEIGHT_EXPONENT);
            cp_async_wait<1>();
            __syncwarp();
            add_values(base, p, sums);
            __syncwarp();
            if (next < at.to) load(values, next, vals);
        }
        cp_async_wait<0>();
    }
};
