//! What the tab key completes: commands, names of settings and their values, names of files.

use std::path::{MAIN_SEPARATOR, is_separator};

use rustyline::completion::{Completer, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

use super::slash::{COMMANDS, OTHER_NAMES, Takes, entry, expand};
use crate::cli::settings::SAMPLING_NAMES;

/// The part of the editor that is ours.
pub struct Completion;

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        Ok(complete(line.get(..at).unwrap_or(line)))
    }
}

impl Helper for Completion {}
impl Highlighter for Completion {}
impl Validator for Completion {}

impl Hinter for Completion {
    type Hint = String;
}

/// What can stand in place of the last word, which begins at the index.
pub fn complete(line: &str) -> (usize, Vec<Pair>) {
    let Some((name, rest)) =
        line.strip_prefix('/').map(|l| l.split_once(' ').map_or((l, None), |(n, r)| (n, Some(r))))
    else {
        return (line.len(), vec![]);
    };
    let Some(rest) = rest else {
        let names = COMMANDS.iter().flat_map(|e| e.names.iter().map(move |n| (n, e.takes)));
        let space = |takes| if takes == Takes::Nothing { "" } else { " " };
        return (1, pairs(name, names.map(|(n, takes)| format!("{n}{}", space(takes)))));
    };
    match entry(name).map(|e| e.takes) {
        Some(Takes::Setting) => setting(line, rest),
        Some(Takes::File) => files(line, rest.trim_start()),
        _ => (line.len(), vec![]),
    }
}

fn setting(line: &str, rest: &str) -> (usize, Vec<Pair>) {
    let word = rest.rsplit(' ').next().unwrap_or_default();
    let before = rest[..rest.len() - word.len()].trim();
    let at = line.len() - word.len();
    let values = |values: &[&str]| pairs(word, values.iter().map(|v| (*v).to_owned()));
    let names = SAMPLING_NAMES.iter().chain(&OTHER_NAMES).chain(&["parameter"]);
    let found = match before {
        "" => pairs(word, names.map(|n| format!("{n} "))),
        "parameter" => pairs(word, SAMPLING_NAMES.iter().map(|n| format!("{n} "))),
        "think" => values(&["show", "hide", "raw"]),
        "style" => values(&["on", "off"]),
        _ => vec![],
    };
    (at, found)
}

/// Names of files that begin as the path does. Hidden ones only if that is asked for.
fn files(line: &str, typed: &str) -> (usize, Vec<Pair>) {
    let cut = typed.rfind(is_separator).map_or(0, |i| i + 1);
    let (folder, start) = typed.split_at(cut);
    let read = std::fs::read_dir(if folder.is_empty() { ".".into() } else { expand(folder) });
    let name = |file: std::fs::DirEntry| {
        let mut name = file.file_name().into_string().ok()?;
        // A link to a folder is one.
        if file.path().is_dir() {
            name.push(MAIN_SEPARATOR);
        }
        let hidden = name.starts_with('.') && !start.starts_with('.');
        // What would steer the terminal is not shown.
        (!hidden && !name.chars().any(char::is_control)).then_some(name)
    };
    let mut names: Vec<String> = read.into_iter().flatten().flatten().filter_map(name).collect();
    names.sort();
    (line.len() - start.len(), pairs(start, names.into_iter()))
}

/// Those that begin with `start`.
fn pairs(start: &str, names: impl Iterator<Item = String>) -> Vec<Pair> {
    let pair = |n: String| Pair { display: n.trim_end().to_owned(), replacement: n };
    names.filter(|n| n.starts_with(start)).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str) -> (usize, Vec<String>) {
        let (at, pairs) = complete(line);
        (at, pairs.into_iter().map(|p| p.replacement).collect())
    }

    #[test]
    fn commands_and_settings_are_completed() {
        assert_eq!(found("/co"), (1, vec!["context".into(), "continue".into()]));
        assert_eq!(found("/sa"), (1, vec!["save ".into()]));
        assert_eq!(found("/").1.len(), COMMANDS.iter().map(|e| e.names.len()).sum::<usize>());
        assert_eq!(found("/set te"), (5, vec!["temp ".into()]));
        assert_eq!(found("/set parameter min"), (15, vec!["min-p ".into()]));
        assert_eq!(found("/set think "), (11, vec!["show".into(), "hide".into(), "raw".into()]));
        assert_eq!(found("/set temp 0").1, [""; 0]);
        assert_eq!(found("hello /s").1, [""; 0]);
        assert_eq!(found("/nothing x").1, [""; 0]);
    }

    #[test]
    fn files_are_completed_with_spaces_and_folders() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("my notes.txt"), "").unwrap();
        std::fs::write(dir.path().join(".hidden"), "").unwrap();
        std::fs::create_dir(dir.path().join("my folder")).unwrap();
        let line = format!("/read {}/my", dir.path().display());
        let folder = format!("my folder{MAIN_SEPARATOR}");
        assert_eq!(found(&line), (line.len() - 2, vec![folder, "my notes.txt".into()]));
        assert_eq!(found(&format!("/load {}/", dir.path().display())).1.len(), 2);
        assert_eq!(found(&format!("/load {}/.", dir.path().display())).1, [".hidden"]);
        assert_eq!(found("/save /no such folder/x").1, [""; 0]);
    }
}
