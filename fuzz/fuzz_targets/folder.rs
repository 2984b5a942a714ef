//! Opens any bytes as a Hugging Face folder; what opens is converted, what does not must end in one line.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../quantize/tests/common/folder.rs"]
mod folder;

fuzz_target!(|data: &[u8]| {
    _ = folder::open_and_use(data);
});
