//! AVX2 with FMA and F16C: the virtual register is two registers.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::super::matvec;
use super::super::simd::{Decode, Kernel, Simd};
use crate::format::Format;

/// AVX2, FMA and F16C, with a way to multiply bytes.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx2<M>(PhantomData<M>);

/// How bytes are multiplied and added, and with which features that is compiled.
pub(in super::super) trait Multiply: Copy {
    /// See [`Simd::BIASED`].
    const BIASED: bool;

    /// Runs `kernel` with the features enabled.
    ///
    /// # Safety
    /// The machine has them.
    unsafe fn vectorize<K: Kernel<Avx2<Self>>>(kernel: K);

    /// Lane `l` of `acc` + Σ w·x over 4 bytes, those of `w` unsigned and within 0..=128 unless `BIASED`, those of
    /// `x` within ±127.
    ///
    /// # Safety
    /// The machine has the features.
    unsafe fn mac(acc: __m256i, w: __m256i, x: __m256i) -> __m256i;
}

/// Through words. A pair of products is at most 2 · 128 · 127 = 32,512: no saturation.
#[derive(Clone, Copy)]
pub(in super::super) struct Words;

/// With the neural network instructions in their VEX encoding.
#[derive(Clone, Copy)]
pub(in super::super) struct Vnni;

impl Multiply for Words {
    const BIASED: bool = false;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
    unsafe fn vectorize<K: Kernel<Avx2<Self>>>(kernel: K) {
        kernel.run(Avx2(PhantomData));
    }

    #[inline(always)]
    unsafe fn mac(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe {
            let words = _mm256_maddubs_epi16(w, x);
            _mm256_add_epi32(acc, _mm256_madd_epi16(words, _mm256_set1_epi16(1)))
        }
    }
}

impl Multiply for Vnni {
    const BIASED: bool = true;

    #[inline]
    #[target_feature(enable = "avx2,avxvnni,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
    unsafe fn vectorize<K: Kernel<Avx2<Self>>>(kernel: K) {
        kernel.run(Avx2(PhantomData));
    }

    #[inline(always)]
    unsafe fn mac(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_dpbusd_avx_epi32(acc, w, x) }
    }
}

impl Avx2<Words> {
    /// The proof that the machine has the features, if it does.
    pub(in super::super) fn detect() -> Option<Self> {
        super::detect_common().then_some(Avx2(PhantomData))
    }
}

impl Avx2<Vnni> {
    /// The proof that the machine has the features, if it does.
    pub(in super::super) fn detect() -> Option<Self> {
        (super::detect_common() && is_x86_feature_detected!("avxvnni")).then_some(Avx2(PhantomData))
    }
}

/// Safe operations on pairs of registers: an expression for one of them.
macro_rules! operations {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*) -> $result:ty = |$i:ident| $value:expr;)*) => {
        $(
            $(#[$doc])*
            #[inline(always)]
            fn $name(self, $($arg: $ty),*) -> $result {
                // SAFETY: `self` exists only where the machine has these instructions.
                unsafe { [{ let $i = 0; $value }, { let $i = 1; $value }] }
            }
        )*
    };
}

type F = [__m256; 2];
type I = [__m256i; 2];

/// Sixteen numbers of which the first `n` are used as a mask: ones, then zeros.
#[inline(always)]
fn mask(n: usize, half: usize) -> __m256i {
    static ONES: [i32; 24] = {
        let mut ones = [0; 24];
        let mut i = 0;
        while i < 8 {
            ones[i] = -1;
            i += 1;
        }
        ones
    };
    let n = n.saturating_sub(8 * half).min(8);
    // SAFETY: 8 - n + 8 <= 24; the machine has AVX where this is used.
    unsafe { _mm256_loadu_si256(ONES.as_ptr().add(8 - n).cast()) }
}

/// Lane numbers, for permutations whose indices are known when compiled.
#[inline(always)]
fn lanes(f: impl Fn(i32) -> i32) -> __m256i {
    let mut index = [0i32; 8];
    for (l, i) in index.iter_mut().enumerate() {
        *i = f(l as i32);
    }
    // SAFETY: arrays and vectors of the same size are made of the same bits.
    unsafe { std::mem::transmute(index) }
}

/// Bytes shifted right, or left for negative `by`, in words: bits cross into the neighbouring byte.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn shift(v: __m256i, by: i32) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let count = _mm_cvtsi32_si128(by.abs());
        if by < 0 { _mm256_sll_epi16(v, count) } else { _mm256_srl_epi16(v, count) }
    }
}

impl<M: Multiply> Simd for Avx2<M> {
    const WIDE: bool = false;
    const BIASED: bool = M::BIASED;
    type F = F;
    type I = I;
    type Q = I;

