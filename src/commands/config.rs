//! `fathom config`: what is set and by whom, and the file with settings.

use std::fmt::Write;
use std::path::Path;

use models::model::SamplingDefaults;
use models::sampler::SamplerOptions;
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use crate::cli::args::{ConfigAction, ConfigCommand, GlobalArgs};
use crate::cli::config::edit::Edit;
use crate::cli::config::file::DEFAULT_PROFILE;
use crate::cli::config::table::{Kind, RULES, Setting, Table};
use crate::cli::config::{self, Config, Origin, file, folder, template};
use crate::cli::lookup::Lookup;
use crate::cli::settings;
use crate::failure::{Failure, Outcome, Result};
use crate::term::color::{Colors, DIMMED, STRONG};
use crate::term::{log, outside};
use crate::{model, streams};

/// Columns that a value gets before it is cut.
const WIDEST: usize = 48;

/// All that is printed. docs/json.md describes the fields.
#[derive(Serialize)]
struct Everything<'a> {
    file: Option<String>,
    profile: Option<&'a str>,
    profiles: &'a [String],
    settings: Vec<Shown>,
}

/// A setting as it is printed.
#[derive(Serialize)]
struct Shown {
    name: String,
    value: serde_json::Value,
    from: From,
    /// The option, variable or profile that sets it.
    by: Option<String>,
    file: Option<String>,
    line: Option<usize>,
}

/// Where a value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum From {
    Flag,
    Environment,
    Profile,
    File,
    Model,
    Default,
}

/// Prints or changes settings.
///
/// # Errors
/// If there is no such setting, or the file cannot be read or written.
pub fn config(
    args: &ConfigCommand,
    global: &GlobalArgs,
    config: &Config,
    lookup: &Lookup,
    colors: Colors,
) -> Result<Outcome> {
    let table = Table::new();
    match &args.action {
        None => print(args, &table, config, lookup, colors)?,
        Some(ConfigAction::Path) => streams::print(&format!("{}\n", path(config)?.display()))?,
        Some(ConfigAction::Get { key }) => get(key, args, &table, config, lookup)?,
        Some(ConfigAction::Edit) => edit(path(config)?, &table)?,
        Some(ConfigAction::Set { key, value }) => {
            let (profile, key) = place(global, key);
            let mut file = Edit::open(path(config)?, &table)?;
            let line = file.set(profile, key, &anchored(&table, key, value))?;
            file.save()?;
            log::note(&format!("{}: {}{line}", folder::shown(path(config)?), within(profile)));
            after(path(config)?, &table, key);
        }
        Some(ConfigAction::Unset { key }) => {
            let (profile, key) = place(global, key);
            let mut file = Edit::open(path(config)?, &table)?;
            if file.unset(profile, key)? {
                file.save()?;
                log::note(&format!("{}: {}{key} is out", folder::shown(path(config)?), within(profile)));
            } else {
                log::note(&format!(
                    "{}: {}{key} was not there",
                    folder::shown(path(config)?),
                    within(profile)
                ));
            }
            after(path(config)?, &table, key);
        }
    }
    Ok(Outcome::Done)
}

fn path(config: &Config) -> Result<&Path> {
    config.path.as_deref().ok_or_else(|| {
        Failure::usage(
            "there is no place for a file with settings",
            "name one with --config FILE, or leave out --no-config and FATHOM_NO_CONFIG",
        )
    })
}

/// The profile and the key in `--profile coder temp` and in `profile.coder.temp`.
fn place<'a>(global: &'a GlobalArgs, key: &'a str) -> (Option<&'a str>, &'a str) {
    let dotted = key.strip_prefix("profile.").and_then(|rest| rest.rsplit_once('.'));
    match dotted {
        Some((profile, key)) => (Some(profile), key),
        None => (global.profile.as_deref(), key),
    }
}

/// Paths as they are meant where they are typed, which is not where the file is.
fn anchored(table: &Table, key: &str, words: &[String]) -> Vec<String> {
    let Ok(setting) = table.find(key) else { return words.to_vec() };
    let is_path = |word: &str| match setting.kind {
        Kind::Folders => !word.starts_with('~'),
        _ if setting.kind == Kind::Model || RULES.contains(&setting.key.as_str()) => Path::new(word).exists(),
        _ => false,
    };
    let absolute = |word: &String| std::path::absolute(word).ok()?.into_os_string().into_string().ok();
    let anchored = |word: &String| absolute(word).filter(|_| is_path(word)).unwrap_or_else(|| word.clone());
    words.iter().map(anchored).collect()
}

fn within(profile: Option<&str>) -> String {
    profile.map_or(String::new(), |name| format!("[profile.{name}] "))
}

