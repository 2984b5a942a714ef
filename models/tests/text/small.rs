//! Small vocabularies made up for tests.

use ggml_sys::gguf::{Metadata, StringArray, Value, Writer};

use super::spell::spell;

/// A vocabulary: the 256 bytes, and what is added.
pub struct Small {
    tokens: Vec<String>,
    types: Vec<i32>,
    merges: Vec<String>,
    /// Any other key, which wins over what [`Small::metadata`] would write.
    pub writer: Writer,
}

impl Small {
    /// The 256 bytes, which are tokens 0 to 255.
    pub fn new(pre: &str) -> Self {
        let mut writer = Writer::new("small.gguf");
        writer.set("tokenizer.ggml.model", "gpt2");
        writer.set("tokenizer.ggml.pre", pre);
        Small {
            tokens: (0..=255).map(|b| spell(&[b])).collect(),
            types: vec![1; 256],
            merges: Vec::new(),
            writer,
        }
    }

    /// Adds a token as it stands, of type 1 (normal), 2 (unknown), 3 (control), 4 (user-defined), 5
    /// (unused) or 6 (byte).
    pub fn token(&mut self, text: &str, ty: i32) -> u32 {
        self.tokens.push(text.into());
        self.types.push(ty);
        self.tokens.len() as u32 - 1
    }

    /// Adds a merge of two texts, and the token it makes unless it is there.
    pub fn merge(&mut self, left: &str, right: &str) -> u32 {
        let (left, right) = (spell(left.as_bytes()), spell(right.as_bytes()));
        self.merges.push(format!("{left} {right}"));
        let made = left + &right;
        match self.tokens.iter().position(|t| *t == made) {
            Some(id) => id as u32,
            None => self.token(&made, 1),
        }
    }

    /// The metadata of a file with this vocabulary.
    pub fn metadata(&self) -> Metadata {
        let strings = |s: &[String]| Value::from(StringArray::from_strings(s).unwrap());
        let mut all = Writer::new("small.gguf");
        all.set("tokenizer.ggml.tokens", strings(&self.tokens));
        all.set("tokenizer.ggml.token_type", self.types.as_slice());
        all.set("tokenizer.ggml.merges", strings(&self.merges));
        all.copy_metadata(self.writer.metadata());
        all.metadata().clone()
    }
}
