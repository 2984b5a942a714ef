//! Hand-written kernels for the CPU, chosen at run time.
//!
//! Every algorithm is written once over the operations of a virtual 512-bit register ([`simd`]) and compiled for
//! every instruction set; a format's layout is written once too. All of them give the same bits on
//! every instruction set, which the tests check with `==`, but for three: prompts over super-blocks with AMX, whose sums
//! are rounded less often, prompts over plain numbers with AMX, which are cut into pieces, and few rows over Q4_K, Q6_K and Q4_0 with
//! AVX-512 VNNI, whose lanes are others.
//!
//! | file | what it holds |
//! |---|---|
//! | `dispatch` | which instruction set this machine gets |
//! | `simd` | what an instruction set must offer |
//! | `scalar` | the portable one, the tests' truth |
//! | `layouts`, `layouts_iq` | the formats' bits in registers |
//! | `matvec` | quantized weights × few activation rows |
//! | `gemm` | quantized weights × many activation rows |
//! | `float` | plain weights × activations, attention scores |
//! | `panel` | activations × rows that are widened on the way |
//! | `widen` | rows as F32 panels |
//! | `attention` | scores of 8-bit keys, the running softmax |
//! | `vector` | norms, activations, exponentials, conversions |
//! | `measure` | what the machine does at best |
//! | `bench` | kernels as the benchmarks call them |
//! | `x86`, `aarch64` | AVX2, AVX-512, AMX, NEON |
//!
//! Nothing here knows threads: callers give disjoint outputs to theirs. Pointers may be unaligned.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod attention;
#[doc(hidden)]
pub mod bench;
mod dispatch;
mod float;
mod gemm;
mod layouts;
mod layouts_iq;
mod matvec;
mod measure;
mod panel;
mod scalar;
mod simd;
#[cfg(test)]
mod tests;
mod vector;
mod widen;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use attention::panel_bytes;

/// Nothing to ask for: see [`Kernels::gemm_f32`].
pub const NOTHING_AHEAD: (*const u8, usize) = (std::ptr::null(), 0);

pub use dispatch::{Isa, Kernels, SelectError, available, from_environment, kernels, select};
use dispatch::{Machine, with_isa};
use simd::{Kernel, Simd};

use crate::act::Q8Rows;
use crate::format::{GgmlType, Kind};

/// Activation rows up to which weights are dotted where they lie, so that a row's result has the same bits alone or among so
/// many.
pub(crate) const FEW: usize = 8;

impl Kernels {
    /// Which instruction set these are for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Quantizes a row to 8-bit blocks of `block` elements: [`crate::act::quantize_row`], with the same bits.
    ///
    /// # Panics
    /// If lengths do not fit.
    pub fn quantize_row(&self, x: &[f32], block: usize, qs: &mut [i8], d: &mut [f32], sums: &mut [i16]) {
        with_isa!(self, |s| run(s, vector::QuantizeRow { x, block, qs, d, sums }));
    }

    /// `y[t * y_stride + r]` = weight row `r` · activation row `t`, for few activation rows (any number is
    /// accepted; weights are read once for 8).
    ///
    /// `w` holds `n_w` rows of `x.k` elements in the quantized format `ty`, `row_bytes` apart. A row's
    /// result has the same bits alone or among others.
    ///
    /// # Safety
    /// - `y` is valid for writes of `y[t * y_stride + r]` for every `t < x.rows` and `r < n_w`.
    /// - Nobody else reads or writes those meanwhile.
    ///
    /// # Panics
    /// If `w` or the arrays of `x` are too short, or `x` has not the format's activation blocks.
    pub unsafe fn matvec_q8(
        &self,
        ty: GgmlType,
        w: &[u8],
        row_bytes: usize,
        n_w: usize,
        x: Q8Rows<'_>,
        y: *mut f32,
        y_stride: usize,
    ) {
        check_rows(ty, x.k, w.len(), row_bytes, n_w);
        let args = matvec::Args { w: w.as_ptr(), row_bytes, n_w, x, y, y_stride };
        self.product(ty, &args, false);
    }

