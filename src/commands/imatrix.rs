//! `fathom imatrix`: how much each column of the weights matters, learned from a text.
//!
//! As in llama.cpp, the text is read in chunks, each by itself, and the squares of what meets the weights are added up.

use std::io::BufWriter;
use std::path::Path;

use models::{Session, Want, Watch};
use quantize::ImportanceMatrix;
use quantize::imatrix::Entry;
use serde::Serialize;

use super::logits::Material;
use super::perplexity::{WINDOW, Window, windows_of};
use crate::cli::args::ImatrixArgs;
use crate::cli::lookup::Lookup;
use crate::cli::settings::{Context, EngineSettings};
use crate::failure::{Failure, Outcome, Result};
use crate::size::Count;
use crate::term::interrupt::Guard;
use crate::term::log;
use crate::term::progress::{Display, Progress, Unit};
use crate::{model, streams};

/// Reads the text, adds other matrices, writes the sum.
///
/// # Errors
/// If the model, the text or the other matrices cannot be used, or the file not be written.
pub fn imatrix(args: &ImatrixArgs, lookup: &Lookup, quiet: bool) -> Result<Outcome> {
    let mut others = Vec::new();
    for path in &args.in_file {
        others.push((path, ImportanceMatrix::open(path)?));
    }
    // Hours may pass before it is written: what stands in its way is said now.
    let inputs = args.in_file.iter().map(|p| &**p);
    let output = quantize::Output::create(&args.output, inputs, args.force)?;
    let (mut matrix, outcome) = if others.is_empty() || is_text_given(args) {
        learn(args, lookup, quiet)?
    } else {
        let (_, first) = others.remove(0);
        (first, Outcome::Done)
    };
    for (path, other) in others {
        matrix.merge(other, path)?;
    }
    if matrix.chunks == 0 && outcome == Outcome::Interrupted {
        return Ok(outcome);
    }
    let name = args.output.display().to_string();
    matrix.write(BufWriter::new(output.file()), &name)?;
    output.commit()?;
    let summary = Summary::new(&matrix, &args.output);
    streams::print(&if args.json { serde_json::to_string(&summary)? + "\n" } else { summary.text() })?;
    Ok(outcome)
}

/// Whether there is more to do than to add matrices.
fn is_text_given(args: &ImatrixArgs) -> bool {
    let text = &args.text;
    !text.words.is_empty() || text.model.model.is_some() || text.file.is_some() || args.tokens.is_some()
}

/// What a model makes of a text. After Ctrl-C, of the chunks that were complete.
fn learn(args: &ImatrixArgs, lookup: &Lookup, quiet: bool) -> Result<(ImportanceMatrix, Outcome)> {
    let settings = EngineSettings { longer_batches: false, ..EngineSettings::new(&args.engine)? };
    let (source, material) = Material::read(&args.text, args.tokens.as_deref(), lookup)?;
    model::announce(&source);
    let loaded = model::load(&source, settings.loading, quiet)?;
    let n_vocab = loaded.model.base().n_vocab;
    let tokens = material.tokens(&loaded.tokenizer, args.text.parse_special, n_vocab)?;
    let size = match settings.context {
        Context::Fitting => WINDOW,
        Context::Full => loaded.model.base().n_ctx_train,
        Context::Tokens(n) => n,
    };
    let bos = loaded.tokenizer.bos().filter(|_| loaded.tokenizer.add_bos() && args.tokens.is_none());
    let mut chunks = windows_of(&tokens, size, false, bos)?;
    chunks.truncate(args.chunks.unwrap_or(usize::MAX));
    if chunks.is_empty() {
        return Err(Failure::usage("--chunks is 0", "it is at least 1"));
    }
    let mut session = loaded.session(&settings, Context::Tokens(size))?;
    session.engine_mut().watch(if args.process_output { Watch::LayersAndOutput } else { Watch::Layers });
    let want = if args.process_output { Want::All } else { Want::Nothing };
    let done = read(&chunks, &mut session, want, settings.n_batch, quiet)?;
    let outcome = if done < chunks.len() { Outcome::Interrupted } else { Outcome::Done };
    if outcome == Outcome::Interrupted {
        log::note(&format!("interrupted: {done} of {} have been read", Count(chunks.len(), "chunk")));
    }
    let entry = |o: models::Observation| (o.name, Entry { sums: o.sums, counts: o.counts });
    let dataset = args.text.file.as_deref().or(args.tokens.as_deref()).unwrap_or(Path::new("-"));
    let number = |n| u32::try_from(n).unwrap_or(u32::MAX);
    let matrix = ImportanceMatrix {
        entries: session.engine().observations()?.into_iter().map(entry).collect(),
        datasets: vec![dataset.display().to_string()],
        chunks: number(done),
        chunk_size: number(size),
    };
    Ok((matrix, outcome))
}

/// Runs the chunks through the session, until Ctrl-C; gives the number of those that are complete.
fn read(chunks: &[Window], session: &mut Session, want: Want, n_batch: usize, quiet: bool) -> Result<usize> {
    let mut progress = Progress::new(Display::of_stderr(quiet), "reading", Unit::Tokens);
    let total = chunks.iter().map(|c| c.tokens.len() as u64).sum();
    let guard = Guard::new();
    let mut done = 0;
    for (i, chunk) in chunks.iter().enumerate() {
        session.truncate(0);
        for piece in chunk.tokens.chunks(n_batch) {
            // A chunk that has begun is read to its end, so that what is counted is chunks.
            session.eval(piece, want)?;
            done += piece.len() as u64;
            progress.update(done, total);
        }
        if guard.is_cancelled() {
            return Ok(i + 1);
        }
    }
    Ok(chunks.len())
}

/// What the file holds. docs/json.md describes the fields.
#[derive(Serialize)]
struct Summary {
    output: String,
    tensors: usize,
    chunks: u32,
    chunk_size: u32,
    /// Matrices of experts, and those of them that no token chose.
    experts: usize,
    unused_experts: usize,
}

impl Summary {
    fn new(matrix: &ImportanceMatrix, output: &Path) -> Self {
        let experts = || matrix.entries.values().filter(|e| e.counts.len() > 1);
        Summary {
            output: output.display().to_string(),
            tensors: matrix.entries.len(),
            chunks: matrix.chunks,
            chunk_size: matrix.chunk_size,
            experts: experts().map(|e| e.counts.len()).sum(),
            unused_experts: experts().map(Entry::unseen).sum(),
        }
    }

    fn text(&self) -> String {
        let unused = match self.unused_experts {
            0 => String::new(),
            n => format!("; {n} of {} matrices of experts met no token", self.experts),
        };
        format!(
            "{} written: {} over {} of {} tokens{unused}\n",
            streams::harmless(&self.output),
            Count(self.tensors, "tensor"),
            Count(self.chunks as usize, "chunk"),
            self.chunk_size
        )
    }
}
