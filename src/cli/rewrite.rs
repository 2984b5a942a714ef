//! Arguments as people type them, made ready for clap.
//!
//! llama.cpp has options of several letters behind one dash (`-ngl 99`), which clap would read as
//! bundles of short flags. Those that fathom has are rewritten to their long names by exact match;
//! any other is refused by name, so that `-fa` never becomes `-f a`.

use std::ffi::{OsStr, OsString};

use super::habits;
use crate::failure::{Failure, Result};

/// The forms of llama.cpp and what they are called here.
pub const LONG_NAMES: &[(&str, &str)] = &[
    ("-ngl", "--gpu-layers"),
    ("-cmoe", "--cpu-moe"),
    ("-ncmoe", "--n-cpu-moe"),
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-sys", "--system-prompt"),
    ("-tb", "--threads-batch"),
    ("-ub", "--ubatch-size"),
    ("-st", "--single-turn"),
    ("-jf", "--json-schema"),
    ("-dev", "--device"),
    ("-no-cnv", "--raw"),
];

/// Options whose value may be any text, so what follows them is left as it is.
const FREE_TEXT: &[&str] =
    &["-p", "--prompt", "--system-prompt", "--system", "--stop", "-r", "--reverse-prompt"];

/// Options that may stand before the name of a command.
const BEFORE_COMMAND: &[&str] =
    &["-v", "-vv", "-vvv", "--verbose", "-q", "--quiet", "--no-quiet", "--no-config"];

/// Those of them that take a value.
const BEFORE_COMMAND_WITH_VALUE: &[&str] = &["--color", "--profile", "--config"];

/// Arguments, and which of them is the command; without one, it is asked for what stands above all commands.
#[derive(Debug)]
pub struct Rewritten {
    pub args: Vec<OsString>,
    pub command: Option<usize>,
    /// Whether nobody named the command, so that `run` is meant.
    pub implied: bool,
}

/// Rewrites `args` (without the program's name). `commands` are the names of the commands; without
/// one of them `run` is meant.
pub fn rewrite(args: impl IntoIterator<Item = OsString>, commands: &[&str]) -> Result<Rewritten> {
    let mut out = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            out.push(arg);
            out.extend(args);
            break;
        }
        let arg = match arg.to_str() {
            Some(text) => long_name(text)?.map_or(arg, OsString::from),
            None => arg,
        };
        let takes_text = FREE_TEXT.iter().any(|name| arg == *name);
        out.push(arg);
        if takes_text {
            out.extend(args.next());
        }
    }
    Ok(match first_word(&out) {
        Some(at) if commands.iter().any(|name| out[at] == *name) => {
            Rewritten { args: out, command: Some(at), implied: false }
        }
        Some(at) if ["-h", "--help", "-V", "--version", "help"].iter().any(|name| out[at] == *name) => {
            Rewritten { args: out, command: None, implied: false }
        }
        _ => {
            out.insert(0, "run".into());
            Rewritten { args: out, command: Some(0), implied: true }
        }
    })
}

/// The long name for a form of llama.cpp; `None` for everything that clap understands.
fn long_name(arg: &str) -> Result<Option<&'static str>> {
    if let Some((_, long)) = LONG_NAMES.iter().find(|(short, _)| *short == arg) {
        return Ok(Some(long));
    }
    let Some(letters) = arg.strip_prefix('-') else {
        return Ok(None);
    };
    let mut chars = letters.chars();
    let (Some(first), Some(second)) = (chars.next(), chars.next()) else {
        return Ok(None);
    };
    // `--long`, `-1`, `-n128`, `-n-1`, `-n=1`, `-vv`, or text of several words, which clap reports.
    let known = first == '-'
        || !first.is_ascii_alphabetic()
        || second.is_ascii_digit()
        || matches!(second, '-' if !arg.starts_with("-no-"))
        || second == '='
        || letters.bytes().all(|b| b == b'v')
        || letters.contains(char::is_whitespace);
    if known {
        return Ok(None);
    }
    let instead = habits::instead_of_option(arg);
    Err(Failure::usage(
        format!("there is no option '{arg}'"),
        instead.unwrap_or("names of several letters take two dashes; 'fathom help run' lists them"),
    ))
}

