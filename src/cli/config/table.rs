//! The table of settings, made from the definitions of the options: what the command line, the environment, the file and
//! `fathom config` can set, and under which names.

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};

use crate::cli::args::{DisplayArgs, EngineArgs, GenerationArgs, GlobalArgs, ModelArgs};
use crate::cli::lookup::meant;
use crate::cli::rewrite::LONG_NAMES;
use crate::cli::settings::{EngineSettings, GenerationSettings};
use crate::failure::{Failure, Result};

/// What values a setting has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Yes or no. The option means no if it is `negated`: `--no-history` sets `history`.
    Flag { negated: bool },
    /// 0 to 3: how often the option is given.
    Count,
    /// A number or a text.
    One,
    /// Several texts.
    Many,
    /// The name of a model.
    Model,
    /// The folders with models, for which there is no option.
    Folders,
}

/// A line of the table.
#[derive(Debug)]
pub struct Setting {
    /// Its name in the file.
    pub key: String,
    pub kind: Kind,
    /// The option that sets it, without dashes; that of [`Kind::Folders`] does not exist.
    pub long: String,
    /// clap's name for the option.
    pub id: String,
    /// What it has if nobody sets it, where the definition says so.
    default: Option<String>,
    /// Whether help leaves it out.
    pub hidden: bool,
    /// Whether any text will do, numbers are none.
    pub is_text: bool,
    /// Its line in the help.
    pub help: String,
    /// The values that it can have, if they are few.
    pub values: Vec<String>,
    /// Every name, those above among them.
    names: Vec<String>,
}

/// All settings.
#[derive(Debug)]
pub struct Table(Vec<Setting>);

/// Names in these arguments that choose where settings come from, and are none.
const NO_SETTINGS: [&str; 3] = ["profile", "config", "no-config"];

/// The settings that hold rules for answers, or the name of a file with them.
pub const RULES: [&str; 2] = ["json-schema", "grammar"];
/// The setting that lists folders with models; its variable is [`crate::cli::lookup::FOLDERS`].
pub const FOLDERS: &str = "models";

