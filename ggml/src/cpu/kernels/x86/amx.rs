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
            product::<SuperPanel, W>(s, w, args);
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

/// The shapes of the tiles: 0 to 3 are sums, 4 activations, 5 to 7 weights. Dropping it gives the registers back.
struct Shape {
    /// Elements of a row of activations that a multiplication takes.
    elements: usize,
    /// Activation rows, 0 before the first.
    rows: usize,
}

impl Shape {
    /// Makes tiles ready for so many activation rows.
    fn set_rows(&mut self, rows: usize) {
        if rows == self.rows {
            return;
        }
        self.rows = rows;
        let mut c = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        c.row_bytes[..8].fill(64);
        c.row_bytes[4] = self.elements as u16;
        c.rows[..5].fill(rows as u8);
        c.rows[5..8].fill((self.elements / 4) as u8);
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

    /// Scales, one or eight of them, and sums of row `t`, or of the last one.
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
    /// The sums of a group with two panels.
    type Out: Copy;
    const NOTHING: Self::Out;

    /// Unpacks a step of 16 rows from `first` on, the last one again where there are fewer.
    ///
    /// # Safety
    /// `first` is a row, `step` a step of it.
    unsafe fn build(&mut self, s: Amx, w: W, args: &Args<'_>, first: usize, step: usize);

    /// The sums of a group of activation rows with two panels.
    ///
    /// # Safety
    /// Tiles have the shape for [`Panel::ELEMENTS`] and the rows of the group.
    unsafe fn multiply(panels: &[Self; 2], group: &Group, out: &mut Self::Out);

    /// Scales the sums of panel `v`, this one, and adds them to the results: 16 or `lanes` of them from `y` on for each row of
    /// the group, `stride` apart. In the first step there is nothing to add to.
    ///
    /// # Safety
    /// Those results are valid for reads and writes.
    unsafe fn finish(&self, s: Amx, group: &Group, out: &Self::Out, v: usize, to: Results);
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
    /// Replaces the results of row `t` by `f` of them.
    ///
    /// # Safety
    /// They are valid for reads and writes.
    #[inline(always)]
    unsafe fn update(&self, s: Amx, t: usize, f: impl FnOnce(__m512) -> __m512) {
        let y = self.y.wrapping_add(t * self.stride);
        // SAFETY: the caller's promise; lanes beyond the results are not touched.
        unsafe {
            if self.lanes == ROWS {
                let before = if self.first_step { s.splat(0.0) } else { s.load(y) };
                s.store(y, f(before));
            } else {
                let before = if self.first_step { s.splat(0.0) } else { s.load_first(y, self.lanes) };
                s.store_first(y, self.lanes, f(before));
            }
        }
    }
}

/// All activation rows against all weights, in panels of a kind.
fn product<P: Panel<W>, W: Weights<Amx>>(s: Amx, w: W, args: &Args<'_>) {
    let mut shape = Shape { elements: P::ELEMENTS, rows: 0 };
    let (mut panels, mut outs) = ([P::ZERO; 2], [P::NOTHING; 2]);
    gemm::walk(args, TOKENS, 2 * ROWS, |args, row, step| {
        s.vectorize(Step { w, args, row, step, panels: &mut panels, outs: &mut outs, shape: &mut shape });
    });
}

/// All activation rows against one step of two panels of rows from `row` on.
struct Step<'a, P: Panel<W>, W: Weights<Amx>> {
    w: W,
    args: &'a Args<'a>,
    row: usize,
    step: usize,
    panels: &'a mut [P; 2],
    /// The sums of two groups, in turn.
    outs: &'a mut [P::Out; 2],
    shape: &'a mut Shape,
}

impl<P: Panel<W>, W: Weights<Amx>> Kernel<Amx> for Step<'_, P, W> {
    #[inline(always)]
    fn run(self, s: Amx) {
        let Step { w, args, row, step, panels, outs, shape } = self;
        // Written only for the last step of rows that are no whole number of steps.
        let mut padded = [[Padded::ZERO; ROWS]; 2];
        let rest = (step + 1) * STEP > args.x.k;
        // SAFETY: whoever made `args` promised rows of weights and activations, and room for the results; tiles have the
        // shape of the group whenever they are multiplied.
        unsafe {
            for (v, panel) in panels.iter_mut().enumerate() {
                panel.build(s, w, args, (row + v * ROWS).min(args.n_w - 1), step);
            }
            let mut before: Option<Group> = None;
            let mut first = 0;
            // The tiles of a group are multiplied while vectors scale the sums of the one before it.
            loop {
                let group = (first < args.x.rows).then(|| match rest {
                    false => Group::new(args, first, step),
                    true => Group::rest(args, first, &mut padded[first / ROWS % 2]),
                });
                if let Some(group) = &group {
                    shape.set_rows(group.n);
                    P::multiply(panels, group, &mut outs[first / ROWS % 2]);
                }
                if let Some(before) = &before {
                    let at = first - ROWS;
                    for (v, panel) in panels.iter().enumerate() {
                        let to = Results {
                            y: args.y.wrapping_add(at * args.y_stride + row + v * ROWS),
                            stride: args.y_stride,
                            lanes: ROWS.min(args.n_w.saturating_sub(row + v * ROWS)),
                            first_step: step == 0,
                        };
                        panel.finish(s, before, &outs[at / ROWS % 2], v, to);
                    }
                }
                if group.is_none() {
                    break;
                }
                before = group;
                first += ROWS;
            }
        }
    }
}

