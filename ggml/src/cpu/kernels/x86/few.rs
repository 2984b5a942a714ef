//! Few activation rows against formats whose kernels have lanes of their own, with byte products in 512 bits.
//!
//! The general way ([`super::super::matvec`]) scales the products of 64 elements at a time, because its registers hold elements in their
//! order: four conversions and four scalings a step of 256. Here a register holds as many elements of *each* sub-block, so that
//! products of the whole step are added up as integers and scaled once; activations are put into that order beforehand. Weights
//! are read as four streams ([`Ahead`]).
//!
//! Lanes are not those of the other instruction sets, and so neither are the last bits; the bound is the same: a scaled sum is
//! rounded once (its scale is exact) and once more as it is added, which is less than there. A result has the same bits alone or among
//! others.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::marker::PhantomData;

use super::super::matvec::{Ahead, Args, STEP, STREAMS};
use super::super::simd::{Kernel, Simd};
use super::avx512::{Avx512, Multiply, lanes};
use crate::act::SUM;

/// Activation rows that share a pass over the weights.
const PASS: usize = 4;

/// The activations of a step in the order of a format's kernel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Arranged {
    /// Four registers of elements.
    pub qs: [[i8; 64]; 4],
    /// A register of what sums of elements are multiplied with, or start from.
    pub sums: [i32; 16],
    /// The scale of each lane.
    pub d: [f32; 16],
}

impl Arranged {
    const ZERO: Arranged = Arranged { qs: [[0; 64]; 4], sums: [0; 16], d: [0.0; 16] };
}

/// A format with a kernel of its own, in steps of 256 elements.
pub(super) trait Steps {
    /// Bytes of a step.
    const BYTES: usize;
    /// Elements of the activations that share a scale: 32 or 256.
    const ACT: usize;

    /// Which four of 64 neighbouring elements come to lane `4j + i`, to be part of register `j` of the arranged ones: those of
    /// the `p`-th 64 elements are its lanes `4p .. 4p + 4`.
    fn fours(lane: i32) -> i32;

    /// What a step's sums of 16 activations become.
    fn sums(sums: &[i16; STEP / SUM]) -> [i32; 16];
}

/// [`Steps::fours`] where register `j` has elements `8j .. 8j + 8` of each of eight sub-blocks of 32.
pub(super) fn eights(lane: i32) -> i32 {
    8 * (lane / 2 % 2) + 2 * (lane / 4) + lane % 2
}

/// What `vpternlogd` makes of its three operands.
pub(super) const A_OR_B_AND_C: i32 = 0b1111_1000;

/// How they are multiplied.
pub(super) trait Products: Steps {
    /// Of every row of weights and every row of activations, lanes that add up to their product. `fetch` is called for every step.
    ///
    /// # Safety
    /// The machine has AVX-512 F, BW, DQ and VL and what `M` says, and all pointers are valid for reads of `steps` steps.
    unsafe fn products<M: Multiply, const N: usize>(
        group: &Group<N>,
        fetch: impl Fn(usize),
    ) -> [[__m512; N]; STREAMS];
}

/// Four rows of weights and `N` of activations, of `steps` steps each.
pub(super) struct Group<const N: usize> {
    pub w: [*const u8; STREAMS],
    pub x: [*const Arranged; N],
    pub steps: usize,
}

/// A format without minimums, a step of which becomes four registers of elements and the scale of each lane. Sums of products begin
/// at what [`Steps::sums`] gives.
pub(super) trait Unpack: Steps {
    /// Constants.
    type Tables;

    fn tables() -> Self::Tables;

    /// The step at `w`.
    ///
    /// # Safety
    /// The machine has AVX-512 F, BW, DQ and VL, and `w` is valid for reads of a step.
    unsafe fn unpack(tables: &Self::Tables, w: *const u8) -> ([__m512i; 4], __m512);
}

impl<U: Unpack> Products for U {
    #[inline(always)]
    unsafe fn products<M: Multiply, const N: usize>(
        group: &Group<N>,
        fetch: impl Fn(usize),
    ) -> [[__m512; N]; STREAMS] {
        let tables = U::tables();
        // SAFETY: the caller's promise.
        unsafe {
            let mut acc = [[_mm512_setzero_ps(); N]; STREAMS];
            for i in 0..group.steps {
                fetch(i);
                let x = group.x.map(|x| &*x.add(i));
                for r in 0..STREAMS {
                    let (q, scale) = U::unpack(&tables, group.w[r].add(i * U::BYTES));
                    for n in 0..N {
                        let mut dot = _mm512_load_si512(x[n].sums.as_ptr().cast());
                        for j in 0..4 {
                            dot = M::mac(dot, q[j], _mm512_load_si512(x[n].qs[j].as_ptr().cast()));
                        }
                        let t = _mm512_mul_ps(_mm512_cvtepi32_ps(dot), scale);
                        acc[r][n] = _mm512_fmadd_ps(t, _mm512_load_ps(x[n].d.as_ptr()), acc[r][n]);
                    }
                }
            }
            acc
        }
    }
}

thread_local! {
    /// The activations of a pass; kept, because a pass is short.
    static ROOM: RefCell<Vec<Arranged>> = const { RefCell::new(vec![]) };
}

