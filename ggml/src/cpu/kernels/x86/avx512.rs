//! AVX-512: the virtual register is a register.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::super::matvec::STEP;
use super::super::simd::{Decode, Kernel, Simd};
use super::super::{float, gemm, matvec};
use super::few::few;
use super::q4_0::Q40;
use super::q4_k::Q4K;
use super::q6_k::Q6K;
use crate::format::{Format, GgmlType};

/// AVX-512 F, BW, DQ and VL, with a way to multiply bytes.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx512<M>(pub(super) PhantomData<M>);

/// How bytes are multiplied and added, and with which features that is compiled.
pub(in super::super) trait Multiply: Copy {
    /// See [`Simd::BIASED`].
    const BIASED: bool;

    /// Runs `kernel` with the features enabled.
    ///
    /// # Safety
    /// The machine has them.
    unsafe fn vectorize<K: Kernel<Avx512<Self>>>(kernel: K);

    /// Lane `l` of `acc` + Σ w·x over 4 bytes, those of `w` unsigned and within 0..=128 unless `BIASED`, those of
    /// `x` within ±127.
    ///
    /// # Safety
    /// The machine has the features.
    unsafe fn mac(acc: __m512i, w: __m512i, x: __m512i) -> __m512i;

    /// See [`Simd::gemm`].
    fn gemm<W: matvec::Weights<Avx512<Self>>>(s: Avx512<Self>, w: W, sub: usize, args: &matvec::Args<'_>) {
        gemm::gemm(s, w, sub, args);
    }

    /// See [`Simd::MANY_ROWS`].
    const MANY_ROWS: usize = float::STRIP;

    /// See [`Simd::many`].
    fn many(s: Avx512<Self>, ty: GgmlType, args: &float::Args) {
        float::many(s, ty, args);
    }
}

/// Through words. A pair of products is at most 2 · 128 · 127 = 32,512: no saturation.
#[derive(Clone, Copy)]
pub(in super::super) struct Words;

/// With the neural network instructions.
#[derive(Clone, Copy)]
pub(in super::super) struct Vnni;

impl Multiply for Words {
    const BIASED: bool = false;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
    unsafe fn vectorize<K: Kernel<Avx512<Self>>>(kernel: K) {
        kernel.run(Avx512(PhantomData));
    }

    #[inline(always)]
    unsafe fn mac(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let words = _mm512_maddubs_epi16(w, x);
            _mm512_add_epi32(acc, _mm512_madd_epi16(words, _mm512_set1_epi16(1)))
        }
    }
}

impl Multiply for Vnni {
    const BIASED: bool = true;

    #[inline]
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt"
    )]
    unsafe fn vectorize<K: Kernel<Avx512<Self>>>(kernel: K) {
        kernel.run(Avx512(PhantomData));
    }

    #[inline(always)]
    unsafe fn mac(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_dpbusd_epi32(acc, w, x) }
    }
}

impl Avx512<Words> {
    /// The proof that the machine has the features, if it does.
    pub(in super::super) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && super::detect_common();
        has.then_some(Avx512(PhantomData))
    }
}

impl Avx512<Vnni> {
    /// The proof that the machine has the features, if it does.
    pub(in super::super) fn detect() -> Option<Self> {
        let has = Avx512::<Words>::detect().is_some() && is_x86_feature_detected!("avx512vnni");
        has.then_some(Avx512(PhantomData))
    }
}

/// Safe operations on registers, one expression each.
macro_rules! operations {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*) -> $result:ty = $value:expr;)*) => {
        $(
            $(#[$doc])*
            #[inline(always)]
            fn $name(self, $($arg: $ty),*) -> $result {
                // SAFETY: `self` exists only where the machine has these instructions.
                unsafe { $value }
            }
        )*
    };
}

/// The lowest `n <= 16` lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

/// Lane numbers, for permutations whose indices are known when compiled.
#[inline(always)]
pub(super) fn lanes(f: impl Fn(i32) -> i32) -> __m512i {
    let mut index = [0i32; 16];
    for (l, i) in index.iter_mut().enumerate() {
        *i = f(l as i32);
    }
    // SAFETY: arrays and vectors of the same size are made of the same bits.
    unsafe { std::mem::transmute(index) }
}

