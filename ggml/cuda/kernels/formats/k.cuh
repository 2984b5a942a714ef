// Super-blocks of 256: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K.
//
// Q2_K, Q3_K and Q6_K hold four planes of 32 elements in each half, in different bits of the same bytes; a span is what lies in 16 of
// these bytes: 16 elements of each plane. Q4_K and Q5_K have two sub-blocks in the nibbles of 32 bytes: a span is both.
#pragma once

#include "common.cuh"

// Spans 0 .. 4 of planes: half s / 2, columns 16 (s % 2) ...
struct Planes {
    static constexpr bool PLAIN = false, PLANES = true;
    static constexpr int BLOCK = 256, ACT = 256, SPAN = 64;
    DEVICE int offset(int s, int j) { return s / 2 * 128 + j * 32 + s % 2 * 16; }
    DEVICE void sums(const short* at, int s, int (&sum)[4]) {
        // Of the eight of a half every other one.
        const uint4 half = reinterpret_cast<const uint4*>(at)[s / 2];
        const u32 of[4] = {half.x, half.y, half.z, half.w};
#pragma unroll
        for (int j = 0; j < 4; j++) sum[j] = short(of[j] >> (s % 2 * 16));
    }
};

struct q2_k : Planes {
    static constexpr int BYTES = 84, SUB = 16, BIAS = 0;
    static constexpr bool HAS_MIN = true;
    struct Raw {
        u32 scales;  // those of its four groups
        u32 d;
        u32 q[4];
    };
    template <class From>
    DEVICE Raw load(const u8* block, int s) {
        Raw r;
        // Scales of even and odd sub-blocks take turns: those of a half are 8 bytes, ours every other one.
        u32 scales[2];
        load_words<From, 4>(block + s / 2 * 8, scales);
        r.scales = __byte_perm(scales[0], scales[1], s % 2 ? 0x7531 : 0x6420);
        load_words<From, 4>(block + 16 + 16 * s, r.q);
        r.d = From::template get<u32>(block + 80);
        return r;
    }
    DEVICE void unpack(const Raw& r, int, Piece<SPAN, SUB>& p) {
        const float d = half_to_float(u16(r.d)), dmin = half_to_float(u16(r.d >> 16));
#pragma unroll
        for (int j = 0; j < 4; j++) {
            p.scale[j] = d * float(r.scales >> (8 * j) & 15);
            p.min[j] = -(dmin * float(r.scales >> (8 * j + 4) & 15));
#pragma unroll
            for (int i = 0; i < 4; i++) p.q[4 * j + i] = r.q[i] >> (2 * j) & 0x03030303;
        }
    }
};

struct q3_k : Planes {
    static constexpr int BYTES = 110, SUB = 16, BIAS = 4;
    static constexpr bool HAS_MIN = false;
    struct Raw {
        u32 scales[3];
        u32 d;
        u32 high[4];
        u32 q[4];
    };
    template <class From>
    DEVICE Raw load(const u8* block, int s) {
        Raw r;
        load_words<From, 2>(block + 16 * (s % 2), r.high);
        load_words<From, 2>(block + 32 + 16 * s, r.q);
        load_words<From, 2>(block + 96, r.scales);
        r.d = From::template get<u16>(block + 108);
        return r;
    }
    DEVICE void unpack(const Raw& r, int s, Piece<SPAN, SUB>& p) {
        const float d = half_to_float(u16(r.d));
        const int half = s / 2;
        // Sub-block 8 half + 2j + s % 2: its low nibble in byte 2j + s % 2 of the first eight, which is low or high by the half; the
        // high bits of i in bits 2 (i / 4) of byte 8 + i % 4.
        const u32 select = s % 2 ? 0x7531 : 0x6420;
        const u32 low = __byte_perm(r.scales[0], r.scales[1], select) >> (4 * half) & 0x0f0f0f0f;
        const u32 bits = r.scales[2] >> (4 * half);
        const u32 high = (__byte_perm(bits, bits >> 2, select) & 0x03030303) << 4;
        const u32 scales = low | high;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            p.scale[j] = d * float(int(scales >> (8 * j) & 63) - 32);
#pragma unroll
            for (int i = 0; i < 4; i++)
                p.q[4 * j + i] = (r.q[i] >> (2 * j) & 0x03030303) | (r.high[i] >> (4 * half + j) & 0x01010101) << 2;
        }
    }
};

