//! Few activation rows against Q4_K, the format that most people run.
//!
//! A register holds 8 elements of each of the 8 sub-blocks. High nibbles are not shifted down but multiplied as sixteen times what they
//! are, and their scales are a sixteenth. What four rows of weights can share (decoding scales, the minimums) is done for
//! four rows at once.
//!
//! ```text
//!   lane 2g + h of 16:  Σ over blocks of  d·scale_g · (Σ of 16 products of sub-block g) · dₓ
//!   lane 4r + i of 16:  Σ over blocks of  dmin · (Σ over sub-blocks 2i, 2i + 1 of min · Σx) · dₓ     for row r of four
//! ```

use std::arch::x86_64::*;
use std::hint::black_box;

use super::super::matvec::{STEP, STREAMS};
use super::avx512::{Multiply, lanes};
use super::few::{A_OR_B_AND_C, Group, Products, Steps, eights};
use crate::act::SUM;

/// The format.
pub(super) struct Q4K;

/// Where the nibbles begin, behind `d` and `dmin` and 12 bytes of scales and minimums.
const NIBBLES: usize = 16;

/// What is read back by parts: memory repeats and widens bytes on the way to a register for nothing.
#[repr(C, align(64))]
struct Spread {
    /// For each row its eight scales, each twice.
    scales: [u8; 64],
    /// For each row `[d, d, d / 16, d / 16]`.
    d: [f32; 16],
}

/// Constants of the products.
struct Tables {
    /// Which eights of nibbles go into register `j`: those of two neighbouring sub-blocks are the same bytes.
    eights: [__m512i; 4],
    /// The low nibbles of even sub-blocks, the high ones of odd.
    nibbles: __m512i,
    /// The words of `d` and of `dmin`, four times each.
    d: __m512i,
    dmin: __m512i,
    /// A sixteenth for high nibbles.
    sixteenth: __m512,
}

impl Tables {
    #[inline(always)]
    fn new() -> Tables {
        let eights = |j: i32| lanes(|l| if l % 2 == 0 { 4 * (l / 4) + j } else { 0 });
        let words = |w: i32| lanes(|l| (8 * (l / 2 % 4) + w) * 0x1_0001);
        let sixteenth = lanes(|l| if l % 4 < 2 { 1f32 } else { 1.0 / 16.0 }.to_bits() as i32);
        Tables {
            eights: [eights(0), eights(1), eights(2), eights(3)],
            nibbles: lanes(|l| if l / 2 % 2 == 0 { 0x0f0f_0f0f } else { 0xf0f0_f0f0_u32 as i32 }),
            d: words(0),
            dmin: words(1),
            // SAFETY: the same bits.
            sixteenth: unsafe { std::mem::transmute::<__m512i, __m512>(sixteenth) },
        }
    }
}

impl Steps for Q4K {
    /// And 256 nibbles.
    const BYTES: usize = NIBBLES + STEP / 2;
    const ACT: usize = STEP;

    /// Register `j` has elements `8j .. 8j + 8` of sub-blocks 0 to 7.
    fn fours(lane: i32) -> i32 {
        eights(lane)
    }

    /// The sum of each sub-block, once for each of four rows of weights.
    fn sums(sums: &[i16; STEP / SUM]) -> [i32; 16] {
        let of_32: [i16; 8] = std::array::from_fn(|g| sums[2 * g] + sums[2 * g + 1]);
        bytemuck::cast([of_32; STREAMS])
    }
}

