//! AMX: a register of 16 rows of 64 bytes, and one instruction that multiplies two of them.
//!
//! Only prompts gain by it, so this is AVX-512 with VNNI in all but [`Simd::gemm`]. A *tile* of 16 activation rows (their
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
//!
//! Everything else takes VNNI's way.
//!
//! The instructions are written as assembly because the compiler's names for them are not stable. A block of assembly zeroes
//! the tiles that it uses and stores them before it ends; nothing but their shape ([`Shape`]) outlives it.

use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::super::gemm;
use super::super::matvec::{Args, Padded, STEP, Weights};
use super::super::simd::{Kernel, Simd};
use super::avx512::{Avx512, Multiply, Vnni};
use crate::act::SUM;

/// AVX-512 with VNNI and AMX for bytes.
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

/// Whether the processor has tiles and multiplies bytes in them, and the system saves them.
fn has_tiles() -> bool {
    const TILE: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    const OSXSAVE: u32 = 1 << 27;
    const SAVED: u64 = 3 << 17;
    if __cpuid(0).eax < 7
        || __cpuid(1).ecx & OSXSAVE == 0
        || __cpuid_count(7, 0).edx & (TILE | INT8) != TILE | INT8
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
            match sub {
                16 => product::<SuperPanel<16>, W>(s, w, args),
                _ => product::<SuperPanel<32>, W>(s, w, args),
            }
        } else if W::ACT == 32 && sub == 32 {
            product::<Panel32, W>(s, w, args);
        } else {
            gemm::gemm(s, w, sub, args);
        }
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
trait Panel<W: Weights<Amx>>: Copy {
    const ZERO: Self;
    /// Elements of an activation row that a multiplication takes.
    const ELEMENTS: usize;

    /// Unpacks a step of 16 rows from `first` on, the last one again where there are fewer.
    ///
    /// # Safety
    /// `first` is a row, `step` a step of it.
    unsafe fn build(&mut self, s: Amx, w: W, args: &Args<'_>, first: usize, step: usize);

    /// Multiplies both panels with all groups of activation rows and adds that to the results.
    ///
    /// Sums go through memory, two kilobytes that were stored a while ago while the next two are being computed: then
    /// vectors and tiles work at the same time, and no load has the lower bits of the address of a store under way, for which
    /// it would wait.
    ///
    /// # Safety
    /// Of panels that have been built for this.
    unsafe fn sweep(s: Amx, panels: &[Self; 2], sweep: &mut Sweep<'_>);
}

/// All activation rows against one step of two panels.
struct Sweep<'a> {
    args: &'a Args<'a>,
    /// First row of weights.
    row: usize,
    step: usize,
    shape: &'a mut Shape,
    /// The ends of rows that are no whole number of steps, of two groups in turn.
    padded: &'a mut [[Padded; ROWS]; 2],
    sums: &'a mut [[Sums; 2]; 2],
    /// The sums of 32 activations each of two groups in turn.
    pairs: &'a mut [[[i32; 4]; ROWS]; 2],
}

impl Sweep<'_> {
    /// Groups times panels, those of a group one after the other.
    #[inline(always)]
    fn units(&self) -> usize {
        2 * self.args.x.rows.div_ceil(ROWS)
    }

    /// The activations of a unit. Tiles have the shape for them.
    #[inline(always)]
    fn group(&mut self, unit: usize) -> Group {
        let first = unit / 2 * ROWS;
        let group = match (self.step + 1) * STEP <= self.args.x.k {
            true => Group::new(self.args, first, self.step),
            false => Group::rest(self.args, first, &mut self.padded[unit / 2 % 2]),
        };
        self.shape.set_rows(group.n);
        group
    }