impl Table {
    pub fn new() -> Self {
        let model = ModelArgs::augment_args(clap::Command::new("settings"));
        let folders = Setting {
            key: FOLDERS.into(),
            kind: Kind::Folders,
            long: FOLDERS.into(),
            id: FOLDERS.into(),
            default: None,
            hidden: false,
            is_text: true,
            help: "Folders with models".into(),
            values: vec![],
            names: vec![FOLDERS.into()],
        };
        let model =
            model.get_arguments().filter_map(Setting::new).map(|s| Setting { kind: Kind::Model, ..s });
        let options = options();
        let others = options.get_arguments().filter_map(Setting::new);
        Table(model.chain([folders]).chain(others).collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = &Setting> {
        self.0.iter()
    }

    /// The setting of a name, in any of its spellings: `top-p`, `top_p`, `temperature`, `ngl`.
    ///
    /// # Errors
    /// If there is none, with the nearest.
    pub fn find(&self, name: &str) -> Result<&Setting> {
        let plain = name.replace('_', "-");
        self.0.iter().find(|s| s.names.contains(&plain)).ok_or_else(|| {
            let names = self.0.iter().filter(|s| !s.hidden).flat_map(|s| s.names.iter().map(String::as_str));
            let nearest = meant(&plain, names).and_then(|name| self.find(name).ok());
            let nearest = nearest.map_or(String::new(), |s| format!("nearest is {}; ", s.key));
            Failure::usage(
                format!("there is no setting '{name}'"),
                format!("{nearest}'fathom config' lists all"),
            )
        })
    }

    /// The setting that an option sets, by clap's name for it.
    pub fn of_option(&self, id: &str) -> Option<&Setting> {
        self.0.iter().find(|s| s.id == id && s.kind != Kind::Folders)
    }
}

/// The options that are settings, in the order of the help.
fn options() -> clap::Command {
    let mut all = clap::Command::new("settings").no_binary_name(true);
    all = GenerationArgs::augment_args(all);
    all = EngineArgs::augment_args(all);
    all = DisplayArgs::augment_args(all);
    GlobalArgs::augment_args(all)
}

impl Setting {
    fn new(arg: &Arg) -> Option<Self> {
        let long = arg.get_long().filter(|long| !NO_SETTINGS.contains(long))?;
        let kind = match arg.get_action() {
            ArgAction::SetTrue => Kind::Flag { negated: long.starts_with("no-") },
            ArgAction::Count => Kind::Count,
            ArgAction::Append => Kind::Many,
            _ => Kind::One,
        };
        let opposite = opposite(long);
        let key = if kind == (Kind::Flag { negated: true }) { &opposite } else { long };
        let mut names = vec![key.to_owned(), long.to_owned()];
        if matches!(kind, Kind::Flag { .. }) {
            names.push(opposite.clone());
        }
        names.extend(arg.get_all_aliases().into_iter().flatten().map(str::to_owned));
        let dashed = format!("--{long}");
        let short = LONG_NAMES.iter().filter(|(_, l)| *l == dashed);
        names.extend(short.map(|(short, _)| short.trim_start_matches('-').to_owned()));
        let default = arg.get_default_values().first().map(|v| v.to_string_lossy().into_owned());
        Some(Setting {
            key: key.to_owned(),
            kind,
            long: long.to_owned(),
            id: arg.get_id().to_string(),
            default: default.filter(|_| matches!(kind, Kind::One | Kind::Many)),
            hidden: arg.is_hide_set(),
            is_text: arg.get_value_parser().type_id() == std::any::TypeId::of::<String>(),
            help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
            values: match kind {
                Kind::One | Kind::Many => {
                    arg.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect()
                }
                _ => vec![],
            },
            names,
        })
    }

    /// What it is where nobody sets it, if the definition says so.
    pub fn unset(&self) -> Option<String> {
        match self.kind {
            Kind::Flag { negated } => Some(negated.to_string()),
            Kind::Count => Some("0".into()),
            _ => self.default.clone(),
        }
    }

    /// Its names and their variables in the environment, of which the first counts that is there.
    pub fn variables(&self) -> impl Iterator<Item = (&str, String)> {
        self.names.iter().map(|name| (name.as_str(), variable(name)))
    }

    /// Whether the option or its opposite is typed.
    pub fn is_typed(&self, given: &ArgMatches) -> bool {
        let typed = |id: &str| {
            given.try_contains_id(id).is_ok()
                && given.value_source(id) == Some(clap::parser::ValueSource::CommandLine)
        };
        typed(&self.id) || typed(&opposite_id(&self.id))
    }

    /// What of `words` means in the file is meant by the option: for a negated flag the opposite.
    fn option_is_on(&self, on: bool) -> bool {
        on != (self.kind == Kind::Flag { negated: true })
    }

    /// The arguments that set it to these words.
    pub fn arguments(&self, words: &[String]) -> Vec<std::ffi::OsString> {
        let flag = || std::ffi::OsString::from(format!("--{}", self.long));
        let word = words.first().map(String::as_str).unwrap_or_default();
        match self.kind {
            Kind::Model | Kind::Folders => vec![],
            Kind::Flag { .. } => {
                (0..usize::from(self.option_is_on(word == "true"))).map(|_| flag()).collect()
            }
            Kind::Count => (0..word.parse().unwrap_or(0_u8)).map(|_| flag()).collect(),
            Kind::One | Kind::Many => {
                words.iter().map(|word| std::ffi::OsString::from(format!("--{}={word}", self.long))).collect()
            }
        }
    }

    /// Words as they are typed in the environment or behind `config set`, made those of the file: `1` and `on` are `true`.
    /// `name` is what they were called by; of a flag it may be the opposite.
    ///
    /// # Errors
    /// If it is a flag or a count, and they are neither.
    pub fn words(&self, name: &str, words: &[String]) -> Result<Vec<String>> {
        let word = words.first().map(|w| w.to_lowercase()).unwrap_or_default();
        let wrong = |hint| Failure::usage(format!("{name} is '{}'", words.join(" ")), hint);
        match self.kind {
            Kind::Flag { .. } => {
                let on = match &*word {
                    "1" | "true" | "yes" | "on" => true,
                    "0" | "false" | "no" | "off" => false,
                    _ => return Err(wrong("it can be true or false")),
                };
                Ok(vec![self.flag(name, on).to_string()])
            }
            Kind::Count => match (&*word, word.parse::<u8>()) {
                ("false", _) => Ok(vec!["0".into()]),
                ("true", _) => Ok(vec!["1".into()]),
                (_, Ok(0..=3)) => Ok(vec![word]),
                _ => Err(wrong("it can be 0 to 3")),
            },
            Kind::One | Kind::Model if words.len() != 1 => Err(wrong("it takes one value")),
            _ => Ok(words.to_vec()),
        }
    }

    /// The value of a flag that is said to be `on` under one of its names.
    fn flag(&self, name: &str, on: bool) -> bool {
        on != (opposite(&name.replace('_', "-").to_lowercase()) == self.key)
    }

    /// Checks a value, its range too, without doing anything.
    ///
    /// # Errors
    /// If the option would refuse it.
    pub fn check(&self, words: &[String]) -> Result<()> {
        // These may be names of files, which are read when they are used.
        if RULES.contains(&self.key.as_str()) {
            return Ok(());
        }
        check(&self.arguments(words)).map_err(|e| match e {
            Refused::ByUs(failure) => failure,
            Refused::ByClap(error) => self.refused(words, &error),
        })
    }

    fn refused(&self, words: &[String], error: &clap::Error) -> Failure {
        let what = format!("{} is '{}'", self.key, words.join(" "));
        let why = std::error::Error::source(error).map(ToString::to_string);
        let hint = match (self.values.split_last(), why) {
            (Some((last, others)), _) => format!("it can be {} or {last}", others.join(", ")),
            (None, Some(why)) if !self.is_text => format!("it takes a number: {why}"),
            (None, why) => why.unwrap_or("it cannot be that".into()),
        };
        Failure::usage(what, hint)
    }
}

enum Refused {
    ByClap(Box<clap::Error>),
    ByUs(Failure),
}

fn check(arguments: &[std::ffi::OsString]) -> Result<(), Refused> {
    let by_clap = |e| Refused::ByClap(Box::new(e));
    let given = options().try_get_matches_from(arguments).map_err(by_clap)?;
    let generation = GenerationArgs::from_arg_matches(&given).map_err(by_clap)?;
    let engine = EngineArgs::from_arg_matches(&given).map_err(by_clap)?;
    GenerationSettings::new(&generation).map_err(Refused::ByUs)?;
    EngineSettings::new(&engine).map(drop).map_err(Refused::ByUs)
}

/// The variable for a setting by one of its names.
pub fn variable(name: &str) -> String {
    format!("FATHOM_{}", name.to_uppercase().replace('-', "_"))
}

/// The name of a flag that says the opposite: `no-style` and `style`.
pub fn opposite(long: &str) -> String {
    long.strip_prefix("no-").map_or_else(|| format!("no-{long}"), str::to_owned)
}

fn opposite_id(id: &str) -> String {
    format!("not_{id}")
}

/// Gives every flag that is a setting an opposite, so that the command line can take back what the file says.
pub fn with_opposites(command: clap::Command) -> clap::Command {
    let table = Table::new();
    let add = |mut command: clap::Command| {
        let flags: Vec<String> = command
            .get_arguments()
            .map(|a| a.get_id().to_string())
            .filter(|id| table.of_option(id).is_some_and(|s| matches!(s.kind, Kind::Flag { .. })))
            .collect();
        for id in flags {
            let other = opposite_id(&id);
            let (long, global) = command
                .get_arguments()
                .find(|a| a.get_id() == id.as_str())
                .map(|a| (opposite(a.get_long().unwrap_or_default()), a.is_global_set()))
                .unwrap_or_default();
            let not = Arg::new(other.clone()).long(long).action(ArgAction::SetTrue).hide(true).global(global);
            command = command.mut_arg(&id, |a| a.overrides_with(other)).arg(not.overrides_with(id));
        }
        command
    };
    add(command.mut_subcommands(&add))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_names_of_its_own() {
        let table = Table::new();
        let mut names: Vec<&String> = table
            .iter()
            .flat_map(|s| {
                let mut names: Vec<_> = s.names.iter().collect();
                names.sort();
                names.dedup();
                names
            })
            .collect();
        names.sort();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
        for (name, key) in [
            ("temp", "temp"),
            ("temperature", "temp"),
            ("top_p", "top-p"),
            ("ctx", "ctx-size"),
            ("system", "system-prompt"),
            ("ngl", "gpu-layers"),
            ("no-history", "history"),
            ("style", "style"),
            ("no_stats", "stats"),
            ("model", "model"),
            ("models", "models"),
        ] {
            assert_eq!(table.find(name).unwrap().key, key);
        }
        for name in ["profile", "config", "prompt", "raw", "tmep"] {
            assert!(table.find(name).is_err(), "{name}");
        }
        assert!(table.find("tmep").unwrap_err().hint().unwrap().contains("temp"));
    }

    #[test]
    fn a_flag_means_the_same_under_both_of_its_names() {
        let table = Table::new();
        let words =
            |name: &str, value: &str| table.find(name).unwrap().words(name, &[value.to_owned()]).unwrap();
        assert_eq!(words("history", "off"), ["false"]);
        assert_eq!(words("no-history", "1"), ["false"]);
        assert_eq!(words("no_history", "0"), ["true"]);
        assert_eq!(words("no-stats", "yes"), ["false"]);
        let arguments = |name: &str, on: &str| table.find(name).unwrap().arguments(&[on.to_owned()]);
        assert_eq!(arguments("history", "false"), ["--no-history"]);
        assert_eq!(arguments("history", "true"), [""; 0]);
        assert_eq!(arguments("stats", "true"), ["--stats"]);
        assert_eq!(arguments("verbose", "2"), ["--verbose", "--verbose"]);
    }

    #[test]
    fn values_are_checked_as_those_of_options() {
        let table = Table::new();
        let refused = |name: &str, value: &str| {
            let failure = table.find(name).unwrap().check(&[value.to_owned()]).unwrap_err();
            format!("{}; {}", failure.message().unwrap(), failure.hint().unwrap())
        };
        assert_eq!(refused("temp", "200"), "temp is 200; it can be 0 to 100");
        assert_eq!(refused("think", "loud"), "think is 'loud'; it can be show, hide or raw");
        assert!(refused("top-k", "many").starts_with("top-k is 'many'; it takes a number"));
        assert!(refused("cache-type-k", "q4_0").contains("q8_0"));
        assert!(table.find("system").unwrap().check(&["- be terse".to_owned()]).is_ok());
    }
}
