// Codes of points of a grid: IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S. A span is 32 elements.
#pragma once

#include "common.cuh"
#include "grids.cuh"

struct Grid : Consecutive<32> {
    static constexpr int BLOCK = 256, ACT = 256;
    static constexpr bool HAS_MIN = false;
};

// Four magnitudes with signs: bit i makes number i negative. No magnitude is zero, so nothing is carried from byte to byte.
DEVICE u32 with_signs(u32 magnitudes, u32 signs) {
    const u32 ones = spread_bits(signs);
    return (magnitudes ^ (ones * 255)) + ones;
}
// The eighth sign of seven makes their number even.
DEVICE u32 even_signs(u32 code) {
    code &= 127;
    return code | u32(__popc(code) & 1) << 7;
}
// Eight magnitudes of a point.
DEVICE void eight(const u32* grid, u32 code, u32 signs, u32* q) {
    const uint2 point = __ldg(reinterpret_cast<const uint2*>(grid) + code);
    q[0] = with_signs(point.x, signs);
    q[1] = with_signs(point.y, signs >> 4);
}

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

struct iq2_xxs : Grid {
    static constexpr int BYTES = 66, SUB = 32, BIAS = 0;
    struct Raw {
        u32 d;
        u32 w[2];
    };
    template <class From>
    DEVICE Raw load(const u8* block, int s) {
        Raw r;
        r.d = From::template get<u16>(block);
        load_words<From, 2>(block + 2 + 8 * s, r.w);
        return r;
    }
    DEVICE void unpack(const Raw& r, int, Piece<SPAN, SUB>& p) {
        p.scale[0] = half_to_float(u16(r.d)) * (0.5f + float(r.w[1] >> 28)) * 0.25f;
#pragma unroll
        for (int i = 0; i < 4; i++) eight(GRID_IQ2_XXS, r.w[0] >> (8 * i) & 255, even_signs(r.w[1] >> (7 * i)), p.q + 2 * i);
    }
};

struct iq2_xs : Grid {
    static constexpr int BYTES = 74, SUB = 16, BIAS = 0;
    struct Raw {
        u32 d;
        u32 scales;
        u32 w[2];
    };
    template <class From>
    DEVICE Raw load(const u8* block, int s) {
        Raw r;
        r.d = From::template get<u16>(block);
        r.scales = From::template get<u8>(block + 66 + s);
        load_words<From, 2>(block + 2 + 8 * s, r.w);
        return r;
    }
    DEVICE void unpack(const Raw& r, int, Piece<SPAN, SUB>& p) {
        const float d = half_to_float(u16(r.d));
#pragma unroll
        for (int j = 0; j < 2; j++) p.scale[j] = d * (0.5f + float(r.scales >> (4 * j) & 15)) * 0.25f;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const u32 word = r.w[i / 2] >> (16 * (i % 2));
            eight(GRID_IQ2_XS, word & 511, even_signs(word >> 9), p.q + 2 * i);
        }
    }
};

struct iq2_s : Grid {
    static constexpr int BYTES = 82, SUB = 16, BIAS = 0;
    struct Raw {
        u32 d;
        u32 scales;
        u32 qh;
        u32 qs[1];
        u32 signs[1];
    };
    template <class From>
    DEVICE Raw load(const u8* block, int s) {
        Raw r;
        r.d = From::template get<u16>(block);
        r.qh = From::template get<u8>(block + 66 + s);
        r.scales = From::template get<u8>(block + 74 + s);
        load_words<From, 2>(block + 2 + 4 * s, r.qs);
        load_words<From, 2>(block + 34 + 4 * s, r.signs);
        return r;
    }
    DEVICE void unpack(const Raw& r, int, Piece<SPAN, SUB>& p) {
        const float d = half_to_float(u16(r.d));
#pragma unroll
        for (int j = 0; j < 2; j++) p.scale[j] = d * (0.5f + float(r.scales >> (4 * j) & 15)) * 0.25f;
#pragma unroll
        for (int i = 0; i < 4; i++)
            eight(GRID_IQ2_S, (r.qs[0] >> (8 * i) & 255) | (r.qh >> (2 * i) & 3) << 8, r.signs[0] >> (8 * i), p.q + 2 * i);
    }
};

struct iq3_xxs : Grid {
    static constexpr int BYTES = 98, SUB = 32, BIAS = 0;
    struct Raw {
        u32 d;
        u32 qs[2];
        u32 signs[1];
    };
    template <class From>
    DEVICE Raw load(const u8* block, int s) {
        Raw r;
        r.d = From::template get<u16>(block);
        load_words<From, 2>(block + 2 + 8 * s, r.qs);
        load_words<From, 2>(block + 66 + 4 * s, r.signs);
        return r;
    }
    DEVICE void unpack(const Raw& r, int, Piece<SPAN, SUB>& p) {
        p.scale[0] = half_to_float(u16(r.d)) * (0.5f + float(r.signs[0] >> 28)) * 0.5f;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const u32 codes = r.qs[i / 2] >> (16 * (i % 2)), signs = even_signs(r.signs[0] >> (7 * i));
            p.q[2 * i] = with_signs(__ldg(GRID_IQ3_XXS + (codes & 255)), signs);
            p.q[2 * i + 1] = with_signs(__ldg(GRID_IQ3_XXS + (codes >> 8 & 255)), signs >> 4);
        }
    }
};

struct iq3_s : Grid {
    static constexpr int BYTES = 110, SUB = 32, BIAS = 0;
    struct Raw {
        u32 d;
        u32 scales;
        u32 qh;
        u32 qs[2];
        u32 signs[1];
    };
    template <class From>
    DEVICE Raw load(const u8* block, int s) {
        Raw r;
        r.d = From::template get<u16>(block);
        r.qh = From::template get<u8>(block + 66 + s);
        r.scales = From::template get<u8>(block + 106 + s / 2);
        load_words<From, 2>(block + 2 + 8 * s, r.qs);
        load_words<From, 2>(block + 74 + 4 * s, r.signs);
        return r;
    }
    DEVICE void unpack(const Raw& r, int s, Piece<SPAN, SUB>& p) {
        p.scale[0] = half_to_float(u16(r.d)) * float(1 + 2 * (r.scales >> (s % 2 * 4) & 15));
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const u32 code = (r.qs[i / 4] >> (8 * (i % 4)) & 255) | (r.qh >> i & 1) << 8;
            p.q[i] = with_signs(__ldg(GRID_IQ3_S + code), r.signs[0] >> (4 * i));
        }
    }
};
