// Half-precision and bfloat16 numbers with the roundings of the hardware, in integers: compilers differ in what they offer.
#pragma once

#include <cstdint>
#include <cstring>

namespace simt {

template <class To, class From>
inline To bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "other sizes");
    To y;
    memcpy(&y, &x, sizeof y);
    return y;
}

// Nearest, ties to even; NaNs become the canonical one, as the hardware's conversion does.
inline uint16_t half_from_float(float x) {
    const uint32_t u = bits<uint32_t>(x), sign = u >> 16 & 0x8000, magnitude = u & 0x7fffffff;
    if (magnitude > 0x7f800000) return 0x7fff;
    if (magnitude >= 0x477ff000) return uint16_t(sign | 0x7c00);  // 65520 and more round to infinity
    if (magnitude < 0x38800000) {
        // Subnormal: the sum with 0.5 leaves the bits of the half at the bottom, rounded by the addition.
        const float sum = bits<float>(magnitude) + 0.5f;
        return uint16_t(sign | (bits<uint32_t>(sum) - 0x3f000000));
    }
    const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return uint16_t(sign | (rounded - 0x38000000) >> 13);
}

inline float half_to_float(uint16_t h) {
    const uint32_t sign = uint32_t(h & 0x8000) << 16, magnitude = h & 0x7fff;
    if (magnitude >= 0x7c00) return bits<float>(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
    if (magnitude < 0x400) {
        const float y = float(magnitude) * 5.9604644775390625e-8f;  // 2^-24
        return sign ? -y : y;
    }
    return bits<float>(sign | ((magnitude << 13) + 0x38000000));
}

inline uint16_t bfloat_from_float(float x) {
    const uint32_t u = bits<uint32_t>(x);
    if ((u & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

inline float bfloat_to_float(uint16_t b) { return bits<float>(uint32_t(b) << 16); }

}  // namespace simt
