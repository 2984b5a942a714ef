//! `fathom quantize`: a model in another type of weights.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use ggml_sys::GgmlType;
use quantize::{Deviation, Error, Options, Override, Plan, Source, Target};
use serde::Serialize;

use crate::cli::args::QuantizeArgs;
use crate::cli::lookup::{self, Lookup};
use crate::cli::settings::threads;
use crate::failure::{Count, Failure, Outcome, Result};
use crate::size::Bytes;
use crate::streams;
use crate::term::interrupt::Guard;
use crate::term::log;
use crate::term::progress::{Display, Progress, Unit};

/// Writes the model, and prints what has become of it.
///
/// # Errors
/// If it cannot be read or written, or there is no such type.
pub fn quantize(args: &QuantizeArgs, quiet: bool) -> Result<Outcome> {
    let threads = args.threads.map(|n| threads("--threads", n)).transpose()?.flatten();
    // clap sees to it that there are two or three.
    let (input, output, ty) = match &args.words[..] {
        [input, ty] => (input, None, ty),
        [input, output, ty, ..] => (input, Some(PathBuf::from(output)), ty),
        _ => return Err(Failure::usage("there are no files", "give a file to read, and a type")),
    };
    let mut target = Target::named(&ty.to_string_lossy()).map_err(explain)?;
    for text in &args.tensor_type {
        target = target.with(Override::parse(text).map_err(explain)?);
    }
    let input = Lookup::new(super::env(lookup::FOLDERS).as_deref()).model_or_folder(input)?;
    let source = Source::open(&input)?;
    let output = output.unwrap_or_else(|| default_output(source.path(), target.ty()));
    let plan = Plan::new(&source, &target).map_err(explain)?;
    remark(&plan);
    let mut deviations = None;
    if !args.dry_run {
        let guard = Guard::new();
        let mut progress = Progress::new(Display::of_stderr(quiet), "quantizing", Unit::Bytes);
        let options = Options { force: args.force, threads };
        let mut tell = |p: quantize::Progress<'_>| progress.update(p.done, p.total);
        match quantize::run(&plan, &output, &options, &mut tell, guard.cancel()) {
            Ok(report) => deviations = Some(report.deviations),
            Err(Error::Cancelled) => return Ok(Outcome::Interrupted),
            Err(e) => return Err(e.into()),
        }
    }
    let summary = Summary::new(&plan, &output, deviations.as_deref());
    streams::print(&if args.json { serde_json::to_string(&summary)? + "\n" } else { summary.text() })?;
    Ok(Outcome::Done)
}

/// The error; what concerns the words that were typed is wrong usage.
fn explain(error: Error) -> Failure {
    let is_usage =
        matches!(error, Error::UnknownType { .. } | Error::NoEncoder { .. } | Error::Pattern { .. });
    let failure = Failure::from(error);
    if is_usage { failure.into_usage() } else { failure }
}

/// Beside the input, file or folder, with the type in place of the one that its name ends in.
fn default_output(input: &Path, ty: GgmlType) -> PathBuf {
    if input.is_dir() {
        // `.` has a name too.
        let folder = input.canonicalize().unwrap_or_else(|_| input.into());
        let name = folder.file_name().and_then(OsStr::to_str).unwrap_or("model");
        return folder.with_file_name(format!("{name}-{}.gguf", ty.name()));
    }
    let stem = input.file_stem().and_then(OsStr::to_str).unwrap_or("model");
    // A shard's number: what is written is one file.
    let stem = stem.split_once("-00001-of-").map_or(stem, |(stem, _)| stem);
    let (name, suffix) = match stem.rsplit_once(['-', '.']) {
        Some((name, end)) if GgmlType::from_name(end).is_some() => (name, end),
        _ => (stem, ""),
    };
    let is_lower = suffix.chars().any(char::is_lowercase);
    let ty = if is_lower { ty.name().to_lowercase() } else { ty.name().to_owned() };
    input.with_file_name(format!("{name}-{ty}.gguf"))
}

/// Says what may surprise.
fn remark(plan: &Plan) {
    let fallen = plan.lines().iter().filter(|l| l.fallback_of.is_some()).count();
    if fallen > 0 {
        let tensors = Count(fallen, "tensor");
        log::note(&format!(
            "rows of {tensors} are no whole number of blocks: types with smaller ones are used"
        ));
    }
    if plan.lines().iter().any(|l| l.is_requantized()) {
        ::log::warn!("the model is quantized already; from one in F16, BF16 or F32 less is lost");
    }
}

