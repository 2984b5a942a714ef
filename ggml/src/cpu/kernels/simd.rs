//! What every instruction set must offer, so that each algorithm is written once.
//!
//! All algorithms see the same virtual register of 512 bits: 16 lanes of f32 ([`Simd::F`]), 16 lanes of
//! i32 ([`Simd::I`]) or 64 bytes ([`Simd::Q`]). AVX-512 holds it in one register, AVX2 in two, NEON in
//! four, the scalar twin in an array. Lane order, the order of additions and fused multiply-adds
//! are part of the contract, so **every kernel gives the same bits on every instruction set**, and tests
//! compare with `==`. An instruction set may replace [`Simd::product`], [`Simd::gemm`] and [`Simd::many`] by its
//! own with bounds of their own, as AVX-512 VNNI does for Q4_K and AMX for prompts.
//!
//! A value of a type that implements [`Simd`] is the proof that the machine has those instructions;
//! it is made once, where features are detected. Operations on registers are therefore safe; what
//! dereferences a pointer is not.

use super::{float, gemm, matvec};
use crate::format::{Format, GgmlType};

/// An algorithm that [`Simd::vectorize`] compiles for an instruction set.
pub(super) trait Kernel<S> {
    /// Runs it. Implementations are `#[inline(always)]`, so that they become part of a function with
    /// the target features enabled.
    fn run(self, s: S);
}

/// 512 bits of registers and what can be done with them.
///
/// Every method is `#[inline(always)]` and compiles to a few instructions.
pub(super) trait Simd: Copy {
    /// Whether 16 and more virtual registers of f32 fit the machine's registers.
    const WIDE: bool;
    /// Whether [`Simd::mac_signed`] is best left alone, and weights get 128 added for [`Simd::mac_unsigned`].
    const BIASED: bool;
    /// Weight rows that [`Simd::many`] does well to get at once.
    const MANY_ROWS: usize = float::STRIP;
    /// 16 × f32.
    type F: Copy;
    /// 16 × i32.
    type I: Copy;
    /// 64 bytes.
    type Q: Copy;

    /// Runs `kernel` in a function of its own with this instruction set enabled.
    fn vectorize<K: Kernel<Self>>(self, kernel: K);

    /// Activation rows against weights of any quantized format: few rows, or `many`.
    fn product(self, format: &'static Format, args: &matvec::Args<'_>, many: bool);

    /// Many activation rows against weights with a scale per `sub` elements.
    fn gemm<W: matvec::Weights<Self>>(self, w: W, sub: usize, args: &matvec::Args<'_>) {
        gemm::gemm(self, w, sub, args);
    }

    /// More than a few activation rows against weights of plain numbers.
    ///
    /// # Panics
    /// If `ty` is a type of blocks.
    fn many(self, ty: GgmlType, args: &float::Args) {
        float::many(self, ty, args);
    }

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F;
    /// 16 numbers.
    ///
    /// # Safety
    /// `p` is valid for reads of 16 numbers.
    unsafe fn load(self, p: *const f32) -> Self::F;
    /// The first `n <= 16` numbers, zeros beyond.
    ///
    /// # Safety
    /// `p` is valid for reads of `n` numbers.
    unsafe fn load_first(self, p: *const f32, n: usize) -> Self::F;
    /// Stores 16 numbers.
    ///
    /// # Safety
    /// `p` is valid for writes of 16 numbers.
    unsafe fn store(self, p: *mut f32, v: Self::F);
    /// Stores the first `n <= 16` lanes.
    ///
    /// # Safety
    /// `p` is valid for writes of `n` numbers.
    unsafe fn store_first(self, p: *mut f32, n: usize, v: Self::F);
    /// 8 numbers, each in two neighbouring lanes.
    ///
    /// # Safety
    /// `p` is valid for reads of 8 numbers.
    unsafe fn load_dup8(self, p: *const f32) -> Self::F;
    /// 16 half-precision numbers, of any alignment.
    ///
    /// # Safety
    /// `p` is valid for reads of 32 bytes.
    unsafe fn load_f16(self, p: *const u8) -> Self::F;
    /// 16 bfloat16 numbers, of any alignment.
    ///
    /// # Safety
    /// `p` is valid for reads of 32 bytes.
    unsafe fn load_bf16(self, p: *const u8) -> Self::F;
    /// Rounds to half precision, to nearest even.
    ///
    /// # Safety
    /// `p` is valid for writes of 32 bytes.
    unsafe fn store_f16(self, p: *mut u8, v: Self::F);
    /// 16 signed bytes.
    ///
    /// # Safety
    /// `p` is valid for reads of 16 bytes.
    unsafe fn load_i8(self, p: *const i8) -> Self::F;
    /// 16 signed words.
    ///
    /// # Safety
    /// `p` is valid for reads of 16 words.
    unsafe fn load_i16(self, p: *const i16) -> Self::F;

