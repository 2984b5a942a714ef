//! Answers by a grammar or a JSON schema, valid by construction: before each draw, tokens with which the answer could not become
//! valid any more are ruled out.
//!
//! The work is [llguidance](https://github.com/guidance-ai/llguidance)'s: an Earley parser over a lexer of derivatives, run over
//! the trie of the vocabulary. Grammars are in its dialect of [Lark](https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md) or
//! in llama.cpp's GBNF ([`gbnf`]).
//!
//! Grammars come from strangers. Sizes, the fuel of compiling and of each step, and the time to compile are limited, and it
//! compiles on a stack that no nesting within these limits exhausts.

mod gbnf;

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use llguidance::api::{ParserLimits, StopReason, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::constraint::Constraint;
use crate::error::{Error, Result};
use crate::tokenizer::{TokenId, Tokenizer};

/// Bytes of a grammar at the most.
const GRAMMAR_BYTES: usize = 256 << 10;
/// Bytes of a schema at the most.
const SCHEMA_BYTES: usize = 4 << 20;
/// How long compiling may take.
const COMPILE_TIME: Duration = Duration::from_secs(20);
/// Addresses for the stack that grammars are compiled on; memory only as far as it is used.
const COMPILE_STACK: usize = 256 << 20;
/// Bytes of a token at the most: longer ones are not drawn. The trie has room for 1024.
const TOKEN_BYTES: usize = 512;
/// White space between the parts of JSON, where the schema's `x-guidance` says nothing else: models that may write any amount
/// of it write nothing else at times.
const WHITE_SPACE: &str = r" |\n[ \t]{0,20}";

/// What answers are to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rules {
    /// A grammar in Lark's syntax, or in llama.cpp's GBNF, which `::=` tells apart.
    Grammar(String),
    /// A JSON schema.
    JsonSchema(String),
}

/// A grammar ready for a vocabulary.
pub struct Grammar {
    matcher: Matcher,
}

impl Rules {
    /// Finds out whether the rules are sound, without a model.
    ///
    /// # Errors
    /// [`Error::Grammar`] says where they are not.
    pub fn check(&self) -> Result<()> {
        let rules = self.parse()?;
        compile(rules, ApproximateTokEnv::single_byte_env).map(drop)
    }

    /// The rules for a model whose logits are of this tokenizer's tokens.
    ///
    /// # Errors
    /// [`Error::Grammar`] says where the rules are not sound.
    pub fn compile(&self, tokenizer: &Tokenizer) -> Result<Grammar> {
        let rules = self.parse()?;
        let (words, ending) = (words(tokenizer), tokenizer.eog().to_vec());
        let matcher = compile(rules, move || environment(&words, &ending))?;
        Ok(Grammar { matcher })
    }

    fn parse(&self) -> Result<TopLevelGrammar> {
        let (bytes, most) = match self {
            Rules::Grammar(text) => (text.len(), GRAMMAR_BYTES),
            Rules::JsonSchema(text) => (text.len(), SCHEMA_BYTES),
        };
        if bytes > most {
            return Err(Error::Grammar(format!("it has {bytes} bytes; at most {most} are taken")));
        }
        match self {
            Rules::Grammar(text) if gbnf::is_gbnf(text) => {
                Ok(TopLevelGrammar::from_lark(gbnf::to_lark(text).map_err(Error::Grammar)?))
            }
            Rules::Grammar(text) => Ok(TopLevelGrammar::from_lark(text.clone())),
            Rules::JsonSchema(text) => Ok(TopLevelGrammar::from_json_schema(schema(text)?)),
        }
    }
}

/// A schema with white space limited.
fn schema(text: &str) -> Result<Value> {
    let mut schema: Value =
        serde_json::from_str(text).map_err(|e| Error::Grammar(format!("the schema is no JSON: {e}")))?;
    if !(schema.is_object() || schema.is_boolean()) {
        return Err(Error::Grammar("a schema is an object in braces".into()));
    }
    if let Some(object) = schema.as_object_mut() {
        object.entry("x-guidance").or_insert_with(|| json!({"whitespace_pattern": WHITE_SPACE}));
    }
    Ok(schema)
}

