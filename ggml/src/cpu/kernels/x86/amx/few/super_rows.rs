//! Super-blocks, the other way round. The same numbers are multiplied and added in the same order as with
//! [`super::super::super_block`], so results have the same bits.

use std::arch::asm;
use std::arch::x86_64::*;

use super::super::super::super::gemm;
use super::super::super::super::matvec::{Args, STEP, Weights};
use super::super::super::super::simd::Simd;
use super::super::super_block::products;
use super::super::{Amx, Group, LINE, ROWS, Sums};
use super::{Results, SharedSums, Swapped};
use crate::act::SUM;

/// A step of a group of activation rows, as columns.
#[repr(align(64))]
pub(in super::super) struct Columns {
    /// 64 × (16 activation rows × 4 neighbouring elements).
    q: [u8; STEP * ROWS],
    /// Sums over two neighbouring sub-blocks.
    sums: [[[i16; 2]; ROWS]; STEP / SUM / 2],
    d: [f32; ROWS],
}

impl Columns {
    /// Activation rows from `first` on, zeros where there are fewer.
    ///
    /// # Safety
    /// `first` is a row, `step` a whole step of it.
    #[inline(always)]
    unsafe fn fill<const SUB: usize>(&mut self, s: Amx, args: &Args<'_>, first: usize, step: usize) {
        let group = Group::new(args, first, step);
        let mut rows = [[0i8; STEP]; ROWS];
        let mut pairs = [[0i32; ROWS]; ROWS];
        // SAFETY: the rows of the group have a step, a scale of it and 16 sums; the arrays have the sizes of their types.
        unsafe {
            for t in 0..group.n {
                let from = group.qs.wrapping_add(t * group.qs_stride);
                from.copy_to_nonoverlapping(rows[t].as_mut_ptr(), STEP);
                let (d, sums) = group.row(t);
                self.d[t] = d.read();
                if SUB == 16 {
                    sums.copy_to_nonoverlapping(pairs[t].as_mut_ptr().cast(), STEP / SUM);
                }
            }
            if SUB == 32 {
                let mut words = [[0i32; 4]; ROWS];
                group.add_pairs(&mut words);
                for t in 0..group.n {
                    pairs[t][..4].copy_from_slice(&words[t]);
                }
            }
            for part in 0..4 {
                let q = rows.as_ptr().cast::<u8>().add(64 * part);
                s.transpose(q, STEP, self.q.as_mut_ptr().add(64 * ROWS * part));
            }
            let mut columns = [[[0i16; 2]; ROWS]; ROWS];
            s.transpose(pairs.as_ptr().cast(), LINE, columns.as_mut_ptr().cast());
            self.sums.copy_from_slice(&columns[..STEP / SUM / 2]);
        }
    }
}

/// A step of 16 rows of weights.
#[repr(align(64))]
pub(in super::super) struct Rows<const SUB: usize> {
    /// Low bytes of element times scale, unsigned.
    low: [[u8; STEP]; ROWS],
    /// High bytes, signed.
    high: [[u8; STEP]; ROWS],
    /// Minimums of two neighbouring sub-blocks.
    min: [[[i16; 2]; STEP / SUM / 2]; ROWS],
    d: [f32; ROWS],
    dmin: [f32; ROWS],
}

impl<W: Weights<Amx>, const SUB: usize> Swapped<W> for Rows<SUB> {
    type Columns = Columns;

    const ELEMENTS: usize = 64;

    #[inline(always)]
    unsafe fn fill(columns: &mut Columns, s: Amx, args: &Args<'_>, first: usize, step: usize) {
        // SAFETY: the caller's promise.
        unsafe { columns.fill::<SUB>(s, args, first, step) };
    }

    #[inline(always)]
    unsafe fn build(&mut self, s: Amx, w: W, args: &Args<'_>, first: usize, step: usize) {
        // SAFETY: the rows exist; the arrays have the sizes of their types.
        unsafe {
            for r in 0..ROWS {
                let w = gemm::step_of_row(s, w, args, first + r, step);
                let scales = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(w.scale));
                for part in 0..4 {
                    // Word i is of the elements 2i and 2i + 1 of the part.
                    let scale = spread(scales, part);
                    let (low, high) = products(W::MIN, w.q[part], scale);
                    _mm512_store_si512(self.low[r].as_mut_ptr().add(64 * part).cast(), low);
                    _mm512_store_si512(self.high[r].as_mut_ptr().add(64 * part).cast(), high);
                }
                if W::MIN {
                    let min = _mm512_cvtps_epi32(w.min);
                    let to = self.min[r].as_mut_ptr();
                    // A sub-block of 32 has two lanes.
                    match SUB {
                        32 => _mm_storeu_si128(to.cast(), _mm512_cvtepi64_epi16(min)),
                        _ => _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(min)),
                    }
                    self.dmin[r] = _mm512_cvtss_f32(w.dmin);
                }
                self.d[r] = _mm512_cvtss_f32(w.d);
            }
        }
    }

    #[inline(always)]
    unsafe fn start(&self, columns: &[Columns], sums: &mut SharedSums) {
        for (columns, sums) in columns.iter().zip(sums.as_flattened_mut().chunks_exact_mut(2)) {
            // SAFETY: the caller's promise.
            unsafe { self.multiply(columns, sums) };
        }
    }

    #[inline(always)]
    unsafe fn finish(&self, s: Amx, columns: &[Columns], sums: &mut SharedSums, results: &mut [Results]) {
        for (g, columns) in columns.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { self.scale::<W>(s, columns, &sums.as_flattened()[2 * g..2 * g + 2], &mut results[g]) };
        }
    }
}

