//! Block formats against values that ggml and its Python twin computed (tests/fixtures/quants).

use fathom_testing::fixtures::{quants, read_json};
use fathom_testing::sha256;
use fathom_testing::tensors::Tensors;
use ggml_sys::GgmlType;
use ggml_sys::format::{Blocks, Encode, FORMATS, Format, Instructions, Kind, Unpacked};
use ggml_sys::gguf::Gguf;
use proptest::collection::vec;
use proptest::prelude::*;

#[test]
fn every_format_decodes_to_the_last_bit() {
    let files = quants();
    let gguf = Gguf::open(&files.formats_gguf).expect("a good file");
    let expected = Tensors::open(&files.formats);
    for format in FORMATS {
        if !matches!(format.kind, Kind::Blocks(_)) {
            continue;
        }
        let name = format.name.to_lowercase();
        let tensor = gguf.tensor(&name).unwrap_or_else(|| panic!("{name} is in the file"));
        assert_eq!(tensor.ty(), format.ty);
        let (_, want) = expected.f32(&name);
        let got = tensor.to_f32();
        assert_eq!(got.len(), want.len(), "{name}");
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(got.to_bits(), want.to_bits(), "{name}[{i}]: {got:e} for {want:e}");
        }
    }
}

/// The source matrix of the reference set, row 9 (a hundred times larger than the others) left out, and a weight for
/// each of its values.
fn source() -> (Vec<f32>, Vec<f32>) {
    let files = quants();
    let source = Tensors::open(&files.source);
    let (shape, mut source) = source.f32(&source.names()[0]);
    let importance = Tensors::open(&files.importance);
    let (_, importance) = importance.f32(&importance.names()[0]);
    let n = shape[1];
    source.drain(9 * n..10 * n);
    let importance = importance.repeat(source.len() / n);
    (source, importance)
}

/// Root of the mean square error of encoding, weighted where there are weights.
fn rmse(format: &Format, source: &[f32], importance: Option<&[f32]>) -> f64 {
    let mut blocks = vec![0; format.ty.row_bytes(source.len()).expect("whole blocks")];
    let mut decoded = vec![0.0; source.len()];
    format.encode(source, importance, &mut blocks).expect("an encoder");
    format.decode(&blocks, &mut decoded);
    let weight = |i| importance.map_or(1.0, |w| f64::from(w[i]));
    let errors = source.iter().zip(&decoded).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2));
    let sum: f64 = errors.enumerate().map(|(i, e)| weight(i) * e).sum();
    (sum / (0..source.len()).map(weight).sum::<f64>()).sqrt()
}

/// What ggml's encoders lose: the better of what they do without importance, if they do that, and with that of all
/// values the same; and what they lose with importance, weighted with it. `docs/quantize.md` has the table that this
/// prints.
#[test]
fn encoders_lose_no_more_than_ggmls() {
    let (source, importance) = source();
    let reference: serde_json::Value = read_json(&quants().encoder_rmse);
    let deviation = reference["source"]["std_without_row_9"].as_f64().expect("a number");
    println!("| type | error | ggml's | with importance | ggml's |\n|---|---|---|---|---|");
    let mut worse = vec![];
    for format in FORMATS {
        let Kind::Blocks(Blocks { encode: Some(_), .. }) = format.kind else {
            continue;
        };
        let theirs = &reference["types"][format.name];
        let plain = ["none", "ones"].iter().filter_map(|way| theirs[way]["rmse"].as_f64());
        let plain = (rmse(format, &source, None), plain.fold(f64::INFINITY, f64::min));
        let weighted = theirs["importance"]["importance_weighted_rmse"].as_f64().expect("a number");
        let weighted = (rmse(format, &source, Some(&importance)), weighted);
        let [a, b, c, d] = [plain.0, plain.1, weighted.0, weighted.1].map(|e| e / deviation);
        println!("| {} | {a:.4} | {b:.4} | {c:.4} | {d:.4} |", format.name);
        // Q8_0 has the same bytes, and sums have an order.
        if [plain, weighted].iter().any(|(ours, theirs)| *ours > theirs * (1.0 + 1e-9)) {
            worse.push(format.name);
        }
    }
    assert!(worse.is_empty(), "{worse:?}");
}

