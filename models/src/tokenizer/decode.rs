//! From tokens back to text, as they come.
//!
//! A character may be spread over tokens, so the decoder keeps the bytes of an unfinished one until
//! the rest arrives. Bytes that can be no part of a character become U+FFFD, as many as
//! [`String::from_utf8_lossy`] makes of them: what is pushed out, put together, is the lossy text of
//! all bytes.

use super::{TokenId, Tokenizer};

/// Decodes a stream of tokens into whole characters. Made by [`Tokenizer::decoder`].
pub struct Decoder<'t> {
    tokenizer: &'t Tokenizer,
    show_special: bool,
    text: String,
    unfinished: Unfinished,
}

/// The first bytes of a character, at most three.
#[derive(Clone, Copy, Default)]
struct Unfinished {
    bytes: [u8; 3],
    len: usize,
}

impl<'t> Decoder<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer, show_special: bool) -> Self {
        Decoder { tokenizer, show_special, text: String::new(), unfinished: Unfinished::default() }
    }

    /// Takes the next token and answers the text that is complete with it; often none.
    pub fn push(&mut self, id: TokenId) -> &str {
        self.text.clear();
        if self.show_special || self.tokenizer.kind(id).is_text() {
            decode(&mut self.unfinished, self.tokenizer.piece(id), &mut self.text);
        }
        &self.text
    }

    /// Ends the text: a character that was never finished comes out as U+FFFD. The decoder can be
    /// used for another text then.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        if self.unfinished.len > 0 {
            self.unfinished = Unfinished::default();
            self.text.push(char::REPLACEMENT_CHARACTER);
        }
        &self.text
    }
}

/// Appends what `unfinished` and `bytes` together make up.
fn decode(unfinished: &mut Unfinished, mut bytes: &[u8], out: &mut String) {
    // Finish the character that is waiting byte by byte: three more at most.
    while unfinished.len > 0 {
        let Some((&byte, rest)) = bytes.split_first() else {
            return;
        };
        let mut char = [0; 4];
        char[..unfinished.len].copy_from_slice(&unfinished.bytes[..unfinished.len]);
        char[unfinished.len] = byte;
        match std::str::from_utf8(&char[..=unfinished.len]) {
            Ok(whole) => {
                out.push_str(whole);
                *unfinished = Unfinished::default();
                bytes = rest;
            }
            Err(e) if e.error_len().is_none() => {
                unfinished.bytes[unfinished.len] = byte;
                unfinished.len += 1;
                bytes = rest;
            }
            // `byte` does not continue it, and is looked at again.
            Err(_) => {
                out.push(char::REPLACEMENT_CHARACTER);
                *unfinished = Unfinished::default();
            }
        }
    }
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        let invalid = chunk.invalid();
        let at_end = std::ptr::eq(invalid.as_ptr_range().end, bytes.as_ptr_range().end);
        let cut_off = at_end && std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
        if cut_off {
            unfinished.bytes[..invalid.len()].copy_from_slice(invalid);
            unfinished.len = invalid.len();
        } else if !invalid.is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
}
