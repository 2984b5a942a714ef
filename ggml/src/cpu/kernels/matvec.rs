//! Few activation rows against many rows of quantized weights, at the speed of memory.
//!
//! Every format is brought into one shape on the way, a [`Step`] of 256 elements in registers:
//! integers in their natural order, a scale and perhaps a minimum per 16. Formats differ in how
//! they make a step, and in nothing else:
//!
//! ```text
//!   row of blocks ──Weights::step──▶ 4 × 64 integers, 16 scales, 16 minimums
//!                                        │ for each activation row
//!                                        ▼
//!   lane l of 16:  Σ over 4 vectors of  scale · (exact integer dot product of 4 elements)
//! ```
//!
//! An activation row's result depends on nothing but its own data, so it has the same bits alone
//! or among others. Let `T` be the sum of the absolute values of the products of all elements (and
//! of the minimums with them). Then the error against exact arithmetic on the quantized values is
//! at most `(k / 256 + 12) · ε · T`: a scale is rounded when it is made (2), a step adds at
//! most 5 numbers and scales the sum (6), the steps are added (k / 256), then 16 lanes (4).

use super::simd::{Decode, Kernel, Simd};
use crate::act::{Q8Rows, SUM};
use crate::format::{Blocks, Format, GgmlType, Kind, Unpacked};

/// Elements of a step.
pub(super) const STEP: usize = 256;

/// Where a matrix-vector product reads and writes.
#[derive(Clone, Copy)]
pub(super) struct Args<'a> {
    /// The first row of weights; rows lie `row_bytes` apart.
    pub w: *const u8,
    /// Bytes from row to row.
    pub row_bytes: usize,
    /// Rows of weights.
    pub n_w: usize,
    /// Activations: `k` and `block` fit the format.
    pub x: Q8Rows<'a>,
    /// Result of weight row `r` and activation row `t` goes to `y[t * y_stride + r]`.
    pub y: *mut f32,
    /// See `y`.
    pub y_stride: usize,
}

/// 256 elements of weights in registers.
pub(super) struct Step<S: Simd> {
    /// The integers in order.
    pub q: [S::Q; 4],
    /// A scale per 16 elements, before it is multiplied by `d`.
    pub scale: S::F,
    /// A minimum per 16 elements, before it is multiplied by `dmin`; unused unless [`Weights::MIN`].
    pub min: S::F,
    /// What all scales of a super-block have in common; unused unless [`Weights::SUPER`].
    pub d: S::F,
    /// The same of the minimums.
    pub dmin: S::F,
}

impl<S: Simd> Step<S> {
    /// A step of a super-block without minimums.
    #[inline(always)]
    pub fn without_min(s: S, q: [S::Q; 4], scale: S::F, d: S::F) -> Self {
        Step { q, scale, min: s.splat(0.0), d, dmin: s.splat(0.0) }
    }

    /// The scales as the format defines them.
    #[inline(always)]
    pub fn scales<W: Weights<S>>(&self, s: S) -> S::F {
        if W::SUPER { s.mul(self.d, self.scale) } else { self.scale }
    }

    /// The minimums as the format defines them.
    #[inline(always)]
    pub fn mins<W: Weights<S>>(&self, s: S) -> S::F {
        if W::SUPER { s.mul(self.dmin, self.min) } else { self.min }
    }
}

/// A format as these kernels see it.
pub(super) trait Weights<S: Simd>: Copy {
    /// Whether there are minimums to add. The integers are within 0..=127 then, and signed otherwise.
    const MIN: bool;
    /// Elements of the activations that share a scale: 32 or 256.
    const ACT: usize;
    /// Whether a step is a super-block: its scales and minimums are integers times a common number, small enough that
    /// those times the elements are within ±32,767, and the minimums within 0..=63.
    const SUPER: bool;

    /// Bytes of 256 elements.
    fn step_bytes(self) -> usize;

    /// The first `n` elements at `p`: 256, or fewer whole blocks. What is beyond them gets any
    /// integers, with scales and minimums of zero.
    ///
    /// # Safety
    /// `p` is valid for reads of the bytes of `n` elements.
    unsafe fn step(self, s: S, p: *const u8, n: usize) -> Step<S>;
}

/// The activations of a step, padded with zeros.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Padded {
    pub qs: [i8; STEP],
    pub d: [f32; STEP / 32],
    pub sums: [i16; STEP / SUM],
}

impl Padded {
    pub const ZERO: Padded = Padded { qs: [0; STEP], d: [0.0; STEP / 32], sums: [0; STEP / SUM] };

