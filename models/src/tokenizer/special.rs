//! Finding special tokens in a text: those that are matched as they are written, before the text is
//! cut into words.
//!
//! Where matches overlap, the longer token wins, wherever it stands; of equally long ones the lower
//! id, then the first in the text. This is the order of llama.cpp, which searches the whole text for
//! one token after the other. Here one pass collects the longest token at each position, and a heap
//! hands them out in that order; a position whose token lost comes back with its next shorter one.
//! The time is linear in the text, times the length of the longest token at worst.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Range;

use super::TokenId;
use super::vocab::Vocab;

/// A stretch of text, or a special token found in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fragment<'t> {
    Text(&'t str),
    Token(TokenId),
}

/// A set of tokens to look for.
pub(super) struct Matcher {
    tokens: Vec<Special>,
    /// The tokens that begin with each byte, as a range of `tokens`.
    by_first: Box<[Range<u32>; 256]>,
}

/// Tokens are sorted by text, so that those with a common beginning are neighbours, the shortest
/// first.
struct Special {
    id: TokenId,
    text: Box<[u8]>,
    /// Place in the order of precedence.
    order: u32,
    /// The longest other token that this one begins with.
    shorter: Option<u32>,
}

impl Matcher {
    /// Of two tokens with the same text the lower id counts; empty ones match nothing.
    pub fn new(vocab: &Vocab, ids: impl Iterator<Item = TokenId>) -> Self {
        let mut ids: Vec<TokenId> = ids.filter(|&id| !vocab.text(id).is_empty()).collect();
        ids.sort_by_key(|&id| (vocab.text(id), id));
        ids.dedup_by_key(|id| vocab.text(*id));

        let mut by_precedence: Vec<u32> = (0..ids.len() as u32).collect();
        by_precedence.sort_by_key(|&i| {
            let id = ids[i as usize];
            (Reverse(vocab.text(id).len()), id)
        });
        let mut order = vec![0; ids.len()];
        for (place, &i) in by_precedence.iter().enumerate() {
            order[i as usize] = place as u32;
        }

        let mut tokens: Vec<Special> = Vec::with_capacity(ids.len());
        for (i, &id) in ids.iter().enumerate() {
            let text: Box<[u8]> = vocab.text(id).into();
            // The predecessor, or what it begins with itself, and so on.
            let mut shorter = i.checked_sub(1).map(|i| i as u32);
            while let Some(s) = shorter.filter(|&s| !text.starts_with(&tokens[s as usize].text)) {
                shorter = tokens[s as usize].shorter;
            }
            tokens.push(Special { id, text, order: order[i], shorter });
        }
        let first = |byte: usize| tokens.partition_point(|t| usize::from(t.text[0]) < byte) as u32;
        let by_first = Box::new(std::array::from_fn(|byte| first(byte)..first(byte + 1)));
        Matcher { tokens, by_first }
    }

    /// The longest token that `text` begins with.
    fn longest(&self, text: &[u8]) -> Option<u32> {
        let Range { start, end } = self.by_first[usize::from(*text.first()?)];
        let (mut start, mut end) = (start as usize, end as usize);
        let mut found = None;
        // The tokens `start..end` agree with the text on the first `depth` bytes.
        let mut depth = 1;
        while start < end {
            if self.tokens[start].text.len() == depth {
                found = Some(start as u32);
                start += 1;
            }
            let Some(&byte) = text.get(depth) else {
                break;
            };
            let agreeing = &self.tokens[start..end];
            let low = agreeing.partition_point(|t| t.text[depth] < byte);
            let high = agreeing.partition_point(|t| t.text[depth] <= byte);
            (start, end) = (start + low, start + high);
            depth += 1;
        }
        found
    }

    /// The longest token of at most `room` bytes that token `i` begins with.
    fn shorter(&self, i: u32, room: usize) -> Option<u32> {
        let chain = std::iter::successors(Some(i), |&i| self.tokens[i as usize].shorter);
        chain.into_iter().find(|&i| self.tokens[i as usize].text.len() <= room)
    }