    fn vectorize<K: Kernel<Self>>(self, kernel: K) {
        // SAFETY: `self` exists only where the machine has the features.
        unsafe { M::vectorize(kernel) }
    }

    fn product(self, format: &'static Format, args: &matvec::Args<'_>, many: bool) {
        matvec::tuned(self, format, args, many);
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> F {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }

    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> F {
        // SAFETY: lanes beyond n are not touched.
        unsafe { [_mm256_maskload_ps(p, mask(n, 0)), _mm256_maskload_ps(p.wrapping_add(8), mask(n, 1))] }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: F) {
        // SAFETY: the caller's promise.
        unsafe {
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1]);
        }
    }

    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize, v: F) {
        // SAFETY: lanes beyond n are not touched.
        unsafe {
            _mm256_maskstore_ps(p, mask(n, 0), v[0]);
            _mm256_maskstore_ps(p.wrapping_add(8), mask(n, 1), v[1]);
        }
    }

    #[inline(always)]
    unsafe fn load_dup8(self, p: *const f32) -> F {
        // SAFETY: the caller's promise.
        let v = unsafe { _mm256_loadu_ps(p) };
        // SAFETY: `self` exists only where the machine has these instructions.
        unsafe {
            [_mm256_permutevar8x32_ps(v, lanes(|l| l / 2)), _mm256_permutevar8x32_ps(v, lanes(|l| 4 + l / 2))]
        }
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> F {
        // SAFETY: the caller's promise.
        unsafe {
            [_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(16).cast()))]
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> F {
        // SAFETY: the caller's promise.
        unsafe {
            let a = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            let b = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(16).cast()));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(a)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b))]
        }
    }

    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u8, v: F) {
        // SAFETY: the caller's promise.
        unsafe {
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[0]));
            _mm_storeu_si128(p.add(16).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[1]));
        }
    }

    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> F {
        // SAFETY: the caller's promise.
        unsafe {
            [
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(8).cast()))),
            ]
        }
    }

    #[inline(always)]
    unsafe fn load_i16(self, p: *const i16) -> F {
        // SAFETY: the caller's promise.
        unsafe {
            [
                _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128(p.cast()))),
                _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128(p.add(8).cast()))),
            ]
        }
    }

    operations! {
        fn splat(x: f32) -> F = |_i| _mm256_set1_ps(x);
        fn add(a: F, b: F) -> F = |i| _mm256_add_ps(a[i], b[i]);
        fn sub(a: F, b: F) -> F = |i| _mm256_sub_ps(a[i], b[i]);
        fn mul(a: F, b: F) -> F = |i| _mm256_mul_ps(a[i], b[i]);
        fn div(a: F, b: F) -> F = |i| _mm256_div_ps(a[i], b[i]);
        fn fma(a: F, b: F, c: F) -> F = |i| _mm256_fmadd_ps(a[i], b[i], c[i]);
        fn max(a: F, b: F) -> F = |i| _mm256_max_ps(a[i], b[i]);
        fn min(a: F, b: F) -> F = |i| _mm256_min_ps(a[i], b[i]);
        fn round(a: F) -> F = |i| _mm256_round_ps::<_MM_FROUND_TO_NEAREST_INT>(a[i]);
        fn pow2(n: F) -> F = |i| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(
            _mm256_cvtps_epi32(n[i]),
            _mm256_set1_epi32(127),
        )));
        fn zero_below(x: F, limit: F, v: F) -> F =
            |i| _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(x[i], limit[i]), v[i]);
        fn spread(v: F, part: usize) -> F =
            |i| _mm256_permutevar8x32_ps(v[part / 2], lanes(|l| (4 * (part % 2) + 2 * i) as i32 + l / 4));
        fn to_f32(v: I) -> F = |i| _mm256_cvtepi32_ps(v[i]);
    }

    #[inline(always)]
    fn sum(self, v: F) -> f32 {
        // SAFETY: `self` exists only where the machine has these instructions.
        unsafe { super::sum8(_mm256_add_ps(v[0], v[1])) }
    }

    #[inline(always)]
    fn largest(self, v: F) -> f32 {
        // SAFETY: `self` exists only where the machine has these instructions.
        unsafe {
            let v = _mm256_max_ps(v[0], v[1]);
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
    }

    #[inline(always)]
    unsafe fn magnitude(self, p: *const f32, n: usize) -> f32 {
        // SAFETY: the caller's promise.
        unsafe {
            let sign = _mm256_set1_epi32(i32::MAX);
            let mut max = _mm256_setzero_si256();
            for i in 0..2 * n {
                let bits = _mm256_and_si256(_mm256_loadu_si256(p.add(8 * i).cast()), sign);
                max = _mm256_max_epu32(max, bits);
            }
            let max = _mm_max_epu32(_mm256_castsi256_si128(max), _mm256_extracti128_si256::<1>(max));
            let max = _mm_max_epu32(max, _mm_unpackhi_epi64(max, max));
            let max = _mm_max_epu32(max, _mm_shuffle_epi32::<1>(max));
            f32::from_bits(_mm_cvtsi128_si32(max) as u32)
        }
    }

    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8, v: F) -> i16 {
        // SAFETY: the caller's promise.
        unsafe {
            // Words 0-3, 8-11, 4-7, 12-15, put in order by the permutation.
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(p.cast(), _mm_packs_epi16(low, high));
            let sum = _mm_madd_epi16(_mm_add_epi16(low, high), _mm_set1_epi16(1));
            let sum = _mm_add_epi32(sum, _mm_unpackhi_epi64(sum, sum));
            _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32::<1>(sum))) as i16
        }
    }

    #[inline(always)]
    unsafe fn load_q(self, p: *const u8) -> I {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())] }
    }

    #[inline(always)]
    unsafe fn store_q(self, p: *mut u8, v: I) {
        // SAFETY: the caller's promise.
        unsafe {
            _mm256_storeu_si256(p.cast(), v[0]);
            _mm256_storeu_si256(p.add(32).cast(), v[1]);
        }
    }

    #[inline(always)]
    unsafe fn splat_q(self, p: *const i8) -> I {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_set1_epi32(p.cast::<i32>().read_unaligned()); 2] }
    }

    #[inline(always)]
    unsafe fn splat_i(self, p: *const i32) -> I {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_set1_epi32(p.read_unaligned()); 2] }
    }

    #[inline(always)]
    unsafe fn load_i(self, p: *const i32) -> I {
        // SAFETY: the caller's promise.
        unsafe { self.load_q(p.cast()) }
    }

    #[inline(always)]
    unsafe fn store_i(self, p: *mut i32, v: I) {
        // SAFETY: the caller's promise.
        unsafe { self.store_q(p.cast(), v) }
    }

    #[inline(always)]
    unsafe fn load_sums(self, p: *const i16, pairs: bool) -> I {
        // SAFETY: the caller's promise.
        unsafe {
            let a = _mm256_cvtepi16_epi32(_mm_loadu_si128(p.cast()));
            let b = _mm256_cvtepi16_epi32(_mm_loadu_si128(p.add(8).cast()));
            if pairs {
                [
                    _mm256_add_epi32(a, _mm256_shuffle_epi32::<0b10_11_00_01>(a)),
                    _mm256_add_epi32(b, _mm256_shuffle_epi32::<0b10_11_00_01>(b)),
                ]
            } else {
                [a, b]
            }
        }
    }

    #[inline(always)]
    unsafe fn transpose(self, rows: *const u8, stride: usize, out: *mut u8) {
        // Four blocks of 8 rows and 8 columns.
        // SAFETY: the caller's promise.
        unsafe {
            for (top, left) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
                transpose8(rows.add(top * stride + 4 * left), stride, out.add(64 * left + 4 * top));
            }
        }
    }

    operations! {
        fn zero_q() -> I = |_i| _mm256_setzero_si256();
        fn zero_i() -> I = |_i| _mm256_setzero_si256();
        fn xor(v: I, bits: u8) -> I = |i| _mm256_xor_si256(v[i], _mm256_set1_epi8(bits as i8));
        fn times_minus_128(v: I) -> I =
            |i| _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32::<7>(v[i]));
        fn mac_unsigned(acc: I, w: I, x: I) -> I = |i| M::mac(acc[i], w[i], x[i]);
        // |w| · (x with the sign of w)
        fn mac_signed(acc: I, w: I, x: I) -> I =
            |i| M::mac(acc[i], _mm256_abs_epi8(w[i]), _mm256_sign_epi8(x[i], w[i]));
    }

    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    fn prefetch_far(self, p: *const u8) {
        // SAFETY: it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}

/// Transposes 8 rows of 8 words of 32 bits, `stride` bytes apart; the result's are 64 bytes apart.
///
/// # Safety
/// The machine has AVX2; all of that is valid for reads and writes.
#[inline(always)]
unsafe fn transpose8(rows: *const u8, stride: usize, out: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        // After the unpacking, a register holds one column of four rows in each half, columns c and c + 4.
        let mut columns = [[_mm256_setzero_si256(); 2]; 4];
        for quad in 0..2 {
            let mut row = [_mm256_setzero_si256(); 4];
            for r in 0..4 {
                row[r] = _mm256_loadu_si256(rows.add((4 * quad + r) * stride).cast());
            }
            let [a, b, c, d] = row;
            let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
            columns[0][quad] = _mm256_unpacklo_epi64(ab_low, cd_low);
            columns[1][quad] = _mm256_unpackhi_epi64(ab_low, cd_low);
            columns[2][quad] = _mm256_unpacklo_epi64(ab_high, cd_high);
            columns[3][quad] = _mm256_unpackhi_epi64(ab_high, cd_high);
        }
        for c in 0..4 {
            let [a, b] = columns[c];
            let (left, right) =
                (_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b));
            _mm256_storeu_si256(out.add(64 * c).cast(), left);
            _mm256_storeu_si256(out.add(64 * (c + 4)).cast(), right);
        }
    }
}