    /// `a + b`.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`, except that a NaN in either may give NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`, except that a NaN in either may give NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// To the nearest integer, halves to even.
    fn round(self, a: Self::F) -> Self::F;
    /// 2ⁿ for integral `n` in −126..=127; any number for other lanes.
    fn pow2(self, n: Self::F) -> Self::F;
    /// `if x < limit { 0 } else { v }` per lane.
    fn zero_below(self, x: Self::F, limit: Self::F, v: Self::F) -> Self::F;
    /// Sum of the lanes: halves added to halves, 16 → 8 → 4 → 2 → 1.
    fn sum(self, v: Self::F) -> f32;
    /// [`Simd::sum`] of `R` registers, one after another.
    ///
    /// # Safety
    /// `p` is valid for writes of `R` numbers.
    #[inline(always)]
    unsafe fn store_sums<const R: usize>(self, p: *mut f32, v: [Self::F; R]) {
        for (r, v) in v.into_iter().enumerate() {
            // SAFETY: r < R.
            unsafe { p.add(r).write(self.sum(v)) };
        }
    }
    /// The largest lane.
    fn largest(self, v: Self::F) -> f32;
    /// Largest magnitude of 16 `n` numbers. A NaN counts as larger than everything.
    ///
    /// # Safety
    /// `p` is valid for reads of `16 n` numbers.
    unsafe fn magnitude(self, p: *const f32, n: usize) -> f32;
    /// Stores the lanes' nearest integers (halves to even), which must be within ±127, and gives their sum.
    ///
    /// # Safety
    /// `p` is valid for writes of 16 bytes.
    unsafe fn store_i8(self, p: *mut i8, v: Self::F) -> i16;

    /// Lane `l` becomes `v[4 * part + l / 4]`: what belongs to 16 elements, for the 4 lanes of their dot product.
    fn spread(self, v: Self::F, part: usize) -> Self::F;
    /// To f32.
    fn to_f32(self, v: Self::I) -> Self::F;

    /// 64 bytes.
    ///
    /// # Safety
    /// `p` is valid for reads of 64 bytes.
    unsafe fn load_q(self, p: *const u8) -> Self::Q;
    /// Stores 64 bytes.
    ///
    /// # Safety
    /// `p` is valid for writes of 64 bytes.
    unsafe fn store_q(self, p: *mut u8, v: Self::Q);
    /// 4 bytes, 16 times.
    ///
    /// # Safety
    /// `p` is valid for reads of 4 bytes.
    unsafe fn splat_q(self, p: *const i8) -> Self::Q;
    /// Zeros.
    fn zero_q(self) -> Self::Q;
    /// `v ^ bits` for every byte.
    fn xor(self, v: Self::Q, bits: u8) -> Self::Q;
    /// Zeros.
    fn zero_i(self) -> Self::I;
    /// A number in all lanes.
    ///
    /// # Safety
    /// `p` is valid for reads of a number.
    unsafe fn splat_i(self, p: *const i32) -> Self::I;
    /// 16 numbers.
    ///
    /// # Safety
    /// `p` is valid for reads of 16 numbers.
    unsafe fn load_i(self, p: *const i32) -> Self::I;
    /// Stores 16 numbers.
    ///
    /// # Safety
    /// `p` is valid for writes of 16 numbers.
    unsafe fn store_i(self, p: *mut i32, v: Self::I);
    /// 16 signed words; with `pairs`, both lanes of two neighbours become their sum.
    ///
    /// # Safety
    /// `p` is valid for reads of 16 words.
    unsafe fn load_sums(self, p: *const i16, pairs: bool) -> Self::I;
    /// `-128 * v`.
    fn times_minus_128(self, v: Self::I) -> Self::I;
    /// Transposes 16 rows of 16 words of 32 bits, `stride` bytes apart.
    ///
    /// # Safety
    /// `rows` is valid for reads of 64 bytes from each `r * stride` on, `out` for writes of 1,024 bytes.
    #[inline(always)]
    unsafe fn transpose(self, rows: *const u8, stride: usize, out: *mut u8) {
        for r in 0..16 {
            for c in 0..16 {
                // SAFETY: 4 bytes of row r, and of the output.
                unsafe {
                    let word = rows.add(r * stride + 4 * c).cast::<u32>().read_unaligned();
                    out.add(4 * (16 * c + r)).cast::<u32>().write_unaligned(word);
                }
            }
        }
    }
    /// Asks for a line in the first-level cache; any address will do.
    fn prefetch(self, _p: *const u8) {}
    /// Asks for a line in the second-level cache; any address will do.
    fn prefetch_far(self, _p: *const u8) {}
    /// `acc` + exact dot products of 4 elements each: lane `l` + Σ w·x over the bytes `4l..4l + 4`. Those
    /// of `w` are unsigned, within 0..=127 unless [`Simd::BIASED`], those of `x` within ±127.
    fn mac_unsigned(self, acc: Self::I, w: Self::Q, x: Self::Q) -> Self::I;
    /// The same for signed bytes `w`.
    fn mac_signed(self, acc: Self::I, w: Self::Q, x: Self::Q) -> Self::I;

