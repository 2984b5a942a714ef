//! Sixteen sub-blocks side by side.
//!
//! A search runs the same steps on every sub-block, so sixteen of them are searched at once, one in each lane of a
//! vector [`V`]: the sum over a sub-block is then a sum of vectors, lane by lane in the order of its values, and nothing
//! is ever added across lanes inside the hot loops. The operations are plain loops over arrays, which the compiler
//! turns into instructions of whichever [`Instructions`] the surrounding function is compiled for; since none of them
//! fuses or reorders anything, **the bits are the same everywhere**, and what a sub-block becomes does not depend on
//! its neighbours.

use std::ops::{Add, Div, Mul, Sub};

use super::super::bits::F16;

/// Sub-blocks in a batch.
pub const LANES: usize = 16;

/// 1.5·2²³: added to it, a number of magnitude up to 2²² loses exactly its fraction, to the nearest integer.
const SHIFT: f32 = 12_582_912.0;

/// A number for each sub-block of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(align(64))]
pub struct V(pub [f32; LANES]);

impl V {
    pub const ZERO: V = V([0.0; LANES]);

    /// The same in all lanes.
    #[inline(always)]
    pub fn splat(x: f32) -> V {
        V([x; LANES])
    }

    #[inline(always)]
    fn zip(self, other: V, f: impl Fn(f32, f32) -> f32) -> V {
        let mut out = [0.0; LANES];
        for l in 0..LANES {
            out[l] = f(self.0[l], other.0[l]);
        }
        V(out)
    }

    /// The larger one; `other` where `self` is NaN.
    #[inline(always)]
    pub fn max(self, other: V) -> V {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    /// The smaller one; `other` where `self` is NaN.
    #[inline(always)]
    pub fn min(self, other: V) -> V {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    pub fn abs(self) -> V {
        let mut out = [0.0; LANES];
        for l in 0..LANES {
            out[l] = self.0[l].abs();
        }
        V(out)
    }

    /// `yes` where `self > limit`, else `no`.
    #[inline(always)]
    pub fn above(self, limit: V, yes: V, no: V) -> V {
        let mut out = [0.0; LANES];
        for l in 0..LANES {
            out[l] = if self.0[l] > limit.0[l] { yes.0[l] } else { no.0[l] };
        }
        V(out)
    }

    /// The nearest integer within `lo..=hi`, halves to even; `lo` of NaN. For |lo|, |hi| up to 2²².
    #[inline(always)]
    pub fn nearest(self, lo: f32, hi: f32) -> V {
        self.max(V::splat(lo)).min(V::splat(hi)) + V::splat(SHIFT) - V::splat(SHIFT)
    }

    /// `1 / x`, or 0 where x is nothing to divide by.
    #[inline(always)]
    pub fn inverse(self) -> V {
        self.abs().above(V::splat(1e-30), V::splat(1.0) / self, V::ZERO)
    }

    /// Sums over each `B` lanes, in all of these lanes.
    #[inline(always)]
    pub fn sum_groups<const B: usize>(self) -> V {
        self.fold_groups::<B>(|a, b| a + b)
    }

    /// A fold over each `B` lanes, a power of two, in all of these lanes: halves with halves.
    #[inline(always)]
    pub fn fold_groups<const B: usize>(self, f: impl Fn(f32, f32) -> f32) -> V {
        let mut out = self.0;
        let mut width = B / 2;
        // Lane l meets lane l + width of its group, and every lane of the group gets the result.
        while width > 0 {
            let before = out;
            for l in 0..LANES {
                let (first, second) = (l & !width, l | width);
                out[l] = f(before[first], before[second]);
            }
            width /= 2;
        }
        V(out)
    }
}

macro_rules! operator {
    ($trait:ident, $name:ident, $op:tt) => {
        impl $trait for V {
            type Output = V;
            #[inline(always)]
            fn $name(self, other: V) -> V {
                self.zip(other, |a, b| a $op b)
            }
        }
    };
}
operator!(Add, add, +);
operator!(Sub, sub, -);
operator!(Mul, mul, *);
operator!(Div, div, /);

/// Sixteen sub-blocks of `N` values: element j of all of them is `x[j]`.
pub struct Batch<const N: usize> {
    /// The values, each block's multiplied by a power of two such that its largest magnitude is near one: nothing in a
    /// search overflows or vanishes, whatever the values are.
    pub x: [V; N],
    /// How much each matters: above zero, at most one.
    pub w: [V; N],
    /// What a block's values were divided by, in all its lanes.
    pub unit: V,
    n: usize,
}

/// The least weight relative to a block's largest: a value without any importance gets its nearest code all the same.
const LEAST_WEIGHT: f32 = 1e-6;

impl<const N: usize> Batch<N> {
    /// Up to sixteen sub-blocks, `B` of them a block; lanes without one are zeros.
    #[inline(always)]
    pub fn load<const B: usize>(src: &[f32], weights: Option<&[f32]>) -> Self {
        let mut x = transpose(src);
        let largest = largest(&x).fold_groups::<B>(|a, b| if a > b { a } else { b });
        let exponents = largest.0.map(exponent);
        let unit = V(exponents.map(power_of_two));
        let factor = V(exponents.map(|e| power_of_two(-e)));
        for x in &mut x {
            *x = *x * factor;
        }
        let w = weights.map_or([V::splat(1.0); N], |w| relative::<N, B>(transpose(w)));
        Batch { x, w, unit, n: std::hint::black_box(N) }
    }

    /// The values and their weights.
    ///
    /// How many there are is kept from the compiler: a loop that it could unroll would become a heap of scalars, too
    /// large for it to find the vectors in.
    #[inline(always)]
    pub fn values(&self) -> impl Iterator<Item = (V, V)> + '_ {
        self.x[..self.n].iter().copied().zip(self.w[..self.n].iter().copied())
    }

    /// The values less `offset`.
    #[inline(always)]
    pub fn shifted(&self, offset: V) -> Shifted<'_, N> {
        let mut x = [V::ZERO; N];
        for (shifted, x) in x[..self.n].iter_mut().zip(&self.x) {
            *shifted = *x - offset;
        }
        Shifted { x, of: self }
    }

