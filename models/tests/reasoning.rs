//! Reasoning and answer of what a real model generated.

use fathom_testing::fixtures;
use ggml_sys::gguf::Gguf;
use models::reasoning::{Part, Splitter};
use models::template::prompt_opens_think;
use models::tokenizer::Tokenizer;

#[test]
fn tiny_r1s_answers_split_and_lose_nothing() {
    let tiny = fixtures::tiny_r1();
    let tokenizer = Tokenizer::from_gguf(Gguf::open(&tiny.f16).unwrap().metadata()).unwrap();
    for greedy in tiny.reference().greedy {
        let inside = prompt_opens_think(&tokenizer.decode(&greedy.input_ids, true));
        assert!(inside);
        let (last, ids) = greedy.output_ids.split_last().unwrap();
        assert!(tokenizer.is_eog(*last));

        let (mut think, mut text) = (String::new(), String::new());
        let mut take = |part: Part<'_>| match part {
            Part::Think(t) => think.push_str(t),
            Part::Text(t) => text.push_str(t),
        };
        let (mut decoder, mut splitter) = (tokenizer.decoder(false), Splitter::new(&tokenizer, inside));
        for &id in ids {
            splitter.push(id, decoder.push(id), &mut take);
        }
        assert!(!splitter.is_thinking());
        splitter.finish(decoder.finish(), &mut take);

        assert!(!think.is_empty() && !text.is_empty());
        assert_eq!(think.trim_matches('\n'), think);
        assert_eq!(text.trim_start_matches('\n'), text);
        let all = tokenizer.decode(ids, false);
        let (before, after) = all.split_once("</think>").unwrap();
        assert_eq!(
            (think.as_str(), text.as_str()),
            (before.trim_matches('\n'), after.trim_start_matches('\n'))
        );
    }
}
