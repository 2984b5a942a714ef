//! Chat templates: how a conversation becomes the text that a model was trained on.
//!
//! A model's file brings its template along, in Jinja as Hugging Face's transformers run it with
//! Python. Here it runs on minijinja with the settings and helpers that templates expect there: white
//! space around blocks trimmed, Python's methods of strings and maps, `raise_exception`,
//! `strftime_now`, and a `tojson` that spaces as Python's does. The variables are `messages`,
//! `add_generation_prompt`, `bos_token`, `eos_token`, `tools`, `enable_thinking` and `thinking`.
//!
//! A template is a program by a stranger. It gets so many steps, so deep a recursion and so long an
//! output, all of which grow with the conversation, and no access to anything else ([`limits`]). What is
//! not bounded is the memory for texts that a template doubles and doubles on the way.
//!
//! A file without a template gets DeepSeek's own format if it is a model of theirs ([`builtin`]);
//! [`ChatTemplate::built_in`] tells, so that the user can be told.

mod builtin;
mod json;
mod limits;
mod message;

use std::error::Error as _;
use std::time::SystemTime;

use ggml_sys::gguf::{self, Metadata};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind, Value, context};

use crate::tokenizer::{TokenId, Tokenizer};
use limits::Limited;
pub use message::Message;

const KEY: &str = "tokenizer.chat_template";
/// What error messages call the template.
const NAME: &str = "chat_template";

/// Longest template, in bytes. Those of real models have a few thousand.
const MAX_SOURCE: usize = 1 << 20;
/// Steps for any conversation, and more for each message. Templates take some hundred per message.
const STEPS: (u64, u64) = (200_000, 10_000);
/// Bytes of output for any conversation, and more for each byte of it.
const OUTPUT: (usize, usize) = (1 << 20, 8);
/// Nested calls, loops and blocks.
const DEPTH: usize = 100;

/// Why a conversation could not be rendered. All texts are one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] gguf::Error),
    /// There is no template, and no format is known for the model.
    #[error("the file has no chat template ({KEY})")]
    Missing,
    /// The template cannot be compiled.
    #[error("the chat template is broken: {0}")]
    Broken(String),
    /// The template itself rejects the conversation, as some do when roles do not alternate.
    #[error("the chat template rejects the conversation: {0}")]
    Rejected(String),
    /// The template wants too much.
    #[error("the chat template goes too far: {0}")]
    Limit(String),
    /// The template fails on this conversation.
    #[error("the chat template fails: {0}")]
    Render(String),
}

/// A chat template of a model.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    source: String,
    built_in: Option<&'static str>,
    opens_think: bool,
    bos_token: String,
    eos_token: String,
}

/// What to render besides the messages.
#[derive(Clone, Debug)]
pub struct RenderOptions {
    /// End with the beginning of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Let the model reason, where the template knows about it.
    pub enable_thinking: bool,
    /// Descriptions of tools, for templates that know about them.
    pub tools: Option<Value>,
    /// What time the template believes it is.
    pub now: SystemTime,
}

impl Default for RenderOptions {
    fn default() -> Self {
        RenderOptions {
            add_generation_prompt: true,
            enable_thinking: true,
            tools: None,
            now: SystemTime::now(),
        }
    }
}

impl ChatTemplate {
    /// The template of a file, or a built-in one.
    pub fn from_gguf(md: &Metadata, tokenizer: &Tokenizer) -> Result<Self, Error> {
        let text = |id: Option<TokenId>| {
            id.map_or(String::new(), |id| String::from_utf8_lossy(tokenizer.piece(id)).into())
        };
        let (bos_token, eos_token) = (text(tokenizer.bos()), text(tokenizer.eos()));
        if let Some(source) = md.str(KEY)? {
            return Self::new(source, bos_token, eos_token);
        }
        let built_in = builtin::for_file(md, tokenizer)?.ok_or(Error::Missing)?;
        Ok(ChatTemplate {
            built_in: Some(built_in.name),
            opens_think: built_in.opens_think,
            ..Self::new(built_in.source, bos_token, eos_token)?
        })
    }

