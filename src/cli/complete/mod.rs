//! What a shell completes: commands, options and their values, names of models, profiles and settings.
//!
//! The scripts for shells in this folder hand over the words up to the cursor and offer what comes back: a line for each
//! candidate, the word and behind a tab what it is. A line of a tab and `files` asks for names of files.

use std::ffi::{OsStr, OsString};
use std::path::{MAIN_SEPARATOR, Path, is_separator};

use clap::{Arg, Command, ValueEnum};
use ggml_sys::cpu::CACHE_TYPES;
use quantize::Mix;

use super::config::file::{DEFAULT_PROFILE, NO_PROFILE};
use super::config::table::{Kind, Table};
use super::config::{Config, folder};
use super::lookup::{BUNDLED, Lookup};
use super::{parse, rewrite};

/// The script for a shell, if it is one of those that complete names.
pub fn script(shell: clap_complete::Shell) -> Option<&'static str> {
    use clap_complete::Shell;
    match shell {
        Shell::Bash => Some(include_str!("fathom.bash")),
        Shell::Zsh => Some(include_str!("fathom.zsh")),
        Shell::Fish => Some(include_str!("fathom.fish")),
        _ => None,
    }
}

/// Where names come from.
pub struct Names<'a> {
    pub lookup: &'a Lookup,
    pub config: &'a Config,
}

/// What can stand in place of the last word.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    /// Words, and what they are.
    words: Vec<(String, String)>,
    /// Names of files can stand there too.
    files: bool,
}

impl Candidates {
    /// As the scripts read it.
    pub fn lines(&self) -> String {
        let line = |(word, help): &(String, String)| format!("{word}\t{help}\n");
        let words = self.words.iter().filter(|(word, _)| !word.chars().any(char::is_control));
        words.map(line).chain(self.files.then(|| "\tfiles\n".to_owned())).collect()
    }

    fn add(&mut self, word: impl Into<String>, help: impl Into<String>) {
        self.words.push((word.into(), help.into()));
    }
}

/// What can stand in place of the last of the words behind `fathom`.
pub fn complete(words: &[OsString], names: &Names<'_>) -> Candidates {
    let mut definition = parse::definition();
    definition.build();
    let (last, before) = match words.split_last() {
        Some((last, before)) => (last.to_string_lossy().into_owned(), before),
        None => (String::new(), words),
    };
    let line = Line::new(&definition, before);
    let mut found = Candidates::default();
    line.last(&last, names, &mut found);
    found.words.retain(|(word, _)| word.starts_with(&last));
    found.words.dedup();
    found
}

/// The words before the last one, understood.
struct Line<'a> {
    definition: &'a Command,
    command: &'a Command,
    /// Whether the command is named.
    named: bool,
    /// The words that are no options.
    positional: Vec<String>,
    /// The option whose value comes next.
    expects: Option<&'a Arg>,
    /// `--` has ended the options.
    ended: bool,
    /// `-m` is there.
    has_model: bool,
}

impl<'a> Line<'a> {
    fn new(definition: &'a Command, words: &[OsString]) -> Self {
        let run = definition.find_subcommand("run").unwrap_or(definition);
        let mut line = Line {
            definition,
            command: run,
            named: false,
            positional: vec![],
            expects: None,
            ended: false,
            has_model: false,
        };
        for word in words {
            line.read(&word.to_string_lossy());
        }
        line
    }

    fn read(&mut self, word: &str) {
        if self.expects.take().is_some() {
            return;
        }
        if self.ended || !word.starts_with('-') || word == "-" {
            // Behind the first word there are commands of commands only.
            let within = if self.named { self.command } else { self.definition };
            match within.find_subcommand(word).filter(|_| self.positional.is_empty() && !self.ended) {
                Some(command) => (self.command, self.named) = (command, true),
                None => self.positional.push(word.to_owned()),
            }
            return;
        }
        if word == "--" {
            self.ended = true;
            return;
        }
        let arg = self.option(word);
        self.has_model |= arg.is_some_and(|a| a.get_id() == "model");
        let is_bare =
            !word.contains('=') && (word.starts_with("--") || word.len() == 2 || is_llama_cpp(word));
        self.expects = arg.filter(|a| a.get_action().takes_values() && is_bare);
    }

