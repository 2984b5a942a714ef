//! The layouts of the formats whose codes stand for points of a grid: a table lookup per 4 or 8 elements.
//!
//! As in [`super::layouts`], but most of the work is scalar: codes and signs are taken apart in 64-bit
//! words, the points are gathered into registers, where they get their signs.

#![allow(non_camel_case_types)] // the formats have the names that people know

use super::layouts::{Block256, nibbles, read};
use super::matvec::Step;
use super::simd::Decode;
use crate::format::{IQ1S, IQ2S, IQ2XS, IQ2XXS, IQ3S, IQ3XXS};

/// 1 in every byte.
const ONES: u64 = 0x0101_0101_0101_0101;

/// Eight coordinates as a word.
#[inline(always)]
fn word(point: &[i8; 8]) -> u64 {
    u64::from_le_bytes(point.map(|x| x as u8))
}

/// Twice four coordinates as a word.
#[inline(always)]
fn words(first: &[i8; 4], second: &[i8; 4]) -> u64 {
    let half = |point: &[i8; 4]| u64::from(u32::from_le_bytes(point.map(|x| x as u8)));
    half(first) | half(second) << 32
}

/// Four times seven signs, the lowest bits first, to four bytes of eight: the eighth makes the number of
/// minuses even.
#[inline(always)]
fn even_signs(w: u32) -> u32 {
    let x = w & 0x7f | w << 1 & 0x7f00 | w << 2 & 0x7f_0000 | w << 3 & 0x7f00_0000;
    // The parity of each byte ends up in its lowest bit; what comes from the byte above stays above.
    let p = x ^ x >> 4;
    let p = p ^ p >> 2;
    let p = p ^ p >> 1;
    x | (p & 0x0101_0101) << 7
}

/// Eight bits, each eight times: bit `i` fills byte `i`.
#[inline(always)]
fn fill(bits: u64) -> u64 {
    let alone = bits.wrapping_mul(ONES) & 0x8040_2010_0804_0201;
    ((alone + 0x7f7f_7f7f_7f7f_7f7f) >> 7 & ONES) * 255
}

/// A step with scales (s + ½)·d·`unit` = (2s + 1)·(d·`unit`/2), with the codes 2s + 1 in `odd`.
#[inline(always)]
fn with_odd_scales<S: Decode>(s: S, q: [S::Q; 4], d: u16, odd: S::F, unit: f32) -> Step<S> {
    Step::without_min(s, q, odd, s.mul(s.splat_f16(d), s.splat(unit / 2.0)))
}

/// See [`crate::format`].
#[derive(Clone, Copy)]
pub(super) struct IQ2_XXS;

impl Block256 for IQ2_XXS {
    const BYTES: usize = 66;
    const MIN: bool = false;

    #[inline(always)]
    unsafe fn block<S: Decode>(s: S, p: *const u8) -> Step<S> {
        // SAFETY: every offset is within the block.
        unsafe {
            let mut q = [s.zero_q(); 4];
            let mut scales = 0u64;
            for part in 0..4 {
                let mut points = [0; 8];
                let mut signs = 0;
                for half in 0..2 {
                    let sub = 2 * part + half;
                    let codes: [u8; 4] = read(p.add(2 + 8 * sub));
                    let word_of_signs: u32 = read(p.add(6 + 8 * sub));
                    for i in 0..4 {
                        points[4 * half + i] = word(&IQ2XXS[usize::from(codes[i])]);
                    }
                    signs |= u64::from(even_signs(word_of_signs)) << (32 * half);
                    scales |= u64::from(word_of_signs >> 28) << (8 * sub);
                }
                q[part] = s.negate(s.from_words(points), signs);
            }
            with_odd_scales(s, q, read(p), s.dup_i8(2 * scales + ONES), 0.25)
        }
    }
}

/// See [`crate::format`].
#[derive(Clone, Copy)]
pub(super) struct IQ2_XS;

impl Block256 for IQ2_XS {
    const BYTES: usize = 74;
    const MIN: bool = false;

