//! Blocks of 32, the other way round, with the bits of [`super::super::block32`].

use std::arch::x86_64::*;

use super::super::super::super::gemm;
use super::super::super::super::matvec::{Args, Padded, STEP, Weights};
use super::super::super::super::simd::Simd;
use super::super::block32::{BLOCKS, Side, multiply};
use super::super::{Amx, Group, LINE, ROWS, Sums};
use super::{Results, SharedSums, Swapped};
use crate::act::SUM;

/// Activation rows that take this way: two groups, whose sums tiles compute at once.
pub(in super::super) const MOST: usize = 2 * ROWS;

/// A step of a group of activation rows, as columns.
#[repr(C, align(64))]
pub(in super::super) struct Columns32 {
    /// 64 × (16 activation rows × 4 neighbouring elements).
    q: [u8; STEP * ROWS],
    /// Eight scales, eight sums, which minimums multiply.
    factors: [[f32; ROWS]; 2 * BLOCKS],
}

/// A step of 16 rows of weights.
#[repr(C, align(64))]
pub(in super::super) struct Rows32 {
    q: [[u8; STEP]; ROWS],
    /// Of each block twice, as they are unpacked.
    scale: [[f32; STEP / SUM]; ROWS],
    min: [[f32; STEP / SUM]; ROWS],
}

impl<W: Weights<Amx>> Swapped<W> for Rows32 {
    type Columns = Columns32;

    const ELEMENTS: usize = 32;

    #[inline(always)]
    unsafe fn fill(columns: &mut Columns32, s: Amx, args: &Args<'_>, first: usize, step: usize) {
        let mut padded = [Padded::ZERO; ROWS];
        let group = match (step + 1) * STEP <= args.x.k {
            true => Group::new(args, first, step),
            false => Group::rest(args, first, &mut padded),
        };
        let mut rows = [[0i8; STEP]; ROWS];
        let mut factors = [[0f32; 2 * BLOCKS]; ROWS];
        // SAFETY: the rows of the group have a step, 8 scales and 16 sums; the arrays have the sizes of their types.
        unsafe {
            for t in 0..group.n {
                let from = group.qs.wrapping_add(t * group.qs_stride);
                from.copy_to_nonoverlapping(rows[t].as_mut_ptr(), STEP);
                let (d, sums) = group.row(t);
                d.copy_to_nonoverlapping(factors[t].as_mut_ptr(), BLOCKS);
                if W::MIN {
                    let both = s.mul(s.to_f32(s.load_sums(sums, true)), s.load_dup8(d));
                    let mut twice = [0f32; 2 * BLOCKS];
                    s.store(twice.as_mut_ptr(), both);
                    for b in 0..BLOCKS {
                        factors[t][BLOCKS + b] = twice[2 * b];
                    }
                }
            }
            for part in 0..4 {
                let q = rows.as_ptr().cast::<u8>().add(64 * part);
                s.transpose(q, STEP, columns.q.as_mut_ptr().add(64 * ROWS * part));
            }
            s.transpose(factors.as_ptr().cast(), LINE, columns.factors.as_mut_ptr().cast());
        }
    }

    #[inline(always)]
    unsafe fn build(&mut self, s: Amx, w: W, args: &Args<'_>, first: usize, step: usize) {
        // SAFETY: the rows exist; the arrays have the sizes of their types.
        unsafe {
            for r in 0..ROWS {
                let w = gemm::step_of_row(s, w, args, first + r, step);
                for part in 0..4 {
                    s.store_q(self.q[r].as_mut_ptr().add(64 * part), w.q[part]);
                }
                s.store(self.scale[r].as_mut_ptr(), w.scale);
                if W::MIN {
                    s.store(self.min[r].as_mut_ptr(), w.min);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn start(&self, _: &[Columns32], _: &mut SharedSums) {}

    #[inline(always)]
    unsafe fn finish(&self, s: Amx, columns: &[Columns32], sums: &mut SharedSums, results: &mut [Results]) {
        // SAFETY: the caller's promise; columns follow each other.
        unsafe {
            let x = Side { at: self.q.as_ptr().cast(), stride: STEP };
            let w = Side { at: columns[0].q.as_ptr(), stride: size_of::<Columns32>() };
            multiply(x, w, columns.len(), sums);
            for (columns, (sums, results)) in columns.iter().zip(sums.iter().zip(results)) {
                self.scale::<W>(s, columns, sums, results);
            }
        }
    }
}

impl Rows32 {
    /// Scales the sums of a group and adds them to its results. As in `block32`, but written again: in one function for both,
    /// prompts of Q8_0 were 4% slower.
    ///
    /// # Safety
    /// The machine has AVX-512.
    #[inline(always)]
    unsafe fn scale<W: Weights<Amx>>(
        &self,
        s: Amx,
        columns: &Columns32,
        dots: &[Sums; BLOCKS],
        results: &mut Results,
    ) {
        // SAFETY: arrays of 16 numbers of 32 bits.
        unsafe {
            let mut factors = [s.splat(0.0); 2 * BLOCKS];
            for (to, from) in factors.iter_mut().zip(&columns.factors) {
                *to = s.load(from.as_ptr());
            }
            for r in 0..ROWS {
                let mut total = s.splat(0.0);
                for b in 0..BLOCKS {
                    let dot = s.to_f32(_mm512_load_si512(dots[b].0[r].as_ptr().cast()));
                    total = s.fma(dot, s.mul(factors[b], s.splat(self.scale[r][2 * b])), total);
                    if W::MIN {
                        total = s.fma(factors[BLOCKS + b], s.splat(self.min[r][2 * b]), total);
                    }
                }
                let y = results.0[r].as_mut_ptr();
                s.store(y, s.add(s.load(y), total));
            }
        }
    }
}
