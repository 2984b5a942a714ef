//! Parsing, and clap's complaints put into one line and one piece of advice.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use super::args::Cli;
use super::{environment, rewrite};
use crate::failure::{Failure, Result};

/// What the arguments ask for.
#[derive(Debug)]
pub enum Parsed {
    /// To do something.
    Run(Box<Cli>),
    /// To print the help or the version.
    Print(String),
}

/// Parses the arguments, without the program's name, and the environment.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Parsed> {
    let definition = Cli::command();
    let commands: Vec<&str> = definition.get_subcommands().map(|c| c.get_name()).collect();
    let mut args = rewrite::rewrite(args, &commands)?;
    let matches = match matches(&args) {
        Ok(matches) => matches,
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(Parsed::Print(e.render().to_string()));
        }
        Err(e) => return Err(failure(&e, &args)),
    };
    let matches = match matches.subcommand() {
        Some((name, given)) => {
            let additions = environment::additions(given, env)?;
            if additions.is_empty() {
                matches
            } else {
                let at = args.iter().position(|a| a == name).map_or(0, |i| i + 1);
                args.splice(at..at, additions);
                self::matches(&args).map_err(|e| from_environment(&e, &args))?
            }
        }
        None => matches,
    };
    Cli::from_arg_matches(&matches).map(|cli| Parsed::Run(Box::new(cli))).map_err(|e| failure(&e, &args))
}

fn matches(args: &[OsString]) -> clap::error::Result<ArgMatches> {
    let name = OsString::from("fathom");
    Cli::command().try_get_matches_from(std::iter::once(&name).chain(args))
}

/// An error in what the environment added: the rest was parsed without one before.
fn from_environment(error: &clap::Error, args: &[OsString]) -> Failure {
    let Some(ContextValue::String(arg)) = error.get(ContextKind::InvalidArg) else {
        return failure(error, args);
    };
    let long = arg.split([' ', '=']).next().unwrap_or_default();
    let variable = environment::variable(long.trim_start_matches('-'));
    Failure::usage(one_line(error).0, format!("it comes from the environment variable {variable}"))
}

fn failure(error: &clap::Error, args: &[OsString]) -> Failure {
    let (what, tip) = one_line(error);
    let definition = Cli::command();
    // The first one: values of options before the command are no names of commands.
    let command = args.iter().find_map(|arg| definition.find_subcommand(arg));
    let help = match command {
        Some(command) => format!("'fathom help {}' lists the options", command.get_name()),
        None => "'fathom help' lists the commands".into(),
    };
    Failure::usage(what, tip.unwrap_or(help))
}

/// The first paragraph of what clap has to say, without its prefix, and its tip if it has one. How to pass an unknown
/// option as a model's name is none.
fn one_line(error: &clap::Error) -> (String, Option<String>) {
    let text = error.render().to_string();
    let what = text.lines().take_while(|line| !line.trim().is_empty());
    let what = what.map(str::trim).collect::<Vec<_>>().join(" ");
    // One argument to clap, because the one in the middle can be left out.
    let what = what.strip_prefix("error: ").unwrap_or(&what).replace("<WORDS> <WORDS>...", "IN [OUT] TYPE");
    let mut tips = text.lines().filter_map(|line| line.trim().strip_prefix("tip: "));
    let tip = tips.find(|tip| !tip.starts_with("to pass "));
    (what, tip.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Command, RunArgs};

    fn parse_in(args: &[&str], env: &[(&str, &str)]) -> Result<Parsed> {
        parse(args.iter().map(OsString::from), |name| {
            env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into())
        })
    }

    fn run(args: &[&str], env: &[(&str, &str)]) -> RunArgs {
        let Parsed::Run(cli) = parse_in(args, env).unwrap() else {
            panic!("{args:?} prints");
        };
        match cli.command {
            Command::Run(run) => *run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_llama_cpp_users_type_is_understood() {
        let args = run(
            &[
                "-m", "x.gguf", "-p", "- a list", "-n", "-1", "-ngl", "99", "-ctk", "q8_0", "-s", "7",
                "-no-cnv",
            ],
            &[],
        );
        assert_eq!(args.model.model.as_deref(), Some("x.gguf".as_ref()));
        assert_eq!(args.prompt.prompt.as_deref(), Some("- a list"));
        assert_eq!(args.generation.n_predict, -1);
        assert_eq!(args.generation.seed, Some(7));
        assert_eq!(args.engine.cache_type_k.as_deref(), Some("q8_0"));
        assert!(args.prompt.raw);
    }

    #[test]
    fn the_environment_sets_what_was_not_typed() {
        let env =
            [("FATHOM_TEMP", "0.25"), ("FATHOM_TOP_K", "3"), ("FATHOM_IGNORE_EOS", "1"), ("FATHOM_SEED", "")];
        let args = run(&["--top-k", "9", "hello", "--", "--temp"], &env);
        assert_eq!(args.generation.temp, Some(0.25));
        assert_eq!(args.generation.top_k, Some(9));
        assert_eq!(args.generation.seed, None);
        assert!(args.generation.ignore_eos);
        assert_eq!(args.words, ["hello", "--temp"]);
    }

    #[test]
    fn a_wrong_value_in_the_environment_is_blamed_on_it() {
        let failure = parse_in(&["hi"], &[("FATHOM_TEMP", "warm")]).unwrap_err();
        assert!(failure.message().unwrap().contains("'warm'"), "{failure:?}");
        assert!(failure.hint().unwrap().contains("FATHOM_TEMP"), "{failure:?}");
        assert!(parse_in(&["hi"], &[("FATHOM_IGNORE_EOS", "perhaps")]).is_err());
    }

    #[test]
    fn variables_that_a_command_does_not_take_are_ignored() {
        assert!(parse_in(&["completions", "bash"], &[("FATHOM_TEMP", "warm")]).is_ok());
    }

    #[test]
    fn errors_are_one_line_with_advice() {
        for args in [
            &["run", "--tempp", "1"][..],
            &["run", "--temp", "warm"],
            &["run", "--think", "loud"],
            &["logits", "x"],
            &["completions"],
            &["run", "-n"],
        ] {
            let failure = parse_in(args, &[]).unwrap_err();
            assert!(!failure.message().unwrap().contains('\n'), "{failure:?}");
            assert!(!failure.message().unwrap().contains("Usage"), "{failure:?}");
            assert!(failure.hint().is_some_and(|h| !h.contains('\n')), "{failure:?}");
        }
    }

    #[test]
    fn the_hint_is_for_the_command_that_was_meant() {
        for (args, hint) in [
            (&["--color", "never", "show", "--loud"][..], "'fathom help show' lists the options"),
            (&["-n"], "'fathom help run' lists the options"),
            (&["help", "nonsense"], "'fathom help' lists the commands"),
        ] {
            assert_eq!(parse_in(args, &[]).unwrap_err().hint(), Some(hint), "{args:?}");
        }
    }
}
