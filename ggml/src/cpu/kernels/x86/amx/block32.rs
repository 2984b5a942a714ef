//! Blocks of 32 elements with a scale each.

use std::arch::asm;
use std::arch::x86_64::*;

use super::super::super::gemm;
use super::super::super::matvec::{Args, STEP, Weights};
use super::super::super::simd::Simd;
use super::{Amx, Group, LINE, Panel, ROWS, Results, Sums, Sweep};
use crate::act::SUM;

/// A step of eight blocks of 32.
#[repr(C, align(64))]
pub(super) struct Panel32 {
    q: [u8; STEP * ROWS],
    /// Eight scales, eight minimums.
    factors: [[f32; ROWS]; STEP / SUM],
}

impl<W: Weights<Amx>> Panel<W> for Panel32 {
    const ELEMENTS: usize = 32;

    #[inline(always)]
    unsafe fn build(&mut self, s: Amx, w: W, args: &Args<'_>, first: usize, step: usize) {
        let mut q = [[0u8; STEP]; ROWS];
        // Eight scales, eight minimums.
        let mut factors = [[0f32; ROWS]; ROWS];
        // SAFETY: the rows exist; the arrays have the sizes of their types.
        unsafe {
            for r in 0..ROWS {
                let w = gemm::step_of_row(s, w, args, first + r, step);
                for part in 0..4 {
                    s.store_q(q[r].as_mut_ptr().add(64 * part), w.q[part]);
                }
                // Every second one: a block has two.
                let both = _mm512_shuffle_ps::<0b10_00_10_00>(w.scale, w.min);
                let both =
                    _mm512_permutexvar_pd(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), _mm512_castps_pd(both));
                s.store(factors[r].as_mut_ptr(), _mm512_castpd_ps(both));
            }
            for part in 0..4 {
                let q = q.as_ptr().cast::<u8>().add(64 * part);
                s.transpose(q, STEP, self.q.as_mut_ptr().add(64 * ROWS * part));
            }
            // Scales, then minimums, which follow them in the panel.
            s.transpose(factors.as_ptr().cast(), LINE, (&raw mut self.factors).cast());
        }
    }

    #[inline(always)]
    unsafe fn sweep(s: Amx, panels: &[Self; 2], sweep: &mut Sweep<'_>) {
        for unit in 0..sweep.units() {
            let group = sweep.group(unit);
            // SAFETY: tiles have the shape for the group; its results are within what the arguments promise.
            unsafe { panels[unit % 2].unit::<W>(s, &group, sweep.sums, sweep.results(unit)) };
        }
    }
}

impl Panel32 {
    /// All blocks, two at a time, of a group of activation rows.
    ///
    /// # Safety
    /// Tiles have the shape for 32 elements and the rows of the group. The results are valid for reads and writes.
    #[inline(always)]
    unsafe fn unit<W: Weights<Amx>>(&self, s: Amx, group: &Group, out: &mut [[Sums; 2]; 2], to: Results) {
        let mut total = [s.splat(0.0); ROWS];
        // Of each block twice, what minimums multiply.
        let mut sums = [[0f32; STEP / SUM]; ROWS];
        // SAFETY: 8 scales and 16 sums of each row of the group.
        unsafe {
            for t in 0..ROWS * usize::from(W::MIN) {
                let (d, from) = group.row(t);
                let both = s.to_f32(s.load_sums(from, true));
                s.store(sums[t].as_mut_ptr(), s.mul(both, s.load_dup8(d)));
            }
            self.multiply(group, 0, &mut out[0]);
            for pair in 0..STEP / 64 {
                if pair + 1 < STEP / 64 {
                    self.multiply(group, pair + 1, &mut out[(pair + 1) % 2]);
                }
                for half in 0..2 {
                    let block = 2 * pair + half;
                    let scale = s.load(self.factors[block].as_ptr());
                    let min = s.load(self.factors[STEP / 32 + block].as_ptr());
                    let dots = &out[pair % 2][half].0;
                    for t in 0..ROWS {
                        let d = s.splat(group.row(t).0.add(block).read());
                        let dot = s.to_f32(_mm512_load_si512(dots[t].as_ptr().cast()));
                        total[t] = s.fma(dot, s.mul(scale, d), total[t]);
                        if W::MIN {
                            total[t] = s.fma(min, s.splat(sums[t][2 * block]), total[t]);
                        }
                    }
                }
            }
            let mut to = to;
            for t in 0..group.n {
                to.update(s, |y| s.add(y, total[t]));
            }
        }
    }

    /// The sums of two blocks.
    ///
    /// # Safety
    /// Tiles have the shape for 32 elements and the rows of the group.
    #[inline(always)]
    unsafe fn multiply(&self, group: &Group, pair: usize, out: &mut [Sums; 2]) {
        // SAFETY: 32 bytes at each of two places of each row of the group; two blocks of a panel; two tiles of sums.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tileloadd tmm4, [{x} + {stride}]",
                "tileloadd tmm6, [{w} + {line}]",
                "tdpbssd tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{x} + {stride} + 32]",
                "tileloadd tmm7, [{w} + {line} + 512]",
                "tdpbssd tmm1, tmm5, tmm7",
                "tilestored [{out} + {line}], tmm0",
                "tilestored [{out} + {line} + 1024], tmm1",
                x = in(reg) group.qs.wrapping_add(64 * pair),
                stride = in(reg) group.qs_stride,
                w = in(reg) self.q.as_ptr().wrapping_add(64 * ROWS * pair),
                line = in(reg) LINE,
                out = in(reg) out.as_mut_ptr(),
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        }
    }
}
