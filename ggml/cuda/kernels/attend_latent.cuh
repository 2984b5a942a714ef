// Attention in MLA's absorbed form over latents: rows of 576 elements, whose first 512 are the values, shared by all heads.
//
// There are so many heads to a row that arithmetic counts, not only reading: a block has 16 heads of a row, as many as tensor cores
// take, and brings each tile of latents to shared memory once, for scores and for values. Scores are divided among the warps by
// elements, so that each keeps its part of the queries in registers, and added up through shared memory; values are divided by
// elements too. Queries and weights are split into two halves, and so are rows that are not F16 (WIDE).
#pragma once

#include "attend.cuh"

#define K_DIM 576
#define V_DIM 512
#define TILE 32
#define WARPS (ATTEND_THREADS / 32)
// Elements of a warp, and steps of 16.
#define K_PART (K_DIM / WARPS)
#define V_PART (V_DIM / WARPS)
#define STEPS (K_PART / 16)
// In shared memory rows are longer, against conflicts of banks.
#define ROW (K_DIM + 8)
#define SCORES (TILE + 8)

struct LatentShared {
    // Two tiles, or the two halves of one.
    u16 rows[2][TILE * ROW];
    float scores[WARPS][ATTEND_LATENT_HEADS][SCORES];
};
static_assert(sizeof(LatentShared) == ATTEND_LATENT_SHARED, "args.h says how much");

template <bool WIDE>
struct Latent {
    const AttendArgs& a;
    LatentShared& shared;
    u32 table, kv, to;
    u32 lane, warp, g, t;
    u32 q_high[STEPS][4], q_low[STEPS][4];
    // Of heads g and 8 + g: what the warp's part of the query is scaled by, and the state of the softmax, which all warps keep.
    float back[2], most[2], sum[2];
    // Of heads g and 8 + g elements 8 j + 2t and 8 j + 2t + 1 of the warp's part.
    float acc[V_PART / 8][4];

    // Rows of halves lie without gaps in the cache.
    METHOD void load(u32 base, u16* rows) const {
        const u8* from = attend_row(a, a.k, table, kv, base) + 16 * threadIdx.x;
        const u32 units = min((u32)TILE, to - base) * (K_DIM / 8);
#pragma unroll
        for (u32 first = 0; first < TILE * (K_DIM / 8); first += ATTEND_THREADS) {
            const u32 i = first + threadIdx.x;
            cp_async16(rows + 8 * i + i / (K_DIM / 8) * (ROW - K_DIM), from + 16 * first, i < units);
        }
        cp_async_commit();
    }

    // Rows that are no halves, as two of them.
    METHOD void load_wide(u32 base) const {
        const u8* from = attend_row(a, a.k, table, kv, base);
        for (u32 i = threadIdx.x; i < TILE * (K_DIM / 8); i += ATTEND_THREADS) {
            const u32 p = i / (K_DIM / 8), c = i % (K_DIM / 8) * 8;
            float x[8];
            read_eight(from + p * a.k.row, a.k.type, base + p < to ? K_DIM : 0, c, x);
            store_eight(x, &shared.rows[0][p * ROW + c], &shared.rows[1][p * ROW + c]);
        }
    }

