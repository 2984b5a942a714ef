// Attention of prompts on tensor cores: a block has 64 rows of a head and walks their keys in tiles (Dao, FlashAttention-2, 2023).
//
// A warp has 16 rows. Queries and weights are split into two halves, so that over F16 keys and values the products are as good as in
// F32; WIDE kernels split keys and values too, those of caches in F32 and Q8_0 and those that MLA expands, and leave out the
// product of the low halves. A tile of keys is on its way while values are worked on, and the other way round.
#pragma once

#include "attend.cuh"

// Halves that rows in shared memory are longer, so that eight rows of a matrix lie in different banks.
#define MANY_PAD 8

// Rows of KD and VD elements at most, multiples of 32.
template <u32 KD, u32 VD, bool WIDE>
struct Many {
    static constexpr u32 KEYS = WIDE ? 32 : 64, K_ROW = KD + MANY_PAD, V_ROW = VD + MANY_PAD, PARTS = WIDE ? 2 : 1;

    const AttendArgs& a;
    CacheRows values;
    // [KEYS][K_ROW] and [KEYS][V_ROW] high halves, then the low ones.
    u16 *k, *v;
    u32 table, kv, n;  // of the run of rows: n keys at most
    u32 g, t;
    // Rows g and 8 + g of the warp: the keys that they see in this run, what their queries are scaled by, and their sums.
    u32 sees[2];
    float back[2], most[2], sum[2];
    u32 q_high[KD / 16][4], q_low[KD / 16][4];
    float acc[VD / 8][4];

    // Rows from `base` on, which lie in one chunk, to shared memory. Copies of halves are asynchronous.
    template <u32 D>
    METHOD void load(const CacheRows& rows, u16* to, u32 base) const {
        constexpr u32 ROW = D + MANY_PAD, UNITS = KEYS * (D / 8);
        const u8* from = attend_row(a, rows, table, kv, base);
        if (rows.dim % 8 == 0 && rows.type == (WIDE ? CACHE_SPLIT : CACHE_F16)) {
#pragma unroll
            for (u32 first = 0; first < UNITS; first += ATTEND_THREADS) {
                const u32 i = first + threadIdx.x, p = i / (D / 8), c = i % (D / 8) * 8;
                const bool some = base + p < n && c < rows.dim;
                const u16* at = (const u16*)(from + (some ? p * (u32)rows.row + 2 * c : 0));
                cp_async16(to + p * ROW + c, at, some);
                if (WIDE) cp_async16(to + (KEYS + p) * ROW + c, at + rows.dim, some);
            }
        } else {
            for (u32 i = threadIdx.x; i < UNITS; i += ATTEND_THREADS) {
                const u32 p = i / (D / 8), c = i % (D / 8) * 8;
                u16* high = to + p * ROW + c;
                float x[8];
                read_eight(from + p * (u32)rows.row, rows.type, base + p < n ? rows.dim : 0, c, x);
                if (WIDE) {
                    store_eight(x, high, high + KEYS * ROW);
                } else {
                    *(uint4*)high = make_uint4(pack_halves(x[0], x[1]), pack_halves(x[2], x[3]), pack_halves(x[4], x[5]), pack_halves(x[6], x[7]));
                }
            }
        }
        cp_async_commit();
    }

