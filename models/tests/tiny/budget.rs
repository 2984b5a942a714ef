//! A budget for the reasoning: when it is spent, the reasoning is closed as the model itself would, and the answer follows.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use ggml_sys::GgmlType;
use models::template::Message;
use models::{Event, Finish, GenerateOptions, Sampler, SamplerOptions, Summary, generate};

use crate::tiny::{Tiny, bundled};

/// Reasoning, answer and summary of a sum with such a budget.
fn answer(budget: Option<usize>, split: bool, limit: usize) -> (String, String, Summary) {
    let mut tiny = Tiny::open(&bundled(), 1, GgmlType::F16, None);
    let messages = [Message::new("user", "What is 47 + 85?")];
    let prompt = tiny.tokenizer.encode_prompt(&tiny.template.render(&messages, &Default::default()).unwrap());
    let options = GenerateOptions {
        n_predict: Some(limit),
        inside_think: true,
        split_reasoning: split,
        show_special: !split,
        think_budget: budget,
        ..Default::default()
    };
    let mut sampler = Sampler::new(SamplerOptions { temperature: 0.0, ..Default::default() });
    let (mut think, mut text) = (String::new(), String::new());
    let mut hear = |event: Event<'_>| {
        match event {
            Event::Think(t) => think.push_str(t),
            Event::Text(t) => text.push_str(t),
            _ => {}
        }
        ControlFlow::Continue(())
    };
    let cancel = AtomicBool::new(false);
    let summary =
        generate(&mut tiny.session, &tiny.tokenizer, &prompt, &options, &mut sampler, &cancel, &mut hear);
    (think, text, summary.unwrap())
}

#[test]
fn reasoning_ends_at_its_budget_and_an_answer_follows() {
    let (all, right, free) = answer(None, true, 200);
    assert!(right.contains("132") && !free.thinking && free.think_tokens > 20, "{right}");
    for budget in [0, 1, 7, 20] {
        let (think, text, summary) = answer(Some(budget), true, 200);
        assert!(all.starts_with(&think) && think.len() < all.len(), "{budget}: {think:?}");
        // With the line's ends and the tag that close it.
        let n = summary.think_tokens;
        assert!((budget + 1..=budget + 3).contains(&n) && !summary.thinking, "{budget}: {n}");
        // This small model then reasons in its answer, which real ones do less.
        assert!(!text.is_empty() && !text.starts_with('\n'), "{budget}: {text:?}");
        assert_eq!(summary.finish, Finish::Stop, "{budget}");
    }
    // One that is not spent changes nothing.
    let (_, same, summary) = answer(Some(free.think_tokens), true, 200);
    assert_eq!((same, summary.tokens), (right, free.tokens));
}

#[test]
fn a_budget_holds_where_nothing_is_split() {
    let (think, text, summary) = answer(Some(0), false, 200);
    assert_eq!((think.as_str(), summary.thinking), ("", false));
    assert!(text.starts_with("\n</think>\n\n"), "{text:?}");
}

#[test]
fn who_is_stopped_within_the_reasoning_knows() {
    assert!(answer(None, true, 5).2.thinking);
}
