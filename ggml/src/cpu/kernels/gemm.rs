//! Many activation rows against quantized weights: a prompt.
//!
//! Weights are unpacked once for all activation rows. 256 elements of 16 rows become a [`Panel`], a few
//! kilobytes in the first-level cache:
//!
//! ```text
//!   q      64 × (16 rows × 4 neighbouring elements): one instruction multiplies 4 elements of an
//!          activation row, broadcast, with those of 16 weight rows, and adds them to 16 sums
//!   scale  16 × 16 rows: a scale per 16 elements and row
//!   min    the same
//! ```
//!
//! A lane is a row of weights, so nothing is ever added across lanes. Integer sums stay in registers for
//! a sub-block (16 or 32 elements), where they are exact; then they are scaled and added to the step's
//! sum in f32, and that to `y`. A result depends on its weight row and activation row only, not on how
//! either is tiled. Its error is at most `(k / 256 + 36) · ε · T`, with `T` as in
//! [`super::matvec`]: a step adds at most 32 numbers.
//!
//! Where the instruction takes unsigned bytes times signed ones ([`Simd::BIASED`]), a panel of signed
//! integers holds them plus 128, and the sums start at −128 · Σ x. No step saturates.

use std::mem::MaybeUninit;

use super::matvec::{Args, Padded, STEP, Step, Weights};
use super::simd::{Kernel, Simd};
use crate::act::SUM;

/// Rows of a panel.
const ROWS: usize = 16;

/// Activation rows that share an unpacking.
const TOKENS: usize = 256;
/// Bytes of activations that should stay in the second-level cache.
const CACHED: usize = 1 << 18;

/// 256 elements of 16 rows.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Panel {
    q: [u8; STEP * ROWS],
    scale: [f32; STEP / SUM * ROWS],
    min: [f32; STEP / SUM * ROWS],
}

impl Panel {
    const ZERO: Panel =
        Panel { q: [0; STEP * ROWS], scale: [0.0; STEP / SUM * ROWS], min: [0.0; STEP / SUM * ROWS] };
}

/// The product, any number of activation rows.
pub(super) fn gemm<S: Simd, W: Weights<S>>(s: S, w: W, sub: usize, args: &Args<'_>) {
    if S::WIDE { tiles::<S, W, 2>(s, w, sub, args) } else { tiles::<S, W, 1>(s, w, sub, args) }
}

/// The product in tiles of `V` panels.
fn tiles<S: Simd, W: Weights<S>, const V: usize>(s: S, w: W, sub: usize, args: &Args<'_>) {
    let mut panels = [Panel::ZERO; V];
    walk(args, TOKENS, V * ROWS, |args, row, step| {
        for (v, panel) in panels.iter_mut().enumerate() {
            let first = row + v * ROWS;
            if first < args.n_w {
                s.vectorize(Build { w, args, first, step, panel });
            }
        }
        sweep::<S, W, V>(s, sub, Tile { args, panels: &panels, row, step });
    });
}

/// Calls `f` for every tile of `n` rows of weights and every step, the steps of a row in order: with the activation
/// rows, at most `tokens`, the first row of weights and the step. As many steps follow each other as the second-level cache
/// holds activations for.
pub(super) fn walk<'a>(args: &Args<'a>, tokens: usize, n: usize, mut f: impl FnMut(&Args<'a>, usize, usize)) {
    let steps = args.x.k.div_ceil(STEP);
    for first in (0..args.x.rows).step_by(tokens) {
        let args = Args {
            x: args.x.slice(first, tokens.min(args.x.rows - first)),
            y: args.y.wrapping_add(first * args.y_stride),
            ..*args
        };
        let pass = (CACHED / STEP / args.x.rows).max(1);
        for begin in (0..steps).step_by(pass) {
            for row in (0..args.n_w).step_by(n) {
                for step in begin..steps.min(begin + pass) {
                    f(&args, row, step);
                }
            }
        }
    }
}

