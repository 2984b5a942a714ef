//! `fathom run`: one answer, or a chat.

use models::Reasoning;
use models::template::Message;
use models::tokenizer::Encode;

use super::answer::{self, Prepared, Settings};
use super::chat::Chat;
use super::task::{Prompt, Task};
use crate::cli::args::RunArgs;
use crate::cli::lookup::Lookup;
use crate::cli::settings::{self, EngineSettings, GenerationSettings};
use crate::failure::{Failure, Outcome, Result};
use crate::model::{self, Loaded};
use crate::output;
use crate::term::color::Colors;

/// Answers a prompt, or chats.
///
/// # Errors
/// Whatever kept it from answering.
pub fn run(args: RunArgs, chat: bool, lookup: &Lookup, colors: Colors, quiet: bool) -> Result<Outcome> {
    let (generation, engine) =
        (GenerationSettings::new(&args.generation)?, EngineSettings::new(&args.engine)?);
    let choice = settings::choose(&args.model, &args.words, lookup)?;
    let task = Task::new(&args, &choice, chat)?;
    let mut settings = Settings { generation, engine, display: args.display, colors, quiet, grammar: None };
    model::announce(&choice.source);
    let loaded = model::load(&choice.source, settings.engine.loading, quiet)?;
    settings.grammar = settings.generation.form.as_ref().map(|f| f.compile(&loaded.tokenizer)).transpose()?;
    match task {
        Task::Answer(prompt) => one_shot(&loaded, prompt, &settings),
        Task::Chat { first, single } => Chat::new(loaded, settings)?.talk(first, single),
    }
}

fn one_shot(loaded: &Loaded, prompt: Prompt, settings: &Settings) -> Result<Outcome> {
    let prompt = prepare(loaded, prompt, settings)?;
    let mut session = loaded.session(&settings.engine, settings.engine.context)?;
    let mut output =
        output::stdout(settings.display.format, &settings.display, settings.colors, settings.quiet);
    let answer = answer::answer(loaded, &mut session, &prompt, settings, &mut *output)?;
    answer.note_end(settings, session.n_ctx());
    answer.statistics(loaded, settings);
    Ok(answer.outcome())
}

/// The tokens to go on with.
fn prepare(loaded: &Loaded, prompt: Prompt, settings: &Settings) -> Result<Prepared> {
    let raw = |tokens| Prepared {
        tokens,
        split: false,
        inside_think: false,
        reasoning: Reasoning::None,
        resumed: 0,
    };
    let prepared = match prompt {
        Prompt::Messages(messages) => {
            let messages = with_system(messages, settings.generation.system.as_deref())?;
            answer::prepare(loaded, &loaded.template()?, &messages, settings.display.think)?
        }
        Prompt::Text(text) => {
            raw(loaded.tokenizer.encode(&text, Encode { add_special: true, parse_special: true }))
        }
        Prompt::Tokens(tokens) => {
            model::check_tokens(&tokens, loaded.model.base().n_vocab)?;
            raw(tokens)
        }
    };
    if prepared.tokens.is_empty() {
        return Err(Failure::usage("the prompt has no tokens", "give a text to continue"));
    }
    Ok(prepared)
}

/// Puts the system prompt of the command line before a conversation.
fn with_system(mut messages: Vec<Message>, system: Option<&str>) -> Result<Vec<Message>> {
    let Some(system) = system else {
        return Ok(messages);
    };
    if messages.iter().any(|m| m.role == "system") {
        return Err(Failure::usage(
            "the conversation has a system prompt, and -sys is another",
            "leave one of them out",
        ));
    }
    messages.insert(0, Message::new("system", system));
    Ok(messages)
}
