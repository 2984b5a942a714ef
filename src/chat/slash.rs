//! Commands within a chat: one table that reading them, `/help`, completion and "nearest is" share.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::cli::args::ThinkArg;
use crate::cli::config::folder;
use crate::cli::lookup::meant;
use crate::cli::settings::{SAMPLING_NAMES, no_parameter};
use crate::failure::{Failure, Result};

/// A command.
#[derive(Clone, Debug, PartialEq)]
pub enum Slash {
    Set(Set),
    Show,
    Context,
    Stats,
    Regen,
    Continue,
    Undo,
    Clear,
    /// How many turns; as many as it takes without.
    Forget(Option<usize>),
    Read(PathBuf),
    Save(PathBuf),
    Load(PathBuf),
    Help,
    Bye,
}

/// What `/set` changes.
#[derive(Clone, Debug, PartialEq)]
pub enum Set {
    /// The system prompt; none if it is empty.
    System(String),
    Think(ThinkArg),
    /// Most tokens of reasoning; none is no limit.
    ThinkBudget(Option<usize>),
    /// Most tokens to generate; none is no limit.
    Limit(Option<usize>),
    /// Texts that end an answer.
    Stop(Vec<String>),
    /// Whether answers are styled.
    Style(bool),
    /// A parameter of sampling by its long name.
    Parameter(String, f64),
}

/// What stands behind the name of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    Nothing,
    Setting,
    File,
    MaybeNumber,
}

/// A line of the table.
pub struct Entry {
    pub names: &'static [&'static str],
    pub takes: Takes,
    /// What it does, for each form of its arguments.
    pub forms: &'static [(&'static str, &'static str)],
    parse: fn(&str) -> Result<Slash>,
}

const fn plain(names: &'static [&'static str], help: &'static [(&str, &str)], parse: Parse) -> Entry {
    Entry { names, takes: Takes::Nothing, forms: help, parse }
}

const fn file(names: &'static [&'static str], help: &'static [(&str, &str)], parse: Parse) -> Entry {
    Entry { names, takes: Takes::File, forms: help, parse }
}

type Parse = fn(&str) -> Result<Slash>;

/// All commands, in the order of `/help`.
pub const COMMANDS: [Entry; 14] = [
    Entry {
        names: &["set"],
        takes: Takes::Setting,
        forms: &[
            ("NAME VALUE", "set temp, top-k, top-p, min-p, seed, n-predict, …"),
            ("system TEXT", "set the system prompt"),
            ("think HOW", "show, hide or raw: what to do with reasoning"),
            ("think-budget N", "most tokens of reasoning; -1 is no limit"),
            ("stop TEXT", "end answers before a text; nothing for none"),
            ("style on|off", "style headings, lists and code in answers"),
        ],
        parse: |rest| set(rest).map(Slash::Set),
    },
    plain(&["show"], &[("", "the model and the parameters")], |_| Ok(Slash::Show)),
    plain(&["context"], &[("", "how full the context is, and with what")], |_| Ok(Slash::Context)),
    plain(&["stats"], &[("", "how fast the last answer was")], |_| Ok(Slash::Stats)),
    plain(&["regen"], &[("", "answer the last question anew")], |_| Ok(Slash::Regen)),
    plain(&["continue"], &[("", "go on with an answer that was stopped")], |_| Ok(Slash::Continue)),
    plain(&["undo"], &[("", "take back the last question and its answer")], |_| Ok(Slash::Undo)),
    plain(&["clear"], &[("", "forget the conversation")], |_| Ok(Slash::Clear)),
    Entry {
        names: &["forget"],
        takes: Takes::MaybeNumber,
        forms: &[("[N]", "drop the oldest N turns, or until half is free")],
        parse: forget,
    },
    file(&["read"], &[("FILE", "put a file of text before what is said next")], |f| Ok(Slash::Read(path(f)))),
    file(&["save"], &[("FILE", "keep the conversation and its cache (in .json its text)")], |f| {
        Ok(Slash::Save(path(f)))
    }),
    file(&["load"], &[("FILE", "go on with a conversation that was saved")], |f| Ok(Slash::Load(path(f)))),
    plain(&["help", "?"], &[("", "this list")], |_| Ok(Slash::Help)),
    plain(&["bye", "exit"], &[("", "end, as Ctrl-D does")], |_| Ok(Slash::Bye)),
];

/// What `/help` says of keys.
const KEYS: &str = "\
\"\"\"                   begins and ends a block of several lines
Ctrl-J, Alt-Enter     a new line
Ctrl-G                write in $VISUAL or $EDITOR
Ctrl-C                stops an answer, or drops what is typed
Up, Ctrl-R            what was typed before
";

/// Settings besides those of sampling.
pub const OTHER_NAMES: [&str; 6] = ["system", "think", "think-budget", "n-predict", "stop", "style"];

