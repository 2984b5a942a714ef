// IQ2_S.
#pragma once

#include "grid.cuh"
#include "grids/iq2_s.cuh"

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
