//! AMX: a register of 16 rows of 64 bytes, and one instruction that multiplies two of them.
//!
//! Only prompts gain by it, so this is AVX-512 with VNNI in all but [`Simd::gemm`] and [`Simd::many`]. A *tile* of 16 activation rows (their
//! bytes as they lie) times one of 16 weight rows (a panel as in [`super::super::gemm`]: 16 × (16 rows × 4
//! neighbouring elements)) adds 64 products to each of 16 × 16 sums in 16 cycles, eight times what VNNI does.
//! What is left to vectors is to scale the sums, so the less often that happens the better:
//!
//! - **Super-blocks** ([`Weights::SUPER`]) have integer scales within their 256 elements. Element times scale is a number of
//!   16 bits, `256 · high + low`; both bytes get a panel, and the sums of a whole super-block are exact integers:
//!   `y += (d · Σ (256 · high + low) · x + dmin · Σ min · Σ x) · dₓ`. Rounded once an addition and a multiplication, these sums
//!   are closer to the truth than those of the other instruction sets, whose bits they do not have.
//! - **Blocks of 32** have a scale each, and so have their activations: 32 products to a sum, scaled in the order of
//!   the other instruction sets, with the same bits.
//! - **Plain numbers** are multiplied in pieces of bfloat16: [`plain`].
//!
//! Everything else takes VNNI's way.
//!
//! The instructions are written as assembly because the compiler's names for them are not stable. A block of assembly zeroes
//! the tiles that it uses and stores them before it ends; nothing but their shape ([`Shape`]) outlives it.

mod block32;
mod few;
mod plain;
mod super_block;

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::marker::PhantomData;

use block32::{BLOCKS, Panel32};
use super_block::SuperPanel;

use super::super::matvec::{Args, Padded, STEP, Weights};
use super::super::simd::{Kernel, Simd};
use super::super::{float, gemm};
use super::avx512::{Avx512, Multiply, Vnni};
use crate::act::SUM;
use crate::format::GgmlType;

/// AVX-512 with VNNI and AMX for bytes and bfloat16.
#[derive(Clone, Copy)]
pub(in super::super) struct Tiles;

type Amx = Avx512<Tiles>;

impl Avx512<Tiles> {
    /// The proof that the machine has the features and that the system lets this process use them.
    pub(in super::super) fn detect() -> Option<Self> {
        Avx512::<Vnni>::detect()?;
        (has_tiles() && may_use_tiles()).then_some(Avx512(PhantomData))
    }
}

/// Whether the processor has tiles and multiplies bytes and bfloat16 in them, and the system saves them.
fn has_tiles() -> bool {
    const TILE: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    const BF16: u32 = 1 << 22;
    const OSXSAVE: u32 = 1 << 27;
    const SAVED: u64 = 3 << 17;
    if __cpuid(0).eax < 7
        || __cpuid(1).ecx & OSXSAVE == 0
        || __cpuid_count(7, 0).edx & (TILE | INT8 | BF16) != TILE | INT8 | BF16
    {
        return false;
    }
    let (low, high): (u32, u32);
    // SAFETY: with OSXSAVE, register 0 can be read.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    };
    (u64::from(high) << 32 | u64::from(low)) & SAVED == SAVED
}

/// Asks Linux for the right to use tiles, which every process must.
#[cfg(target_os = "linux")]
fn may_use_tiles() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let result: i64;
    // SAFETY: this request only changes what the process is allowed; the kernel clobbers rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn may_use_tiles() -> bool {
    false
}

impl Multiply for Tiles {
    const BIASED: bool = Vnni::BIASED;

    #[inline]
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt"
    )]
    unsafe fn vectorize<K: Kernel<Amx>>(kernel: K) {
        kernel.run(Avx512(PhantomData));
    }

    #[inline(always)]
    unsafe fn mac(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { Vnni::mac(acc, w, x) }
    }

    fn gemm<W: Weights<Amx>>(s: Amx, w: W, sub: usize, args: &Args<'_>) {
        if W::SUPER {
            match (sub, args.x.rows) {
                (16, ..=few::MOST) => few::product::<few::SuperRows<16>, W>(s, w, args),
                (_, ..=few::MOST) => few::product::<few::SuperRows<32>, W>(s, w, args),
                (16, _) => product::<SuperPanel<16>, W>(s, w, args),
                _ => product::<SuperPanel<32>, W>(s, w, args),
            }
        } else if W::ACT == 32 && sub == 32 {
            match args.x.rows {
                ..=few::MOST_32 => few::product::<few::Rows32, W>(s, w, args),
                _ => product::<Panel32, W>(s, w, args),
            }
        } else {
            gemm::gemm(s, w, sub, args);
        }
    }

    const MANY_ROWS: usize = plain::PANEL;

    fn many(s: Amx, ty: GgmlType, args: &float::Args) {
        plain::product(s, ty, args);
    }
}

