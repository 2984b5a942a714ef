//! Vocabularies that are wrong: most end in one line that names the key and what is wrong with it,
//! some are put up with, and these say how.

use ggml_sys::gguf::{StringArray, Value};
use models::tokenizer::{Encode, TokenKind, Tokenizer};

use crate::{Small, spell};

const ALL: Encode = Encode { add_special: true, parse_special: true };

fn strings<S: AsRef<[u8]>>(texts: &[S]) -> Value {
    StringArray::from_strings(texts).unwrap().into()
}

/// The error of a small vocabulary with one key set.
fn error(key: &str, value: impl Into<Value>) -> String {
    let mut small = Small::new("qwen2");
    small.merge("a", "b");
    small.writer.set(key, value);
    match Tokenizer::from_gguf(&small.metadata()) {
        Ok(_) => panic!("{key}: no error"),
        Err(e) => e.to_string(),
    }
}

fn check(key: &str, value: impl Into<Value>, expected: &str) {
    let error = error(key, value);
    assert_eq!(error, format!("small.gguf: key '{key}': {expected}"));
    assert!(!error.contains('\n'));
}

#[test]
fn unknown_kinds_are_named_and_the_known_listed() {
    check("tokenizer.ggml.model", "llama", "names the vocabulary 'llama'; known is gpt2 (byte-level BPE)");
    check("tokenizer.ggml.model", 5u32, "is the u32 5, not a string");
    check(
        "tokenizer.ggml.pre",
        "tekken",
        "names the pre-tokenizer 'tekken'; known are llama-bpe, llama-v3, llama3, qwen2, deepseek-r1-qwen, \
         deepseek-llm, deepseek-coder, deepseek-v3",
    );
    check("tokenizer.ggml.pre", true, "is the bool true, not a string");
    assert!(error("tokenizer.ggml.pre", "a\nb").contains("'a\\nb'"));
}

#[test]
fn missing_keys_are_named() {
    let all = ["model", "pre", "tokens", "merges"].map(|key| format!("tokenizer.ggml.{key}"));
    for missing in &all {
        let mut some = ggml_sys::gguf::Writer::new("small.gguf");
        some.copy_metadata(&Small::new("qwen2").metadata());
        some.remove(missing);
        let error = Tokenizer::from_gguf(some.metadata()).err().unwrap().to_string();
        assert!(error.contains(&format!("'{missing}' is missing")), "{error}");
    }
}

#[test]
fn tokens_of_the_wrong_shape() {
    const KEY: &str = "tokenizer.ggml.tokens";
    check(KEY, "a", "is the string 'a', not an array of strings");
    check(KEY, &[1i32, 2][..], "is an array of 2 i32, not an array of strings");
    check(KEY, strings::<&str>(&[]), "holds no tokens");
}

#[test]
fn types_of_the_wrong_shape() {
    const KEY: &str = "tokenizer.ggml.token_type";
    check(KEY, &[1i32, 1][..], "has 2 elements for 257 tokens");
    check(KEY, &[1i32; 300][..], "has 300 elements for 257 tokens");
    let mut types = [1i32; 257];
    types[7] = 99;
    check(KEY, &types[..], "element 7 is 99, which is no type of token");
    types[7] = -1;
    check(KEY, &types[..], "element 7 is -1, which is no type of token");
    assert!(error(KEY, &[1f32; 257][..]).contains("element 0 is the f32 1"));
    assert!(error(KEY, strings(&["normal"])).contains("not an array of integers"));
}

#[test]
fn merges_that_name_no_token() {
    const KEY: &str = "tokenizer.ggml.merges";
    check(KEY, strings(&["a b", "a xyz"]), "element 1, 'a xyz', needs the token 'xyz', which is not there");
    check(KEY, strings(&["xyz a"]), "element 0, 'xyz a', needs the token 'xyz', which is not there");
    check(KEY, strings(&["a c"]), "element 0, 'a c', needs the token 'ac', which is not there");
    check(KEY, strings(&["a "]), "element 0, 'a ', needs the token '', which is not there");
    for bad in ["ab", "", " ", " a"] {
        assert!(error(KEY, strings(&[bad])).contains("is not two tokens"), "{bad:?}");
    }
    let many: Vec<String> =
        (0..1000).map(|i| if i == 777 { "no such".into() } else { "a b".to_string() }).collect();
    check(KEY, strings(&many), "element 777, 'no such', needs the token 'no', which is not there");
    check(KEY, &[1u32][..], "is an array of 1 u32, not an array of strings");
}

