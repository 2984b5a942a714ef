// Products of a few rows: the time is that of reading the weights, each once.
//
// A warp makes one output (of every row; two with gate and up), lanes taking spans of the row of weights in turn. The next spans are on
// their way while one is multiplied; activations come from the cache. Sums of products of integers are exact within a sub-block.
#pragma once

#include "products.cuh"

// Groups of a span in another order: number j becomes number j ^ turn. Lanes that read activations at the same time would all read group
// j of their spans from the same banks; with a turn of their own they do not.
template <int GROUPS, int EACH, class T>
DEVICE void reorder(T* v, u32 turn) {
#pragma unroll
    for (int bit = 1; bit < GROUPS; bit *= 2) {
        const bool swap = turn & bit;
#pragma unroll
        for (int i = 0; i < GROUPS * EACH; i++) {
            if (i / EACH & bit) continue;
            const T first = v[i], second = v[i + bit * EACH];
            v[i] = swap ? second : first;
            v[i + bit * EACH] = swap ? first : second;
        }
    }
}
template <class F>
DEVICE u32 lane_turn() {
    return F::SPAN == 64 ? threadIdx.x / 2 % 4 : threadIdx.x / 4 % 2;
}

// Adds to sum the products of a span of M matrices, reordered, with activations, whose arrays are those of the block: Σ over its
// activation blocks of d (Σ over sub-blocks scale Σqx + min Σx).
template <class F, int M>
DEVICE void span_dot(const Piece<F::SPAN, F::SUB> (&p)[M], u32 s, const s8* qs, const short* sums, const float* d, float (&sum)[M]) {
    constexpr int GROUPS = F::SPAN / 16, SUBS = F::SPAN / F::SUB, EACH = F::SUB / 16;
    const u32 turn = lane_turn<F>();
    int x_sum[SUBS] = {};
    if (F::HAS_MIN || F::BIAS) {
        int of_groups[GROUPS];
        F::sums(sums, s, of_groups);
#pragma unroll
        for (int i = 0; i < SUBS; i++) x_sum[i] = EACH == 1 ? of_groups[i] : of_groups[EACH * i] + of_groups[EACH * i + 1];
        reorder<SUBS, 1>(x_sum, turn / EACH);
    }
    float t[M] = {};
#pragma unroll
    for (int sub = 0; sub < SUBS; sub++) {
        int dot[M];
#pragma unroll
        for (int m = 0; m < M; m++) dot[m] = -F::BIAS * x_sum[sub];
#pragma unroll
        for (int j = sub * EACH; j < (sub + 1) * EACH; j++) {
            const uint4 x = *reinterpret_cast<const uint4*>(qs + F::offset(s, j ^ turn));
#pragma unroll
            for (int m = 0; m < M; m++) dot[m] = dot16(p[m].q + 4 * j, x, dot[m]);
        }
#pragma unroll
        for (int m = 0; m < M; m++) {
            t[m] = __fmaf_rn(p[m].scale[sub], float(dot[m]), t[m]);
            if (F::HAS_MIN) t[m] = __fmaf_rn(p[m].min[sub], float(x_sum[sub]), t[m]);
        }
    }
    // A span is never more than one block of activations.
    static_assert(F::ACT == 256 || F::SPAN == 32, "blocks of activations within a span");
    const float scale = d[F::ACT == 256 ? 0 : s];
#pragma unroll
    for (int m = 0; m < M; m++) sum[m] = __fmaf_rn(scale, t[m], sum[m]);
}

// Where the activations of each row begin. Rows beyond n_rows repeat the last one: branches would cost more.
template <int N>
DEVICE void find_activations(const MatvecArgs& a, u32 x_group, u32 (&row)[N]) {
#pragma unroll
    for (u32 r = 0; r < N; r++) row[r] = (min(r, a.n_rows - 1) * a.x_groups + x_group) * a.k;
}

