//! The vocabulary: what each id is called in the file, of what kind it is, which bytes it stands for.

use ggml_sys::gguf::{Metadata, Quoted, Result};

use super::TokenId;
use super::alphabet;
use super::table::TextTable;

const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";

/// What a token is for, as `tokenizer.ggml.token_type` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TokenKind {
    /// A piece of text, spelled in the byte-level alphabet.
    Normal,
    /// Stands for text that the vocabulary cannot express.
    Unknown,
    /// Steers the model (begin, end, whose turn) and is no part of the text.
    Control,
    /// A piece of text that is looked for before everything else and never split, as it is written.
    UserDefined,
    /// A row of the embedding without meaning.
    Unused,
    /// One byte, written `<0xFF>`.
    Byte,
}

impl TokenKind {
    fn from_code(code: i32) -> Option<Self> {
        Some(match code {
            // 0 is "undefined": what writers put that do not know.
            0 | 1 => TokenKind::Normal,
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            6 => TokenKind::Byte,
            _ => return None,
        })
    }

    /// Whether the token is part of the text that a reader sees.
    pub fn is_text(self) -> bool {
        matches!(self, TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte)
    }
}

/// All tokens of a file.
pub(super) struct Vocab {
    /// As the file spells them. Copied, because looking up merges needs them close together.
    texts: Pieces,
    /// The bytes they stand for.
    pieces: Pieces,
    kinds: Vec<TokenKind>,
    by_text: TextTable,
    duplicates: bool,
}

/// Many short byte strings, one after another in one buffer.
struct Pieces {
    bytes: Vec<u8>,
    /// Where each one ends.
    ends: Vec<u32>,
}

impl Pieces {
    fn with_capacity(n: usize, bytes: usize) -> Self {
        Pieces { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(n) }
    }

    /// Ends the piece that was appended to `bytes`. A file's strings together are shorter than 4 GiB.
    fn end(&mut self) {
        self.ends.push(self.bytes.len() as u32);
    }

    /// Piece `id`; empty if there is none.
    fn get(&self, id: TokenId) -> &[u8] {
        let i = id as usize;
        let Some(&end) = self.ends.get(i) else {
            return &[];
        };
        let start = i.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start as usize..end as usize]
    }
}

impl Vocab {
    /// Reads tokens and their kinds.
    ///
    /// A text that occurs twice belongs to the lower id when encoding; both decode. An empty text
    /// is never matched and decodes to nothing.
    pub fn from_gguf(md: &Metadata) -> Result<Self> {
        let list = md.require_strings(TOKENS)?;
        if list.is_empty() {
            return Err(md.invalid(TOKENS, "holds no tokens"));
        }
        let kinds = kinds(md, list.len())?;
        let size = list.iter().map(<[u8]>::len).sum();
        let mut texts = Pieces::with_capacity(list.len(), size);
        let mut pieces = Pieces::with_capacity(list.len(), size);
        let mut by_text = TextTable::with_capacity(list.len());
        let mut duplicates = false;
        for (id, (text, &kind)) in list.iter().zip(&kinds).enumerate() {
            texts.bytes.extend_from_slice(text);
            texts.end();
            if !text.is_empty() {
                duplicates |= !by_text.insert(text, id as u32, |id| texts.get(id));
            }
            match kind {
                TokenKind::Normal if alphabet::unspell(text, &mut pieces.bytes) => {}
                TokenKind::Byte => match byte(text) {
                    Some(byte) => pieces.bytes.push(byte),
                    None => {
                        let what =
                            format!("token {id} is {}, which names no byte (<0x00> to <0xFF>)", Quoted(text));
                        return Err(md.invalid(TOKENS, what));
                    }
                },
                _ => pieces.bytes.extend_from_slice(text),
            }
            pieces.end();
        }
        Ok(Vocab { texts, pieces, kinds, by_text, duplicates })
    }

    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Whether two ids have the same text.
    pub fn has_duplicates(&self) -> bool {
        self.duplicates
    }

    /// As the file spells it; empty if there is no such id.
    pub fn text(&self, id: TokenId) -> &[u8] {
        self.texts.get(id)
    }

    /// The bytes that the token stands for; empty if there is no such id.
    pub fn piece(&self, id: TokenId) -> &[u8] {
        self.pieces.get(id)
    }

    /// The kind; an id that does not exist counts as unused.
    pub fn kind(&self, id: TokenId) -> TokenKind {
        self.kinds.get(id as usize).copied().unwrap_or(TokenKind::Unused)
    }

    pub fn set_kind(&mut self, id: TokenId, kind: TokenKind) {
        if let Some(k) = self.kinds.get_mut(id as usize) {
            *k = kind;
        }
    }

    /// The id of a text as the file spells it.
    pub fn id(&self, text: &[u8]) -> Option<TokenId> {
        self.by_text.get(text, |id| self.text(id))
    }

    /// The ids of many texts; faster than one at a time.
    pub fn ids<const N: usize>(&self, texts: &[&[u8]; N]) -> [Option<TokenId>; N] {
        self.by_text.get_all(texts, |id| self.text(id))
    }

    /// All ids of a kind.
    pub fn of_kind(&self, kind: TokenKind) -> impl Iterator<Item = TokenId> + '_ {
        let all = self.kinds.iter().enumerate();
        all.filter(move |&(_, &k)| k == kind).map(|(id, _)| id as TokenId)
    }
}

/// The kinds of `n` tokens. A file without them has normal tokens only.
fn kinds(md: &Metadata, n: usize) -> Result<Vec<TokenKind>> {
    let Some(codes) = md.i32s(TOKEN_TYPE)? else {
        return Ok(vec![TokenKind::Normal; n]);
    };
    if codes.len() != n {
        return Err(md.invalid(TOKEN_TYPE, format!("has {} elements for {n} tokens", codes.len())));
    }
    let kind = |(id, &code): (usize, &i32)| {
        TokenKind::from_code(code).ok_or_else(|| {
            md.invalid(TOKEN_TYPE, format!("element {id} is {code}, which is no type of token"))
        })
    };
    codes.iter().enumerate().map(kind).collect()
}

/// The byte that `<0xHH>` names.
fn byte(text: &[u8]) -> Option<u8> {
    let digits = text.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let digit = |d: u8| char::from(d).to_digit(16);
    match *digits {
        [high, low] => Some((digit(high)? << 4 | digit(low)?) as u8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_tokens_are_two_hex_digits() {
        assert_eq!(byte(b"<0x00>"), Some(0));
        assert_eq!(byte(b"<0xfF>"), Some(255));
        for bad in [&b"<0x-1>"[..], b"<0x+1>", b"<0x1>", b"<0x100>", b"<0x1G>", b"0x10", b"<0x>", b""] {
            assert_eq!(byte(bad), None);
        }
    }
}
