// IQ2_XXS.
#pragma once

#include "grid.cuh"
#include "grids/iq2_xxs.cuh"

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