// Adds span i of the rows of M matrices, loaded, times all rows of activations.
template <class F, int M, int N>
DEVICE void span_products(const MatvecArgs& a, const typename F::Raw (&raw)[M], u32 i, const u32 (&row)[N], float (&sum)[N][M]) {
    constexpr u32 SPANS = F::BLOCK / F::SPAN;
    const u32 s = i % SPANS;
    Piece<F::SPAN, F::SUB> p[M];
#pragma unroll
    for (int m = 0; m < M; m++) {
        constexpr int EACH = F::SUB / 16;
        F::unpack(raw[m], s, p[m]);
        reorder<F::SPAN / 16, 4>(p[m].q, lane_turn<F>());
        reorder<F::SPAN / F::SUB, 1>(p[m].scale, lane_turn<F>() / EACH);
        if (F::HAS_MIN) reorder<F::SPAN / F::SUB, 1>(p[m].min, lane_turn<F>() / EACH);
    }
#pragma unroll
    for (int r = 0; r < N; r++) {
        const u32 first = row[r] + i / SPANS * F::BLOCK;
        span_dot<F>(p, s, a.q.qs + first, a.q.sums + first / 16, a.q.d + first / F::ACT, sum[r]);
    }
}

// Products of a warp's row of each of M matrices with all rows, lane by lane: the sum over the warp is left to the caller.
// Blocks that suit wide loads come straight into registers, a turn ahead.
template <class F, int M, int N>
DEVICE void row_products(const MatvecArgs& a, const u8* const (&w)[M], u32 x_group, float (&sum)[N][M]) {
    constexpr u32 SPANS = F::BLOCK / F::SPAN;
    const u32 n = a.k / F::SPAN;
    u32 i = threadIdx.x % 32, row[N];
    if (i >= n) return;
    find_activations(a, x_group, row);
    typename F::Raw next[M];
#pragma unroll
    for (int m = 0; m < M; m++) next[m] = F::template load<FromGlobal>(w[m] + i / SPANS * F::BYTES, i % SPANS);
#pragma unroll 1
    for (; i < n; i += 32) {
        typename F::Raw raw[M];
#pragma unroll
        for (int m = 0; m < M; m++) raw[m] = next[m];
        const u32 then = i + 32;
#pragma unroll
        for (int m = 0; m < M; m++)
            if (then < n) next[m] = F::template load<FromGlobal>(w[m] + then / SPANS * F::BYTES, then % SPANS);
        span_products<F>(a, raw, i, row, sum);
    }
}

// Other blocks, of odd sizes, would take many narrow loads that share cache lines: a warp copies the bytes of a turn, as they lie, to
// shared memory, some turns ahead.
template <class F>
struct Staged {
    static constexpr bool NEEDED = F::BYTES % 8 != 0;
    static constexpr u32 BLOCKS = 32 * F::SPAN / F::BLOCK, BYTES = BLOCKS * F::BYTES;
    static constexpr u32 TURNS = BYTES > 1400 ? 2 : BYTES > 700 ? 3 : 4;
    // From the multiple of 16 before to the one after.
    static constexpr u32 PIECES = (BYTES + 15 + 15) / 16;
};

template <class F, int M, int N>
DEVICE void staged_products(const MatvecArgs& a, const u8* const (&w)[M], u32 x_group, float (&sum)[N][M]) {
    typedef Staged<F> S;
    constexpr u32 SPANS = F::BLOCK / F::SPAN;
    SHARED(uint4, all, [MATVEC_THREADS / 32][S::TURNS][M][S::PIECES]);
    auto& ring = all[threadIdx.x / 32];
    const u32 lane = threadIdx.x % 32, n = a.k / F::SPAN, bytes = a.k / F::BLOCK * F::BYTES;
    u32 row[N];
    find_activations(a, x_group, row);
    const auto copy = [&](u32 turn) {
#pragma unroll
        for (int m = 0; m < M; m++) {
            const u32 before = u32(reinterpret_cast<u64>(w[m]) + turn * S::BYTES) & 15, first = turn * S::BYTES - before;
            const int end = int(min(bytes, (turn + 1) * S::BYTES));
            // What lies before a row may be read; what lies beyond the last one is nobody's.
#pragma unroll 1
            for (u32 i = lane; i < S::PIECES; i += 32) {
                const int at = int(first + 16 * i);
                if (at < end) cp_async16_part(&ring[turn % S::TURNS][m][i], w[m] + at, u32(min(end - at, 16)));
            }
        }
        cp_async_commit();
    };
#pragma unroll 1
    for (u32 turn = 0; turn < S::TURNS; turn++) copy(turn);
#pragma unroll 1
    for (u32 turn = 0; turn * 32 < n; turn++) {
        cp_async_wait<S::TURNS - 1>();
        __syncwarp();
        const u32 i = turn * 32 + lane;
        if (i < n) {
            typename F::Raw raw[M];
#pragma unroll
            for (int m = 0; m < M; m++) {
                const u32 before = u32(reinterpret_cast<u64>(w[m]) + turn * S::BYTES) & 15;
                const u8* from = reinterpret_cast<const u8*>(ring[turn % S::TURNS][m]) + before;
                raw[m] = F::template load<FromShared>(from + lane / SPANS * F::BYTES, lane % SPANS);
            }
            span_products<F>(a, raw, i, row, sum);
        }
        __syncwarp();
        copy(turn + S::TURNS);
    }
}

