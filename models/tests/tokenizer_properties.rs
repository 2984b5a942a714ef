//! What holds for every text: it comes back as it was, however its tokens are cut, and in time.

use std::sync::LazyLock;

use fathom_testing::fixtures;
use ggml_sys::gguf::Gguf;
use models::tokenizer::{Encode, Tokenizer};
use proptest::prelude::*;

/// One vocabulary for each kind of pre-tokenizer.
static TOKENIZERS: LazyLock<Vec<(&str, Tokenizer)>> = LazyLock::new(|| {
    let open = |path: &std::path::Path| Tokenizer::from_gguf(Gguf::open(path).unwrap().metadata()).unwrap();
    let published = fixtures::VOCABS.map(|name| (name, open(&fixtures::vocab(name).gguf)));
    let mut all = Vec::from(published);
    all.push(("deepseek-v3", open(&fixtures::model("deepseek_v3").f16)));
    all
});

/// Text that is like text in places: words, digits, marks, white space and tags of many kinds.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[ \\n\\t\\r]{1,5}",
        4 => "[a-zA-Z']{1,8}",
        2 => "[0-9]{1,7}",
        2 => "[!-/:-@]{1,4}",
        2 => "[一-龥ぁ-ヿ가-힣]{1,4}",
        1 => "[\\u{300}-\\u{36f}]{1,2}",
        1 => "\\s{1,3}",
        1 => "<(｜(User|end▁of▁sentence)｜|/?think|\\|(im_end|eot_id|EOT)\\|)>?",
        2 => any::<char>().prop_map(String::from),
    ];
    prop_oneof![any::<String>(), prop::collection::vec(piece, 0..20).prop_map(|p| p.concat())]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn text_comes_back(text in text(), parse_special: bool) {
        for (name, tokenizer) in &*TOKENIZERS {
            let ids = tokenizer.encode(&text, Encode { add_special: false, parse_special });
            prop_assert_eq!(&tokenizer.decode(&ids, true), &text, "{}", name);
            prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.n_vocab()));
            prop_assert!(ids.len() <= text.len());
        }
    }

    /// Any tokens, among them those of single bytes that are no UTF-8, and ids that do not exist.
    #[test]
    fn decoding_as_they_come_is_decoding_at_once(
        ids in prop::collection::vec(prop_oneof![0..300u32, 0..200_000u32], 0..60),
        show_special: bool,
    ) {
        for (name, tokenizer) in &*TOKENIZERS {
            let mut decoder = tokenizer.decoder(show_special);
            let mut streamed = String::new();
            for &id in &ids {
                streamed.push_str(decoder.push(id));
            }
            streamed.push_str(decoder.finish());
            let bytes = tokenizer.decode_bytes(&ids, show_special);
            prop_assert_eq!(&streamed, &String::from_utf8_lossy(&bytes), "{}", name);
            prop_assert_eq!(&streamed, &tokenizer.decode(&ids, show_special), "{}", name);
        }
    }

    /// What has come out is never taken back, and nothing waits longer than a character needs.
    #[test]
    fn at_most_three_bytes_wait(text in text()) {
        for (_, tokenizer) in &*TOKENIZERS {
            let mut decoder = tokenizer.decoder(true);
            let (mut came, mut went) = (0, 0);
            for id in tokenizer.encode(&text, Encode::default()) {
                came += tokenizer.piece(id).len();
                went += decoder.push(id).len();
                prop_assert!(came - went <= 3);
            }
            prop_assert_eq!(went, text.len());
            prop_assert_eq!(decoder.finish(), "");
        }
    }
}

/// Texts that make merges, pre-tokenizers or the search for special tokens quadratic where they are
/// not written with care: this test would take hours.
#[test]
fn a_megabyte_of_anything() {
    const SIZE: usize = 1 << 20;
    let units = [
        " ",
        "\n",
        "a",
        "0",
        "😀",
        "e\u{301}",
        "\0",
        "<",
        " \n",
        "\u{3000} ",
        "<｜end▁of▁sentence｜",
        "[PAD15",
    ];
    let mixed: String = (0..SIZE).map(|i| char::from(b'a' + (i * i % 26) as u8)).collect();
    let texts = units.iter().map(|unit| unit.repeat(SIZE / unit.len())).chain([mixed]);
    for text in texts {
        for (name, tokenizer) in &*TOKENIZERS {
            let ids = tokenizer.encode(&text, Encode { add_special: false, parse_special: true });
            let start: String = text.chars().take(8).collect();
            assert!(tokenizer.decode(&ids, true) == text, "{name}: {start:?}…");
        }
    }
}
