//! Plain numbers: F32, F16 and BF16 weights times F32 activations, in pieces of bfloat16.
//!
//! A tile multiplies bfloat16 numbers, of 8 bits each, and adds the products, which are exact, in F32. An F32 number of 24 bits is
//! the sum of three of them, an F16 number of two, exactly: the first is its upper half, the next the upper half of what is left. So
//! `w · x` is a sum of products of pieces, of which those count that are not below what F32 itself loses:
//!
//! | weights | products, the smaller ones first; `h`, `m`, `l` are the pieces |
//! |---|---|
//! | BF16 | `w·xl + w·xm + w·xh` |
//! | F16 | `wh·xl + wh·xm + wh·xh + wl·xh + wl·xm` |
//! | F32 | `wh·xl + wh·xm + wm·xm + wm·xh + wh·xh + wl·xh` |
//!
//! A piece has 8 bits of the number, so what comes after the first is less than 2⁻⁷ of it and what comes after the second less than
//! 2⁻¹⁵: what is left out is less than 2⁻²² |w·x| in F16, 2⁻²¹ |w·x| in F32 and nothing in BF16. An instruction does 17 additions in a
//! row, and [`DEPTH`] takes 24 instructions at the most, so with ε = 2⁻²³ the error is at most `(25 + k / 256) · ε · Σ |w·x|`. That
//! is less than that of the other instruction sets, whose bits these sums do not have. Pieces below 2⁻¹²⁶ count as zero,
//! and an infinite number gives NaN.
//!
//! Tiles do 512 / 5 products of F16 a cycle where vectors do 32. Cutting activations into pieces takes about as long as multiplying
//! them with 64 weight rows, so this wants more of those at once ([`PANEL`]).

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;

use super::super::super::float::{Args, Brain, Float, Half, Single};
use super::super::super::simd::{Kernel, Simd};
use super::{Amx, LINE, Results, Shape, Sums};
use crate::format::GgmlType;

/// Rows of a tile.
const ROWS: usize = 16;
/// Elements of a row that a multiplication takes, in the order 0, 16, 1, 17, …: their upper halves are cheap to join so.
const STEP: usize = 32;
/// Elements that are multiplied before the sums are added to the results: the pieces of 32 activation rows, twice, are 48 KiB then,
/// those of the weights 192 KiB.
const DEPTH: usize = 128;
/// Multiplications of a piece of that depth.
const STEPS: usize = DEPTH / STEP;
/// Weight rows that share the pieces of activations.
pub(super) const PANEL: usize = 256;

/// 16 rows of 32 activations, or 16 pairs of neighbouring weights of 16 rows, in bfloat16.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Tile([[u32; 16]; 16]);

/// Two tiles of each piece: 32 activation rows or 32 weight rows by 32 elements. Weights of fewer pieces leave the last ones alone.
type Pieces = [[Tile; 2]; 3];

/// Bytes from the pieces of a step to those of the next.
const NEXT: usize = size_of::<Pieces>();

/// Memory of a product. Any bytes are valid in it.
struct Work {
    w: [[Pieces; STEPS]; PANEL / 32],
    /// Of two groups of activation rows in turn.
    x: [[Pieces; STEPS]; 2],
    /// Of two blocks in turn.
    sums: [[Sums; 4]; 2],
}

thread_local! {
    static WORK: UnsafeCell<MaybeUninit<Work>> = const { UnsafeCell::new(MaybeUninit::zeroed()) };
}

/// Weights of plain numbers as pieces.
trait Weights: Float {
    /// Pieces of a number.
    const PIECES: usize;

    /// The first `n` of 32 elements, zeros beyond, in pieces.
    ///
    /// # Safety
    /// `p` is valid for reads of `n` numbers.
    #[inline(always)]
    unsafe fn pieces(s: Amx, p: *const u8, n: usize) -> [__m512i; 3] {
        // SAFETY: the caller's promise.
        unsafe { split(load::<Self>(s, p, n)) }
    }

    /// Sums of products of some steps; see [`block`].
    ///
    /// # Safety
    /// As there.
    unsafe fn multiply(x: &[Pieces], w: &[Pieces], out: &mut [Sums; 4]);
}

