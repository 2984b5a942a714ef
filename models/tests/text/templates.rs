//! Chat templates: real ones against Jinja2's output, those of the reference models against
//! transformers', built-in ones, hostile ones.

use std::path::Path;
use std::time::{Duration, SystemTime};

use fathom_testing::fixtures::{self, MODELS};
use ggml_sys::gguf::{Gguf, Metadata};
use models::template::{ChatTemplate, Error, Message, RenderOptions, prompt_opens_think};
use models::tokenizer::Tokenizer;
use serde::Deserialize;

use crate::Small;

/// As in make_cases.py: 2025-01-20 12:34:56 UTC.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_737_376_496)
}

fn options(add_generation_prompt: bool) -> RenderOptions {
    RenderOptions { add_generation_prompt, ..Default::default() }
}

fn user(text: &str) -> Message {
    Message::new("user", text)
}

fn template(source: &str) -> Result<ChatTemplate, Error> {
    ChatTemplate::new(source, "<s>", "</s>")
}

fn render(source: &str, messages: &[Message]) -> Result<String, Error> {
    template(source)?.render(messages, &options(true))
}

#[test]
fn real_templates_render_as_jinja2_renders_them() {
    #[derive(Deserialize)]
    struct Case {
        template: String,
        messages: Vec<Message>,
        options: Options,
        text: Option<String>,
        rejected: Option<String>,
    }

    #[derive(Deserialize)]
    struct Options {
        add_generation_prompt: Option<bool>,
        enable_thinking: Option<bool>,
        tools: Option<minijinja::Value>,
    }

    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/templates");
    let cases: Vec<Case> = fixtures::read_json(&dir.join("cases.json"));
    assert_eq!(cases.len(), 13);
    for (i, case) in cases.into_iter().enumerate() {
        let source = fixtures::read_text(&dir.join(format!("{}.jinja", case.template)));
        let template = ChatTemplate::new(source, "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>").unwrap();
        let options = RenderOptions {
            add_generation_prompt: case.options.add_generation_prompt.unwrap_or(true),
            enable_thinking: case.options.enable_thinking.unwrap_or(true),
            tools: case.options.tools,
            now: now(),
        };
        match (template.render(&case.messages, &options), case.text, case.rejected) {
            (Ok(text), Some(expected), None) => assert_eq!(text, expected, "case {i}, {}", case.template),
            (Err(Error::Rejected(why)), None, Some(expected)) => assert_eq!(why, expected.replace('\n', " ")),
            (result, ..) => panic!("case {i}, {}: {result:?}", case.template),
        }
    }
}

#[test]
fn reference_models_render_and_tokenize_as_transformers_do() {
    for name in MODELS.into_iter().filter(|&name| name != "deepseek_v3-fp8") {
        let model = fixtures::model(name);
        let file = Gguf::open(&model.f16).unwrap();
        let tokenizer = Tokenizer::from_gguf(file.metadata()).unwrap();
        let template = ChatTemplate::from_gguf(file.metadata(), &tokenizer).unwrap();
        assert_eq!(template.built_in(), None);
        for chat in model.reference().chat {
            let messages: Vec<Message> = serde_json::from_value(chat.messages).unwrap();
            let text = template.render(&messages, &options(chat.add_generation_prompt)).unwrap();
            assert_eq!(text, chat.text, "{name}");
            assert_eq!(tokenizer.encode_prompt(&text), chat.ids, "{name}");
            assert_eq!(prompt_opens_think(&text), name.starts_with("deepseek"), "{name}");
        }
    }
}

#[test]
fn tiny_r1_renders_and_tokenizes_as_transformers_do() {
    let tiny = fixtures::tiny_r1();
    let file = Gguf::open(&tiny.f16).unwrap();
    let tokenizer = Tokenizer::from_gguf(file.metadata()).unwrap();
    let template = ChatTemplate::from_gguf(file.metadata(), &tokenizer).unwrap();
    let render = |messages| {
        let messages: Vec<Message> = serde_json::from_value(messages).unwrap();
        template.render(&messages, &options(true)).unwrap()
    };
    let reference = tiny.reference();
    for prompt in reference.prompts {
        assert_eq!(render(prompt.messages), prompt.text);
    }
    assert_eq!(reference.greedy.len(), 20);
    for greedy in reference.greedy {
        let text = render(greedy.messages);
        assert_eq!(tokenizer.encode_prompt(&text), greedy.input_ids);
        assert_eq!(tokenizer.decode(&greedy.input_ids, true), text);
    }
}