/// Says what keeps a change from having an effect.
fn after(path: &Path, table: &Table, key: &str) {
    let variables = table.find(key).into_iter().flat_map(Setting::variables);
    if let Some((_, variable)) =
        variables.into_iter().find(|(_, v)| std::env::var_os(v).is_some_and(|v| !v.is_empty()))
    {
        log::note(&format!("{variable} is set in the environment, and counts before the file"));
    }
    if let Err(failure) = check(path, table) {
        ::log::warn!("{}", failure.message().unwrap_or_default());
    }
}

fn check(path: &Path, table: &Table) -> Result<()> {
    let home = folder::home(|name| std::env::var_os(name));
    let text = file::read(path)?.unwrap_or_default();
    file::parse(path, &text, table, home.as_deref()).map(drop)
}

fn edit(path: &Path, table: &Table) -> Result<()> {
    if !path.exists() {
        let folder = path.parent().filter(|f| !f.as_os_str().is_empty());
        let made = folder.map_or(Ok(()), std::fs::create_dir_all);
        made.and_then(|()| std::fs::write(path, template::text(table))).map_err(|e| {
            let what = format!("cannot write {}: {e}", path.display());
            Failure::new(what).or_hint("check the permissions and the space on its disk")
        })?;
    }
    outside::edit(path)?;
    check(path, table)
}

fn get(key: &str, args: &ConfigCommand, table: &Table, config: &Config, lookup: &Lookup) -> Result<()> {
    if key.replace('_', "-") == DEFAULT_PROFILE || key == "profile" {
        let name = config.profile.as_ref().map_or("none", |(name, _)| name);
        return streams::print(&format!("{name}\n"));
    }
    let setting = table.find(key)?;
    let model = Suggested::new(args, lookup);
    let line = match &Shown::new(setting, config, &model).value {
        serde_json::Value::Null => return streams::print("\n"),
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(all) => {
            let all: Vec<&str> = all.iter().filter_map(|v| v.as_str()).collect();
            all.join("\n")
        }
        other => other.to_string(),
    };
    streams::print(&format!("{line}\n"))
}

fn print(
    args: &ConfigCommand,
    table: &Table,
    config: &Config,
    lookup: &Lookup,
    colors: Colors,
) -> Result<()> {
    let model = Suggested::new(args, lookup);
    let seen = |s: &&Setting| !s.hidden || config.get(&s.key).is_some();
    let all: Vec<Shown> = table.iter().filter(seen).map(|s| Shown::new(s, config, &model)).collect();
    if args.json {
        let profile = config.profile.as_ref().map(|(name, _)| name.as_str());
        let file = config.path.as_ref().filter(|_| config.exists).map(|p| p.display().to_string());
        let all = Everything { file, profile, profiles: &config.profiles, settings: all };
        return streams::print(&(serde_json::to_string_pretty(&all)? + "\n"));
    }
    let mut text = String::new();
    heading(&mut text, config);
    for shown in &all {
        shown.line(&mut text);
    }
    use std::io::Write as _;
    let mut out = colors.styled_stdout();
    streams::written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))?;
    if let Some(problem) = &model.problem {
        log::note(&format!("what the model suggests is not known: {problem}"));
    }
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for (name, nearest) in config::unknown_variables(table, names) {
        log::note(&format!("{name} sets nothing; nearest is {nearest}"));
    }
    Ok(())
}