// The same for plain numbers.
template <class F, int M, int N>
DEVICE void plain_products(const MatvecArgs& a, const u8* const (&w)[M], u32 x_group, float (&sum)[N][M]) {
    const u32 lane = threadIdx.x % 32;
    const float* x[N];
    u64 ragged = 0;
#pragma unroll
    for (u32 r = 0; r < N; r++) {
        x[r] = a.x.at + min(r, a.n_rows - 1) * a.x.stride + x_group * a.x.head;
        ragged |= reinterpret_cast<u64>(x[r]);
    }
#pragma unroll
    for (int m = 0; m < M; m++) ragged |= reinterpret_cast<u64>(w[m]) * (4 / F::BYTES);
    u32 i = 0;
    if ((ragged & 15) == 0) {
        // Four weights of each of some turns are on their way at once.
        constexpr int TURNS = M == 1 ? 4 : 2;
#pragma unroll 1
        for (; i + TURNS * 128 <= a.k; i += TURNS * 128) {
            const u32 at = i + 4 * lane;
            float4 v[TURNS][M];
#pragma unroll
            for (int t = 0; t < TURNS; t++)
#pragma unroll
                for (int m = 0; m < M; m++) v[t][m] = F::load4(w[m] + u64(at + t * 128) * F::BYTES);
#pragma unroll
            for (int r = 0; r < N; r++) {
#pragma unroll
                for (int t = 0; t < TURNS; t++) {
                    const float4 y = *reinterpret_cast<const float4*>(x[r] + at + t * 128);
#pragma unroll
                    for (int m = 0; m < M; m++) {
                        sum[r][m] = __fmaf_rn(v[t][m].x, y.x, sum[r][m]);
                        sum[r][m] = __fmaf_rn(v[t][m].y, y.y, sum[r][m]);
                        sum[r][m] = __fmaf_rn(v[t][m].z, y.z, sum[r][m]);
                        sum[r][m] = __fmaf_rn(v[t][m].w, y.w, sum[r][m]);
                    }
                }
            }
        }
    }
#pragma unroll 1
    for (i += lane; i < a.k; i += 32)
#pragma unroll
        for (int m = 0; m < M; m++) {
            const float v = F::load(w[m] + u64(i) * F::BYTES);
#pragma unroll
            for (int r = 0; r < N; r++) sum[r][m] = __fmaf_rn(v, x[r][i], sum[r][m]);
        }
}

template <class F, int N, bool GATE_UP>
DEVICE void matvec(const MatvecArgs& a) {
    constexpr int M = GATE_UP ? 2 : 1;
    const u32 out = blockIdx.x * MATVEC_OUT + threadIdx.x / 32, group = blockIdx.y;
    if (out >= a.n_out) return;
    const u32 matrix = a.ids ? __ldg(a.ids + group) : group, x_group = group / a.x_div;
    if (matrix == SKIPPED) return;
    const u8* w[M];
    w[0] = a.w + matrix * a.matrix_bytes + out * a.row_bytes;
    if (GATE_UP) w[M - 1] = a.w_up + matrix * a.matrix_bytes_up + out * a.row_bytes;
    float sum[N][M] = {};
    if constexpr (F::PLAIN)
        plain_products<F>(a, w, x_group, sum);
    else if constexpr (Staged<F>::NEEDED)
        staged_products<F>(a, w, x_group, sum);
    else
        row_products<F>(a, w, x_group, sum);
#pragma unroll
    for (u32 r = 0; r < N; r++) {
        float v = warp_sum(sum[r][0]);
        if (GATE_UP) v = silu(v) * warp_sum(sum[r][M - 1]);
        if (threadIdx.x % 32 || r >= a.n_rows) continue;
        float* y = a.y.at + r * a.y.stride + group * a.y.head + out;
        if (!GATE_UP) {
            if (a.bias) v += __ldg(a.bias + out);
            if (a.add) v += *y;
        }
        *y = v;
    }
}
