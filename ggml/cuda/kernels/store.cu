// Rows that are copied: chosen outputs, and keys and values on their way into the cache.
#include "rope.cuh"

KERNEL(select_outputs, 256, SelectArgs) {
    const float* x = a.x.at + a.output[blockIdx.x] * a.x.stride;
    float* y = a.y.at + blockIdx.x * a.y.stride;
    for (u32 i = threadIdx.x; i < a.width; i += blockDim.x) y[i] = x[i];
}

// A block of Q8_0 by a warp, to the last bit as src/format/q8_0.rs does it.
DEVICE void store_block(float x, u8* block) {
    u32 amax = __float_as_uint(x) & 0x7fffffff;
    // Magnitudes compare as their bits do.
    for (u32 o = 16; o > 0; o /= 2) amax = max(amax, __shfl_xor_sync(FULL_WARP, amax, o));
    const float d = fminf(__uint_as_float(amax) / 127.0f, 65504.0f);
    float inverse = 1.0f / d;
    // Where that is not finite, everything becomes zeros.
    if ((__float_as_uint(inverse) & 0x7f800000) == 0x7f800000) inverse = 0.0f;
    // NaN becomes 0.
    const int q = max(-127, min(127, __float2int_rz(roundf(x * inverse))));
    const u32 lane = threadIdx.x % 32;
    // Blocks are aligned to two bytes only.
    const u32 mine = (u32)q & 0xff, other = __shfl_down_sync(FULL_WARP, mine, 1);
    u16* words = (u16*)block;
    if (lane == 0) words[0] = float_to_half(d);
    if (lane % 2 == 0) words[1 + lane / 2] = (u16)(mine | other << 8);
}

DEVICE void store_head(const StoreArgs& a, u32 row, u32 head) {
    const u32 pos = a.batch.pos[row];
    const float* x = a.x.at + row * a.x.stride + head * a.x.head;
    u8* chunk = (u8*)a.batch.chunks[a.batch.table[row] + pos / CHUNK];
    u8* to = chunk + a.to.offset + (u64)(head * CHUNK + pos % CHUNK) * a.to.row;
    if (a.to.type == CACHE_Q8_0) {
        for (u32 b = threadIdx.x / 32; b < a.to.dim / 32; b += blockDim.x / 32) {
            store_block(x[b * 32 + threadIdx.x % 32], to + b * 34);
        }
        return;
    }
    for (u32 i = threadIdx.x; i < a.to.dim; i += blockDim.x) {
        if (a.to.type == CACHE_F16) {
            ((u16*)to)[i] = float_to_half(x[i]);
        } else {
            ((float*)to)[i] = x[i];
        }
    }
}

KERNEL(store, 64, StoreArgs) { store_head(a, blockIdx.x, blockIdx.y); }

KERNEL(rope_store, 64, RopeStoreArgs) {
    u32 head = blockIdx.y;
    if (head < a.n_q) return rope_head(a.q, blockIdx.x, head);
    head -= a.n_q;
    if (head < a.n_k) {
        rope_head(a.k, blockIdx.x, head);
        __syncthreads();
        return store_head(a.store_k, blockIdx.x, head);
    }
    store_head(a.store_v, blockIdx.x, head - a.n_k);
}