    /// [`Kernels::matvec_q8`] for many activation rows: more than 8, say. Weights are unpacked once for all of them.
    ///
    /// A result depends on its weight row and its activation row only, however they are split among
    /// calls, but it may be rounded otherwise than by `matvec_q8`. Weight rows are best given in multiples of 32.
    ///
    /// # Safety
    /// As for `matvec_q8`.
    ///
    /// # Panics
    /// As for `matvec_q8`.
    pub unsafe fn gemm_q8(
        &self,
        ty: GgmlType,
        w: &[u8],
        row_bytes: usize,
        n_w: usize,
        x: Q8Rows<'_>,
        y: *mut f32,
        y_stride: usize,
    ) {
        check_rows(ty, x.k, w.len(), row_bytes, n_w);
        let args = matvec::Args { w: w.as_ptr(), row_bytes, n_w, x, y, y_stride };
        self.product(ty, &args, true);
    }

    /// Products of quantized weights; `args` are as the callers' safety sections ask.
    fn product(&self, ty: GgmlType, args: &matvec::Args<'_>, many: bool) {
        let (format, x) = (ty.format(), &args.x);
        assert!(matches!(format.kind, Kind::Blocks(_)), "{ty} is not quantized");
        assert_eq!(x.block, format.act().block(), "activation blocks of {ty}");
        assert_eq!(x.k % format.block, 0, "whole blocks of {ty}");
        x.check();
        with_isa!(self, |s| s.product(format, args, many));
    }

    /// `y[t * y_stride + r]` = weight row `r` · activation row `t` in F32, for weights of plain numbers (F32,
    /// F16, BF16) and any number of activation rows of `k` numbers, `x_stride` apart.
    ///
    /// A result has the same bits alone or among up to 8 rows, and the same among any longer number of them, where it may be rounded otherwise.
    ///
    /// # Safety
    /// As for [`Kernels::matvec_q8`], with `x_rows` rows.
    ///
    /// # Panics
    /// If `w` or `x` is too short or `ty` is a type of blocks.
    pub unsafe fn matvec_f32(
        &self,
        ty: GgmlType,
        k: usize,
        w: &[u8],
        row_bytes: usize,
        n_w: usize,
        x: &[f32],
        x_rows: usize,
        x_stride: usize,
        y: *mut f32,
        y_stride: usize,
    ) {
        check_rows(ty, k, w.len(), row_bytes, n_w);
        assert!(fits(x.len(), x_stride, x_rows, k), "activations are too short");
        let (w, x) = (w.as_ptr(), x.as_ptr());
        let ahead = std::ptr::null();
        let args = float::Args { k, w, row_bytes, n_w, x, x_stride, n_x: x_rows, y, y_stride, ahead };
        with_isa!(self, |s| float::product(s, ty, &args));
    }

    /// Weight rows of type `ty` that products with many activation rows do well to get at once.
    pub fn many_rows(&self, ty: GgmlType) -> usize {
        let plain = matches!(ty, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16);
        with_isa!(self, |s| if plain { many_rows(s) } else { float::STRIP })
    }

    /// Products of queries with keys of plain numbers: `out[q * out_stride + i]` = query `q` · key `i`.
    ///
    /// `q` holds queries of `width` numbers, one after another. From `ahead` on as many keys are asked for, which will be read
    /// next; any address will do. A result has the same bits whatever comes with it, and whatever type the same keys have.
    ///
    /// # Safety
    /// - `k + i * stride` (bytes) is valid for reads of `width` numbers for every `i < n`.
    /// - `out` is valid for writes of `n` numbers from every `q * out_stride` on, which nobody else touches.
    ///
    /// # Panics
    /// If `ty` is a type of blocks.
    pub unsafe fn attn_scores(
        &self,
        ty: GgmlType,
        (q, width): (&[f32], usize),
        (k, stride, ahead): (*const u8, usize, *const u8),
        n: usize,
        (out, out_stride): (*mut f32, usize),
    ) {
        let args = float::Args {
            k: width,
            w: k,
            row_bytes: stride,
            n_w: n,
            x: q.as_ptr(),
            x_stride: width,
            n_x: q.len() / width,
            y: out,
            y_stride: out_stride,
            ahead,
        };
        with_isa!(self, |s| float::dots::<_, false>(s, ty, &args));
    }