    /// Where the results of a unit go.
    #[inline(always)]
    fn results(&self, unit: usize) -> Results {
        let a = self.args;
        let row = self.row + unit % 2 * ROWS;
        Results {
            y: a.y.wrapping_add(unit / 2 * ROWS * a.y_stride + row),
            stride: a.y_stride,
            lanes: ROWS.min(a.n_w.saturating_sub(row)),
            first_step: self.step == 0,
        }
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
    let mut shape = Shape { elements: P::ELEMENTS, rows: 0 };
    let mut panels = [P::ZERO; 2];
    let mut padded = [[Padded::ZERO; ROWS]; 2];
    let mut sums = [[Sums([[0; ROWS]; ROWS]); 2]; 2];
    let mut pairs = [[[0; 4]; ROWS]; 2];
    gemm::walk(args, TOKENS, 2 * ROWS, |args, row, step| {
        let (shape, padded) = (&mut shape, &mut padded);
        let (sums, pairs) = (&mut sums, &mut pairs);
        let sweep = Sweep { args, row, step, shape, padded, sums, pairs };
        s.vectorize(Step { w, panels: &mut panels, sweep });
    });
}

/// A step of two panels: built, then run against all activation rows.
struct Step<'a, P, W> {
    w: W,
    panels: &'a mut [P; 2],
    sweep: Sweep<'a>,
}

impl<P: Panel<W>, W: Weights<Amx>> Kernel<Amx> for Step<'_, P, W> {
    #[inline(always)]
    fn run(self, s: Amx) {
        let Step { w, panels, mut sweep } = self;
        let a = sweep.args;
        // SAFETY: whoever made `args` promised rows of weights and activations, and room for the results.
        unsafe {
            for (v, panel) in panels.iter_mut().enumerate() {
                panel.build(s, w, a, (sweep.row + v * ROWS).min(a.n_w - 1), sweep.step);
            }
            P::sweep(s, panels, &mut sweep);
        }
    }
}

/// Bytes from one row of a tile of sums or weights to the next.
const LINE: usize = 64;

/// A step of super-blocks with a scale per `SUB` elements, 16 or 32.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct SuperPanel<const SUB: usize> {
    /// Low bytes of element times scale, unsigned.
    low: [u8; STEP * ROWS],
    /// High bytes, signed.
    high: [u8; STEP * ROWS],
    /// Minimums of two neighbouring sub-blocks.
    min: [[[i16; 2]; ROWS]; STEP / SUM / 2],
    d: [f32; ROWS],
    dmin: [f32; ROWS],
}

/// Row by row, before lanes become rows.
#[repr(align(64))]
struct Rows {
    q: [[u8; STEP]; ROWS],
    /// 16 scales, 16 minimums.
    codes: [[i16; 2 * STEP / SUM]; ROWS],
}

impl<W: Weights<Amx>, const SUB: usize> Panel<W> for SuperPanel<SUB> {
    const ZERO: Self = SuperPanel {
        low: [0; STEP * ROWS],
        high: [0; STEP * ROWS],
        min: [[[0; 2]; ROWS]; STEP / SUM / 2],
        d: [0.0; ROWS],
        dmin: [0.0; ROWS],
    };
    const ELEMENTS: usize = 64;

    #[inline(always)]
    unsafe fn build(&mut self, s: Amx, w: W, args: &Args<'_>, first: usize, step: usize) {
        let mut rows = Rows { q: [[0; STEP]; ROWS], codes: [[0; 32]; ROWS] };
        // SAFETY: the rows exist; the arrays have the sizes of their types.
        unsafe {
            for r in 0..ROWS {
                let row = (first + r).min(args.n_w - 1);
                let p = args.w.add(row * args.row_bytes + step * w.step_bytes());
                gemm::prefetch_step(s, w, p);
                let w = w.step(s, p, STEP);
                for part in 0..4 {
                    s.store_q(rows.q[r].as_mut_ptr().add(64 * part), w.q[part]);
                }
                let codes = rows.codes[r].as_mut_ptr();
                let (scale, min) = (_mm512_cvtps_epi32(w.scale), _mm512_cvtps_epi32(w.min));
                _mm256_storeu_si256(codes.cast(), _mm512_cvtepi32_epi16(scale));
                // A sub-block of 32 has two lanes.
                let min = if SUB == 32 {
                    _mm256_castsi128_si256(_mm512_cvtepi64_epi16(min))
                } else {
                    _mm512_cvtepi32_epi16(min)
                };
                _mm256_storeu_si256(codes.add(STEP / SUM).cast(), min);
                self.d[r] = _mm512_cvtss_f32(w.d);
                self.dmin[r] = _mm512_cvtss_f32(w.dmin);
            }
            let mut codes = [[[0i16; 2]; ROWS]; STEP / SUM];
            s.transpose(rows.codes.as_ptr().cast(), LINE, codes.as_mut_ptr().cast());
            self.min.copy_from_slice(&codes[STEP / SUM / 2..]);
            for part in 0..4 {
                let q = rows.q.as_ptr().cast::<u8>().add(64 * part);
                s.transpose(q, STEP, self.low.as_mut_ptr().add(64 * ROWS * part));
            }
            self.multiply_scales(&codes);
        }
    }

