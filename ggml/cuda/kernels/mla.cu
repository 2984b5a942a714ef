// Keys and values of multi-head latent attention from the cached latents, for its naive form.
//
// A product on tensor cores, whose factors are both split into two halves; the product of the low ones is left out.
#include "attend.cuh"

#define STEP 32
#define ROW (STEP + 8)
// Matrices are multiplied by this, so that the low halves of weights of the usual size are no subnormal numbers. The results are divided.
#define UP 32.0f

// A tile of one factor: 64 rows of STEP elements, the high halves and the low ones.
struct ExpandTile {
    u16 half[2][EXPAND_ROWS * ROW];
};

DEVICE const u8* expand_latent(const MlaExpandArgs& a, u32 pos) {
    const u8* chunk = (const u8*)__ldg(a.chunks + a.table0 + pos / CHUNK);
    return chunk + a.latent.offset + (u64)(pos % CHUNK) * a.latent.row;
}

// Where the head's key of a position is written, or its value.
DEVICE u16* expand_to(const MlaExpandArgs& a, u32 head, u32 pos, bool value) {
    u8* chunk = a.out + pos / CHUNK * a.out_chunk;
    const u64 row = head * CHUNK + pos % CHUNK;
    if (value) return (u16*)(chunk + a.out_v) + row * 2 * a.n_v;
    return (u16*)chunk + row * 2 * (a.n_nope + a.n_rope);
}

// Elements o and o + 1 of what is made of a latent, o being even: the key's, and from n_nope on the value's.
DEVICE void expand_store(const MlaExpandArgs& a, u32 head, u32 pos, u32 o, float x, float y) {
    u32 high, low;
    split_halves(x, y, high, low);
    if (a.n_nope % 2 == 0 && a.n_rope % 2 == 0 && a.n_v % 2 == 0) {
        const bool value = o >= a.n_nope;
        u16* to = expand_to(a, head, pos, value) + (value ? o - a.n_nope : o);
        *(u32*)to = high;
        *(u32*)(to + (value ? a.n_v : a.n_nope + a.n_rope)) = low;
        return;
    }
#pragma unroll
    for (u32 i = 0; i < 2 && o + i < a.n_nope + a.n_v; i++) {
        const bool value = o + i >= a.n_nope;
        u16* to = expand_to(a, head, pos, value) + (value ? o + i - a.n_nope : o + i);
        to[0] = (u16)(high >> 16 * i);
        to[value ? a.n_v : a.n_nope + a.n_rope] = (u16)(low >> 16 * i);
    }
}

KERNEL_OCCUPANCY(mla_expand, 128, 4, MlaExpandArgs) {
    SHARED(ExpandTile, tiles, [2]);
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.z;
    const u32 first_pos = blockIdx.x * EXPAND_ROWS, first_out = blockIdx.y * EXPAND_OUT, n_out = a.n_nope + a.n_v;
    // Each thread brings 8 elements of two rows of both factors.
    const u32 unit = threadIdx.x % 4, r0 = threadIdx.x / 4;
    const u8* rows[2][2];
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
        // Rows beyond the last are read as the last, and not written.
        rows[0][i] = expand_latent(a, min(first_pos + r0 + 32 * i, a.n_pos - 1));
        const u32 o = min(first_out + r0 + 32 * i, n_out - 1);
        const u64 from = a.first_head + head;
        rows[1][i] = (const u8*)(o < a.n_nope ? a.k_up + (from * a.n_nope + o) * a.rank : a.v_up + (from * a.n_v + o - a.n_nope) * a.rank);
    }
    float x[2][2][8], acc[EXPAND_OUT / 8][4] = {};
    for (u32 k = 0; k < a.rank; k += STEP) {
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            read_eight(rows[0][i], a.latent.type, a.rank, k + 8 * unit, x[0][i]);
            read_eight(rows[1][i], CACHE_F32, a.rank, k + 8 * unit, x[1][i]);
        }
        __syncthreads();
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            const u32 at = (r0 + 32 * i) * ROW + 8 * unit;
#pragma unroll
            for (u32 c = 0; c < 8; c++) x[1][i][c] *= UP;
            store_eight(x[0][i], &tiles[0].half[0][at], &tiles[0].half[1][at]);
            store_eight(x[1][i], &tiles[1].half[0][at], &tiles[1].half[1][at]);
        }
        __syncthreads();
#pragma unroll
        for (u32 s = 0; s < STEP / 16; s++) {
            u32 c[2][4];
            const u32 row = (16 * warp + lane % 16) * ROW + 16 * s + lane / 16 * 8;
            ldmatrix_x4(c[0], &tiles[0].half[0][row]);
            ldmatrix_x4(c[1], &tiles[0].half[1][row]);
#pragma unroll
            for (u32 j = 0; j < EXPAND_OUT / 16; j++) {
                u32 w[2][4];
                const u32 out = (16 * j + lane / 16 * 8 + lane % 8) * ROW + 16 * s + lane / 8 % 2 * 8;
                ldmatrix_x4(w[0], &tiles[1].half[0][out]);
                ldmatrix_x4(w[1], &tiles[1].half[1][out]);
#pragma unroll
                for (u32 i = 0; i < 2; i++) {
                    mma_f16(acc[2 * j + i], c[0], {w[0][2 * i], w[0][2 * i + 1]});
                    mma_f16(acc[2 * j + i], c[0], {w[1][2 * i], w[1][2 * i + 1]});
                    // Halves have no low halves.
                    if (a.latent.type != CACHE_F16) mma_f16(acc[2 * j + i], c[1], {w[0][2 * i], w[0][2 * i + 1]});
                }
            }
        }
    }
#pragma unroll
    for (u32 j = 0; j < EXPAND_OUT / 8; j++) {
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            const u32 pos = first_pos + 16 * warp + lane / 4 + 8 * i, o = first_out + 8 * j + lane % 4 * 2;
            if (pos < a.n_pos && o < n_out) expand_store(a, head, pos, o, acc[j][2 * i] * (1.0f / UP), acc[j][2 * i + 1] * (1.0f / UP));
        }
    }
    if (blockIdx.y > 0) return;
    // The elements with position are the same for all heads.
    for (u32 i = threadIdx.x; i < EXPAND_ROWS * a.n_rope; i += blockDim.x) {
        const u32 pos = first_pos + i / a.n_rope, c = i % a.n_rope;
        if (pos >= a.n_pos) break;
        u32 high, low;
        split_halves(attend_element(expand_latent(a, pos), a.latent.type, a.latent.dim, a.rank + c), 0.0f, high, low);
        u16* to = expand_to(a, head, pos, false) + a.n_nope + c;
        to[0] = (u16)high;
        to[a.n_nope + a.n_rope] = (u16)low;
    }
}