/// A vocabulary with DeepSeek's tokens, and keys of a file.
fn deepseek(keys: &[(&str, &str)]) -> (Metadata, Tokenizer) {
    let mut small = Small::new("deepseek-v3");
    let bos = small.token("<｜begin▁of▁sentence｜>", 3);
    let eos = small.token("<｜end▁of▁sentence｜>", 3);
    small.token("<｜User｜>", 3);
    small.token("<｜Assistant｜>", 3);
    small.token("<think>", 4);
    small.writer.set("tokenizer.ggml.bos_token_id", bos);
    small.writer.set("tokenizer.ggml.eos_token_id", eos);
    for (key, value) in keys {
        small.writer.set(key, *value);
    }
    let md = small.metadata();
    let tokenizer = Tokenizer::from_gguf(&md).unwrap();
    (md, tokenizer)
}

fn conversation() -> Vec<Message> {
    vec![
        Message::new("system", "S"),
        user("a"),
        Message::new("assistant", "<think>\nt\n</think>\n\nb"),
        Message::new("system", "T"),
        user("c"),
    ]
}

#[test]
fn a_file_without_a_template_gets_deepseeks_own() {
    let rendered = |keys: &[(&str, &str)], thinking| {
        let (md, tokenizer) = deepseek(keys);
        let template = ChatTemplate::from_gguf(&md, &tokenizer).unwrap();
        let options = RenderOptions { enable_thinking: thinking, ..Default::default() };
        (template.built_in(), template.render(&conversation(), &options).unwrap())
    };
    let prompt = "<｜begin▁of▁sentence｜>S\n\nT<｜User｜>a<｜Assistant｜>\n\nb<｜end▁of▁sentence｜><｜User｜>c<｜Assistant｜>";
    assert_eq!(rendered(&[], true), (Some("DeepSeek-V3"), prompt.into()));
    let r1 = [("general.name", "DeepSeek R1 Distill Qwen 7B")];
    assert_eq!(rendered(&r1, true), (Some("DeepSeek-R1"), format!("{prompt}<think>\n")));
    assert_eq!(rendered(&r1, false), (Some("DeepSeek-R1"), prompt.into()));
}

#[test]
fn a_deepseek_file_without_turn_tokens_gets_v2s_format() {
    let mut small = Small::new("deepseek-llm");
    let eos = small.token("<｜end▁of▁sentence｜>", 3);
    small.writer.set("tokenizer.ggml.eos_token_id", eos);
    small.writer.set("general.architecture", "deepseek2");
    let md = small.metadata();
    let tokenizer = Tokenizer::from_gguf(&md).unwrap();
    let template = ChatTemplate::from_gguf(&md, &tokenizer).unwrap();
    assert_eq!(template.built_in(), Some("DeepSeek-V2"));
    let messages = [Message::new("system", "S"), user("a"), Message::new("assistant", "b"), user("c")];
    let text = template.render(&messages, &options(true)).unwrap();
    assert_eq!(text, "S\n\nUser: a\n\nAssistant: b<｜end▁of▁sentence｜>User: c\n\nAssistant:");
}

#[test]
fn other_files_without_a_template_say_so() {
    let mut small = Small::new("qwen2");
    small.writer.set("general.architecture", "qwen2");
    let md = small.metadata();
    let error = ChatTemplate::from_gguf(&md, &Tokenizer::from_gguf(&md).unwrap()).unwrap_err();
    assert!(matches!(error, Error::Missing));
    assert_eq!(error.to_string(), "the file has no chat template (tokenizer.chat_template)");
    small.writer.set("tokenizer.chat_template", 7u32);
    let md = small.metadata();
    let error = ChatTemplate::from_gguf(&md, &Tokenizer::from_gguf(&md).unwrap()).unwrap_err();
    assert!(error.to_string().contains("'tokenizer.chat_template'"), "{error}");
}