    /// Arranges quantized queries for [`Kernels::attn_scores_q8`] in [`panel_bytes`] of memory.
    ///
    /// # Panics
    /// If `q` has no blocks of 32, its arrays are too short, or the memory is too small or not aligned for numbers.
    pub fn arrange_q8(&self, q: Q8Rows<'_>, panels: &mut [u8]) {
        q.check();
        assert_eq!(q.block, widen::BLOCK, "blocks of queries");
        let to = attention::Panels::within(panels.as_mut_ptr(), panels.len(), q.rows, q.k);
        with_isa!(self, |s| run(s, attention::Arrange { x: q, to }));
    }

    /// Products of arranged queries with keys in Q8_0: `out[q * out_stride + i]` = query `q` · key `i`.
    ///
    /// `panels` are those of `queries` queries of `width` elements. Unless null, `ahead` is where as many keys, as far apart, will be
    /// read next; any address will do. A result has the same bits whatever comes with it.
    ///
    /// # Safety
    /// - `k + i * stride` is valid for reads of `width` elements in Q8_0 for every `i < n`.
    /// - `out` is valid for writes of `n` numbers from every `q * out_stride` on, which nobody else touches.
    ///
    /// # Panics
    /// If `width` is no whole number of blocks or there are fewer panels.
    pub unsafe fn attn_scores_q8(
        &self,
        (panels, queries, width): (&[u8], usize, usize),
        (keys, stride, ahead): (*const u8, usize, *const u8),
        n: usize,
        (out, out_stride): (*mut f32, usize),
    ) {
        assert!(width.is_multiple_of(widen::BLOCK), "whole blocks");
        let q = attention::Panels::within(panels.as_ptr(), panels.len(), queries, width);
        with_isa!(self, |s| run(s, attention::Scores { q, keys, stride, ahead, n, out, out_stride }));
    }

    /// A step of the running softmax over `max.len()` queries: `scores` (`n` a query, `stride` apart) become weights, `factors` what the
    /// weighted sums shrink by. The first `seen.1` queries see `seen.0` keys, the next as many one more, and so on.
    ///
    /// # Panics
    /// If lengths do not fit.
    pub fn softmax_step(
        &self,
        (scores, stride, n): (&mut [f32], usize, usize),
        scale: f32,
        seen: (isize, usize),
        (max, sum, factors): (&mut [f32], &mut [f32], &mut [f32]),
    ) {
        with_isa!(self, |s| run(s, attention::Softmax { scores, stride, n, scale, seen, max, sum, factors }));
    }

    /// Rows of F32, F16, BF16 or Q8_0 as numbers: element `d` of row `i` to `to[i * to_stride + d]`, or if `transposed`
    /// to `to[d * to_stride + i]`. Unless `transposed` or null, `ahead` is where as many rows, as far apart, will be read next;
    /// any address will do.
    ///
    /// # Safety
    /// - `rows + i * stride` is valid for reads of `width` elements for every `i < n`.
    /// - `to` is valid for writes of all those numbers, which nobody else touches; unless `transposed`, of `width` rounded up to
    ///   16 of each row.
    ///
    /// # Panics
    /// If `ty` is another type.
    pub unsafe fn widen(
        &self,
        ty: GgmlType,
        (rows, stride): (*const u8, usize),
        n: usize,
        width: usize,
        (to, to_stride): (*mut f32, usize),
        transposed: bool,
        ahead: *const u8,
    ) {
        let args = widen::Args { rows, stride, n, width, to, to_stride, ahead };
        with_isa!(self, |s| widen::widen(s, ty, &args, transposed));
    }

