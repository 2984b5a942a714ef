//! `fathom list`: the models that are found, by the names under which they can be used.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use ggml_sys::gguf::Gguf;
use quantize::Mix;
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use crate::cli::args::ListArgs;
use crate::cli::lookup::{BUNDLED, Entry, Lookup};
use crate::cli::settings::Source;
use crate::failure::{Failure, Outcome, Result};
use crate::size::{Bytes, Count};
use crate::term::color::{Colors, DIMMED, STRONG};
use crate::term::log;
use crate::{model, streams};

/// A model as it is printed. docs/json.md describes the fields.
#[derive(Serialize)]
struct Listed {
    name: String,
    /// Null for the model in the binary.
    path: Option<String>,
    r#where: String,
    bytes: Option<u64>,
    files: Option<usize>,
    architecture: Option<String>,
    r#type: Option<String>,
    /// Seconds since 1970.
    modified: Option<u64>,
    /// What keeps it from being read.
    problem: Option<String>,
}

/// Prints the models, of each place in turn. What cannot be read is in the list, and a note says why.
///
/// # Errors
/// If standard output cannot be written.
pub fn list(args: &ListArgs, lookup: &Lookup, colors: Colors) -> Result<Outcome> {
    let wanted = args.filter.as_deref().unwrap_or_default().to_lowercase();
    let wanted = |name: &str| name.to_lowercase().contains(&wanted);
    let mut listed = Vec::new();
    for place in lookup.places() {
        for entry in place.entries().into_iter().filter(|e| wanted(&e.name)) {
            listed.push(if args.names {
                Listed::name(&entry, place.label())
            } else {
                Listed::new(&entry, place.label())
            });
        }
    }
    if wanted(BUNDLED) {
        listed.extend(Listed::bundled());
    }
    if args.names {
        // What cannot be used is no good as a name.
        let names = listed.iter().filter(|l| l.problem.is_none()).map(|l| streams::harmless(&l.name) + "\n");
        streams::print(&names.collect::<String>())?;
        return Ok(Outcome::Done);
    }
    if args.json {
        streams::print(&(serde_json::to_string_pretty(&listed)? + "\n"))?;
        return Ok(Outcome::Done);
    }
    use std::io::Write as _;
    let mut out = colors.styled_stdout();
    streams::written(out.write_all(table(&listed).as_bytes()).and_then(|()| out.flush()))?;
    remark(&listed, args.filter.as_deref());
    Ok(Outcome::Done)
}

/// Says what the list does not.
fn remark(listed: &[Listed], filter: Option<&str>) {
    let broken: Vec<&Listed> = listed.iter().filter(|l| l.problem.is_some()).collect();
    if let [first, others @ ..] = &broken[..] {
        let more = if others.is_empty() { String::new() } else { format!(" (and {} more)", others.len()) };
        let why = first.problem.as_deref().unwrap_or_default();
        log::note(&format!("{} cannot be read: {why}{more}", first.name));
    }
    match filter {
        Some(filter) if listed.is_empty() => log::note(&format!("no model has '{filter}' in its name")),
        None if listed.len() == listed.iter().filter(|l| l.path.is_none()).count() => log::note(
            "GGUF files are looked for in the folders of FATHOM_MODELS or the setting 'models', \
             in Hugging Face's cache and in ollama's store",
        ),
        _ => {}
    }
}

impl Listed {
    /// By its name alone; nothing is opened.
    fn name(entry: &Entry, place: String) -> Self {
        Listed {
            name: entry.name.clone(),
            path: entry.file.as_ref().ok().map(|path| path.display().to_string()),
            r#where: place,
            bytes: None,
            files: None,
            architecture: None,
            r#type: None,
            modified: None,
            problem: entry.file.as_ref().err().cloned(),
        }
    }

    fn new(entry: &Entry, place: String) -> Self {
        let mut listed = Listed::name(entry, place);
        let Ok(path) = &entry.file else { return listed };
        if let Ok(file) = std::fs::metadata(path) {
            listed.bytes = Some(file.len());
            listed.modified = file.modified().ok().and_then(seconds);
        }
        match Gguf::open(path) {
            Ok(gguf) => listed.describe(&gguf),
            Err(e) => listed.problem = Some(problem(e, path)),
        }
        listed
    }