/// The bytes of each token, as the trie wants them: those that are no text, or end generation though they look like text, behind a
/// marker; those that are never drawn empty.
fn words(tokenizer: &Tokenizer) -> Vec<Vec<u8>> {
    let word = |id: TokenId| {
        let piece = tokenizer.piece(id);
        if piece.len() > TOKEN_BYTES {
            return Vec::new();
        }
        match tokenizer.kind(id) {
            kind if kind.is_text() && !tokenizer.is_eog(id) => piece.to_vec(),
            _ if piece.is_empty() => Vec::new(),
            _ => [&[TokTrie::SPECIAL_TOKEN_MARKER], piece].concat(),
        }
    };
    (0..tokenizer.n_vocab() as TokenId).map(word).collect()
}

fn environment(words: &[Vec<u8>], ending: &[TokenId]) -> TokEnv {
    let none = llguidance::toktrie::INVALID_TOKEN;
    let info = TokRxInfo::new(words.len() as u32, ending.first().copied().unwrap_or(none));
    let mut trie = TokTrie::from(&info, words);
    if ending.len() > 1 {
        trie = trie.with_eos_tokens(ending);
    }
    // Not canonical: which of the tokens that fit is left to the model.
    Arc::new(ApproximateTokEnv::new(trie))
}

/// Compiles on a thread of its own, for its stack and for its time, which ends with the process if it is over.
fn compile(rules: TopLevelGrammar, environment: impl FnOnce() -> TokEnv + Send + 'static) -> Result<Matcher> {
    let (done, waiting) = mpsc::sync_channel(1);
    let work = move || {
        let matcher = llguidance::panic_utils::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut factory = ParserFactory::new_simple(&environment())?;
            factory.quiet();
            let limits = ParserLimits { verbose_errors: false, ..ParserLimits::default() };
            *factory.limits_mut() = limits;
            factory.create_parser(rules).map(|parser| Matcher::new(Ok(parser)))
        }));
        // Nobody may be waiting any more.
        let _ = done.send(matcher.map_err(|e| one_line(&format!("{e:#}"))));
    };
    std::thread::Builder::new().name("grammar".into()).stack_size(COMPILE_STACK).spawn(work)?;
    match waiting.recv_timeout(COMPILE_TIME) {
        Ok(Ok(matcher)) => Ok(matcher),
        Ok(Err(what)) => Err(Error::Grammar(what)),
        Err(_) => Err(Error::Grammar(format!("it takes more than {} s to prepare", COMPILE_TIME.as_secs()))),
    }
}

/// What llguidance has to say, as far as it helps.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).take_while(|l| !l.starts_with('<')).filter(|l| !l.is_empty());
    let mut line = lines.take(2).collect::<Vec<_>>().join(": ");
    if let Some((at, _)) = line.char_indices().nth(300) {
        line.truncate(at);
        line.push('…');
    }
    line
}

impl Grammar {
    /// The constraint for one answer.
    pub fn begin(&self) -> Answer {
        Answer { matcher: self.matcher.deep_clone() }
    }
}

/// The state of an answer by a [`Grammar`].
pub struct Answer {
    matcher: Matcher,
}

impl Constraint for Answer {
    fn allow(&mut self, logits: &mut [f32]) -> Result<()> {
        let mask = self.matcher.compute_mask().map_err(|e| failed(&format!("{e:#}")))?;
        apply(mask.as_slice(), logits);
        Ok(())
    }

    fn accept(&mut self, token: TokenId) -> Result<()> {
        self.matcher.consume_token(token).map_err(|e| failed(&format!("{e:#}")))
    }

    fn is_complete(&mut self) -> bool {
        self.is_done() || self.matcher.is_accepting().unwrap_or(false)
    }

    fn is_done(&self) -> bool {
        matches!(self.matcher.stop_reason(), StopReason::NoExtension | StopReason::EndOfSentence)
    }
}

fn failed(what: &str) -> Error {
    Error::Constraint(format!("the answer cannot go on by its grammar: {}", one_line(what)))
}

