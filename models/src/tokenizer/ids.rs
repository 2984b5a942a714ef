//! Tokens with a role: begin, end, whose turn it is.
//!
//! The file names some of them by id. Others are known by their text only: most files say which
//! token ends a text, but not that `<|eot_id|>` ends a turn.

use ggml_sys::gguf::{Metadata, Result};

use super::TokenId;
use super::vocab::{TokenKind, Vocab};

/// The ids that a file gives to roles, each `None` if it gives none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begins a text.
    pub bos: Option<TokenId>,
    /// Ends a text.
    pub eos: Option<TokenId>,
    /// Ends a turn.
    pub eot: Option<TokenId>,
    /// Ends a message, such as the call of a tool.
    pub eom: Option<TokenId>,
    /// Stands for what the vocabulary cannot express.
    pub unk: Option<TokenId>,
    /// Fills batches.
    pub pad: Option<TokenId>,
}

impl SpecialIds {
    /// Reads the ids. One that is not below `n_vocab` is an error, except for the padding and the
    /// unknown token, which some converters set to nonsense and nothing here needs.
    pub(super) fn from_gguf(md: &Metadata, n_vocab: usize) -> Result<Self> {
        let id = |role: &str| {
            let key = format!("tokenizer.ggml.{role}_token_id");
            match md.u32(&key)? {
                Some(id) if id as usize >= n_vocab => {
                    Err(md.invalid(&key, format!("is {id}, and there are {n_vocab} tokens")))
                }
                id => Ok(id),
            }
        };
        Ok(SpecialIds {
            bos: id("bos")?,
            eos: id("eos")?,
            eot: id("eot")?,
            eom: id("eom")?,
            unk: id("unknown").unwrap_or(None),
            pad: id("padding").unwrap_or(None),
        })
    }
}

/// Keys of further tokens at which generation ends: what follows them is another file.
const ENDING_KEYS: &[&str] = &[
    "tokenizer.ggml.fim_pad_token_id",
    "tokenizer.ggml.fim_rep_token_id",
    "tokenizer.ggml.fim_sep_token_id",
];

/// DeepSeek-Coder's end of a turn, which its files call text: it ends generation, and is recognized in
/// any text all the same.
const CODER_EOT: &str = "<|EOT|>";

/// Texts of tokens that end generation wherever they are in a vocabulary, as llama.cpp knows them.
const ENDING_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<｜end▁of▁sentence｜>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<eos>",
    "</s>",
    "<|fim_pad|>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<|file_sep|>",
];

/// Texts of tokens that steer the model although some files call them text.
const CONTROL_TEXTS: &[&str] = &[
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
    "<｜fim▁begin｜>",
    "<｜fim▁hole｜>",
    "<｜fim▁end｜>",
];

/// The tokens that end generation, sorted. Makes control tokens of those known by text only.
///
/// A token that `is_word`, that is, that merges spell out of ordinary text, is left alone: Qwen's
/// vocabulary has `</s>` as HTML's end of struck-out text.
pub(super) fn end_of_generation(
    md: &Metadata,
    vocab: &mut Vocab,
    ids: &SpecialIds,
    is_word: impl Fn(&Vocab, TokenId) -> bool,
) -> Result<Vec<TokenId>> {
    let known_by_text = |vocab: &mut Vocab, text: &str| {
        let id = vocab.id(text.as_bytes())?;
        if vocab.kind(id) == TokenKind::Normal && is_word(vocab, id) {
            return None;
        }
        vocab.set_kind(id, TokenKind::Control);
        Some(id)
    };
    let mut ending: Vec<TokenId> = [ids.eos, ids.eot, ids.eom].into_iter().flatten().collect();
    for text in ENDING_TEXTS {
        ending.extend(known_by_text(vocab, text));
    }
    ending.extend(vocab.id(CODER_EOT.as_bytes()).filter(|&id| vocab.kind(id) != TokenKind::Normal));
    for text in CONTROL_TEXTS {
        known_by_text(vocab, text);
    }
    for key in ENDING_KEYS {
        ending.extend(md.u32(key)?);
    }
    ending.retain(|&id| (id as usize) < vocab.len());
    ending.sort_unstable();
    ending.dedup();
    Ok(ending)
}
