//! What attention does besides products of plain numbers ([`super::float`], [`super::panel`]): scores of 8-bit keys, and
//! the running softmax.

use super::simd::{Kernel, Simd};
use super::widen::{BLOCK, BLOCK_BYTES, Lines, block_scale};
use crate::act::{Q8Rows, SUM};

/// Queries that lie side by side in a [`Panels`]: one in each lane.
const LANES: usize = 16;

/// Quantized queries arranged for [`Scores`], in groups of 16: four neighbouring elements of each of the 16
/// are one register, so that a key's four elements, broadcast, meet all of them in one instruction.
#[derive(Clone, Copy)]
pub(super) struct Panels {
    /// Queries.
    n: usize,
    /// Elements of a query, whole blocks of 32.
    k: usize,
    /// `[n / 16, k / 4, 16, 4]` integers.
    q: *const i8,
    /// `[n / 16, k / 32, 16]` scales.
    d: *const f32,
    /// `[n / 16, k / 32, 16]`: where sums of a block start. −128 · Σq where keys get 128 added, else zero.
    start: *const i32,
}

/// Bytes that `n` queries of `k` elements take when they are arranged.
pub fn panel_bytes(n: usize, k: usize) -> usize {
    n.next_multiple_of(LANES) * (k + 8 * k / BLOCK)
}

impl Panels {
    /// `n` queries of `k` elements in `len` bytes of memory.
    ///
    /// # Panics
    /// If it is too small or not aligned for numbers.
    pub fn within(memory: *const u8, len: usize, n: usize, k: usize) -> Panels {
        assert!(len >= panel_bytes(n, k) && memory.cast::<f32>().is_aligned(), "memory for queries");
        let lanes = n.next_multiple_of(LANES);
        let d = memory.wrapping_add(lanes * k);
        let start = d.wrapping_add(4 * lanes * k / BLOCK);
        Panels { n, k, q: memory.cast(), d: d.cast(), start: start.cast() }
    }
}

/// Makes [`Panels`], in memory that is its own.
pub(super) struct Arrange<'a> {
    pub x: Q8Rows<'a>,
    pub to: Panels,
}

impl<S: Simd> Kernel<S> for Arrange<'_> {
    #[inline(always)]
    fn run(self, s: S) {
        let (x, to, k, blocks) = (&self.x, &self.to, self.to.k, self.to.k / BLOCK);
        let mut rows = [[0u8; 64]; LANES];
        let mut columns = [0u8; 64 * LANES];
        for first in (0..to.n).step_by(LANES) {
            let n = LANES.min(to.n - first);
            for at in (0..k).step_by(64) {
                let width = 64.min(k - at);
                // SAFETY: those are elements of x, and of the group in `to`.
                unsafe {
                    for (i, row) in rows.iter_mut().enumerate().take(n) {
                        let from = x.qs.as_ptr().add((first + i) * k + at).cast();
                        std::ptr::copy_nonoverlapping(from, row.as_mut_ptr(), width);
                    }
                    s.transpose(rows.as_ptr().cast(), 64, columns.as_mut_ptr());
                    let at = to.q.add(first * k + at * LANES).cast_mut().cast();
                    std::ptr::copy_nonoverlapping(columns.as_ptr(), at, width * LANES);
                }
            }
            for b in 0..blocks {
                for i in 0..LANES {
                    let (mut d, mut sum) = (0.0, 0);
                    if i < n {
                        let at = (first + i) * blocks + b;
                        d = x.d[at];
                        let sums = &x.sums[at * BLOCK / SUM..][..BLOCK / SUM];
                        sum = sums.iter().map(|&s| i32::from(s)).sum();
                    }
                    // SAFETY: within the group's scales.
                    unsafe {
                        let at = first * blocks + b * LANES + i;
                        *to.d.add(at).cast_mut() = d;
                        *to.start.add(at).cast_mut() = if S::BIASED { -128 * sum } else { 0 };
                    }
                }
            }
        }
    }
}

/// Scores of 8-bit keys: `out[q * out_stride + i]` = query `q` · key `i`.
///
/// The sum of a block is exact. It is multiplied by the product of both scales and added to those before it in one chain,
/// so a score depends on its query and key only, and its error is at most `(k / 32 + 2) · ε · Σ |q·k|`.
pub(super) struct Scores {
    pub q: Panels,
    /// Rows in Q8_0, `stride` bytes apart.
    pub keys: *const u8,
    /// See `keys`.
    pub stride: usize,
    /// Where as many keys, as far apart, will be read next, unless null.
    pub ahead: *const u8,
    /// Keys.
    pub n: usize,
    /// `n` numbers for each query.
    pub out: *mut f32,
    /// See `out`.
    pub out_stride: usize,
}

impl<S: Simd> Kernel<S> for Scores {
    #[inline(always)]
    fn run(self, s: S) {
        for first in (0..self.n).step_by(LANES) {
            let n = LANES.min(self.n - first);
            // SAFETY: whoever made this promised keys, panels and room for the scores.
            unsafe {
                for group in (0..self.q.n).step_by(LANES) {
                    let mut scores = Lines([[0f32; LANES]; LANES]);
                    if S::WIDE {
                        self.keys::<S, 8>(s, group, (first, n), &mut scores);
                    } else {
                        self.keys::<S, 2>(s, group, (first, n), &mut scores);
                    }
                    let mut columns = Lines([[0f32; LANES]; LANES]);
                    s.transpose(scores.0.as_ptr().cast(), 64, columns.0.as_mut_ptr().cast());
                    for (q, column) in columns.0.iter().enumerate().take(self.q.n - group) {
                        let to = self.out.add((group + q) * self.out_stride + first);
                        s.store_first(to, n, s.load(column.as_ptr()));
                    }
                }
            }
        }
    }
}