    /// The half-precision numbers nearest to `d`, block by block, and what they are in the batch's units.
    #[inline(always)]
    pub fn half<const B: usize>(&self, d: V) -> (V, [F16; LANES]) {
        let mut halves = [F16::new(0.0); LANES];
        let mut rounded = V::ZERO;
        for first in (0..LANES).step_by(B) {
            let half = F16::new(d.0[first] * self.unit.0[first]);
            halves[first..first + B].fill(half);
            rounded.0[first..first + B].fill(half.get() / self.unit.0[first]);
        }
        (rounded, halves)
    }
}

/// The values of a batch less something.
pub struct Shifted<'a, const N: usize> {
    x: [V; N],
    of: &'a Batch<N>,
}

impl<const N: usize> Shifted<'_, N> {
    /// As [`Batch::values`].
    #[inline(always)]
    pub fn values(&self) -> impl Iterator<Item = (V, V)> + '_ {
        let n = self.of.n;
        self.x[..n].iter().copied().zip(self.of.w[..n].iter().copied())
    }
}

#[inline(always)]
fn relative<const N: usize, const B: usize>(mut w: [V; N]) -> [V; N] {
    let largest = largest(&w).fold_groups::<B>(|a, b| if a > b { a } else { b });
    for w in &mut w {
        *w = w.zip(largest, relative_weight);
    }
    w
}

/// The exponent e of a number of 2ᵉ..2ᵉ⁺¹ that is not negative, within ±126.
pub fn exponent(x: f32) -> i32 {
    ((x.to_bits() >> 23) as i32 - 127).clamp(-126, 126)
}

/// A weight relative to the largest one of its block; one where none is above zero.
#[inline(always)]
pub fn relative_weight(w: f32, largest: f32) -> f32 {
    let relative = w / largest;
    let relative = if relative > LEAST_WEIGHT { relative } else { LEAST_WEIGHT };
    if largest > 0.0 && relative < 1.0 { relative } else { 1.0 }
}

/// 2ᵉ for −126..=127.
pub fn power_of_two(e: i32) -> f32 {
    f32::from_bits(((e + 127) as u32) << 23)
}

/// The largest magnitude of each lane.
#[inline(always)]
pub fn largest<const N: usize>(x: &[V; N]) -> V {
    let mut largest = V::ZERO;
    // As in `Batch::values`.
    for x in &x[..std::hint::black_box(N)] {
        largest = x.abs().max(largest);
    }
    settle(largest)
}

#[inline(always)]
fn transpose<const N: usize>(src: &[f32]) -> [V; N] {
    let mut x = [V::ZERO; N];
    for (l, src) in src.as_chunks::<N>().0.iter().enumerate() {
        for j in 0..N {
            x[j].0[l] = src[j];
        }
    }
    x
}

/// The low byte of a small integer, in two's complement: without the checks of a conversion by `as`.
#[inline(always)]
pub fn byte(x: f32) -> u8 {
    // The integer becomes the low end of the mantissa.
    (x + SHIFT).to_bits() as u8
}

/// Integers of 0..=255, element by element, as those of each sub-block.
#[inline(always)]
pub fn by_sub_block<const N: usize>(codes: &[V; N]) -> [[u8; N]; LANES] {
    let mut bytes = [[0; LANES]; N];
    for j in 0..N {
        for l in 0..LANES {
            bytes[j][l] = byte(codes[j].0[l]);
        }
    }
    let mut out = [[0; N]; LANES];
    for l in 0..LANES {
        for j in 0..N {
            out[l][j] = bytes[j][l];
        }
    }
    out
}

/// Small integers of `B` lanes from `first` on; negative ones in two's complement.
#[inline(always)]
pub fn small<const B: usize>(v: &V, first: usize) -> [u8; B] {
    let mut out = [0; B];
    for i in 0..B {
        out[i] = byte(v.0[first + i]);
    }
    out
}

/// Sums that a loop over the values of a batch has made, put into memory and taken out again.
///
/// The compiler finds the vectors of a loop by following what is stored together; sums that go on into selections and
/// branches it takes apart into scalars.
#[inline(always)]
pub fn settle<T>(sums: T) -> T {
    std::hint::black_box(sums)
}

/// What a search may be compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instructions {
    /// Whatever all machines of the architecture have.
    Portable,
    /// AVX2.
    Avx2,
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
}

impl Instructions {
    /// The best that this machine has.
    pub fn best() -> Self {
        let all = [Self::Avx512, Self::Avx2, Self::Portable];
        all.into_iter().find(|i| i.available()).unwrap_or(Self::Portable)
    }

    /// Whether this machine has them.
    pub fn available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx2")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }
}

/// What [`run`] compiles for each set of instructions.
pub trait Task {
    /// Does it. Implementations, and all that they call, are `#[inline(always)]`: only what becomes part of a function
    /// with the features enabled is compiled for them.
    fn run(self);
}

/// Runs a task with the instructions asked for, or the portable ones if the machine lacks them.
pub fn run<T: Task>(instructions: Instructions, task: T) {
    match instructions {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has them.
        Instructions::Avx512 if instructions.available() => unsafe { avx512(task) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has them.
        Instructions::Avx2 if instructions.available() => unsafe { avx2(task) },
        _ => task.run(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
fn avx512<T: Task>(task: T) {
    task.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<T: Task>(task: T) {
    task.run();
}
