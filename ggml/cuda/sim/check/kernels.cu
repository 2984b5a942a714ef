// Kernels with mistakes that the simulator must notice, and a few without.
#include "../../kernels/intrin.cuh"

struct CheckArgs {
    float* x;
    const float* y;
    u32 n;
};

KERNEL(right_sum, 128, CheckArgs) {
    SHARED(float, parts, [4]);
    const float sum = warp_sum(a.x[blockIdx.x * 128 + threadIdx.x]);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) a.x[blockIdx.x * 128] = parts[0] + parts[1] + parts[2] + parts[3];
}

// y[15 - i] by way of asynchronous copies, four floats each.
KERNEL(right_copy, 32, CheckArgs) {
    SHARED(float, tile, [16]);
    if (threadIdx.x < 4) cp_async16(tile + 4 * threadIdx.x, a.y + 4 * threadIdx.x);
    cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();
    if (threadIdx.x < 16) a.x[threadIdx.x] = tile[15 - threadIdx.x];
}

KERNEL(no_wait, 32, CheckArgs) {
    SHARED(float, tile, [16]);
    if (threadIdx.x < 4) cp_async16(tile + 4 * threadIdx.x, a.y + 4 * threadIdx.x);
    cp_async_commit();
    __syncwarp();
    if (threadIdx.x < 16) a.x[threadIdx.x] = tile[15 - threadIdx.x];
}

KERNEL(unset_shared, 32, CheckArgs) {
    SHARED(float, tile, [32]);
    if (threadIdx.x < 16) tile[threadIdx.x] = 1;
    __syncwarp();
    a.x[threadIdx.x] = tile[threadIdx.x];
}

KERNEL(unset_static, 32, CheckArgs) {
    __shared__ float tile[32];
    if (threadIdx.x < 16) tile[threadIdx.x] = 1;
    __syncwarp();
    a.x[threadIdx.x] = tile[threadIdx.x];
}

KERNEL(divergent_barrier, 64, CheckArgs) {
    if (threadIdx.x < a.n) __syncthreads();
}

KERNEL(divergent_warp, 32, CheckArgs) {
    if (threadIdx.x < 16)
        a.x[threadIdx.x] = __shfl_xor_sync(FULL_WARP, 1.0f, 1);
    else
        __syncwarp();
}

KERNEL(no_barrier, 128, CheckArgs) {
    SHARED(float, tile, [128]);
    tile[threadIdx.x] = 1;
    a.x[blockIdx.x * 128 + threadIdx.x] = tile[127 - threadIdx.x];
}

KERNEL(beyond_array, 32, CheckArgs) {
    SHARED(float, tile, [32]);
    tile[threadIdx.x + a.n] = 1;
}

KERNEL(beyond_dynamic, 32, CheckArgs) {
    DYNAMIC_SHARED(float, tile);
    tile[threadIdx.x + a.n] = 1;
}

KERNEL(beyond_memory, 32, CheckArgs) { a.x[threadIdx.x + a.n] = 1; }

KERNEL(misaligned, 32, CheckArgs) { a.x[threadIdx.x] = reinterpret_cast<const float4*>(a.y + a.n)->x; }