impl<M: Multiply> Simd for Avx512<M> {
    const WIDE: bool = true;
    const BIASED: bool = M::BIASED;
    type F = __m512;
    type I = __m512i;
    type Q = __m512i;

    fn vectorize<K: Kernel<Self>>(self, kernel: K) {
        // SAFETY: `self` exists only where the machine has the features.
        unsafe { M::vectorize(kernel) }
    }

    fn product(self, format: &'static Format, args: &matvec::Args<'_>, many: bool) {
        match format.ty {
            // Products of bytes need more than 128 in weights of Q4_K.
            GgmlType::Q4_K if M::BIASED && !many => few::<M, Q4K>(self, args),
            GgmlType::Q6_K if M::BIASED && !many => few::<M, Q6K>(self, args),
            GgmlType::Q4_0 if M::BIASED && !many && args.x.k.is_multiple_of(STEP) => {
                few::<M, Q40>(self, args)
            }
            _ => matvec::tuned(self, format, args, many),
        }
    }

    fn gemm<W: matvec::Weights<Self>>(self, w: W, sub: usize, args: &matvec::Args<'_>) {
        M::gemm(self, w, sub, args);
    }

    const MANY_ROWS: usize = M::MANY_ROWS;

    fn many(self, ty: GgmlType, args: &float::Args) {
        M::many(self, ty, args);
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_ps(p) }
    }

    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: lanes beyond n are not touched.
        unsafe { _mm512_maskz_loadu_ps(first(n), p) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(p, v) }
    }

    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize, v: __m512) {
        // SAFETY: lanes beyond n are not touched.
        unsafe { _mm512_mask_storeu_ps(p, first(n), v) }
    }

    #[inline(always)]
    unsafe fn load_dup8(self, p: *const f32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_permutexvar_ps(lanes(|l| l / 2), _mm512_castps256_ps512(_mm256_loadu_ps(p))) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u8, v: __m512) {
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }

    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_i16(self, p: *const i16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256(p.cast()))) }
    }

    operations! {
        fn splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        fn add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        fn sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        fn mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        fn div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        fn max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        fn min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        fn round(a: __m512) -> __m512 = _mm512_roundscale_ps::<_MM_FROUND_TO_NEAREST_INT>(a);
        fn pow2(n: __m512) -> __m512 = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(
            _mm512_cvtps_epi32(n),
            _mm512_set1_epi32(127),
        )));
        fn zero_below(x: __m512, limit: __m512, v: __m512) -> __m512 =
            _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, limit), v);
        fn sum(v: __m512) -> f32 = {
            let v = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            super::sum8(v)
        };
        fn largest(v: __m512) -> f32 = _mm512_reduce_max_ps(v);
        fn spread(v: __m512, part: usize) -> __m512 =
            _mm512_permutexvar_ps(lanes(|l| 4 * part as i32 + l / 4), v);
        fn to_f32(v: __m512i) -> __m512 = _mm512_cvtepi32_ps(v);
    }

    #[inline(always)]
    unsafe fn magnitude(self, p: *const f32, n: usize) -> f32 {
        // SAFETY: the caller's promise.
        unsafe {
            let mut max = _mm512_setzero_si512();
            for i in 0..n {
                let bits = _mm512_castps_si512(_mm512_abs_ps(_mm512_loadu_ps(p.add(16 * i))));
                max = _mm512_max_epu32(max, bits);
            }
            f32::from_bits(_mm512_reduce_max_epu32(max))
        }
    }

    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8, v: __m512) -> i16 {
        // SAFETY: the caller's promise.
        unsafe {
            let q = _mm512_cvtps_epi32(v);
            _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(q));
            _mm512_reduce_add_epi32(q) as i16
        }
    }

    #[inline(always)]
    unsafe fn load_q(self, p: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }

    #[inline(always)]
    unsafe fn store_q(self, p: *mut u8, v: __m512i) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }

    #[inline(always)]
    unsafe fn splat_q(self, p: *const i8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn splat_i(self, p: *const i32) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_set1_epi32(p.read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn load_i(self, p: *const i32) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }

    #[inline(always)]
    unsafe fn store_sums<const R: usize>(self, p: *mut f32, v: [__m512; R]) {
        if R != 4 {
            for (r, v) in v.into_iter().enumerate() {
                // SAFETY: r < R.
                unsafe { p.add(r).write(self.sum(v)) };
            }
            return;
        }
        // Four sums at once, with the additions of `sum`: halves, then quarters, then inside a quarter.
        // SAFETY: the caller's promise.
        unsafe {
            let halves = |a, b| {
                _mm512_add_ps(
                    _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b),
                    _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b),
                )
            };
            let (ab, cd) = (halves(v[0], v[1 % R]), halves(v[2 % R], v[3 % R]));
            let quarters = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd),
            );
            let pairs = _mm512_add_ps(quarters, _mm512_permute_ps::<0b11_10_11_10>(quarters));
            let sums = _mm512_add_ps(pairs, _mm512_permute_ps::<0b01_01_01_01>(pairs));
            let sums = _mm512_permutexvar_ps(lanes(|l| 4 * (l & 3)), sums);
            _mm_storeu_ps(p, _mm512_castps512_ps128(sums));
        }
    }

    #[inline(always)]
    unsafe fn store_i(self, p: *mut i32, v: __m512i) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }

    #[inline(always)]
    unsafe fn load_sums(self, p: *const i16, pairs: bool) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let v = _mm512_cvtepi16_epi32(_mm256_loadu_si256(p.cast()));
            if pairs { _mm512_add_epi32(v, _mm512_shuffle_epi32::<0b10_11_00_01>(v)) } else { v }
        }
    }

    #[inline(always)]
    unsafe fn transpose(self, rows: *const u8, stride: usize, out: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            // Four rows at a time, a quarter of each: after the unpacking, a register holds one column of
            // four rows in each of its quarters, columns 4q + c.
            let mut columns = [[_mm512_setzero_si512(); 4]; 4];
            for quad in 0..4 {
                let mut row = [_mm512_setzero_si512(); 4];
                for r in 0..4 {
                    row[r] = _mm512_loadu_si512(rows.add((4 * quad + r) * stride).cast());
                }
                let [a, b, c, d] = row;
                let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
                let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
                columns[0][quad] = _mm512_unpacklo_epi64(ab_low, cd_low);
                columns[1][quad] = _mm512_unpackhi_epi64(ab_low, cd_low);
                columns[2][quad] = _mm512_unpacklo_epi64(ab_high, cd_high);
                columns[3][quad] = _mm512_unpackhi_epi64(ab_high, cd_high);
            }
            for c in 0..4 {
                // A 4 × 4 transposition of quarters.
                let [a, b, d, e] = columns[c];
                let (low, high) = (
                    _mm512_shuffle_i32x4::<0b01_00_01_00>(a, b),
                    _mm512_shuffle_i32x4::<0b01_00_01_00>(d, e),
                );
                let (low2, high2) = (
                    _mm512_shuffle_i32x4::<0b11_10_11_10>(a, b),
                    _mm512_shuffle_i32x4::<0b11_10_11_10>(d, e),
                );
                let quarters = [
                    _mm512_shuffle_i32x4::<0b10_00_10_00>(low, high),
                    _mm512_shuffle_i32x4::<0b11_01_11_01>(low, high),
                    _mm512_shuffle_i32x4::<0b10_00_10_00>(low2, high2),
                    _mm512_shuffle_i32x4::<0b11_01_11_01>(low2, high2),
                ];
                for (q, column) in quarters.into_iter().enumerate() {
                    _mm512_storeu_si512(out.add(64 * (4 * q + c)).cast(), column);
                }
            }
        }
    }

    operations! {
        fn zero_q() -> __m512i = _mm512_setzero_si512();
        fn zero_i() -> __m512i = _mm512_setzero_si512();
        fn xor(v: __m512i, bits: u8) -> __m512i = _mm512_xor_si512(v, _mm512_set1_epi8(bits as i8));
        fn times_minus_128(v: __m512i) -> __m512i =
            _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32::<7>(v));
        fn prefetch(p: *const u8) -> () = _mm_prefetch::<_MM_HINT_T0>(p.cast());
        fn prefetch_far(p: *const u8) -> () = _mm_prefetch::<_MM_HINT_T1>(p.cast());
        fn mac_unsigned(acc: __m512i, w: __m512i, x: __m512i) -> __m512i = M::mac(acc, w, x);
        fn mac_signed(acc: __m512i, w: __m512i, x: __m512i) -> __m512i = {
            // |w| · (x with the sign of w)
            let x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
            M::mac(acc, _mm512_abs_epi8(w), x)
        };
    }
}