#[test]
fn byte_tokens_that_name_no_byte() {
    for text in ["<0x-1>", "<0x100>", "<0xG0>", "0x41", ""] {
        let mut small = Small::new("qwen2");
        small.token(text, 6);
        let error = Tokenizer::from_gguf(&small.metadata()).err().unwrap().to_string();
        assert!(
            error.ends_with(&format!("token 256 is '{text}', which names no byte (<0x00> to <0xFF>)")),
            "{error}"
        );
    }
}

#[test]
fn roles_that_do_not_exist() {
    for role in ["bos", "eos", "eot", "eom"] {
        let key = format!("tokenizer.ggml.{role}_token_id");
        check(&key, 257u32, "is 257, and there are 257 tokens");
        check(&key, u32::MAX, "is 4294967295, and there are 257 tokens");
        check(&key, -1i32, "is the i32 -1, not an integer of 0 to 4294967295");
        check(&key, "a", "is the string 'a', not an integer of 0 to 4294967295");
    }
    check("tokenizer.ggml.add_bos_token", 1u32, "is the u32 1, not a boolean");
    check("tokenizer.ggml.fim_pad_token_id", "x", "is the string 'x', not an integer of 0 to 4294967295");
}

#[test]
fn a_padding_token_that_does_not_exist_is_none() {
    let mut small = Small::new("qwen2");
    small.writer.set("tokenizer.ggml.padding_token_id", u32::MAX);
    small.writer.set("tokenizer.ggml.unknown_token_id", -1i32);
    let tokenizer = Tokenizer::from_gguf(&small.metadata()).unwrap();
    assert_eq!((tokenizer.special_ids().pad, tokenizer.special_ids().unk), (None, None));
}

#[test]
fn bos_that_is_wanted_and_not_there_is_left_out() {
    let mut small = Small::new("llama-bpe");
    small.writer.set("tokenizer.ggml.add_eos_token", true);
    let tokenizer = Tokenizer::from_gguf(&small.metadata()).unwrap();
    assert!(tokenizer.add_bos() && tokenizer.add_eos());
    assert_eq!(tokenizer.encode("a", ALL), [u32::from(b'a')]);
    assert_eq!(tokenizer.encode_prompt("a"), [u32::from(b'a')]);
}

#[test]
fn of_equal_tokens_the_first_is_used_and_all_decode() {
    let mut small = Small::new("qwen2");
    let first = small.merge("a", "b");
    let twin = small.token("ab", 1);
    let special = small.token("<x>", 4);
    let special_twin = small.token("<x>", 3);
    small.merge("c", "d");
    let tokenizer = Tokenizer::from_gguf(&small.metadata()).unwrap();
    assert_eq!(tokenizer.encode("ab<x>ab", ALL), [first, special, first]);
    assert_eq!(tokenizer.token_id("ab"), Some(first));
    assert_eq!(tokenizer.decode(&[first, twin, special, special_twin], true), "abab<x><x>");
}

#[test]
fn empty_tokens_are_never_used() {
    let mut small = Small::new("qwen2");
    let empty: Vec<u32> = [1, 3, 4, 5].map(|ty| small.token("", ty)).to_vec();
    let tokenizer = Tokenizer::from_gguf(&small.metadata()).unwrap();
    assert_eq!(tokenizer.encode("abc", ALL).len(), 3);
    assert_eq!(tokenizer.token_id(""), None);
    assert_eq!(tokenizer.decode(&empty, true), "");
}

#[test]
fn padding_rows_are_no_text() {
    let mut small = Small::new("qwen2");
    let pad = small.token("[PAD0]", 5);
    let tokenizer = Tokenizer::from_gguf(&small.metadata()).unwrap();
    assert_eq!(tokenizer.encode("[PAD0]", ALL).len(), 6);
    assert_eq!(tokenizer.decode(&[pad], false), "");
    assert_eq!(tokenizer.decode(&[pad], true), "[PAD0]");
}