/// What `/help` prints.
pub fn help() -> String {
    let form = |name: &str, (arguments, help): &(&str, &str)| {
        let usage = format!("/{name} {arguments}");
        format!("{:<21} {help}\n", usage.trim_end())
    };
    let entry = |e: &Entry| {
        let others = e.names[1..].iter().filter(|n| **n != "?").map(|n| format!("/{n:<20} the same\n"));
        e.forms.iter().map(|f| form(e.names[0], f)).chain(others).collect::<String>()
    };
    COMMANDS.iter().map(entry).collect::<String>() + KEYS
}

/// The entry of a name, whatever its case.
pub fn entry(name: &str) -> Option<&'static Entry> {
    const { &COMMANDS }.iter().find(|e| e.names.iter().any(|n| n.eq_ignore_ascii_case(name)))
}

impl Slash {
    /// The command in what was typed, `None` if it is something to say: several lines that begin with a slash are text, unless a
    /// command begins them.
    ///
    /// # Errors
    /// If there is no such command, or its arguments are wrong.
    pub fn parse(text: &str) -> Result<Option<Slash>> {
        let text = text.trim();
        let Some(line) = text.strip_prefix('/') else {
            return Ok(None);
        };
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let Some(entry) = entry(name) else {
            return if text.contains('\n') { Ok(None) } else { Err(unknown(name)) };
        };
        let usage = |what: &str, hint: &str| Err(Failure::usage(format!("/{name} {what}"), hint));
        match entry.takes {
            Takes::Nothing if !rest.is_empty() => usage("takes nothing after it", "/help lists the commands"),
            Takes::File if rest.is_empty() => usage(
                "takes a file",
                &format!("for example /{name} ~/notes.txt; the tab key completes names"),
            ),
            _ => (entry.parse)(rest).map(Some),
        }
    }
}

fn unknown(name: &str) -> Failure {
    let nearest = meant(name, COMMANDS.iter().flat_map(|e| e.names.iter().copied()));
    let nearest = nearest.map_or(String::new(), |nearest| format!("nearest is /{nearest}; "));
    Failure::usage(
        format!("there is no command /{name}"),
        format!("{nearest}/help lists all; between triple quotes a slash begins a text"),
    )
}

/// A path as it is typed: to the end of the line, `~` for the home folder, quotes around it left out.
fn path(typed: &str) -> PathBuf {
    let bare = |quote| typed.strip_prefix(quote).and_then(|t| t.strip_suffix(quote));
    expand(bare('"').or_else(|| bare('\'')).unwrap_or(typed))
}

/// A path with the home folder for a `~` that begins it.
pub fn expand(path: &str) -> PathBuf {
    folder::expand(path, folder::home(|name| std::env::var_os(name)).as_deref())
}

fn forget(rest: &str) -> Result<Slash> {
    let wrong = || Failure::usage(format!("/forget '{rest}'"), "it takes a number of turns, or nothing");
    Ok(Slash::Forget(match rest {
        "" => None,
        n => Some(n.parse().ok().filter(|n| *n > 0).ok_or_else(wrong)?),
    }))
}

fn set(rest: &str) -> Result<Set> {
    let rest = rest.strip_prefix("parameter").filter(|r| r.starts_with(char::is_whitespace)).unwrap_or(rest);
    let (name, value) = rest.trim().split_once(char::is_whitespace).unwrap_or((rest.trim(), ""));
    let value = value.trim();
    // ollama's and llama.cpp's spellings, too.
    let name = match name.to_lowercase().replace('_', "-").as_str() {
        "temperature" => "temp".to_owned(),
        "num-predict" | "n" => "n-predict".to_owned(),
        name => name.to_owned(),
    };
    let wrong = |hint: &str| Failure::usage(format!("{name} is '{value}'"), hint);
    if name == "system" {
        return Ok(Set::System(unquoted(value).to_owned()));
    }
    if name == "stop" {
        let texts = stop_texts(value).ok_or_else(|| wrong("for example END, or \"\\n\" \"User:\""))?;
        return Ok(Set::Stop(texts));
    }
    if name.is_empty() || value.is_empty() {
        return Err(Failure::usage("/set takes a name and a value", "for example /set temp 0.6"));
    }
    match name.as_str() {
        "think" => {
            let think = ThinkArg::from_str(value, true);
            return think.map(Set::Think).map_err(|_| wrong("it can be show, hide or raw"));
        }
        "style" => match value {
            "on" => return Ok(Set::Style(true)),
            "off" => return Ok(Set::Style(false)),
            _ => return Err(wrong("it can be on or off")),
        },
        _ => {}
    }
    let number: f64 = value.parse().map_err(|_| wrong("it should be a number"))?;
    let whole = number.fract() == 0.0 && (-1.0..=f64::from(u32::MAX)).contains(&number);
    let tokens = || match whole {
        true => Ok((number >= 0.0).then_some(number as usize)),
        false => Err(wrong("it is a number of tokens, or -1 for no limit")),
    };
    match name.as_str() {
        "n-predict" => tokens().map(Set::Limit),
        "think-budget" => tokens().map(Set::ThinkBudget),
        name if SAMPLING_NAMES.contains(&name) => Ok(Set::Parameter(name.to_owned(), number)),
        name => Err(no_parameter(name, &[&SAMPLING_NAMES[..], &OTHER_NAMES].concat())),
    }
}

