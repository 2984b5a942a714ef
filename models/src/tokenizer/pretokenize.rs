//! Pre-tokenizers: how a text is cut into the words that merges may not cross.
//!
//! A kind is a line of the [`KINDS`] table: the names it has in `tokenizer.ggml.pre` and its
//! patterns, as the models' `tokenizer.json` publish them. The first pattern cuts the text into its
//! matches and what lies between; each of these pieces goes through the next pattern by itself, and
//! so on. The words that come out are never empty, and together they are the text.
//!
//! The patterns run on automata, which take time linear in the text. Those have no look-around, so
//! `\s+(?!\S)|\s+` at the end of a pattern (white space, but its last character stays with the word
//! that follows) is matched as `\s+`, and the last character handed back where something follows.

use std::sync::OnceLock;

use ggml_sys::gguf::{Metadata, Quoted, Result};
use regex_automata::meta::{BuildError, Regex};
use regex_automata::nfa::thompson::WhichCaptures;

const PRE: &str = "tokenizer.ggml.pre";

/// A kind of pre-tokenizer.
pub(super) struct Kind {
    /// What files call it; the first is the usual name.
    names: &'static [&'static str],
    patterns: &'static [&'static str],
    /// Whether a word that is a token as a whole becomes that token, whatever the merges say.
    pub whole_words: bool,
    /// Whether texts begin with BOS unless the file says otherwise.
    pub add_bos: bool,
    /// The automata, once they are needed.
    compiled: OnceLock<Pretokenizer>,
}

/// White space, the last character of which goes with the word after it.
const SPACES: &str = r"|\s+(?!\S)|\s+";

const LLAMA3: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// As [`LLAMA3`], but each digit by itself.
const QWEN2: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Chinese characters, hiragana and katakana.
const V3_CJK: &str = r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+";

const V3_WORDS: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// Chinese characters, and by the width of the range everything from U+0800 on before them.
const LLM_CJK: &str = r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+";

/// Letters that have case, as an older Unicode knew them; spelled out, so that it stays that way.
const LLM_LETTERS: &str = concat!(
    r"\s?[",
    r"A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}",
    r"\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}",
    r"\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}",
    r"\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}",
    r"\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}",
    r"\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}",
    r"\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}",
    r"\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}",
    r"\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}",
    r"\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}",
    r"\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}",
    r"\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}",
    r"\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}",
    r"\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}",
    r"\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}",
    r"]+",
);

/// ASCII from `!` to `~` without digits, its full-width twin, typographic quotes, `　、。`.
///
/// The wide space U+3000 is a sign here, and U+2000 to U+200A are in [`LLM_CJK`]. llama.cpp takes all
/// white space outside ASCII for a tab before it matches, so its words differ where one of these
/// stands beside other white space.
const LLM_SIGNS: &str = r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+";

/// Bytes that an automaton's states may take per thread. An automaton that runs out of room for them
/// falls back to a much slower search; text in every script of Unicode fits well.
const CACHE: usize = 16 << 20;

