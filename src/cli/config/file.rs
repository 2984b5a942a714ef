//! Reading the settings' file: TOML, settings at the top, profiles in `[profile.NAME]`.

use std::fs;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml_edit::{Document, Item, TableLike, Value};

use super::table::{Kind, RULES, Setting, Table};
use crate::cli::lookup::meant;
use crate::cli::rules;
use crate::failure::{Failure, Result};

/// The key that names the profile to use where none is asked for.
pub const DEFAULT_PROFILE: &str = "default-profile";
/// The key of the profiles.
pub const PROFILES: &str = "profile";
/// The name that asks for no profile.
pub const NO_PROFILE: &str = "none";
/// Bytes that a file has at most. One by hand has a few thousand.
const LARGEST: u64 = 1 << 20;

/// A file, checked as a whole.
#[derive(Debug)]
pub struct File {
    pub path: PathBuf,
    /// What stands outside of profiles.
    pub entries: Vec<Entry>,
    pub profiles: Vec<Profile>,
    /// The profile to use where none is asked for, and the line that says so.
    pub default_profile: Option<(String, usize)>,
}

/// Settings under a name.
#[derive(Debug)]
pub struct Profile {
    pub name: String,
    pub entries: Vec<Entry>,
}

/// A setting and what the file says that it is.
#[derive(Debug)]
pub struct Entry {
    pub key: String,
    pub words: Vec<String>,
    /// Counted from 1.
    pub line: usize,
}

/// The text of a file; `None` if there is none.
///
/// # Errors
/// If it cannot be read, is larger than a file of settings, or no UTF-8.
pub fn read(path: &Path) -> Result<Option<String>> {
    let name = path.display();
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unreadable(path, &e)),
    };
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|e| unreadable(path, &e))?;
    if bytes.len() as u64 > LARGEST {
        let what = format!("{name} is larger than 1 MiB, which is no file of settings");
        return Err(Failure::usage(what, "name another with --config, or none with --no-config"));
    }
    String::from_utf8(bytes).map(Some).map_err(|e| {
        let line = line_of_byte(e.as_bytes(), e.utf8_error().valid_up_to());
        Failure::usage(format!("{name}:{line}: this is no UTF-8"), "save the file as UTF-8")
    })
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let what = format!("cannot read the settings in {}: {error}", path.display());
    Failure::usage(what, "check the path and its permissions; --no-config goes without")
}

/// The line that a byte is in, counted from 1.
pub fn line_of_byte(text: &[u8], at: usize) -> usize {
    1 + text.iter().take(at).filter(|b| **b == b'\n').count()
}

/// Reads and checks the settings in a text.
///
/// # Errors
/// Names the line of what is wrong.
pub fn parse(path: &Path, text: &str, table: &Table, home: Option<&Path>) -> Result<File> {
    let reader = Reader { path, text, table, home };
    let document = Document::parse(text).map_err(|e| {
        let failure = reader.wrong(e.span(), e.message().replace('\n', ", "));
        let line = text.lines().nth(reader.line(e.span()) - 1).unwrap_or_default().trim_start();
        // A name and a table of the same name: the name was meant for another key.
        if line.trim_start_matches('[').starts_with(PROFILES) {
            return failure.or_hint(format!("{DEFAULT_PROFILE} = \"NAME\" is the profile to use by default"));
        }
        failure.or_hint("the file is TOML: name = value, with texts in double quotes")
    })?;
    let mut file = File { path: path.into(), entries: vec![], profiles: vec![], default_profile: None };
    for (key, item) in document.as_table().iter() {
        let at = span(document.as_table(), key, item);
        match key {
            PROFILES => file.profiles = reader.profiles(item, at)?,
            DEFAULT_PROFILE | "default_profile" => {
                let name = item.as_str().ok_or_else(|| {
                    reader
                        .wrong(at.clone(), format!("{key} is no text"))
                        .or_hint("it is the name of a profile")
                })?;
                file.default_profile = Some((name.into(), reader.line(at)));
            }
            _ => file.entries.push(reader.entry(&file.entries, key, item, at)?),
        }
    }
    if let Some((name, line)) = file.default_profile.as_ref().filter(|(n, _)| n != NO_PROFILE) {
        file.profile(name).map_err(|e| e.before(&format!("{}:{line}: ", path.display())))?;
    }
    Ok(file)
}