impl<M: Multiply> Decode for Avx512<M> {
    #[inline(always)]
    unsafe fn load_halves(self, a: *const u8, b: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let a = _mm512_castsi256_si512(_mm256_loadu_si256(a.cast()));
            _mm512_inserti64x4::<1>(a, _mm256_loadu_si256(b.cast()))
        }
    }

    #[inline(always)]
    unsafe fn load_nibbles(self, a: *const u8, b: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let a = _mm512_broadcast_i32x4(_mm_loadu_si128(a.cast()));
            let v = _mm512_mask_broadcast_i32x4(a, 0xff00, _mm_loadu_si128(b.cast()));
            let v = _mm512_srlv_epi32(v, lanes(|l| l & 4));
            _mm512_and_si512(v, _mm512_set1_epi8(15))
        }
    }

    #[inline(always)]
    unsafe fn load_shifted(self, p: *const u8, right: [i32; 2], mask: u8) -> __m512i {
        // A rotation, since it goes both ways.
        // SAFETY: the caller's promise.
        unsafe {
            let v = _mm512_broadcast_i64x4(_mm256_loadu_si256(p.cast()));
            let v = _mm512_rorv_epi32(v, lanes(|l| right[(l / 8) as usize] & 31));
            _mm512_and_si512(v, _mm512_set1_epi8(mask as i8))
        }
    }

    operations! {
        fn high_nibbles(v: __m512i) -> __m512i =
            _mm512_and_si512(_mm512_srli_epi16::<4>(v), _mm512_set1_epi8(15));
        fn and(v: __m512i, mask: u8) -> __m512i = _mm512_and_si512(v, _mm512_set1_epi8(mask as i8));
        fn or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        fn sub_bytes(v: __m512i, x: u8) -> __m512i = _mm512_sub_epi8(v, _mm512_set1_epi8(x as i8));
        fn lookup(table: &[i8; 16], v: __m512i) -> __m512i =
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), v);
        fn expand_bits(bits: u64, value: u8) -> __m512i = _mm512_maskz_set1_epi8(bits, value as i8);
        fn from_words(words: [u64; 8]) -> __m512i = {
            let [a, b, c, d, e, f, g, h] = words.map(|w| w as i64);
            _mm512_set_epi64(h, g, f, e, d, c, b, a)
        };
        fn add_bytes(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi8(a, b);
        fn negate(v: __m512i, bits: u64) -> __m512i =
            _mm512_mask_sub_epi8(v, bits, _mm512_setzero_si512(), v);
        fn dup_f16(halves: [u16; 8]) -> __m512 = {
            let v: __m128i = std::mem::transmute(halves);
            let v = _mm256_set_m128i(_mm_unpackhi_epi16(v, v), _mm_unpacklo_epi16(v, v));
            _mm512_cvtph_ps(v)
        };
        fn splat_f16(half: u16) -> __m512 =
            _mm512_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(half))));
        fn dup_i8(bytes: u64) -> __m512 = {
            let v = _mm_cvtsi64_si128(bytes as i64);
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_unpacklo_epi8(v, v)))
        };
        fn widen_i8(low: u64, high: u64) -> __m512 =
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_set_epi64x(high as i64, low as i64)));
    }
}
