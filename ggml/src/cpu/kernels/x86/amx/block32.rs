//! Blocks of 32 elements with a scale each.

use std::arch::asm;
use std::arch::x86_64::*;

use super::super::super::gemm;
use super::super::super::matvec::{Args, STEP, Weights};
use super::super::super::simd::Simd;
use super::{Ahead, Amx, Group, LINE, Panel, ROWS, Results, Sums, Sweep};
use crate::act::SUM;

/// Blocks of a step.
pub(super) const BLOCKS: usize = STEP / 32;

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
        for unit in (0..sweep.units()).step_by(2) {
            let group = sweep.group(unit);
            // SAFETY: tiles have the shape for the group; its results are within what the arguments promise.
            unsafe {
                let x = Side { at: group.qs.cast(), stride: group.qs_stride };
                let w = Side { at: panels.as_ptr().cast(), stride: size_of::<Self>() };
                multiply(x, w, 2, sweep.sums);
                for (v, panel) in panels.iter().enumerate() {
                    let ahead = sweep.ahead(unit + v);
                    panel.scale::<W>(s, &group, &sweep.sums[v], sweep.results(unit + v), ahead);
                }
            }
        }
    }
}

impl Panel32 {
    /// Scales the sums of all blocks and adds them to the results, a row of the group after the other: factors stay in registers.
    /// Meanwhile a half of what the next group needs comes nearer.
    ///
    /// # Safety
    /// The results are valid for reads and writes; 8 scales and 16 sums of each row of the group are.
    #[inline(always)]
    unsafe fn scale<W: Weights<Amx>>(
        &self,
        s: Amx,
        group: &Group,
        dots: &[Sums; BLOCKS],
        mut to: Results,
        mut ahead: Ahead,
    ) {
        // Of each block twice, what minimums multiply.
        let mut sums = [0f32; STEP / SUM];
        // SAFETY: rows of 16 numbers; the caller's promise.
        unsafe {
            let mut factors = [s.splat(0.0); 2 * BLOCKS];
            for (to, from) in factors.iter_mut().zip(&self.factors) {
                *to = s.load(from.as_ptr());
            }
            for t in 0..group.n {
                ahead.fetch_row();
                let (d, from) = group.row(t);
                if W::MIN {
                    let both = s.to_f32(s.load_sums(from, true));
                    s.store(sums.as_mut_ptr(), s.mul(both, s.load_dup8(d)));
                }
                let mut total = s.splat(0.0);
                for b in 0..BLOCKS {
                    let dot = s.to_f32(_mm512_load_si512(dots[b].0[t].as_ptr().cast()));
                    total = s.fma(dot, s.mul(factors[b], s.splat(d.add(b).read())), total);
                    if W::MIN {
                        total = s.fma(factors[BLOCKS + b], s.splat(sums[2 * b]), total);
                    }
                }
                to.update(s, |y| s.add(y, total));
            }
        }
    }
}

/// Where a side of a product lies, and the bytes from row to row, or from a panel to the other.
#[derive(Clone, Copy)]
pub(super) struct Side {
    pub at: *const u8,
    pub stride: usize,
}

/// A block times a panel. Into its tile of sums goes what `$store` has stored of before.
macro_rules! product {
    ($acc:literal, $x:literal, $tile:literal, $w:literal, $block:literal, $($store:literal)?) => {
        concat!(
            "tileloadd ", $tile, ", [", $w, " + {line} + 512*", $block, "]\n",
            $("tilestored [{out} + {line} + ", $store, "], ", $acc, "\n",)?
            "tilezero ", $acc, "\n",
            "tdpbssd ", $acc, ", ", $x, ", ", $tile,
        )
    };
}

/// A block of a group.
macro_rules! block {
    ($x:literal, $block:literal) => {
        concat!("tileloadd ", $x, ", [{x} + {stride} + 32*", $block, "]")
    };
}

/// The sums of all blocks of a group with one or two panels, `w`, whose blocks follow each other.
///
/// A tile is stored just before it is needed anew: stores then run beside three multiplications, while one right after its
/// multiplication waits for it, and so does what follows.
///
/// # Safety
/// Tiles have the shape for 32 elements and the rows of the group. A step of each row of the group and of the panels is valid for reads.
#[inline(always)]
pub(super) unsafe fn multiply(x: Side, w: Side, panels: usize, out: &mut [[Sums; BLOCKS]; 2]) {
    // SAFETY: the caller's promise; eight tiles of sums for each panel.
    unsafe {
        if panels == 2 {
            multiply_two(x, w, out);
        } else {
            multiply_one(x, w, &mut out[0]);
        }
    }
}

