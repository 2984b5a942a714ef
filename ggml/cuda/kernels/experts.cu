// Mixtures of experts, but for their products: the choice, the sorting of pairs (row, choice) by expert, and the sum.
#include "intrin.cuh"

#define MAX_EXPERTS 1024
// Sums of chosen weights are not divided by less than this, F16's smallest normal number.
#define MIN_SUM 6.103515625e-5f

// Logits to scores, as src/ops/router.rs does it. NaN is no maximum.
DEVICE void router_scores(const RouterArgs& a, const float* logits, float* scores) {
    const u32 lane = threadIdx.x;
    if (a.sigmoid) {
        for (u32 e = lane; e < a.n_expert; e += 32) scores[e] = 1.0f / (1.0f + expf(-logits[e]));
        return;
    }
    float most = -INFINITY, sum = 0.0f;
    for (u32 e = lane; e < a.n_expert; e += 32) most = fmaxf(most, logits[e]);
    most = warp_max(most);
    for (u32 e = lane; e < a.n_expert; e += 32) {
        const float v = expf(logits[e] - most);
        scores[e] = v;
        sum += v;
    }
    sum = warp_sum(sum);
    for (u32 e = lane; e < a.n_expert; e += 32) scores[e] /= sum;
}

// Sets the rank of all experts outside the best groups to -inf. `group` takes a number for each of the n_groups.
DEVICE void keep_best_groups(const RouterArgs& a, float* rank, float* group) {
    const u32 lane = threadIdx.x, size = a.n_expert / a.n_groups;
    for (u32 g = lane; g < a.n_groups; g += 32) {
        float first = -INFINITY, second = -INFINITY;
        for (u32 i = 0; i < size; i++) {
            // Each lane begins elsewhere: sizes are powers of two, and all would meet in one bank.
            const float v = rank[g * size + (i + lane) % size];
            if (v > first) {
                second = first;
                first = v;
            } else if (v > second) {
                second = v;
            }
        }
        group[g] = a.top2 && size > 1 ? first + second : first;
    }
    __syncwarp();
    for (u32 e = lane; e < a.n_expert; e += 32) {
        const u32 g = e / size;
        u32 better = 0;
        for (u32 o = 0; o < a.n_groups; o++) better += group[o] > group[g] || (group[o] == group[g] && o < g);
        if (better >= a.used_groups) rank[e] = -INFINITY;
    }
    __syncwarp();
}

// Numbers above -inf as integers above zero in the same order, both zeros being one.
DEVICE u32 ordered(float x) {
    const u32 bits = __float_as_uint(x + 0.0f);
    return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

KERNEL(router, 32, RouterArgs) {
    SHARED(float, scores, [MAX_EXPERTS]);
    SHARED(float, rank, [MAX_EXPERTS]);
    SHARED(float, group, [MAX_EXPERTS]);
    const u32 lane = threadIdx.x, row = blockIdx.x;
    router_scores(a, a.logits.at + row * a.logits.stride, scores);
    // Until the choice, a lane meets the numbers that it wrote only.
    for (u32 e = lane; e < a.n_expert; e += 32) rank[e] = a.bias ? scores[e] + a.bias[e] : scores[e];
    __syncwarp();
    if (a.n_groups > 1) keep_best_groups(a, rank, group);
    float sum = 0.0f;
    u32* ids = a.ids + (u64)row * a.n_used;
    float* weights = a.weights + (u64)row * a.n_used;
    for (u32 j = 0; j < a.n_used; j++) {
        float most = -INFINITY;
        u32 best = MAX_EXPERTS;
        for (u32 e = lane; e < a.n_expert; e += 32) {
            if (rank[e] > most) {
                most = rank[e];
                best = e;
            }
        }
        // Among equals the first. NaN is never best.
        const u32 key = best == MAX_EXPERTS ? 0 : ordered(most), first = __reduce_max_sync(FULL_WARP, key);
        best = __reduce_min_sync(FULL_WARP, key == first ? best : (u32)MAX_EXPERTS);
        // With NaN everywhere any expert will do, as long as it exists.
        if (best == MAX_EXPERTS) best = j;
        sum += scores[best];
        if (lane == 0) {
            ids[j] = best;
            rank[best] = -INFINITY;
        }
        __syncwarp();
    }
    const float factor = a.normalize ? a.scale / fmaxf(sum, MIN_SUM) : a.scale;
    // What lane 0 wrote is seen by its warp after __syncwarp.
    for (u32 j = lane; j < a.n_used; j += 32) weights[j] = scores[ids[j]] * factor;
}

// The sum of n over the threads of the block before this one; *total is that of all.
DEVICE u32 sum_before(u32 n, u32* of_warps, u32* total) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 sum = n;
    for (u32 o = 1; o < 32; o *= 2) {
        const u32 v = __shfl_up_sync(FULL_WARP, sum, o);
        if (lane >= o) sum += v;
    }
    __syncthreads();
    if (lane == 31) of_warps[warp] = sum;
    __syncthreads();
    u32 before = sum - n, all = 0;
    for (u32 w = 0; w < blockDim.x / 32; w++) {
        if (w == warp) before += all;
        all += of_warps[w];
    }
    *total = all;
    return before;
}