    // The queries of rows g and 8 + g; null where there is none.
    METHOD void load_queries(const float* const (&rows)[2]) {
#pragma unroll
        for (u32 r = 0; r < 2; r++) {
            float largest = 0.0f;
            // Twice, since all of them do not fit into registers: to find the scale and to split.
            for (u32 c = t; c < a.k.dim && rows[r]; c += 4) largest = fmaxf(largest, fabsf(rows[r][c]));
            largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 2));
            const float scale = a.scale * LOG2_E, up = scale_for_halves(largest * scale, back[r]);
#pragma unroll
            for (u32 i = 0; i < KD / 8; i++) {
                const u32 c = 8 * i + 2 * t;
                const float x = rows[r] && c < a.k.dim ? rows[r][c] * scale * up : 0.0f;
                const float y = rows[r] && c + 1 < a.k.dim ? rows[r][c + 1] * scale * up : 0.0f;
                split_halves(x, y, q_high[i / 2][i % 2 * 2 + r], q_low[i / 2][i % 2 * 2 + r]);
            }
        }
    }

    // s[j]: rows g and 8 + g, keys 8 j + 2t and 8 j + 2t + 1 of the tile.
    METHOD void scores(float (&s)[KEYS / 8][4]) const {
        const u32 lane = threadIdx.x % 32;
#pragma unroll
        for (u32 j = 0; j < KEYS / 8; j++) {
            const u16* row = k + (8 * j + lane % 8) * K_ROW + lane / 8 * 8;
#pragma unroll
            for (u32 c = 0; c < 4; c++) s[j][c] = 0.0f;
#pragma unroll
            for (u32 i = 0; i < KD / 32; i++) {
                u32 b[4];
                ldmatrix_x4(b, row + 32 * i);
                mma_f16(s[j], q_high[2 * i], {b[0], b[1]});
                mma_f16(s[j], q_low[2 * i], {b[0], b[1]});
                mma_f16(s[j], q_high[2 * i + 1], {b[2], b[3]});
                mma_f16(s[j], q_low[2 * i + 1], {b[2], b[3]});
                if (WIDE) {
                    ldmatrix_x4(b, row + KEYS * K_ROW + 32 * i);
                    mma_f16(s[j], q_high[2 * i], {b[0], b[1]});
                    mma_f16(s[j], q_high[2 * i + 1], {b[2], b[3]});
                }
            }
        }
    }

    // Scores to weights.
    METHOD void weigh(u32 base, float (&s)[KEYS / 8][4]) {
        if (base + KEYS > min(sees[0], sees[1])) {
#pragma unroll
            for (u32 j = 0; j < KEYS / 8; j++) {
#pragma unroll
                for (u32 c = 0; c < 4; c++) {
                    if (base + 8 * j + 2 * t + c % 2 >= sees[c / 2]) s[j][c] = -INFINITY;
                }
            }
        }
        float factor[2];
#pragma unroll
        for (u32 r = 0; r < 2; r++) {
            float next = -INFINITY;
#pragma unroll
            for (u32 j = 0; j < KEYS / 8; j++) next = fmaxf(next, fmaxf(s[j][2 * r], s[j][2 * r + 1]));
            next = fmaxf(next, __shfl_xor_sync(FULL_WARP, next, 1));
            next = fmaxf(fmaxf(next, __shfl_xor_sync(FULL_WARP, next, 2)) * back[r], most[r]);
            factor[r] = attend_weight(most[r], next);
            most[r] = next;
            // Where nothing has been seen all scores are -inf, and any number will do.
            const float shift = WEIGHT_EXPONENT - (next == -INFINITY ? 0.0f : next);
            sum[r] *= factor[r];
#pragma unroll
            for (u32 j = 0; j < KEYS / 8; j++) {
#pragma unroll
                for (u32 c = 2 * r; c < 2 * r + 2; c++) {
                    s[j][c] = exp2_fast(s[j][c] * back[r] + shift);
                    sum[r] += s[j][c];
                }
            }
        }
        if (__any_sync(FULL_WARP, factor[0] != 1.0f || factor[1] != 1.0f)) {
#pragma unroll
            for (u32 j = 0; j < VD / 8; j++) {
#pragma unroll
                for (u32 c = 0; c < 4; c++) acc[j][c] *= factor[c / 2];
            }
        }
    }

    METHOD void add_values(const float (&p)[KEYS / 8][4]) {
        const u32 lane = threadIdx.x % 32;
#pragma unroll
        for (u32 i = 0; i < KEYS / 16; i++) {
            u32 high[4], low[4];
#pragma unroll
            for (u32 w = 0; w < 4; w++) split_halves(p[2 * i + w / 2][w % 2 * 2], p[2 * i + w / 2][w % 2 * 2 + 1], high[w], low[w]);
            const u16* row = v + (16 * i + lane % 16) * V_ROW + lane / 16 * 8;
#pragma unroll
            for (u32 j = 0; j < VD / 16; j++) {
                u32 b[4];
                ldmatrix_x4_trans(b, row + 16 * j);
                mma_f16(acc[2 * j], high, {b[0], b[1]});
                mma_f16(acc[2 * j], low, {b[0], b[1]});
                mma_f16(acc[2 * j + 1], high, {b[2], b[3]});
                mma_f16(acc[2 * j + 1], low, {b[2], b[3]});
                if (WIDE) {
                    ldmatrix_x4_trans(b, row + KEYS * V_ROW + 16 * j);
                    mma_f16(acc[2 * j], high, {b[0], b[1]});
                    mma_f16(acc[2 * j + 1], high, {b[2], b[3]});
                }
            }
        }
    }

    // Keys from .. to of the run.
    METHOD void walk(u32 from, u32 to) {
        if (from >= to) return;
        load<KD>(a.k, k, from);
        for (u32 base = from; base < to; base += KEYS) {
            load<VD>(values, v, base);
            cp_async_wait<1>();
            __syncthreads();
            const bool busy = __any_sync(FULL_WARP, base < max(sees[0], sees[1]));
            float s[KEYS / 8][4];
            if (busy) scores(s);
            __syncthreads();
            if (base + KEYS < to) {
                load<KD>(a.k, k, base + KEYS);
            } else {
                cp_async_commit();
            }
            if (busy) weigh(base, s);
            cp_async_wait<1>();
            __syncthreads();
            if (busy) add_values(s);
            __syncthreads();
        }
        cp_async_wait<0>();
    }
};