/// Two panels at once: a block of the group is loaded for both.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
unsafe fn multiply_two(x: Side, w: Side, out: &mut [[Sums; BLOCKS]; 2]) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            block!("tmm4", 0),
            product!("tmm0", "tmm4", "tmm6", "{w}", 0,),
            product!("tmm1", "tmm4", "tmm7", "{w2}", 0,),
            block!("tmm5", 1),
            product!("tmm2", "tmm5", "tmm6", "{w}", 1,),
            product!("tmm3", "tmm5", "tmm7", "{w2}", 1,),
            block!("tmm4", 2),
            product!("tmm0", "tmm4", "tmm6", "{w}", 2, "1024*0"),
            product!("tmm1", "tmm4", "tmm7", "{w2}", 2, "{second} + 1024*0"),
            block!("tmm5", 3),
            product!("tmm2", "tmm5", "tmm6", "{w}", 3, "1024*1"),
            product!("tmm3", "tmm5", "tmm7", "{w2}", 3, "{second} + 1024*1"),
            block!("tmm4", 4),
            product!("tmm0", "tmm4", "tmm6", "{w}", 4, "1024*2"),
            product!("tmm1", "tmm4", "tmm7", "{w2}", 4, "{second} + 1024*2"),
            block!("tmm5", 5),
            product!("tmm2", "tmm5", "tmm6", "{w}", 5, "1024*3"),
            product!("tmm3", "tmm5", "tmm7", "{w2}", 5, "{second} + 1024*3"),
            block!("tmm4", 6),
            product!("tmm0", "tmm4", "tmm6", "{w}", 6, "1024*4"),
            product!("tmm1", "tmm4", "tmm7", "{w2}", 6, "{second} + 1024*4"),
            block!("tmm5", 7),
            product!("tmm2", "tmm5", "tmm6", "{w}", 7, "1024*5"),
            product!("tmm3", "tmm5", "tmm7", "{w2}", 7, "{second} + 1024*5"),
            "tilestored [{out} + {line} + 1024*6], tmm0",
            "tilestored [{out} + {line} + {second} + 1024*6], tmm1",
            "tilestored [{out} + {line} + 1024*7], tmm2",
            "tilestored [{out} + {line} + {second} + 1024*7], tmm3",
            x = in(reg) x.at,
            stride = in(reg) x.stride,
            w = in(reg) w.at,
            line = in(reg) LINE,
            out = in(reg) out.as_mut_ptr(),
            second = const size_of::<[Sums; BLOCKS]>(),
            w2 = in(reg) w.at.wrapping_add(w.stride),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags),
        );
    }
}

/// One panel.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
unsafe fn multiply_one(x: Side, w: Side, out: &mut [Sums; BLOCKS]) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            block!("tmm4", 0),
            product!("tmm0", "tmm4", "tmm6", "{w}", 0,),
            block!("tmm5", 1),
            product!("tmm1", "tmm5", "tmm7", "{w}", 1,),
            block!("tmm4", 2),
            product!("tmm2", "tmm4", "tmm6", "{w}", 2,),
            block!("tmm5", 3),
            product!("tmm3", "tmm5", "tmm7", "{w}", 3,),
            block!("tmm4", 4),
            product!("tmm0", "tmm4", "tmm6", "{w}", 4, "1024*0"),
            block!("tmm5", 5),
            product!("tmm1", "tmm5", "tmm7", "{w}", 5, "1024*1"),
            block!("tmm4", 6),
            product!("tmm2", "tmm4", "tmm6", "{w}", 6, "1024*2"),
            block!("tmm5", 7),
            product!("tmm3", "tmm5", "tmm7", "{w}", 7, "1024*3"),
            "tilestored [{out} + {line} + 1024*4], tmm0",
            "tilestored [{out} + {line} + 1024*5], tmm1",
            "tilestored [{out} + {line} + 1024*6], tmm2",
            "tilestored [{out} + {line} + 1024*7], tmm3",
            x = in(reg) x.at,
            stride = in(reg) x.stride,
            w = in(reg) w.at,
            line = in(reg) LINE,
            out = in(reg) out.as_mut_ptr(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags),
        );
    }
}