    /// The option that a word is, perhaps with its value.
    fn option(&self, word: &str) -> Option<&'a Arg> {
        let word =
            rewrite::LONG_NAMES.iter().find(|(short, _)| *short == word).map_or(word, |(_, long)| long);
        let name = word.split('=').next().unwrap_or(word);
        let mut args = self.command.get_arguments().chain(self.definition.get_arguments());
        match name.strip_prefix("--") {
            Some(long) => args.find(|a| {
                a.get_long() == Some(long) || a.get_all_aliases().is_some_and(|all| all.contains(&long))
            }),
            None => args.find(|a| a.get_short().is_some() && a.get_short() == name.chars().nth(1)),
        }
    }

    fn last(&self, word: &str, names: &Names<'_>, found: &mut Candidates) {
        if let Some(arg) = self.expects {
            return values(arg, word, names, found);
        }
        if word.starts_with('-') && !self.ended {
            return match word.split_once('=') {
                Some((option, value)) => {
                    let mut of_option = Candidates::default();
                    if let Some(arg) = self.option(option) {
                        values(arg, value, names, &mut of_option);
                    }
                    found
                        .words
                        .extend(of_option.words.into_iter().map(|(w, help)| (format!("{option}={w}"), help)));
                }
                None => self.options(found),
            };
        }
        if !self.named && self.positional.is_empty() {
            commands(self.definition, found);
        }
        self.positional(word, names, found);
    }

    fn options(&self, found: &mut Candidates) {
        let seen = self.command.get_arguments().filter(|a| !a.is_hide_set());
        for arg in seen {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            if let Some(long) = arg.get_long() {
                found.add(format!("--{long}"), help.clone());
            }
            if let Some(short) = arg.get_short() {
                found.add(format!("-{short}"), help);
            }
        }
    }

    /// A word that is no option.
    fn positional(&self, word: &str, names: &Names<'_>, found: &mut Candidates) {
        let (count, first) = (self.positional.len(), self.positional.first().map(String::as_str));
        match self.command.get_name() {
            "run" if !self.named && count == 0 && !self.has_model => {
                models(word, names, found);
                // Among commands a folder would be in the way.
                found.words.retain(|(w, _)| !w.ends_with(is_separator) || word.contains(is_separator));
            }
            "run" | "chat" if count == 0 && !self.has_model => models(word, names, found),
            "show" | "bench" if count == 0 => models(word, names, found),
            "tokenize" | "logits" | "perplexity" | "imatrix" if count == 0 && !self.has_model => {
                models(word, names, found);
            }
            "quantize" => {
                if count == 0 {
                    models(word, names, found);
                } else {
                    Mix::ALL.iter().for_each(|mix| found.add(mix.name(), ""));
                }
                found.files = count < 2;
            }
            "completions" => {
                clap_complete::Shell::value_variants().iter().for_each(|s| found.add(s.to_string(), ""));
            }
            "man" | "help" if count == 0 => commands(self.definition, found),
            "config" if count == 0 => commands(self.command, found),
            "get" | "unset" if count == 0 => keys(found),
            "set" if count == 0 => keys(found),
            "set" => value_of(first.unwrap_or_default(), word, names, found),
            _ => {}
        }
    }
}

/// Whether a word is an option of several letters behind one dash.
fn is_llama_cpp(word: &str) -> bool {
    rewrite::LONG_NAMES.iter().any(|(short, _)| *short == word)
}

fn commands(of: &Command, found: &mut Candidates) {
    for command in of.get_subcommands().filter(|c| !c.is_hide_set()) {
        found.add(command.get_name(), command.get_about().map(ToString::to_string).unwrap_or_default());
    }
}

/// The names of settings.
fn keys(found: &mut Candidates) {
    Table::new().iter().filter(|s| !s.hidden).for_each(|s| found.add(&s.key, &s.help));
    found.add(DEFAULT_PROFILE, "The profile to use where none is asked for");
}

/// The value of a setting.
fn value_of(key: &str, word: &str, names: &Names<'_>, found: &mut Candidates) {
    if key == DEFAULT_PROFILE {
        return profiles(names, found);
    }
    let table = Table::new();
    let Ok(setting) = table.find(key) else { return };
    match setting.kind {
        Kind::Model => models(word, names, found),
        Kind::Folders => found.files = true,
        Kind::Flag { .. } => ["true", "false"].iter().for_each(|v| found.add(*v, "")),
        _ if setting.id.starts_with("cache_type") => cache_types(found),
        _ => setting.values.iter().for_each(|v| found.add(v, "")),
    }
}

/// The value of an option.
fn values(arg: &Arg, word: &str, names: &Names<'_>, found: &mut Candidates) {
    match arg.get_id().as_str() {
        "model" | "kl_base" => return models(word, names, found),
        "profile" => return profiles(names, found),
        "cache_type_k" | "cache_type_v" => return cache_types(found),
        _ => {}
    }
    let possible = arg.get_possible_values();
    found.files = possible.is_empty()
        && arg.get_value_parser().type_id() == std::any::TypeId::of::<std::path::PathBuf>();
    for value in possible {
        found.add(value.get_name(), value.get_help().map(ToString::to_string).unwrap_or_default());
    }
}

fn cache_types(found: &mut Candidates) {
    CACHE_TYPES.iter().for_each(|ty| found.add(ty.name().to_lowercase(), ""));
}

fn profiles(names: &Names<'_>, found: &mut Candidates) {
    names.config.profiles.iter().for_each(|name| found.add(name, "profile"));
    found.add(NO_PROFILE, "no profile");
}