    /// A template from its source.
    pub fn new(
        source: impl Into<String>,
        bos_token: impl Into<String>,
        eos_token: impl Into<String>,
    ) -> Result<Self, Error> {
        let source = source.into();
        if source.len() > MAX_SOURCE {
            return Err(Error::Limit(format!("it has {} bytes, and {MAX_SOURCE} are allowed", source.len())));
        }
        environment(SystemTime::UNIX_EPOCH).template_from_named_str(NAME, &source).map_err(explain)?;
        Ok(ChatTemplate {
            source,
            built_in: None,
            opens_think: false,
            bos_token: bos_token.into(),
            eos_token: eos_token.into(),
        })
    }

    /// The name of the built-in format, if the file had no template.
    pub fn built_in(&self) -> Option<&'static str> {
        self.built_in
    }

    /// The template in Jinja.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The conversation as text. Tokens in it are written out, BOS included where the template writes
    /// it, so it is for [`Tokenizer::encode_prompt`].
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String, Error> {
        let mut env = environment(options.now);
        let (steps, per_message) = STEPS;
        env.set_fuel(Some(steps + per_message * messages.len() as u64));
        let template = env.template_from_named_str(NAME, &self.source).map_err(explain)?;
        let variables = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => options.add_generation_prompt,
            enable_thinking => options.enable_thinking,
            // DeepSeek-V3.1's name for it.
            thinking => options.enable_thinking,
            tools => options.tools.clone(),
            bos_token => self.bos_token.as_str(),
            eos_token => self.eos_token.as_str(),
            opens_think => self.opens_think,
        };
        let (output, per_byte) = OUTPUT;
        let size: usize = messages.iter().map(Message::size).sum();
        let mut out = Limited::new(size.saturating_mul(per_byte).saturating_add(output));
        template.render_captured_to(variables, &mut out).map_err(explain)?;
        String::from_utf8(out.text).map_err(|e| Error::Render(e.to_string()))
    }
}

/// Whether the model's answer to a rendered prompt begins inside its reasoning.
pub fn prompt_opens_think(rendered: &str) -> bool {
    rendered.trim_end().ends_with("<think>")
}

/// Jinja as Hugging Face sets it up.
fn environment(now: SystemTime) -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    // The delimiters are the usual ones, so nothing can be wrong with them.
    env.set_syntax(syntax.unwrap_or_default());
    env.set_recursion_limit(DEPTH);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_formatter(python_formatter);
    limits::install(&mut env);
    env.add_filter("tojson", json::tojson);
    env.add_function("strftime_now", move |format: &str| crate::clock::strftime(format, now));
    env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception")
            .with_source(Rejection(message)))
    });
    env
}

/// Prints values as Python does, so `None` and `True` rather than `none` and `true`.
fn python_formatter(
    out: &mut minijinja::Output<'_>,
    state: &mut minijinja::State<'_, '_>,
    value: &Value,
) -> Result<(), minijinja::Error> {
    let word = if value.is_none() {
        "None"
    } else if value.kind() == ValueKind::Bool {
        if value.is_true() { "True" } else { "False" }
    } else {
        return minijinja::escape_formatter(out, state, value);
    };
    out.write_str(word).map_err(minijinja::Error::from)
}

/// What a template says in `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Rejection(String);

/// One line about an error of minijinja, with the reasons below it.
fn explain(error: minijinja::Error) -> Error {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        if let Some(Rejection(message)) = e.downcast_ref() {
            return Error::Rejected(one_line(message));
        }
        text = format!("{text}: {e}");
        source = e.source();
    }
    let text = one_line(&text);
    match error.kind() {
        ErrorKind::SyntaxError | ErrorKind::BadEscape | ErrorKind::InvalidDelimiter => Error::Broken(text),
        ErrorKind::OutOfFuel => Error::Limit("it takes too many steps".into()),
        ErrorKind::WriteFailure => Error::Limit("it writes too much".into()),
        _ if text.contains("recursion limit") => Error::Limit("it calls itself too deeply".into()),
        _ => Error::Render(text),
    }
}

/// Line breaks and runs of white space as single spaces, and no more than a few lines' worth.
fn one_line(text: &str) -> String {
    const MOST: usize = 300;
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}
