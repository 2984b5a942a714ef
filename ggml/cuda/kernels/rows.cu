// Rows before they meet weights: normalization and 8-bit activations.
#include "quantize.cuh"

#define ROW_THREADS 256

KERNEL(quantize, ROW_THREADS, QuantizeArgs) {
    const u64 row = blockIdx.x, head = blockIdx.y;
    const float* x = a.x.at + row * a.x.stride + head * a.x.head;
    const bool quads = are_quads(x, 0, a.k);
    for (u32 part = threadIdx.x / 32; part * 256 < a.k; part += ROW_THREADS / 32)
        quantize_part(load_part(x, part, a.k, quads), a.q, row * a.heads + head, part, a.k, a.block == 32);
}

KERNEL(rms_norm, ROW_THREADS, NormArgs) {
    SHARED(float, sums, [ROW_THREADS / 32]);
    const u64 row = blockIdx.x, first = u64(blockIdx.y) * a.n;
    const u32 warp = threadIdx.x / 32, warps = ROW_THREADS / 32;
    const float* x = a.x.at + row * a.x.stride + first;
    const bool quads = are_quads(x, 0, a.n) && are_quads(a.weight, 0, 0);
    // Rows of up to 8192 stay in registers.
    constexpr int KEPT = 4;
    Part kept[KEPT];
    float sum = 0;
    const auto add = [&](const Part& p) {
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int i = 0; i < 4; i++) sum = __fmaf_rn(p.x[half][i], p.x[half][i], sum);
    };
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        const u32 part = warp + i * warps;
        if (part * 256 >= a.n) break;
        kept[i] = load_part(x, part, a.n, quads);
        add(kept[i]);
    }
    for (u32 part = warp + KEPT * warps; part * 256 < a.n; part += warps) add(load_part(x, part, a.n, quads));
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) sums[warp] = sum;
    __syncthreads();
    float all = 0;
#pragma unroll
    for (u32 i = 0; i < warps; i++) all += sums[i];
    const float scale = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(__fdiv_rn(all, float(a.n)), a.eps)));

    float* y = a.y.at ? a.y.at + row * a.y.stride + first : nullptr;
    const bool quads_out = quads && are_quads(y, 0, 0);
    const auto finish = [&](Part p, u32 part) {
        const Part w = load_part(a.weight, part, a.n, quads);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const u32 at = 256 * part + 128 * half + 4 * (threadIdx.x % 32);
            float(&v)[4] = p.x[half];
#pragma unroll
            for (int i = 0; i < 4; i++) v[i] = __fmul_rn(__fmul_rn(v[i], scale), w.x[half][i]);
            if (!y) continue;
            if (quads_out) {
                if (at < a.n) *reinterpret_cast<float4*>(y + at) = make_float4(v[0], v[1], v[2], v[3]);
            } else {
#pragma unroll
                for (int i = 0; i < 4; i++)
                    if (at + i < a.n) y[at + i] = v[i];
            }
        }
        if (a.q32.qs) quantize_part(p, a.q32, row, part, a.n, true);
        if (a.q256.qs) quantize_part(p, a.q256, row, part, a.n, false);
    };
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        const u32 part = warp + i * warps;
        if (part * 256 >= a.n) break;
        finish(kept[i], part);
    }
    for (u32 part = warp + KEPT * warps; part * 256 < a.n; part += warps) finish(load_part(x, part, a.n, quads), part);
}