impl File {
    /// The profile of this name.
    ///
    /// # Errors
    /// If there is none, with those that there are.
    pub fn profile(&self, name: &str) -> Result<&Profile> {
        self.profiles.iter().find(|p| p.name == name).ok_or_else(|| {
            no_profile(name, &self.profiles.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), &self.path)
        })
    }
}

/// That there is no such profile, and which there are.
pub fn no_profile(name: &str, known: &[&str], path: &Path) -> Failure {
    let what = format!("there is no profile '{name}'");
    let hint = match meant(name, known.iter().copied()) {
        _ if known.is_empty() => format!("{} has none; [{PROFILES}.{name}] begins one", path.display()),
        Some(nearest) if known.len() > 1 => {
            format!("nearest is {nearest}; {} has {}", path.display(), known.join(", "))
        }
        _ => format!("{} has {}", path.display(), known.join(", ")),
    };
    Failure::usage(what, hint)
}

/// Where a key and its value stand.
fn span(table: &dyn TableLike, key: &str, item: &Item) -> Option<Range<usize>> {
    table.key(key).and_then(toml_edit::Key::span).or_else(|| item.span())
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    table: &'a Table,
    home: Option<&'a Path>,
}

impl Reader<'_> {
    fn line(&self, at: Option<Range<usize>>) -> usize {
        line_of_byte(self.text.as_bytes(), at.map_or(0, |at| at.start))
    }

    fn wrong(&self, at: Option<Range<usize>>, what: impl AsRef<str>) -> Failure {
        Failure::new(format!("{}:{}: {}", self.path.display(), self.line(at), what.as_ref())).into_usage()
    }

    fn profiles(&self, item: &Item, at: Option<Range<usize>>) -> Result<Vec<Profile>> {
        let not_tables = |at, what: String| {
            Err(self.wrong(at, what).or_hint(format!(
                "[{PROFILES}.NAME] begins one; {DEFAULT_PROFILE} = \"NAME\" is the one to use by default"
            )))
        };
        let Some(tables) = item.as_table_like() else {
            return not_tables(at, format!("{PROFILES} is no table of profiles"));
        };
        let mut profiles = Vec::new();
        for (name, item) in tables.iter() {
            let at = span(tables, name, item);
            let Some(table) = item.as_table_like() else {
                return not_tables(at, format!("the profile {name} is no table"));
            };
            if name == NO_PROFILE || name.is_empty() {
                let what = format!("no profile can be called '{name}'");
                let hint = format!("call it something else: '--profile {NO_PROFILE}' asks for none");
                return Err(self.wrong(at, what).or_hint(hint));
            }
            let mut entries = Vec::new();
            for (key, item) in table.iter() {
                let at = span(table, key, item);
                entries.push(self.entry(&entries, key, item, at)?);
            }
            profiles.push(Profile { name: name.to_owned(), entries });
        }
        Ok(profiles)
    }

    /// A setting, whose name and value are checked.
    fn entry(&self, before: &[Entry], key: &str, item: &Item, at: Option<Range<usize>>) -> Result<Entry> {
        let line = self.line(at.clone());
        let here = |e: Failure| e.before(&format!("{}:{line}: ", self.path.display()));
        let setting = self.table.find(key).map_err(here)?;
        if let Some(other) = before.iter().find(|e| e.key == setting.key) {
            let what = format!("{} is set a second time, after line {}", setting.key, other.line);
            return Err(self.wrong(at, what).or_hint("leave one of them out"));
        }
        let words = words(setting, key, item).map_err(|hint| {
            let what = format!("{key} is {}", kind_of(item));
            self.wrong(at, what).or_hint(hint)
        })?;
        setting.check(&words).map_err(here)?;
        Ok(Entry { key: setting.key.clone(), words: self.expanded(setting, words), line })
    }

    /// Paths as they are meant in a file: `~` is the home folder, and all but models are relative to the file's folder.
    fn expanded(&self, setting: &Setting, words: Vec<String>) -> Vec<String> {
        let (key, kind) = (setting.key.as_str(), setting.kind);
        let file = RULES.contains(&key) && !words.iter().any(|w| rules::is_text(w, key == RULES[0]));
        let beside = self.path.parent().unwrap_or(Path::new(""));
        let path = |word: String| {
            let path = super::folder::expand(&word, self.home);
            let path = if kind == Kind::Model { path } else { beside.join(path) };
            path.into_os_string().into_string().unwrap_or(word)
        };
        if file || matches!(kind, Kind::Model | Kind::Folders) {
            words.into_iter().map(path).collect()
        } else {
            words
        }
    }
}