/// The first `n` of 32 numbers, zeros beyond.
///
/// # Safety
/// `p` is valid for reads of `n` numbers.
#[inline(always)]
unsafe fn load<W: Float>(s: Amx, p: *const u8, n: usize) -> (__m512, __m512) {
    let part = |at: usize| {
        let p = p.wrapping_add(at * W::BYTES);
        // SAFETY: the caller's promise.
        unsafe {
            match n.saturating_sub(at) {
                16.. => W::load(s, p),
                0 => s.splat(0.0),
                n => W::load_first(s, p, n),
            }
        }
    };
    (part(0), part(16))
}

/// 32 numbers in pieces. Those of fewer than 24 bits have zeros in the last.
///
/// # Safety
/// The machine has AVX-512.
#[inline(always)]
unsafe fn split((a, b): (__m512, __m512)) -> [__m512i; 3] {
    // SAFETY: the caller's promise.
    unsafe {
        let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
        let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
        let rest = |v: __m512i, head: __m512i| {
            _mm512_castps_si512(_mm512_sub_ps(_mm512_castsi512_ps(v), _mm512_castsi512_ps(head)))
        };
        let (a0, b0) = (_mm512_and_si512(a, upper), _mm512_and_si512(b, upper));
        let (a, b) = (rest(a, a0), rest(b, b0));
        let (a1, b1) = (_mm512_and_si512(a, upper), _mm512_and_si512(b, upper));
        let (a2, b2) = (rest(a, a1), rest(b, b1));
        let join = |a, b| _mm512_or_si512(_mm512_srli_epi32::<16>(a), b);
        [join(a0, b0), join(a1, b1), join(a2, b2)]
    }
}

/// Loads both tiles of a piece of activations.
macro_rules! x {
    ($piece:literal) => {
        concat!(
            "tileloadd tmm4, [{x} + {line} + 2048 * ",
            $piece,
            "]\ntileloadd tmm5, [{x} + {line} + 1024 + 2048 * ",
            $piece,
            "]"
        )
    };
}

/// Loads both tiles of a piece of weights.
macro_rules! w {
    ($piece:literal) => {
        concat!(
            "tileloadd tmm6, [{w} + {line} + 2048 * ",
            $piece,
            "]\ntileloadd tmm7, [{w} + {line} + 1024 + 2048 * ",
            $piece,
            "]"
        )
    };
}

/// Multiplies what was loaded last.
macro_rules! add {
    () => {
        "tdpbf16ps tmm0, tmm4, tmm6\ntdpbf16ps tmm1, tmm4, tmm7\n\
         tdpbf16ps tmm2, tmm5, tmm6\ntdpbf16ps tmm3, tmm5, tmm7"
    };
}