    /// What is left of row `t` after the last whole step.
    pub fn last(x: &Q8Rows<'_>, t: usize) -> Padded {
        let mut p = Padded::ZERO;
        let rest = x.k % STEP;
        let end = (t + 1) * x.k;
        p.qs[..rest].copy_from_slice(&x.qs[end - rest..end]);
        let d = rest / 32;
        if x.block == 32 {
            p.d[..d].copy_from_slice(&x.d[end / 32 - d..end / 32]);
        }
        let sums = rest / SUM;
        p.sums[..sums].copy_from_slice(&x.sums[end / SUM - sums..end / SUM]);
        p
    }
}

/// `acc` + the dot product of a step with its activations.
///
/// # Safety
/// `x` is valid for reads of 256 bytes within ±127, `sums` of 16 words, `d` of 8 numbers, or 1 if
/// `W::ACT` is 256.
#[inline(always)]
unsafe fn add_step<S: Simd, W: Weights<S>>(
    s: S,
    w: &Step<S>,
    x: *const i8,
    d: *const f32,
    sums: *const i16,
    acc: S::F,
) -> S::F {
    // SAFETY: the caller's promises, one for each pointer.
    unsafe {
        let per_256 = W::ACT == STEP;
        let d = if per_256 { s.splat(d.read()) } else { s.load_dup8(d) };
        let scale = if per_256 { w.scales::<W>(s) } else { s.mul(w.scales::<W>(s), d) };
        let mut t = s.splat(0.0);
        for part in 0..4 {
            let x = x.add(64 * part);
            let dot = if W::MIN { s.dot_unsigned(w.q[part], x) } else { s.dot_signed(w.q[part], x) };
            let (dot, scale) = (s.to_f32(dot), s.spread(scale, part));
            t = if part == 0 { s.mul(dot, scale) } else { s.fma(dot, scale, t) };
        }
        if W::MIN {
            let min = if per_256 { w.mins::<W>(s) } else { s.mul(w.mins::<W>(s), d) };
            t = s.fma(s.load_i16(sums), min, t);
        }
        if per_256 { s.fma(t, d, acc) } else { s.add(acc, t) }
    }
}

/// Rows of weights that are read side by side, one from each of as many equal parts of the matrix, where the registers suffice.
///
/// What memory gives depends on how many places are read at once: at the end of a page the machine's own prefetching stops and
/// begins anew in the next, and with one stream of rows everything waits for that. Measured on Sapphire Rapids, two threads, Q4_K,
/// the same arithmetic on rows of 864 bytes: one stream 23 GB/s, four neighbouring rows 24, four distant ones 30, with the widest
/// loads and nothing else 31.
pub(super) const STREAMS: usize = 4;

/// Bytes ahead of what is read to be fetched into the first-level cache. Without, the above is 20 GB/s.
const NEAR: usize = 512;
/// The same for the second-level cache.
const FAR: usize = 2048;

/// Where streams of equal length, one after another in memory, are to be fetched ahead.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    /// Streams.
    pub n: usize,
    /// Bytes of a stream.
    pub bytes: usize,
}

impl Ahead {
    /// Fetches what will be read after `len` bytes at `offset` of every stream. After its end a stream goes on in the item behind
    /// this one, which the thread seldom fails to get next and which is cut into streams as long.
    #[inline(always)]
    pub fn fetch<S: Simd>(self, s: S, base: *const u8, offset: usize, len: usize) {
        let at = |distance: usize| {
            let to = offset + distance;
            if to < self.bytes { to } else { to + (self.n - 1) * self.bytes }
        };
        let (near, far) = (base.wrapping_add(at(NEAR)), base.wrapping_add(at(FAR)));
        for stream in 0..self.n {
            for line in 0..len.div_ceil(64) {
                s.prefetch(near.wrapping_add(stream * self.bytes + 64 * line));
                s.prefetch_far(far.wrapping_add(stream * self.bytes + 64 * line));
            }
        }
    }
}

/// Activation rows that share one pass over the weights.
const PASS: usize = 8;

/// All rows of weights, `R` at a time, against the activation rows from `first` on, at most [`PASS`], `N` at a time. Where
/// there are fewer than `N`, the last is computed again.
struct MatVec<'a, W, const R: usize, const N: usize> {
    w: W,
    args: &'a Args<'a>,
    first: usize,
}

