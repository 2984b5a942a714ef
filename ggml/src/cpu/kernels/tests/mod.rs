//! Every kernel on every instruction set of this machine against exact arithmetic, and against the
//! scalar twin bit by bit.

mod plain;
mod vector;

use proptest::prelude::*;

use super::bench::Activations;
use super::*;
use crate::act::ActFormat;
use crate::format::random::{Random, random_blocks};
use crate::format::{FORMATS, Format, Unpacked};

/// Within ±1.
fn floats(rng: &mut Random, n: usize) -> Vec<f32> {
    (0..n).map(|_| 2.0 * rng.uniform() - 1.0).collect()
}

/// Rows of weights `row_bytes` apart, behind an offset that spoils any alignment.
pub(super) struct Weights {
    bytes: Vec<u8>,
    offset: usize,
    pub row_bytes: usize,
    pub n: usize,
}

impl Weights {
    pub fn random(
        rng: &mut Random,
        format: &Format,
        k: usize,
        n: usize,
        offset: usize,
        gap: usize,
    ) -> Weights {
        let width = format.ty.row_bytes(k).unwrap();
        let row_bytes = width + gap;
        let mut bytes = vec![0xff; offset + row_bytes * n];
        for r in 0..n {
            let row = random_blocks(format.ty, k / format.block, 0.1, rng.next());
            bytes[offset + r * row_bytes..][..width].copy_from_slice(&row);
        }
        Weights { bytes, offset, row_bytes, n }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.offset..]
    }

    pub fn row(&self, r: usize) -> &[u8] {
        &self.bytes()[r * self.row_bytes..]
    }
}

/// Random rows, quantized; skewed, so that minimums and offsets matter.
fn activations(rng: &mut Random, k: usize, rows: usize, block: usize) -> Activations {
    let x: Vec<f32> = floats(rng, k * rows).iter().map(|x| x + 0.3).collect();
    Activations::new(&x, k, block)
}

/// What row `t` stands for.
fn values(x: Q8Rows<'_>, t: usize) -> Vec<f32> {
    let row = x.row(t);
    (0..x.k).map(|i| f32::from(row.qs[i]) * row.d[i / x.block]).collect()
}

/// The exact dot product of an encoded row and a quantized one, and the sum of its terms' magnitudes.
pub(super) fn exact(format: &Format, row: &[u8], x: Q8Rows<'_>) -> (f64, f64) {
    let Kind::Blocks(blocks) = &format.kind else { unreachable!() };
    let mut u = Unpacked::default();
    let (mut sum, mut terms) = (0.0, 0.0);
    for (b, block) in row.chunks_exact(format.bytes).take(x.k / format.block).enumerate() {
        (blocks.unpack)(block, &mut u);
        for i in 0..format.block {
            let at = b * format.block + i;
            let x = f64::from(x.qs[at]) * f64::from(x.d[at / x.block]);
            let q = f64::from(u.scale[i / blocks.sub]) * f64::from(u.qs[i]) * x;
            let min = if blocks.has_min { f64::from(u.min[i / blocks.sub]) * x } else { 0.0 };
            sum += q + min;
            terms += q.abs() + min.abs();
        }
    }
    (sum, terms)
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Every quantized format.
fn quantized() -> impl Iterator<Item = &'static Format> {
    FORMATS.iter().filter(|f| f.act() != ActFormat::F32)
}

fn matvec(kernels: &Kernels, format: &Format, w: &Weights, x: Q8Rows<'_>, stride: usize) -> Vec<f32> {
    let mut y = vec![f32::NAN; (x.rows - 1) * stride + w.n];
    // SAFETY: y has room for x.rows rows, `stride` apart.
    unsafe { kernels.matvec_q8(format.ty, w.bytes(), w.row_bytes, w.n, x, y.as_mut_ptr(), stride) };
    y
}

/// Whether the sums of a prompt are integers over whole super-blocks, which rounds less and gives other bits.
fn own_sums(kernels: &Kernels, format: &Format) -> bool {
    kernels.isa() == Isa::Amx && format.act() == ActFormat::Q8x256 && format.name[..2] != *"TQ"
}

/// Whether few rows have lanes of their own, and with them other bits.
fn own_lanes(kernels: &Kernels, format: &Format, k: usize) -> bool {
    matches!(kernels.isa(), Isa::Avx512Vnni | Isa::Amx)
        && match format.ty {
            GgmlType::Q4_K | GgmlType::Q6_K => true,
            GgmlType::Q4_0 => k.is_multiple_of(256),
            _ => false,
        }
}

