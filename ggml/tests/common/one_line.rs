//! What every error about a file has in common.

use ggml_sys::gguf::Error;

/// It starts with the name of the file and is one line of a length that people read.
pub fn check(e: &Error, file: &str) {
    let text = e.to_string();
    assert!(text.starts_with(file), "{text}");
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    assert!(!text.contains(breaks), "{text:?}");
    // Names are abbreviated; some errors hold two of them.
    assert!(text.chars().count() < 400, "{text}");
}
