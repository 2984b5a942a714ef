//! Grammars over published vocabularies: every way to write a text is allowed, nothing else is.

use fathom_testing::fixtures::{self, VOCABS};
use ggml_sys::gguf::Gguf;
use models::Constraint;
use models::grammar::Rules;
use models::tokenizer::{Encode, Tokenizer};

const PLAIN: Encode = Encode { add_special: false, parse_special: false };

const TEXT: &str = r#"{"name":"模型 Zoë 🦀","tags":["a\nb","<think>","\u0007"],"n":-12.5e3}"#;
const SCHEMA: &str = r#"{"type": "object", "properties": {"name": {"type": "string"},
    "tags": {"type": "array", "items": {"type": "string"}}, "n": {"type": "number"}}, "required": ["name", "tags", "n"]}"#;

#[test]
fn every_vocabulary_can_write_what_a_schema_wants_and_nothing_else() {
    for name in VOCABS {
        let tokenizer =
            Tokenizer::from_gguf(Gguf::open(&fixtures::vocab(name).gguf).unwrap().metadata()).unwrap();
        let grammar = Rules::JsonSchema(SCHEMA.into()).compile(&tokenizer).unwrap();
        let mut answer = grammar.begin();
        let mut written = Vec::new();
        // As a model's embedding, with more rows than there are tokens.
        let mut logits = vec![0.0; tokenizer.n_vocab() + 100];
        for id in tokenizer.encode(TEXT, PLAIN) {
            logits.fill(0.0);
            answer.allow(&mut logits).unwrap();
            assert_eq!(
                logits[id as usize],
                0.0,
                "{name}: {:?} behind {:?}",
                tokenizer.piece(id),
                String::from_utf8_lossy(&written)
            );
            let eog = tokenizer.eog();
            assert!(eog.iter().all(|&id| logits[id as usize] == f32::NEG_INFINITY), "{name}");
            assert!(logits[tokenizer.n_vocab()..].iter().all(|l| *l == f32::NEG_INFINITY));
            // Whatever is allowed next is text.
            let allowed = |id: &u32| logits[*id as usize] == 0.0;
            assert!((0..tokenizer.n_vocab() as u32).filter(allowed).all(|id| tokenizer.kind(id).is_text()));
            answer.accept(id).unwrap();
            written.extend_from_slice(tokenizer.piece(id));
        }
        assert!(answer.is_complete() && answer.is_done(), "{name}");
        assert_eq!(written, TEXT.as_bytes());
    }
}

#[test]
fn an_answer_that_may_go_on_may_also_end() {
    let tokenizer =
        Tokenizer::from_gguf(Gguf::open(&fixtures::vocab("qwen2").gguf).unwrap().metadata()).unwrap();
    let grammar = Rules::Grammar("start: /[0-9]+/".into()).compile(&tokenizer).unwrap();
    let mut answer = grammar.begin();
    answer.accept(tokenizer.token_id("7").unwrap()).unwrap();
    let mut logits = vec![0.0; tokenizer.n_vocab()];
    answer.allow(&mut logits).unwrap();
    assert!(answer.is_complete() && !answer.is_done());
    assert!(tokenizer.eog().iter().all(|&id| logits[id as usize] == 0.0));
    assert_eq!(logits.iter().filter(|l| **l == 0.0).count(), 10 + tokenizer.eog().len());
    assert!(answer.accept(tokenizer.token_id("a").unwrap()).is_err());
    // Another answer begins anew.
    assert!(!grammar.begin().is_complete());
}
