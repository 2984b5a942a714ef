// Plain numbers: F32, F16, BF16. load4 takes four of them, at an address that suits.
#pragma once

#include "common.cuh"

struct f32 {
    static constexpr bool PLAIN = true;
    static constexpr int BYTES = 4;
    DEVICE float load(const u8* at) { return __ldg(reinterpret_cast<const float*>(at)); }
    DEVICE float4 load4(const u8* at) { return __ldg(reinterpret_cast<const float4*>(at)); }
};

struct f16 {
    static constexpr bool PLAIN = true;
    static constexpr int BYTES = 2;
    DEVICE float load(const u8* at) { return half_to_float(__ldg(reinterpret_cast<const u16*>(at))); }
    DEVICE float4 load4(const u8* at) {
        const uint2 v = __ldg(reinterpret_cast<const uint2*>(at));
        return make_float4(half_to_float(u16(v.x)), half_to_float(u16(v.x >> 16)), half_to_float(u16(v.y)),
                           half_to_float(u16(v.y >> 16)));
    }
};

struct bf16 {
    static constexpr bool PLAIN = true;
    static constexpr int BYTES = 2;
    DEVICE float load(const u8* at) { return bfloat_to_float(__ldg(reinterpret_cast<const u16*>(at))); }
    DEVICE float4 load4(const u8* at) {
        const uint2 v = __ldg(reinterpret_cast<const uint2*>(at));
        return make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u), __uint_as_float(v.y << 16),
                           __uint_as_float(v.y & 0xffff0000u));
    }
};