struct q6_k : Planes {
    static constexpr int BYTES = 210, SUB = 16, BIAS = 32;
    static constexpr bool HAS_MIN = false;
    struct Raw {
        u32 scales[2];
        u32 d;
        u32 low[2][4];
        u32 high[4];
    };
    template <class From>
    DEVICE Raw load(const u8* block, int s) {
        Raw r;
        const int half = s / 2, column = 16 * (s % 2);
        load_words<From, 2>(block + 64 * half + column, r.low[0]);
        load_words<From, 2>(block + 64 * half + 32 + column, r.low[1]);
        load_words<From, 2>(block + 128 + 32 * half + column, r.high);
        load_words<From, 2>(block + 192 + 8 * half, r.scales);
        r.d = From::template get<u16>(block + 208);
        return r;
    }
    DEVICE void unpack(const Raw& r, int s, Piece<SPAN, SUB>& p) {
        const float d = half_to_float(u16(r.d));
        const u32 scales = __byte_perm(r.scales[0], r.scales[1], s % 2 ? 0x7531 : 0x6420);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            p.scale[j] = d * float(s8(scales >> (8 * j)));
#pragma unroll
            for (int i = 0; i < 4; i++)
                p.q[4 * j + i] = (r.low[j % 2][i] >> (j / 2 * 4) & 0x0f0f0f0f) | (r.high[i] >> (2 * j) & 0x03030303) << 4;
        }
    }
};

// Eight scales and minimums of six bits in three words, and what is common to Q4_K and Q5_K.
struct Pairs : Consecutive<64> {
    static constexpr int BLOCK = 256, ACT = 256, SUB = 32, BIAS = 0;
    static constexpr bool HAS_MIN = true;
    // head: d and dmin, then the scales. Bytes 0-3 have scales 0-3 in their low six bits and the high bits of scales 4-7 above, bytes
    // 4-7 the minimums likewise, bytes 8-11 the low nibbles of scales and minimums 4-7.
    DEVICE void scales(const u32 (&head)[4], int s, float (&scale)[2], float (&min)[2]) {
        const float d = half_to_float(u16(head[0])), dmin = half_to_float(u16(head[0] >> 16));
        const u32 by = s % 2 * 16;
        const u32 first = head[1] >> by, second = head[2] >> by, third = head[3] >> by;
        const bool low = s < 2;
        const u32 sc = low ? first & 0x3f3f : (third & 0x0f0f) | (first & 0xc0c0) >> 2;
        const u32 m = low ? second & 0x3f3f : (third >> 4 & 0x0f0f) | (second & 0xc0c0) >> 2;
        scale[0] = d * float(sc & 255);
        scale[1] = d * float(sc >> 8);
        min[0] = -(dmin * float(m & 255));
        min[1] = -(dmin * float(m >> 8));
    }
};

struct q4_k : Pairs {
    static constexpr int BYTES = 144;
    struct Raw {
        u32 head[4];
        u32 q[8];
    };
    template <class From>
    DEVICE Raw load(const u8* block, int s) {
        Raw r;
        load_words<From, 16>(block, r.head);
        load_words<From, 16>(block + 16 + 32 * s, r.q);
        return r;
    }
    DEVICE void unpack(const Raw& r, int s, Piece<SPAN, SUB>& p) {
        scales(r.head, s, p.scale, p.min);
        nibbles(r.q, p.q, p.q + 8);
        nibbles(r.q + 4, p.q + 4, p.q + 12);
    }
};

struct q5_k : Pairs {
    static constexpr int BYTES = 176;
    struct Raw {
        u32 head[4];
        u32 high[8];
        u32 q[8];
    };
    template <class From>
    DEVICE Raw load(const u8* block, int s) {
        Raw r;
        load_words<From, 16>(block, r.head);
        load_words<From, 16>(block + 16, r.high);
        load_words<From, 16>(block + 48 + 32 * s, r.q);
        return r;
    }
    DEVICE void unpack(const Raw& r, int s, Piece<SPAN, SUB>& p) {
        scales(r.head, s, p.scale, p.min);
        nibbles(r.q, p.q, p.q + 8);
        nibbles(r.q + 4, p.q + 4, p.q + 12);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const u32 high = r.high[i] >> (2 * s);
            p.q[i] |= (high & 0x01010101) << 4;
            p.q[8 + i] |= (high & 0x02020202) << 3;
        }
    }
};
