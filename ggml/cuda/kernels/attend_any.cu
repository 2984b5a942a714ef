// Attention over rows of any length and format, and the merging of spans.
//
// Eight queries that share key/value rows walk them together: eight heads of a row, or eight rows of a head.
#include "attend.cuh"

#define QUERIES 8
#define TILE 32
#define COLUMNS (ATTEND_DIM / ATTEND_THREADS)

struct AnyState {
    float q[QUERIES][ATTEND_DIM];
    // Scores, then weights, of the tile's positions.
    float weights[TILE][QUERIES];
    float most[QUERIES], sum[QUERIES], factor[QUERIES];
    // Keys that a query sees; none for queries that do not take part.
    u32 n[QUERIES];
};

// The sum over the warp of number i to lane i: lanes that differ in bit N exchange what the other keeps.
template <u32 N>
DEVICE float sum_of_lane(const float (&x)[2 * N]) {
    const bool upper = threadIdx.x & N;
    float half[N];
#pragma unroll
    for (u32 i = 0; i < N; i++) {
        half[i] = (upper ? x[i + N] : x[i]) + __shfl_xor_sync(FULL_WARP, upper ? x[i] : x[i + N], N);
    }
    if constexpr (N == 1) {
        return half[0];
    } else {
        return sum_of_lane<N / 2>(half);
    }
}

// Scores of four positions from `at` on; those from `to` on are read as the last.
DEVICE void any_scores(
    const AttendArgs& a, AnyState& s, u32 table, u32 kv, u32 first, u32 at, u32 to) {
    const u32 lane = threadIdx.x % 32;
    const u8* row[4];
    for (u32 p = 0; p < 4; p++) row[p] = attend_row(a, a.k, table, kv, min(at + p, to - 1));
    float dot[32];
    for (u32 i = 0; i < 32; i++) dot[i] = 0.0f;
    for (u32 c = lane; c < a.k.dim; c += 32) {
        float k[4];
        for (u32 p = 0; p < 4; p++) k[p] = attend_element(row[p], a.k.type, a.k.dim, c);
#pragma unroll
        for (u32 j = 0; j < QUERIES; j++) {
            const float q = s.q[j][c];
#pragma unroll
            for (u32 p = 0; p < 4; p++) dot[p * QUERIES + j] += k[p] * q;
        }
    }
    const float score = sum_of_lane<16>(dot);
    const u32 p = at + lane / QUERIES, j = lane % QUERIES;
    s.weights[p - first][j] = p < s.n[j] ? score : -INFINITY;
}

// The queries in `s` attend to positions from .. to, and add what they see to acc: column threadIdx.x + i * ATTEND_THREADS of query j.
DEVICE void any_walk(
    const AttendArgs& a, AnyState& s, float (&acc)[COLUMNS][QUERIES], u32 table, u32 kv, u32 from, u32 to) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const CacheRows values = attend_values(a);
    for (u32 first = from; first < to; first += TILE) {
        for (u32 at = first + 4 * warp; at < first + TILE; at += 4 * (ATTEND_THREADS / 32)) {
            any_scores(a, s, table, kv, first, at, to);
        }
        __syncthreads();
        for (u32 j = warp; j < QUERIES; j += ATTEND_THREADS / 32) {
            const float score = s.weights[lane][j], before = s.most[j];
            const float most = warp_max(fmaxf(before, score));
            const float w = attend_weight(score, most), factor = attend_weight(before, most);
            const float sum = warp_sum(w);
            s.weights[lane][j] = w;
            __syncwarp();
            if (lane == 0) {
                s.most[j] = most;
                s.sum[j] = s.sum[j] * factor + sum;
                s.factor[j] = factor;
            }
        }
        __syncthreads();
        const u32 n = min((u32)TILE, to - first);
        // A tile lies in one chunk.
        const u8* row = attend_row(a, values, table, kv, first);
#pragma unroll
        for (u32 i = 0; i < COLUMNS; i++) {
            const u32 c = threadIdx.x + i * ATTEND_THREADS;
            if (c >= values.dim) break;
#pragma unroll
            for (u32 j = 0; j < QUERIES; j++) acc[i][j] *= s.factor[j];
            for (u32 p = 0; p < n; p++) {
                const float v = attend_element(row + p * values.row, values.type, values.dim, c);
#pragma unroll
                for (u32 j = 0; j < QUERIES; j++) acc[i][j] += s.weights[p][j] * v;
            }
        }
        __syncthreads();
    }
}