/// More rows than take the way of few, and more steps than are prepared at once there.
#[test]
fn a_long_prompt_has_the_bits_of_its_parts() {
    let (k, n_w, rows) = (20 * 256, 18, 70);
    for format in quantized() {
        let mut rng = Random(11);
        let w = Weights::random(&mut rng, format, k, n_w, 0, 0);
        let x = activations(&mut rng, k, rows, format.act().block());
        for kernels in available().skip(1) {
            let mut whole = vec![f32::NAN; rows * n_w];
            let mut parts = whole.clone();
            let run = |x: Q8Rows<'_>, y: &mut [f32]| {
                assert_eq!(y.len(), x.rows * n_w);
                // SAFETY: y has room for the rows.
                unsafe { kernels.gemm_q8(format.ty, w.bytes(), w.row_bytes, n_w, x, y.as_mut_ptr(), n_w) };
            };
            run(x.view(), &mut whole);
            for (i, part) in parts.chunks_mut(50 * n_w).enumerate() {
                run(x.view().slice(50 * i, part.len() / n_w), part);
            }
            assert_eq!(bits(&whole), bits(&parts), "{} on {kernels:?}", format.name);
            for (r, t) in [(0, 0), (7, 49), (n_w - 1, rows - 1)] {
                let (sum, terms) = exact(format, w.row(r), x.view().row(t));
                let error = (f64::from(whole[t * n_w + r]) - sum).abs();
                let bound = (k as f64 / 256.0 + 36.0) * f64::from(f32::EPSILON) * terms;
                assert!(error <= bound, "{}: row {r}, token {t}: {error} > {bound}", format.name);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn matvec_q8_is_exact_within_its_bound(
        seed: u64, blocks in 1usize..20, n_w in 1usize..20, rows in 1usize..12, offset in 0usize..4, cut in 0usize..100,
    ) {
        for format in quantized() {
            let mut rng = Random(seed);
            let k = if format.block == 256 { 256 * blocks.div_ceil(4) } else { format.block * blocks };
            let w = Weights::random(&mut rng, format, k, n_w, offset, offset * 3);
            let x = activations(&mut rng, k, rows, format.act().block());
            let within_bound = |y: &[f32]| {
                for r in 0..n_w {
                    for t in 0..rows {
                        let (sum, terms) = exact(format, w.row(r), x.view().row(t));
                        let error = (f64::from(y[t * (n_w + 1) + r]) - sum).abs();
                        let bound = (k as f64 / 256.0 + 12.0) * f64::from(f32::EPSILON) * terms;
                        prop_assert!(error <= bound, "{}: row {r}, token {t}: {error} > {bound}", format.name);
                    }
                }
                Ok(())
            };
            let truth = matvec(available().next().unwrap(), format, &w, x.view(), n_w + 1);
            within_bound(&truth)?;
            for kernels in available() {
                let all = matvec(kernels, format, &w, x.view(), n_w + 1);
                match own_lanes(kernels, format, k) {
                    true => within_bound(&all)?,
                    false => prop_assert_eq!(bits(&all), bits(&truth), "{} on {:?}", format.name, kernels.isa()),
                }
                for t in 0..rows {
                    let alone = matvec(kernels, format, &w, x.view().row(t), n_w);
                    let among = &all[t * (n_w + 1)..][..n_w];
                    prop_assert_eq!(bits(&alone), bits(among), "{} alone", format.name);
                }
                // Weight rows apart.
                let (mut y, stride) = (vec![f32::NAN; all.len()], n_w + 1);
                let n = cut % n_w;
                for (r, n) in [(0, n), (n, n_w - n)] {
                    if n > 0 {
                        let y = y[r..].as_mut_ptr();
                        // SAFETY: y has room for `rows` rows, `stride` apart.
                        unsafe { kernels.matvec_q8(format.ty, w.row(r), w.row_bytes, n, x.view(), y, stride) };
                    }
                }
                prop_assert_eq!(bits(&y), bits(&all), "{} in parts", format.name);
            }
        }
    }

    /// Up to more rows than take the way of few with blocks of 32, whose last step may not be whole.
    #[test]
    fn gemm_q8_is_exact_within_its_bound(
        seed: u64, blocks in 1usize..20, n_w in 1usize..50, rows in 1usize..50, offset in 0usize..4, cut in 0usize..100,
    ) {
        for format in quantized() {
            let mut rng = Random(seed);
            let k = if format.block == 256 { 256 * blocks.div_ceil(4) } else { format.block * blocks };
            let w = Weights::random(&mut rng, format, k, n_w, offset, offset * 3);
            let x = activations(&mut rng, k, rows, format.act().block());
            let stride = n_w + 1;
            let run = |kernels: &Kernels, w: &[u8], row_bytes, n_w, x: Q8Rows<'_>, y: &mut [f32]| {
                assert!(y.len() + 1 >= x.rows * stride - (stride - n_w));
                // SAFETY: y has room for x.rows rows of n_w, `stride` apart.
                unsafe { kernels.gemm_q8(format.ty, w, row_bytes, n_w, x, y.as_mut_ptr(), stride) };
            };
            let all = |kernels: &Kernels| {
                let mut y = vec![f32::NAN; rows * stride];
                run(kernels, w.bytes(), w.row_bytes, n_w, x.view(), &mut y);
                y
            };
            let within_bound = |y: &[f32]| {
                for r in 0..n_w {
                    for t in 0..rows {
                        let (sum, terms) = exact(format, w.row(r), x.view().row(t));
                        let error = (f64::from(y[t * stride + r]) - sum).abs();
                        let bound = (k as f64 / 256.0 + 36.0) * f64::from(f32::EPSILON) * terms;
                        prop_assert!(error <= bound, "{}: row {r}, token {t}: {error} > {bound}", format.name);
                    }
                }
                Ok(())
            };
            let scalar = all(available().next().unwrap());
            within_bound(&scalar)?;
            let (row, token) = (cut % n_w, cut % rows);
            for kernels in available() {
                let truth = all(kernels);
                match own_sums(kernels, format) {
                    true => within_bound(&truth)?,
                    false => prop_assert_eq!(bits(&truth), bits(&scalar), "{} on {:?}", format.name, kernels),
                }
                // In four parts.
                let mut y = vec![f32::NAN; rows * stride];
                for (t, n_t) in [(0, token), (token, rows - token)] {
                    for (r, n_r) in [(0, row), (row, n_w - row)] {
                        if n_t * n_r > 0 {
                            let x = x.view().slice(t, n_t);
                            run(kernels, w.row(r), w.row_bytes, n_r, x, &mut y[t * stride + r..]);
                        }
                    }
                }
                prop_assert_eq!(bits(&y), bits(&truth), "{} in parts", format.name);
            }
        }
    }

    /// The kernels take unsigned integers for granted where there are minimums.
    #[test]
    fn minimums_mean_unsigned_integers(seed: u64) {
        for format in quantized() {
            let Kind::Blocks(blocks) = &format.kind else { unreachable!() };
            let mut u = Unpacked::default();
            (blocks.unpack)(&random_blocks(format.ty, 1, 1.0, seed), &mut u);
            if blocks.has_min {
                prop_assert!(u.qs[..format.block].iter().all(|&q| q >= 0), "{}", format.name);
            }
        }
    }
}

/// More rows than are unpacked for at once, and several steps.
#[test]
fn long_prompts_are_as_short_ones() {
    let format = GgmlType::Q4_K.format();
    let (k, n_w, rows) = (1024, 40, 300);
    let mut rng = Random(1);
    let w = Weights::random(&mut rng, format, k, n_w, 1, 0);
    let x = activations(&mut rng, k, rows, 256);
    for kernels in available() {
        let run = |x: Q8Rows<'_>| {
            let mut y = vec![f32::NAN; x.rows * n_w];
            // SAFETY: y has room for x.rows rows of n_w.
            unsafe { kernels.gemm_q8(format.ty, w.bytes(), w.row_bytes, n_w, x, y.as_mut_ptr(), n_w) };
            y
        };
        let all = run(x.view());
        for t in (0..rows).step_by(13) {
            assert_eq!(bits(&run(x.view().row(t))), bits(&all[t * n_w..][..n_w]), "{kernels:?}: row {t}");
        }
    }
}

#[test]
fn instruction_sets_are_chosen_by_name() {
    let best = available().last().unwrap();
    assert_eq!(select("scalar").unwrap().isa(), Isa::Scalar);
    assert_eq!(select(best.isa().name()).unwrap().isa(), best.isa());
    let known: Vec<_> = available().map(|k| k.isa().name()).collect();
    let unknown = select("mmx").unwrap_err().to_string();
    assert_eq!(unknown, format!("unknown instruction set \"mmx\"; known here: {}", known.join(", ")));
    // No machine has both.
    let foreign = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
    let unavailable = select(foreign).unwrap_err().to_string();
    assert_eq!(unavailable, format!("this machine has no {foreign}; it can run {}", known.join(", ")));
}
