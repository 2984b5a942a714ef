//! `fathom quantize`: a model in another type of weights.

mod summary;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use ggml_sys::GgmlType;
use quantize::{Error, ImportanceFile, Mix, Options, Override, Plan, Report, Source, Split, Target};

use self::summary::Summary;
use crate::cli::args::QuantizeArgs;
use crate::cli::lookup::Lookup;
use crate::cli::settings::threads;
use crate::failure::{Failure, Outcome, Result};
use crate::size::Count;
use crate::streams;
use crate::term::interrupt::Guard;
use crate::term::log;
use crate::term::progress::{Display, Progress, Unit};

/// Writes the model, and prints what has become of it.
///
/// # Errors
/// If it cannot be read or written, or there is no such type.
pub fn quantize(args: &QuantizeArgs, lookup: &Lookup, quiet: bool) -> Result<Outcome> {
    let options = options(args)?;
    // clap sees to it that there are two or three.
    let (input, output, ty) = match &args.words[..] {
        [input, ty] => (input, None, ty),
        [input, output, ty, ..] => (input, Some(PathBuf::from(output)), ty),
        _ => return Err(Failure::usage("there are no files", "give a file to read, and a type")),
    };
    let target = target(args, &ty.to_string_lossy())?;
    let input = lookup.model_or_folder(input)?;
    let source = Source::open(&input)?;
    let output = output.unwrap_or_else(|| default_output(source.path(), &ty.to_string_lossy()));
    let plan = Plan::new(&source, &target).map_err(explain)?;
    remark(&plan, args.dry_run);
    let mut report = None;
    if !args.dry_run {
        match run(&plan, &output, &options, quiet) {
            Ok(done) => report = Some(done),
            Err(Error::Cancelled) => {
                if args.keep_partial {
                    log::note("what is done is kept: the same command goes on from there");
                }
                return Ok(Outcome::Interrupted);
            }
            Err(e) => return Err(e.into()),
        }
    }
    let summary = Summary::new(&plan, &output, report.as_ref());
    streams::print(&if args.json { serde_json::to_string(&summary)? + "\n" } else { summary.text() })?;
    Ok(Outcome::Done)
}

/// How the work is to be done.
fn options(args: &QuantizeArgs) -> Result<Options> {
    let split = match (&args.split_max_size, args.keep_split) {
        (None, false) => Split::Whole,
        (None, true) => Split::AsSource,
        (Some(size), false) => Split::BySize(bytes(size)?),
        (Some(_), true) => {
            let what = "--split-max-size and --keep-split are two ways to split";
            return Err(Failure::usage(what, "leave one of them out"));
        }
    };
    let threads = args.threads.map(|n| threads("--threads", n)).transpose()?.flatten();
    Ok(Options { force: args.force, threads, split, keep_partial: args.keep_partial, sync_bytes: None })
}

/// `4G` or `500M`, in powers of ten as llama-gguf-split has it.
fn bytes(text: &str) -> Result<u64> {
    let units = [("G", 1_000_000_000), ("M", 1_000_000)];
    let unit = units.iter().find_map(|(unit, n)| Some((text.strip_suffix(unit)?, *n)));
    let size = unit.and_then(|(number, n)| number.parse::<u64>().ok()?.checked_mul(n));
    size.filter(|n| *n > 0).ok_or_else(|| {
        Failure::usage(format!("--split-max-size: '{text}' is no size"), "give one such as 4G or 500M")
    })
}

/// What the tensors are to become.
fn target(args: &QuantizeArgs, mix: &str) -> Result<Target> {
    let ty = |option: &str, name: &Option<String>| {
        let ty = |name: &String| {
            GgmlType::from_name(name).ok_or_else(|| {
                Failure::usage(format!("{option}: there is no type '{name}'"), "a type is F16, Q8_0, Q6_K, …")
            })
        };
        name.as_ref().map(ty).transpose()
    };
    let mut target = Target::named(mix).map_err(explain)?;
    if args.pure {
        target = target.pure();
    }
    if let Some(ty) = ty("--output-tensor-type", &args.output_tensor_type)? {
        if args.leave_output_tensor {
            let what = "--output-tensor-type gives a type to what --leave-output-tensor leaves as it is";
            return Err(Failure::usage(what, "leave one of them out"));
        }
        target = target.with_output(ty).map_err(explain)?;
    }
    if args.leave_output_tensor {
        target = target.keeping_output();
    }
    if let Some(ty) = ty("--token-embedding-type", &args.token_embedding_type)? {
        target = target.with_embedding(ty).map_err(explain)?;
    }
    for text in &args.tensor_type {
        target = target.with(Override::parse(text).map_err(explain)?);
    }
    if let Some(path) = &args.imatrix {
        target = target.with_importance(ImportanceFile::open(path)?);
    }
    Ok(target)
}

