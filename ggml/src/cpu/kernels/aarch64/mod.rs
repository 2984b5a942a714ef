//! NEON, with or without dot products: the virtual register is four registers.

use std::arch::aarch64::*;
use std::arch::asm;
use std::marker::PhantomData;

use super::matvec;
use super::simd::{Decode, Kernel, Simd};
use crate::format::Format;

/// NEON, which every 64-bit ARM has, with a way to multiply bytes.
#[derive(Clone, Copy)]
pub(super) struct Neon<M>(PhantomData<M>);

/// How bytes are multiplied and added, and with which features that is compiled.
pub(super) trait Multiply: Copy {
    /// Runs `kernel` with the features enabled.
    ///
    /// # Safety
    /// The machine has them.
    unsafe fn vectorize<K: Kernel<Neon<Self>>>(kernel: K);

    /// Lane `l` of `acc` + Σ w·x over 4 signed bytes, those of `x` within ±127.
    ///
    /// # Safety
    /// The machine has the features.
    unsafe fn mac(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t;
}

/// Through words: a product is at most 128 · 127.
#[derive(Clone, Copy)]
pub(super) struct Words;

/// With SDOT.
#[derive(Clone, Copy)]
pub(super) struct Dot;

impl Multiply for Words {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn vectorize<K: Kernel<Neon<Self>>>(kernel: K) {
        kernel.run(Neon(PhantomData));
    }

    #[inline(always)]
    unsafe fn mac(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: the caller's promise.
        unsafe {
            let low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)));
            let high = vpaddlq_s16(vmull_high_s8(w, x));
            vaddq_s32(acc, vpaddq_s32(low, high))
        }
    }
}

impl Multiply for Dot {
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn vectorize<K: Kernel<Neon<Self>>>(kernel: K) {
        kernel.run(Neon(PhantomData));
    }

    #[inline(always)]
    unsafe fn mac(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // The intrinsic is not stable yet.
        // SAFETY: the caller's promise; nothing but `acc` changes.
        unsafe {
            asm!(
                "sdot {acc:v}.4s, {w:v}.16b, {x:v}.16b",
                acc = inout(vreg) acc,
                w = in(vreg) w,
                x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        acc
    }
}

impl Neon<Words> {
    /// The proof that the machine has the features, if it does.
    pub(super) fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Neon(PhantomData))
    }
}

impl Neon<Dot> {
    /// The proof that the machine has the features, if it does.
    pub(super) fn detect() -> Option<Self> {
        let has = std::arch::is_aarch64_feature_detected!("neon")
            && std::arch::is_aarch64_feature_detected!("dotprod");
        has.then_some(Neon(PhantomData))
    }
}

type F = [float32x4_t; 4];
type I = [int32x4_t; 4];
type Q = [uint8x16_t; 4];

/// Safe operations on four registers: an expression for one of them.
macro_rules! operations {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*) -> $result:ty = |$i:ident| $value:expr;)*) => {
        $(
            $(#[$doc])*
            #[inline(always)]
            fn $name(self, $($arg: $ty),*) -> $result {
                // SAFETY: `self` exists only where the machine has these instructions.
                unsafe {
                    [
                        { let $i = 0; $value },
                        { let $i = 1; $value },
                        { let $i = 2; $value },
                        { let $i = 3; $value },
                    ]
                }
            }
        )*
    };
}

/// Four half-precision numbers to f32, in the half of the register that the instruction names.
macro_rules! widen_f16 {
    ($instruction:literal, $from:literal, $v:expr) => {{
        let wide: float32x4_t;
        asm!(
            concat!($instruction, " {wide:v}.4s, {v:v}.", $from),
            wide = lateout(vreg) wide,
            v = in(vreg) $v,
            options(pure, nomem, nostack, preserves_flags)
        );
        wide
    }};
}

/// Sixteen half-precision numbers to f32. The type of f16 is not stable yet, the instruction is as old as NEON.
///
/// # Safety
/// The machine has NEON.
#[inline(always)]
unsafe fn from_f16(v: [uint16x8_t; 2]) -> F {
    // SAFETY: the caller's promise.
    unsafe {
        [
            widen_f16!("fcvtl", "4h", v[0]),
            widen_f16!("fcvtl2", "8h", v[0]),
            widen_f16!("fcvtl", "4h", v[1]),
            widen_f16!("fcvtl2", "8h", v[1]),
        ]
    }
}

