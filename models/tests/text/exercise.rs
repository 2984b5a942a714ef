//! Makes a vocabulary and a text of any bytes, and checks what has to hold whatever they are.

use ggml_sys::gguf::{StringArray, Value, Writer};
use models::tokenizer::{Encode, TokenId, Tokenizer};

use super::spell::spell;

/// Bytes that are read as decisions; when they are used up, everything is zero.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        match *self.0 {
            [first, ref rest @ ..] => {
                self.0 = rest;
                first
            }
            [] => 0,
        }
    }

    /// A number below `n`.
    fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n
    }

    /// One in `n`.
    fn rarely(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    fn bytes(&mut self, most: usize) -> &'a [u8] {
        let n = self.below(most + 1).min(self.0.len());
        let (bytes, rest) = self.0.split_at(n);
        self.0 = rest;
        bytes
    }
}

const KINDS: [&str; 6] = ["llama-bpe", "qwen2", "deepseek-llm", "deepseek-coder", "deepseek-v3", "unknown"];

/// The lists of a vocabulary, as a file has them.
struct Lists {
    tokens: Vec<Vec<u8>>,
    types: Vec<i32>,
    merges: Vec<Vec<u8>>,
}

impl Lists {
    /// All bytes, some special tokens, and merges that make normal tokens: a vocabulary under which
    /// every text comes back as it was.
    fn sound(input: &mut Input<'_>) -> Self {
        let tokens = (0..=255).map(|b| spell(&[b]).into_bytes()).collect();
        let mut lists = Lists { tokens, types: vec![1; 256], merges: Vec::new() };
        for _ in 0..input.below(12) {
            let text = String::from_utf8_lossy(input.bytes(8)).into_owned().into_bytes();
            if !lists.tokens.contains(&text) {
                lists.tokens.push(text);
                lists.types.push([3, 4, 5, 2][input.below(4)]);
            }
        }
        let mut parts: Vec<usize> = (0..256).collect();
        for _ in 0..input.below(40) {
            let left = parts[(input.below(256) << 3 | input.below(8)) % parts.len()];
            let right = parts[(input.below(256) << 3 | input.below(8)) % parts.len()];
            let made = [&lists.tokens[left][..], &lists.tokens[right]].concat();
            let id = lists.tokens.iter().position(|t| *t == made);
            if id.is_some_and(|id| lists.types[id] != 1) {
                continue;
            }
            lists.merges.push([&lists.tokens[left][..], b" ", &lists.tokens[right]].concat());
            if id.is_none() {
                parts.push(lists.tokens.len());
                lists.tokens.push(made);
                lists.types.push(1);
            }
        }
        lists
    }

    /// Anything.
    fn wild(input: &mut Input<'_>) -> Self {
        let mut lists = match input.rarely(2) {
            true => Self::sound(input),
            false => Lists { tokens: Vec::new(), types: Vec::new(), merges: Vec::new() },
        };
        for _ in 0..input.below(16) {
            lists.tokens.push(input.bytes(10).to_vec());
            lists.types.push(input.below(8) as i32);
        }
        if input.rarely(8) {
            lists.types.pop();
        }
        for _ in 0..input.below(8) {
            let n = lists.tokens.len().max(1);
            let token = |i: usize| lists.tokens.get(i % n).cloned().unwrap_or_default();
            let merge = match input.rarely(3) {
                true => input.bytes(8).to_vec(),
                false => [&token(input.below(256))[..], b" ", &token(input.below(256))].concat(),
            };
            lists.merges.push(merge);
        }
        lists
    }

    fn set(&self, writer: &mut Writer) {
        let strings = |list: &[Vec<u8>]| StringArray::from_strings(list).map(Value::from);
        for (key, list) in [("tokens", &self.tokens), ("merges", &self.merges)] {
            if let Some(list) = strings(list) {
                writer.set(&format!("tokenizer.ggml.{key}"), list);
            }
        }
        writer.set("tokenizer.ggml.token_type", self.types.as_slice());
    }
}

/// Makes a vocabulary of the beginning of `data` and a text of the rest, and uses them.
pub fn make_and_use(data: &[u8]) {
    let input = &mut Input(data);
    let sound = input.byte().is_multiple_of(2);
    let lists = if sound { Lists::sound(input) } else { Lists::wild(input) };
    let mut writer = Writer::new("fuzzed.gguf");
    writer.set("tokenizer.ggml.model", "gpt2");
    writer.set("tokenizer.ggml.pre", KINDS[input.below(if sound { 5 } else { 6 })]);
    lists.set(&mut writer);
    for role in ["bos", "eos", "eot", "unknown"] {
        if input.rarely(3) {
            let id = input.below(256) as u32 + 256 * u32::from(input.rarely(4));
            writer.set(&format!("tokenizer.ggml.{role}_token_id"), id);
        }
    }
    for flag in ["add_bos_token", "add_eos_token"] {
        if input.rarely(3) {
            writer.set(&format!("tokenizer.ggml.{flag}"), input.rarely(2));
        }
    }
    let text = String::from_utf8_lossy(input.0);
    match Tokenizer::from_gguf(writer.metadata()) {
        Ok(tokenizer) => use_all(&tokenizer, &text, sound, data),
        Err(error) => {
            let error = error.to_string();
            assert!(error.len() < 1000 && !error.chars().any(char::is_control), "{error:?}");
            assert!(error.starts_with("fuzzed.gguf: key 'tokenizer.ggml."), "{error:?}");
        }
    }
}

fn use_all(tokenizer: &Tokenizer, text: &str, sound: bool, any: &[u8]) {
    for parse_special in [false, true] {
        let ids = tokenizer.encode(text, Encode { add_special: false, parse_special });
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.n_vocab()));
        let back = tokenizer.decode(&ids, true);
        assert!(!sound || back == text, "{text:?} came back as {back:?}");
        decode(tokenizer, &ids);
        let framed = tokenizer.encode(text, Encode { add_special: true, parse_special });
        let frame = [(tokenizer.add_bos(), tokenizer.bos()), (tokenizer.add_eos(), tokenizer.eos())];
        let added = frame.into_iter().filter(|(add, id)| *add && id.is_some()).count();
        assert_eq!(framed.len(), ids.len() + added);
    }
    let prompt = tokenizer.encode_prompt(text);
    if let (true, Some(bos)) = (tokenizer.add_bos(), tokenizer.bos()) {
        assert_eq!(prompt.first(), Some(&bos));
    }
    let any: Vec<TokenId> = any.iter().map(|&b| TokenId::from(b) * 2).collect();
    decode(tokenizer, &any);
    for (id, _, piece) in tokenizer.special_tokens() {
        assert_eq!(tokenizer.piece(id), piece);
        tokenizer.is_eog(id);
    }
    assert!(tokenizer.eog().is_sorted());
}

fn decode(tokenizer: &Tokenizer, ids: &[TokenId]) {
    for show_special in [false, true] {
        let mut decoder = tokenizer.decoder(show_special);
        let mut streamed = String::new();
        for &id in ids {
            streamed.push_str(decoder.push(id));
        }
        streamed.push_str(decoder.finish());
        let bytes = tokenizer.decode_bytes(ids, show_special);
        assert_eq!(streamed, String::from_utf8_lossy(&bytes));
    }
}