/// Q8_0 has nothing to search for, so the blocks themselves can be compared.
#[test]
fn q8_0_encodes_to_ggmls_bytes() {
    let files = quants();
    let source = Tensors::open(&files.source);
    let (_, source) = source.f32(&source.names()[0]);
    let reference: serde_json::Value = read_json(&files.encoder_rmse);
    for ty in [GgmlType::Q8_0, GgmlType::BF16] {
        let mut blocks = vec![0; ty.row_bytes(source.len()).expect("whole blocks")];
        ty.format().encode(&source, None, &mut blocks).expect("an encoder");
        let want = reference["types"][ty.name()]["none"]["sha256_of_blocks"].as_str().expect("a hash");
        assert_eq!(sha256::hex(&blocks), want, "{ty}");
    }
}

/// The largest root mean square error over the largest magnitude of a block that encoding may cost, from how
/// the codes lie: half a gap between codes, or what is clipped at the shorter end (a whole gap where codes are not
/// symmetric), and what rounding the scales of sub-blocks adds.
fn worst_case(ty: GgmlType) -> f32 {
    use GgmlType as T;
    match ty {
        T::Q4_0 => 1.0 / 8.0,
        T::Q4_1 => 1.0 / 15.0,
        T::Q5_0 => 1.0 / 16.0,
        T::Q5_1 => 1.0 / 31.0,
        T::Q8_0 => 1.0 / 254.0,
        T::Q2_K => 1.0 / 3.0 + 3.0 / 30.0,
        T::Q3_K => 1.0 / 4.0 + 1.0 / 64.0,
        T::Q4_K => 1.0 / 15.0 + 3.0 / 126.0,
        T::Q5_K => 1.0 / 31.0 + 3.0 / 126.0,
        T::Q6_K => 1.0 / 32.0 + 1.0 / 256.0,
        T::IQ4_NL => 14.0 / 127.0,
        T::IQ4_XS => 14.0 / 127.0 + 1.0 / 64.0,
        T::TQ1_0 | T::TQ2_0 => 1.0 / 2.0,
        T::MXFP4 => 1.0 / 5.0,
        T::NVFP4 => 1.0 / 6.0 + 1.0 / 16.0,
        // Grids leave most combinations of eight values out, so they do well only on average; zeros are always there.
        T::IQ1_S | T::IQ1_M | T::IQ2_XXS | T::IQ2_XS | T::IQ2_S | T::IQ3_XXS | T::IQ3_S => 1.0,
        T::F32 | T::F16 | T::BF16 => unreachable!("{ty} has no blocks"),
    }
}

fn encoders() -> impl Iterator<Item = (&'static Format, Encode)> {
    FORMATS.iter().filter_map(|format| match format.kind {
        Kind::Blocks(Blocks { encode: Some(encode), .. }) => Some((format, encode)),
        _ => None,
    })
}

/// 256 values of magnitudes that F16 scales express well: some smooth, some sparse, with offset or without.
fn block() -> impl Strategy<Value = Vec<f32>> {
    let sparse = prop_oneof![4 => Just(0f32), 1 => -1f32..1.0];
    let two_values = prop_oneof![Just(-1f32), Just(0.6f32)];
    let values = prop_oneof![
        vec(-1f32..1.0, 256),
        vec(0.8f32..1.0, 256),
        vec(-1f32..-0.9, 256),
        vec(sparse, 256),
        vec(two_values, 256),
    ];
    (values, 0i32..9).prop_map(|(values, e)| values.into_iter().map(|x| x * 2f32.powi(e)).collect())
}