fn heading(out: &mut String, config: &Config) {
    let file = match &config.path {
        None => "none".into(),
        Some(path) if config.exists => folder::shown(path),
        Some(path) => format!("none yet: {}", folder::shown(path)),
    };
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{STRONG}{:<17}{STRONG:#}  {}", "file", streams::harmless(&file));
    let mut profile = "none".to_owned();
    if let Some((name, origin)) = &config.profile {
        profile = format!("{name} ({})", origin_text(origin));
    }
    let others = config.profiles.iter().filter(|n| config.profile.as_ref().is_none_or(|(p, _)| p != *n));
    let others: Vec<&str> = others.map(String::as_str).collect();
    if !others.is_empty() {
        let _ =
            write!(profile, "; there {} {}", if others.len() == 1 { "is" } else { "are" }, others.join(", "));
    }
    let _ = writeln!(out, "{STRONG}{:<17}{STRONG:#}  {}\n", "profile", streams::harmless(&profile));
}

fn origin_text(origin: &Origin) -> String {
    match origin {
        Origin::Line { line, profile, .. } => {
            let profile = profile.as_ref().map_or(String::new(), |name| format!("profile {name}, "));
            format!("{profile}line {line}")
        }
        other => other.to_string(),
    }
}

/// What the model has to say.
struct Suggested {
    sampling: SamplingDefaults,
    /// Why nothing is known of it.
    problem: Option<String>,
}

impl Suggested {
    fn new(args: &ConfigCommand, lookup: &Lookup) -> Self {
        let source = settings::choose_only(&args.model, None, lookup);
        match source.and_then(|source| model::open(&source)) {
            Ok(gguf) => Suggested { sampling: SamplingDefaults::of(gguf.metadata()), problem: None },
            Err(e) => {
                let problem = e.message().map(str::to_owned);
                Suggested { sampling: SamplingDefaults::default(), problem }
            }
        }
    }

    /// A number for sampling, and whether it is the model's.
    fn number(&self, key: &str) -> Option<(serde_json::Value, From)> {
        let r1 = SamplerOptions::default();
        let pick = |model: Option<f32>, r1: f32| match model {
            Some(x) => (short(x), From::Model),
            None => (short(r1), From::Default),
        };
        Some(match key {
            "temp" => pick(self.sampling.temperature, r1.temperature),
            "top-p" => pick(self.sampling.top_p, r1.top_p),
            "min-p" => pick(self.sampling.min_p, r1.min_p),
            "top-k" => match self.sampling.top_k {
                Some(k) => (k.into(), From::Model),
                None => (r1.top_k.into(), From::Default),
            },
            "repeat-penalty" => pick(None, r1.repeat_penalty),
            "repeat-last-n" => (r1.repeat_last_n.into(), From::Default),
            "presence-penalty" => pick(None, r1.presence_penalty),
            "frequency-penalty" => pick(None, r1.frequency_penalty),
            _ => return None,
        })
    }
}

/// A number with as many digits as it was written with.
fn short(x: f32) -> serde_json::Value {
    x.to_string().parse::<f64>().unwrap_or(f64::from(x)).into()
}

/// What a setting is where nobody sets it, in words, if that is no value of it.
fn in_words(key: &str) -> &'static str {
    match key {
        "model" if cfg!(feature = "bundled") => "tiny-r1, in the binary",
        "ctx-size" => "as much as fits",
        "threads" => "one per core",
        "threads-batch" => "as --threads",
        "seed" => "a new one each time",
        "think-budget" => "no limit",
        "ubatch-size" => "512",
        "cache-type-k" | "cache-type-v" => "f16; f32 for F32 files",
        "think" => "show on a terminal",
        _ => "-",
    }
}

impl Shown {
    fn new(setting: &Setting, config: &Config, model: &Suggested) -> Self {
        let name = setting.key.clone();
        if let Some(value) = config.get(&setting.key) {
            let (from, by, file, line) = match &value.origin {
                Origin::Flag(name) => (From::Flag, Some(name.clone()), None, None),
                Origin::Variable(name) => (From::Environment, Some(name.clone()), None, None),
                Origin::Line { path, line, profile } => {
                    let from = if profile.is_some() { From::Profile } else { From::File };
                    (from, profile.clone(), Some(path.display().to_string()), Some(*line))
                }
            };
            return Shown { name, value: file::json(setting, &value.words), from, by, file, line };
        }
        let (value, from) = model.number(&setting.key).unwrap_or_else(|| {
            let default = setting.unset().map(|word| file::json(setting, &[word]));
            (default.unwrap_or_default(), From::Default)
        });
        Shown { name, value, from, by: None, file: None, line: None }
    }

    fn line(&self, out: &mut String) {
        let value = match &self.value {
            serde_json::Value::Null => in_words(&self.name).to_owned(),
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Array(all) => {
                let all: Vec<&str> = all.iter().filter_map(|v| v.as_str()).collect();
                all.join(", ")
            }
            other => other.to_string(),
        };
        let value = cut(&streams::harmless(&value.replace('\n', " ")), WIDEST);
        // Its folder stands in the heading.
        let file = || {
            let name = self.file.as_deref().and_then(|f| Path::new(f).file_name()).unwrap_or_default();
            format!("{}:{}", name.display(), self.line.unwrap_or(0))
        };
        let from = match (self.from, &self.by) {
            (From::Default, _) => "default".into(),
            (From::Model, _) => "the model's file".into(),
            (From::Profile, Some(name)) => format!("profile {name}, {}", file()),
            (From::File | From::Profile, _) => file(),
            (From::Flag | From::Environment, by) => by.clone().unwrap_or_default(),
        };
        let from = streams::harmless(&from);
        let pad = " ".repeat(24_usize.saturating_sub(value.width()));
        let name = &self.name;
        // Writing to a string cannot fail.
        let _ = if self.from == From::Default {
            writeln!(out, "{DIMMED}{name:<17}  {value}{pad}  {from}{DIMMED:#}")
        } else {
            writeln!(out, "{STRONG}{name:<17}{STRONG:#}  {value}{pad}  {from}")
        };
    }
}

/// A text that takes at most so many columns.
fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut short = text.to_owned();
    while short.width() >= columns {
        short.pop();
    }
    short + "…"
}
