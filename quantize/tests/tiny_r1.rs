//! The model in the binary is what this crate makes of its Hugging Face folder, to the byte.
//!
//! After a change of what is made, on purpose: `FATHOM_BLESS=1 cargo test -p quantize --test tiny_r1` writes it anew.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use fathom_testing::fixtures;
use ggml_sys::GgmlType;
use quantize::{Options, Plan, Source, Target, run};

#[test]
fn the_bundled_model_is_made_from_its_folder() {
    let source = Source::open(&fixtures::tiny_r1().hf).unwrap();
    let plan = Plan::new(&source, &Target::new(GgmlType::Q8_0).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let made = dir.path().join("made.gguf");
    run(&plan, &made, &Options::default(), &mut |_| (), &AtomicBool::new(false)).unwrap();
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-r1/tiny-r1-q8_0.gguf");
    if std::env::var_os("FATHOM_BLESS").is_some() {
        std::fs::copy(&made, &committed).unwrap();
    }
    let (made, committed) = (std::fs::read(made).unwrap(), std::fs::read(committed).unwrap());
    assert_eq!(made.len(), committed.len());
    let differs = made.iter().zip(&committed).position(|(a, b)| a != b);
    assert_eq!(differs, None, "the first byte that differs");
}