// Query j, which sees n keys; q is null where there is none.
DEVICE void any_query(const AttendArgs& a, AnyState& s, u32 j, const float* q, u32 n) {
    for (u32 c = threadIdx.x; c < a.k.dim; c += ATTEND_THREADS) s.q[j][c] = q ? q[c] * (a.scale * LOG2_E) : 0.0f;
    if (threadIdx.x == 0) {
        s.most[j] = -INFINITY;
        s.sum[j] = 0.0f;
        s.n[j] = q ? n : 0;
    }
}

KERNEL(attend_few_any, ATTEND_THREADS, AttendArgs) {
    SHARED(AnyState, states, [1]);
    AnyState& s = states[0];
    const u32 row = blockIdx.z, n = a.batch.pos[row] + 1, span = attend_span(n), from = blockIdx.x * span;
    if (from >= n) return;
    const u32 group = a.n_head / a.n_head_kv, tiles = (group + QUERIES - 1) / QUERIES;
    const u32 kv = blockIdx.y / tiles, first = blockIdx.y % tiles * QUERIES, n_heads = min((u32)QUERIES, group - first);
    const u32 head = kv * group + first;
    for (u32 j = 0; j < QUERIES; j++) any_query(a, s, j, j < n_heads ? attend_query(a, row, head + j) : nullptr, n);
    __syncthreads();
    float acc[COLUMNS][QUERIES] = {};
    any_walk(a, s, acc, a.batch.table[row], kv, from, min(from + span, n));
#pragma unroll
    for (u32 j = 0; j < QUERIES; j++) {
        if (j >= n_heads) break;
        float* to = attend_partial(a, row, head + j, blockIdx.x);
#pragma unroll
        for (u32 i = 0; i < COLUMNS; i++) {
            const u32 c = threadIdx.x + i * ATTEND_THREADS;
            if (c < a.v.dim) to[c] = acc[i][j];
        }
        if (threadIdx.x == 0) {
            to[a.v.dim] = s.most[j];
            to[a.v.dim + 1] = s.sum[j];
        }
    }
    attend_arrive(a, row * gridDim.y + blockIdx.y, {row, 1, head, n_heads}, (n + span - 1) / span);
}

KERNEL(attend_merge, 128, AttendArgs) {
    const u32 n = a.batch.pos[blockIdx.y] + 1, span = attend_span(n);
    attend_merge_part(a, {blockIdx.y, 1, blockIdx.x, 1}, (n + span - 1) / span);
}

KERNEL(attend_many_any, ATTEND_THREADS, AttendArgs) {
    SHARED(AnyState, states, [1]);
    AnyState& s = states[0];
    const u32 head = blockIdx.y, kv = head / (a.n_head / a.n_head_kv), end = min((blockIdx.x + 1) * ATTEND_ANY_ROWS, a.n_rows);
    // Runs of rows of one sequence.
    for (u32 first = blockIdx.x * ATTEND_ANY_ROWS, next; first < end; first = next) {
        const u32 table = a.batch.table[first];
        u32 n = 0;
        for (next = first; next < end && a.batch.table[next] == table; next++) {
            const u32 sees = a.batch.pos[next] + 1;
            any_query(a, s, next - first, attend_query(a, next, head), sees);
            n = max(n, sees);
        }
        for (u32 j = next - first; j < QUERIES; j++) any_query(a, s, j, nullptr, 0);
        __syncthreads();
        float acc[COLUMNS][QUERIES] = {};
        any_walk(a, s, acc, table, kv, 0, n);
#pragma unroll
        for (u32 j = 0; j < QUERIES; j++) {
            if (first + j >= next) break;
            float* y = a.y.at + (first + j) * a.y.stride + head * a.y.head;
#pragma unroll
            for (u32 i = 0; i < COLUMNS; i++) {
                const u32 c = threadIdx.x + i * ATTEND_THREADS;
                if (c < a.v.dim) y[c] = acc[i][j] / s.sum[j];
            }
        }
        __syncthreads();
    }
}
