//! Byte-pair encoding of one word.
//!
//! A word starts as its bytes; the pair of neighbours that comes first in the file's list of merges
//! becomes one token, again and again, until no pair is in the list. Of equal pairs the leftmost
//! goes first. (Sennrich, Haddow and Birch 2016, on bytes as in GPT-2.)
//!
//! The pairs wait in a heap, and the tokens of the word form a linked list, so a word of n bytes
//! costs O(n log n): texts without a space for a megabyte exist.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use ggml_sys::gguf::{Error, Metadata, Quoted, Result};

use super::TokenId;
use super::alphabet;
use super::table::Seed;
use super::vocab::Vocab;

const MERGES: &str = "tokenizer.ggml.merges";

/// No token, no neighbour, no rank.
const NONE: u32 = u32::MAX;

/// A longer word is cut, so that positions fit 32 bits.
const LONGEST: usize = 1 << 30;

/// Merges that are resolved together while loading.
const BATCH: usize = 64;

/// The merges of a vocabulary.
pub(super) struct Bpe {
    /// Left and right token to the rank of the merge (lower goes first) and the token it makes.
    merges: HashMap<u64, (u32, TokenId), Seed>,
    /// The token of each byte, [`NONE`] where the vocabulary has none.
    bytes: [TokenId; 256],
    /// Stands in for bytes without a token.
    unknown: Option<TokenId>,
}

/// One token of the word being encoded.
#[derive(Clone, Copy)]
struct Symbol {
    id: TokenId,
    prev: u32,
    next: u32,
    /// Rank of the merge with the next symbol and the token it makes; [`NONE`] if there is none.
    rank: u32,
    merged: TokenId,
}

/// Buffers that are used again from word to word.
#[derive(Default)]
pub(super) struct Scratch {
    symbols: Vec<Symbol>,
    /// Rank in the upper half, position in the lower: the smallest is the next merge.
    queue: BinaryHeap<Reverse<u64>>,
}