    // The warp's part of the queries of heads g and 8 + g; null where there is none.
    METHOD void load_queries(const float* const (&heads)[2]) {
#pragma unroll
        for (u32 r = 0; r < 2; r++) {
            float x[STEPS][4], largest = 0.0f;
#pragma unroll
            for (u32 i = 0; i < STEPS; i++) {
#pragma unroll
                for (u32 c = 0; c < 4; c++) {
                    const u32 at = warp * K_PART + 16 * i + c / 2 * 8 + 2 * t + c % 2;
                    x[i][c] = heads[r] ? heads[r][at] * (a.scale * LOG2_E) : 0.0f;
                    largest = fmaxf(largest, fabsf(x[i][c]));
                }
            }
            largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 2));
            const float up = scale_for_halves(largest, back[r]);
#pragma unroll
            for (u32 i = 0; i < STEPS; i++) {
                split_halves(x[i][0] * up, x[i][1] * up, q_high[i][r], q_low[i][r]);
                split_halves(x[i][2] * up, x[i][3] * up, q_high[i][2 + r], q_low[i][2 + r]);
            }
        }
    }

    // The warp's share of the scores, to shared memory.
    METHOD void scores(const u16* rows) {
        float s[TILE / 8][4] = {};
        const u16* row = rows + (lane / 16 * 8 + lane % 8) * ROW + warp * K_PART + lane / 8 % 2 * 8;
#pragma unroll
        for (u32 i = 0; i < STEPS; i++) {
#pragma unroll
            for (u32 j = 0; j < TILE / 16; j++) {
                u32 b[4];
                ldmatrix_x4(b, row + 16 * j * ROW + 16 * i);
#pragma unroll
                for (u32 k = 0; k < 2; k++) {
                    mma_f16(s[2 * j + k], q_high[i], {b[2 * k], b[2 * k + 1]});
                    mma_f16(s[2 * j + k], q_low[i], {b[2 * k], b[2 * k + 1]});
                }
                if (!WIDE) continue;
                ldmatrix_x4(b, row + TILE * ROW + 16 * j * ROW + 16 * i);
#pragma unroll
                for (u32 k = 0; k < 2; k++) mma_f16(s[2 * j + k], q_high[i], {b[2 * k], b[2 * k + 1]});
            }
        }
#pragma unroll
        for (u32 j = 0; j < TILE / 8; j++) {
#pragma unroll
            for (u32 r = 0; r < 2; r++) {
                *(float2*)&shared.scores[warp][8 * r + g][8 * j + 2 * t] = make_float2(s[j][2 * r] * back[r], s[j][2 * r + 1] * back[r]);
            }
        }
    }

    // The weights of all positions, in every warp: p[j] of positions 8 j + 2t and 8 j + 2t + 1.
    METHOD void weigh(u32 base, float (&p)[TILE / 8][4]) {
        float factor[2];
#pragma unroll
        for (u32 r = 0; r < 2; r++) {
            float next = most[r];
#pragma unroll
            for (u32 j = 0; j < TILE / 8; j++) {
                float x = 0.0f, y = 0.0f;
#pragma unroll
                for (u32 w = 0; w < WARPS; w++) {
                    const float2 part = *(const float2*)&shared.scores[w][8 * r + g][8 * j + 2 * t];
                    x += part.x;
                    y += part.y;
                }
                const u32 pos = base + 8 * j + 2 * t;
                p[j][2 * r] = pos < to ? x : -INFINITY;
                p[j][2 * r + 1] = pos + 1 < to ? y : -INFINITY;
                next = fmaxf(next, fmaxf(p[j][2 * r], p[j][2 * r + 1]));
            }
            next = fmaxf(next, __shfl_xor_sync(FULL_WARP, next, 1));
            next = fmaxf(next, __shfl_xor_sync(FULL_WARP, next, 2));
            factor[r] = attend_weight(most[r], next);
            most[r] = next;
            const float shift = WEIGHT_EXPONENT - (next == -INFINITY ? 0.0f : next);
            sum[r] *= factor[r];
#pragma unroll
            for (u32 j = 0; j < TILE / 8; j++) {
#pragma unroll
                for (u32 c = 2 * r; c < 2 * r + 2; c++) {
                    p[j][c] = exp2_fast(p[j][c] + shift);
                    sum[r] += p[j][c];
                }
            }
        }
        if (__any_sync(FULL_WARP, factor[0] != 1.0f || factor[1] != 1.0f)) {
#pragma unroll
            for (u32 j = 0; j < V_PART / 8; j++) {
#pragma unroll
                for (u32 c = 0; c < 4; c++) acc[j][c] *= factor[c / 2];
            }
        }
    }

    METHOD void add_values(const u16* rows, const float (&p)[TILE / 8][4]) {
#pragma unroll
        for (u32 i = 0; i < TILE / 16; i++) {
            u32 high[4], low[4];
#pragma unroll
            for (u32 w = 0; w < 4; w++) split_halves(p[2 * i + w / 2][w % 2 * 2], p[2 * i + w / 2][w % 2 * 2 + 1], high[w], low[w]);
            const u16* row = rows + (16 * i + lane % 16) * ROW + warp * V_PART + lane / 16 * 8;
#pragma unroll
            for (u32 j = 0; j < V_PART / 16; j++) {
                u32 b[4];
                ldmatrix_x4_trans(b, row + 16 * j);
                mma_f16(acc[2 * j], high, {b[0], b[1]});
                mma_f16(acc[2 * j + 1], high, {b[2], b[3]});
                mma_f16(acc[2 * j], low, {b[0], b[1]});
                mma_f16(acc[2 * j + 1], low, {b[2], b[3]});
                if (!WIDE) continue;
                ldmatrix_x4_trans(b, row + TILE * ROW + 16 * j);
                mma_f16(acc[2 * j], high, {b[0], b[1]});
                mma_f16(acc[2 * j + 1], high, {b[2], b[3]});
            }
        }
    }

    METHOD void walk(u32 from) {
#pragma unroll
        for (u32 r = 0; r < 2; r++) {
            most[r] = -INFINITY;
            sum[r] = 0.0f;
        }
#pragma unroll
        for (u32 j = 0; j < V_PART / 8; j++) {
#pragma unroll
            for (u32 c = 0; c < 4; c++) acc[j][c] = 0.0f;
        }
        if (!WIDE && from < to) load(from, shared.rows[0]);
        u32 now = 0;
        for (u32 base = from; base < to; base += TILE) {
            cp_async_wait<0>();
            __syncthreads();
            // Nobody reads the tile before this one any more, nor its scores.
            if (WIDE) {
                load_wide(base);
                __syncthreads();
            } else if (base + TILE < to) {
                load(base + TILE, shared.rows[now ^ 1]);
            }
            scores(shared.rows[now]);
            __syncthreads();
            float p[TILE / 8][4];
            weigh(base, p);
            add_values(shared.rows[now], p);
            if (!WIDE) now ^= 1;
        }
#pragma unroll
        for (u32 r = 0; r < 2; r++) {
            sum[r] += __shfl_xor_sync(FULL_WARP, sum[r], 1);
            sum[r] += __shfl_xor_sync(FULL_WARP, sum[r], 2);
        }
    }
};

