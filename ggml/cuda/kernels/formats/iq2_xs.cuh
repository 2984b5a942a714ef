// IQ2_XS.
#pragma once

#include "grid.cuh"
#include "grids/iq2_xs.cuh"

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