proptest! {
    #[test]
    fn encoding_costs_no_more_than_the_codes_allow(values in block()) {
        for (format, encode) in encoders() {
            for values in values.chunks_exact(format.block) {
                let mut bytes = vec![0; format.bytes];
                let mut decoded = vec![0.0; format.block];
                encode(Instructions::best(), values, None, &mut bytes);
                format.decode(&bytes, &mut decoded);
                let largest = values.iter().fold(0f32, |m, x| m.max(x.abs()));
                let squares: f32 = values.iter().zip(&decoded).map(|(x, y)| (x - y).powi(2)).sum();
                let error = (squares / values.len() as f32).sqrt() / largest.max(f32::MIN_POSITIVE);
                // F16 scales and minimums are off by 2⁻¹¹ at most.
                let bound = worst_case(format.ty) + 1e-3;
                prop_assert!(error <= bound, "{}: {error} of {largest}, allowed {bound}", format.name);
            }
        }
    }

    #[test]
    fn any_input_encodes_to_finite_values(
        values in vec(prop_oneof![any::<u32>().prop_map(f32::from_bits), Just(0.0), -1f32..1.0], 256),
        huge in any::<bool>(),
    ) {
        let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -f32::MAX, 1e-45, -0.0];
        let values: Vec<f32> = if huge {
            values.iter().enumerate().map(|(i, x)| odd[(i + x.to_bits() as usize) % odd.len()]).collect()
        } else {
            values
        };
        for (format, encode) in encoders() {
            for values in values.chunks_exact(format.block) {
                let mut bytes = vec![0; format.bytes];
                let mut decoded = vec![0.0; format.block];
                encode(Instructions::best(), values, None, &mut bytes);
                format.decode(&bytes, &mut decoded);
                prop_assert!(decoded.iter().all(|x| x.is_finite()), "{}: {values:?} became {decoded:?}", format.name);
            }
        }
    }

    /// Also for a single block, and whatever its weights: a batch that is not full.
    #[test]
    fn every_instruction_set_gives_the_same_bits(
        values in vec(prop_oneof![4 => -1f32..1.0, 1 => -9f32..9.0], 256..=5 * 256),
        weights in vec(prop_oneof![8 => 0.01f32..1.0, 1 => Just(0f32)], 5 * 256),
        weighted in any::<bool>(),
    ) {
        let n = values.len() / 256 * 256;
        let weights = weighted.then_some(&weights[..n]);
        for (format, encode) in encoders() {
            let bytes = |on, values, weights| {
                let mut bytes = vec![0; format.ty.row_bytes(n).expect("whole blocks")];
                encode(on, values, weights, &mut bytes);
                bytes
            };
            let portable = bytes(Instructions::Portable, &values[..n], weights);
            for on in [Instructions::Avx2, Instructions::Avx512] {
                prop_assert!(bytes(on, &values[..n], weights) == portable, "{} with {on:?}", format.name);
            }
            // A block does not know the others.
            let mut last = vec![0; format.bytes];
            encode(Instructions::best(), &values[n - format.block..n], weights.map(|w| &w[n - format.block..]), &mut last);
            prop_assert!(portable.ends_with(&last), "{}: the last block alone", format.name);
        }
    }

    #[test]
    fn any_weights_will_do(
        values in vec(-1f32..1.0, 256),
        weights in vec(prop_oneof![any::<u32>().prop_map(f32::from_bits), Just(0.0), Just(f32::MAX), Just(1e-45)], 256),
        nothing in any::<bool>(),
    ) {
        let weights = if nothing { vec![0.0; 256] } else { weights };
        for format in FORMATS {
            let mut bytes = vec![0; format.ty.row_bytes(256).expect("whole blocks")];
            let mut decoded = vec![0.0; 256];
            format.encode(&values, Some(&weights), &mut bytes).expect("an encoder");
            format.decode(&bytes, &mut decoded);
            prop_assert!(decoded.iter().all(|x| x.abs() < 10.0), "{}: {values:?} became {decoded:?}", format.name);
        }
    }

    #[test]
    fn any_bytes_unpack(bytes in vec(any::<u8>(), 256)) {
        let mut unpacked = Unpacked::default();
        for format in FORMATS {
            let Kind::Blocks(blocks) = &format.kind else { continue };
            (blocks.unpack)(&bytes[..format.bytes], &mut unpacked);
            // Only Q8_0 has room for −128.
            let least = if format.ty == GgmlType::Q8_0 { -128 } else { -127 };
            prop_assert!(unpacked.qs[..format.block].iter().all(|&q| q >= least), "{}", format.name);
        }
    }

    #[test]
    fn ternary_values_are_kept_to_the_last_bit(digits in vec(-1i8..=1, 256), e in -10i32..10) {
        let values: Vec<f32> = digits.iter().map(|&t| f32::from(t) * 2f32.powi(e)).collect();
        for ty in [GgmlType::TQ1_0, GgmlType::TQ2_0] {
            let mut bytes = vec![0; ty.format().bytes];
            let mut decoded = vec![0.0; 256];
            ty.format().encode(&values, None, &mut bytes).expect("an encoder");
            ty.format().decode(&bytes, &mut decoded);
            prop_assert_eq!(&decoded, &values);
        }
    }
}

#[test]
fn zeros_stay_zeros() {
    for (format, encode) in encoders() {
        let mut bytes = vec![255; format.bytes];
        let mut decoded = vec![1.0; format.block];
        encode(Instructions::best(), &vec![0.0; format.block], None, &mut bytes);
        format.decode(&bytes, &mut decoded);
        assert!(decoded.iter().all(|&x| x == 0.0), "{}: {decoded:?}", format.name);
    }
}