    fn bundled() -> Option<Self> {
        let entry = Entry { name: BUNDLED.into(), file: Err(String::new()) };
        let mut listed = Listed { problem: None, ..Listed::name(&entry, "in the binary".into()) };
        listed.describe(&model::open(&Source::Bundled { named: true }).ok()?);
        Some(listed)
    }

    fn describe(&mut self, gguf: &Gguf) {
        let text = |key: &str| gguf.metadata().str(key).ok().flatten().map(str::to_owned);
        self.bytes = Some(gguf.size());
        self.files = Some(gguf.shards().len());
        self.architecture = text("general.architecture");
        // What is no model says so: an adapter, a projector, an importance matrix.
        let kind = text("general.type").filter(|kind| kind != "model");
        self.r#type = kind.or_else(|| type_of(gguf));
    }
}

/// The mix of a file by `general.file_type`, if its weights bear that out; else the type of most of its weights.
fn type_of(gguf: &Gguf) -> Option<String> {
    let most = model::sizes_by_type(gguf).first().map(|t| t.name.to_owned())?;
    let number = gguf.metadata().u32("general.file_type").ok().flatten();
    let mix = number.and_then(|n| Mix::ALL.iter().find(|m| m.file_type() == n && !m.is_for_experts()));
    let mix = mix.filter(|m| gguf.tensors().iter().any(|t| t.ty() == m.base()));
    Some(mix.map_or(most, |m| m.name().to_owned()))
}

/// What is wrong with a file, without its path, which the list has.
fn problem(error: ggml_sys::gguf::Error, path: &Path) -> String {
    let failure = Failure::from(error);
    let message = failure.message().unwrap_or_default();
    let path = path.display().to_string();
    message.strip_prefix(&path).map_or(message, |m| m.trim_start_matches(':').trim_start()).to_owned()
}

fn seconds(time: SystemTime) -> Option<u64> {
    time.duration_since(UNIX_EPOCH).ok().map(|d| d.as_secs())
}

/// As columns.
fn table(listed: &[Listed]) -> String {
    let now = seconds(SystemTime::now()).unwrap_or(0);
    let row = |l: &Listed| {
        let dash = || "-".to_owned();
        [
            l.name.clone(),
            l.bytes.map_or_else(dash, |n| Bytes(n).to_string()),
            if l.problem.is_some() { "cannot be read".into() } else { l.r#type.clone().unwrap_or_else(dash) },
            l.architecture.clone().unwrap_or_else(dash),
            l.modified.map_or_else(dash, |t| ago(now.saturating_sub(t))),
            l.r#where.clone(),
        ]
        .map(|text| streams::harmless(&text).replace(['\n', '\t'], " "))
    };
    let rows: Vec<[String; 6]> = listed.iter().map(row).collect();
    let heads = ["NAME", "SIZE", "TYPE", "ARCHITECTURE", "MODIFIED", "WHERE"].map(str::to_owned);
    let widths: Vec<usize> =
        (0..6).map(|i| rows.iter().chain([&heads]).map(|r| r[i].width()).max().unwrap_or(0)).collect();
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(i, (text, width))| {
            let space = " ".repeat(width - text.width());
            // Sizes are compared by their ends.
            if i == 1 { format!("{space}{text}") } else { format!("{text}{space}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut out = format!("{STRONG}{}{STRONG:#}\n", line(&heads));
    for (row, l) in rows.iter().zip(listed) {
        let text = line(row);
        out += &if l.problem.is_some() { format!("{DIMMED}{text}{DIMMED:#}\n") } else { text + "\n" };
    }
    out
}

/// How long ago something was, as people say it.
fn ago(seconds: u64) -> String {
    const UNITS: [(u64, &str); 5] =
        [(365 * 86400, "year"), (30 * 86400, "month"), (86400, "day"), (3600, "hour"), (60, "minute")];
    match UNITS.iter().find(|(length, _)| seconds >= *length) {
        Some((length, unit)) => format!("{} ago", Count((seconds / length) as usize, unit)),
        None => "just now".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_people_say_them() {
        for (seconds, text) in [
            (0, "just now"),
            (60, "1 minute ago"),
            (7199, "1 hour ago"),
            (2 * 86400, "2 days ago"),
            (400 * 86400, "1 year ago"),
        ] {
            assert_eq!(ago(seconds), text);
        }
    }
}