/// Sets the logits whose bit is not set, and those that have none, to minus infinity.
fn apply(mask: &[u32], logits: &mut [f32]) {
    let masked = logits.len().min(32 * mask.len());
    let (known, unknown) = logits.split_at_mut(masked);
    unknown.fill(f32::NEG_INFINITY);
    for (logits, &bits) in known.chunks_mut(32).zip(mask) {
        match bits {
            0 => logits.fill(f32::NEG_INFINITY),
            u32::MAX => {}
            _ => {
                for (i, logit) in logits.iter_mut().enumerate() {
                    if bits >> i & 1 == 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_applied_to_all_logits() {
        let mut logits: Vec<f32> = (0..70).map(|i| i as f32).collect();
        apply(&[u32::MAX, 1 << 5], &mut logits);
        for (i, l) in logits.iter().enumerate() {
            let expected = if i < 32 || i == 37 { i as f32 } else { f32::NEG_INFINITY };
            assert_eq!(*l, expected, "{i}");
        }
    }

    fn complaint(rules: Rules) -> String {
        match rules.check() {
            Err(Error::Grammar(what)) => what,
            other => panic!("{rules:?}: {other:?}"),
        }
    }

    #[test]
    fn rules_that_are_not_sound_are_refused_in_one_line() {
        for (rules, what) in [
            (Rules::JsonSchema("{".into()), "no JSON"),
            (Rules::JsonSchema("7".into()), "object"),
            (Rules::JsonSchema(r#"{"type": "strong"}"#.into()), "strong"),
            (Rules::JsonSchema(r##"{"$ref": "#/$defs/nowhere"}"##.into()), "nowhere"),
            (Rules::JsonSchema(r#"{"type": "string", "pattern": "("}"#.into()), ""),
            (Rules::JsonSchema(r#"{"$ref": "https://example.com/x.json"}"#.into()), "example.com"),
            (Rules::Grammar("start: \"a".into()), ""),
            (Rules::Grammar("start: nothing".into()), "nothing"),
            (Rules::Grammar("".into()), ""),
            (Rules::Grammar("start: /(/".into()), ""),
            (Rules::Grammar("root ::= nothing".into()), "nothing"),
            (Rules::Grammar("x".repeat(GRAMMAR_BYTES + 1)), "bytes"),
        ] {
            let said = complaint(rules.clone());
            assert!(said.contains(what) && !said.is_empty() && !said.contains('\n'), "{rules:?}: {said}");
        }
    }

    #[test]
    fn hostile_rules_end_in_an_error_or_in_nothing() {
        let deep = |open: &str, middle: &str, close: &str, n: usize| {
            format!("{}{middle}{}", open.repeat(n), close.repeat(n))
        };
        let chain: String = (0..20_000).map(|i| format!("R{i}: R{} \"a\"\n", i + 1)).collect();
        let doubling: String = (0..40).map(|i| format!("R{i}: R{} R{}\n", i + 1, i + 1)).collect();
        for rules in [
            Rules::JsonSchema(deep("{\"items\":", "{}", "}", 100_000)),
            Rules::JsonSchema(deep("{\"items\":", "{}", "}", 60)),
            Rules::JsonSchema(deep("[", "", "]", 1_000_000)),
            Rules::JsonSchema(r#"{"type": "string", "pattern": "^(a{1000}){1000}$"}"#.into()),
            Rules::JsonSchema(r#"{"type": "array", "minItems": 1000000000}"#.into()),
            Rules::JsonSchema(r##"{"$ref": "#"}"##.into()),
            Rules::Grammar(format!("start: {}", deep("(", "\"a\"", ")", 50_000))),
            Rules::Grammar(format!("start: /{}/", deep("(", "a", ")", 50_000))),
            Rules::Grammar(format!("root ::= {}", deep("(", "\"a\"", ")", 50_000))),
            Rules::Grammar(format!("start: R0\n{chain}R20000: \"b\"\n")),
            Rules::Grammar(format!("start: R0\n{doubling}R40: \"b\"\n")),
            Rules::Grammar(format!("root ::= R0\n{}R40 ::= \"b\"\n", doubling.replace(':', " ::="))),
            Rules::Grammar("start: start".into()),
            Rules::Grammar("root ::= root | root root".into()),
            Rules::Grammar("start: /((a{100}){100}){100}/".into()),
        ] {
            if let Err(e) = rules.check() {
                let text = e.to_string();
                assert!(!text.contains('\n') && text.len() < 2000, "{text}");
            }
        }
    }

    /// What becomes of a text, byte by byte: `None` if it cannot go on so, else whether it is complete.
    fn taken(rules: &Rules, text: &str) -> Option<bool> {
        let matcher = compile(rules.parse().unwrap(), ApproximateTokEnv::single_byte_env).unwrap();
        let mut answer = Answer { matcher };
        let mut logits = vec![0.0; 300];
        for byte in text.bytes() {
            if answer.is_done() {
                return None;
            }
            logits.fill(0.0);
            answer.allow(&mut logits).unwrap();
            if logits[usize::from(byte)] != 0.0 {
                return None;
            }
            answer.accept(u32::from(byte)).unwrap();
        }
        Some(answer.is_complete())
    }

    #[track_caller]
    fn check(rules: &Rules, whole: &[&str], beginnings: &[&str], never: &[&str]) {
        for (texts, expected) in [(whole, Some(true)), (beginnings, Some(false)), (never, None)] {
            for text in texts {
                assert_eq!(taken(rules, text), expected, "{text:?} by {rules:?}");
            }
        }
    }

    #[test]
    fn json_is_what_its_schema_says() {
        let person = r#"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 5},
            "age": {"type": "integer", "minimum": 0, "maximum": 150}, "tags": {"type": "array", "items": {"enum": ["a", "模型"]}}},
            "required": ["name", "age"], "additionalProperties": false}"#;
        check(
            &Rules::JsonSchema(person.into()),
            &[r#"{"name":"Ada","age":36}"#, "{ \"name\": \"\",\n  \"age\": 0, \"tags\": [\"模型\",\"a\"] }"],
            &["", r#"{"name":"Ada""#, r#"{"name":"Ada","age":36"#],
            &["[", r#"{"name":"Adaadaad""#, r#"{"name":"a","age":151"#, "{  ", r#"{"name":"a","age":1}}"#],
        );
        check(&Rules::JsonSchema("{}".into()), &["7", "[1,{}]", "\"a\""], &["[1,", "-"], &["a", "1,"]);
    }

    #[test]
    fn lark_is_taken() {
        let rules = Rules::Grammar("start: \"yes\" | \"no\" | NUMBER\nNUMBER: /[0-9]{1,3}/\n".into());
        check(&rules, &["yes", "no", "123"], &["y", ""], &["maybe", "1234", "yes!"]);
    }

    #[test]
    fn gbnf_is_taken() {
        let list = "root ::= item{2,3} \"end\"?\nitem ::= \"- \" [^\\n]+ \"\\n\" # a line\n";
        check(
            &Rules::Grammar(list.into()),
            &["- a\n- 模型\n", "- a\n- b\n- c\nend"],
            &["- a\n", "- a\n- b\ne"],
            &["a", "- \n", "- a\n- b\n- c\n- "],
        );
        let json = r#"
            root   ::= object
            value  ::= object | array | string | number | ("true" | "false" | "null") ws
            object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
            array  ::= "[" ws ( value ("," ws value)* )? "]" ws
            string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
            number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
            ws ::= | " " | "\n" [ \t]{0,20}
        "#;
        check(
            &Rules::Grammar(json.into()),
            &["{}", "{\"a\": [1, -2.5e3 , \"\\u00e9模\"], \"b\":{\"c\":null}}", "{ }\n"],
            &["{", "{\"a\": [1", "{\"a\": tru"],
            &["[", "{a", "{\"a\": 01", "{\"a\"  :"],
        );
        let sums = "root ::= term ([-+] term)*\nterm ::= [0-9]+ | \"(\" root \")\"\n";
        check(&Rules::Grammar(sums.into()), &["1", "(1+22)-3", "((7))"], &["(1", "1+"], &["1+)", "1)", "+"]);
    }
}