#[test]
fn tokens_that_are_not_utf8_or_not_of_the_alphabet_stand_for_themselves() {
    let mut small = Small::new("qwen2");
    let outside = small.token("日 本", 1);
    let byte = small.token("<0xE6>", 6);
    let tokenizer = Tokenizer::from_gguf(&small.metadata()).unwrap();
    assert_eq!(tokenizer.decode(&[outside], false), "日 本");
    assert_eq!(tokenizer.piece(byte), [0xe6]);

    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|b| spell(&[b]).into_bytes()).collect();
    tokens.push(b"<\xff".to_vec());
    tokens.push("日".as_bytes()[..2].to_vec());
    tokens.push("日".as_bytes()[1..].to_vec());
    let mut types = vec![1i32; 256];
    types.extend([4, 4, 4]);
    let mut small = Small::new("qwen2");
    small.writer.set("tokenizer.ggml.tokens", strings(&tokens));
    small.writer.set("tokenizer.ggml.token_type", types.as_slice());
    let tokenizer = Tokenizer::from_gguf(&small.metadata()).unwrap();
    for text in ["日", "a日b", "<日>"] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, ALL), true), text);
    }
    assert_eq!(tokenizer.decode(&[257, 258], true), "旗\u{fffd}");
}

#[test]
fn bytes_without_a_token_become_the_unknown_token_or_nothing() {
    let tokens: Vec<String> = (b'a'..=b'f').map(|b| spell(&[b])).collect();
    let mut small = Small::new("qwen2");
    small.writer.set("tokenizer.ggml.tokens", strings(&tokens));
    small.writer.set("tokenizer.ggml.token_type", &[1i32, 1, 1, 1, 1, 2][..]);
    assert_eq!(Tokenizer::from_gguf(&small.metadata()).unwrap().encode("a?bé", ALL), [0, 1]);
    small.writer.set("tokenizer.ggml.unknown_token_id", 5u32);
    let tokenizer = Tokenizer::from_gguf(&small.metadata()).unwrap();
    assert_eq!(tokenizer.encode("a?bé", ALL), [0, 5, 1, 5, 5]);
    assert_eq!(tokenizer.decode(&[0, 5, 1], false), "ab");
}

#[test]
fn a_file_without_types_has_normal_tokens() {
    let mut some = ggml_sys::gguf::Writer::new("small.gguf");
    some.copy_metadata(&Small::new("deepseek-v3").metadata());
    some.remove("tokenizer.ggml.token_type");
    let tokenizer = Tokenizer::from_gguf(some.metadata()).unwrap();
    assert_eq!(tokenizer.kind(0), TokenKind::Normal);
    assert_eq!(tokenizer.decode(&tokenizer.encode("é 1", ALL), false), "é 1");
}

#[test]
fn ids_that_do_not_exist_are_nothing() {
    let tokenizer = Tokenizer::from_gguf(&Small::new("qwen2").metadata()).unwrap();
    assert_eq!(tokenizer.piece(u32::MAX), b"");
    assert_eq!(tokenizer.decode(&[256, u32::MAX], true), "");
    assert_eq!(tokenizer.decoder(true).push(u32::MAX), "");
    assert!(!tokenizer.is_eog(u32::MAX) && !tokenizer.is_control(u32::MAX));
}

/// Matches of every length at every position: the search stays linear in the text, and exact.
#[test]
fn special_tokens_that_begin_with_each_other() {
    let mut small = Small::new("qwen2");
    let ids: Vec<u32> = (1..=200).map(|n| small.token(&"x".repeat(n), 4)).collect();
    let tokenizer = Tokenizer::from_gguf(&small.metadata()).unwrap();
    let encoded = tokenizer.encode(&"x".repeat(200 * 100 + 7), ALL);
    assert_eq!(encoded[..100], vec![ids[199]; 100]);
    assert_eq!(encoded[100..], [ids[6]]);
}