    #[inline(always)]
    unsafe fn block<S: Decode>(s: S, p: *const u8) -> Step<S> {
        // SAFETY: every offset is within the block.
        unsafe {
            let mut q = [s.zero_q(); 4];
            for part in 0..4 {
                let mut points = [0; 8];
                let mut signs = 0;
                for half in 0..2 {
                    let codes: [u16; 4] = read(p.add(2 + 16 * part + 8 * half));
                    let mut sevens = 0;
                    for i in 0..4 {
                        points[4 * half + i] = word(&IQ2XS[usize::from(codes[i] & 511)]);
                        sevens |= u32::from(codes[i] >> 9) << (7 * i);
                    }
                    signs |= u64::from(even_signs(sevens)) << (32 * half);
                }
                q[part] = s.negate(s.from_words(points), signs);
            }
            let odd = |at| 2 * nibbles(read(p.add(at))) + ONES;
            with_odd_scales(s, q, read(p), s.widen_i8(odd(66), odd(70)), 0.25)
        }
    }
}

/// See [`crate::format`].
#[derive(Clone, Copy)]
pub(super) struct IQ2_S;

impl Block256 for IQ2_S {
    const BYTES: usize = 82;
    const MIN: bool = false;

    #[inline(always)]
    unsafe fn block<S: Decode>(s: S, p: *const u8) -> Step<S> {
        // SAFETY: every offset is within the block.
        unsafe {
            let mut q = [s.zero_q(); 4];
            for part in 0..4 {
                let low: [u8; 8] = read(p.add(2 + 8 * part));
                let high: u16 = read(p.add(66 + 2 * part));
                let mut points = [0; 8];
                for i in 0..8 {
                    let code = usize::from(low[i]) | usize::from(high >> (2 * i) & 3) << 8;
                    points[i] = word(&IQ2S[code]);
                }
                q[part] = s.negate(s.from_words(points), read(p.add(34 + 8 * part)));
            }
            let odd = |at| 2 * nibbles(read(p.add(at))) + ONES;
            with_odd_scales(s, q, read(p), s.widen_i8(odd(74), odd(78)), 0.25)
        }
    }
}

/// See [`crate::format`].
#[derive(Clone, Copy)]
pub(super) struct IQ3_XXS;

impl Block256 for IQ3_XXS {
    const BYTES: usize = 98;
    const MIN: bool = false;

    #[inline(always)]
    unsafe fn block<S: Decode>(s: S, p: *const u8) -> Step<S> {
        // SAFETY: every offset is within the block.
        unsafe {
            let mut q = [s.zero_q(); 4];
            let mut scales = 0u64;
            for part in 0..4 {
                let codes: [u8; 16] = read(p.add(2 + 16 * part));
                let mut points = [0; 8];
                for i in 0..8 {
                    let (a, b) = (usize::from(codes[2 * i]), usize::from(codes[2 * i + 1]));
                    points[i] = words(&IQ3XXS[a], &IQ3XXS[b]);
                }
                let (a, b): (u32, u32) = (read(p.add(66 + 8 * part)), read(p.add(70 + 8 * part)));
                let signs = u64::from(even_signs(a)) | u64::from(even_signs(b)) << 32;
                scales |= u64::from(a >> 28 | b >> 28 << 8) << (16 * part);
                q[part] = s.negate(s.from_words(points), signs);
            }
            with_odd_scales(s, q, read(p), s.dup_i8(2 * scales + ONES), 0.5)
        }
    }
}

/// See [`crate::format`].
#[derive(Clone, Copy)]
pub(super) struct IQ3_S;

impl Block256 for IQ3_S {
    const BYTES: usize = 110;
    const MIN: bool = false;