// Positions from .. to of a row for the block's heads: the partial sums of a span, or the whole result where `whole`.
template <bool WIDE>
DEVICE void attend_latent(const AttendArgs& a, u32 row, u32 from, u32 to, u32 span, bool whole) {
    DYNAMIC_SHARED(LatentShared, shared);
    const u32 group = a.n_head / a.n_head_kv, tiles = (group + ATTEND_LATENT_HEADS - 1) / ATTEND_LATENT_HEADS;
    const u32 kv = blockIdx.y / tiles, first = blockIdx.y % tiles * ATTEND_LATENT_HEADS, lane = threadIdx.x % 32;
    Latent<WIDE> s{a, *shared, a.batch.table[row], kv, to, lane, threadIdx.x / 32, lane / 4, lane % 4};
    const float* heads[2];
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        const u32 head = first + 8 * r + s.g;
        heads[r] = head < group ? attend_query(a, row, kv * group + head) : nullptr;
    }
    s.load_queries({heads[0], heads[1]});
    s.walk(from);
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        const u32 head = kv * group + first + 8 * r + s.g;
        if (first + 8 * r + s.g >= group) continue;
        float* y = whole ? a.y.at + row * a.y.stride + head * a.y.head : attend_partial(a, row, head, span);
        const float factor = whole ? 1.0f / s.sum[r] : 1.0f;
#pragma unroll
        for (u32 j = 0; j < V_PART / 8; j++) {
            float* at = y + s.warp * V_PART + 8 * j + 2 * s.t;
            at[0] = s.acc[j][2 * r] * factor;
            at[1] = s.acc[j][2 * r + 1] * factor;
        }
        if (!whole && s.t == 0 && s.warp == 0) {
            y[V_DIM] = s.most[r];
            y[V_DIM + 1] = s.sum[r];
        }
    }
}

// There is so much to put together that a launch of its own does it sooner.
template <bool WIDE>
DEVICE void attend_few_latent(const AttendArgs& a) {
    const u32 row = blockIdx.z, n = a.batch.pos[row] + 1, span = attend_span(n), from = blockIdx.x * span;
    if (from < n) attend_latent<WIDE>(a, row, from, min(from + span, n), blockIdx.x, false);
}

// The last rows see the most keys: they begin first.
template <bool WIDE>
DEVICE void attend_many_latent(const AttendArgs& a) {
    const u32 row = gridDim.x - 1 - blockIdx.x, n = a.batch.pos[row] + 1, tiles = (n + TILE - 1) / TILE, z = blockIdx.z;
    const u32 from = z * tiles / gridDim.z * TILE, to = min((z + 1) * tiles / gridDim.z * TILE, n);
    attend_latent<WIDE>(a, row, from, to, z, gridDim.z == 1);
    if (gridDim.z == 1) return;
    const u32 group = a.n_head / a.n_head_kv, blocks = (group + ATTEND_LATENT_HEADS - 1) / ATTEND_LATENT_HEADS;
    const u32 first = blockIdx.y % blocks * ATTEND_LATENT_HEADS, n_heads = min(group - first, (u32)ATTEND_LATENT_HEADS);
    attend_arrive(a, blockIdx.x * gridDim.y + blockIdx.y, {row, 1, blockIdx.y / blocks * group + first, n_heads}, gridDim.z);
}