static KINDS: [Kind; 5] = [
    kind(&["llama-bpe", "llama-v3", "llama3"], &[LLAMA3], true, true),
    kind(&["qwen2", "deepseek-r1-qwen"], &[QWEN2], false, false),
    kind(&["deepseek-llm"], &[r"[\r\n]", LLM_LETTERS, LLM_SIGNS, r"\s+$", LLM_CJK, r"\p{N}+"], false, false),
    kind(&["deepseek-coder"], &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", LLM_CJK, r"\p{N}"], false, false),
    kind(&["deepseek-v3"], &[r"\p{N}{1,3}", V3_CJK, V3_WORDS], false, false),
];

const fn kind(names: &'static [&str], patterns: &'static [&str], whole_words: bool, add_bos: bool) -> Kind {
    Kind { names, patterns, whole_words, add_bos, compiled: OnceLock::new() }
}

impl Kind {
    /// The kind that the file names; an error that lists the known ones if it names none of them.
    pub fn from_gguf(md: &Metadata) -> Result<&'static Self> {
        let name = md.require_str(PRE)?;
        KINDS.iter().find(|kind| kind.names.contains(&name)).ok_or_else(|| {
            let known: Vec<&str> = KINDS.iter().flat_map(|kind| kind.names).copied().collect();
            let what = format!(
                "names the pre-tokenizer {}; known are {}",
                Quoted(name.as_bytes()),
                known.join(", ")
            );
            md.invalid(PRE, what)
        })
    }

    /// The automata of the kind. They are the same for all files, and cheap to share: their caches
    /// are per thread.
    pub fn compile(&'static self, md: &Metadata) -> Result<&'static Pretokenizer> {
        if let Some(done) = self.compiled.get() {
            return Ok(done);
        }
        let new = Pretokenizer::new(self.patterns).map_err(|e| md.invalid(PRE, e.to_string()))?;
        Ok(self.compiled.get_or_init(|| new))
    }
}

/// A compiled kind.
pub(super) struct Pretokenizer {
    stages: Vec<Stage>,
}

/// One pattern.
struct Stage {
    /// Pattern 0 is the pattern up to [`SPACES`], pattern 1 is `\s+` for it.
    regex: Regex,
}

impl Pretokenizer {
    fn new(patterns: &[&str]) -> std::result::Result<Self, Box<BuildError>> {
        let stages = patterns.iter().map(|pattern| Stage::new(pattern));
        Ok(Pretokenizer { stages: stages.collect::<std::result::Result<_, _>>()? })
    }

    /// Calls `word` with each word of `text` in order.
    pub fn split<'t>(&self, text: &'t str, mut word: impl FnMut(&'t str)) {
        split(&self.stages, text, &mut word);
    }
}

fn split<'t>(stages: &[Stage], piece: &'t str, word: &mut dyn FnMut(&'t str)) {
    match stages {
        [] => word(piece),
        [stage, rest @ ..] => stage.cut(piece, &mut |part| split(rest, part, word)),
    }
}

impl Stage {
    fn new(pattern: &str) -> std::result::Result<Self, Box<BuildError>> {
        // The other engines need more memory, or time to build, than they give back here.
        let config = Regex::config()
            .dfa(false)
            .onepass(false)
            .backtrack(false)
            .which_captures(WhichCaptures::Implicit)
            .hybrid_cache_capacity(CACHE);
        let mut builder = Regex::builder();
        builder.configure(config);
        let regex = match pattern.strip_suffix(SPACES) {
            Some(words) => builder.build_many(&[words, r"\s+"]),
            None => builder.build(pattern),
        };
        Ok(Stage { regex: regex.map_err(Box::new)? })
    }

    /// Calls `part` with each match and each stretch between matches.
    fn cut<'t>(&self, piece: &'t str, part: &mut dyn FnMut(&'t str)) {
        let mut done = 0;
        while done < piece.len() {
            // The rest as a haystack of its own: `$` looks at the end of the haystack, and nothing
            // looks behind.
            let rest = &piece[done..];
            let Some(found) = self.regex.find(rest) else {
                return part(rest);
            };
            if found.start() > 0 {
                part(&rest[..found.start()]);
            }
            let mut end = found.end();
            if found.pattern().as_usize() == 1 && end < rest.len() {
                let last = rest[..end].chars().next_back().map_or(0, char::len_utf8);
                // A single character has nothing to be cut off from.
                if end - last > found.start() {
                    end -= last;
                }
            }
            part(&rest[found.start()..end]);
            done += end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words<'t>(name: &str, text: &'t str) -> Vec<&'t str> {
        let kind = KINDS.iter().find(|kind| kind.names.contains(&name)).unwrap();
        let mut words = Vec::new();
        let compiled = kind.compiled.get_or_init(|| Pretokenizer::new(kind.patterns).unwrap());
        compiled.split(text, |word| words.push(word));
        words
    }

    #[test]
    fn llama3_and_qwen2_differ_in_digits() {
        for name in ["llama-bpe", "qwen2"] {
            assert_eq!(
                words(name, "Don't stop, I'LL go!\n\n"),
                ["Don", "'t", " stop", ",", " I", "'LL", " go", "!\n\n"]
            );
            assert_eq!(words(name, "$x=ä\u{308}  y"), ["$x", "=ä", "\u{308}", " ", " y"]);
        }
        assert_eq!(words("llama-bpe", "a 12345"), ["a", " ", "123", "45"]);
        assert_eq!(words("qwen2", "a 123"), ["a", " ", "1", "2", "3"]);
    }

    /// `\s+(?!\S)|\s+`, as a backtracking engine would match it.
    #[test]
    fn the_last_space_goes_with_what_follows() {
        for name in ["llama-bpe", "qwen2", "deepseek-v3"] {
            assert_eq!(words(name, "a   b"), ["a", "  ", " b"]);
            assert_eq!(words(name, "a b"), ["a", " b"]);
            assert_eq!(words(name, "a   "), ["a", "   "]);
            assert_eq!(words(name, "a\t\tb"), ["a", "\t", "\tb"]);
            assert_eq!(words(name, "  \n  \n  a"), ["  \n  \n", " ", " a"]);
        }
    }

    #[test]
    fn wide_spaces_are_spaces() {
        assert_eq!(words("qwen2", "\u{3000}\u{3000}1"), ["\u{3000}", "\u{3000}", "1"]);
        // Digits are cut off before, so nothing follows.
        assert_eq!(words("deepseek-v3", "\u{3000}\u{3000}1"), ["\u{3000}\u{3000}", "1"]);
    }

    #[test]
    fn deepseek_v3_cuts_digits_and_chinese_first() {
        let name = "deepseek-v3";
        assert_eq!(words(name, "abc1234def"), ["abc", "123", "4", "def"]);
        assert_eq!(words(name, "x今天y カタ・カナ"), ["x", "今天", "y", " ", "カタ", "・", "カナ"]);
        assert_eq!(words(name, "a.b (c) e\u{301}t"), ["a", ".b", " (", "c", ")", " e\u{301}t"]);
        // What no part of a pattern matches is a word, too.
        assert_eq!(words(name, "a\u{0}\u{0}b\u{0}"), ["a", "\u{0}", "\u{0}b", "\u{0}"]);
    }

    #[test]
    fn deepseek_llm_and_coder_cut_lines_first() {
        assert_eq!(
            words("deepseek-llm", "Hi there,\n\nyou  "),
            ["Hi", " there", ",", "\n", "\n", "you", "  "]
        );
        assert_eq!(words("deepseek-llm", "n=12345 今天ab"), ["n", "=", "12345", " ", "今天", "ab"]);
        assert_eq!(
            words("deepseek-coder", "if (x1 != 22) {\r\n"),
            ["if", " (", "x", "1", " !", "= ", "2", "2", ")", " {", "\r", "\n"]
        );
    }

    proptest! {
        #[test]
        fn words_are_the_text_and_never_empty(text: String, spaces in "[ \n\ta1'{今]{0,20}") {
            for kind in &KINDS {
                for text in [&text, &spaces] {
                    let words = words(kind.names[0], text);
                    prop_assert!(words.iter().all(|word| !word.is_empty()));
                    prop_assert_eq!(&words.concat(), text);
                }
            }
        }
    }
}