// The lanes that have the same number below 2 * MAX_EXPERTS.
DEVICE u32 same_lanes(u32 number) {
    u32 same = 0xffffffff;
    for (u32 bit = 1; bit < 2 * MAX_EXPERTS; bit *= 2) {
        const u32 have = __ballot_sync(FULL_WARP, (number & bit) != 0);
        same &= number & bit ? have : ~have;
    }
    return same;
}

// A stable counting sort: warps count their part of the pairs, threads add up the counts of an expert, warps place their pairs.
KERNEL(group, 1024, GroupArgs) {
    // For each warp and expert: its pairs, later how many of the expert's lie before the warp's next. 16 or 32 warps. 16 bits are enough,
    // since a row chooses an expert once.
    SHARED(u16, count, [16 * MAX_EXPERTS]);
    SHARED(u32, first, [MAX_EXPERTS]);
    SHARED(u32, of_warps, [32]);
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 warps = a.n_expert <= MAX_EXPERTS / 2 ? 32 : 16;
    const u32 part = (a.n_pairs + 32 * warps - 1) / (32 * warps) * 32;
    const u32 from = warp < warps ? min(warp * part, a.n_pairs) : a.n_pairs, to = min(from + part, a.n_pairs);
    for (u32 i = threadIdx.x; i < warps * a.n_expert; i += blockDim.x) count[i] = 0;
    __syncthreads();
    for (u32 base = from; base < to; base += 32) {
        const u32 e = base + lane < to ? a.ids[base + lane] : MAX_EXPERTS;
        const u32 same = same_lanes(e);
        if (e < a.n_expert && __ffs(same) - 1 == (int)lane) count[warp * a.n_expert + e] += (u16)__popc(same);
        __syncwarp();
    }
    __syncthreads();
    u32 n = 0;
    if (threadIdx.x < a.n_expert) {
        for (u32 w = 0; w < warps; w++) {
            u16* c = count + w * a.n_expert + threadIdx.x;
            const u32 mine = *c;
            *c = (u16)n;
            n += mine;
        }
    }
    u32 total, n_tiles;
    const u32 before = sum_before(n, of_warps, &total);
    u32 tile = sum_before((n + MATMUL_ROWS - 1) / MATMUL_ROWS, of_warps, &n_tiles);
    if (threadIdx.x < a.n_expert) first[threadIdx.x] = before;
    if (threadIdx.x == 0) *a.n_tiles = n_tiles;
    for (u32 i = 0; i < n; i += MATMUL_ROWS, tile++) {
        a.tile_list[tile] = Tile{threadIdx.x, before + i, min(n - i, (u32)MATMUL_ROWS)};
    }
    __syncthreads();
    for (u32 base = from; base < to; base += 32) {
        const u32 e = base + lane < to ? a.ids[base + lane] : MAX_EXPERTS;
        const u32 same = same_lanes(e);
        const u32 c = warp * a.n_expert + e;
        if (e < a.n_expert) a.order[first[e] + count[c] + __popc(same & ((1u << lane) - 1))] = base + lane;
        // All have read the count before the first of them counts on.
        __syncwarp();
        if (e < a.n_expert && __ffs(same) - 1 == (int)lane) count[c] += (u16)__popc(same);
        __syncwarp();
    }
}

// The first of the tiles, which are sorted by matrix, whose matrix is `matrix` or a later one.
DEVICE u32 first_tile(const CutArgs& a, u32 n_tiles, u32 matrix) {
    u32 from = 0, to = n_tiles;
    while (from < to) {
        const u32 middle = (from + to) / 2;
        if (a.tile_list[middle].matrix < matrix)
            from = middle + 1;
        else
            to = middle;
    }
    return from;
}

KERNEL(cut, 256, CutArgs) {
    const u32 n_tiles = *a.n_tiles, from = first_tile(a, n_tiles, a.first), to = first_tile(a, n_tiles, a.first + a.n);
    for (u32 i = from + threadIdx.x; i < to; i += blockDim.x) {
        const Tile tile = a.tile_list[i];
        a.to[i - from] = Tile{tile.matrix - a.first, tile.first, tile.n};
    }
    if (threadIdx.x == 0) *a.n_to = to - from;
}

KERNEL(combine, 256, CombineArgs) {
    const u32 column = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    if (column >= a.n) return;
    float* y = a.y.at + row * a.y.stride + column;
    const float* out = a.out + (u64)row * a.n_used * a.n + column;
    const float* weights = a.weights + (u64)row * a.n_used;
    float sum = *y;
    // Skipped pairs have no weight, and what is in their rows is nobody's.
    for (u32 j = 0; j < a.n_used; j++)
        if (weights[j] != 0.0f) sum += weights[j] * out[(u64)j * a.n];
    *y = sum;
}
