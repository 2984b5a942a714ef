//! The terminal of fathom: arguments, chat, progress, output. A library only so that `fuzz/` and `benches/` reach the parts
//! that read what people type and show answers; the binary calls [`main`].

mod chat;
mod cli;
mod commands;
mod devices;
mod failure;
#[doc(hidden)]
pub mod fuzzing;
mod input;
mod loading;
mod mode;
mod model;
mod output;
mod size;
mod streams;
mod term;

use std::process::ExitCode;

use cli::args::ColorArg;
use cli::parse::{self, Parsed};
use failure::{Outcome, Result};
use term::color::Colors;

/// Does what the arguments of the process ask for.
pub fn main() -> ExitCode {
    match run() {
        Ok(outcome) => outcome.code(),
        Err(failure) => {
            term::log::failure(&failure);
            failure.code()
        }
    }
}

fn run() -> Result<Outcome> {
    let parsed = parse::parse(std::env::args_os().skip(1), |name| std::env::var_os(name));
    let asked = match parsed {
        Ok(Parsed::Run(asked)) => asked,
        Ok(Parsed::Print(text)) => {
            streams::print(&text)?;
            return Ok(Outcome::Done);
        }
        Err(failure) => {
            term::log::install(Colors::new(ColorArg::Auto), 0, false);
            return Err(failure);
        }
    };
    let global = &asked.cli.global;
    let colors = Colors::new(global.color);
    term::log::install(colors, global.verbose, global.quiet);
    if let Some((profile, _)) = &asked.config.profile {
        for (key, variable) in &asked.config.shadowed {
            term::log::note(&format!("{variable} counts before {key} of the profile {profile}"));
        }
    }
    term::interrupt::install();
    commands::dispatch(*asked, colors)
}
