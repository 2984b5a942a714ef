//! Commands within a chat.

use clap::ValueEnum;

use crate::cli::args::ThinkArg;
use crate::cli::lookup::distance;
use crate::failure::{Failure, Result};

/// What `/help` prints.
pub const HELP: &str = "\
/set NAME VALUE       set a parameter: temp, top-k, top-p, min-p, seed, n-predict, …
/set system TEXT      set the system prompt
/set think HOW        show, hide or raw
/show                 the model and the parameters
/stats                how fast the last answer was, and how full the context is
/clear                forget the conversation
/help                 this list
/bye, Ctrl-D          end
\"\"\"                   begins and ends a block of several lines
Ctrl-C                stops an answer, or drops what is typed
";

/// All names, for the nearest one to a mistake.
const NAMES: [&str; 7] = ["help", "clear", "set", "show", "stats", "bye", "exit"];

/// A command.
#[derive(Clone, Debug, PartialEq)]
pub enum Slash {
    Help,
    Clear,
    Show,
    Stats,
    Bye,
    System(String),
    Think(ThinkArg),
    /// Most tokens to generate; none is no limit.
    Limit(Option<usize>),
    /// A parameter of sampling by its long name.
    Parameter(String, f64),
}

impl Slash {
    /// The command in a line, `None` if it is something to say.
    ///
    /// # Errors
    /// If there is no such command, or its arguments are wrong.
    pub fn parse(line: &str) -> Result<Option<Slash>> {
        let Some(line) = line.trim().strip_prefix('/') else {
            return Ok(None);
        };
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let alone = |slash| match rest.trim() {
            "" => Ok(Some(slash)),
            _ => Err(Failure::usage(format!("/{name} takes nothing after it"), "/help lists the commands")),
        };
        match name {
            "help" | "?" => alone(Slash::Help),
            "clear" => alone(Slash::Clear),
            "show" => alone(Slash::Show),
            "stats" => alone(Slash::Stats),
            "bye" | "exit" => alone(Slash::Bye),
            "set" => set(rest.trim()).map(Some),
            _ => {
                let nearest = NAMES.iter().min_by_key(|n| distance(name, n)).unwrap_or(&"help");
                Err(Failure::usage(
                    format!("there is no command /{name}"),
                    format!("nearest is /{nearest}; /help lists all"),
                ))
            }
        }
    }
}

fn set(rest: &str) -> Result<Slash> {
    let rest = rest.strip_prefix("parameter ").map_or(rest, str::trim);
    let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let value = value.trim();
    // ollama's spelling, too.
    let name = match name.to_lowercase().replace('_', "-").as_str() {
        "temperature" => "temp".to_owned(),
        "num-predict" | "n" => "n-predict".to_owned(),
        name => name.to_owned(),
    };
    if name == "system" {
        return Ok(Slash::System(value.trim_matches('"').to_owned()));
    }
    if name.is_empty() || value.is_empty() {
        return Err(Failure::usage("/set takes a name and a value", "for example /set temp 0.6"));
    }
    if name == "think" {
        let think = ThinkArg::from_str(value, true);
        return think
            .map(Slash::Think)
            .map_err(|_| Failure::usage(format!("think is '{value}'"), "it can be show, hide or raw"));
    }
    let number: f64 =
        value.parse().map_err(|_| Failure::usage(format!("{name} is '{value}'"), "it should be a number"))?;
    if name != "n-predict" {
        return Ok(Slash::Parameter(name, number));
    }
    let whole = number.fract() == 0.0 && (-1.0..=f64::from(u32::MAX)).contains(&number);
    if !whole {
        return Err(Failure::usage(
            format!("n-predict is {value}"),
            "it is a number of tokens, or -1 for no limit",
        ));
    }
    Ok(Slash::Limit((number >= 0.0).then_some(number as usize)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_understood() {
        let parsed = |line| Slash::parse(line).unwrap();
        assert_eq!(parsed("hello"), None);
        assert_eq!(parsed("1/2 is what?"), None);
        assert_eq!(parsed(" /bye "), Some(Slash::Bye));
        assert_eq!(parsed("/set temp 0.5"), Some(Slash::Parameter("temp".into(), 0.5)));
        assert_eq!(parsed("/set parameter top_k 40"), Some(Slash::Parameter("top-k".into(), 40.0)));
        assert_eq!(parsed("/set temperature 1"), Some(Slash::Parameter("temp".into(), 1.0)));
        assert_eq!(parsed("/set system You are terse."), Some(Slash::System("You are terse.".into())));
        assert_eq!(parsed("/set think hide"), Some(Slash::Think(ThinkArg::Hide)));
        assert_eq!(parsed("/set num_predict -1"), Some(Slash::Limit(None)));
        assert_eq!(parsed("/set n-predict 7"), Some(Slash::Limit(Some(7))));
    }

    #[test]
    fn mistakes_are_told_with_the_nearest_command() {
        let failure = Slash::parse("/claer").unwrap_err();
        assert!(failure.hint().unwrap().contains("/clear"), "{failure:?}");
        for wrong in
            ["/", "/set", "/set temp", "/set temp warm", "/bye now", "/set think loud", "/set n-predict 1.5"]
        {
            assert!(Slash::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn help_lists_every_command() {
        for name in NAMES.iter().filter(|n| **n != "exit") {
            assert!(HELP.contains(&format!("/{name}")), "{name}");
        }
    }
}