/// One step of a tile, with the constants that fit the format.
fn sweep<S: Simd, W: Weights<S>, const V: usize>(s: S, sub: usize, tile: Tile<'_, V>) {
    match (sub, W::MIN, W::ACT) {
        (16, false, 32) => s.vectorize(Sweep::<V, 16, false, 32>(tile)),
        (16, false, _) => s.vectorize(Sweep::<V, 16, false, 256>(tile)),
        (16, true, _) => s.vectorize(Sweep::<V, 16, true, 256>(tile)),
        (_, false, 32) => s.vectorize(Sweep::<V, 32, false, 32>(tile)),
        (_, false, _) => s.vectorize(Sweep::<V, 32, false, 256>(tile)),
        (_, true, 32) => s.vectorize(Sweep::<V, 32, true, 32>(tile)),
        (_, true, _) => s.vectorize(Sweep::<V, 32, true, 256>(tile)),
    }
}

/// Unpacks one step of 16 rows, the last one again where there are fewer.
struct Build<'a, W> {
    w: W,
    args: &'a Args<'a>,
    first: usize,
    step: usize,
    panel: &'a mut Panel,
}

/// Row by row, before lanes become rows.
#[repr(align(64))]
struct Rows {
    q: [[u8; STEP]; ROWS],
    scale: [[f32; STEP / SUM]; ROWS],
    min: [[f32; STEP / SUM]; ROWS],
}

impl<S: Simd, W: Weights<S>> Kernel<S> for Build<'_, W> {
    #[inline(always)]
    fn run(self, s: S) {
        let a = self.args;
        let mut rows = Rows { q: [[0; STEP]; ROWS], scale: [[0.0; 16]; ROWS], min: [[0.0; 16]; ROWS] };
        // SAFETY: the rows exist; the arrays have the sizes of their types.
        unsafe {
            for r in 0..ROWS {
                let w = step_of_row(s, self.w, a, self.first + r, self.step);
                for part in 0..4 {
                    let q = if S::BIASED && !W::MIN { s.xor(w.q[part], 0x80) } else { w.q[part] };
                    s.store_q(rows.q[r].as_mut_ptr().add(64 * part), q);
                }
                s.store(rows.scale[r].as_mut_ptr(), w.scales::<W>(s));
                if W::MIN {
                    s.store(rows.min[r].as_mut_ptr(), w.mins::<W>(s));
                }
            }
            for part in 0..4 {
                let q = rows.q.as_ptr().cast::<u8>().add(64 * part);
                s.transpose(q, STEP, self.panel.q.as_mut_ptr().add(64 * ROWS * part));
            }
            s.transpose(rows.scale.as_ptr().cast(), 64, self.panel.scale.as_mut_ptr().cast());
            if W::MIN {
                s.transpose(rows.min.as_ptr().cast(), 64, self.panel.min.as_mut_ptr().cast());
            }
        }
    }
}

/// A step of a row of weights, of the last one if there is no such row. Asks for the row's next step, which the machine does not
/// foresee between 16 streams.
///
/// # Safety
/// `args` has rows of weights, and `step` is one of theirs.
#[inline(always)]
pub(super) unsafe fn step_of_row<S: Simd, W: Weights<S>>(
    s: S,
    w: W,
    args: &Args<'_>,
    row: usize,
    step: usize,
) -> Step<S> {
    let bytes = w.step_bytes();
    let p = args.w.wrapping_add(row.min(args.n_w - 1) * args.row_bytes + step * bytes);
    for line in 0..bytes.div_ceil(64) {
        s.prefetch(p.wrapping_add(bytes + 64 * line));
    }
    // SAFETY: the caller's promise.
    unsafe { w.step(s, p, STEP.min(args.x.k - step * STEP)) }
}

/// One step of `V` panels of rows from `row` on.
struct Tile<'a, const V: usize> {
    args: &'a Args<'a>,
    panels: &'a [Panel; V],
    row: usize,
    step: usize,
}