    /// The tokens in `text`, by where they start, none overlapping: start, end and id.
    fn find(&self, text: &[u8]) -> BTreeMap<usize, (usize, TokenId)> {
        let mut queue: Vec<Reverse<(u32, usize, u32)>> = Vec::new();
        let entry = |i: u32, at: usize| Reverse((self.tokens[i as usize].order, at, i));
        for (at, byte) in text.iter().enumerate() {
            if !self.by_first[usize::from(*byte)].is_empty()
                && let Some(i) = self.longest(&text[at..])
            {
                queue.push(entry(i, at));
            }
        }
        let mut queue = BinaryHeap::from(queue);
        let mut taken: BTreeMap<usize, (usize, TokenId)> = BTreeMap::new();
        while let Some(Reverse((_, at, i))) = queue.pop() {
            if taken.range(..=at).next_back().is_some_and(|(_, &(end, _))| end > at) {
                // The position itself is taken, so nothing can start there any more.
                continue;
            }
            let token = &self.tokens[i as usize];
            let end = at + token.text.len();
            match taken.range(at..end).next() {
                None => _ = taken.insert(at, (end, token.id)),
                Some((&next, _)) => queue.extend(self.shorter(i, next - at).map(|i| entry(i, at))),
            }
        }
        taken
    }

    /// Cuts `text` at the tokens in it. Stretches of text are never empty.
    pub fn partition<'t>(&self, text: &'t str, mut emit: impl FnMut(Fragment<'t>)) {
        let mut done = 0;
        for (start, (end, id)) in self.find(text.as_bytes()) {
            // A token of a broken vocabulary may begin or end inside a character.
            let (Some(before), true) = (text.get(done..start), text.is_char_boundary(end)) else {
                continue;
            };
            if !before.is_empty() {
                emit(Fragment::Text(before));
            }
            emit(Fragment::Token(id));
            done = end;
        }
        if done < text.len() {
            emit(Fragment::Text(&text[done..]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::small::Small;
    use proptest::prelude::*;

    fn vocab(texts: &[&str]) -> (Vocab, Matcher) {
        let mut small = Small::new("qwen2");
        let ids: Vec<TokenId> = texts.iter().map(|text| small.token(text, 4)).collect();
        let vocab = Vocab::from_gguf(&small.metadata()).unwrap();
        let matcher = Matcher::new(&vocab, ids.into_iter());
        (vocab, matcher)
    }

    /// What is found, tokens as their text in brackets.
    fn partition(texts: &[&str], text: &str) -> String {
        let (vocab, matcher) = vocab(texts);
        let mut out = String::new();
        matcher.partition(text, |fragment| match fragment {
            Fragment::Text(text) => out.push_str(text),
            Fragment::Token(id) => {
                out.push_str(&format!("[{}]", std::str::from_utf8(vocab.text(id)).unwrap()))
            }
        });
        out
    }

    #[test]
    fn tokens_are_cut_out() {
        let texts = ["<think>", "</think>", "<t>"];
        assert_eq!(partition(&texts, "a<think>b</think><t>"), "a[<think>]b[</think>][<t>]");
        assert_eq!(partition(&texts, "<<think<think>"), "<<think[<think>]");
        assert_eq!(partition(&texts, ""), "");
        assert_eq!(partition(&[], "<think>"), "<think>");
    }

    #[test]
    fn the_longest_wins_wherever_it_stands() {
        assert_eq!(partition(&["ab", "bcd"], "abcd"), "a[bcd]");
        assert_eq!(partition(&["ab", "abc", "abcde"], "abcd abcde"), "[abc]d [abcde]");
        // The losing "abc" comes back as "ab".
        assert_eq!(partition(&["ab", "abc", "cdef"], "abcdef"), "[ab][cdef]");
        // Of equally long ones the lower id wins.
        assert_eq!(partition(&["bc", "ab"], "abc"), "a[bc]");
        assert_eq!(partition(&["aa"], "aaaaa"), "[aa][aa]a");
    }

    /// The definition: one token after the other, the longest first, each searched from left to right
    /// in the stretches that are still text.
    fn one_after_the_other(texts: &[&str], text: &str) -> String {
        let mut order: Vec<&str> = texts.iter().copied().filter(|t| !t.is_empty()).collect();
        order.sort_by_key(|t| Reverse(t.len()));
        let mut parts = vec![Err(text.to_string())];
        for token in order {
            let cut = |part| match part {
                Ok(done) => vec![Ok(done)],
                Err(text) => {
                    let text: String = text;
                    let mut cut: Vec<Result<String, String>> = Vec::new();
                    for (i, between) in text.split(token).enumerate() {
                        if i > 0 {
                            cut.push(Ok(format!("[{token}]")));
                        }
                        cut.push(Err(between.into()));
                    }
                    cut
                }
            };
            parts = parts.into_iter().flat_map(cut).collect();
        }
        parts.into_iter().map(|part| part.unwrap_or_else(|text| text)).collect()
    }

    proptest! {
        #[test]
        fn as_one_token_after_the_other(
            texts in prop::collection::vec("[abc]{0,5}", 0..8),
            text in "[abcd]{0,40}",
        ) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            prop_assert_eq!(partition(&texts, &text), one_after_the_other(&texts, &text));
        }
    }
}