/// Bytes from one row of a tile of sums or weights to the next.
const LINE: usize = 64;

/// A step of super-blocks.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct SuperPanel {
    /// Low bytes of element times scale, unsigned.
    low: [u8; STEP * ROWS],
    /// High bytes, signed.
    high: [u8; STEP * ROWS],
    /// Minimums of two neighbouring sums.
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

impl<W: Weights<Amx>> Panel<W> for SuperPanel {
    const ZERO: Self = SuperPanel {
        low: [0; STEP * ROWS],
        high: [0; STEP * ROWS],
        min: [[[0; 2]; ROWS]; STEP / SUM / 2],
        d: [0.0; ROWS],
        dmin: [0.0; ROWS],
    };
    const ELEMENTS: usize = 64;
    /// Low and high sums with panel 0, then with panel 1.
    type Out = [Sums; 4];
    const NOTHING: [Sums; 4] = [Sums([[0; ROWS]; ROWS]); 4];

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
                let words = |v| _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(v));
                _mm256_storeu_si256(codes.cast(), words(w.scale));
                _mm256_storeu_si256(codes.add(STEP / SUM).cast(), words(w.min));
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
    unsafe fn multiply(panels: &[Self; 2], group: &Group, out: &mut [Sums; 4]) {
        const HIGH: usize = STEP * ROWS;
        const NEXT: usize = size_of::<SuperPanel>();
        // SAFETY: 64 bytes at each of four places of each row of the group; two panels; four tiles of sums.
        unsafe {
            asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "tileloadd tmm4, [{x} + {stride}]",
                "tileloadd tmm5, [{w} + {line}]",
                "tdpbsud tmm0, tmm4, tmm5",
                "tileloadd tmm6, [{w} + {line} + {high}]",
                "tdpbssd tmm1, tmm4, tmm6",
                "tileloadd tmm7, [{w} + {line} + {next}]",
                "tdpbsud tmm2, tmm4, tmm7",
                "tileloadd tmm5, [{w} + {line} + {high} + {next}]",
                "tdpbssd tmm3, tmm4, tmm5",
                "tileloadd tmm4, [{x} + {stride} + 64]",
                "tileloadd tmm6, [{w} + {line} + 1024]",
                "tdpbsud tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w} + {line} + {high} + 1024]",
                "tdpbssd tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{w} + {line} + {next} + 1024]",
                "tdpbsud tmm2, tmm4, tmm5",
                "tileloadd tmm6, [{w} + {line} + {high} + {next} + 1024]",
                "tdpbssd tmm3, tmm4, tmm6",
                "tileloadd tmm4, [{x} + {stride} + 128]",
                "tileloadd tmm7, [{w} + {line} + 2048]",
                "tdpbsud tmm0, tmm4, tmm7",
                "tileloadd tmm5, [{w} + {line} + {high} + 2048]",
                "tdpbssd tmm1, tmm4, tmm5",
                "tileloadd tmm6, [{w} + {line} + {next} + 2048]",
                "tdpbsud tmm2, tmm4, tmm6",
                "tileloadd tmm7, [{w} + {line} + {high} + {next} + 2048]",
                "tdpbssd tmm3, tmm4, tmm7",
                "tileloadd tmm4, [{x} + {stride} + 192]",
                "tileloadd tmm5, [{w} + {line} + 3072]",
                "tdpbsud tmm0, tmm4, tmm5",
                "tileloadd tmm6, [{w} + {line} + {high} + 3072]",
                "tdpbssd tmm1, tmm4, tmm6",
                "tileloadd tmm7, [{w} + {line} + {next} + 3072]",
                "tdpbsud tmm2, tmm4, tmm7",
                "tileloadd tmm5, [{w} + {line} + {high} + {next} + 3072]",
                "tdpbssd tmm3, tmm4, tmm5",
                "tilestored [{out} + {line}], tmm0",
                "tilestored [{out} + {line} + 1024], tmm1",
                "tilestored [{out} + {line} + 2048], tmm2",
                "tilestored [{out} + {line} + 3072], tmm3",
                x = in(reg) group.qs,
                stride = in(reg) group.qs_stride,
                w = in(reg) panels.as_ptr(),
                line = in(reg) LINE,
                out = in(reg) out.as_mut_ptr(),
                high = const HIGH,
                next = const NEXT,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    unsafe fn finish(&self, s: Amx, group: &Group, out: &[Sums; 4], v: usize, to: Results) {
        let (low, high) = (&out[2 * v].0, &out[2 * v + 1].0);
        // SAFETY: arrays of 16 numbers of 32 bits; 16 sums of each row of the group.
        unsafe {
            let (d, dmin) = (s.load(self.d.as_ptr()), s.load(self.dmin.as_ptr()));
            let mut min = [_mm512_setzero_si512(); STEP / SUM / 2];
            for (to, from) in min.iter_mut().zip(&self.min) {
                *to = _mm512_load_si512(from.as_ptr().cast());
            }
            for t in 0..group.n {
                let (dx, sums) = group.row(t);
                let low = _mm512_load_si512(low[t].as_ptr().cast());
                let high = _mm512_load_si512(high[t].as_ptr().cast());
                let sum = _mm512_add_epi32(low, _mm512_slli_epi32::<8>(high));
                let mut total = s.mul(s.to_f32(sum), d);
                if W::MIN {
                    let pair = |j: usize| _mm512_set1_epi32(sums.cast::<i32>().add(j).read_unaligned());
                    let mut mins = [_mm512_setzero_si512(); 2];
                    for j in 0..STEP / SUM / 2 {
                        mins[j % 2] = _mm512_dpwssd_epi32(mins[j % 2], min[j], pair(j));
                    }
                    let mins = _mm512_add_epi32(mins[0], mins[1]);
                    total = s.fma(s.to_f32(mins), dmin, total);
                }
                to.update(s, t, |y| s.fma(total, s.splat(dx.read()), y));
            }
        }
    }
}

impl SuperPanel {
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
    /// Of each block, the sums with panel 0, then with panel 1.
    type Out = [[Sums; 2]; STEP / 32];
    const NOTHING: Self::Out = [[Sums([[0; ROWS]; ROWS]); 2]; STEP / 32];

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
    unsafe fn multiply(panels: &[Self; 2], group: &Group, out: &mut Self::Out) {
        for block in 0..STEP / 32 {
            // SAFETY: 32 bytes of each row of the group; a block of two panels; two tiles of sums.
            unsafe {
                asm!(
                    "tilezero tmm0", "tilezero tmm1",
                    "tileloadd tmm4, [{x} + {stride}]",
                    "tileloadd tmm5, [{w} + {line}]",
                    "tdpbssd tmm0, tmm4, tmm5",
                    "tileloadd tmm6, [{w} + {line} + {next}]",
                    "tdpbssd tmm1, tmm4, tmm6",
                    "tilestored [{out} + {line}], tmm0",
                    "tilestored [{out} + {line} + 1024], tmm1",
                    x = in(reg) group.qs.wrapping_add(32 * block),
                    stride = in(reg) group.qs_stride,
                    w = in(reg) panels.as_ptr().cast::<u8>().wrapping_add(32 * ROWS * block),
                    line = in(reg) LINE,
                    out = in(reg) out[block].as_mut_ptr(),
                    next = const size_of::<Panel32>(),
                    out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm5") _, out("tmm6") _,
                    options(nostack, preserves_flags),
                );
            }
        }
    }

    #[inline(always)]
    unsafe fn finish(&self, s: Amx, group: &Group, out: &Self::Out, v: usize, to: Results) {
        let mut total = [s.splat(0.0); ROWS];
        // Of each block twice, what minimums multiply.
        let mut sums = [[0f32; STEP / SUM]; ROWS];
        // SAFETY: 8 scales and 16 sums of each row of the group; arrays of 16 numbers of 32 bits.
        unsafe {
            for t in 0..ROWS * usize::from(W::MIN) {
                let (d, from) = group.row(t);
                let both = s.to_f32(s.load_sums(from, true));
                s.store(sums[t].as_mut_ptr(), s.mul(both, s.load_dup8(d)));
            }
            for block in 0..STEP / 32 {
                let scale = s.load(self.factors[block].as_ptr());
                let min = s.load(self.factors[STEP / 32 + block].as_ptr());
                for t in 0..ROWS {
                    let d = s.splat(group.row(t).0.add(block).read());
                    let dot = s.to_f32(_mm512_load_si512(out[block][v].0[t].as_ptr().cast()));
                    total[t] = s.fma(dot, s.mul(scale, d), total[t]);
                    if W::MIN {
                        total[t] = s.fma(min, s.splat(sums[t][2 * block]), total[t]);
                    }
                }
            }
            for t in 0..group.n {
                to.update(s, t, |y| s.add(y, total[t]));
            }
        }
    }
}