/// What a value says, as words; or what it should be.
fn words(setting: &Setting, key: &str, item: &Item) -> Result<Vec<String>, String> {
    let value = item.as_value().ok_or("it is no table, but a setting")?;
    let several = || -> Option<Vec<String>> {
        let array = value.as_array()?.iter();
        array.map(|v| v.as_str().filter(|s| !s.is_empty()).map(str::to_owned)).collect()
    };
    let text = |v: &Value| v.as_str().map(|s| vec![s.to_owned()]);
    match setting.kind {
        Kind::Flag { .. } => {
            let on = value.as_bool().ok_or("it can be true or false")?;
            setting.words(key, &[on.to_string()]).map_err(|_| "it can be true or false".into())
        }
        Kind::Count => {
            let n = value.as_integer().or_else(|| value.as_bool().map(i64::from));
            n.filter(|n| (0..=3).contains(n)).map(|n| vec![n.to_string()]).ok_or("it can be 0 to 3".into())
        }
        Kind::Model => {
            text(value).filter(|w| !w[0].is_empty()).ok_or("it is the name of a model, in quotes".into())
        }
        Kind::Folders => {
            let one = || text(value).filter(|w| !w[0].is_empty());
            several().or_else(one).ok_or("it is a list of folders: [\"~/models\"]".into())
        }
        Kind::Many => several().or_else(|| text(value)).ok_or("it is a list of texts: [\"a\", \"b\"]".into()),
        Kind::One => match value {
            Value::String(s) => Ok(vec![s.value().clone()]),
            Value::Integer(n) => Ok(vec![n.value().to_string()]),
            Value::Float(x) => Ok(vec![x.value().to_string()]),
            _ => Err("it is a number, or a text in double quotes".into()),
        },
    }
}

fn kind_of(item: &Item) -> &'static str {
    match item {
        Item::Value(Value::Boolean(v)) if *v.value() => "true",
        Item::Value(Value::Boolean(_)) => "false",
        Item::Value(Value::String(_)) => "a text",
        Item::Value(Value::Integer(_)) => "a whole number",
        Item::Value(Value::Float(_)) => "a number",
        Item::Value(Value::Datetime(_)) => "a date",
        Item::Value(Value::Array(_)) => "a list",
        _ => "a table",
    }
}

/// A value for the file: a number where it is one and the setting takes numbers.
pub fn value(setting: &Setting, words: &[String]) -> Value {
    let word = words.first().map(String::as_str).unwrap_or_default();
    match setting.kind {
        Kind::Flag { .. } => (word == "true").into(),
        Kind::Folders | Kind::Many => words.iter().map(String::as_str).collect::<toml_edit::Array>().into(),
        Kind::Model => word.into(),
        Kind::Count | Kind::One => match (word.parse::<i64>(), word.parse::<f64>()) {
            // What is written back must read the same: 007 stays a text.
            (Ok(n), _) if n.to_string() == word && !setting.is_text => n.into(),
            (_, Ok(x)) if x.is_finite() && !setting.is_text => x.into(),
            _ => word.into(),
        },
    }
}

/// The same as JSON.
pub fn json(setting: &Setting, words: &[String]) -> serde_json::Value {
    match value(setting, words) {
        Value::Boolean(v) => (*v.value()).into(),
        Value::Integer(v) => (*v.value()).into(),
        Value::Float(v) => (*v.value()).into(),
        Value::Array(_) => words.into(),
        _ => words.first().map(String::as_str).unwrap_or_default().into(),
    }
}
