//! Takes any bytes for arguments and an environment: they are understood, or refused in a line with a line of advice.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fathom::fuzzing::command_line(data));