/// Rows of a tile, of weights and of activations.
const ROWS: usize = 16;

/// Activation rows that share an unpacking.
const TOKENS: usize = 512;

/// 16 × 16 sums.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Sums([[i32; ROWS]; ROWS]);

/// What the hardware calls a tile configuration: rows and bytes of each of the eight registers.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// The shapes of the tiles: 0 to 3 are sums, 4 and 5 activations, 6 and 7 weights. Dropping it gives the registers back.
struct Shape {
    /// Elements of a row of activations that a multiplication takes.
    elements: usize,
    /// Activation rows, 0 before the first.
    rows: usize,
}

impl Shape {
    /// Makes tiles ready for so many activation rows.
    #[inline(always)]
    fn set_rows(&mut self, rows: usize) {
        if rows != self.rows {
            self.configure(rows);
        }
    }

    #[cold]
    fn configure(&mut self, rows: usize) {
        self.rows = rows;
        let mut c = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        c.row_bytes[..8].fill(64);
        c.row_bytes[4..6].fill(self.elements as u16);
        c.rows[..6].fill(rows as u8);
        c.rows[6..8].fill((self.elements / 4) as u8);
        // SAFETY: whoever made this has the proof that there are tiles; the configuration is one of theirs.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const c, options(nostack, preserves_flags, readonly)) };
    }
}

impl Drop for Shape {
    fn drop(&mut self) {
        if self.rows > 0 {
            // SAFETY: as in `set_rows`.
            unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
        }
    }
}

/// A step of up to 16 activation rows; strides are in elements of each.
#[derive(Clone, Copy)]
struct Group {
    /// Rows.
    n: usize,
    qs: *const i8,
    qs_stride: usize,
    d: *const f32,
    d_stride: usize,
    sums: *const i16,
    sums_stride: usize,
}

impl Group {
    /// Rows from `first` on, as they lie.
    #[inline(always)]
    fn new(args: &Args<'_>, first: usize, step: usize) -> Group {
        let x = &args.x;
        let at = first * x.k + step * STEP;
        Group {
            n: ROWS.min(x.rows - first),
            qs: x.qs.as_ptr().wrapping_add(at),
            qs_stride: x.k,
            d: x.d.as_ptr().wrapping_add(at / x.block),
            d_stride: x.k / x.block,
            sums: x.sums.as_ptr().wrapping_add(at / SUM),
            sums_stride: x.k / SUM,
        }
    }

    /// The rest of the rows after their last whole step, padded with zeros.
    fn rest(args: &Args<'_>, first: usize, padded: &mut [Padded; ROWS]) -> Group {
        let n = ROWS.min(args.x.rows - first);
        for (t, p) in padded[..n].iter_mut().enumerate() {
            *p = Padded::last(&args.x, first + t);
        }
        let p = padded.as_ptr();
        let stride = size_of::<Padded>();
        // SAFETY: fields of the first of the rows.
        let (qs, d, sums) = unsafe { (&raw const (*p).qs, &raw const (*p).d, &raw const (*p).sums) };
        Group {
            n,
            qs: qs.cast(),
            qs_stride: stride,
            d: d.cast(),
            d_stride: stride / size_of::<f32>(),
            sums: sums.cast(),
            sums_stride: stride / size_of::<i16>(),
        }
    }

    /// The sums of 32 activations each of all rows, as words.
    ///
    /// # Safety
    /// The machine has AVX-512, and each row has 16 sums.
    #[inline(always)]
    unsafe fn add_pairs(&self, pairs: &mut [[i32; 4]; ROWS]) {
        for (t, pairs) in pairs.iter_mut().enumerate() {
            // SAFETY: 32 bytes of sums within ±2,032; 16 bytes of words.
            unsafe {
                let sums = _mm256_loadu_si256(self.row(t).1.cast());
                let sums = _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
                _mm_storeu_si128(pairs.as_mut_ptr().cast(), _mm256_cvtepi32_epi16(sums));
            }
        }
    }

    /// Scales, one or eight of them, and sums of row `t`, or of the last one.
    #[inline(always)]
    fn row(&self, t: usize) -> (*const f32, *const i16) {
        let t = t.min(self.n - 1);
        (self.d.wrapping_add(t * self.d_stride), self.sums.wrapping_add(t * self.sums_stride))
    }
}