/// Where the first argument stands that may be the name of a command, or ask for what stands above all commands.
fn first_word(args: &[OsString]) -> Option<usize> {
    let mut at = 0;
    while at < args.len() {
        if BEFORE_COMMAND_WITH_VALUE.iter().any(|name| args[at] == *name) {
            at += 2;
        } else if is_before_command(&args[at]) {
            at += 1;
        } else {
            return Some(at);
        }
    }
    None
}

fn is_before_command(arg: &OsStr) -> bool {
    let with_value = |arg: &str| {
        let name = arg.split_once('=').map_or("", |(name, _)| name);
        BEFORE_COMMAND_WITH_VALUE.contains(&name)
    };
    BEFORE_COMMAND.iter().any(|name| arg == *name) || arg.to_str().is_some_and(with_value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(args: &[&str]) -> Vec<String> {
        let args = args.iter().map(OsString::from);
        let rewritten = rewrite(args, &["run", "show"]).unwrap();
        rewritten.args.into_iter().map(|a| a.into_string().unwrap()).collect()
    }

    #[test]
    fn every_form_of_llama_cpp_becomes_its_long_name() {
        for (short, long) in LONG_NAMES {
            assert_eq!(rewritten(&["run", short, "1"])[1], *long);
        }
    }

    #[test]
    fn run_is_the_default_command() {
        assert_eq!(rewritten(&[]), ["run"]);
        assert_eq!(rewritten(&["-m", "x.gguf", "-p", "hi"]), ["run", "-m", "x.gguf", "-p", "hi"]);
        assert_eq!(rewritten(&["hello"]), ["run", "hello"]);
        assert_eq!(rewritten(&["show", "x"]), ["show", "x"]);
        assert_eq!(rewritten(&["-q", "--color", "never", "show"]), ["-q", "--color", "never", "show"]);
        assert_eq!(rewritten(&["--color=never", "-vv", "x"])[0], "run");
        assert_eq!(rewritten(&["--profile", "show", "show"]), ["--profile", "show", "show"]);
        assert_eq!(rewritten(&["--profile", "show"]), ["run", "--profile", "show"]);
        assert_eq!(rewritten(&["--help"]), ["--help"]);
        assert_eq!(rewritten(&["-V"]), ["-V"]);
        // A prompt that begins like a command needs -m, -p or the command before it.
        assert_eq!(rewritten(&["-m", "x", "show"]), ["run", "-m", "x", "show"]);
    }

    #[test]
    fn text_after_a_prompt_option_stays_as_it_is() {
        assert_eq!(rewritten(&["run", "-p", "-st"]), ["run", "-p", "-st"]);
        assert_eq!(rewritten(&["run", "-sys", "-ngl"]), ["run", "--system-prompt", "-ngl"]);
        assert_eq!(rewritten(&["run", "--system", "-ngl"]), ["run", "--system", "-ngl"]);
        assert_eq!(rewritten(&["run", "--", "-ngl"]), ["run", "--", "-ngl"]);
    }

    #[test]
    fn numbers_and_repeated_flags_pass() {
        for arg in ["-1", "-n-1", "-n128", "-t=4", "-v", "-vvv", "-", "--raw", "-5 + 3", "word"] {
            assert_eq!(rewritten(&["run", arg]), ["run", arg]);
        }
    }

    #[test]
    fn other_forms_of_several_letters_are_refused_by_name() {
        for arg in ["-fa", "-hf", "-temp", "-mli", "-no-mmap", "-pHello"] {
            let failure = rewrite(["run", arg].map(OsString::from), &["run"]).unwrap_err();
            assert!(failure.message().unwrap().contains(arg));
        }
    }
}