/// Sums of products of all steps, at least one, of two tiles of activation rows with two of weight rows: `out` gets those of the
/// first activation rows with both, then those of the second.
macro_rules! block {
    ($x:ident, $w:ident, $out:ident, $($instructions:expr),+) => {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            $($instructions,)+
            "add {x}, {next}",
            "add {w}, {next}",
            "dec {n}",
            "jnz 2b",
            "tilestored [{out} + {line}], tmm0",
            "tilestored [{out} + {line} + 1024], tmm1",
            "tilestored [{out} + {line} + 2048], tmm2",
            "tilestored [{out} + {line} + 3072], tmm3",
            x = inout(reg) $x.as_ptr() => _,
            w = inout(reg) $w.as_ptr() => _,
            n = inout(reg) $x.len().min($w.len()) => _,
            line = in(reg) LINE,
            out = in(reg) $out.as_mut_ptr(),
            next = const NEXT,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

impl Weights for Single {
    const PIECES: usize = 3;

    #[inline(always)]
    unsafe fn multiply(x: &[Pieces], w: &[Pieces], out: &mut [Sums; 4]) {
        // SAFETY: the caller's promise.
        unsafe {
            block!(
                x,
                w,
                out,
                x!(2),
                w!(0),
                add!(),
                x!(1),
                add!(),
                w!(1),
                add!(),
                x!(0),
                add!(),
                w!(0),
                add!(),
                w!(2),
                add!()
            );
        }
    }
}

impl Weights for Half {
    const PIECES: usize = 2;

    #[inline(always)]
    unsafe fn multiply(x: &[Pieces], w: &[Pieces], out: &mut [Sums; 4]) {
        // SAFETY: the caller's promise.
        unsafe {
            block!(
                x,
                w,
                out,
                x!(2),
                w!(0),
                add!(),
                x!(1),
                add!(),
                x!(0),
                add!(),
                w!(1),
                add!(),
                x!(1),
                add!()
            );
        }
    }
}

impl Weights for Brain {
    const PIECES: usize = 1;

    #[inline(always)]
    unsafe fn pieces(_: Amx, p: *const u8, n: usize) -> [__m512i; 3] {
        // SAFETY: the caller's promise; a mask keeps it.
        unsafe {
            let numbers = _mm512_maskz_loadu_epi16(u32::MAX >> (STEP - n.min(STEP)), p.cast());
            let turned = _mm512_permutexvar_epi16(order(), numbers);
            [turned; 3]
        }
    }

    #[inline(always)]
    unsafe fn multiply(x: &[Pieces], w: &[Pieces], out: &mut [Sums; 4]) {
        // SAFETY: the caller's promise.
        unsafe { block!(x, w, out, x!(2), w!(0), add!(), x!(1), add!(), x!(0), add!()) };
    }
}

/// 0, 16, 1, 17, …
///
/// # Safety
/// The machine has AVX-512.
#[inline(always)]
unsafe fn order() -> __m512i {
    const ORDER: [u16; STEP] = {
        let mut order = [0; STEP];
        let mut i = 0;
        while i < STEP {
            order[i] = (i / 2 + i % 2 * 16) as u16;
            i += 1;
        }
        order
    };
    // SAFETY: 32 words.
    unsafe { _mm512_loadu_si512(ORDER.as_ptr().cast()) }
}

/// More than a few activation rows against all weights of a plain type.
///
/// # Panics
/// If `ty` is a type of blocks.
pub(super) fn product(s: Amx, ty: GgmlType, args: &Args) {
    match ty {
        GgmlType::F32 => of::<Single>(s, args),
        GgmlType::F16 => of::<Half>(s, args),
        GgmlType::BF16 => of::<Brain>(s, args),
        _ => panic!("{ty} is no type of plain numbers"),
    }
}

fn of<W: Weights>(s: Amx, args: &Args) {
    WORK.with(|work| {
        // SAFETY: no other reference to this thread's memory is alive, since nothing here calls back; it is made of integers.
        let work = unsafe { (*work.get()).assume_init_mut() };
        let mut shape = Shape { elements: 64, rows: 0 };
        shape.set_rows(ROWS);
        for row in (0..args.n_w).step_by(PANEL) {
            for at in (0..args.k).step_by(DEPTH) {
                s.vectorize(Panel::<W> { args, row, at, work, _weights: std::marker::PhantomData });
            }
        }
    });
}

/// Up to [`PANEL`] rows of weights from `row` on and [`DEPTH`] elements from `at` on, against all activation rows. Tiles have their shape.
struct Panel<'a, W> {
    args: &'a Args,
    row: usize,
    at: usize,
    work: &'a mut Work,
    _weights: std::marker::PhantomData<W>,
}

impl<W: Weights> Kernel<Amx> for Panel<'_, W> {
    #[inline(always)]
    fn run(self, s: Amx) {
        let (a, row, at) = (self.args, self.row, self.at);
        let Work { w, x, sums } = self.work;
        let width = DEPTH.min(a.k - at);
        let steps = width.div_ceil(STEP);
        let pairs = (a.n_w - row).min(PANEL).div_ceil(32);
        let blocks = a.n_x.div_ceil(32) * pairs;
        // SAFETY: whoever made `args` promised the rows and room for the results; tiles have their shape, and what they load has
        // been filled before.
        unsafe {
            for (pair, w) in w[..pairs].iter_mut().enumerate() {
                fill_weights::<W>(s, a, (row + 32 * pair, at, width), w);
            }
            // The sums of a block are added to the results while tiles are at the next.
            for block in 0..=blocks {
                if block < blocks {
                    let (group, pair) = (block / pairs, block % pairs);
                    if pair == 0 {
                        fill_activations(s, a, (32 * group, at, width), &mut x[group % 2]);
                    }
                    W::multiply(&x[group % 2][..steps], &w[pair][..steps], &mut sums[block % 2]);
                }
                if let Some(block) = block.checked_sub(1) {
                    let (t, r) = (32 * (block / pairs), row + 32 * (block % pairs));
                    add_sums(s, a, (t, r, at == 0), &sums[block % 2]);
                }
            }
        }
    }
}