    #[inline(always)]
    unsafe fn sweep(s: Amx, panels: &[Self; 2], sweep: &mut Sweep<'_>) {
        let mut before: Option<Group> = None;
        for unit in 0..=sweep.units() {
            let group = (unit < sweep.units()).then(|| sweep.group(unit));
            // SAFETY: tiles have the shape for the group, and the group before has been multiplied.
            unsafe {
                if let Some(group) = &group {
                    if W::MIN && SUB == 32 && unit % 2 == 0 {
                        group.add_pairs(&mut sweep.pairs[unit / 2 % 2]);
                    }
                    panels[unit % 2].multiply(group, &mut sweep.sums[unit % 2]);
                }
                if let Some(before) = &before {
                    let at = unit - 1;
                    let sums = match SUB {
                        32 => (sweep.pairs[at / 2 % 2].as_ptr().cast(), size_of::<[i32; 4]>()),
                        _ => (before.sums.cast(), before.sums_stride * size_of::<i16>()),
                    };
                    panels[at % 2].finish::<W>(s, before, &sweep.sums[at % 2], sums, sweep.results(at));
                }
            }
            before = group;
        }
    }
}

impl<const SUB: usize> SuperPanel<SUB> {
    /// Low and high sums of a group of activation rows.
    ///
    /// # Safety
    /// Tiles have the shape for 64 elements and the rows of the group.
    #[inline(always)]
    unsafe fn multiply(&self, group: &Group, out: &mut [Sums; 2]) {
        // SAFETY: 64 bytes at each of four places of each row of the group; a panel; two tiles of sums.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tileloadd tmm4, [{x} + {stride}]",
                "tileloadd tmm6, [{w} + {line}]",
                "tdpbsud tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w} + {line} + {high}]",
                "tdpbssd tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{x} + {stride} + 64]",
                "tileloadd tmm6, [{w} + {line} + 1024]",
                "tdpbsud tmm0, tmm5, tmm6",
                "tileloadd tmm7, [{w} + {line} + {high} + 1024]",
                "tdpbssd tmm1, tmm5, tmm7",
                "tileloadd tmm4, [{x} + {stride} + 128]",
                "tileloadd tmm6, [{w} + {line} + 2048]",
                "tdpbsud tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w} + {line} + {high} + 2048]",
                "tdpbssd tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{x} + {stride} + 192]",
                "tileloadd tmm6, [{w} + {line} + 3072]",
                "tdpbsud tmm0, tmm5, tmm6",
                "tileloadd tmm7, [{w} + {line} + {high} + 3072]",
                "tdpbssd tmm1, tmm5, tmm7",
                "tilestored [{out} + {line}], tmm0",
                "tilestored [{out} + {line} + 1024], tmm1",
                x = in(reg) group.qs,
                stride = in(reg) group.qs_stride,
                w = in(reg) &raw const self.low,
                line = in(reg) LINE,
                out = in(reg) out.as_mut_ptr(),
                high = const STEP * ROWS,
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        }
    }

    /// Scales the sums and adds them to the results. `sums` are those of two neighbouring sub-blocks of the activations, and
    /// the bytes from row to row.
    ///
    /// # Safety
    /// The results are valid for reads and writes; there are sums of all sub-blocks of each row.
    #[inline(always)]
    unsafe fn finish<W: Weights<Amx>>(
        &self,
        s: Amx,
        group: &Group,
        out: &[Sums; 2],
        (mut sums, sums_stride): (*const i32, usize),
        mut to: Results,
    ) {
        let [Sums(low), Sums(high)] = out;
        // SAFETY: arrays of 16 numbers of 32 bits; 16 sums of each row of the group.
        unsafe {
            let (d, dmin) = (s.load(self.d.as_ptr()), s.load(self.dmin.as_ptr()));
            let mut min = [_mm512_setzero_si512(); STEP / 16 / 2];
            for (to, from) in min.iter_mut().zip(&self.min) {
                *to = _mm512_load_si512(from.as_ptr().cast());
            }
            let mut dx = group.d;
            for t in 0..group.n {
                let low = _mm512_load_si512(low[t].as_ptr().cast());
                let high = _mm512_load_si512(high[t].as_ptr().cast());
                let sum = _mm512_add_epi32(low, _mm512_slli_epi32::<8>(high));
                let mut total = s.mul(s.to_f32(sum), d);
                if W::MIN {
                    let pair = |j: usize| _mm512_set1_epi32(sums.add(j).read_unaligned());
                    let mut mins = [_mm512_setzero_si512(); 2];
                    for j in 0..STEP / SUB / 2 {
                        mins[j % 2] = _mm512_dpwssd_epi32(mins[j % 2], min[j], pair(j));
                    }
                    let mins = _mm512_add_epi32(mins[0], mins[1]);
                    total = s.fma(s.to_f32(mins), dmin, total);
                }
                to.update(s, |y| s.fma(total, s.splat(dx.read()), y));
                (dx, sums) = (dx.wrapping_add(group.d_stride), sums.wrapping_byte_add(sums_stride));
            }
        }
    }

    /// Turns the elements in `low` into the bytes of their products with the scales, two of which a word of the first half of
    /// `codes` holds.
    ///
    /// # Safety
    /// The machine has AVX-512.
    #[inline(always)]
    unsafe fn multiply_scales(&mut self, codes: &[[[i16; 2]; ROWS]; STEP / SUM]) {
        const ODD: __mmask64 = 0xaaaa_aaaa_aaaa_aaaa;
        // SAFETY: vectors within the panel: those of a sub-block follow each other.
        unsafe {
            for sub in 0..STEP / SUM {
                let pair = _mm512_loadu_si512(codes[sub / 2].as_ptr().cast());
                let one = if sub % 2 == 0 { _mm512_slli_epi32::<16>(pair) } else { pair };
                // The scale of the row in both words of its lane.
                let one = _mm512_srai_epi32::<16>(one);
                let scale = _mm512_mask_blend_epi16(0xaaaa_aaaa, one, _mm512_slli_epi32::<16>(one));
                for i in SUM / 4 * sub..SUM / 4 * (sub + 1) {
                    let low = self.low.as_mut_ptr().add(LINE * i);
                    let q = _mm512_load_si512(low.cast());
                    let even = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(q));
                    let even = _mm512_mullo_epi16(even, scale);
                    let odd = _mm512_mullo_epi16(_mm512_srai_epi16::<8>(q), scale);
                    let lows = _mm512_mask_blend_epi8(ODD, even, _mm512_slli_epi16::<8>(odd));
                    let highs = _mm512_mask_blend_epi8(ODD, _mm512_srli_epi16::<8>(even), odd);
                    _mm512_store_si512(low.cast(), lows);
                    _mm512_store_si512(self.high.as_mut_ptr().add(LINE * i).cast(), highs);
                }
            }
        }
    }
}

