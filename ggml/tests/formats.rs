//! Block formats against values that ggml and its Python twin computed (tests/fixtures/quants).

use fathom_testing::fixtures::quants;
use fathom_testing::tensors::Tensors;
use ggml_sys::format::{FORMATS, Kind};
use ggml_sys::gguf::Gguf;

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
        let tensor = gguf
            .tensor(&name)
            .unwrap_or_else(|| panic!("{name} is in the file"));
        assert_eq!(tensor.ty(), format.ty);
        let (_, want) = expected.f32(&name);
        let got = tensor.to_f32();
        assert_eq!(got.len(), want.len(), "{name}");
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(got.to_bits(), want.to_bits(), "{name}[{i}]: {got:e} for {want:e}");
        }
    }
}
