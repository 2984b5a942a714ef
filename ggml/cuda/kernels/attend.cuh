// What the kernels of attention share.
//
// Scores are kept in units of log2(e), so that weights are powers of two of their differences.
#pragma once

#include "intrin.cuh"

// As DEVICE, of a struct.
#define METHOD __device__ __forceinline__

#define LOG2_E 1.44269504088896341f

// A number of keys divided into spans: positions in each.
DEVICE u32 attend_span(u32 n) {
    const u32 least = (n + MAX_SPANS - 1) / MAX_SPANS;
    return max((u32)MIN_SPAN, (least + MIN_SPAN - 1) / MIN_SPAN * MIN_SPAN);
}

// Rows of values as those of keys are described.
DEVICE CacheRows attend_values(const AttendArgs& a) {
    CacheRows v = a.v;
    if (v.row == 0) {
        v = a.k;
        v.dim = a.v.dim;
    }
    return v;
}

// The row of a position; those after it in its chunk follow.
DEVICE const u8* attend_row(const AttendArgs& a, const CacheRows& rows, u32 table, u32 kv, u32 pos) {
    const u8* chunk = (const u8*)__ldg(a.batch.chunks + table + pos / CHUNK);
    return chunk + rows.offset + (u64)(kv * CHUNK + pos % CHUNK) * rows.row;
}

DEVICE float attend_element(const u8* row, u32 type, u32 dim, u32 c) {
    if (type == CACHE_F32) return ((const float*)row)[c];
    if (type == CACHE_F16) return half_to_float(((const u16*)row)[c]);
    if (type == CACHE_SPLIT) return half_to_float(((const u16*)row)[c]) + half_to_float(((const u16*)row)[dim + c]);
    const u8* block = row + c / 32 * 34;
    return half_to_float(*(const u16*)block) * (float)((const s8*)block)[2 + c % 32];
}

// Eight elements from c on, a multiple of 8, of a row of dim; zeros beyond. Rows of floats whose length is a multiple of 4 are aligned.
DEVICE void read_eight(const u8* row, u32 type, u32 dim, u32 c, float (&x)[8]) {
    if (type == CACHE_F32 && dim % 4 == 0 && c + 8 <= dim) {
        const float4 low = *(const float4*)(row + 4 * c), high = *(const float4*)(row + 4 * c + 16);
        x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
        x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
    } else if (type == CACHE_Q8_0 && c < dim) {
        const u16* block = (const u16*)(row + c / 32 * 34);
        const float d = half_to_float(block[0]);
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 two = block[1 + c % 32 / 2 + i];
            x[2 * i] = d * (float)(s8)two;
            x[2 * i + 1] = d * (float)(s8)(two >> 8);
        }
    } else {
#pragma unroll
        for (u32 i = 0; i < 8; i++) x[i] = c + i < dim ? attend_element(row, type, dim, c + i) : 0.0f;
    }
}

DEVICE const float* attend_query(const AttendArgs& a, u32 row, u32 head) {
    return a.q.at + row * a.q.stride + head * a.q.head;
}

// Where span s of a head of a row leaves its sums: v.dim weighted values, the largest score, the sum of weights.
DEVICE float* attend_partial(const AttendArgs& a, u32 row, u32 head, u32 span) {
    return a.partial + (((u64)row * a.n_head + head) * a.n_spans + span) * (a.v.dim + 2);
}

// 2^(x - most), 0 where nothing has been seen.
DEVICE float attend_weight(float x, float most) { return most == -INFINITY ? 0.0f : exp2_fast(x - most); }

// Some heads of some rows.
struct AttendPart {
    u32 row, n_rows, head, n_heads;
};