impl<const SUB: usize> Rows<SUB> {
    /// Low and high sums for a group of activation rows.
    ///
    /// # Safety
    /// Tiles have the shape for 64 elements and 16 rows.
    #[inline(always)]
    unsafe fn multiply(&self, columns: &Columns, out: &mut [Sums]) {
        // SAFETY: 64 bytes at each of four places of 16 rows of weights, twice; columns; two tiles of sums.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tileloadd tmm6, [{x} + {line}]",
                "tileloadd tmm4, [{w} + {row}]",
                "tdpbusd tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{w} + {row} + {high}]",
                "tdpbssd tmm1, tmm5, tmm6",
                "tileloadd tmm7, [{x} + {line} + 1024]",
                "tileloadd tmm4, [{w} + {row} + 64]",
                "tdpbusd tmm0, tmm4, tmm7",
                "tileloadd tmm5, [{w} + {row} + {high} + 64]",
                "tdpbssd tmm1, tmm5, tmm7",
                "tileloadd tmm6, [{x} + {line} + 2048]",
                "tileloadd tmm4, [{w} + {row} + 128]",
                "tdpbusd tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{w} + {row} + {high} + 128]",
                "tdpbssd tmm1, tmm5, tmm6",
                "tileloadd tmm7, [{x} + {line} + 3072]",
                "tileloadd tmm4, [{w} + {row} + 192]",
                "tdpbusd tmm0, tmm4, tmm7",
                "tileloadd tmm5, [{w} + {row} + {high} + 192]",
                "tdpbssd tmm1, tmm5, tmm7",
                "tilestored [{out} + {line}], tmm0",
                "tilestored [{out} + {line} + 1024], tmm1",
                x = in(reg) columns.q.as_ptr(),
                w = in(reg) self.low.as_ptr(),
                row = in(reg) STEP,
                line = in(reg) LINE,
                out = in(reg) out.as_mut_ptr(),
                high = const STEP * ROWS,
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        }
    }

    /// Scales the sums and adds them to the results.
    ///
    /// # Safety
    /// The machine has AVX-512 with VNNI.
    #[inline(always)]
    unsafe fn scale<W: Weights<Amx>>(&self, s: Amx, columns: &Columns, sums: &[Sums], results: &mut Results) {
        let (Sums(low), Sums(high)) = (&sums[0], &sums[1]);
        // SAFETY: arrays of 16 numbers of 32 bits.
        unsafe {
            let dx = s.load(columns.d.as_ptr());
            let mut sums = [_mm512_setzero_si512(); STEP / SUM / 2];
            for j in 0..STEP / SUB / 2 * usize::from(W::MIN) {
                sums[j] = _mm512_load_si512(columns.sums[j].as_ptr().cast());
            }
            for r in 0..ROWS {
                let low = _mm512_load_si512(low[r].as_ptr().cast());
                let high = _mm512_load_si512(high[r].as_ptr().cast());
                let sum = _mm512_add_epi32(low, _mm512_slli_epi32::<8>(high));
                let mut total = s.mul(s.to_f32(sum), s.splat(self.d[r]));
                if W::MIN {
                    let pairs = self.min[r].as_ptr().cast::<i32>();
                    let mut mins = [_mm512_setzero_si512(); 2];
                    for j in 0..STEP / SUB / 2 {
                        let pair = _mm512_set1_epi32(pairs.add(j).read_unaligned());
                        mins[j % 2] = _mm512_dpwssd_epi32(mins[j % 2], sums[j], pair);
                    }
                    let mins = s.to_f32(_mm512_add_epi32(mins[0], mins[1]));
                    total = s.fma(mins, s.splat(self.dmin[r]), total);
                }
                let y = results.0[r].as_mut_ptr();
                s.store(y, s.fma(total, dx, s.load(y)));
            }
        }
    }
}

/// Of 16 scales, those of a part of 64 elements, eight times each.
#[inline(always)]
unsafe fn spread(scales: __m256i, part: usize) -> __m512i {
    // SAFETY: the machine has AVX-512.
    unsafe {
        let of_word = _mm512_srli_epi16::<3>(_mm512_set_epi16(
            31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7,
            6, 5, 4, 3, 2, 1, 0,
        ));
        let at = _mm512_add_epi16(of_word, _mm512_set1_epi16(4 * part as i16));
        _mm512_permutexvar_epi16(at, _mm512_castsi256_si512(scales))
    }
}
