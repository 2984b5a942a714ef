//! Which pre-tokenizer a tokenizer.json describes: `tokenizer.ggml.pre`, recognized by its regular expressions.
//!
//! llama.cpp's converter encodes a text and looks the hash of the ids up, so that it must have met the vocabulary
//! before. What is recognized here is how texts are cut, whatever the vocabulary.

use ggml_sys::gguf::Quoted;
use serde_json::Value;

use super::json::Object;
use crate::error::Result;

/// A kind of pre-tokenizer, and the patterns that it cuts with, one after the other.
struct Kind {
    name: &'static str,
    patterns: &'static [Pattern],
}

enum Pattern {
    Is(&'static str),
    /// A class of letters that fills a page begins like this.
    Begins(&'static str),
    /// The pre-tokenizer of that name instead of a pattern.
    Digits,
}

use Pattern::{Begins, Digits, Is};

/// Contractions in either case, as [`canonical`] writes them.
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const DEEPSEEK_V3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const CJK: &str = "[一-龥ࠀ-一가-퟿]+";

static KINDS: &[Kind] = &[
    Kind { name: "llama-bpe", patterns: &[Is(LLAMA3)] },
    Kind { name: "qwen2", patterns: &[Is(QWEN2)] },
    Kind {
        name: "deepseek-v3", patterns: &[Is(r"\p{N}{1,3}"), Is("[一-龥぀-ゟ゠-ヿ]+"), Is(DEEPSEEK_V3)]
    },
    Kind {
        name: "deepseek-llm",
        patterns: &[
            Is(r"[\r\n]"),
            Begins(r"\s?[A-Za-zµÀ-ÖØ-öø-ƺ"),
            Begins(r"\s?[!-/:-~！-／：-～"),
            Is(r"\s+$"),
            Is(CJK),
            Digits,
        ],
    },
    Kind {
        name: "deepseek-coder",
        patterns: &[Is(r"[\r\n]"), Is(r"\s?\p{L}+"), Is(r"\s?\p{P}+"), Is(CJK), Digits],
    },
];

/// What [`Pattern::Digits`] is called in the list of steps.
const DIGITS: &str = "Digits";

/// The name of the pre-tokenizer of a tokenizer.json.
///
/// # Errors
/// If it is none of those known, or not byte-level.
pub(super) fn recognize(tokenizer: &Object) -> Result<&'static str> {
    const KEY: &str = "pre_tokenizer";
    let bad = |what: String| tokenizer.invalid(KEY, what);
    let Some(described) = tokenizer.find_object(KEY)? else {
        return Err(bad("is missing; byte-level ones are read".into()));
    };
    let steps = match described.str("type")? {
        "Sequence" => described.find_array("pretokenizers")?.unwrap_or_default().to_vec(),
        _ => vec![Value::Object(described.map().clone())],
    };
    let mut patterns = Vec::new();
    let mut byte_level = false;
    for step in &steps {
        let is = |key: &str, value: bool| step.get(key).and_then(Value::as_bool) == Some(value);
        match step.get("type").and_then(Value::as_str) {
            // Cuts by GPT-2's pattern too unless told otherwise, and may put a space before the text.
            Some("ByteLevel") if is("use_regex", false) && !is("add_prefix_space", true) => byte_level = true,
            Some("Digits") if is("individual_digits", true) => patterns.push(DIGITS.into()),
            Some("Split") => patterns.push(split(step).ok_or_else(|| {
                bad(format!("cuts in a way that is not read: {}", Quoted(step.to_string().as_bytes())))
            })?),
            _ => {
                return Err(bad(format!(
                    "has a step that is not read: {}",
                    Quoted(step.to_string().as_bytes())
                )));
            }
        }
    }
    if !byte_level {
        return Err(bad("is not byte-level".into()));
    }
    let known = KINDS.iter().find(|kind| kind.fits(&patterns));
    known.map(|kind| kind.name).ok_or_else(|| {
        let names: Vec<_> = KINDS.iter().map(|kind| kind.name).collect();
        let found = Quoted(patterns.join(" then ").as_bytes()).to_string();
        bad(format!("cuts by {found}, as none of those known does: {}", names.join(", ")))
    })
}

impl Kind {
    fn fits(&self, patterns: &[String]) -> bool {
        self.patterns.len() == patterns.len()
            && self.patterns.iter().zip(patterns).all(|(kind, found)| match kind {
                Is(text) => found == text,
                Begins(text) => found.starts_with(text),
                Digits => found == DIGITS,
            })
    }
}

/// The pattern of a step that makes matches words of their own.
fn split(step: &Value) -> Option<String> {
    let isolates = step.get("behavior")?.as_str()? == "Isolated";
    let inverts = step.get("invert").and_then(Value::as_bool).unwrap_or(false);
    (isolates && !inverts).then_some(())?;
    Some(canonical(step.get("pattern")?.get("Regex")?.as_str()?))
}

/// One way of writing what files write in several.
fn canonical(pattern: &str) -> String {
    let pattern = pattern.replace('\r', r"\r").replace('\n', r"\n").replace("\\\"", "\"");
    pattern
        .replace("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", "(?i:'s|'t|'re|'ve|'m|'ll|'d)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recognized(steps: &str) -> Result<&'static str> {
        let text = format!(r#"{{"pre_tokenizer": {steps}}}"#);
        recognize(&Object::parse("tokenizer.json".into(), text.as_bytes())?)
    }

    fn sequence(steps: &[&str]) -> String {
        let bytes = r#"{"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}"#;
        format!(r#"{{"type": "Sequence", "pretokenizers": [{}]}}"#, [steps, &[bytes]].concat().join(","))
    }

    fn by(pattern: &str) -> String {
        let pattern = serde_json::to_string(pattern).unwrap();
        format!(
            r#"{{"type": "Split", "pattern": {{"Regex": {pattern}}}, "behavior": "Isolated", "invert": false}}"#
        )
    }

    #[test]
    fn kinds_are_known_by_their_patterns() {
        let digits = r#"{"type": "Digits", "individual_digits": true}"#;
        assert_eq!(recognized(&sequence(&[&by(LLAMA3)])).unwrap(), "llama-bpe");
        assert_eq!(recognized(&sequence(&[&by(&QWEN2.replace(r"\r\n", "\r\n"))])).unwrap(), "qwen2");
        let spelled = LLAMA3.replace(
            "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
            "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
        );
        assert_eq!(recognized(&sequence(&[&by(&spelled)])).unwrap(), "llama-bpe");
        let v3 = [by(r"\p{N}{1,3}"), by("[一-龥\u{3040}-ゟ゠-ヿ]+"), by(DEEPSEEK_V3)];
        assert_eq!(recognized(&sequence(&[&v3[0], &v3[1], &v3[2]])).unwrap(), "deepseek-v3");
        let coder = [by("[\r\n]"), by(r"\s?\p{L}+"), by(r"\s?\p{P}+"), by(CJK)];
        let steps = [&coder[0], &coder[1], &coder[2], &coder[3], digits];
        assert_eq!(recognized(&sequence(&steps)).unwrap(), "deepseek-coder");
        let letters = by(r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿ]+");
        let signs = by(r"\s?[!-/:-~！-／：-～‘-‟　-。]+");
        let steps = [&coder[0], &letters, &signs, &by(r"\s+$"), &coder[3], digits];
        assert_eq!(recognized(&sequence(&steps)).unwrap(), "deepseek-llm");
    }

    #[test]
    fn what_is_not_known_is_said() {
        let gpt2 = r#"{"type": "ByteLevel", "add_prefix_space": false}"#;
        for (steps, what) in [
            (sequence(&[&by("a+")]), "cuts by 'a+', as none of those known does: llama-bpe, qwen2"),
            (gpt2.into(), "has a step that is not read: "),
            (format!(r#"{{"type": "Sequence", "pretokenizers": [{}]}}"#, by(QWEN2)), "is not byte-level"),
            (sequence(&[&by(QWEN2).replace("Isolated", "Removed")]), "cuts in a way that is not read"),
            (
                sequence(&[r#"{"type": "Metaspace"}"#]),
                "has a step that is not read: '{\"type\":\"Metaspace\"}'",
            ),
            (
                sequence(&[r#"{"type": "ByteLevel", "use_regex": false, "add_prefix_space": true}"#]),
                "not read",
            ),
            ("null".into(), "is missing"),
            ("7".into(), "is 7, not an object"),
        ] {
            let e = recognized(&steps).unwrap_err().to_string();
            assert!(e.contains(what) && e.starts_with("tokenizer.json: key 'pre_tokenizer'"), "{e}");
        }
    }
}