    /// [`Simd::mac_unsigned`] of 64 bytes at `x`, added to nothing.
    ///
    /// # Safety
    /// `x` is valid for reads of 64 bytes.
    #[inline(always)]
    unsafe fn dot_unsigned(self, w: Self::Q, x: *const i8) -> Self::I {
        // SAFETY: the caller's promise.
        self.mac_unsigned(self.zero_i(), w, unsafe { self.load_q(x.cast()) })
    }
    /// [`Simd::mac_signed`] of 64 bytes at `x`, added to nothing.
    ///
    /// # Safety
    /// `x` is valid for reads of 64 bytes.
    #[inline(always)]
    unsafe fn dot_signed(self, w: Self::Q, x: *const i8) -> Self::I {
        // SAFETY: the caller's promise.
        self.mac_signed(self.zero_i(), w, unsafe { self.load_q(x.cast()) })
    }
}

/// What the layouts of [`super::formats`] need besides: bytes, nibbles and bits in their natural order.
pub(super) trait Decode: Simd {
    /// 32 bytes from `a` and 32 from `b`.
    ///
    /// # Safety
    /// Both are valid for reads of 32 bytes.
    unsafe fn load_halves(self, a: *const u8, b: *const u8) -> Self::Q;
    /// 16 bytes from `a` and 16 from `b`: the low nibbles of `a`, its high ones, then those of `b`.
    ///
    /// # Safety
    /// Both are valid for reads of 16 bytes.
    unsafe fn load_nibbles(self, a: *const u8, b: *const u8) -> Self::Q;
    /// 32 bytes twice, shifted right by `right[0]` and `right[1]` bits within −7..=7 (negative is left) and
    /// masked with `mask`, which must keep only bits that come from the same byte.
    ///
    /// # Safety
    /// `p` is valid for reads of 32 bytes.
    unsafe fn load_shifted(self, p: *const u8, right: [i32; 2], mask: u8) -> Self::Q;
    /// Each byte shifted right by 4.
    fn high_nibbles(self, v: Self::Q) -> Self::Q;
    /// `v & mask` for every byte.
    fn and(self, v: Self::Q, mask: u8) -> Self::Q;
    /// `a | b`.
    fn or(self, a: Self::Q, b: Self::Q) -> Self::Q;
    /// `v - x` for every byte.
    fn sub_bytes(self, v: Self::Q, x: u8) -> Self::Q;
    /// `table[v]` for every byte, all within 0..=15.
    fn lookup(self, table: &[i8; 16], v: Self::Q) -> Self::Q;
    /// Byte `i` is `value` where bit `i` is set, else 0.
    fn expand_bits(self, bits: u64, value: u8) -> Self::Q;
    /// 64 bytes, the lowest of each word first.
    #[allow(clippy::wrong_self_convention)] // `self` is the proof, not the source
    fn from_words(self, words: [u64; 8]) -> Self::Q;
    /// `a + b` for every byte.
    fn add_bytes(self, a: Self::Q, b: Self::Q) -> Self::Q;
    /// Byte `i` is `-v` where bit `i` is set, else `v`.
    fn negate(self, v: Self::Q, bits: u64) -> Self::Q;
    /// 8 half-precision numbers, each in two neighbouring lanes.
    fn dup_f16(self, halves: [u16; 8]) -> Self::F;
    /// A half-precision number in all lanes.
    fn splat_f16(self, half: u16) -> Self::F;
    /// 8 signed bytes, the lowest first, each in two neighbouring lanes.
    fn dup_i8(self, bytes: u64) -> Self::F;
    /// 16 signed bytes, the lowest first.
    fn widen_i8(self, low: u64, high: u64) -> Self::F;
}
