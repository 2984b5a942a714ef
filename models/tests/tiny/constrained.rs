//! Answers that a stop text ends, or that a grammar or schema shapes, with the reasoning before them left free.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use ggml_sys::GgmlType;
use models::grammar::Rules;
use models::template::Message;
use models::{
    Constraint, Draw, Event, Finish, GenerateOptions, Reasoning, Sampler, SamplerOptions, Summary, generate,
};
use serde_json::Value;

use crate::tiny::{Tiny, bundled};

/// A generation and what came of it.
struct Said {
    think: String,
    text: String,
    summary: Summary,
}

/// How the sum is to be answered, from the tokens said already on.
fn answer(options: GenerateOptions, rules: Option<&Rules>, temperature: f32, said: &[u32]) -> Said {
    let mut tiny = Tiny::open(&bundled(), 1, GgmlType::F16, None);
    let messages = [Message::new("user", "What is 47 + 85?")];
    let text = tiny.template.render(&messages, &Default::default()).unwrap();
    let mut prompt = tiny.tokenizer.encode_prompt(&text);
    prompt.extend(said);
    let options = GenerateOptions {
        inside_think: true,
        n_predict: options.n_predict.or(Some(300)),
        resumed: said.len(),
        ..options
    };
    let mut sampler = Sampler::new(SamplerOptions { temperature, seed: 3, ..Default::default() });
    let grammar = rules.map(|r| r.compile(&tiny.tokenizer).unwrap());
    let mut constraint = grammar.as_ref().map(|g| g.begin());
    let constraint = constraint.as_mut().map(|c| (c as &mut dyn Constraint, Reasoning::Free));
    let draw = Draw { sampler: &mut sampler, constraint };
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
    let summary = generate(&mut tiny.session, &tiny.tokenizer, &prompt, &options, draw, &cancel, &mut hear);
    Said { think, text, summary: summary.unwrap() }
}

fn split() -> GenerateOptions {
    GenerateOptions { split_reasoning: true, ..Default::default() }
}

const SUM: &str = r#"{"type": "object", "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 999}},
    "required": ["sum"], "additionalProperties": false}"#;

#[test]
fn a_stop_text_ends_the_answer_before_it_and_is_not_looked_for_in_reasoning() {
    let free = answer(split(), None, 0.0, &[]);
    assert!(free.text.contains("132") && free.think.contains('4'), "{} {}", free.think, free.text);
    for stop in ["13", "= 1", "5 =", "4"] {
        let stopped =
            answer(GenerateOptions { stop: vec!["xyz".into(), stop.into()], ..split() }, None, 0.0, &[]);
        assert_eq!(stopped.think, free.think);
        assert_eq!(stopped.text, free.text.split(stop).next().unwrap(), "{stop}");
        assert_eq!(
            (stopped.summary.finish, stopped.summary.stopped_by.as_deref()),
            (Finish::Stop, Some(stop))
        );
    }
    let raw = GenerateOptions { stop: vec!["</think>".into()], show_special: true, ..Default::default() };
    let raw = answer(raw, None, 0.0, &[]);
    assert_eq!(raw.text.trim_matches('\n'), free.think);
    assert_eq!(raw.summary.finish, Finish::Stop);
}

#[test]
fn json_comes_after_free_reasoning() {
    let free = answer(split(), None, 0.0, &[]);
    let rules = Rules::JsonSchema(SUM.into());
    for (temperature, budget) in [(0.0, None), (0.0, Some(0)), (0.0, Some(7)), (2.0, None), (2.0, Some(3))] {
        let said =
            answer(GenerateOptions { think_budget: budget, ..split() }, Some(&rules), temperature, &[]);
        let json: Value = serde_json::from_str(&said.text).unwrap_or_else(|e| panic!("{e}: {:?}", said.text));
        assert!(json["sum"].as_u64().is_some_and(|n| n < 1000), "{json}");
        assert_eq!(json.as_object().unwrap().len(), 1);
        assert_eq!((said.summary.finish, said.summary.unfinished), (Finish::Stop, false));
        if temperature == 0.0 {
            assert!(if budget.is_none() {
                said.think == free.think
            } else {
                free.think.starts_with(&said.think)
            });
        }
    }
}

#[test]
fn a_grammar_is_followed_in_every_script() {
    for (rules, whole) in [
        ("start: \"四十七加八十五\" | \"模型\"\n", &["四十七加八十五", "模型"][..]),
        ("root ::= \"é\" (\"🦀\" | \"ß\")\n", &["é🦀", "éß"]),
    ] {
        let said = answer(split(), Some(&Rules::Grammar(rules.into())), 1.0, &[]);
        assert!(whole.contains(&said.text.as_str()), "{:?}", said.text);
        assert_eq!(said.summary.finish, Finish::Stop);
    }
}

#[test]
fn an_answer_that_its_limit_ends_is_known_to_be_unfinished() {
    let rules = Rules::JsonSchema(SUM.into());
    let whole = answer(split(), Some(&rules), 0.0, &[]).summary.tokens;
    for n in [3, whole.len() - 1] {
        let cut = answer(GenerateOptions { n_predict: Some(n), ..split() }, Some(&rules), 0.0, &[]);
        assert_eq!((cut.summary.finish, cut.summary.unfinished), (Finish::Length, true));
    }
}

#[test]
fn an_answer_that_goes_on_is_the_same_wherever_it_was_cut() {
    let rules = Rules::JsonSchema(SUM.into());
    let whole = answer(split(), Some(&rules), 0.0, &[]);
    let tokens = &whole.summary.tokens;
    for cut in 1..tokens.len() {
        let rest = answer(split(), Some(&rules), 0.0, &tokens[..cut]);
        assert_eq!([&tokens[..cut], &rest.summary.tokens].concat(), *tokens, "cut at {cut}");
        assert!(whole.text.ends_with(&rest.text), "cut at {cut}: {:?}", rest.text);
    }
}
