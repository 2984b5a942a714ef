// Ternary super-blocks: TQ1_0, TQ2_0.
#pragma once

#include "k.cuh"

struct tq2_0 : Planes {
    static constexpr int BYTES = 66, SUB = 32, BIAS = 1;
    static constexpr bool HAS_MIN = false;
    struct Raw {
        u32 d;
        u32 q[4];
    };
    template <class From>
    DEVICE Raw load(const u8* block, int s) {
        Raw r;
        load_words<From, 2>(block + 16 * s, r.q);
        r.d = From::template get<u16>(block + 64);
        return r;
    }
    // One scale for all: which two groups share a number does not matter.
    DEVICE void unpack(const Raw& r, int, Piece<SPAN, SUB>& p) {
        p.scale[0] = p.scale[1] = half_to_float(u16(r.d));
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) p.q[4 * j + i] = r.q[i] >> (2 * j) & 0x03030303;
    }
};

// Span s < 5 is digit s of the first 32 bytes. Of the next 16 bytes span 5 is digits 0 and 1, span 6 digits 2 and 3, and span 7 digit 4
// followed by four digits of the last four bytes.
struct tq1_0 : Consecutive<32> {
    static constexpr int BLOCK = 256, BYTES = 54, SUB = 32, BIAS = 1, ACT = 256;
    static constexpr bool HAS_MIN = false;
    struct Raw {
        u32 d;
        u32 w[8];
    };
    template <class From>
    DEVICE Raw load(const u8* block, int s) {
        Raw r;
        r.d = From::template get<u16>(block + 52);
        u32 half[4];
        load_words<From, 2>(block + (s < 5 ? 0 : 32), half);
#pragma unroll
        for (int i = 0; i < 4; i++) r.w[i] = r.w[4 + i] = half[i];
        if (s < 5) {
            load_words<From, 2>(block + 16, half);
#pragma unroll
            for (int i = 0; i < 4; i++) r.w[4 + i] = half[i];
        } else if (s == 7) {
            u32 last[1];
            load_words<From, 2>(block + 48, last);
#pragma unroll
            for (int i = 0; i < 4; i++) r.w[4 + i] = last[0];
        }
        return r;
    }
    // Digits of four bytes: those before are multiplied out at the top, the next one is what times 3 carries.
    DEVICE u32 digits(u32 w, u32 power) {
        const u32 even = ((w & 0x00ff00ff) * power & 0x00ff00ff) * 3, odd = ((w >> 8 & 0x00ff00ff) * power & 0x00ff00ff) * 3;
        return (even >> 8 & 0x00030003) | (odd & 0x03000300);
    }
    DEVICE u32 power(int n) { return n == 0 ? 1 : n == 1 ? 3 : n == 2 ? 9 : n == 3 ? 27 : 81; }
    DEVICE void unpack(const Raw& r, int s, Piece<SPAN, SUB>& p) {
        p.scale[0] = half_to_float(u16(r.d));
        const u32 first = power(s < 5 ? s : 2 * (s - 5)), second = power(s < 5 ? s : 2 * (s - 5) + 1);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            p.q[i] = digits(r.w[i], first);
            p.q[4 + i] = digits(r.w[4 + i], s == 7 ? power(i) : second);
        }
    }
};