#[test]
fn bos_is_never_doubled() {
    let (md, tokenizer) = deepseek(&[]);
    assert!(!tokenizer.add_bos());
    let mut small = Small::new("llama-bpe");
    let bos = small.token("<|begin_of_text|>", 3);
    small.writer.set("tokenizer.ggml.bos_token_id", bos);
    let llama = Tokenizer::from_gguf(&small.metadata()).unwrap();
    assert_eq!(llama.encode_prompt("<|begin_of_text|>a"), llama.encode_prompt("a"));
    assert_eq!(llama.encode_prompt("a")[0], bos);
    assert_eq!(llama.encode_prompt(""), [bos]);
    let text =
        ChatTemplate::from_gguf(&md, &tokenizer).unwrap().render(&[user("a")], &options(true)).unwrap();
    let ids = tokenizer.encode_prompt(&text);
    assert_eq!(ids.iter().filter(|&&id| Some(id) == tokenizer.bos()).count(), 1);
}

#[test]
fn prompts_that_open_the_reasoning() {
    assert!(prompt_opens_think("<｜Assistant｜><think>\n"));
    assert!(prompt_opens_think("…<think>"));
    assert!(!prompt_opens_think("<think>\n\n</think>\n\n"));
    assert!(!prompt_opens_think("what is <think>?"));
    assert!(!prompt_opens_think(""));
}

/// Each ends in one line that says what is wrong, and soon.
#[test]
fn hostile_templates_are_stopped() {
    let long = format!("{{# {} #}}", "x".repeat(2 << 20));
    let nested = format!("{}1{}", "{{ ".to_string() + &"(".repeat(5000), ")".repeat(5000) + " }}");
    let cases: &[(&str, &str)] = &[
        ("{{ messages", "chat template is broken"),
        ("{% for %}", "chat template is broken"),
        ("{% endfor %}", "chat template is broken"),
        ("{{ 'a", "chat template is broken"),
        ("{% unknown %}", "chat template is broken"),
        ("{{ 1 | nonsense }}", "unknown filter"),
        ("{{ nonsense() }}", "unknown function"),
        ("{{ messages[0].content.nonsense() }}", "nonsense"),
        ("{{ messages[0].a.b }}", "undefined"),
        ("{{ 1 // 0 }}", "fails"),
        ("{{ 'a' + 1 }}", "fails"),
        ("{% include 'other' %}", "fails"),
        ("{% import '/etc/passwd' as x %}", "fails"),
        ("{{ raise_exception('no\nway') }}", "rejects the conversation: no way"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "too many steps"),
        ("{% for i in range(999999999) %}x{% endfor %}", "chat template"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "too deeply"),
        ("{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}", "too deeply"),
        ("{{ 'x' * 90000000 }}", "writes too much"),
        ("{% for i in range(1000) %}{{ 'x' * 100000 }}{% endfor %}", "writes too much"),
        ("{{ 'x' * 99999999999 }}", "fails"),
        ("{{ '%99999999999d' | format(1) }}", "chat template"),
        (&long, "goes too far"),
        (&nested, "chat template is broken"),
    ];
    for (source, expected) in cases {
        let shown: String = source.chars().take(60).collect();
        let error = match render(source, &[user("hi")]) {
            Err(error) => error.to_string(),
            Ok(text) => panic!("{shown}: rendered {} bytes", text.len()),
        };
        assert!(error.contains(expected), "{shown}: {error}");
        assert!(!error.contains('\n') && error.len() < 1000, "{shown}: {error}");
    }
}

#[test]
fn limits_grow_with_the_conversation() {
    let messages: Vec<Message> =
        (0..3000).map(|i| Message::new(["user", "assistant"][i % 2], "word ".repeat(200))).collect();
    let source =
        fixtures::read_text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/templates/deepseek-r1.jinja"));
    let text = render(&source, &messages).unwrap();
    assert!(text.len() > 3000 * 1000);
}
