//! The commands, one file each.

mod answer;
mod bench;
mod chat;
mod config;
mod imatrix;
mod list;
mod logits;
mod perplexity;
mod quantize;
mod run;
mod show;
mod statistics;
mod task;
mod tokenize;

use crate::cli::args::{Command, TextArgs};
use crate::cli::complete::{self, Names};
use crate::cli::lookup::Lookup;
use crate::cli::parse::{self, Asked};
use crate::cli::settings::{self, Source};
use crate::failure::{Failure, Outcome, Result};
use crate::term::color::Colors;
use crate::{input, streams};

/// Does what the arguments ask for.
///
/// # Errors
/// Whatever kept it from being done.
pub fn dispatch(asked: Asked, colors: Colors) -> Result<Outcome> {
    let Asked { cli, config, lookup } = asked;
    let (quiet, lookup) = (cli.global.quiet, &lookup);
    match cli.command {
        Command::Run(args) => run::run(*args, false, lookup, colors, quiet),
        Command::Chat(args) => run::run(*args, true, lookup, colors, quiet),
        Command::Quantize(args) => quantize::quantize(&args, lookup, quiet),
        Command::Show(args) => show::show(&args, lookup, colors),
        Command::List(args) => list::list(&args, lookup, colors),
        Command::Tokenize(args) => tokenize::tokenize(&args, lookup),
        Command::Logits(args) => logits::logits(&args, lookup, quiet),
        Command::Perplexity(args) => perplexity::perplexity(&args, lookup, quiet),
        Command::Imatrix(args) => imatrix::imatrix(&args, lookup, quiet),
        Command::Bench(args) => bench::bench(&args, lookup, quiet),
        Command::Config(args) => config::config(&args, &cli.global, &config, lookup, colors),
        Command::Complete { words } => {
            streams::print(&complete::complete(&words, &Names { lookup, config: &config }).lines())?;
            Ok(Outcome::Done)
        }
        Command::Completions { shell } => completions(shell),
        Command::Man { command } => man(command.as_deref()),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<Outcome> {
    if let Some(script) = complete::script(shell) {
        streams::print(script)?;
        return Ok(Outcome::Done);
    }
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut parse::definition(), "fathom", &mut script);
    streams::print(&String::from_utf8_lossy(&script))?;
    Ok(Outcome::Done)
}

fn man(command: Option<&str>) -> Result<Outcome> {
    let mut all = parse::definition();
    all.build();
    let page = match command {
        None => all,
        Some(name) => all.find_subcommand(name).cloned().ok_or_else(|| {
            Failure::usage(format!("there is no command '{name}'"), "'fathom help' lists them")
        })?,
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    streams::print(&String::from_utf8_lossy(&text))?;
    Ok(Outcome::Done)
}

/// The text that a command works on, and the model: from an argument, a file or standard input, as
/// it is.
fn text(args: &TextArgs, lookup: &Lookup) -> Result<(Source, String)> {
    let choice = settings::choose(&args.model, &args.words, lookup)?;
    let sources =
        usize::from(!choice.words.is_empty()) + usize::from(choice.stdin) + usize::from(args.file.is_some());
    if sources > 1 {
        return Err(Failure::usage("there are several texts", "give one: an argument, -f FILE or '-'"));
    }
    let text = match (&args.file, choice.words.is_empty()) {
        (Some(path), _) => input::file(path)?,
        (None, false) => choice.words.join(" "),
        (None, true) => {
            if !choice.stdin && std::io::IsTerminal::is_terminal(&std::io::stdin()) {
                return Err(Failure::usage(
                    "there is no text",
                    "give one as an argument, with -f FILE, or on standard input",
                ));
            }
            input::stdin()?
        }
    };
    Ok((choice.source, text))
}
