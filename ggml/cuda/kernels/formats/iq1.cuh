// IQ1_S and IQ1_M.
#pragma once

#include "grid.cuh"
#include "grids/iq1.cuh"

// IQ1: integers are 8g + 1 or 8g - 1 with g of -1, 0, 1; 16 more than that is 8 (g + 1) + 9 or + 7.
DEVICE void ternary_point(u32 code, bool negative, u32* q) {
    const u32 point = __ldg(GRID_IQ1 + code), shift = negative ? 0x07070707u : 0x09090909u;
    q[0] = (point & 0x0f0f0f0f) * 8 + shift;
    q[1] = (point >> 4 & 0x0f0f0f0f) * 8 + shift;
}

struct iq1_s : Grid {
    static constexpr int BYTES = 50, SUB = 32, BIAS = 16;
    struct Raw {
        u32 d;
        u32 qh;
        u32 qs[1];
    };
    template <class From>
    DEVICE Raw load(const u8* block, int s) {
        Raw r;
        r.d = From::template get<u16>(block);
        r.qh = From::template get<u16>(block + 34 + 2 * s);
        load_words<From, 2>(block + 2 + 4 * s, r.qs);
        return r;
    }
    DEVICE void unpack(const Raw& r, int, Piece<SPAN, SUB>& p) {
        p.scale[0] = half_to_float(u16(r.d)) * float(2 * (r.qh >> 12 & 7) + 1) * 0.125f;
#pragma unroll
        for (int i = 0; i < 4; i++)
            ternary_point((r.qs[0] >> (8 * i) & 255) | (r.qh >> (3 * i) & 7) << 8, r.qh >> 15, p.q + 2 * i);
    }
};

struct iq1_m : Grid {
    static constexpr int BYTES = 56, SUB = 16, BIAS = 16;
    struct Raw {
        u32 scales[2];
        u32 qh;
        u32 qs;
    };
    template <class From>
    DEVICE Raw load(const u8* block, int s) {
        Raw r;
        r.qs = From::template get<u32>(block + 4 * s);
        r.qh = From::template get<u16>(block + 32 + 2 * s);
        load_words<From, 8>(block + 48, r.scales);
        return r;
    }
    DEVICE void unpack(const Raw& r, int s, Piece<SPAN, SUB>& p) {
        // The high nibbles of the four words of scales are d.
        const u32 a = r.scales[0], b = r.scales[1];
        const float d = half_to_float(u16((a >> 12 & 0xf) | (a >> 24 & 0xf0) | (b >> 4 & 0xf00) | (b >> 16 & 0xf000)));
        // Sub-blocks 2s and 2s + 1: three bits each from bit 6 (s % 2) of word s / 2 on.
        const u32 word = (s < 4 ? a : b) >> (s / 2 % 2 * 16 + s % 2 * 6);
#pragma unroll
        for (int j = 0; j < 2; j++) p.scale[j] = d * float(2 * (word >> (3 * j) & 7) + 1) * 0.125f;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const u32 high = r.qh >> (4 * i);
            ternary_point((r.qs >> (8 * i) & 255) | (high & 7) << 8, high & 8, p.q + 2 * i);
        }
    }
};
