// Four-bit codes of sixteen levels: IQ4_NL, IQ4_XS, MXFP4, NVFP4.
#pragma once

#include "common.cuh"

// The levels of IQ4_VALUES in src/format/grids.rs and VALUES in src/format/e2m1.rs, four a word.
DEVICE Table16 iq4_levels() { return {{0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u}}; }
DEVICE Table16 e2m1_levels() { return {{0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu}}; }

// A sub-block whose first half is in low nibbles.
DEVICE void levels(const Table16& table, const u32 (&w)[4], u32 (&q)[8]) {
#pragma unroll
    for (int i = 0; i < 4; i++) look_up(table, w[i], q[i], q[4 + i]);
}

struct iq4_nl : Consecutive<32> {
    static constexpr int BLOCK = 32, BYTES = 18, SUB = 32, BIAS = 0, ACT = 32;
    static constexpr bool HAS_MIN = false;
    struct Raw {
        u32 d;
        u32 w[4];
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
        levels(iq4_levels(), r.w, p.q);
    }
};

struct iq4_xs : Consecutive<32> {
    static constexpr int BLOCK = 256, BYTES = 136, SUB = 32, BIAS = 0, ACT = 256;
    static constexpr bool HAS_MIN = false;
    struct Raw {
        u32 head[2];
        u32 w[4];
    };
    template <class From>
    DEVICE Raw load(const u8* block, int s) {
        Raw r;
        load_words<From, 8>(block, r.head);
        load_words<From, 8>(block + 8 + 16 * s, r.w);
        return r;
    }
    DEVICE void unpack(const Raw& r, int s, Piece<SPAN, SUB>& p) {
        const u32 low = r.head[1] >> (4 * s) & 15, high = r.head[0] >> (16 + 2 * s) & 3;
        p.scale[0] = half_to_float(u16(r.head[0])) * float(int(low | high << 4) - 32);
        levels(iq4_levels(), r.w, p.q);
    }
};

struct mxfp4 : Consecutive<32> {
    static constexpr int BLOCK = 32, BYTES = 17, SUB = 32, BIAS = 0, ACT = 32;
    static constexpr bool HAS_MIN = false;
    struct Raw {
        u32 e;
        u32 w[4];
    };
    template <class From>
    DEVICE Raw load(const u8* block, int) {
        Raw r;
        r.e = From::template get<u8>(block);
        load_words<From, 1>(block + 1, r.w);
        return r;
    }
    // 2^(e - 128), for levels are doubled; exponents 0 and 1 make subnormals.
    DEVICE void unpack(const Raw& r, int, Piece<SPAN, SUB>& p) {
        p.scale[0] = __uint_as_float(r.e < 2 ? 1u << (21 + r.e) : (r.e - 1) << 23);
        levels(e2m1_levels(), r.w, p.q);
    }
};

struct nvfp4 : Consecutive<32> {
    static constexpr int BLOCK = 64, BYTES = 36, SUB = 16, BIAS = 0, ACT = 32;
    static constexpr bool HAS_MIN = false;
    struct Raw {
        u32 scales;
        u32 w[4];
    };
    template <class From>
    DEVICE Raw load(const u8* block, int s) {
        Raw r;
        r.scales = From::template get<u16>(block + 2 * s);
        load_words<From, 4>(block + 4 + 16 * s, r.w);
        return r;
    }
    // Half of an E4M3 scale without sign, for levels are doubled; 0x7f is read as zero.
    DEVICE float scale(u32 x) {
        const u32 e = x >> 3 & 15, mantissa = x & 7;
        const float normal = float(8 + mantissa) * __uint_as_float((e + 127 - 11) << 23);
        return x == 0x7f ? 0.0f : e == 0 ? float(mantissa) * (1.0f / 1024) : normal;
    }
    DEVICE void unpack(const Raw& r, int, Piece<SPAN, SUB>& p) {
        const Table16 table = e2m1_levels();
#pragma unroll
        for (int j = 0; j < 2; j++) {
            p.scale[j] = scale(r.scales >> (8 * j) & 255);
#pragma unroll
            for (int i = 0; i < 2; i++) look_up(table, r.w[2 * j + i], p.q[4 * j + i], p.q[4 * j + 2 + i]);
        }
    }
};
