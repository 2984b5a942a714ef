// IQ3_S.
#pragma once

#include "grid.cuh"
#include "grids/iq3_s.cuh"

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
