// What formats have in common whose codes are points of a grid: IQ1, IQ2, IQ3. A span is 32 elements.
#pragma once

#include "common.cuh"

struct Grid : Consecutive<32> {
    static constexpr int BLOCK = 256, ACT = 256;
    static constexpr bool HAS_MIN = false;
};

// Four magnitudes with signs: bit i makes number i negative. No magnitude is zero, so nothing is carried from byte to byte.
DEVICE u32 with_signs(u32 magnitudes, u32 signs) {
    const u32 ones = spread_bits(signs);
    return (magnitudes ^ (ones * 255)) + ones;
}
// The eighth sign of seven makes their number even.
DEVICE u32 even_signs(u32 code) {
    code &= 127;
    return code | u32(__popc(code) & 1) << 7;
}
// Eight magnitudes of a point.
DEVICE void eight(const u32* grid, u32 code, u32 signs, u32* q) {
    const uint2 point = __ldg(reinterpret_cast<const uint2*>(grid) + code);
    q[0] = with_signs(point.x, signs);
    q[1] = with_signs(point.y, signs >> 4);
}