/// 256 elements of 16 rows of weights, ready to be multiplied.
trait Panel<W: Weights<Amx>>: Sized {
    /// Elements of an activation row that a multiplication takes.
    const ELEMENTS: usize;

    /// Unpacks a step of 16 rows from `first` on, the last one again where there are fewer.
    ///
    /// # Safety
    /// `first` is a row, `step` a step of it.
    unsafe fn build(&mut self, s: Amx, w: W, args: &Args<'_>, first: usize, step: usize);

    /// Multiplies both panels with all groups of activation rows and adds that to the results.
    ///
    /// Sums go through memory, where vectors scale them.
    ///
    /// # Safety
    /// Of panels that have been built for this.
    unsafe fn sweep(s: Amx, panels: &[Self; 2], sweep: &mut Sweep<'_>);
}

/// Memory of a product: too much to be zeroed for each. Any bytes are valid in it.
struct Work<P> {
    /// Two panels that run and two that are being built.
    panels: [[P; 2]; 2],
    /// The ends of rows that are no whole number of steps, of two groups in turn.
    padded: [[Padded; ROWS]; 2],
    /// Of two panels, or of two units in turn.
    sums: [[Sums; BLOCKS]; 2],
    /// The sums of 32 activations each of two groups in turn.
    pairs: [[[i32; 4]; ROWS]; 2],
}

// SAFETY: panels, like the rest, are made of integers and floats.
unsafe impl<P> Plain for Work<P> {}

/// A kind of memory in which any bytes are valid.
///
/// # Safety
/// They are.
unsafe trait Plain {}

/// The unit of [`ROOM`].
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line {
    _bytes: [u8; LINE],
}

thread_local! {
    static ROOM: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Lends this thread's memory, which keeps whatever was left in it.
fn with_room<T: Plain>(f: impl FnOnce(&mut T)) {
    const { assert!(align_of::<T>() <= align_of::<Line>()) };
    ROOM.with_borrow_mut(|room| {
        let lines = size_of::<T>().div_ceil(size_of::<Line>());
        if room.len() < lines {
            room.resize(lines, Line { _bytes: [0; LINE] });
        }
        // SAFETY: the room is large enough and aligned, borrowed for as long as the reference lives, and any bytes are a `T`.
        f(unsafe { &mut *room.as_mut_ptr().cast::<T>() });
    });
}

/// All activation rows against one step of two panels.
struct Sweep<'a> {
    args: &'a Args<'a>,
    /// First row of weights.
    row: usize,
    step: usize,
    shape: &'a mut Shape,
    padded: &'a mut [[Padded; ROWS]; 2],
    sums: &'a mut [[Sums; BLOCKS]; 2],
    pairs: &'a mut [[[i32; 4]; ROWS]; 2],
}

impl Sweep<'_> {
    /// Groups times panels, those of a group one after the other.
    #[inline(always)]
    fn units(&self) -> usize {
        2 * self.args.x.rows.div_ceil(ROWS)
    }

    /// The first activation row of a unit. Every second step goes backwards, so that tiles change their shape for the last
    /// group, if it is smaller, once a step and not twice.
    #[inline(always)]
    fn first(&self, unit: usize) -> usize {
        let group = unit / 2;
        ROWS * if self.step.is_multiple_of(2) { group } else { self.units() / 2 - 1 - group }
    }

    /// The activations of a unit. Tiles have the shape for them.
    #[inline(always)]
    fn group(&mut self, unit: usize) -> Group {
        let first = self.first(unit);
        let group = match (self.step + 1) * STEP <= self.args.x.k {
            true => Group::new(self.args, first, self.step),
            false => Group::rest(self.args, first, &mut self.padded[unit / 2 % 2]),
        };
        self.shape.set_rows(group.n);
        group
    }

    /// What the group after that of a unit needs: the first or the second half of its activations, results of the unit's panel.
    #[inline(always)]
    fn ahead(&self, unit: usize) -> Ahead {
        let (a, first) = (self.args, self.first((unit + 2).min(self.units() - 1)));
        Ahead {
            qs: a.x.qs.as_ptr().wrapping_add(first * a.x.k + self.step * STEP + unit % 2 * STEP / 2),
            qs_stride: a.x.k,
            y: a.y.wrapping_add(first * a.y_stride + self.row + unit % 2 * ROWS),
            y_stride: a.y_stride,
        }
    }

    /// Where the results of a unit go.
    #[inline(always)]
    fn results(&self, unit: usize) -> Results {
        let a = self.args;
        let row = self.row + unit % 2 * ROWS;
        Results {
            y: a.y.wrapping_add(self.first(unit) * a.y_stride + row),
            stride: a.y_stride,
            lanes: ROWS.min(a.n_w.saturating_sub(row)),
            first_step: self.step == 0,
        }
    }
}

/// Rows of a step of activations and of results that are needed soon and lie in the second-level cache, far from each other.
struct Ahead {
    qs: *const i8,
    qs_stride: usize,
    y: *const f32,
    y_stride: usize,
}

impl Ahead {
    /// Asks for a half of a row of a step of activations and a line of results, and goes on to the next row.
    #[inline(always)]
    fn fetch_row(&mut self) {
        // SAFETY: asking for memory is no access; the machine has SSE.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(self.qs);
            _mm_prefetch::<_MM_HINT_T0>(self.qs.wrapping_add(64));
            _mm_prefetch::<_MM_HINT_T0>(self.y.cast());
        }
        self.qs = self.qs.wrapping_add(self.qs_stride);
        self.y = self.y.wrapping_add(self.y_stride);
    }
}