/// Four numbers to half precision, as the current mode rounds: to nearest even.
///
/// # Safety
/// The machine has NEON.
#[inline(always)]
unsafe fn to_f16(v: float32x4_t) -> uint16x4_t {
    let narrow: uint16x4_t;
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "fcvtn {narrow:v}.4h, {v:v}.4s",
            narrow = lateout(vreg) narrow,
            v = in(vreg) v,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    narrow
}

/// Sixteen signed bytes to f32.
///
/// # Safety
/// The machine has NEON.
#[inline(always)]
unsafe fn from_i8(v: int8x16_t) -> F {
    // SAFETY: the caller's promise.
    unsafe {
        let (low, high) = (vmovl_s8(vget_low_s8(v)), vmovl_high_s8(v));
        [
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
            vcvtq_f32_s32(vmovl_high_s16(low)),
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
            vcvtq_f32_s32(vmovl_high_s16(high)),
        ]
    }
}

impl<M: Multiply> Simd for Neon<M> {
    const WIDE: bool = false;
    const BIASED: bool = false;
    type F = F;
    type I = I;
    type Q = Q;

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
        unsafe { [vld1q_f32(p), vld1q_f32(p.add(4)), vld1q_f32(p.add(8)), vld1q_f32(p.add(12))] }
    }

    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> F {
        let mut v = [0f32; 16];
        // SAFETY: n numbers are there, and n <= 16.
        unsafe {
            // Bytes: `p` may have any alignment.
            std::ptr::copy_nonoverlapping(p.cast::<u8>(), v.as_mut_ptr().cast(), 4 * n);
            self.load(v.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: F) {
        // SAFETY: the caller's promise.
        unsafe {
            for i in 0..4 {
                vst1q_f32(p.add(4 * i), v[i]);
            }
        }
    }

    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize, v: F) {
        let mut all = [0f32; 16];
        // SAFETY: there is room for n numbers, and n <= 16.
        unsafe {
            self.store(all.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(all.as_ptr().cast::<u8>(), p.cast(), 4 * n);
        }
    }

    #[inline(always)]
    unsafe fn load_dup8(self, p: *const f32) -> F {
        // SAFETY: the caller's promise.
        unsafe {
            let (a, b) = (vld1q_f32(p), vld1q_f32(p.add(4)));
            [vzip1q_f32(a, a), vzip2q_f32(a, a), vzip1q_f32(b, b), vzip2q_f32(b, b)]
        }
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> F {
        // SAFETY: the caller's promise.
        unsafe { from_f16([vreinterpretq_u16_u8(vld1q_u8(p)), vreinterpretq_u16_u8(vld1q_u8(p.add(16)))]) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> F {
        // SAFETY: the caller's promise.
        unsafe {
            let (a, b) = (vreinterpretq_u16_u8(vld1q_u8(p)), vreinterpretq_u16_u8(vld1q_u8(p.add(16))));
            [
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(a))),
                vreinterpretq_f32_u32(vshll_high_n_u16::<16>(a)),
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(b))),
                vreinterpretq_f32_u32(vshll_high_n_u16::<16>(b)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u8, v: F) {
        // SAFETY: the caller's promise.
        unsafe {
            for i in 0..4 {
                vst1_u8(p.add(8 * i), vreinterpret_u8_u16(to_f16(v[i])));
            }
        }
    }

    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> F {
        // SAFETY: the caller's promise.
        unsafe { from_i8(vld1q_s8(p)) }
    }

    #[inline(always)]
    unsafe fn load_i16(self, p: *const i16) -> F {
        // SAFETY: the caller's promise.
        self.to_f32(unsafe { self.load_sums(p, false) })
    }

    operations! {
        fn splat(x: f32) -> F = |_i| vdupq_n_f32(x);
        fn add(a: F, b: F) -> F = |i| vaddq_f32(a[i], b[i]);
        fn sub(a: F, b: F) -> F = |i| vsubq_f32(a[i], b[i]);
        fn mul(a: F, b: F) -> F = |i| vmulq_f32(a[i], b[i]);
        fn div(a: F, b: F) -> F = |i| vdivq_f32(a[i], b[i]);
        fn fma(a: F, b: F, c: F) -> F = |i| vfmaq_f32(c[i], a[i], b[i]);
        fn max(a: F, b: F) -> F = |i| vmaxq_f32(a[i], b[i]);
        fn min(a: F, b: F) -> F = |i| vminq_f32(a[i], b[i]);
        fn round(a: F) -> F = |i| vrndnq_f32(a[i]);
        fn pow2(n: F) -> F = |i| {
            let biased = vaddq_s32(vcvtnq_s32_f32(n[i]), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
        };
        fn zero_below(x: F, limit: F, v: F) -> F = |i| {
            let below = vcltq_f32(x[i], limit[i]);
            vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v[i]), below))
        };
        fn to_f32(v: I) -> F = |i| vcvtq_f32_s32(v[i]);
        fn zero_q() -> Q = |_i| vdupq_n_u8(0);
        fn zero_i() -> I = |_i| vdupq_n_s32(0);
        fn xor(v: Q, bits: u8) -> Q = |i| veorq_u8(v[i], vdupq_n_u8(bits));
        fn times_minus_128(v: I) -> I = |i| vnegq_s32(vshlq_n_s32::<7>(v[i]));
        // Within 0..=127 the sign makes no difference.
        fn mac_unsigned(acc: I, w: Q, x: Q) -> I =
            |i| M::mac(acc[i], vreinterpretq_s8_u8(w[i]), vreinterpretq_s8_u8(x[i]));
        fn mac_signed(acc: I, w: Q, x: Q) -> I =
            |i| M::mac(acc[i], vreinterpretq_s8_u8(w[i]), vreinterpretq_s8_u8(x[i]));
    }

    #[inline(always)]
    fn spread(self, v: F, part: usize) -> F {
        // SAFETY: `self` exists only where the machine has these instructions.
        unsafe {
            let v = v[part];
            [
                vdupq_laneq_f32::<0>(v),
                vdupq_laneq_f32::<1>(v),
                vdupq_laneq_f32::<2>(v),
                vdupq_laneq_f32::<3>(v),
            ]
        }
    }

    #[inline(always)]
    fn sum(self, v: F) -> f32 {
        // SAFETY: `self` exists only where the machine has these instructions.
        unsafe {
            let v = vaddq_f32(vaddq_f32(v[0], v[2]), vaddq_f32(v[1], v[3]));
            vpadds_f32(vadd_f32(vget_low_f32(v), vget_high_f32(v)))
        }
    }

    #[inline(always)]
    fn largest(self, v: F) -> f32 {
        // SAFETY: `self` exists only where the machine has these instructions.
        unsafe { vmaxvq_f32(vmaxq_f32(vmaxq_f32(v[0], v[1]), vmaxq_f32(v[2], v[3]))) }
    }

    #[inline(always)]
    unsafe fn magnitude(self, p: *const f32, n: usize) -> f32 {
        // SAFETY: the caller's promise.
        unsafe {
            let mut max = vdupq_n_u32(0);
            for i in 0..4 * n {
                max = vmaxq_u32(max, vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(p.add(4 * i)))));
            }
            f32::from_bits(vmaxvq_u32(max))
        }
    }

    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8, v: F) -> i16 {
        // SAFETY: the caller's promise.
        unsafe {
            let low = vmovn_high_s32(vmovn_s32(vcvtnq_s32_f32(v[0])), vcvtnq_s32_f32(v[1]));
            let high = vmovn_high_s32(vmovn_s32(vcvtnq_s32_f32(v[2])), vcvtnq_s32_f32(v[3]));
            vst1q_s8(p, vmovn_high_s16(vmovn_s16(low), high));
            vaddvq_s16(vaddq_s16(low, high))
        }
    }

    #[inline(always)]
    unsafe fn load_q(self, p: *const u8) -> Q {
        // SAFETY: the caller's promise.
        unsafe { [vld1q_u8(p), vld1q_u8(p.add(16)), vld1q_u8(p.add(32)), vld1q_u8(p.add(48))] }
    }

    #[inline(always)]
    unsafe fn store_q(self, p: *mut u8, v: Q) {
        // SAFETY: the caller's promise.
        unsafe {
            for i in 0..4 {
                vst1q_u8(p.add(16 * i), v[i]);
            }
        }
    }

    #[inline(always)]
    unsafe fn splat_q(self, p: *const i8) -> Q {
        // SAFETY: the caller's promise.
        unsafe { [vreinterpretq_u8_u32(vdupq_n_u32(p.cast::<u32>().read_unaligned())); 4] }
    }

    #[inline(always)]
    unsafe fn splat_i(self, p: *const i32) -> I {
        // SAFETY: the caller's promise.
        unsafe { [vdupq_n_s32(p.read_unaligned()); 4] }
    }

    #[inline(always)]
    unsafe fn load_i(self, p: *const i32) -> I {
        // SAFETY: the caller's promise.
        std::array::from_fn(|i| unsafe { vld1q_s32(p.add(4 * i)) })
    }

    #[inline(always)]
    unsafe fn store_i(self, p: *mut i32, v: I) {
        // SAFETY: the caller's promise.
        unsafe {
            for i in 0..4 {
                vst1q_s32(p.add(4 * i), v[i]);
            }
        }
    }

    #[inline(always)]
    unsafe fn load_sums(self, p: *const i16, pairs: bool) -> I {
        // SAFETY: the caller's promise.
        unsafe {
            let (a, b) = (vld1q_s16(p), vld1q_s16(p.add(8)));
            let mut v = [
                vmovl_s16(vget_low_s16(a)),
                vmovl_high_s16(a),
                vmovl_s16(vget_low_s16(b)),
                vmovl_high_s16(b),
            ];
            if pairs {
                for i in 0..4 {
                    v[i] = vaddq_s32(v[i], vrev64q_s32(v[i]));
                }
            }
            v
        }
    }

    #[inline(always)]
    unsafe fn transpose(self, rows: *const u8, stride: usize, out: *mut u8) {
        // Sixteen blocks of 4 rows and 4 columns.
        // SAFETY: the caller's promise.
        unsafe {
            for top in 0..4 {
                for left in 0..4 {
                    let p = rows.add(4 * top * stride + 16 * left);
                    let mut row = [vdupq_n_u32(0); 4];
                    for r in 0..4 {
                        row[r] = vreinterpretq_u32_u8(vld1q_u8(p.add(r * stride)));
                    }
                    let [a, b, c, d] = row;
                    let even_ab = vreinterpretq_u64_u32(vtrn1q_u32(a, b));
                    let even_cd = vreinterpretq_u64_u32(vtrn1q_u32(c, d));
                    let odd_ab = vreinterpretq_u64_u32(vtrn2q_u32(a, b));
                    let odd_cd = vreinterpretq_u64_u32(vtrn2q_u32(c, d));
                    let columns = [
                        vtrn1q_u64(even_ab, even_cd),
                        vtrn1q_u64(odd_ab, odd_cd),
                        vtrn2q_u64(even_ab, even_cd),
                        vtrn2q_u64(odd_ab, odd_cd),
                    ];
                    for c in 0..4 {
                        let out = out.add(64 * (4 * left + c) + 16 * top);
                        vst1q_u8(out, vreinterpretq_u8_u64(columns[c]));
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a hint; it reads nothing.
        unsafe { asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(nostack, preserves_flags, readonly)) }
    }

    #[inline(always)]
    fn prefetch_far(self, p: *const u8) {
        // SAFETY: a hint; it reads nothing.
        unsafe { asm!("prfm pldl2keep, [{p}]", p = in(reg) p, options(nostack, preserves_flags, readonly)) }
    }
}

impl<M: Multiply> Decode for Neon<M> {
    #[inline(always)]
    unsafe fn load_halves(self, a: *const u8, b: *const u8) -> Q {
        // SAFETY: the caller's promise.
        unsafe { [vld1q_u8(a), vld1q_u8(a.add(16)), vld1q_u8(b), vld1q_u8(b.add(16))] }
    }

    #[inline(always)]
    unsafe fn load_nibbles(self, a: *const u8, b: *const u8) -> Q {
        // SAFETY: the caller's promise.
        unsafe {
            let (a, b, low) = (vld1q_u8(a), vld1q_u8(b), vdupq_n_u8(15));
            [vandq_u8(a, low), vshrq_n_u8::<4>(a), vandq_u8(b, low), vshrq_n_u8::<4>(b)]
        }
    }

    #[inline(always)]
    unsafe fn load_shifted(self, p: *const u8, right: [i32; 2], mask: u8) -> Q {
        // SAFETY: the caller's promise.
        unsafe {
            let (a, b, mask) = (vld1q_u8(p), vld1q_u8(p.add(16)), vdupq_n_u8(mask));
            // A negative count shifts to the right.
            let (first, second) = (vdupq_n_s8(-right[0] as i8), vdupq_n_s8(-right[1] as i8));
            [
                vandq_u8(vshlq_u8(a, first), mask),
                vandq_u8(vshlq_u8(b, first), mask),
                vandq_u8(vshlq_u8(a, second), mask),
                vandq_u8(vshlq_u8(b, second), mask),
            ]
        }
    }

    operations! {
        fn high_nibbles(v: Q) -> Q = |i| vshrq_n_u8::<4>(v[i]);
        fn and(v: Q, mask: u8) -> Q = |i| vandq_u8(v[i], vdupq_n_u8(mask));
        fn or(a: Q, b: Q) -> Q = |i| vorrq_u8(a[i], b[i]);
        fn sub_bytes(v: Q, x: u8) -> Q = |i| vsubq_u8(v[i], vdupq_n_u8(x));
        fn lookup(table: &[i8; 16], v: Q) -> Q = |i| vqtbl1q_u8(vld1q_u8(table.as_ptr().cast()), v[i]);
        fn expand_bits(bits: u64, value: u8) -> Q = |i| {
            // Byte l of 16 looks at bit l % 8 of byte l / 8 of its 16 bits.
            let bits = (bits >> (16 * i)) as u16;
            let bytes = vcombine_u8(vdup_n_u8(bits as u8), vdup_n_u8((bits >> 8) as u8));
            let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
            vandq_u8(vtstq_u8(bytes, bit), vdupq_n_u8(value))
        };
        fn from_words(words: [u64; 8]) -> Q =
            |i| vreinterpretq_u8_u64(vcombine_u64(vcreate_u64(words[2 * i]), vcreate_u64(words[2 * i + 1])));
        fn add_bytes(a: Q, b: Q) -> Q = |i| vaddq_u8(a[i], b[i]);
        fn splat_f16(half: u16) -> F = |_i| widen_f16!("fcvtl", "4h", vdupq_n_u16(half));
    }

    #[inline(always)]
    fn dup_f16(self, halves: [u16; 8]) -> F {
        // SAFETY: `self` exists only where the machine has these instructions.
        unsafe {
            let v = vld1q_u16(halves.as_ptr());
            from_f16([vzip1q_u16(v, v), vzip2q_u16(v, v)])
        }
    }

    #[inline(always)]
    fn dup_i8(self, bytes: u64) -> F {
        // SAFETY: `self` exists only where the machine has these instructions.
        unsafe {
            let v = vcreate_s8(bytes);
            from_i8(vcombine_s8(vzip1_s8(v, v), vzip2_s8(v, v)))
        }
    }

    #[inline(always)]
    fn widen_i8(self, low: u64, high: u64) -> F {
        // SAFETY: `self` exists only where the machine has these instructions.
        unsafe { from_i8(vcombine_s8(vcreate_s8(low), vcreate_s8(high))) }
    }

    #[inline(always)]
    fn negate(self, v: Q, bits: u64) -> Q {
        let minus = self.expand_bits(bits, 0xff);
        let mut v = v;
        for i in 0..4 {
            // SAFETY: `self` exists only where the machine has these instructions.
            v[i] = unsafe { vsubq_u8(veorq_u8(v[i], minus[i]), minus[i]) };
        }
        v
    }
}
