// How blocks of small integers are read, for every format one struct:
//
//   BLOCK, BYTES  elements and bytes of a block
//   SUB           elements that share a scale: 16 or 32
//   HAS_MIN       whether value = scale * q + min, or just scale * q
//   BIAS          what unpacked integers are too large by: q = q' - BIAS; q' fits in seven bits where it is not 0
//   ACT           elements of activations that share a scale: 32 or 256
//   SPAN          elements that a thread takes at once, in groups of 16: group j of span s is elements offset(s, j) .. + 16
//   Raw           what load<From>(block, s) reads of a span, which unpack(raw, s, piece) takes apart
//
//   PLAIN         false; plain numbers have no blocks, just load and load4, and BYTES of each
//   PLANES        whether groups of a span lie apart, 32 elements from one to the next, or follow each other
//
// Loading is apart from unpacking so that the next spans are on their way while one is worked on. If SUB is 32, groups 2i and 2i + 1
// have the same scale and minimum, number i of the piece; if it is 16 each group has its own. If ACT is 32 groups 2i and 2i + 1 are
// 32 consecutive elements of one activation block.
// sums(at, s, sum) gives the sums of activations of the groups, at being those of the block.
// Scales and minimums are those of src/format/*.rs to the last bit.
#pragma once

#include "../intrin.cuh"

template <int SPAN, int SUB>
struct Piece {
    u32 q[SPAN / 4];
    float scale[SPAN / SUB];
    float min[SPAN / SUB];
};

// Where blocks are read from.
struct FromGlobal {
    template <class T>
    DEVICE T get(const u8* at) { return __ldg(reinterpret_cast<const T*>(at)); }
};
struct FromShared {
    template <class T>
    DEVICE T get(const u8* at) { return *reinterpret_cast<const T*>(at); }
};

// N words at an address that is a multiple of ALIGN. Of words that hold no byte of these nothing is read.
template <class From, int ALIGN, int N>
DEVICE void load_words(const u8* at, u32 (&w)[N]) {
    if constexpr (ALIGN >= 16 && N % 4 == 0) {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            const uint4 v = From::template get<uint4>(at + 4 * i);
            w[i] = v.x, w[i + 1] = v.y, w[i + 2] = v.z, w[i + 3] = v.w;
        }
    } else if constexpr (ALIGN >= 8 && N % 2 == 0) {
#pragma unroll
        for (int i = 0; i < N; i += 2) {
            const uint2 v = From::template get<uint2>(at + 4 * i);
            w[i] = v.x, w[i + 1] = v.y;
        }
    } else if constexpr (ALIGN >= 4) {
#pragma unroll
        for (int i = 0; i < N; i++) w[i] = From::template get<u32>(at + 4 * i);
    } else {
        // Whole words around them, moved into place.
        const u32 beyond = u32(reinterpret_cast<u64>(at) & 3), shift = beyond * 8;
        const u8* from = at - beyond;
        u32 low = From::template get<u32>(from);
#pragma unroll
        for (int i = 0; i < N; i++) {
            const u32 high = i + 1 < N || shift ? From::template get<u32>(from + 4 * i + 4) : 0;
            w[i] = __funnelshift_r(low, high, shift);
            low = high;
        }
    }
}

// Spans whose groups follow each other.
template <int SPAN_>
struct Consecutive {
    static constexpr bool PLAIN = false, PLANES = false;
    static constexpr int SPAN = SPAN_;
    DEVICE int offset(int s, int j) { return SPAN * s + 16 * j; }
    DEVICE void sums(const short* at, int s, int (&sum)[SPAN / 16]) {
#pragma unroll
        for (int i = 0; i < SPAN / 32; i++) {
            const u32 pair = reinterpret_cast<const u32*>(at)[SPAN / 32 * s + i];
            sum[2 * i] = short(pair);
            sum[2 * i + 1] = int(pair) >> 16;
        }
    }
};

// Bit i of the low four becomes bit 0 of byte i.
DEVICE u32 spread_bits(u32 bits) { return (bits & 15) * 0x00204081u & 0x01010101u; }

// The low nibbles of four words, then their high ones.
DEVICE void nibbles(const u32* packed, u32* low, u32* high) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        low[i] = packed[i] & 0x0f0f0f0f;
        high[i] = packed[i] >> 4 & 0x0f0f0f0f;
    }
}

// Sixteen signed bytes, looked up by nibbles: of the eight nibbles of a word the low ones of its bytes, and the high ones.
struct Table16 {
    u32 t[4];
};
DEVICE u32 look_up_4(const Table16& table, u32 codes) {
    const u32 in_half = codes & 0x7777;
    const u32 first = __byte_perm(table.t[0], table.t[1], in_half), second = __byte_perm(table.t[2], table.t[3], in_half);
    // Byte i of the second where bit 3 of nibble i is set.
    return __byte_perm(first, second, 0x3210 | (codes & 0x8888) >> 1);
}
DEVICE void look_up(const Table16& table, u32 packed, u32& low, u32& high) {
    const u32 a = look_up_4(table, packed), b = look_up_4(table, packed >> 16);
    low = __byte_perm(a, b, 0x6420);
    high = __byte_perm(a, b, 0x7531);
}

// Four bytes less a bias, for bytes of seven bits.
template <int BIAS>
DEVICE u32 less_bias(u32 q) {
    return BIAS ? ((q | 0x80808080u) - BIAS * 0x01010101u) ^ 0x80808080u : q;
}
