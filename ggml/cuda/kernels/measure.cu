// What a device does at best: reading memory, and products of bytes on tensor cores.
#include "intrin.cuh"

// Reads all of it, 16 bytes a thread at a time, four of them in flight.
KERNEL(measure_read, 256, MeasureReadArgs) {
    const u64 step = (u64)gridDim.x * blockDim.x;
    u32 sum = 0;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < a.n; i += 4 * step) {
        uint4 v[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const u64 at = i + j * step;
            v[j] = a.at[at < a.n ? at : i];
        }
#pragma unroll
        for (int j = 0; j < 4; j++) sum += v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
    // What nobody could guess keeps the reads from being left out.
    if (sum == a.never) a.out[0] = sum;
}

// Eight independent sums of tiles of 16 x 32 by 32 x 8 bytes a warp.
KERNEL(measure_mma, 256, MeasureMmaArgs) {
    int sums[8][4] = {};
    const u32 lane = threadIdx.x % 32;
    const u32 x[4] = {lane, lane + 1, lane + 2, lane + 3}, y[2] = {lane + 4, lane + 5};
    for (u32 round = 0; round < a.rounds; round++) {
#pragma unroll
        for (int i = 0; i < 8; i++) mma_s8_k32(sums[i], x, y, 0);
    }
    int sum = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) sum += sums[i][0] ^ sums[i][1] ^ sums[i][2] ^ sums[i][3];
    if ((u32)sum == a.never) a.out[0] = sum;
}
