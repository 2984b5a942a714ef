//! Super-blocks: 256 elements whose scales are integers times a common number.

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::super::super::gemm;
use super::super::super::matvec::{Args, STEP, Weights};
use super::super::super::simd::Simd;
use super::block32::BLOCKS;
use super::{Ahead, Amx, Group, LINE, Panel, ROWS, Results, Sums, Sweep};
use crate::act::SUM;

/// A step of super-blocks with a scale per `SUB` elements, 16 or 32.
#[repr(C, align(64))]
pub(super) struct SuperPanel<const SUB: usize> {
    /// Low bytes of element times scale, unsigned.
    low: [u8; STEP * ROWS],
    /// High bytes, signed.
    high: [u8; STEP * ROWS],
    /// Minimums of two neighbouring sub-blocks.
    min: [[[i16; 2]; ROWS]; STEP / SUM / 2],
    d: [f32; ROWS],
    dmin: [f32; ROWS],
}

/// Row by row, before lanes become rows.
#[repr(align(64))]
struct Rows {
    q: [[u8; STEP]; ROWS],
    /// 16 scales, 16 minimums.
    codes: [[i16; 2 * STEP / SUM]; ROWS],
}

impl<W: Weights<Amx>, const SUB: usize> Panel<W> for SuperPanel<SUB> {
    const ELEMENTS: usize = 64;

    #[inline(always)]
    unsafe fn build(&mut self, s: Amx, w: W, args: &Args<'_>, first: usize, step: usize) {
        let mut rows = MaybeUninit::<Rows>::uninit();
        let rows = rows.as_mut_ptr();
        // SAFETY: the rows exist; the arrays have the sizes of their types.
        unsafe {
            for r in 0..ROWS {
                let w = gemm::step_of_row(s, w, args, first + r, step);
                for part in 0..4 {
                    s.store_q((&raw mut (*rows).q).cast::<u8>().add(STEP * r + 64 * part), w.q[part]);
                }
                let codes = (&raw mut (*rows).codes).cast::<[i16; 32]>().add(r);
                let (scale, min) = (_mm512_cvtps_epi32(w.scale), _mm512_cvtps_epi32(w.min));
                // A sub-block of 32 has two lanes.
                let min = if SUB == 32 {
                    _mm256_castsi128_si256(_mm512_cvtepi64_epi16(min))
                } else {
                    _mm512_cvtepi32_epi16(min)
                };
                let scale = _mm512_castsi256_si512(_mm512_cvtepi32_epi16(scale));
                _mm512_store_si512(codes.cast(), _mm512_inserti64x4::<1>(scale, min));
                self.d[r] = _mm512_cvtss_f32(w.d);
                self.dmin[r] = _mm512_cvtss_f32(w.dmin);
            }
            let mut codes = [[[0i16; 2]; ROWS]; STEP / SUM];
            s.transpose((&raw const (*rows).codes).cast(), LINE, codes.as_mut_ptr().cast());
            self.min.copy_from_slice(&codes[STEP / SUM / 2..]);
            for part in 0..4 {
                let q = (&raw const (*rows).q).cast::<u8>().add(64 * part);
                s.transpose(q, STEP, self.low.as_mut_ptr().add(64 * ROWS * part));
            }
            self.multiply_scales(W::MIN, &codes);
        }
    }

    #[inline(always)]
    unsafe fn sweep(s: Amx, panels: &[Self; 2], sweep: &mut Sweep<'_>) {
        let mut before: Option<Group> = None;
        for unit in 0..=sweep.units() {
            let group = (unit < sweep.units()).then(|| sweep.group(unit));
            // SAFETY: tiles have the shape for the group, and the group before has been multiplied.
            unsafe {
                if let Some(group) = &group {
                    if W::MIN && SUB == 32 && unit % 2 == 0 {
                        group.add_pairs(&mut sweep.pairs[unit / 2 % 2]);
                    }
                    panels[unit % 2].multiply(group, &mut sweep.sums[unit % 2]);
                }
                if let Some(before) = &before {
                    let at = unit - 1;
                    let sums = match SUB {
                        32 => (sweep.pairs[at / 2 % 2].as_ptr().cast(), size_of::<[i32; 4]>()),
                        _ => (before.sums.cast(), before.sums_stride * size_of::<i16>()),
                    };
                    let ahead = sweep.ahead(unit.min(sweep.units() - 1));
                    panels[at % 2].finish::<W>(
                        s,
                        before,
                        &sweep.sums[at % 2],
                        sums,
                        sweep.results(at),
                        ahead,
                    );
                }
            }
            before = group;
        }
    }
}