/// Weights of 32 rows from `first` on, the last one again where there are fewer, `width` elements from `at` on.
///
/// # Safety
/// `first` is a row of weights, the elements are its.
#[inline(always)]
unsafe fn fill_weights<W: Weights>(
    s: Amx,
    a: &Args,
    (first, at, width): (usize, usize, usize),
    to: &mut [Pieces; STEPS],
) {
    let mut rows = [[Tile([[0; 16]; 16]); 3]; STEPS];
    for half in 0..2 {
        for r in 0..ROWS {
            let row = (first + ROWS * half + r).min(a.n_w - 1);
            let p = a.w.wrapping_add(row * a.row_bytes + at * W::BYTES);
            // The row's next panel: the machine does not foresee so many streams.
            for line in 0..(DEPTH * W::BYTES).div_ceil(64) {
                s.prefetch_far(p.wrapping_add(DEPTH * W::BYTES + 64 * line));
            }
            // SAFETY: the caller's promise; 64 bytes of a row of a tile.
            unsafe {
                each_step::<W>(s, p, width, |step, pieces| {
                    for (rows, piece) in rows[step].iter_mut().zip(pieces).take(W::PIECES) {
                        _mm512_store_si512(rows.0[r].as_mut_ptr().cast(), piece);
                    }
                });
            }
        }
        for (rows, to) in rows.iter().zip(&mut *to).take(width.div_ceil(STEP)) {
            for (rows, to) in rows.iter().zip(to).take(W::PIECES) {
                // SAFETY: both are 16 rows of 64 bytes.
                unsafe { s.transpose(rows.0.as_ptr().cast(), LINE, to[half].0.as_mut_ptr().cast()) };
            }
        }
    }
}

/// Activations of 32 rows from `first` on, the last one again where there are fewer, `width` elements from `at` on.
///
/// # Safety
/// `first` is a row of activations, the elements are its.
#[inline(always)]
unsafe fn fill_activations(
    s: Amx,
    a: &Args,
    (first, at, width): (usize, usize, usize),
    to: &mut [Pieces; STEPS],
) {
    for t in 0..2 * ROWS {
        let row = a.x.wrapping_add((first + t).min(a.n_x - 1) * a.x_stride + at);
        // SAFETY: the caller's promise; 64 bytes of a row of a tile.
        unsafe {
            each_step::<Single>(s, row.cast(), width, |step, pieces| {
                for (to, piece) in to[step].iter_mut().zip(pieces) {
                    _mm512_store_si512(to[t / ROWS].0[t % ROWS].as_mut_ptr().cast(), piece);
                }
            });
        }
    }
}

/// Calls `f` with each step of `width` elements of a row and its pieces.
///
/// # Safety
/// `p` is valid for reads of so many numbers.
#[inline(always)]
unsafe fn each_step<W: Weights>(s: Amx, p: *const u8, width: usize, mut f: impl FnMut(usize, [__m512i; 3])) {
    let (whole, rest) = (width / STEP, width % STEP);
    let at = |step: usize| p.wrapping_add(step * STEP * W::BYTES);
    // SAFETY: the caller's promise.
    unsafe {
        for step in 0..whole {
            f(step, W::pieces(s, at(step), STEP));
        }
        if rest > 0 {
            f(whole, W::pieces(s, at(whole), rest));
        }
    }
}

/// Adds the sums of a block to the results of activation rows from `t` on and weight rows from `r` on, or makes them the results.
///
/// # Safety
/// Those rows exist, and `y` is valid for reads and writes of their results.
#[inline(always)]
unsafe fn add_sums(s: Amx, a: &Args, (t, r, first_step): (usize, usize, bool), sums: &[Sums; 4]) {
    for (i, sums) in sums.iter().enumerate() {
        let (t, r) = (t + i / 2 * ROWS, r + i % 2 * ROWS);
        let mut results = Results {
            y: a.y.wrapping_add(t * a.y_stride + r),
            stride: a.y_stride,
            lanes: ROWS.min(a.n_w.saturating_sub(r)),
            first_step,
        };
        for sums in sums.0.iter().take(a.n_x.saturating_sub(t)) {
            // SAFETY: the caller's promise; 16 numbers.
            unsafe {
                let sums = s.load(sums.as_ptr().cast());
                results.update(s, |y| s.add(y, sums));
            }
        }
    }
}
