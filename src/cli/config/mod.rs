//! Settings from all their sources. Each is taken from the first that has it: an option, the environment, the profile, the
//! file outside of profiles.
//!
//! What does not come from an option is put among the arguments and goes the same way from there, so that a value means the
//! same and is checked the same wherever it comes from.

pub mod edit;
pub mod file;
pub mod folder;
pub mod table;
pub mod template;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::ArgMatches;

use self::file::{Entry, File, NO_PROFILE};
use self::table::{Kind, Setting, Table};
use super::args::GlobalArgs;
use super::lookup;
use crate::failure::{Failure, Result};

/// The environment.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Who says what a setting is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An option.
    Flag(String),
    /// A variable of the environment.
    Variable(String),
    /// A line of a file, in a profile or not.
    Line { path: PathBuf, line: usize, profile: Option<String> },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(name) | Origin::Variable(name) => f.write_str(name),
            Origin::Line { path, line, profile } => {
                if let Some(profile) = profile {
                    write!(f, "profile {profile}, ")?;
                }
                write!(f, "{}:{line}", path.display())
            }
        }
    }
}

/// A setting that somebody has set.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its key in the table.
    pub key: String,
    pub words: Vec<String>,
    pub origin: Origin,
}

/// What is set, and by whom.
#[derive(Debug, Default)]
pub struct Config {
    /// Where the file is, or would be.
    pub path: Option<PathBuf>,
    /// Whether there is one.
    pub exists: bool,
    /// The profile in use, and who asked for it.
    pub profile: Option<(String, Origin)>,
    /// The names of all profiles.
    pub profiles: Vec<String>,
    /// Settings of a profile that was asked for by an option, and the variables that count before them.
    pub shadowed: Vec<(String, String)>,
    pub values: Vec<Value>,
}

/// Settings that change what is measured. A measurement takes them from its own options and from the environment alone.
const MEASURED: [&str; 6] = ["ctx-size", "batch-size", "ubatch-size", "cache-type-k", "cache-type-v", "mla"];
/// Settings of which there can be one only.
const RIVALS: [&str; 3] = ["json-schema", "grammar", "ignore-eos"];
/// Commands that measure.
const MEASUREMENTS: [&str; 4] = ["bench", "perplexity", "logits", "imatrix"];

/// Where settings come from for a command.
pub struct Sources<'a> {
    /// The command's name.
    pub command: &'a str,
    /// What is typed.
    pub given: &'a ArgMatches,
    pub env: Env<'a>,
    pub global: &'a GlobalArgs,
}

/// The path of the settings' file, and whether somebody named it.
pub fn path(global: &GlobalArgs, env: Env<'_>) -> Option<(PathBuf, bool)> {
    if global.no_config {
        return None;
    }
    let var = |name| env(name).filter(|v| !v.is_empty());
    let named = global.config.clone();
    let named = named.or_else(|| {
        let off = var("FATHOM_NO_CONFIG").is_some_and(|v| v != "0" && v != "false");
        if off { Some(PathBuf::new()) } else { var("FATHOM_CONFIG").map(PathBuf::from) }
    });
    match named {
        Some(path) if path.as_os_str().is_empty() => None,
        Some(path) => Some((path, true)),
        None => folder::folder(env).map(|folder| (folder.join("config.toml"), false)),
    }
}

impl Config {
    /// Reads the file and finds out who sets what.
    ///
    /// # Errors
    /// If the file is wrong in any place, a value in the environment is, or there is no profile of the name.
    pub fn new(table: &Table, sources: &Sources<'_>) -> Result<Self> {
        let path = path(sources.global, sources.env);
        let file = match &path {
            Some((path, named)) => open(path, *named, table, sources.env)?,
            None => None,
        };
        let profile = profile(sources, file.as_ref())?;
        let mut layers = Vec::new();
        if let Some(file) = &file {
            if let Some((name, _)) = &profile {
                layers.push((file.profile(name)?.entries.as_slice(), Some(name.as_str())));
            }
            layers.push((&file.entries, None));
        }
        let mut values = Vec::new();
        let from = path.as_ref().map(|(path, _)| path.as_path());
        for setting in table.iter() {
            values.extend(sources.value(setting, from, &layers)?);
        }
        let mut shadowed = Vec::new();
        if let Some((_, Origin::Flag(_))) = &profile {
            let entries = layers.first().map_or(&[][..], |(entries, _)| *entries);
            shadowed.extend(values.iter().filter_map(|value: &Value| match &value.origin {
                Origin::Variable(name) if entries.iter().any(|e| e.key == value.key) => {
                    Some((value.key.clone(), name.clone()))
                }
                _ => None,
            }));
        }
        Ok(Config {
            shadowed,
            exists: file.is_some(),
            profiles: file.iter().flat_map(|f| &f.profiles).map(|p| p.name.clone()).collect(),
            path: path.map(|(path, _)| path),
            profile,
            values,
        })
    }

