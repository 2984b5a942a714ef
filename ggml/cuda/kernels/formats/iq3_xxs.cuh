// IQ3_XXS.
#pragma once

#include "grid.cuh"
#include "grids/iq3_xxs.cuh"

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
