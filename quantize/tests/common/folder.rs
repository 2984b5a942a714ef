//! Opens any bytes as a Hugging Face folder; what opens is used.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ggml_sys::GgmlType;
use ggml_sys::tensor::Owner;
use quantize::{Error, Plan, Target, hf};

/// The files of a folder in the order in which their bytes follow each other.
pub const FILES: [&str; 9] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "README.md",
    "chat_template.jinja",
    "model.safetensors.index.json",
    "model.safetensors",
    "second.safetensors",
];
/// What stands between them: no text holds it.
pub const BETWEEN: [u8; 2] = [0xff, 0xfe];

/// Whether the bytes are a folder that can be converted. Panics if an error is not one short line.
pub fn open_and_use(data: &[u8]) -> bool {
    let mut rest = data;
    let mut files = Vec::new();
    for i in 0..FILES.len() {
        // Weights may hold these two bytes too; a fuzzer finds out that they had better not.
        let end = rest.windows(2).position(|w| w == BETWEEN).filter(|_| i + 1 < FILES.len());
        let (file, after) = end.map_or((rest, &[][..]), |at| (&rest[..at], &rest[at + 2..]));
        files.push(file.to_vec());
        rest = after;
    }
    let open = |name: &str| {
        let at = FILES.iter().position(|file| *file == name);
        let file = at.map(|i| &files[i]).filter(|file| !file.is_empty());
        Ok(file.map(|file| Arc::new(file.clone()) as Owner))
    };
    let result = hf::from_files(Path::new("folder"), &open).and_then(|source| {
        let plan = Plan::new(&source, &Target::new(GgmlType::Q4_0)?)?;
        let mut out = Vec::new();
        let threads = std::num::NonZeroUsize::new(1);
        let report = plan.write(&mut out, "out", threads, &mut |_| (), &AtomicBool::new(false))?;
        assert_eq!((out.len() as u64, report.bytes), (plan.file_size(), plan.file_size()));
        Ok::<_, Error>(())
    });
    if let Err(e) = &result {
        let e = e.to_string();
        assert!(!e.contains(char::is_control) && e.chars().count() < 700, "{e:?}");
    }
    result.is_ok()
}
