//! Makes a vocabulary and a text of any bytes: what is sound gives every text back, what is not ends
//! in one line or in nothing worse.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../models/tests/text/exercise.rs"]
mod exercise;
#[path = "../../models/tests/text/spell.rs"]
mod spell;

fuzz_target!(|data: &[u8]| exercise::make_and_use(data));