/// A step of eight blocks of 32.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Panel32 {
    q: [u8; STEP * ROWS],
    /// Eight scales, eight minimums.
    factors: [[f32; ROWS]; STEP / SUM],
}

impl<W: Weights<Amx>> Panel<W> for Panel32 {
    const ZERO: Self = Panel32 { q: [0; STEP * ROWS], factors: [[0.0; ROWS]; STEP / SUM] };
    const ELEMENTS: usize = 32;

    #[inline(always)]
    unsafe fn build(&mut self, s: Amx, w: W, args: &Args<'_>, first: usize, step: usize) {
        let n = STEP.min(args.x.k - step * STEP);
        let mut q = [[0u8; STEP]; ROWS];
        // Eight scales, eight minimums.
        let mut factors = [[0f32; ROWS]; ROWS];
        // SAFETY: the rows exist; the arrays have the sizes of their types.
        unsafe {
            for r in 0..ROWS {
                let row = (first + r).min(args.n_w - 1);
                let p = args.w.add(row * args.row_bytes + step * w.step_bytes());
                gemm::prefetch_step(s, w, p);
                let w = w.step(s, p, n);
                for part in 0..4 {
                    s.store_q(q[r].as_mut_ptr().add(64 * part), w.q[part]);
                }
                // Every second one: a block has two.
                let both = _mm512_shuffle_ps::<0b10_00_10_00>(w.scale, w.min);
                let both =
                    _mm512_permutexvar_pd(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), _mm512_castps_pd(both));
                s.store(factors[r].as_mut_ptr(), _mm512_castpd_ps(both));
            }
            for part in 0..4 {
                let q = q.as_ptr().cast::<u8>().add(64 * part);
                s.transpose(q, STEP, self.q.as_mut_ptr().add(64 * ROWS * part));
            }
            // Scales, then minimums, which follow them in the panel.
            s.transpose(factors.as_ptr().cast(), LINE, (&raw mut self.factors).cast());
        }
    }

    #[inline(always)]
    unsafe fn sweep(s: Amx, panels: &[Self; 2], sweep: &mut Sweep<'_>) {
        for unit in 0..sweep.units() {
            let group = sweep.group(unit);
            // SAFETY: tiles have the shape for the group; its results are within what the arguments promise.
            unsafe { panels[unit % 2].unit::<W>(s, &group, sweep.sums, sweep.results(unit)) };
        }
    }
}