    /// `y[t * y_stride + c]` = Σ over `i < k` of `x[t * x_stride + i]` · `b[i * b_stride + c]` for `t < n_x`, `c < n`; with `factors`, plus
    /// what `y` held times `factors[t]`. `ahead`, an address and a length, is memory that will be read next; any will do.
    ///
    /// A result depends on its row, its column and its factor only.
    ///
    /// # Safety
    /// - `x` and `b` are valid for reads of those numbers, `y` for writes, and with `factors` for reads.
    /// - Nobody else touches what is written.
    ///
    /// # Panics
    /// If there are fewer factors than rows.
    pub unsafe fn gemm_f32(
        &self,
        x: (*const f32, usize, usize),
        k: usize,
        (b, b_stride, n): (*const f32, usize, usize),
        y: (*mut f32, usize),
        factors: Option<&[f32]>,
        ahead: (*const u8, usize),
    ) {
        // SAFETY: the caller's promise.
        unsafe { self.gemm_rows(GgmlType::F32, x, k, (b.cast(), 4 * b_stride, n), y, factors, ahead) };
    }

    /// [`Kernels::gemm_f32`] where `b` are numbers of F32, F16, BF16 or Q8_0, in rows `b_stride` bytes apart.
    ///
    /// # Safety
    /// As there.
    ///
    /// # Panics
    /// As there, and if `ty` is another type.
    pub unsafe fn gemm_rows(
        &self,
        ty: GgmlType,
        (x, x_stride, n_x): (*const f32, usize, usize),
        k: usize,
        (b, b_stride, n): (*const u8, usize, usize),
        (y, y_stride): (*mut f32, usize),
        factors: Option<&[f32]>,
        (ahead, bytes): (*const u8, usize),
    ) {
        assert!(factors.is_none_or(|f| f.len() >= n_x), "a factor for each row");
        let before = factors.map_or(panel::Before::Ignored, |f| panel::Before::Scaled(f.as_ptr()));
        let args = panel::Args {
            x,
            x_stride,
            n_x,
            k,
            b,
            b_stride,
            n,
            y,
            y_stride,
            before,
            ahead: (ahead, bytes.div_ceil(64)),
        };
        with_isa!(self, |s| panel::product(s, ty, &args));
    }