fn pair(left: TokenId, right: TokenId) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl Bpe {
    /// Reads the merges and resolves them to ids.
    ///
    /// A merge whose halves or result are no tokens is an error; of two merges of the same pair the
    /// first counts.
    pub fn from_gguf(md: &Metadata, vocab: &Vocab) -> Result<Self> {
        let list = md.require_strings(MERGES)?;
        let mut merges = HashMap::with_capacity_and_hasher(list.len(), Seed::random());
        let mut guess = 0;
        let mut halves = [&[][..]; 2 * BATCH];
        let mut waiting = list.iter().enumerate().peekable();
        while let Some(&(first, _)) = waiting.peek() {
            let mut n = 0;
            for (rank, text) in waiting.by_ref().take(BATCH) {
                let bad = || bad_merge(md, rank, text, "is not two tokens with a space between");
                // The first character may itself be a space.
                let space = text.iter().skip(1).position(|&b| b == b' ').ok_or_else(bad)? + 1;
                halves[2 * n] = &text[..space];
                halves[2 * n + 1] = &text[space + 1..];
                n += 1;
            }
            let ids = vocab.ids(&halves);
            let texts = halves.as_chunks::<2>().0;
            for (i, (&[left, right], &[l, r])) in texts.iter().zip(ids.as_chunks::<2>().0).take(n).enumerate()
            {
                let rank = first + i;
                let missing = |part: &[u8]| {
                    let what = format!("needs the token {}, which is not there", Quoted(part));
                    bad_merge(md, rank, &[left, b" ", right].concat(), &what)
                };
                let pair = pair(l.ok_or_else(|| missing(left))?, r.ok_or_else(|| missing(right))?);
                // Merges usually stand in the order of the tokens they make, so look there first.
                let made = |id| vocab.text(id).strip_prefix(left) == Some(right);
                let guessed = [guess, guess + 1].into_iter().find(|&id| made(id));
                guess = match guessed.filter(|_| !vocab.has_duplicates()) {
                    Some(id) => id,
                    None => {
                        let joined = [left, right].concat();
                        vocab.id(&joined).ok_or_else(|| missing(&joined))?
                    }
                };
                merges.entry(pair).or_insert((rank as u32, guess));
            }
        }
        Ok(Bpe { merges, bytes: byte_tokens(vocab), unknown: None })
    }

    /// The token to put where a byte has none. Without it such bytes are left out.
    pub fn set_unknown(&mut self, id: Option<TokenId>) {
        self.unknown = id;
    }

    /// Number of bytes that occur in UTF-8 and have no token.
    pub fn missing_bytes(&self) -> usize {
        let in_utf8 = |byte: usize| !matches!(byte, 0xc0 | 0xc1 | 0xf5..);
        (0..256).filter(|&b| in_utf8(b) && self.bytes[b] == NONE).count()
    }

    /// Whether merges make this one token out of its bytes.
    pub fn spells(&self, vocab: &Vocab, id: TokenId) -> bool {
        let mut made = Vec::new();
        self.encode(vocab.piece(id), &mut Scratch::default(), &mut made);
        made == [id]
    }

    fn merge(&self, left: TokenId, right: TokenId) -> (u32, TokenId) {
        self.merges.get(&pair(left, right)).copied().unwrap_or((NONE, NONE))
    }

    /// Appends the tokens of `word`.
    pub fn encode(&self, word: &[u8], scratch: &mut Scratch, out: &mut Vec<TokenId>) {
        for part in word.chunks(LONGEST) {
            match part {
                [] => {}
                [byte] => self.emit(self.bytes[usize::from(*byte)], out),
                _ => self.encode_part(part, scratch, out),
            }
        }
    }

    fn encode_part(&self, part: &[u8], scratch: &mut Scratch, out: &mut Vec<TokenId>) {
        let symbols = &mut scratch.symbols;
        symbols.clear();
        symbols.extend(part.iter().enumerate().map(|(i, &byte)| Symbol {
            id: self.bytes[usize::from(byte)],
            prev: (i as u32).wrapping_sub(1),
            next: i as u32 + 1,
            rank: NONE,
            merged: NONE,
        }));
        symbols[part.len() - 1].next = NONE;

        let mut first = std::mem::take(&mut scratch.queue).into_vec();
        first.clear();
        for i in 0..part.len() - 1 {
            first.extend(self.pair_up(symbols, i as u32).map(Reverse));
        }
        let mut queue = BinaryHeap::from(first);
        while let Some(Reverse(entry)) = queue.pop() {
            let (rank, at) = ((entry >> 32) as u32, entry as u32);
            // Since it was queued, either half may have become part of another token.
            if symbols[at as usize].rank != rank {
                continue;
            }
            join(symbols, at);
            let prev = symbols[at as usize].prev;
            for at in [at, prev].into_iter().filter(|&at| at != NONE) {
                if let Some(entry) = self.pair_up(symbols, at) {
                    queue.push(Reverse(entry));
                }
            }
        }
        scratch.queue = queue;

        let mut at = 0;
        while at != NONE {
            let symbol = scratch.symbols[at as usize];
            self.emit(symbol.id, out);
            at = symbol.next;
        }
    }

    /// Looks up the merge of symbol `at` with the next one, notes it, and answers its queue entry.
    fn pair_up(&self, symbols: &mut [Symbol], at: u32) -> Option<u64> {
        let Symbol { id, next, .. } = symbols[at as usize];
        let (rank, merged) = match symbols.get(next as usize) {
            Some(right) => self.merge(id, right.id),
            None => (NONE, NONE),
        };
        let symbol = &mut symbols[at as usize];
        (symbol.rank, symbol.merged) = (rank, merged);
        (rank != NONE).then_some(u64::from(rank) << 32 | u64::from(at))
    }

    fn emit(&self, id: TokenId, out: &mut Vec<TokenId>) {
        if id != NONE {
            out.push(id);
        } else {
            out.extend(self.unknown);
        }
    }
}

/// Makes one token of symbol `at` and the one after it.
fn join(symbols: &mut [Symbol], at: u32) {
    let Symbol { next, merged, .. } = symbols[at as usize];
    let after = symbols[next as usize].next;
    // The dead half must not be taken for a pair any more.
    symbols[next as usize].rank = NONE;
    let symbol = &mut symbols[at as usize];
    symbol.id = merged;
    symbol.next = after;
    if let Some(after) = symbols.get_mut(after as usize) {
        after.prev = at;
    }
}

fn bad_merge(md: &Metadata, rank: usize, text: &[u8], what: &str) -> Error {
    md.invalid(MERGES, format!("element {rank}, {}, {what}", Quoted(text)))
}