impl Panel32 {
    /// All blocks, two at a time, of a group of activation rows.
    ///
    /// # Safety
    /// Tiles have the shape for 32 elements and the rows of the group. The results are valid for reads and writes.
    #[inline(always)]
    unsafe fn unit<W: Weights<Amx>>(&self, s: Amx, group: &Group, out: &mut [[Sums; 2]; 2], to: Results) {
        let mut total = [s.splat(0.0); ROWS];
        // Of each block twice, what minimums multiply.
        let mut sums = [[0f32; STEP / SUM]; ROWS];
        // SAFETY: 8 scales and 16 sums of each row of the group.
        unsafe {
            for t in 0..ROWS * usize::from(W::MIN) {
                let (d, from) = group.row(t);
                let both = s.to_f32(s.load_sums(from, true));
                s.store(sums[t].as_mut_ptr(), s.mul(both, s.load_dup8(d)));
            }
            self.multiply(group, 0, &mut out[0]);
            for pair in 0..STEP / 64 {
                if pair + 1 < STEP / 64 {
                    self.multiply(group, pair + 1, &mut out[(pair + 1) % 2]);
                }
                for half in 0..2 {
                    let block = 2 * pair + half;
                    let scale = s.load(self.factors[block].as_ptr());
                    let min = s.load(self.factors[STEP / 32 + block].as_ptr());
                    let dots = &out[pair % 2][half].0;
                    for t in 0..ROWS {
                        let d = s.splat(group.row(t).0.add(block).read());
                        let dot = s.to_f32(_mm512_load_si512(dots[t].as_ptr().cast()));
                        total[t] = s.fma(dot, s.mul(scale, d), total[t]);
                        if W::MIN {
                            total[t] = s.fma(min, s.splat(sums[t][2 * block]), total[t]);
                        }
                    }
                }
            }
            let mut to = to;
            for t in 0..group.n {
                to.update(s, |y| s.add(y, total[t]));
            }
        }
    }

    /// The sums of two blocks.
    ///
    /// # Safety
    /// Tiles have the shape for 32 elements and the rows of the group.
    #[inline(always)]
    unsafe fn multiply(&self, group: &Group, pair: usize, out: &mut [Sums; 2]) {
        // SAFETY: 32 bytes at each of two places of each row of the group; two blocks of a panel; two tiles of sums.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tileloadd tmm4, [{x} + {stride}]",
                "tileloadd tmm6, [{w} + {line}]",
                "tdpbssd tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{x} + {stride} + 32]",
                "tileloadd tmm7, [{w} + {line} + 512]",
                "tdpbssd tmm1, tmm5, tmm7",
                "tilestored [{out} + {line}], tmm0",
                "tilestored [{out} + {line} + 1024], tmm1",
                x = in(reg) group.qs.wrapping_add(64 * pair),
                stride = in(reg) group.qs_stride,
                w = in(reg) self.q.as_ptr().wrapping_add(64 * ROWS * pair),
                line = in(reg) LINE,
                out = in(reg) out.as_mut_ptr(),
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        }
    }
}