/// All activation rows against a tile. `SUB` elements share a scale, `ACT` of the activations.
struct Sweep<'a, const V: usize, const SUB: usize, const MIN: bool, const ACT: usize>(Tile<'a, V>);

impl<S: Simd, const V: usize, const SUB: usize, const MIN: bool, const ACT: usize> Kernel<S>
    for Sweep<'_, V, SUB, MIN, ACT>
{
    #[inline(always)]
    fn run(self, s: S) {
        let rows = self.0.args.x.rows;
        let mut t = 0;
        while t < rows {
            // SAFETY: whoever made `args` promised the rows and room for the results.
            t += unsafe {
                match (S::WIDE, rows - t) {
                    (true, 5..) => self.group::<S, 6>(s, t),
                    (true, _) => self.group::<S, 2>(s, t),
                    (false, 3..) => self.group::<S, 3>(s, t),
                    (false, _) => self.group::<S, 1>(s, t),
                }
            };
        }
    }
}

impl<const V: usize, const SUB: usize, const MIN: bool, const ACT: usize> Sweep<'_, V, SUB, MIN, ACT> {
    /// Activation rows `first..first + T`, as many of them as there are; gives `T`.
    ///
    /// # Safety
    /// The step and the results are within what the arguments promise.
    #[inline(always)]
    unsafe fn group<S: Simd, const T: usize>(&self, s: S, first: usize) -> usize {
        let Tile { args: a, panels, row, step } = self.0;
        let x = &a.x;
        let n = T.min(x.rows - first);
        let at = step * STEP;
        // Written only for the last step of rows that are no whole number of steps.
        let mut padded = MaybeUninit::<[Padded; T]>::uninit();
        let mut inputs = [Inputs { qs: x.qs.as_ptr(), d: x.d.as_ptr(), sums: x.sums.as_ptr() }; T];
        for t in 0..T {
            let token = first + t.min(n - 1);
            inputs[t] = if ACT < STEP && at + STEP > x.k {
                let p = padded.as_mut_ptr().cast::<Padded>().wrapping_add(t);
                // SAFETY: t < T.
                let p = unsafe {
                    p.write(Padded::last(x, token));
                    &*p
                };
                Inputs { qs: p.qs.as_ptr(), d: p.d.as_ptr(), sums: p.sums.as_ptr() }
            } else {
                inputs[t].offset(token * x.k + at, ACT)
            };
        }
        // The rows after these: lines that far apart are not foreseen.
        for t in 0..T {
            let next = x.qs.as_ptr().wrapping_add((first + T + t) * x.k + at);
            for line in 0..STEP / 64 {
                s.prefetch(next.wrapping_add(64 * line).cast());
            }
        }
        // SAFETY: the pointers lead to a step's activations; lanes that are stored are results.
        unsafe {
            let total = step_of::<S, V, SUB, MIN, ACT, T>(s, panels, &inputs);
            let y = a.y.add(first * a.y_stride + row);
            if n == T && row + V * ROWS <= a.n_w {
                for t in 0..T {
                    for v in 0..V {
                        let y = y.add(t * a.y_stride + v * ROWS);
                        let before = if step == 0 { s.splat(0.0) } else { s.load(y) };
                        s.store(y, add_step::<S, ACT>(s, before, total[t][v], inputs[t].d));
                    }
                }
            } else {
                for t in 0..n {
                    for v in 0..V {
                        let lanes = ROWS.min(a.n_w.saturating_sub(row + v * ROWS));
                        let y = y.wrapping_add(t * a.y_stride + v * ROWS);
                        let before = if step == 0 { s.splat(0.0) } else { s.load_first(y, lanes) };
                        s.store_first(y, lanes, add_step::<S, ACT>(s, before, total[t][v], inputs[t].d));
                    }
                }
            }
        }
        T
    }
}

