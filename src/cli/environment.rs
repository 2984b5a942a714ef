//! Options set in the environment: `FATHOM_TOP_P=0.9` is `--top-p 0.9`, unless that is given too.
//!
//! What is set there is added to the arguments and goes the same way from there, so that a value
//! means the same and is checked the same wherever it comes from.

use std::ffi::{OsStr, OsString};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args};

use super::args::{DisplayArgs, EngineArgs, GenerationArgs, GlobalArgs};
use crate::failure::{Failure, Result};

/// The variable for an option by its long name.
pub fn variable(long: &str) -> String {
    format!("FATHOM_{}", long.to_uppercase().replace('-', "_"))
}

/// The options that can be set: how to answer, not what.
fn settable() -> Vec<Arg> {
    let mut all = clap::Command::new("all");
    all = GenerationArgs::augment_args(all);
    all = EngineArgs::augment_args(all);
    all = DisplayArgs::augment_args(all);
    all = GlobalArgs::augment_args(all);
    all.get_arguments().cloned().collect()
}

/// What the environment adds to the arguments of a command, as far as it takes them and they are
/// not among them already.
pub fn additions(given: &ArgMatches, env: impl Fn(&str) -> Option<OsString>) -> Result<Vec<OsString>> {
    let mut out = Vec::new();
    for arg in settable() {
        let Some(long) = arg.get_long() else { continue };
        let taken = given.try_contains_id(arg.get_id().as_str()).is_ok();
        let typed = taken && given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
        let variable = variable(long);
        let Some(value) = env(&variable).filter(|v| !v.is_empty()) else {
            continue;
        };
        if taken && !typed {
            add(&mut out, &arg, long, &variable, &value)?;
        }
    }
    Ok(out)
}

fn add(out: &mut Vec<OsString>, arg: &Arg, long: &str, variable: &str, value: &OsStr) -> Result<()> {
    let flag = || OsString::from(format!("--{long}"));
    match arg.get_action() {
        ArgAction::SetTrue => {
            if truth(variable, value)? {
                out.push(flag());
            }
        }
        ArgAction::Count => {
            let times = value.to_str().and_then(|v| v.parse::<u8>().ok());
            let times = times.filter(|&n| n <= 3).ok_or_else(|| {
                Failure::usage(format!("{variable} is '{}'", value.display()), "it can be 0 to 3")
            })?;
            out.extend((0..times).map(|_| flag()));
        }
        _ => {
            let mut both = flag();
            both.push("=");
            both.push(value);
            out.push(both);
        }
    }
    Ok(())
}

fn truth(variable: &str, value: &OsStr) -> Result<bool> {
    match value.to_str().map(str::to_lowercase).as_deref() {
        Some("1" | "true" | "yes" | "on") => Ok(true),
        Some("0" | "false" | "no" | "off") => Ok(false),
        _ => Err(Failure::usage(format!("{variable} is '{}'", value.display()), "it can be 1 or 0")),
    }
}