    /// What a setting is set to, by its key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.iter().find(|v| v.key == key)
    }

    /// Whether a setting is contradicted by one that counts before it.
    fn has_rival(&self, value: &Value) -> bool {
        let rank = |v: &Value| match &v.origin {
            Origin::Flag(_) => 0,
            Origin::Variable(_) => 1,
            Origin::Line { profile: Some(_), .. } => 2,
            Origin::Line { profile: None, .. } => 3,
        };
        let is_rival = |other: &Value| {
            RIVALS.contains(&other.key.as_str()) && other.words != ["false"] && rank(other) < rank(value)
        };
        RIVALS.contains(&value.key.as_str()) && self.values.iter().any(is_rival)
    }

    /// The arguments for everything that is not among them already, as far as the command takes it.
    pub fn additions(&self, table: &Table, sources: &Sources<'_>) -> Vec<OsString> {
        let given = sources.given;
        let typed = |id: &str| {
            given.try_contains_id(id).is_ok()
                && given.value_source(id) == Some(clap::parser::ValueSource::CommandLine)
        };
        let whole = ["raw", "tokens", "messages"].iter().any(|id| typed(id));
        let added = self.values.iter().filter(|v| !matches!(v.origin, Origin::Flag(_))).filter(|v| {
            match v.key.as_str() {
                // What is typed is the whole prompt.
                "system-prompt" => !whole,
                "format" => sources.command != "chat",
                _ => !self.has_rival(v),
            }
        });
        let arguments = added.filter_map(|v| {
            let setting = table.find(&v.key).ok()?;
            let taken = given.try_contains_id(&setting.id).is_ok();
            taken.then(|| setting.arguments(&v.words))
        });
        arguments.flatten().collect()
    }
}

fn open(path: &Path, named: bool, table: &Table, env: Env<'_>) -> Result<Option<File>> {
    // Opening a pipe would wait for its other end; one that is named is meant.
    if !named && !path.is_file() && !path.is_dir() {
        return Ok(None);
    }
    match file::read(path)? {
        Some(text) => file::parse(path, &text, table, folder::home(env).as_deref()).map(Some),
        None if named => {
            let what = format!("there is no file {} for the settings", path.display());
            Err(Failure::usage(what, "check --config or FATHOM_CONFIG; --no-config goes without"))
        }
        None => Ok(None),
    }
}

/// The profile to use: the one that is asked for, else the file's own choice.
fn profile(sources: &Sources<'_>, file: Option<&File>) -> Result<Option<(String, Origin)>> {
    let variable = "FATHOM_PROFILE";
    let typed = sources.global.profile.clone().map(|name| (name, Origin::Flag("--profile".into())));
    let asked = typed.or_else(|| {
        let name = (sources.env)(variable).filter(|v| !v.is_empty())?;
        Some((name.to_string_lossy().into_owned(), Origin::Variable(variable.into())))
    });
    let Some((name, origin)) = asked else {
        let default = file.and_then(|f| Some((f, f.default_profile.clone()?)));
        return Ok(default.filter(|(_, (name, _))| name != NO_PROFILE).map(|(file, (name, line))| {
            (name, Origin::Line { path: file.path.clone(), line, profile: None })
        }));
    };
    if name == NO_PROFILE {
        return Ok(None);
    }
    let Some(file) = file else {
        let what = format!("there is no profile '{name}', for there is no file of settings");
        return Err(Failure::usage(what, "'fathom config edit' begins one, 'fathom config path' says where"));
    };
    let blame = |e: Failure| match &origin {
        Origin::Variable(name) => e.and_hint(&format!("it comes from {name}")),
        _ => e,
    };
    file.profile(&name).map_err(blame)?;
    Ok(Some((name, origin)))
}

