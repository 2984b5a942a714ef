// Blocks of 32 with a scale, and some with a minimum: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
#pragma once

#include "common.cuh"

template <int BYTES_, int ALIGN, bool FIVE, bool MIN, int BIAS_>
struct Simple : Consecutive<32> {
    static constexpr int BLOCK = 32, BYTES = BYTES_, SUB = 32, BIAS = BIAS_, ACT = 32;
    static constexpr bool HAS_MIN = MIN;
    static constexpr int WORDS = FIVE ? 5 : 4;
    struct Raw {
        u32 head;
        u32 w[WORDS];
    };
    template <class From>
    DEVICE Raw load(const u8* block, int) {
        Raw r;
        r.head = MIN ? From::template get<u32>(block) : From::template get<u16>(block);
        load_words<From, ALIGN>(block + (MIN ? 4 : 2), r.w);
        return r;
    }
    DEVICE void unpack(const Raw& r, int, Piece<SPAN, SUB>& p) {
        p.scale[0] = half_to_float(u16(r.head));
        if (MIN) p.min[0] = half_to_float(u16(r.head >> 16));
        nibbles(r.w + (FIVE ? 1 : 0), p.q, p.q + 4);
        if (FIVE) {
#pragma unroll
            for (int i = 0; i < 8; i++) p.q[i] |= spread_bits(r.w[0] >> (4 * i)) << 4;
        }
    }
};

typedef Simple<18, 2, false, false, 8> q4_0;
typedef Simple<20, 4, false, true, 0> q4_1;
typedef Simple<22, 2, true, false, 16> q5_0;
typedef Simple<24, 4, true, true, 0> q5_1;

struct q8_0 : Consecutive<32> {
    static constexpr int BLOCK = 32, BYTES = 34, SUB = 32, BIAS = 0, ACT = 32;
    static constexpr bool HAS_MIN = false;
    struct Raw {
        u32 d;
        u32 w[8];
    };
    template <class From>
    DEVICE Raw load(const u8* block, int) {
        Raw r;
        r.d = From::template get<u16>(block);
        load_words<From, 2>(block + 2, r.w);
        return r;
    }
    DEVICE void unpack(const Raw& r, int, Piece<SPAN, SUB>& p) {
        p.scale[0] = half_to_float(u16(r.d));
#pragma unroll
        for (int i = 0; i < 8; i++) p.q[i] = r.w[i];
    }
};