impl<const SUB: usize> SuperPanel<SUB> {
    /// Low and high sums of a group of activation rows.
    ///
    /// # Safety
    /// Tiles have the shape for 64 elements and the rows of the group.
    #[inline(always)]
    unsafe fn multiply(&self, group: &Group, out: &mut [Sums; BLOCKS]) {
        // SAFETY: 64 bytes at each of four places of each row of the group; a panel; two tiles of sums.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tileloadd tmm4, [{x} + {stride}]",
                "tileloadd tmm6, [{w} + {line}]",
                "tdpbsud tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w} + {line} + {high}]",
                "tdpbssd tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{x} + {stride} + 64]",
                "tileloadd tmm6, [{w} + {line} + 1024]",
                "tdpbsud tmm0, tmm5, tmm6",
                "tileloadd tmm7, [{w} + {line} + {high} + 1024]",
                "tdpbssd tmm1, tmm5, tmm7",
                "tileloadd tmm4, [{x} + {stride} + 128]",
                "tileloadd tmm6, [{w} + {line} + 2048]",
                "tdpbsud tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w} + {line} + {high} + 2048]",
                "tdpbssd tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{x} + {stride} + 192]",
                "tileloadd tmm6, [{w} + {line} + 3072]",
                "tdpbsud tmm0, tmm5, tmm6",
                "tileloadd tmm7, [{w} + {line} + {high} + 3072]",
                "tdpbssd tmm1, tmm5, tmm7",
                "tilestored [{out} + {line}], tmm0",
                "tilestored [{out} + {line} + 1024], tmm1",
                x = in(reg) group.qs,
                stride = in(reg) group.qs_stride,
                w = in(reg) &raw const self.low,
                line = in(reg) LINE,
                out = in(reg) out.as_mut_ptr(),
                high = const STEP * ROWS,
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        }
    }

    /// Scales the sums and adds them to the results. `sums` are those of two neighbouring sub-blocks of the activations, and
    /// the bytes from row to row.
    ///
    /// # Safety
    /// The results are valid for reads and writes; there are sums of all sub-blocks of each row.
    #[inline(always)]
    unsafe fn finish<W: Weights<Amx>>(
        &self,
        s: Amx,
        group: &Group,
        [Sums(low), Sums(high), ..]: &[Sums; BLOCKS],
        (mut sums, sums_stride): (*const i32, usize),
        mut to: Results,
        mut ahead: Ahead,
    ) {
        // SAFETY: arrays of 16 numbers of 32 bits; 16 sums of each row of the group.
        unsafe {
            let (d, dmin) = (s.load(self.d.as_ptr()), s.load(self.dmin.as_ptr()));
            let mut min = [_mm512_setzero_si512(); STEP / 16 / 2];
            for (to, from) in min.iter_mut().zip(&self.min) {
                *to = _mm512_load_si512(from.as_ptr().cast());
            }
            let mut dx = group.d;
            for t in 0..group.n {
                ahead.fetch_row();
                let low = _mm512_load_si512(low[t].as_ptr().cast());
                let high = _mm512_load_si512(high[t].as_ptr().cast());
                let sum = _mm512_add_epi32(low, _mm512_slli_epi32::<8>(high));
                let mut total = s.mul(s.to_f32(sum), d);
                if W::MIN {
                    let pair = |j: usize| _mm512_set1_epi32(sums.add(j).read_unaligned());
                    let mut mins = [_mm512_setzero_si512(); 2];
                    for j in 0..STEP / SUB / 2 {
                        mins[j % 2] = _mm512_dpwssd_epi32(mins[j % 2], min[j], pair(j));
                    }
                    let mins = _mm512_add_epi32(mins[0], mins[1]);
                    total = s.fma(s.to_f32(mins), dmin, total);
                }
                to.update(s, |y| s.fma(total, s.splat(dx.read()), y));
                (dx, sums) = (dx.wrapping_add(group.d_stride), sums.wrapping_byte_add(sums_stride));
            }
        }
    }

    /// Turns the elements in `low` into the bytes of their products with the scales, two of which a word of the first half of
    /// `codes` holds.
    ///
    /// # Safety
    /// The machine has AVX-512.
    #[inline(always)]
    unsafe fn multiply_scales(&mut self, is_unsigned: bool, codes: &[[[i16; 2]; ROWS]; STEP / SUM]) {
        // SAFETY: vectors within the panel: those of a sub-block follow each other.
        unsafe {
            for sub in 0..STEP / SUM {
                let pair = _mm512_loadu_si512(codes[sub / 2].as_ptr().cast());
                let one = if sub % 2 == 0 { _mm512_slli_epi32::<16>(pair) } else { pair };
                // The scale of the row in both words of its lane.
                let one = _mm512_srai_epi32::<16>(one);
                let scale = _mm512_mask_blend_epi16(0xaaaa_aaaa, one, _mm512_slli_epi32::<16>(one));
                for i in SUM / 4 * sub..SUM / 4 * (sub + 1) {
                    let low = self.low.as_mut_ptr().add(LINE * i);
                    let (lows, highs) = products(is_unsigned, _mm512_load_si512(low.cast()), scale);
                    _mm512_store_si512(low.cast(), lows);
                    _mm512_store_si512(self.high.as_mut_ptr().add(LINE * i).cast(), highs);
                }
            }
        }
    }
}

/// The low and the high bytes of elements times scales. A word of `scale` is that of two elements; if they are unsigned,
/// both are within 0..=127.
///
/// # Safety
/// The machine has AVX-512.
#[inline(always)]
pub(super) unsafe fn products(is_unsigned: bool, q: __m512i, scale: __m512i) -> (__m512i, __m512i) {
    const ODD: __mmask64 = 0xaaaa_aaaa_aaaa_aaaa;
    // SAFETY: the caller's promise.
    unsafe {
        let (even, odd) = if is_unsigned {
            // One of the two products that are added is with zero.
            (_mm512_maddubs_epi16(q, scale), _mm512_maddubs_epi16(q, _mm512_slli_epi16::<8>(scale)))
        } else {
            let even = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(q));
            (_mm512_mullo_epi16(even, scale), _mm512_mullo_epi16(_mm512_srai_epi16::<8>(q), scale))
        };
        let low = _mm512_mask_blend_epi8(ODD, even, _mm512_slli_epi16::<8>(odd));
        (low, _mm512_mask_blend_epi8(ODD, _mm512_srli_epi16::<8>(even), odd))
    }
}