impl<M: Multiply> Decode for Avx2<M> {
    #[inline(always)]
    unsafe fn load_halves(self, a: *const u8, b: *const u8) -> I {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_loadu_si256(a.cast()), _mm256_loadu_si256(b.cast())] }
    }

    #[inline(always)]
    unsafe fn load_nibbles(self, a: *const u8, b: *const u8) -> I {
        // SAFETY: the caller's promise.
        unsafe {
            let (a, b) = (_mm_loadu_si128(a.cast()), _mm_loadu_si128(b.cast()));
            let low = _mm256_set1_epi8(15);
            [
                _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(a), a), low),
                _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(b), b), low),
            ]
        }
    }

    #[inline(always)]
    unsafe fn load_shifted(self, p: *const u8, right: [i32; 2], mask: u8) -> I {
        // SAFETY: the caller's promise.
        unsafe {
            let v = _mm256_loadu_si256(p.cast());
            let mask = _mm256_set1_epi8(mask as i8);
            [_mm256_and_si256(shift(v, right[0]), mask), _mm256_and_si256(shift(v, right[1]), mask)]
        }
    }

    operations! {
        fn high_nibbles(v: I) -> I = |i| _mm256_and_si256(_mm256_srli_epi16::<4>(v[i]), _mm256_set1_epi8(15));
        fn and(v: I, mask: u8) -> I = |i| _mm256_and_si256(v[i], _mm256_set1_epi8(mask as i8));
        fn or(a: I, b: I) -> I = |i| _mm256_or_si256(a[i], b[i]);
        fn sub_bytes(v: I, x: u8) -> I = |i| _mm256_sub_epi8(v[i], _mm256_set1_epi8(x as i8));
        fn lookup(table: &[i8; 16], v: I) -> I = |i| _mm256_shuffle_epi8(
            _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())),
            v[i],
        );
        fn expand_bits(bits: u64, value: u8) -> I = |i| {
            // Byte l of 32 looks at bit l % 8 of byte l / 8 of its 32 bits.
            let bytes = _mm256_set1_epi32((bits >> (32 * i)) as i32);
            let bytes = _mm256_shuffle_epi8(bytes, _mm256_set_epi64x(
                0x0303_0303_0303_0303, 0x0202_0202_0202_0202, 0x0101_0101_0101_0101, 0,
            ));
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
            let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
            _mm256_and_si256(set, _mm256_set1_epi8(value as i8))
        };
        fn from_words(words: [u64; 8]) -> I = |i| {
            let w = |j: usize| words[4 * i + j] as i64;
            _mm256_set_epi64x(w(3), w(2), w(1), w(0))
        };
        fn add_bytes(a: I, b: I) -> I = |i| _mm256_add_epi8(a[i], b[i]);
        fn dup_f16(halves: [u16; 8]) -> F = |i| {
            let v: __m128i = std::mem::transmute(halves);
            _mm256_cvtph_ps(if i == 0 { _mm_unpacklo_epi16(v, v) } else { _mm_unpackhi_epi16(v, v) })
        };
        fn splat_f16(half: u16) -> F =
            |_i| _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(half))));
        fn dup_i8(bytes: u64) -> F = |i| {
            let v = _mm_cvtsi64_si128((bytes >> (32 * i)) as i64);
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpacklo_epi8(v, v)))
        };
        fn widen_i8(low: u64, high: u64) -> F = |i| {
            let v = _mm_cvtsi64_si128(if i == 0 { low } else { high } as i64);
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v))
        };
    }

    #[inline(always)]
    fn negate(self, v: I, bits: u64) -> I {
        let minus = self.expand_bits(bits, 0xff);
        // SAFETY: `self` exists only where the machine has these instructions.
        unsafe {
            [
                _mm256_sub_epi8(_mm256_xor_si256(v[0], minus[0]), minus[0]),
                _mm256_sub_epi8(_mm256_xor_si256(v[1], minus[1]), minus[1]),
            ]
        }
    }
}