/// All rows of weights against all activation rows.
pub(super) fn few<M: Multiply, B: Products>(s: Avx512<M>, args: &Args<'_>) {
    ROOM.with_borrow_mut(|room| {
        for first in (0..args.x.rows).step_by(PASS) {
            let block = PhantomData::<B>;
            match args.x.rows - first {
                1 => s.vectorize(Pass::<B, 1> { block, args, first, room }),
                2 => s.vectorize(Pass::<B, 2> { block, args, first, room }),
                _ => s.vectorize(Pass::<B, PASS> { block, args, first, room }),
            }
        }
    });
}

/// Arranges a step of activations, with its scales, one or eight, and sums of 16.
///
/// # Safety
/// The machine has AVX-512 F.
#[inline(always)]
unsafe fn arrange<B: Steps>(to: &mut Arranged, qs: &[i8; STEP], d: &[f32], sums: &[i16; STEP / SUM]) {
    let (parts, _) = qs.as_chunks::<64>();
    to.sums = B::sums(sums);
    // SAFETY: registers of 64 bytes.
    unsafe {
        let part = |p: usize| {
            _mm512_permutexvar_epi32(lanes(B::fours), _mm512_loadu_si512(parts[p].as_ptr().cast()))
        };
        // Quarter j of register p becomes quarter p of register j.
        let (low, high) = (
            |a, b| _mm512_shuffle_i32x4::<0b01_00_01_00>(a, b),
            |a, b| _mm512_shuffle_i32x4::<0b11_10_11_10>(a, b),
        );
        let (a, b, c, e) = (part(0), part(1), part(2), part(3));
        let halves = [(low(a, b), low(c, e)), (high(a, b), high(c, e))];
        for (to, (ab, cd)) in to.qs.chunks_exact_mut(2).zip(halves) {
            _mm512_store_si512(to[0].as_mut_ptr().cast(), _mm512_shuffle_i32x4::<0b10_00_10_00>(ab, cd));
            _mm512_store_si512(to[1].as_mut_ptr().cast(), _mm512_shuffle_i32x4::<0b11_01_11_01>(ab, cd));
        }
        let d = match d.first_chunk::<8>() {
            Some(eight) => {
                let eight = _mm512_castps256_ps512(_mm256_loadu_ps(eight.as_ptr()));
                _mm512_permutexvar_ps(lanes(|l| l / 2), eight)
            }
            None => _mm512_set1_ps(d[0]),
        };
        _mm512_store_ps(to.d.as_mut_ptr(), d);
    }
}

/// All rows of weights against `N` activation rows from `first` on. Where there are fewer, the last is computed again.
struct Pass<'a, B, const N: usize> {
    block: PhantomData<B>,
    args: &'a Args<'a>,
    first: usize,
    room: &'a mut Vec<Arranged>,
}

impl<M: Multiply, B: Products, const N: usize> Kernel<Avx512<M>> for Pass<'_, B, N> {
    #[inline(always)]
    fn run(self, s: Avx512<M>) {
        let (a, x) = (self.args, &self.args.x);
        let steps = x.k / STEP;
        let rows: [usize; N] = std::array::from_fn(|n| (self.first + n).min(x.rows - 1));
        if self.room.len() < N * steps {
            self.room.resize(N * steps, Arranged::ZERO);
        }
        for (t, to) in rows.into_iter().zip(self.room.chunks_exact_mut(steps.max(1))) {
            let (qs, _) = x.qs[t * x.k..(t + 1) * x.k].as_chunks();
            let (sums, _) = x.sums[t * x.k / SUM..(t + 1) * x.k / SUM].as_chunks();
            let d = x.d[t * x.k / B::ACT..(t + 1) * x.k / B::ACT].chunks_exact(STEP / B::ACT);
            for (to, ((qs, sums), d)) in to.iter_mut().zip(qs.iter().zip(sums).zip(d)) {
                // SAFETY: the machine has what `s` proves.
                unsafe { arrange::<B>(to, qs, d, sums) };
            }
        }
        let apart = a.n_w / STREAMS;
        let ahead = Ahead { n: STREAMS, bytes: apart * a.row_bytes };
        for i in 0..apart + usize::from(!a.n_w.is_multiple_of(STREAMS)) {
            // The rows that are left are one group, in which the last is computed again.
            let of: [usize; STREAMS] = match i < apart {
                true => std::array::from_fn(|r| i + r * apart),
                false => std::array::from_fn(|r| (STREAMS * apart + r).min(a.n_w - 1)),
            };
            let group = Group {
                // SAFETY: whoever made `args` promised those rows.
                w: of.map(|r| unsafe { a.w.add(r * a.row_bytes) }),
                x: std::array::from_fn(|n| self.room[n * steps..][..steps].as_ptr()),
                steps,
            };
            let fetch = |step: usize| {
                if self.first == 0 && i < apart {
                    ahead.fetch(s, a.w, i * a.row_bytes + step * B::BYTES, B::BYTES);
                }
            };
            // SAFETY: the machine has what `s` proves; pointers are to `steps` steps each; there is room for the results.
            unsafe {
                let y = B::products::<M, N>(&group, fetch);
                for n in 0..N {
                    let mut sums = [0.0; STREAMS];
                    s.store_sums(sums.as_mut_ptr(), std::array::from_fn::<_, STREAMS, _>(|r| y[r][n]));
                    for r in 0..STREAMS {
                        *a.y.add(rows[n] * a.y_stride + of[r]) = sums[r];
                    }
                }
            }
        }
    }
}