template <u32 KD, u32 VD, bool WIDE>
DEVICE void attend_many(const AttendArgs& a) {
    typedef Many<KD, VD, WIDE> State;
    SHARED(uint4, keys, [State::PARTS * State::KEYS * State::K_ROW / 8]);
    SHARED(uint4, vals, [State::PARTS * State::KEYS * State::V_ROW / 8]);
    // The last rows see the most keys: they begin first.
    const u32 begin = (gridDim.x - 1 - blockIdx.x) * ATTEND_ROWS, end = min(begin + ATTEND_ROWS, a.n_rows);
    const u32 lane = threadIdx.x % 32, head = blockIdx.y;
    State s{a, attend_values(a), (u16*)keys, (u16*)vals, 0, head / (a.n_head / a.n_head_kv), 0, lane / 4, lane % 4};
    const u32 rows[2] = {begin + threadIdx.x / 32 * 16 + s.g, begin + threadIdx.x / 32 * 16 + s.g + 8};
    s.load_queries({rows[0] < end ? attend_query(a, rows[0], head) : nullptr, rows[1] < end ? attend_query(a, rows[1], head) : nullptr});
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        s.most[r] = -INFINITY;
        s.sum[r] = 0.0f;
    }
#pragma unroll
    for (u32 j = 0; j < VD / 8; j++) {
#pragma unroll
        for (u32 c = 0; c < 4; c++) s.acc[j][c] = 0.0f;
    }
    // Runs of rows of one sequence; the others see nothing meanwhile, which changes nothing for them.
    for (u32 first = begin, next; first < end; first = next) {
        s.table = a.batch.table[first];
        for (next = first + 1; next < end && a.batch.table[next] == s.table;) next++;
        // Positions of a run follow each other.
        s.n = a.batch.pos[next - 1] + 1;
#pragma unroll
        for (u32 r = 0; r < 2; r++) s.sees[r] = rows[r] >= first && rows[r] < next ? a.batch.pos[rows[r]] + 1 : 0;
        // The part of the keys that is this block's.
        const u32 tiles = (s.n + State::KEYS - 1) / State::KEYS, z = blockIdx.z;
        s.walk(z * tiles / gridDim.z * State::KEYS, min((z + 1) * tiles / gridDim.z * State::KEYS, s.n));
        __syncthreads();
    }
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        float sum = s.sum[r];
        sum += __shfl_xor_sync(FULL_WARP, sum, 1);
        sum += __shfl_xor_sync(FULL_WARP, sum, 2);
        if (rows[r] >= end) continue;
        float* y = gridDim.z > 1 ? attend_partial(a, rows[r], head, blockIdx.z) : a.y.at + rows[r] * a.y.stride + head * a.y.head;
        const float scale = gridDim.z > 1 ? 1.0f : 1.0f / sum;
#pragma unroll
        for (u32 j = 0; j < VD / 8; j++) {
#pragma unroll
            for (u32 c = 0; c < 2; c++) {
                if (8 * j + 2 * s.t + c < a.v.dim) y[8 * j + 2 * s.t + c] = s.acc[j][2 * r + c] * scale;
            }
        }
        if (gridDim.z > 1 && s.t == 0) {
            y[a.v.dim] = s.most[r];
            y[a.v.dim + 1] = sum;
        }
    }
    if (gridDim.z > 1) attend_arrive(a, blockIdx.x * gridDim.y + blockIdx.y, {begin, end - begin, head, 1}, gridDim.z);
}
