//! What a grammar costs, over a published vocabulary of 152,000 tokens: checking and compiling its rules, and the mask of each token
//! of an answer, in three answers one after another.
//!
//!     cargo bench -p models --bench grammars

use std::time::{Duration, Instant};

use fathom_testing::fixtures;
use ggml_sys::gguf::Gguf;
use models::Constraint;
use models::grammar::{Grammar, Rules};
use models::tokenizer::{Encode, Tokenizer};

const TEXT: &str = r#"{"name":"模型 Zoë 🦀","tags":["a\nb","<think>","\u0007"],"n":-12.5e3}"#;
const SCHEMA: &str = r#"{"type": "object", "properties": {"name": {"type": "string"},
    "tags": {"type": "array", "items": {"type": "string"}}, "n": {"type": "number"}}, "required": ["name", "tags", "n"]}"#;
const GBNF: &str = r#"
    root ::= value
    value ::= object | array | string | number
    object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}"
    array ::= "[" ws (value ("," ws value)*)? "]"
    string ::= "\"" ([^"\\\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\""
    number ::= "-"? [0-9]+ ("." [0-9]+)? ([eE] [-+]? [0-9]+)?
    ws ::= " "?
"#;

fn main() {
    let start = Instant::now();
    let gguf = Gguf::open(&fixtures::vocab("qwen2").gguf).unwrap();
    let tokenizer = Tokenizer::from_gguf(gguf.metadata()).unwrap();
    println!("{} tokens, tokenizer {:?}", tokenizer.n_vocab(), start.elapsed());
    for (name, rules) in [
        ("schema", Rules::JsonSchema(SCHEMA.into())),
        ("any JSON", Rules::JsonSchema("{}".into())),
        ("GBNF of JSON", Rules::Grammar(GBNF.into())),
        ("any text", Rules::Grammar("start: /(?s:.*)/".into())),
    ] {
        let start = Instant::now();
        rules.check().unwrap();
        let checked = start.elapsed();
        let start = Instant::now();
        let grammar = rules.compile(&tokenizer).unwrap();
        println!("{name}: check {checked:?}, compile {:?}", start.elapsed());
        for _ in 0..3 {
            let times = masks(&grammar, &tokenizer);
            let mean = times.iter().sum::<Duration>() / times.len() as u32;
            println!(
                "  median {:?}, mean {mean:?}, slowest {:?}",
                times[times.len() / 2],
                times[times.len() - 1]
            );
        }
    }
}

/// Times of the masks of an answer, the shortest first.
fn masks(grammar: &Grammar, tokenizer: &Tokenizer) -> Vec<Duration> {
    let mut logits = vec![0.0; tokenizer.n_vocab()];
    let mut answer = grammar.begin();
    let ids = tokenizer.encode(TEXT, Encode { add_special: false, parse_special: false });
    let time = |id| {
        logits.fill(0.0);
        let start = Instant::now();
        answer.allow(&mut logits).unwrap();
        answer.accept(id).unwrap();
        start.elapsed()
    };
    let mut times: Vec<Duration> = ids.into_iter().map(time).collect();
    times.sort();
    times
}