impl<S: Simd, W: Weights<S>, const R: usize, const N: usize> Kernel<S> for MatVec<'_, W, R, N> {
    #[inline(always)]
    fn run(self, s: S) {
        let a = self.args;
        let end = a.x.rows.min(self.first + PASS);
        let mut padded = [Padded::ZERO; PASS];
        if W::ACT < STEP && !a.x.k.is_multiple_of(STEP) {
            for t in self.first..end {
                padded[t - self.first] = Padded::last(&a.x, t);
            }
        }
        let apart = a.n_w / R;
        let n_tiles = apart + a.n_w % R;
        for i in 0..n_tiles {
            let mut t = self.first;
            while t < end {
                let rows: [usize; N] = std::array::from_fn(|n| (t + n).min(end - 1));
                // SAFETY: those are rows of x, and `padded` holds their ends; rows of weights are i + apart · 0..R, and then those left.
                unsafe {
                    if i < apart {
                        self.tile::<S, R>(s, i, apart, rows, &padded);
                    } else {
                        self.tile::<S, 1>(s, i - apart + R * apart, 1, rows, &padded);
                    }
                }
                t += N;
            }
        }
    }
}

impl<W, const R: usize, const N: usize> MatVec<'_, W, R, N> {
    /// `M` weight rows, `r` and those `apart` rows on, against the activation rows `rows`.
    ///
    /// # Safety
    /// The rows exist, and `padded` holds the ends of the activation rows from `first` on.
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize>(
        &self,
        s: S,
        r: usize,
        apart: usize,
        rows: [usize; N],
        padded: &[Padded; PASS],
    ) where
        W: Weights<S>,
    {
        let a = self.args;
        let x = &a.x;
        let (steps, rest, bytes) = (x.k / STEP, x.k % STEP, self.w.step_bytes());
        let streams = Ahead { n: M, bytes: apart * a.row_bytes };
        let mut acc = [[s.splat(0.0); N]; M];
        // SAFETY: whoever made `args` promised rows of weights of k elements, arrays of activations for
        // all rows, and room for the results.
        unsafe {
            let w = |m: usize, i: usize| a.w.add((r + m * apart) * a.row_bytes + i * bytes);
            for i in 0..steps {
                if rows[0] == self.first {
                    // What the other groups of rows read again.
                    streams.fetch(s, a.w, r * a.row_bytes + i * bytes, bytes);
                }
                for m in 0..M {
                    let w = self.w.step(s, w(m, i), STEP);
                    for n in 0..N {
                        let at = rows[n] * x.k + i * STEP;
                        let (qs, d) = (x.qs.as_ptr().add(at), x.d.as_ptr().add(at / W::ACT));
                        let sums = x.sums.as_ptr().add(at / SUM);
                        acc[m][n] = add_step::<S, W>(s, &w, qs, d, sums, acc[m][n]);
                    }
                }
            }
            if W::ACT < STEP && rest > 0 {
                for m in 0..M {
                    let w = self.w.step(s, w(m, steps), rest);
                    for n in 0..N {
                        let x = &padded[rows[n] - self.first];
                        let (qs, d, sums) = (x.qs.as_ptr(), x.d.as_ptr(), x.sums.as_ptr());
                        acc[m][n] = add_step::<S, W>(s, &w, qs, d, sums, acc[m][n]);
                    }
                }
            }
            for m in 0..M {
                for n in 0..N {
                    *a.y.add(rows[n] * a.y_stride + r + m * apart) = s.sum(acc[m][n]);
                }
            }
        }
    }
}

/// Any format, through its own `unpack`.
#[derive(Clone, Copy)]
pub(super) struct Generic<const ACT: usize, const MIN: bool> {
    pub format: &'static Format,
    pub blocks: &'static Blocks,
}

impl<S: Simd, const ACT: usize, const MIN: bool> Weights<S> for Generic<ACT, MIN> {
    const MIN: bool = MIN;
    const ACT: usize = ACT;
    const SUPER: bool = false;

    #[inline(always)]
    fn step_bytes(self) -> usize {
        STEP / self.format.block * self.format.bytes
    }

    #[inline(always)]
    unsafe fn step(self, s: S, p: *const u8, n: usize) -> Step<S> {
        let mut step = Unpacked::default();
        // SAFETY: the caller's promise.
        let bytes = unsafe { std::slice::from_raw_parts(p, n / self.format.block * self.format.bytes) };
        unpack(self.format, self.blocks, bytes, &mut step);
        // SAFETY: the arrays have 256 and 16 elements.
        unsafe {
            let qs = step.qs.as_ptr().cast::<u8>();
            Step {
                q: [s.load_q(qs), s.load_q(qs.add(64)), s.load_q(qs.add(128)), s.load_q(qs.add(192))],
                scale: s.load(step.scale.as_ptr()),
                min: s.load(step.min.as_ptr()),
                d: s.splat(1.0),
                dmin: s.splat(1.0),
            }
        }
    }
}