    /// `y` ← `x` / √(mean(x²) + eps) · `weight`.
    ///
    /// # Panics
    /// If lengths differ.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
        assert!(x.len() == weight.len() && y.len() == weight.len(), "lengths of the operands");
        let (x, y) = (x.as_ptr(), y.as_mut_ptr());
        with_isa!(self, |s| run(s, vector::RmsNorm { x, weight, eps, y }));
    }

    /// [`Kernels::rms_norm`] in place.
    ///
    /// # Panics
    /// If lengths differ.
    pub fn rms_norm_inplace(&self, x: &mut [f32], weight: &[f32], eps: f32) {
        assert_eq!(x.len(), weight.len(), "lengths of the operands");
        let y = x.as_mut_ptr();
        with_isa!(self, |s| run(s, vector::RmsNorm { x: y, weight, eps, y }));
    }

    /// `gate` ← silu(`gate`) · `up`, with silu(g) = g / (1 + e^−g).
    ///
    /// # Panics
    /// If lengths differ.
    pub fn swiglu(&self, gate: &mut [f32], up: &[f32]) {
        with_isa!(self, |s| run(s, vector::SwiGlu { x: up, y: gate }));
    }

    /// `y` += `a` · `x`.
    ///
    /// # Panics
    /// If lengths differ.
    pub fn axpy(&self, a: f32, x: &[f32], y: &mut [f32]) {
        with_isa!(self, |s| run(s, vector::Axpy { a, x, y }));
    }

    /// `y` += `x`.
    ///
    /// # Panics
    /// If lengths differ.
    pub fn add(&self, x: &[f32], y: &mut [f32]) {
        with_isa!(self, |s| run(s, vector::Add { x, y }));
    }

    /// `y` ← `y` · `x`, element by element.
    ///
    /// # Panics
    /// If lengths differ.
    pub fn mul(&self, x: &[f32], y: &mut [f32]) {
        with_isa!(self, |s| run(s, vector::Mul { x, y }));
    }

    /// `x` ← `a` · `x`.
    pub fn scale(&self, a: f32, x: &mut [f32]) {
        with_isa!(self, |s| run(s, vector::Scale { a, x }));
    }

    /// `x` ← e^(`x` − `max`), within 2 units in the last place; gives their sum.
    pub fn softmax_exp(&self, x: &mut [f32], max: f32) -> f32 {
        let mut sum = 0.0;
        with_isa!(self, |s| run(s, vector::SoftmaxExp { x, max, sum: &mut sum }));
        sum
    }

    /// The largest number, −∞ of none; any number if one of them is a NaN.
    pub fn max(&self, x: &[f32]) -> f32 {
        let mut max = 0.0;
        with_isa!(self, |s| run(s, vector::Max { x, max: &mut max }));
        max
    }

    /// To F16 (little-endian, nearest even).
    ///
    /// # Panics
    /// If `bytes` has not two for every number.
    pub fn to_f16(&self, x: &[f32], bytes: &mut [u8]) {
        with_isa!(self, |s| run(s, vector::ToF16 { x, bytes }));
    }

    /// To blocks of Q8_0, with the bits of the format's own encoder.
    ///
    /// # Panics
    /// If numbers are no whole blocks of 32 or `bytes` has not 34 for each.
    pub fn to_q8_0(&self, x: &[f32], bytes: &mut [u8]) {
        with_isa!(self, |s| run(s, vector::ToQ8 { x, bytes }));
    }

    /// From F16.
    ///
    /// # Panics
    /// If `bytes` has not two for every number.
    pub fn from_f16(&self, bytes: &[u8], x: &mut [f32]) {
        with_isa!(self, |s| run(s, vector::FromF16 { bytes, x }));
    }
}

/// What [`crate::cpu::measure`] measures with.
impl Kernels {
    /// Sum of all bytes modulo 256.
    pub fn sum(&self, bytes: &[u8]) -> u8 {
        let mut sum = 0;
        with_isa!(self, |s| run(s, measure::Sum { bytes, sum: &mut sum }));
        sum
    }

    /// Multiplies bytes in registers `rounds` times, with the instructions that products of weights use; gives the
    /// number of multiplications.
    pub fn dots(&self, rounds: usize) -> u64 {
        let fused = self.isa.has_dot();
        let (mut macs, mut sum) = (0, 0);
        with_isa!(self, |s| run(s, measure::Dots { rounds, fused, macs: &mut macs, sum: &mut sum }));
        std::hint::black_box(sum);
        macs
    }
}

/// [`Simd::MANY_ROWS`] of a value's type.
fn many_rows<S: Simd>(_: S) -> usize {
    S::MANY_ROWS
}

/// `kernel` on `s`: with the type's name spelled once.
fn run<S: Simd, K: Kernel<S>>(s: S, kernel: K) {
    s.vectorize(kernel);
}

/// Whether `rows` rows of `width`, `stride` apart, fit into `len`.
fn fits(len: usize, stride: usize, rows: usize, width: usize) -> bool {
    let Some(last) = rows.checked_sub(1) else {
        return true;
    };
    last.checked_mul(stride).and_then(|n| n.checked_add(width)).is_some_and(|n| n <= len)
}

/// Panics unless `len` bytes hold the rows of weights.
fn check_rows(ty: GgmlType, k: usize, len: usize, row_bytes: usize, n_w: usize) {
    let width = ty.row_bytes(k).expect("whole blocks");
    assert!(fits(len, row_bytes, n_w, width), "{n_w} rows of {k} {ty} do not fit into {len} bytes");
}