impl Sources<'_> {
    /// What a setting is, by the first source that says so.
    fn value(
        &self,
        setting: &Setting,
        path: Option<&Path>,
        layers: &[(&[Entry], Option<&str>)],
    ) -> Result<Option<Value>> {
        let value = |words, origin| Ok(Some(Value { key: setting.key.clone(), words, origin }));
        if setting.is_typed(self.given) {
            let flag = if setting.kind == Kind::Model { "-m".into() } else { format!("--{}", setting.long) };
            return value(self.typed(setting), Origin::Flag(flag));
        }
        for (name, variable) in setting.variables() {
            let Some(text) = (self.env)(&variable).filter(|v| !v.is_empty()) else { continue };
            let words = match setting.kind {
                // A list of paths, which may be of any bytes, is the lookup's to read.
                Kind::Folders | Kind::Model => vec![text.to_string_lossy().into_owned()],
                _ => {
                    let wrong =
                        |hint: &str| Failure::usage(format!("{variable} is '{}'", text.display()), hint);
                    let word = text.to_str().ok_or_else(|| wrong("it is to be UTF-8"))?;
                    let words = setting.words(name, &[word.to_owned()]);
                    let checked = words.and_then(|words| setting.check(&words).map(|()| words));
                    checked.map_err(|e| wrong(e.hint().unwrap_or_default()))?
                }
            };
            return value(words, Origin::Variable(variable));
        }
        let Some(path) = path.filter(|_| !self.leaves_out(&setting.key)) else { return Ok(None) };
        for (entries, profile) in layers {
            if let Some(entry) = entries.iter().find(|e| e.key == setting.key) {
                let profile = profile.map(str::to_owned);
                let origin = Origin::Line { path: path.into(), line: entry.line, profile };
                return value(entry.words.clone(), origin);
            }
        }
        Ok(None)
    }

    /// Whether the file does not count for a setting.
    fn leaves_out(&self, key: &str) -> bool {
        MEASUREMENTS.contains(&self.command) && MEASURED.contains(&key)
    }

    /// What is typed for a setting that is.
    fn typed(&self, setting: &Setting) -> Vec<String> {
        let on = |id: &str| {
            self.given.try_contains_id(id).is_ok()
                && self.given.value_source(id) == Some(clap::parser::ValueSource::CommandLine)
        };
        match setting.kind {
            Kind::Flag { negated } => vec![(on(&setting.id) != negated).to_string()],
            Kind::Count => vec![self.given.get_count(&setting.id).to_string()],
            _ => {
                let raw = self.given.get_raw(&setting.id).into_iter().flatten();
                raw.map(|word| word.to_string_lossy().into_owned()).collect()
            }
        }
    }
}

/// Variables that set what is no option.
const OTHERS: [&str; 6] = [
    lookup::FOLDERS,
    "FATHOM_CONFIG",
    "FATHOM_NO_CONFIG",
    "FATHOM_PROFILE",
    "FATHOM_CPU",
    "FATHOM_CUDA_DRIVER",
];

/// Variables that begin with `FATHOM_` and set nothing, each with the nearest that would.
pub fn unknown_variables(table: &Table, names: impl Iterator<Item = String>) -> Vec<(String, String)> {
    let mut known: Vec<String> = table.iter().flat_map(|s| s.variables().map(|(_, v)| v)).collect();
    known.extend(OTHERS.map(str::to_owned));
    let unknown = names.filter(|n| n.starts_with("FATHOM_") && !known.contains(n));
    let nearest = |n: &str| known.iter().min_by_key(|k| lookup::distance(k, n)).cloned().unwrap_or_default();
    unknown.map(|n| (nearest(&n), n)).map(|(nearest, n)| (n, nearest)).collect()
}

#[cfg(test)]
mod tests;
