//! Parsing, and clap's complaints put into one line and one piece of advice.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use super::args::{Cli, GlobalArgs};
use super::config::table::{self, Table};
use super::config::{self, Config, Sources};
use super::habits;
use super::lookup::Lookup;
use super::rewrite;
use crate::failure::{Failure, Result};

/// What the arguments ask for.
#[derive(Debug)]
pub enum Parsed {
    /// To do something.
    Run(Box<Asked>),
    /// To print the help or the version.
    Print(String),
}

/// A command with all its settings.
#[derive(Debug)]
pub struct Asked {
    pub cli: Cli,
    /// What is set, and by whom.
    pub config: Config,
    /// Where models are looked for.
    pub lookup: Lookup,
}

/// Commands that work whatever the settings' file says: those that print about fathom itself, and those of `config` that
/// mend the file.
const WITHOUT_FILE: [&str; 6] = ["completions", "man", "path", "edit", "set", "unset"];

/// The command that shells ask.
const COMPLETE: &str = "__complete";

/// The definitions of all commands and options.
pub fn definition() -> clap::Command {
    table::with_opposites(Cli::command())
}

/// Parses the arguments, without the program's name; the rest is set by the environment and the settings' file.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Parsed> {
    let definition = definition();
    let commands: Vec<&str> =
        definition.get_subcommands().flat_map(|c| c.get_name_and_visible_aliases()).collect();
    let rewritten = rewrite::rewrite(args, &commands)?;
    // Those that people type.
    let visible = definition.get_subcommands().filter(|c| !c.is_hide_set());
    let visible: Vec<String> = visible.map(|c| c.get_name().to_owned()).collect();
    let mut args = rewritten.args;
    let mut matches = match matches(definition.clone(), &args) {
        Ok(matches) => matches,
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(Parsed::Print(e.render().to_string()));
        }
        Err(e) => return Err(failure(&e, &args)),
    };
    let mut config = Config::default();
    if let Some((command, given)) = matches.subcommand() {
        let global = GlobalArgs::from_arg_matches(&matches).map_err(|e| failure(&e, &args))?;
        let sources = Sources { command, given, env: &env, global: &global };
        let action = given.subcommand_name();
        if WITHOUT_FILE.contains(&action.unwrap_or(command)) {
            config.path = config::path(&global, &env).map(|(path, _)| path);
        } else {
            let table = Table::new();
            config = match Config::new(&table, &sources) {
                // Nobody would see at the tab key what is wrong.
                Err(_) if command == COMPLETE => Config::default(),
                config => config?,
            };
            let additions = config.additions(&table, &sources);
            if action.is_none() && !additions.is_empty() {
                let at = rewritten.command.map_or(0, |i| i + 1);
                args.splice(at..at, additions);
                matches = self::matches(definition, &args).map_err(|e| added(&e, &args))?;
            }
        }
    }
    let cli = Cli::from_arg_matches(&matches).map_err(|e| failure(&e, &args))?;
    let mut lookup = Lookup::new(&env, &config);
    if rewritten.implied {
        lookup.commands = visible;
    }
    Ok(Parsed::Run(Box::new(Asked { cli, config, lookup })))
}

fn matches(definition: clap::Command, args: &[OsString]) -> clap::error::Result<ArgMatches> {
    let name = OsString::from("fathom");
    definition.try_get_matches_from(std::iter::once(&name).chain(args))
}

/// An error in what was added, each value of which is right by itself: this command takes another kind of them.
fn added(error: &clap::Error, args: &[OsString]) -> Failure {
    let failure = failure(error, args);
    Failure::usage(failure.message().unwrap_or_default(), "it is a setting: 'fathom config' says whose")
}

fn failure(error: &clap::Error, args: &[OsString]) -> Failure {
    let (what, tip) = one_line(error);
    let unknown = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(option)) if error.kind() == ErrorKind::UnknownArgument => option,
        _ => "",
    };
    if let Some(instead) = habits::instead_of_option(unknown) {
        return Failure::usage(format!("there is no option '{unknown}'"), instead);
    }
    let definition = definition();
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

    /// In an environment without a home, and so without a file.
    fn parse_in(args: &[&str], env: &[(&str, &str)]) -> Result<Parsed> {
        parse(args.iter().map(OsString::from), |name| {
            env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into())
        })
    }

    #[test]
    fn only_commands_that_people_type_are_what_a_first_word_may_mean() {
        let meant = |args: &[&str]| match parse_in(args, &[]).unwrap() {
            Parsed::Run(asked) => asked.lookup.commands,
            Parsed::Print(text) => panic!("{args:?} prints {text}"),
        };
        let names = meant(&["complete", "this"]);
        assert!(names.iter().any(|n| n == "quantize") && !names.iter().any(|n| n == COMPLETE), "{names:?}");
        assert!(meant(&["run", "hi"]).is_empty());
    }

    fn run(args: &[&str], env: &[(&str, &str)]) -> RunArgs {
        let Parsed::Run(asked) = parse_in(args, env).unwrap() else {
            panic!("{args:?} prints");
        };
        match asked.cli.command {
            Command::Run(run) => *run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn definitions_are_consistent() {
        definition().debug_assert();
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
        assert_eq!(failure.message(), Some("FATHOM_TEMP is 'warm'"));
        let failure = parse_in(&["hi"], &[("FATHOM_TEMP", "200")]).unwrap_err();
        assert_eq!(
            (failure.message(), failure.hint()),
            (Some("FATHOM_TEMP is '200'"), Some("it can be 0 to 100"))
        );
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
