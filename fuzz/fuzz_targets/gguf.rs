//! Opens any bytes as a GGUF file; what opens is used, what does not must end in one line.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../ggml/tests/common/exercise.rs"]
mod exercise;

fuzz_target!(|data: &[u8]| {
    _ = exercise::open_and_use(data.to_vec());
});
