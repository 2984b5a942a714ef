//! The tokenizer against llama.cpp's ids of published vocabularies and transformers' of the reference
//! models, both ways.

use fathom_testing::fixtures::{self, MODELS, VOCABS};
use ggml_sys::gguf::Gguf;
use models::tokenizer::{Encode, TokenKind, Tokenizer};

fn open(path: &std::path::Path) -> Tokenizer {
    Tokenizer::from_gguf(Gguf::open(path).unwrap().metadata()).unwrap()
}

const PLAIN: Encode = Encode { add_special: false, parse_special: false };
const PARSED: Encode = Encode { add_special: false, parse_special: true };

#[test]
fn published_vocabularies_give_llama_cpps_ids() {
    for name in VOCABS {
        let vocab = fixtures::vocab(name);
        let tokenizer = open(&vocab.gguf);
        for (text, ids) in vocab.inp_out() {
            assert_eq!(tokenizer.encode(&text, PLAIN), ids, "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&ids, false), text, "{name}");
        }
        let mut parsed = 0;
        for case in vocab.cases() {
            let opts = Encode { add_special: false, parse_special: case.parse_special };
            assert_eq!(tokenizer.encode(&case.text, opts), case.ids, "{name}: {:?}", case.text);
            assert_eq!(tokenizer.decode(&case.ids, true), case.text, "{name}");
            parsed += usize::from(case.parse_special);
        }
        assert!(parsed > 0);
    }
}

#[test]
fn reference_models_give_transformers_ids() {
    for name in MODELS.into_iter().filter(|&name| name != "deepseek_v3-fp8") {
        let model = fixtures::model(name);
        let tokenizer = open(&model.f16);
        let reference = model.reference();
        for case in &reference.tokenize {
            assert_eq!(tokenizer.encode(&case.text, PARSED), case.ids, "{name}: {:?}", case.text);
            assert_eq!(tokenizer.decode(&case.ids, true), case.text, "{name}");
        }
        let bos = |ids: &[u32]| tokenizer.add_bos().then(|| ids[0] == tokenizer.bos().unwrap());
        assert!(reference.prompts.iter().all(|p| bos(&p.ids) != Some(false)), "{name}");
    }
}

/// (vocabulary, BOS, whether it is added, what ends generation)
#[test]
fn roles_of_published_vocabularies() {
    let expected: [(&str, u32, bool, &[u32]); 4] = [
        // <｜end▁of▁sentence｜> and <|EOT|>
        ("deepseek-coder", 32013, true, &[32014, 32021]),
        ("deepseek-llm", 100_000, true, &[100_001]),
        // <|end_of_text|> and <|eot_id|>
        ("llama-bpe", 128_000, true, &[128_001, 128_009]),
        // <|endoftext|> and <|im_end|>, and not 128247, </s>, which is a word there
        ("qwen2", 151_643, false, &[151_643, 151_645]),
    ];
    for (name, bos, add_bos, eog) in expected {
        let tokenizer = open(&fixtures::vocab(name).gguf);
        assert_eq!(tokenizer.bos(), Some(bos), "{name}");
        assert_eq!(tokenizer.add_bos(), add_bos, "{name}");
        assert_eq!(tokenizer.eog(), eog, "{name}");
        assert!(!tokenizer.add_eos(), "{name}");
        let opts = Encode { add_special: true, parse_special: false };
        assert_eq!(tokenizer.encode("", opts), &[bos][..usize::from(add_bos)]);
        let control = tokenizer.special_tokens().filter(|&(_, kind, _)| kind == TokenKind::Control);
        let mut seen = Vec::new();
        for (id, _, piece) in control {
            seen.push(id);
            let text = std::str::from_utf8(piece).unwrap();
            assert_eq!(tokenizer.token_id(text), Some(id));
            assert_eq!(tokenizer.encode(text, PARSED), [id]);
            assert_ne!(tokenizer.encode(text, PLAIN), [id]);
            assert_eq!(tokenizer.decode(&[id], false), "");
            assert!(tokenizer.is_control(id));
        }
        assert!(seen.contains(&bos) && eog.iter().all(|&id| seen.contains(&id) || id == 32021), "{name}");
    }
}
