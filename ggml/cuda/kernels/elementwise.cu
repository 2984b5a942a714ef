// Sums and products of buffers, element by element.
#include "intrin.cuh"

KERNEL(add, 256, AddArgs) {
    const u32 c = blockIdx.x * blockDim.x + threadIdx.x;
    const u64 r = blockIdx.y;
    if (c < a.n) a.y.at[r * a.y.stride + c] += a.x.at[r * a.x.stride + c];
}

KERNEL(silu_mul, 256, SiluMulArgs) {
    const u32 c = blockIdx.x * blockDim.x + threadIdx.x;
    const u64 r = blockIdx.y;
    if (c >= a.n) return;
    const float gate = a.gate.at[r * a.gate.stride + c];
    a.y.at[r * a.y.stride + c] = gate / (1.0f + expf(-gate)) * a.up.at[r * a.up.stride + c];
}
