//! Vocabularies made of random bytes, sound and not, a few thousand of them: the fuzz target's first
//! steps, with the ordinary tests.

use crate::exercise;

#[test]
fn thousands_of_made_up_vocabularies() {
    let mut state = 1u64;
    let mut next = || {
        // Knuth's MMIX generator; the upper bits are the good ones.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let words =
        ["<", "<a>", "é", "日本", "ab", " ", "\n", "1", "\u{301}", "x", "<0x41>", "Ġ", "</s>", "<|im_end|>"];
    for _ in 0..4000 {
        let mut data: Vec<u8> = (0..next() % 200).map(|_| next() as u8).collect();
        for _ in 0..next() % 30 {
            data.extend_from_slice(words[next() % words.len()].as_bytes());
        }
        exercise::make_and_use(&data);
    }
}