    #[inline(always)]
    unsafe fn block<S: Decode>(s: S, p: *const u8) -> Step<S> {
        // SAFETY: every offset is within the block.
        unsafe {
            let mut q = [s.zero_q(); 4];
            for part in 0..4 {
                let low: [u8; 16] = read(p.add(2 + 16 * part));
                let high: u16 = read(p.add(66 + 2 * part));
                let mut points = [0; 8];
                for i in 0..8 {
                    let a = usize::from(low[2 * i]) | usize::from(high >> (2 * i) & 1) << 8;
                    let b = usize::from(low[2 * i + 1]) | usize::from(high >> (2 * i + 1) & 1) << 8;
                    points[i] = words(&IQ3S[a], &IQ3S[b]);
                }
                q[part] = s.negate(s.from_words(points), read(p.add(74 + 8 * part)));
            }
            let scales = s.dup_i8(2 * nibbles(read(p.add(106))) + ONES);
            with_odd_scales(s, q, read(p), scales, 2.0)
        }
    }
}

/// Points of the ternary grid, times 8, plus 1, or minus 1 where the bit of `minus` for the element is set.
#[inline(always)]
fn shifted<S: Decode>(s: S, points: [u64; 8], minus: u64) -> S::Q {
    s.add_bytes(s.sub_bytes(s.from_words(points), 0xff), s.expand_bits(minus, 0xfe))
}

/// See [`crate::format`].
#[derive(Clone, Copy)]
pub(super) struct IQ1_S;

impl Block256 for IQ1_S {
    const BYTES: usize = 50;
    const MIN: bool = false;

    #[inline(always)]
    unsafe fn block<S: Decode>(s: S, p: *const u8) -> Step<S> {
        // SAFETY: every offset is within the block.
        unsafe {
            let mut q = [s.zero_q(); 4];
            let mut scales = 0u64;
            for part in 0..4 {
                let low: [u8; 8] = read(p.add(2 + 8 * part));
                let high: [u16; 2] = read(p.add(34 + 4 * part));
                let mut points = [0; 8];
                for i in 0..8 {
                    let code = usize::from(low[i]) | usize::from(high[i / 4] >> (3 * (i % 4)) & 7) << 8;
                    points[i] = word(&IQ1S[code]);
                }
                let minus = |half: usize| (u64::from(high[half] >> 15) * 0xffff_ffff) << (32 * half);
                q[part] = shifted(s, points, minus(0) | minus(1));
                let scale = |half: usize| u64::from(high[half] >> 12 & 7) << (8 * half);
                scales |= (scale(0) | scale(1)) << (16 * part);
            }
            with_odd_scales(s, q, read(p), s.dup_i8(2 * scales + ONES), 0.25)
        }
    }
}

/// See [`crate::format`].
#[derive(Clone, Copy)]
pub(super) struct IQ1_M;

impl Block256 for IQ1_M {
    const BYTES: usize = 56;
    const MIN: bool = false;

    #[inline(always)]
    unsafe fn block<S: Decode>(s: S, p: *const u8) -> Step<S> {
        // SAFETY: every offset is within the block.
        unsafe {
            let mut q = [s.zero_q(); 4];
            for part in 0..4 {
                let low: [u8; 8] = read(p.add(8 * part));
                let high: u32 = read(p.add(32 + 4 * part));
                let mut points = [0; 8];
                let mut minus = 0;
                for i in 0..8 {
                    let high = high >> (4 * i);
                    points[i] = word(&IQ1S[usize::from(low[i]) | ((high & 7) as usize) << 8]);
                    minus |= u64::from(high >> 3 & 1) << i;
                }
                q[part] = shifted(s, points, fill(minus));
            }
            let words: u64 = read(p.add(48));
            let mut scales = [0u64; 2];
            for sub in 0..16 {
                scales[sub / 8] |= (words >> (16 * (sub / 4) + 3 * (sub % 4)) & 7) << (8 * (sub % 8));
            }
            let d = words >> 12 & 0xf | words >> 24 & 0xf0 | words >> 36 & 0xf00 | words >> 48 & 0xf000;
            let odd = s.widen_i8(2 * scales[0] + ONES, 2 * scales[1] + ONES);
            with_odd_scales(s, q, d as u16, odd, 0.25)
        }
    }
}
