// Sums of squares of activations.
#include "intrin.cuh"

// A thread has a column of a group and adds rows in their order, as the reference does: the sums are the same to the last bit.
KERNEL(sum_squares, 128, SumSquaresArgs) {
    const u32 column = blockIdx.x * blockDim.x + threadIdx.x, group = blockIdx.y, lane = threadIdx.x % 32;
    const bool mine = column < a.width;
    double sum = mine ? a.sums[(u64)group * a.width + column] : 0.0;
    u32 count = 0;
    const float* x = a.x.at + column;
    if (a.ids == nullptr) {
        for (u32 r = 0; r < a.n_rows; r++) {
            const double v = mine ? x[r * a.x.stride + group * a.x.head] : 0.0f;
            sum += v * v;
        }
        count = a.n_rows;
    } else {
        // A warp looks at 32 choices at once and takes those of the group in their order.
        const u32 n = a.n_rows * a.n_used;
        for (u32 base = 0; base < n; base += 32) {
            u32 found = __ballot_sync(FULL_WARP, base + lane < n && a.ids[base + lane] == group);
            for (; found != 0; found &= found - 1) {
                const u32 pair = base + __ffs(found) - 1;
                const u32 row = pair / a.n_used, head = a.heads == 1 ? 0 : pair % a.n_used;
                const double v = mine ? x[row * a.x.stride + head * a.x.head] : 0.0f;
                sum += v * v;
                count++;
            }
        }
    }
    if (mine) a.sums[(u64)group * a.width + column] = sum;
    if (column == 0) a.counts[group] += count;
}