impl Scores {
    /// Keys `first .. first + n` against a group of queries, `R` at a time; `out[key][query]`.
    ///
    /// # Safety
    /// The group and the keys exist.
    #[inline(always)]
    unsafe fn keys<S: Simd, const R: usize>(
        &self,
        s: S,
        group: usize,
        (first, n): (usize, usize),
        out: &mut Lines<LANES>,
    ) {
        let (k, blocks) = (self.q.k, self.q.k / BLOCK);
        let mut i = 0;
        while i < n {
            // SAFETY: the panels hold the group, and the memory all keys; a key is computed again where there are fewer
            // than R.
            unsafe {
                let q = self.q.q.add(group * k).cast::<u8>();
                let (d, start) = (self.q.d.add(group * blocks), self.q.start.add(group * blocks));
                let key: [usize; R] = std::array::from_fn(|r| (i + r).min(n - 1));
                let keys: [*const u8; R] =
                    std::array::from_fn(|r| self.keys.add((first + key[r]) * self.stride));
                let mut acc = [s.splat(0.0); R];
                for b in 0..blocks {
                    // Two blocks are a little more than a line.
                    if b % 2 == 0 && group == 0 && !self.ahead.is_null() {
                        for key in key {
                            let next = self.ahead.wrapping_add((first + key) * self.stride);
                            s.prefetch_far(next.wrapping_add(b * BLOCK_BYTES));
                        }
                    }
                    let mut dots = [s.load_i(start.add(b * LANES)); R];
                    for e in 0..BLOCK / 4 {
                        let q = s.load_q(q.add(64 * (b * BLOCK / 4 + e)));
                        for r in 0..R {
                            let w = s.splat_q(keys[r].add(b * BLOCK_BYTES + 2 + 4 * e).cast());
                            dots[r] = if S::BIASED {
                                s.mac_unsigned(dots[r], s.xor(w, 0x80), q)
                            } else {
                                s.mac_signed(dots[r], w, q)
                            };
                        }
                    }
                    let d = s.load(d.add(b * LANES));
                    for r in 0..R {
                        let scale = s.mul(d, block_scale(s, keys[r].add(b * BLOCK_BYTES)));
                        acc[r] = s.fma(s.to_f32(dots[r]), scale, acc[r]);
                    }
                }
                for r in 0..R {
                    s.store(out.0[key[r]].as_mut_ptr(), acc[r]);
                }
            }
            i += R;
        }
    }
}

/// A step of the running softmax (Milakov & Gimelshein, 2018) for some queries: scores become weights under the new
/// maximum, sums are brought forward, and `factors` say by what the weighted sums of values shrink.
pub(super) struct Softmax<'a> {
    /// `[queries, stride]`, of which `n` each are scores.
    pub scores: &'a mut [f32],
    /// See `scores`.
    pub stride: usize,
    /// See `scores`.
    pub n: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Keys that the first queries see, and how many queries see as many; each of the next as many sees one key
    /// more. What a query does not see weighs nothing.
    pub seen: (isize, usize),
    pub max: &'a mut [f32],
    pub sum: &'a mut [f32],
    pub factors: &'a mut [f32],
}

impl<S: Simd> Kernel<S> for Softmax<'_> {
    #[inline(always)]
    fn run(self, s: S) {
        let (queries, scale) = (self.max.len(), s.splat(self.scale));
        assert!(self.n <= self.stride && self.scores.len() >= queries * self.stride, "scores");
        assert!(self.sum.len() == queries && self.factors.len() == queries, "state of each query");
        for (j, scores) in self.scores.chunks_exact_mut(self.stride).take(queries).enumerate() {
            let seen = (self.seen.0 + (j / self.seen.1) as isize).clamp(0, self.n as isize) as usize;
            scores[seen..self.n].fill(0.0);
            if seen == 0 {
                self.factors[j] = 1.0;
                continue;
            }
            let p = scores.as_mut_ptr();
            let whole = seen / 16 * 16;
            let last = seen - whole;
            // SAFETY: `seen` scores from `p` on.
            unsafe {
                let mut max = s.splat(self.max[j]);
                for at in (0..whole).step_by(16) {
                    let v = s.mul(s.load(p.add(at)), scale);
                    s.store(p.add(at), v);
                    max = s.max(max, v);
                }
                let mut max = s.largest(max);
                for at in whole..seen {
                    *p.add(at) *= self.scale;
                    max = if max > *p.add(at) { max } else { *p.add(at) };
                }
                let lanes = s.splat(max);
                let mut sum = s.splat(0.0);
                for at in (0..whole).step_by(16) {
                    let e = super::vector::exp(s, s.sub(s.load(p.add(at)), lanes));
                    s.store(p.add(at), e);
                    sum = s.add(sum, e);
                }
                if last > 0 {
                    let at = p.add(whole);
                    s.store_first(at, last, super::vector::exp(s, s.sub(s.load_first(at, last), lanes)));
                    sum = s.add(sum, s.load_first(at, last));
                }
                let mut shrink = [0f32; 16];
                s.store(shrink.as_mut_ptr(), super::vector::exp(s, s.sub(s.splat(self.max[j]), lanes)));
                self.factors[j] = shrink[0];
                self.sum[j] = self.sum[j] * shrink[0] + s.sum(sum);
                self.max[j] = max;
            }
        }
    }
}
