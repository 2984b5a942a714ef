//! Few activation rows against Q4_0, eight blocks of which are a step.
//!
//! A register holds 8 elements of each block, without their 8, which is taken from the sum of the activations instead:
//!
//! ```text
//!   lane 2g + h of 16:  Σ over steps of  d_g · (Σ of 16 products of block g, in one of the two lanes − 8 · Σx) · dₓ
//! ```

use std::arch::x86_64::*;

use super::super::matvec::STEP;
use super::avx512::lanes;
use super::few::{Steps, Unpack, eights};
use crate::act::SUM;

/// The format.
pub(super) struct Q40;

/// Bytes of a block: `d`, then 16 bytes with elements 0 to 15 in their low nibbles and 16 to 31 in their high ones.
const BLOCK: usize = 18;

impl Steps for Q40 {
    const BYTES: usize = BLOCK * STEP / 32;
    const ACT: usize = 32;

    /// Register `j` has elements `8j .. 8j + 8` of blocks 0 to 7.
    fn fours(lane: i32) -> i32 {
        eights(lane)
    }

    /// Where the sums of products begin: the first lane of a block has all.
    fn sums(sums: &[i16; STEP / SUM]) -> [i32; 16] {
        std::array::from_fn(
            |l| if l % 2 == 0 { -8 * (i32::from(sums[l]) + i32::from(sums[l + 1])) } else { 0 },
        )
    }
}

impl Unpack for Q40 {
    /// In which word of 64 the scale of each block is, twice.
    type Tables = __m512i;

    #[inline(always)]
    fn tables() -> __m512i {
        lanes(|l| BLOCK as i32 / 2 * (l % 8) * 0x1_0001)
    }

    #[inline(always)]
    unsafe fn unpack(words: &__m512i, w: *const u8) -> ([__m512i; 4], __m512) {
        // SAFETY: the caller's promise: eight blocks, whose scales are in their first 128 bytes.
        unsafe {
            let nibbles = |block: usize| _mm_loadu_si128(w.add(BLOCK * block + 2).cast());
            let every_second = |first: usize| {
                let v = _mm512_castsi128_si512(nibbles(first));
                let v = _mm512_inserti32x4::<1>(v, nibbles(first + 2));
                let v = _mm512_inserti32x4::<2>(v, nibbles(first + 4));
                _mm512_inserti32x4::<3>(v, nibbles(first + 6))
            };
            let (even, odd) = (every_second(0), every_second(1));
            let halves = [_mm512_unpacklo_epi64(even, odd), _mm512_unpackhi_epi64(even, odd)];
            let low = |v| _mm512_and_si512(v, _mm512_set1_epi8(0x0f));
            let q = [
                low(halves[0]),
                low(halves[1]),
                low(_mm512_srli_epi16::<4>(halves[0])),
                low(_mm512_srli_epi16::<4>(halves[1])),
            ];
            let (first, more) = (_mm512_loadu_si512(w.cast()), _mm512_loadu_si512(w.add(64).cast()));
            let d = _mm512_permutex2var_epi16(first, *words, more);
            (q, _mm512_cvtph_ps(_mm512_castsi512_si256(d)))
        }
    }
}