impl Products for Q4K {
    #[inline(always)]
    unsafe fn products<M: Multiply, const N: usize>(
        group: &Group<N>,
        fetch: impl Fn(usize),
    ) -> [[__m512; N]; STREAMS] {
        let tables = Tables::new();
        // SAFETY: the caller's promise.
        unsafe {
            let mut acc = [[_mm512_setzero_ps(); N]; STREAMS];
            let mut mins = [_mm512_setzero_ps(); N];
            for i in 0..group.steps {
                fetch(i);
                let w = group.w.map(|w| w.add(i * Self::BYTES));
                let x = group.x.map(|x| &*x.add(i));
                let dx = |n: usize| _mm512_load_ps(x[n].d.as_ptr());
                let mut spread = Spread { scales: [0; 64], d: [0.0; 16] };
                let (min, dmin) = headers(&tables, w, &mut spread);
                for n in 0..N {
                    let sums = _mm512_load_si512(x[n].sums.as_ptr().cast());
                    let sum = _mm512_cvtepi32_ps(_mm512_madd_epi16(min, sums));
                    mins[n] = _mm512_fnmadd_ps(_mm512_mul_ps(sum, dmin), dx(n), mins[n]);
                }
                // The compiler would take the bytes from the registers that they have been in, by more instructions.
                let spread: *const Spread = black_box(&raw const spread);
                for r in 0..STREAMS {
                    let scales = _mm_load_si128((&raw const (*spread).scales).cast::<__m128i>().add(r));
                    let d = _mm_load_ps((&raw const (*spread).d).cast::<f32>().add(4 * r));
                    let scales = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(scales));
                    let scale = _mm512_mul_ps(scales, _mm512_broadcast_f32x4(d));
                    let q = nibbles(&tables, w[r].add(NIBBLES));
                    for n in 0..N {
                        let mut dot = _mm512_setzero_si512();
                        for j in 0..4 {
                            dot = M::mac(dot, q[j], _mm512_load_si512(x[n].qs[j].as_ptr().cast()));
                        }
                        let t = _mm512_mul_ps(_mm512_cvtepi32_ps(dot), scale);
                        acc[r][n] = _mm512_fmadd_ps(t, dx(n), acc[r][n]);
                    }
                }
            }
            for r in 0..STREAMS {
                for n in 0..N {
                    // To the first lanes whichever row it is: bits must not depend on which rows are together.
                    let own = lanes(|l| 4 * r as i32 + l % 4);
                    acc[r][n] = _mm512_add_ps(acc[r][n], _mm512_maskz_permutexvar_ps(0xf, own, mins[n]));
                }
            }
            acc
        }
    }
}

/// The nibbles at `p`, 8 of each sub-block in each register, high ones sixteenfold.
///
/// # Safety
/// The machine has AVX-512 F, and `p` is valid for reads of 128 bytes.
#[inline(always)]
unsafe fn nibbles(tables: &Tables, p: *const u8) -> [__m512i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let (low, high) = (_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(64).cast()));
        tables.eights.map(|at| _mm512_and_si512(_mm512_permutex2var_epi64(low, at, high), tables.nibbles))
    }
}

/// Of four blocks the minimums as words, eight for each, and each `dmin` four times; scales and `d` go to `spread`.
///
/// # Safety
/// The machine has AVX-512 F, BW and DQ, and `w` are valid for reads of 16 bytes.
#[inline(always)]
unsafe fn headers(tables: &Tables, w: [*const u8; STREAMS], spread: &mut Spread) -> (__m512i, __m512) {
    // SAFETY: the caller's promise.
    unsafe {
        let header = |r: usize| _mm_loadu_si128(w[r].cast());
        let h = _mm512_castsi128_si512(header(0));
        let h = _mm512_inserti32x4::<1>(h, header(1));
        let h = _mm512_inserti32x4::<2>(h, header(2));
        let h = _mm512_inserti32x4::<3>(h, header(3));
        // With b[0..3] the three words behind d and dmin, four bytes each, a block's eight scales and then its minimums are
        //   b0 & 63,  b2 & 15 | b0 >> 2 & 48,  b1 & 63,  b2 >> 4 & 15 | b1 >> 2 & 48.
        let low = _mm512_srlv_epi32(_mm512_shuffle_epi32::<0b10_10_01_01>(h), lanes(|l| l % 2 * 2));
        let low = _mm512_and_si512(low, lanes(|l| if l % 2 == 0 { 0x3f3f_3f3f } else { 0x3030_3030 }));
        let high = _mm512_srlv_epi32(_mm512_shuffle_epi32::<0b11_11_11_11>(h), lanes(|l| l % 4 / 3 * 4));
        let odd = lanes(|l| if l % 2 == 0 { 0 } else { 0x0f0f_0f0f });
        let six = _mm512_ternarylogic_epi32::<A_OR_B_AND_C>(low, high, odd);
        _mm512_store_si512(spread.scales.as_mut_ptr().cast(), _mm512_unpacklo_epi8(six, six));
        let halves = |words| _mm512_cvtph_ps(_mm512_castsi512_si256(_mm512_permutexvar_epi16(words, h)));
        _mm512_store_ps(spread.d.as_mut_ptr(), _mm512_mul_ps(halves(tables.d), tables.sixteenth));
        (_mm512_unpackhi_epi8(six, _mm512_setzero_si512()), halves(tables.dmin))
    }
}