/// A text as it is, or several as JSON strings; `None` if these are none, or one is empty among others.
fn stop_texts(value: &str) -> Option<Vec<String>> {
    if !value.starts_with('"') {
        return Some(Some(value.to_owned()).filter(|t| !t.is_empty()).into_iter().collect());
    }
    let texts: Vec<String> =
        serde_json::Deserializer::from_str(value).into_iter().collect::<Result<_, _>>().ok()?;
    match texts.as_slice() {
        [one] if one.is_empty() => Some(vec![]),
        all if all.iter().any(String::is_empty) => None,
        _ => Some(texts),
    }
}

/// A text without the quotes around it, three or one.
fn unquoted(text: &str) -> &str {
    let bare = |quote| text.strip_prefix(quote).and_then(|t: &str| t.strip_suffix(quote));
    bare("\"\"\"").or_else(|| bare("\"")).unwrap_or(text).trim_matches('\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_understood() {
        let parsed = |line| Slash::parse(line).unwrap();
        assert_eq!(parsed("hello"), None);
        assert_eq!(parsed("1/2 is what?"), None);
        assert_eq!(parsed("// a comment\nlet x = 1;"), None);
        assert_eq!(parsed(" /bye "), Some(Slash::Bye));
        assert_eq!(parsed("/EXIT"), Some(Slash::Bye));
        assert_eq!(parsed("/?"), Some(Slash::Help));
        assert_eq!(parsed("/forget"), Some(Slash::Forget(None)));
        assert_eq!(parsed("/forget 3"), Some(Slash::Forget(Some(3))));
        assert_eq!(parsed("/read \"my notes.txt\""), Some(Slash::Read("my notes.txt".into())));
        assert_eq!(parsed("/save my notes.txt"), Some(Slash::Save("my notes.txt".into())));
        assert_eq!(parsed("/load ~x"), Some(Slash::Load("~x".into())));
    }

    #[test]
    fn settings_are_understood_in_every_spelling() {
        let parsed = |line| match Slash::parse(line).unwrap() {
            Some(Slash::Set(set)) => set,
            other => panic!("{other:?}"),
        };
        assert_eq!(parsed("/set temp 0.5"), Set::Parameter("temp".into(), 0.5));
        assert_eq!(parsed("/set parameter top_k 40"), Set::Parameter("top-k".into(), 40.0));
        assert_eq!(parsed("/set  parameter   temperature  1"), Set::Parameter("temp".into(), 1.0));
        assert_eq!(parsed("/set system You are terse."), Set::System("You are terse.".into()));
        assert_eq!(parsed("/set system \"\"\"You are\nterse.\"\"\""), Set::System("You are\nterse.".into()));
        assert_eq!(parsed("/set system \"\""), Set::System(String::new()));
        assert_eq!(parsed("/set think hide"), Set::Think(ThinkArg::Hide));
        assert_eq!(parsed("/set think_budget 100"), Set::ThinkBudget(Some(100)));
        assert_eq!(parsed("/set think-budget -1"), Set::ThinkBudget(None));
        assert_eq!(parsed("/set num_predict -1"), Set::Limit(None));
        assert_eq!(parsed("/set n-predict 7"), Set::Limit(Some(7)));
        assert_eq!(parsed("/set style off"), Set::Style(false));
        assert_eq!(parsed("/set stop the end"), Set::Stop(vec!["the end".into()]));
        assert_eq!(parsed("/set stop \"\\n\" \"模\""), Set::Stop(vec!["\n".into(), "模".into()]));
        assert_eq!(parsed("/set stop"), Set::Stop(vec![]));
        assert_eq!(parsed("/set stop \"\""), Set::Stop(vec![]));
    }

    #[test]
    fn mistakes_are_told_with_the_nearest_command() {
        let hint = |line| Slash::parse(line).unwrap_err().hint().unwrap_or_default().to_owned();
        assert!(hint("/claer").contains("/clear"));
        assert!(hint("/set tmep 1").contains("temp"));
        assert!(hint("/set thnik-budget 1").contains("think-budget"));
        for wrong in [
            "/",
            "/set",
            "/set temp",
            "/set temp warm",
            "/bye now",
            "/set think loud",
            "/set style maybe",
            "/set stop \"a",
            "/set stop \"a\" \"\"",
            "/set n-predict 1.5",
            "/forget -1",
            "/forget 0",
            "/forget all",
            "/save",
            "/read ",
        ] {
            assert!(Slash::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn help_lists_every_command_on_lines_that_fit() {
        let help = help();
        for name in COMMANDS.iter().flat_map(|e| e.names).filter(|n| **n != "?") {
            assert!(help.contains(&format!("/{name}")), "{name}");
        }
        assert!(help.lines().all(|l| l.chars().count() <= 80), "{help}");
    }
}