/// `before` + a step's sum, times the activations' scale `d` if it is one for the whole step.
///
/// # Safety
/// `d` is valid for reads.
#[inline(always)]
unsafe fn add_step<S: Simd, const ACT: usize>(s: S, before: S::F, total: S::F, d: *const f32) -> S::F {
    if ACT == STEP {
        // SAFETY: the caller's promise.
        s.fma(total, s.splat(unsafe { d.read() }), before)
    } else {
        s.add(before, total)
    }
}

/// A step of an activation row: 256 bytes within ±127, 8 scales or 1, 16 sums.
#[derive(Clone, Copy)]
struct Inputs {
    qs: *const i8,
    d: *const f32,
    sums: *const i16,
}

impl Inputs {
    /// `n` elements further on, a multiple of `act`, which share a scale.
    #[inline(always)]
    fn offset(self, n: usize, act: usize) -> Inputs {
        Inputs {
            qs: self.qs.wrapping_add(n),
            d: self.d.wrapping_add(n / act),
            sums: self.sums.wrapping_add(n / SUM),
        }
    }
}

/// The sums of one step for `T` activation rows and `V` panels, without the activations' scale if it is
/// one for the whole step.
///
/// # Safety
/// `inputs` are valid for reads.
#[inline(always)]
unsafe fn step_of<
    S: Simd,
    const V: usize,
    const SUB: usize,
    const MIN: bool,
    const ACT: usize,
    const T: usize,
>(
    s: S,
    panels: &[Panel; V],
    inputs: &[Inputs; T],
) -> [[S::F; V]; T] {
    // Of each 16 activations, or each 32 twice: what minimums multiply (f32), or where biased sums start (i32).
    let mut sums = MaybeUninit::<[[u32; STEP / SUM]; T]>::uninit();
    let sums = sums.as_mut_ptr().cast::<[u32; STEP / SUM]>();
    // SAFETY: sub-blocks lie within the step; `sums` is written before it is read.
    unsafe {
        for t in 0..T {
            let v = s.load_sums(inputs[t].sums, SUB == 32);
            if MIN {
                let v = s.to_f32(v);
                let v = if ACT == STEP { v } else { s.mul(v, s.load_dup8(inputs[t].d)) };
                s.store(sums.add(t).cast(), v);
            } else if S::BIASED {
                s.store_i(sums.add(t).cast(), s.times_minus_128(v));
            }
        }
        let mut total = [[s.splat(0.0); V]; T];
        for sub in (0..STEP).step_by(SUB) {
            let mut acc = [[s.zero_i(); V]; T];
            if !MIN && S::BIASED {
                for t in 0..T {
                    acc[t] = [s.splat_i(sums.add(t).cast::<i32>().add(sub / SUM)); V];
                }
            }
            for at in (sub..sub + SUB).step_by(4) {
                let mut w = [s.zero_q(); V];
                for v in 0..V {
                    w[v] = s.load_q(panels[v].q.as_ptr().add(ROWS * at));
                }
                for t in 0..T {
                    let x = s.splat_q(inputs[t].qs.add(at));
                    for v in 0..V {
                        acc[t][v] = if MIN || S::BIASED {
                            s.mac_unsigned(acc[t][v], w[v], x)
                        } else {
                            s.mac_signed(acc[t][v], w[v], x)
                        };
                    }
                }
            }
            for v in 0..V {
                let scale = s.load(panels[v].scale.as_ptr().add(sub / SUM * ROWS));
                for t in 0..T {
                    let scale = match ACT {
                        STEP => scale,
                        _ => s.mul(scale, s.splat(*inputs[t].d.add(sub / 32))),
                    };
                    total[t][v] = s.fma(s.to_f32(acc[t][v]), scale, total[t][v]);
                }
                if MIN {
                    let min = s.load(panels[v].min.as_ptr().add(sub / SUM * ROWS));
                    for t in 0..T {
                        let sum = s.splat(*sums.add(t).cast::<f32>().add(sub / SUM));
                        total[t][v] = s.fma(min, sum, total[t][v]);
                    }
                }
            }
        }
        total
    }
}
