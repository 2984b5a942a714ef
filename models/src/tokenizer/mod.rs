//! From text to tokens and back.
//!
//! A model reads and writes token ids. Its file holds the vocabulary (what each id stands for), the
//! merges (how bytes grow into tokens), the name of a pre-tokenizer (where words end) and the ids of
//! tokens with a role. Text becomes ids in three steps:
//!
//! 1. [`special`]: tokens that are matched as they are written are cut out, such as `<think>`;
//! 2. [`pretokenize`]: what lies between is cut into words;
//! 3. [`bpe`]: the bytes of each word are merged into tokens.
//!
//! The way back is easier: each token stands for bytes ([`vocab`]), and [`decode`] puts them together
//! to whole characters as they come. [`alphabet`] is how files spell bytes, [`ids`] knows the roles.
//!
//! Everything takes time linear in the text, or nearly so (a word of n bytes costs n log n).
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use models::tokenizer::{Encode, Tokenizer};
//!
//! let file = ggml_sys::gguf::Gguf::open("model.gguf".as_ref())?;
//! let tokenizer = Tokenizer::from_gguf(file.metadata())?;
//! let ids = tokenizer.encode("Hello, world", Encode { add_special: true, parse_special: false });
//! assert_eq!(tokenizer.decode(&ids, false), "Hello, world");
//! # Ok(())
//! # }
//! ```

mod alphabet;
mod bpe;
mod decode;
mod ids;
mod pretokenize;
#[cfg(test)]
#[path = "../../tests/text/small.rs"]
mod small;
mod special;
#[cfg(test)]
#[path = "../../tests/text/spell.rs"]
mod spell;
mod table;
mod vocab;

use std::borrow::Cow;

use ggml_sys::gguf::{Metadata, Quoted};

pub use decode::Decoder;
pub use ggml_sys::gguf::Error;
pub use ids::SpecialIds;
pub use vocab::TokenKind;

use bpe::Bpe;
use pretokenize::Pretokenizer;
use special::{Fragment, Matcher};
use vocab::Vocab;

/// Index of a token in the vocabulary: a row of the embedding.
pub type TokenId = u32;

const MODEL: &str = "tokenizer.ggml.model";
/// The kind of vocabulary that is supported: byte-level BPE.
const GPT2: &str = "gpt2";

/// How to read a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encode {
    /// Put BOS before and EOS after the text, where the file says that texts have them.
    pub add_special: bool,
    /// Take the text of a control token for the token. Otherwise it is text like any other, as it
    /// should be in what a stranger wrote. User-defined tokens are recognized either way.
    pub parse_special: bool,
}

/// The tokenizer of a model file. Can be shared between threads.
pub struct Tokenizer {
    vocab: Vocab,
    bpe: Bpe,
    pretokenizer: &'static Pretokenizer,
    /// Whether a word that is a token as a whole becomes that token.
    whole_words: bool,
    /// User-defined tokens, and those together with control tokens.
    user_defined: Matcher,
    special: Matcher,
    ids: SpecialIds,
    ending: Vec<TokenId>,
    add_bos: bool,
    add_eos: bool,
}

impl Tokenizer {
    /// Reads the tokenizer of a file. Works for files that hold only a vocabulary, too.
    ///
    /// # Errors
    ///
    /// Names the file, the key and what is wrong with it: another kind of vocabulary or an unknown
    /// pre-tokenizer (with the known ones), a list that is missing, of the wrong type or of another
    /// length, a merge that names no token, a byte token that names no byte, an id that does not
    /// exist.
    ///
    /// Not errors: a text that two tokens have (the lower id is used, both decode), empty tokens
    /// (never used), and bytes without a token (they become the unknown token, or are left out if
    /// there is none; a warning is logged).
    pub fn from_gguf(md: &Metadata) -> Result<Self, Error> {
        let model = md.require_str(MODEL)?;
        if model != GPT2 {
            let what = format!(
                "names the vocabulary {}; known is {GPT2} (byte-level BPE)",
                Quoted(model.as_bytes())
            );
            return Err(md.invalid(MODEL, what));
        }
        let kind = pretokenize::Kind::from_gguf(md)?;
        let pretokenizer = kind.compile(md)?;
        let mut vocab = Vocab::from_gguf(md)?;
        let mut bpe = Bpe::from_gguf(md, &vocab)?;
        let ids = SpecialIds::from_gguf(md, vocab.len())?;
        let ending = ids::end_of_generation(md, &mut vocab, &ids, |vocab, id| bpe.spells(vocab, id))?;
        bpe.set_unknown(ids.unk);
        if bpe.missing_bytes() > 0 {
            let fate = if ids.unk.is_some() { "become the unknown token" } else { "are left out" };
            log::warn!(
                "the vocabulary has no token for {} bytes: in a text they {fate}",
                bpe.missing_bytes()
            );
        }
        let user_defined = || vocab.of_kind(TokenKind::UserDefined);
        let steering = || vocab.of_kind(TokenKind::Control).chain(vocab.of_kind(TokenKind::Unknown));
        Ok(Tokenizer {
            user_defined: Matcher::new(&vocab, user_defined()),
            special: Matcher::new(&vocab, user_defined().chain(steering())),
            whole_words: kind.whole_words,
            add_bos: md.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(kind.add_bos),
            add_eos: md.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
            vocab,
            bpe,
            pretokenizer,
            ids,
            ending,
        })
    }