/// Unpacks up to 256 elements of any block size, with a scale and a minimum per 16.
pub(super) fn unpack(format: &Format, blocks: &Blocks, bytes: &[u8], step: &mut Unpacked) {
    let mut u = Unpacked::default();
    let per_sub = blocks.sub / SUM;
    for (b, bytes) in bytes.chunks_exact(format.bytes).enumerate() {
        (blocks.unpack)(bytes, &mut u);
        let at = b * format.block;
        step.qs[at..][..format.block].copy_from_slice(&u.qs[..format.block]);
        for i in 0..format.block / SUM {
            step.scale[at / SUM + i] = u.scale[i / per_sub];
            step.min[at / SUM + i] = u.min[i / per_sub];
        }
    }
}

/// Any format on any instruction set.
pub(super) fn generic<S: Simd>(s: S, format: &'static Format, args: &Args<'_>, many: bool) {
    let Kind::Blocks(blocks) = &format.kind else {
        return;
    };
    match (blocks.act.block(), blocks.has_min) {
        (32, false) => rows(s, Generic::<32, false> { format, blocks }, blocks.sub, args, many),
        (32, true) => rows(s, Generic::<32, true> { format, blocks }, blocks.sub, args, many),
        (_, false) => rows(s, Generic::<256, false> { format, blocks }, blocks.sub, args, many),
        (_, true) => rows(s, Generic::<256, true> { format, blocks }, blocks.sub, args, many),
    }
}

/// A format that people run, straight from its bytes; any other by [`generic`].
pub(super) fn tuned<S: Decode>(s: S, format: &'static Format, args: &Args<'_>, many: bool) {
    use super::{layouts as l, layouts_iq as iq};
    match format.ty {
        GgmlType::Q4_0 => rows(s, l::Of32(l::Q4_0), 32, args, many),
        GgmlType::Q4_1 => rows(s, l::Of32(l::Q4_1), 32, args, many),
        GgmlType::Q5_0 => rows(s, l::Of32(l::Q5_0), 32, args, many),
        GgmlType::Q5_1 => rows(s, l::Of32(l::Q5_1), 32, args, many),
        GgmlType::Q8_0 => rows(s, l::Of32(l::Q8_0), 32, args, many),
        GgmlType::IQ4_NL => rows(s, l::Of32(l::IQ4_NL), 32, args, many),
        GgmlType::Q2_K => rows(s, l::Of256(l::Q2_K), 16, args, many),
        GgmlType::Q3_K => rows(s, l::Of256(l::Q3_K), 16, args, many),
        GgmlType::Q4_K => rows(s, l::Of256(l::Q4_K), 32, args, many),
        GgmlType::Q5_K => rows(s, l::Of256(l::Q5_K), 32, args, many),
        GgmlType::Q6_K => rows(s, l::Of256(l::Q6_K), 16, args, many),
        GgmlType::IQ4_XS => rows(s, l::Of256(l::IQ4_XS), 32, args, many),
        GgmlType::IQ2_XXS => rows(s, l::Of256(iq::IQ2_XXS), 32, args, many),
        GgmlType::IQ2_XS => rows(s, l::Of256(iq::IQ2_XS), 16, args, many),
        GgmlType::IQ2_S => rows(s, l::Of256(iq::IQ2_S), 16, args, many),
        GgmlType::IQ3_XXS => rows(s, l::Of256(iq::IQ3_XXS), 32, args, many),
        GgmlType::IQ3_S => rows(s, l::Of256(iq::IQ3_S), 32, args, many),
        GgmlType::IQ1_S => rows(s, l::Of256(iq::IQ1_S), 32, args, many),
        GgmlType::IQ1_M => rows(s, l::Of256(iq::IQ1_M), 16, args, many),
        _ => generic(s, format, args, many),
    }
}

/// All activation rows against weights with a scale per `sub` elements.
fn rows<S: Simd, W: Weights<S>>(s: S, w: W, sub: usize, args: &Args<'_>, many: bool) {
    if many {
        return s.gemm(w, sub, args);
    }
    for first in (0..args.x.rows).step_by(PASS) {
        match (args.x.rows - first, S::WIDE) {
            (1, true) => s.vectorize(MatVec::<W, STREAMS, 1> { w, args, first }),
            (2, true) => s.vectorize(MatVec::<W, STREAMS, 2> { w, args, first }),
            (_, true) => s.vectorize(MatVec::<W, STREAMS, 4> { w, args, first }),
            (1, false) => s.vectorize(MatVec::<W, 2, 1> { w, args, first }),
            (2, false) => s.vectorize(MatVec::<W, 2, 2> { w, args, first }),
            (_, false) => s.vectorize(MatVec::<W, 2, 4> { w, args, first }),
        }
    }
}
