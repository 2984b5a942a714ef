//! From arguments and standard input to what is to be done: the mode rule applied to the world.

use std::io::IsTerminal;
use std::path::Path;

use models::template::Message;
use models::tokenizer::TokenId;

use crate::cli::args::{FormatArg, PromptArgs, RunArgs};
use crate::cli::settings::Choice;
use crate::failure::{Failure, Result};
use crate::input;
use crate::mode::{self, Given, Mode, Stdin};

/// What to do.
#[derive(Debug)]
pub enum Task {
    /// Answer once.
    Answer(Prompt),
    /// Chat.
    Chat {
        /// What the user says first, if that is known already.
        first: Option<String>,
        /// Exit after the first answer.
        single: bool,
    },
}

/// What to answer.
#[derive(Debug)]
pub enum Prompt {
    /// The next turn of a conversation.
    Messages(Vec<Message>),
    /// A text to go on with.
    Text(String),
    /// Tokens to go on with.
    Tokens(Vec<TokenId>),
}

impl Task {
    /// Decides what to do, reading whatever belongs to the prompt.
    ///
    /// # Errors
    /// If the options contradict each other, there is no prompt, or it cannot be read.
    pub fn new(args: &RunArgs, choice: &Choice, chat: bool) -> Result<Task> {
        let prompt = &args.prompt;
        let from_file = prompt.file.as_deref().filter(|f| *f != Path::new("-"));
        let force_stdin = choice.stdin || (prompt.file.is_some() && from_file.is_none());
        let text_given = !choice.words.is_empty() || prompt.prompt.is_some() || from_file.is_some();
        check(prompt, text_given || force_stdin, chat, args.generation.system_prompt.is_some())?;
        let complete = prompt.messages.is_some() || prompt.tokens.is_some();
        let given = Given {
            prompt: text_given || complete,
            complete,
            force_stdin,
            no_stdin: prompt.no_stdin,
            chat,
            single_turn: prompt.single_turn,
            machine_readable: args.display.format != FormatArg::Text,
            stdin_is_terminal: std::io::stdin().is_terminal(),
            stdout_is_terminal: std::io::stdout().is_terminal(),
        };
        let mut streams = Vec::new();
        if mode::stdin(given)? == Stdin::Read {
            // White space alone is no prompt.
            streams.extend(Some(input::stdin()?).filter(|text| !text.trim().is_empty()));
        }
        let mode = mode::mode(given, !streams.is_empty())?;
        if let Some(file) = from_file {
            streams.push(input::file(file)?);
        }
        let text = text(&streams, prompt, &choice.words)?;
        Ok(match mode {
            Mode::Chat { single } => Task::Chat { first: text, single },
            Mode::OneShot => Task::Answer(Prompt::new(prompt, text)?),
        })
    }
}

impl Prompt {
    fn new(args: &PromptArgs, text: Option<String>) -> Result<Prompt> {
        Ok(match (&args.tokens, &args.messages) {
            (Some(path), _) => Prompt::Tokens(input::tokens(path)?),
            (None, Some(path)) => Prompt::Messages(input::messages(path)?),
            (None, None) if args.raw => Prompt::Text(text.unwrap_or_default()),
            (None, None) => Prompt::Messages(vec![Message::new("user", text.unwrap_or_default())]),
        })
    }
}

/// The prompt as one text, `None` if there is none.
fn text(streams: &[String], args: &PromptArgs, words: &[String]) -> Result<Option<String>> {
    let mut arguments: Vec<String> = args.prompt.iter().cloned().collect();
    if !words.is_empty() {
        arguments.push(words.join(" "));
    }
    if streams.is_empty() && arguments.is_empty() {
        return Ok(None);
    }
    let text = input::join(streams, &arguments, args.raw);
    if !args.raw && text.trim().is_empty() {
        return Err(Failure::usage("the prompt is empty", "give a text to answer"));
    }
    Ok(Some(text))
}

/// Refuses what cannot be meant together.
fn check(args: &PromptArgs, text_given: bool, chat: bool, system: bool) -> Result<()> {
    let complete = match (&args.messages, &args.tokens) {
        (Some(_), Some(_)) => {
            return Err(Failure::usage("--messages and --tokens are two prompts", "leave one of them out"));
        }
        (Some(_), None) => Some("--messages"),
        (None, Some(_)) => Some("--tokens"),
        (None, None) => None,
    };
    let raw = args.raw || args.tokens.is_some();
    if let Some(option) = complete.filter(|_| text_given) {
        return Err(Failure::usage(
            format!("{option} is the whole prompt, and there is another"),
            "leave one of them out",
        ));
    }
    if let Some(option) = complete.filter(|_| chat) {
        return Err(Failure::usage(format!("{option} gets one answer"), "use 'fathom run'"));
    }
    if args.raw && args.messages.is_some() {
        return Err(Failure::usage(
            "--messages needs the chat template that --raw leaves out",
            "leave one of them out",
        ));
    }
    if raw && system {
        return Err(Failure::usage(
            "a system prompt needs the chat template that --raw leaves out",
            "put it into the prompt itself",
        ));
    }
    if raw && chat {
        return Err(Failure::usage(
            "a chat needs the chat template that --raw leaves out",
            "use 'fathom run --raw' with a text to continue",
        ));
    }
    Ok(())
}
