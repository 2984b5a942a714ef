//! Block formats against values that ggml and its Python twin computed (tests/fixtures/quants).

use fathom_testing::fixtures::{quants, read_json};
use fathom_testing::sha256;
use fathom_testing::tensors::Tensors;
use ggml_sys::GgmlType;
use ggml_sys::format::{Blocks, Encode, FORMATS, Format, Kind, Unpacked};
use ggml_sys::gguf::Gguf;
use proptest::collection::vec;
use proptest::prelude::*;

/// Every value matters the same.
const UNIFORM: [f32; 256] = [1.0; 256];

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

/// Root mean square error of encoding each row of `rows`, row 9 (a hundred times larger than the others) left out.
fn rmse(format: &Format, n: usize, source: &[f32]) -> f64 {
    let mut blocks = vec![0; format.ty.row_bytes(n).expect("whole blocks")];
    let mut decoded = vec![0.0; n];
    let (mut sum, mut count) = (0.0, 0);
    for (i, row) in source.chunks_exact(n).enumerate() {
        if i == 9 {
            continue;
        }
        format.encode(row, None, &mut blocks).expect("an encoder");
        format.decode(&blocks, &mut decoded);
        sum += row.iter().zip(&decoded).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>();
        count += n;
    }
    (sum / count as f64).sqrt()
}

#[test]
fn encoders_lose_no_more_than_ggmls() {
    let files = quants();
    let source = Tensors::open(&files.source);
    let (shape, source) = source.f32(&source.names()[0]);
    let reference: serde_json::Value = read_json(&files.encoder_rmse);
    for format in FORMATS {
        let Kind::Blocks(Blocks { encode: Some(_), .. }) = format.kind else {
            continue;
        };
        let ggml = reference["types"][format.name]["none"]["rmse"].as_f64().expect("its error");
        let ours = rmse(format, shape[1], &source);
        let bound = if format.name == "Q8_0" { 1.0 } else { 1.002 };
        assert!(ours <= bound * ggml, "{}: {ours:e} for {ggml:e}", format.name);
    }
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
        _ => unreachable!("{ty} has no encoder"),
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
                encode(values, &UNIFORM, &mut bytes);
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
                encode(values, &UNIFORM, &mut bytes);
                format.decode(&bytes, &mut decoded);
                prop_assert!(decoded.iter().all(|x| x.is_finite()), "{}: {values:?} became {decoded:?}", format.name);
            }
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
        encode(&vec![0.0; format.block], &UNIFORM, &mut bytes);
        format.decode(&bytes, &mut decoded);
        assert!(decoded.iter().all(|&x| x == 0.0), "{}: {decoded:?}", format.name);
    }
}