    /// The tokens of `text`.
    pub fn encode(&self, text: &str, opts: Encode) -> Vec<TokenId> {
        let mut out = Vec::with_capacity(text.len() / 4 + 2);
        if opts.add_special && self.add_bos {
            out.extend(self.ids.bos);
        }
        let matcher = if opts.parse_special { &self.special } else { &self.user_defined };
        let mut scratch = bpe::Scratch::default();
        let mut spelled = Vec::new();
        matcher.partition(text, |fragment| match fragment {
            Fragment::Token(id) => out.push(id),
            Fragment::Text(text) => {
                self.pretokenizer.split(text, |word| match self.whole_word(word, &mut spelled) {
                    Some(id) => out.push(id),
                    None => self.bpe.encode(word.as_bytes(), &mut scratch, &mut out),
                })
            }
        });
        if opts.add_special && self.add_eos {
            out.extend(self.ids.eos);
        }
        out
    }

    /// The tokens of a prompt that a chat template made: special tokens are parsed, and BOS comes
    /// first where the file asks for it, once, even if the template wrote it too.
    pub fn encode_prompt(&self, prompt: &str) -> Vec<TokenId> {
        let mut ids = self.encode(prompt, Encode { add_special: false, parse_special: true });
        if let Some(bos) = self.ids.bos
            && self.add_bos
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        ids
    }

    /// The token that `word` is as a whole, where the pre-tokenizer looks for that.
    fn whole_word(&self, word: &str, spelled: &mut Vec<u8>) -> Option<TokenId> {
        if !self.whole_words {
            return None;
        }
        spelled.clear();
        alphabet::spell(word.as_bytes(), spelled);
        let id = self.vocab.id(spelled)?;
        (self.kind(id) == TokenKind::Normal).then_some(id)
    }

    /// The bytes that token `id` stands for, not always whole characters; of a control token, its
    /// text. Empty if there is no such token.
    pub fn piece(&self, id: TokenId) -> &[u8] {
        self.vocab.piece(id)
    }

    /// The text of `ids`; bytes that are no UTF-8 become U+FFFD. Control tokens are left out unless
    /// `show_special`.
    pub fn decode(&self, ids: &[TokenId], show_special: bool) -> String {
        let bytes = self.decode_bytes(ids, show_special);
        match String::from_utf8_lossy(&bytes) {
            Cow::Borrowed(_) => String::from_utf8(bytes).unwrap_or_default(),
            Cow::Owned(text) => text,
        }
    }

    /// The bytes of `ids`. Control tokens are left out unless `show_special`.
    pub fn decode_bytes(&self, ids: &[TokenId], show_special: bool) -> Vec<u8> {
        let shown = ids.iter().filter(|&&id| show_special || self.kind(id).is_text());
        shown.flat_map(|&id| self.piece(id)).copied().collect()
    }

    /// A decoder for tokens that come one at a time. It leaves out control tokens unless
    /// `show_special`.
    pub fn decoder(&self, show_special: bool) -> Decoder<'_> {
        Decoder::new(self, show_special)
    }

    /// Number of tokens. The embedding of a model may have more rows.
    pub fn n_vocab(&self) -> usize {
        self.vocab.len()
    }

    /// The id of a token by its text: `<think>`, or a word as the file spells it, `Ġthe`.
    pub fn token_id(&self, text: &str) -> Option<TokenId> {
        self.vocab.id(text.as_bytes())
    }

    /// What a token is for. An id that does not exist counts as unused.
    pub fn kind(&self, id: TokenId) -> TokenKind {
        self.vocab.kind(id)
    }

    /// Whether the token steers the model and is no part of the text.
    pub fn is_control(&self, id: TokenId) -> bool {
        self.kind(id) == TokenKind::Control
    }

    /// Whether generation ends with this token.
    pub fn is_eog(&self, id: TokenId) -> bool {
        self.ending.binary_search(&id).is_ok()
    }

    /// All tokens that end generation, in order.
    pub fn eog(&self) -> &[TokenId] {
        &self.ending
    }

    /// Tokens with a role that the file names.
    pub fn special_ids(&self) -> &SpecialIds {
        &self.ids
    }

    /// Begins a text.
    pub fn bos(&self) -> Option<TokenId> {
        self.ids.bos
    }

    /// Ends a text.
    pub fn eos(&self) -> Option<TokenId> {
        self.ids.eos
    }

    /// Whether the file wants BOS before a text.
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether the file wants EOS after a text.
    pub fn add_eos(&self) -> bool {
        self.add_eos
    }

    /// All tokens that are matched in a text as they are written, in the order of their ids.
    pub fn special_tokens(&self) -> impl Iterator<Item = (TokenId, TokenKind, &[u8])> + '_ {
        (0..self.n_vocab() as TokenId).filter_map(|id| match self.kind(id) {
            kind @ (TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown) => {
                Some((id, kind, self.piece(id)))
            }
            _ => None,
        })
    }
}