/// The names of models, and the GGUF files and folders of a path that is begun.
fn models(word: &str, names: &Names<'_>, found: &mut Candidates) {
    for place in names.lookup.places() {
        let label = place.label();
        let usable = place.entries().into_iter().filter(|e| e.file.is_ok());
        usable.for_each(|entry| found.add(entry.name, &label));
    }
    if cfg!(feature = "bundled") {
        found.add(BUNDLED, "the model in the binary");
    }
    paths(word, found);
}

fn paths(word: &str, found: &mut Candidates) {
    let cut = word.rfind(is_separator).map_or(0, |i| i + 1);
    let (folder, start) = word.split_at(cut);
    let home = folder::home(|name| std::env::var_os(name));
    let read = std::fs::read_dir(if folder.is_empty() {
        ".".into()
    } else {
        folder::expand(folder, home.as_deref())
    });
    let mut all: Vec<(String, &str)> = Vec::new();
    for entry in read.into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let (is_folder, hidden) = (entry.path().is_dir(), name.starts_with('.') && !start.starts_with('.'));
        if hidden || !name.starts_with(start) {
            continue;
        }
        if is_folder {
            all.push((format!("{folder}{name}{MAIN_SEPARATOR}"), "folder"));
        } else if Path::new(&name).extension() == Some(OsStr::new("gguf")) {
            all.push((format!("{folder}{name}"), "file"));
        }
    }
    all.sort();
    // At the beginning of a word every folder would be in the way of the names.
    all.retain(|(_, kind)| *kind == "file" || !word.is_empty());
    all.into_iter().for_each(|(word, kind)| found.add(word, kind));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(words: &[&str]) -> Vec<String> {
        let config = Config { profiles: vec!["coder".into(), "script".into()], ..Config::default() };
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let found = complete(&words, &Names { lookup: &Lookup::default(), config: &config });
        let files = found.files.then(|| "(files)".to_owned());
        found.words.into_iter().map(|(word, _)| word).chain(files).collect()
    }

    #[test]
    fn commands_and_options_are_completed() {
        assert_eq!(found(&["qu"]), ["quantize"]);
        assert_eq!(found(&["config", "un"]), ["unset"]);
        assert_eq!(found(&["help", "tok"]), ["tokenize"]);
        assert_eq!(found(&["--color", "never", "sh"]), ["show"]);
        assert_eq!(found(&["--repeat-p"]), ["--repeat-penalty"]);
        assert_eq!(found(&["show", "--ten"]), ["--tensors"]);
        assert_eq!(found(&["run", "--ten"]), [""; 0]);
        assert_eq!(found(&["run", "--prof"]), ["--profile"]);
        assert_eq!(found(&["completions", "z"]), ["zsh"]);
    }

    #[test]
    fn values_are_completed_wherever_they_stand() {
        assert_eq!(found(&["--think", ""]), ["show", "hide", "raw"]);
        assert_eq!(found(&["--think=h"]), ["--think=hide"]);
        assert_eq!(found(&["-ctk", "q"]), ["q8_0"]);
        assert_eq!(found(&["--profile", ""]), ["coder", "script", "none"]);
        assert_eq!(found(&["--profile=co"]), ["--profile=coder"]);
        assert_eq!(found(&["-f", ""]), ["(files)"]);
        assert_eq!(found(&["--temp", ""]), [""; 0]);
        assert_eq!(found(&["-p", "--th"]), [""; 0]);
        assert_eq!(found(&["-n5", "--thi"]), ["--think-budget", "--think"]);
        assert_eq!(found(&["config", "set", "thi"]), ["think-budget", "think"]);
        assert_eq!(found(&["config", "set", "think", "r"]), ["raw"]);
        assert_eq!(found(&["config", "set", "stats", ""]), ["true", "false"]);
        assert_eq!(found(&["config", "set", "default-profile", "s"]), ["script"]);
        assert_eq!(found(&["quantize", "a.gguf", "Q4_K_"]), ["Q4_K_M", "Q4_K_S", "(files)"]);
    }

    #[test]
    #[cfg(feature = "bundled")]
    fn models_are_completed_where_one_can_be_named() {
        for words in [
            &["-m", "tin"][..],
            &["run", "-m", "tin"],
            &["tin"],
            &["show", "tin"],
            &["bench", "-m", "tin"],
            &["perplexity", "--kl-base", "tin"],
            &["config", "set", "model", "tin"],
        ] {
            assert_eq!(found(words), ["tiny-r1"], "{words:?}");
        }
        assert_eq!(found(&["--model=tin"]), ["--model=tiny-r1"]);
        for words in [&["-m", "x", "tin"][..], &["run", "x", "tin"], &["config", "tin"], &["--", "x", "tin"]]
        {
            assert_eq!(found(words), [""; 0], "{words:?}");
        }
    }

    #[test]
    fn paths_of_models_are_completed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.gguf", "a.txt", ".a.gguf"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        std::fs::create_dir(dir.path().join("an folder")).unwrap();
        let within = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        assert_eq!(
            found(&["-m", &within("a")]),
            [within("a.gguf"), within("an folder") + &String::from(MAIN_SEPARATOR)]
        );
        assert_eq!(found(&["-m", &within(".")]), [within(".a.gguf")]);
    }
}
