//! Few activation rows against Q6_K, which the mixes of Q4_K and Q5_K have where it matters.
//!
//! A register holds 4 elements of each of the 16 sub-blocks, without their 32, which is taken from the sum of the activations
//! instead:
//!
//! ```text
//!   lane g of 16:  Σ over blocks of  d·scale_g · (Σ of 16 products of sub-block g − 32 · Σx) · dₓ
//! ```

use std::arch::x86_64::*;

use super::super::matvec::STEP;
use super::avx512::lanes;
use super::few::{A_OR_B_AND_C, Steps, Unpack};
use crate::act::SUM;

/// The format.
pub(super) struct Q6K;

/// Where high bits, scales and `d` begin, behind 128 bytes of low nibbles.
const HIGH: usize = 128;
/// See [`HIGH`].
const SCALES: usize = HIGH + 64;
/// See [`HIGH`].
const D: usize = SCALES + 16;

/// Constants of the products. Lane `8n + 2p + h` is of a sub-block in half `n` of the block, with the `p`-th bits of its bytes.
pub(super) struct Tables {
    /// Which four bytes of nibbles go into register `j`, and by how much they are shifted down.
    nibbles: [__m512i; 4],
    down: __m512i,
    /// The same of high bits, which are rotated upwards to bits 4 and 5.
    high: [__m512i; 4],
    up: __m512i,
}

impl Steps for Q6K {
    /// And `d`.
    const BYTES: usize = D + 2;
    const ACT: usize = STEP;

    /// Register `j` has elements `4j .. 4j + 4` of sub-blocks 0 to 15.
    fn fours(lane: i32) -> i32 {
        4 * (lane % 4) + lane / 4
    }

    /// Where the sums of products begin.
    fn sums(sums: &[i16; STEP / SUM]) -> [i32; 16] {
        sums.map(|sum| -32 * i32::from(sum))
    }
}

impl Unpack for Q6K {
    type Tables = Tables;

    #[inline(always)]
    fn tables() -> Tables {
        let (half, part, rest) = (|l: i32| l / 8, |l: i32| l / 2 % 4, |l: i32| l % 2);
        let nibbles = |j: i32| lanes(|l| 16 * half(l) + 8 * (part(l) % 2) + 4 * rest(l) + j);
        let high = |j: i32| lanes(|l| 8 * half(l) + 4 * rest(l) + j);
        Tables {
            nibbles: [nibbles(0), nibbles(1), nibbles(2), nibbles(3)],
            down: lanes(|l| part(l) / 2 * 4),
            high: [high(0), high(1), high(2), high(3)],
            up: lanes(|l| (4 - 2 * part(l)).rem_euclid(32)),
        }
    }

    #[inline(always)]
    unsafe fn unpack(tables: &Tables, w: *const u8) -> ([__m512i; 4], __m512) {
        // SAFETY: the caller's promise.
        unsafe { (elements(tables, w), scales(w)) }
    }
}

/// The elements of the block at `w`, 0 to 63, 4 of each sub-block in each register.
///
/// # Safety
/// The machine has AVX-512 F, and `w` is valid for reads of a block.
#[inline(always)]
unsafe fn elements(tables: &Tables, w: *const u8) -> [__m512i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let (low, more) = (_mm512_loadu_si512(w.cast()), _mm512_loadu_si512(w.add(64).cast()));
        let bits = _mm512_loadu_si512(w.add(HIGH).cast());
        std::array::from_fn(|j| {
            let nibbles = _mm512_permutex2var_epi32(low, tables.nibbles[j], more);
            let nibbles = _mm512_srlv_epi32(nibbles, tables.down);
            let high = _mm512_rolv_epi32(_mm512_permutexvar_epi32(tables.high[j], bits), tables.up);
            let high = _mm512_and_si512(high, _mm512_set1_epi8(0x30));
            _mm512_ternarylogic_epi32::<A_OR_B_AND_C>(high, nibbles, _mm512_set1_epi8(0x0f))
        })
    }
}

/// The scales of the block at `w`, times `d`.
///
/// # Safety
/// The machine has AVX-512 F and BW, and `w` is valid for reads of a block.
#[inline(always)]
unsafe fn scales(w: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        let scales = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(w.add(SCALES).cast())));
        let d = _mm512_cvtph_ps(_mm256_set1_epi16(w.add(D).cast::<i16>().read_unaligned()));
        _mm512_mul_ps(scales, d)
    }
}