/// Where results go.
#[derive(Clone, Copy)]
struct Results {
    /// The first one of the first row.
    y: *mut f32,
    /// From row to row.
    stride: usize,
    /// Results of a row.
    lanes: usize,
    /// Whether they are the first to come here.
    first_step: bool,
}

impl Results {
    /// Replaces the results of a row by `f` of them and goes on to the next.
    ///
    /// # Safety
    /// They are valid for reads and writes.
    #[inline(always)]
    unsafe fn update(&mut self, s: Amx, f: impl FnOnce(__m512) -> __m512) {
        // SAFETY: the caller's promise; lanes beyond the results are not touched.
        unsafe {
            let before = if self.first_step { s.splat(0.0) } else { s.load_first(self.y, self.lanes) };
            s.store_first(self.y, self.lanes, f(before));
        }
        self.y = self.y.wrapping_add(self.stride);
    }
}

/// All activation rows against all weights, in panels of a kind.
fn product<P: Panel<W>, W: Weights<Amx>>(s: Amx, w: W, args: &Args<'_>) {
    with_room(|work: &mut Work<P>| {
        let mut shape = Shape { elements: P::ELEMENTS, rows: 0 };
        let mut built = 0;
        let mut next: Option<(Args<'_>, usize, usize)> = None;
        // Panels are built a step before they run: tiles are not loaded from what has only just been stored.
        gemm::walk(args, TOKENS, 2 * ROWS, |args, row, step| {
            s.vectorize(Build { w, args, row, step, panels: &mut work.panels[built % 2] });
            if let Some(at) = &next {
                s.vectorize(Run::new(w, work, built + 1, &mut shape, at));
            }
            built += 1;
            next = Some((*args, row, step));
        });
        if let Some(at) = &next {
            s.vectorize(Run::new(w, work, built + 1, &mut shape, at));
        }
    });
}

/// A step of two panels.
struct Build<'a, P, W> {
    w: W,
    args: &'a Args<'a>,
    row: usize,
    step: usize,
    panels: &'a mut [P; 2],
}

impl<P: Panel<W>, W: Weights<Amx>> Kernel<Amx> for Build<'_, P, W> {
    #[inline(always)]
    fn run(self, s: Amx) {
        for (v, panel) in self.panels.iter_mut().enumerate() {
            let first = (self.row + v * ROWS).min(self.args.n_w - 1);
            // SAFETY: whoever made `args` promised rows of weights.
            unsafe { panel.build(s, self.w, self.args, first, self.step) };
        }
    }
}

/// All activation rows against a step of two panels.
struct Run<'a, P, W> {
    w: PhantomData<W>,
    panels: &'a [P; 2],
    sweep: Sweep<'a>,
}

impl<'a, P, W> Run<'a, P, W> {
    fn new(
        _: W,
        work: &'a mut Work<P>,
        built: usize,
        shape: &'a mut Shape,
        (args, row, step): &'a (Args<'a>, usize, usize),
    ) -> Self {
        let Work { panels, padded, sums, pairs } = work;
        let sweep = Sweep { args, row: *row, step: *step, shape, padded, sums, pairs };
        Run { w: PhantomData, panels: &panels[built % 2], sweep }
    }
}

impl<P: Panel<W>, W: Weights<Amx>> Kernel<Amx> for Run<'_, P, W> {
    #[inline(always)]
    fn run(self, s: Amx) {
        let Run { panels, mut sweep, .. } = self;
        // SAFETY: the panels are those of the sweep's rows and step; whoever made `args` promised room for the results.
        unsafe { P::sweep(s, panels, &mut sweep) };
    }
}

/// Bytes from one row of a tile of sums or weights to the next.
const LINE: usize = 64;
