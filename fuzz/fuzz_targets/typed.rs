//! Takes any bytes for lines of a chat: blocks, commands, completion; and for an answer that is styled.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fathom::fuzzing::typed(data));