/// What is, or would be, in the new file. docs/json.md describes the fields.
#[derive(Serialize)]
struct Summary<'a> {
    input: String,
    output: String,
    written: bool,
    input_bytes: u64,
    bytes: u64,
    bits_per_weight: f64,
    types: Vec<TypeSummary>,
    tensors: Vec<TensorSummary<'a>>,
}

#[derive(Serialize)]
struct TypeSummary {
    r#type: &'static str,
    tensors: usize,
    bytes: u64,
    bits_per_weight: f64,
    error: Option<f64>,
}

#[derive(Serialize)]
struct TensorSummary<'a> {
    name: &'a str,
    from: &'static str,
    to: &'static str,
    /// The type that the rows did not fit.
    fallback_of: Option<&'static str>,
    bytes: u64,
    new_bytes: u64,
    error: Option<f64>,
}

impl<'a> Summary<'a> {
    fn new(plan: &'a Plan, output: &Path, deviations: Option<&[Deviation]>) -> Self {
        let tensors = plan.lines().iter().enumerate().map(|(i, l)| TensorSummary {
            name: &l.name,
            from: l.from.name(),
            to: l.to.name(),
            fallback_of: l.fallback_of.map(GgmlType::name),
            bytes: l.bytes,
            new_bytes: l.new_bytes,
            error: deviations.and_then(|d| d.get(i)).map(Deviation::relative),
        });
        let weights = plan.lines().iter().map(|l| l.shape.n_elements()).sum();
        let data = plan.lines().iter().map(|l| l.new_bytes).sum();
        Summary {
            input: plan.source().path().display().to_string(),
            output: output.display().to_string(),
            written: deviations.is_some(),
            input_bytes: plan.source().size(),
            bytes: plan.file_size(),
            bits_per_weight: bits(data, weights),
            types: types(plan, deviations),
            tensors: tensors.collect(),
        }
    }

    fn text(&self) -> String {
        let mut out =
            format!("{:<8} {:>7} {:>11} {:>11} {:>9}\n", "type", "tensors", "size", "bits/weight", "error");
        for t in &self.types {
            let error = t.error.map_or(String::new(), |e| format!("{:.3} %", e * 100.0));
            // Writing to a string cannot fail.
            let size = Bytes(t.bytes).to_string();
            let _ = writeln!(
                out,
                "{:<8} {:>7} {size:>11} {:>11.2} {error:>9}",
                t.r#type, t.tensors, t.bits_per_weight
            );
        }
        let _ = writeln!(
            out,
            "{} {}: {} from {}, {:.2} bits a weight",
            streams::harmless(&self.output),
            if self.written { "written" } else { "would be written" },
            Bytes(self.bytes),
            Bytes(self.input_bytes),
            self.bits_per_weight
        );
        out
    }
}

/// The tensors by their new types, the largest first.
fn types(plan: &Plan, deviations: Option<&[Deviation]>) -> Vec<TypeSummary> {
    #[derive(Default)]
    struct Sum {
        tensors: usize,
        bytes: u64,
        weights: usize,
        deviation: Deviation,
    }
    let mut sums = BTreeMap::<&'static str, Sum>::new();
    for (i, line) in plan.lines().iter().enumerate() {
        let sum = sums.entry(line.to.name()).or_default();
        sum.tensors += 1;
        sum.bytes += line.new_bytes;
        sum.weights += line.shape.n_elements();
        sum.deviation += deviations.and_then(|d| d.get(i)).copied().unwrap_or_default();
    }
    let summary = |(name, sum): (&'static str, Sum)| TypeSummary {
        r#type: name,
        tensors: sum.tensors,
        bytes: sum.bytes,
        bits_per_weight: bits(sum.bytes, sum.weights),
        error: deviations.map(|_| sum.deviation.relative()),
    };
    let mut types: Vec<TypeSummary> = sums.into_iter().map(summary).collect();
    types.sort_by_key(|t| std::cmp::Reverse(t.bytes));
    types
}

fn bits(bytes: u64, weights: usize) -> f64 {
    bytes as f64 * 8.0 / weights.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_is_named_after_the_input_and_the_type() {
        for (input, output) in [
            ("a/model-F16.gguf", "a/model-Q8_0.gguf"),
            ("model-f16.gguf", "model-q8_0.gguf"),
            ("model.BF16.gguf", "model-Q8_0.gguf"),
            ("model.gguf", "model-Q8_0.gguf"),
            ("R1-bf16-00001-of-00003.gguf", "R1-q8_0.gguf"),
            ("DeepSeek-R1-1.5B.gguf", "DeepSeek-R1-1.5B-Q8_0.gguf"),
        ] {
            assert_eq!(default_output(Path::new(input), GgmlType::Q8_0), Path::new(output), "{input}");
        }
    }
}
