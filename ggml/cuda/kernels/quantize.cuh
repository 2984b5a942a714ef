// Activations to 8 bits, to the bit as quantize_row of src/act.rs.
#pragma once

#include "intrin.cuh"

// A warp's part of a row: 256 elements, lane l holding elements 4l .. and 128 + 4l .. (QUAD: first and second).
struct Part {
    float x[2][4];
};

DEVICE u32 group_max(u32 x, int lanes) {
    for (int by = 1; by < lanes; by *= 2) x = max(x, __shfl_xor_sync(FULL_WARP, x, by));
    return x;
}

// What the elements of a block have in common.
struct Scale {
    float d;
    float inverse;
    int otherwise;  // what all of them become if the inverse is of no use
    bool usable;
};
// amax: the bits of the largest magnitude; a NaN's are larger than all others.
DEVICE Scale scale_of(u32 amax_bits) {
    const float amax = __uint_as_float(amax_bits);
    const float scale = __fdiv_rn(amax, 127.0f), inverse = __fdiv_rn(127.0f, amax);
    const bool finite = amax_bits < 0x7f800000u;
    Scale s;
    s.usable = finite && (__float_as_uint(inverse) & 0x7fffffffu) < 0x7f800000u && scale > 0;
    s.d = s.usable || !finite ? scale : 0.0f;
    s.inverse = inverse;
    s.otherwise = finite ? 0 : 1;
    return s;
}

DEVICE u32 largest(const float (&x)[4]) {
    u32 m = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) m = max(m, __float_as_uint(x[i]) & 0x7fffffffu);
    return m;
}

// Elements 256 * part .. of row `row` of q, of k elements; what lies beyond k is zero in x and not written.
DEVICE void quantize_part(const Part& x, const Q8& q, u64 row, u32 part, u32 k, bool blocks_of_32) {
    const u32 lane = threadIdx.x % 32;
    u32 amax[2] = {largest(x.x[0]), largest(x.x[1])};
    if (blocks_of_32) {
        amax[0] = group_max(amax[0], 8);
        amax[1] = group_max(amax[1], 8);
    } else {
        amax[0] = amax[1] = group_max(max(amax[0], amax[1]), 32);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const Scale s = scale_of(amax[half]);
        int sum = 0;
        u32 packed = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int v = s.usable ? __float2int_rn(__fmul_rn(x.x[half][i], s.inverse)) : s.otherwise;
            sum += v;
            packed |= u32(v & 255) << (8 * i);
        }
        sum += __shfl_xor_sync(FULL_WARP, sum, 1);
        sum += __shfl_xor_sync(FULL_WARP, sum, 2);
        const u32 at = 256 * part + 128 * half + 4 * lane;
        if (at >= k) continue;
        *reinterpret_cast<u32*>(q.qs + row * k + at) = packed;
        if (lane % 4 == 0) q.sums[row * (k / 16) + at / 16] = short(sum);
        if (blocks_of_32) {
            if (lane % 8 == 0) q.d[row * (k / 32) + at / 32] = s.d;
        } else if (lane == 0 && half == 0) {
            q.d[row * (k / 256) + part] = s.d;
        }
    }
}

// Whether four floats can be read at once at every fourth column of these rows.
DEVICE bool are_quads(const void* at, u64 stride, u32 width) {
    return ((reinterpret_cast<u64>(at) | stride * 4 | u64(width) * 4) & 15) == 0;
}

// Columns 256 * part .. of a row of n floats, zeros beyond.
DEVICE Part load_part(const float* x, u32 part, u32 n, bool quads) {
    Part p;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const u32 at = 256 * part + 128 * half + 4 * (threadIdx.x % 32);
        if (quads) {
            const float4 v = at < n ? *reinterpret_cast<const float4*>(x + at) : make_float4(0, 0, 0, 0);
            p.x[half][0] = v.x, p.x[half][1] = v.y, p.x[half][2] = v.z, p.x[half][3] = v.w;
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++) p.x[half][i] = at + i < n ? x[at + i] : 0;
        }
    }
    return p;
}