/// Carries the plan out. Ctrl-C stops it.
fn run(plan: &Plan, output: &Path, options: &Options, quiet: bool) -> Result<Report, Error> {
    let guard = Guard::new();
    let mut progress = Progress::new(Display::of_stderr(quiet), "quantizing", Unit::Bytes);
    let mut tell = |p: quantize::Progress<'_>| progress.update(p.done, p.total);
    let report = quantize::run(plan, output, options, &mut tell, guard.cancel())?;
    if report.resumed > 0 {
        let tensors = Count(report.resumed, "tensor");
        log::note(&format!("{tensors} had been completed by an earlier run, and were not done again"));
    }
    Ok(report)
}

/// The error; what concerns the words that were typed is wrong usage.
fn explain(error: Error) -> Failure {
    let is_usage = matches!(
        error,
        Error::UnknownType { .. }
            | Error::UnknownMix { .. }
            | Error::NoEncoder { .. }
            | Error::Pattern { .. }
    );
    let failure = Failure::from(error);
    if is_usage { failure.into_usage() } else { failure }
}

/// Beside the input, file or folder, with the mix in place of the type that its name ends in.
fn default_output(input: &Path, mix: &str) -> PathBuf {
    if input.is_dir() {
        // `.` has a name too, elsewhere.
        let folder = input.file_name().map_or_else(|| input.canonicalize().ok(), |_| Some(input.into()));
        let folder = folder.unwrap_or_else(|| input.into());
        let name = folder.file_name().and_then(OsStr::to_str).unwrap_or("model");
        return folder.with_file_name(format!("{name}-{}.gguf", mix.to_uppercase()));
    }
    let stem = input.file_stem().and_then(OsStr::to_str).unwrap_or("model");
    // A shard's number: what is written is one file, or has numbers of its own.
    let stem = stem.split_once("-00001-of-").map_or(stem, |(stem, _)| stem);
    let (name, suffix) = match stem.rsplit_once(['-', '.']) {
        Some((name, end)) if Mix::named(end).is_some() => (name, end),
        _ => (stem, ""),
    };
    let is_lower = suffix.chars().any(char::is_lowercase);
    let mix = if is_lower { mix.to_lowercase() } else { mix.to_uppercase() };
    input.with_file_name(format!("{name}-{mix}.gguf"))
}

/// Says what may surprise.
fn remark(plan: &Plan, dry_run: bool) {
    if let Some(line) = plan.needs_importance().filter(|_| dry_run) {
        let name = streams::harmless(&line.name);
        ::log::warn!("{name} would be {}, which needs an importance matrix (--imatrix)", line.to);
    }
    if plan.importance().is_some() {
        let encoded = || plan.lines().iter().filter(|l| l.is_converted());
        let (all, known) = (encoded().count(), encoded().filter(|l| l.weighted).count());
        if known < all {
            let what = Count(all - known, "tensor");
            log::note(&format!("the importance matrix knows nothing of {what} of {all}"));
        }
    }
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
            ("model-q4_k_m.gguf", "model-q8_0.gguf"),
            ("R1-bf16-00001-of-00003.gguf", "R1-q8_0.gguf"),
            ("DeepSeek-R1-1.5B.gguf", "DeepSeek-R1-1.5B-Q8_0.gguf"),
        ] {
            assert_eq!(default_output(Path::new(input), "q8_0"), Path::new(output), "{input}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!([bytes("4G").ok(), bytes("500M").ok()], [Some(4_000_000_000), Some(500_000_000)]);
        for text in ["4", "G", "0M", "-1G", "4GB", "99999999999999999999G"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
