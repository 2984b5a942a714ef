//! x86-64.

pub(super) mod amx;
pub(super) mod avx2;
pub(super) mod avx512;
mod few;
mod q4_0;
mod q4_k;
mod q6_k;

use std::arch::x86_64::*;

/// What all of these need.
fn detect_common() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("lzcnt")
}

/// Sum of 8 lanes: 8 → 4 → 2 → 1.
///
/// # Safety
/// The machine has AVX.
#[inline(always)]
unsafe fn sum8(v: __m256) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
    }
}