// Puts spans together, always in the same order. All threads of the block take part.
DEVICE void attend_merge_part(const AttendArgs& a, AttendPart part, u32 spans) {
    // Eight heads at a time.
    SHARED(float, weights, [8][MAX_SPANS]);
    SHARED(float, total, [8]);
    const u32 lane = threadIdx.x % 32, dim = a.v.dim, n = part.n_rows * part.n_heads;
    for (u32 base = 0; base < n; base += 8) {
        __syncthreads();
        for (u32 i = threadIdx.x / 32; i < 8 && base + i < n; i += blockDim.x / 32) {
            // What other blocks have written in this launch is in the second-level cache only.
            const u32 row = part.row + (base + i) / part.n_heads, head = part.head + (base + i) % part.n_heads;
            const float* from = attend_partial(a, row, head, 0) + dim;
            const u32 s0 = lane, s1 = lane + 32;
            const float m0 = s0 < spans ? __ldcg(from + s0 * (dim + 2)) : -INFINITY, l0 = s0 < spans ? __ldcg(from + s0 * (dim + 2) + 1) : 0.0f;
            const float m1 = s1 < spans ? __ldcg(from + s1 * (dim + 2)) : -INFINITY, l1 = s1 < spans ? __ldcg(from + s1 * (dim + 2) + 1) : 0.0f;
            const float most = warp_max(fmaxf(m0, m1)), w0 = attend_weight(m0, most), w1 = attend_weight(m1, most);
            const float sum = warp_sum(w0 * l0 + w1 * l1);
            weights[i][s0] = w0;
            weights[i][s1] = w1;
            if (lane == 0) total[i] = sum;
        }
        __syncthreads();
        for (u32 e = threadIdx.x; e < min(8u, n - base) * dim; e += blockDim.x) {
            const u32 i = e / dim, c = e % dim;
            const u32 row = part.row + (base + i) / part.n_heads, head = part.head + (base + i) % part.n_heads;
            const float* from = attend_partial(a, row, head, 0) + c;
            float sum = 0.0f;
#pragma unroll 8
            for (u32 s = 0; s < spans; s++) sum += weights[i][s] * __ldcg(from + s * (dim + 2));
            a.y.at[row * a.y.stride + head * a.y.head + c] = sum / total[i];
        }
    }
}

// The block has written its partial sums. The last block of those that share a counter finds those of the others and puts them together.
DEVICE void attend_arrive(const AttendArgs& a, u32 counter, AttendPart part, u32 spans) {
    SHARED(u32, last, [1]);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        *last = atomicAdd(a.arrived + counter, 1u) + 1 == spans;
        // For the next launch.
        if (*last) a.arrived[counter] = 0;
    }
    __syncthreads();
    if (!*last) return;
    __threadfence();
    attend_merge_part(a, part, spans);
}

// Tensor cores multiply halves exactly and add F32. Numbers that are not halves go in as two, which keep 22 bits of them.
DEVICE u32 pack_halves(float x, float y) {
    const __half2 both = __floats2half2_rn(x, y);
    u32 bits;
    memcpy(&bits, &both, sizeof bits);
    return bits;
}
DEVICE void split_halves(float x, float y, u32& high, u32& low) {
    high = pack_halves(x, y);
    low = pack_halves(x - half_to_float((u16)high), y - half_to_float((u16)(high >> 16)));
}

// Eight elements as halves to shared memory, at addresses of 16 bytes.
DEVICE void store_eight(const float (&x)[8], u16* high, u16* low) {
    u32 h[4], l[4];
#pragma unroll
    for (u32 w = 0; w < 4; w++) split_halves(x[2 * w], x[2 * w + 1], h[w], l[w]);
    *(uint4*)high = make_uint4(h[0], h[1], h[2], h[3]);
    *(uint4*)low = make_uint4(l[0], l[1], l[2], l[3]);
}

// A power of two that brings numbers as large as `most` to 2^14 .. 2^15, where their second halves are precise, and its inverse.
DEVICE float scale_for_halves(float most, float& inverse) {
    const u32 exponent = max(15u, __float_as_uint(most) >> 23 & 255);
    inverse = __uint_as_float((exponent - 14) << 23);
    return __uint_as_float((268 - exponent) << 23);
}

// Weights are multiplied by this, for the same reason; so are their sums.
#define WEIGHT_EXPONENT 14.0f