fn byte_tokens(vocab: &Vocab) -> [TokenId; 256] {
    let mut spelled = Vec::new();
    std::array::from_fn(|byte| {
        spelled.clear();
        alphabet::spell(&[byte as u8], &mut spelled);
        vocab.id(&spelled).unwrap_or(NONE)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::small::Small;
    use proptest::prelude::*;

    /// Merges of letters, as pairs of texts in order.
    fn load(merges: &[(&str, &str)]) -> (Vocab, Bpe) {
        let mut small = Small::new("qwen2");
        for (left, right) in merges {
            small.merge(left, right);
        }
        let md = small.metadata();
        let vocab = Vocab::from_gguf(&md).unwrap();
        let bpe = Bpe::from_gguf(&md, &vocab).unwrap();
        (vocab, bpe)
    }

    fn encode(merges: &[(&str, &str)], word: &str) -> Vec<String> {
        let (vocab, bpe) = load(merges);
        let (mut scratch, mut ids) = (Scratch::default(), Vec::new());
        bpe.encode(word.as_bytes(), &mut scratch, &mut ids);
        // Again with used buffers.
        let n = ids.len();
        bpe.encode(word.as_bytes(), &mut scratch, &mut ids);
        assert_eq!(ids[..n], ids[n..]);
        ids[..n].iter().map(|&id| String::from_utf8_lossy(vocab.piece(id)).into()).collect()
    }

    #[test]
    fn earlier_merges_go_first() {
        assert_eq!(encode(&[("b", "c"), ("a", "b")], "abc"), ["a", "bc"]);
        assert_eq!(encode(&[("a", "b"), ("b", "c")], "abc"), ["ab", "c"]);
        assert_eq!(encode(&[("a", "b"), ("ab", "c"), ("b", "c")], "abcbc"), ["abc", "bc"]);
        assert_eq!(encode(&[("a", "a"), ("aa", "aa")], "aaaaaaa"), ["aaaa", "aa", "a"]);
        assert_eq!(encode(&[], "abc"), ["a", "b", "c"]);
        assert!(encode(&[], "").is_empty());
    }

    /// The first of two equal merges counts; the other one must not make it come later.
    #[test]
    fn of_equal_merges_the_first_counts() {
        assert_eq!(encode(&[("a", "b"), ("b", "c"), ("a", "b")], "abc"), ["ab", "c"]);
    }

    #[test]
    fn other_ways_to_a_token_are_other_merges() {
        let merges = [("a", "b"), ("ab", "c"), ("b", "c"), ("a", "bc")];
        assert_eq!(encode(&merges, "abc"), ["abc"]);
        assert_eq!(encode(&merges[2..], "abc"), ["abc"]);
        let (vocab, bpe) = load(&merges);
        assert!(bpe.spells(&vocab, vocab.id(b"abc").unwrap()));
    }

    /// The definition, step by step.
    fn slowly(merges: &[(&str, &str)], word: &str) -> Vec<String> {
        let mut parts: Vec<String> = word.chars().map(String::from).collect();
        loop {
            let rank = |i: usize| merges.iter().position(|&(l, r)| l == parts[i] && r == parts[i + 1]);
            let best = (0..parts.len().saturating_sub(1)).filter_map(|i| Some((rank(i)?, i))).min();
            let Some((_, i)) = best else {
                return parts;
            };
            let right = parts.remove(i + 1);
            parts[i].push_str(&right);
        }
    }

    proptest! {
        #[test]
        fn as_step_by_step(
            seeds in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..30),
            word in "[abc]{0,60}",
        ) {
            // Each merge joins two texts that are there already.
            let mut texts = vec!["a".to_string(), "b".into(), "c".into()];
            let mut merges = Vec::new();
            for (left, right) in seeds {
                let (left, right) = (left.get(&texts).clone(), right.get(&texts).clone());
                let made = format!("{left}{right}");
                if !texts.contains(&made) {
                    texts.push(made);
                }
                merges.push((left, right));
            }
            let merges: Vec<(&str, &str)> = merges.iter().map(|(l, r)| (l.as_str(), r.as_str())).collect();
            prop_assert_eq!(encode(&merges, &word), slowly(&merges, &word));
        }
    }
}
