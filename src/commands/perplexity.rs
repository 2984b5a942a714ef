//! `fathom perplexity`: how well a model predicts a text, and how two models differ.
//!
//! Perplexity is e to the mean negative log-likelihood of the tokens. As llama.cpp does, the text is
//! cut into windows, each read by itself, and the second half of each counts, so that every token
//! has at least half a window before it.

use std::fmt::Write;
use std::ops::Range;

use models::tokenizer::TokenId;
use models::{Session, Want};
use serde::Serialize;

use super::logits::Material;
use super::statistics;
use crate::cli::args::{PerplexityArgs, ScoreArg};
use crate::cli::lookup::Lookup;
use crate::cli::settings::{Context, EngineSettings, Source};
use crate::failure::{Failure, Outcome, Result};
use crate::model::{self, Loaded};
use crate::size::Count;
use crate::streams;
use crate::term::progress::{Display, Progress, Unit};

/// Tokens of a window, as in llama.cpp.
pub(super) const WINDOW: usize = 512;

/// A piece of the text that is read by itself. Of its tokens, those of `scored` count.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub tokens: Vec<TokenId>,
    /// Where its first token stands in the text.
    start: usize,
    scored: Range<usize>,
}

/// Measures, and prints what came of it.
///
/// # Errors
/// If the models or the text cannot be used.
pub fn perplexity(args: &PerplexityArgs, lookup: &Lookup, quiet: bool) -> Result<Outcome> {
    let settings = EngineSettings { longer_batches: false, ..EngineSettings::new(&args.engine)? };
    let base = match &args.kl_base {
        Some(name) => Some(lookup.model(name)?),
        None => None,
    };
    let (source, material) = Material::read(&args.text, args.tokens.as_deref(), lookup)?;
    model::announce(&source);
    let loaded = model::load(&source, settings.loading, quiet)?;
    let base = base.map(|path| model::load(&Source::Named(path), settings.loading, quiet)).transpose()?;
    if let Some(base) = &base {
        same_vocabulary(&loaded, base)?;
    }
    let documents = args.score == ScoreArg::Documents;
    let parse_special = args.text.parse_special || documents;
    let tokens = material.tokens(&loaded.tokenizer, parse_special, loaded.model.base().n_vocab)?;
    let windows = match args.score {
        ScoreArg::Documents => documents_of(&tokens, loaded.tokenizer.bos())?,
        score => {
            let size = match settings.context {
                Context::Fitting => WINDOW,
                Context::Full => loaded.model.base().n_ctx_train,
                Context::Tokens(n) => n,
            };
            let bos = loaded.tokenizer.bos().filter(|_| loaded.tokenizer.add_bos() && args.tokens.is_none());
            windows_of(&tokens, size, score == ScoreArg::Half, bos)?
        }
    };
    let longest = windows.iter().map(|w| w.tokens.len()).max().unwrap_or(0);
    let mut sessions = Vec::new();
    for loaded in std::iter::once(&loaded).chain(&base) {
        sessions.push(loaded.session(&settings, Context::Tokens(longest))?);
    }
    let measured = measure(&windows, &mut sessions, settings.n_batch, quiet)?;
    let report = Report::new(&loaded, base.as_ref(), &windows, &measured, tokens.len());
    streams::print(&if args.json { serde_json::to_string(&report)? + "\n" } else { report.text() })?;
    Ok(Outcome::Done)
}

fn same_vocabulary(a: &Loaded, b: &Loaded) -> Result<()> {
    let sizes = [a, b].map(|m| (m.model.base().n_vocab, m.tokenizer.n_vocab()));
    let tokens = 0..u32::try_from(a.tokenizer.n_vocab()).unwrap_or(u32::MAX);
    let differs = |what| {
        let what = format!("{} and {} have different vocabularies: {what}", a.name, b.name);
        Failure::new(what).or_hint("a divergence needs two models of the same vocabulary")
    };
    if sizes[0] != sizes[1] {
        return Err(differs(format!("{} and {} rows", sizes[0].0, sizes[1].0)));
    }
    match tokens.into_iter().find(|&id| a.tokenizer.piece(id) != b.tokenizer.piece(id)) {
        Some(id) => Err(differs(format!("token {id} is not the same"))),
        None => Ok(()),
    }
}

/// Windows of `size` tokens, one after another; an incomplete one at the end is left out. Where
/// texts begin with BOS, it takes the place of each window's first token.
pub(super) fn windows_of(
    tokens: &[TokenId],
    size: usize,
    half: bool,
    bos: Option<TokenId>,
) -> Result<Vec<Window>> {
    if size < 2 {
        return Err(Failure::usage("a window has at least 2 tokens", "use a larger -c"));
    }
    if tokens.len() < size {
        let what = format!("the text has {}, less than a window of {size}", Count(tokens.len(), "token"));
        return Err(Failure::usage(what, "give a longer text, or a shorter window with -c"));
    }
    let first = if half { size / 2 + 1 } else { 1 };
    let window = |(i, chunk): (usize, &[TokenId])| {
        let mut tokens = chunk.to_vec();
        if let Some(bos) = bos {
            tokens[0] = bos;
        }
        Window { tokens, start: i * size, scored: first.min(size - 1)..size }
    };
    Ok(tokens.chunks_exact(size).enumerate().map(window).collect())
}

/// A window for each BOS and what follows it.
fn documents_of(tokens: &[TokenId], bos: Option<TokenId>) -> Result<Vec<Window>> {
    let bos = bos.ok_or_else(|| {
        Failure::new("the model has no BOS token, with which texts begin")
            .or_hint("use windows: --score half")
    })?;
    let mut start = 0;
    let mut windows = Vec::new();
    for document in tokens.chunk_by(|_, next| *next != bos) {
        if document[0] == bos && document.len() > 1 {
            windows.push(Window { tokens: document.to_vec(), start, scored: 1..document.len() });
        }
        start += document.len();
    }
    if windows.is_empty() {
        return Err(Failure::usage(
            "no text begins with BOS",
            "write it out where each text begins, or use --score all",
        ));
    }
    Ok(windows)
}

/// What is known of each scored token.
#[derive(Default)]
struct Measured {
    /// Negative log-likelihood, in nats.
    nll: Vec<f64>,
    /// The same by the model compared with.
    base_nll: Vec<f64>,
    /// Kullback-Leibler divergence from the base's probabilities.
    kl: Vec<f64>,
    /// Whether both think the same token likeliest.
    same_top: Vec<bool>,
}

/// Runs each window through the sessions side by side: the model, and one to compare with.
fn measure(windows: &[Window], sessions: &mut [Session], n_batch: usize, quiet: bool) -> Result<Measured> {
    let mut measured = Measured::default();
    let total = windows.iter().map(|w| w.tokens.len() as u64).sum();
    let mut progress = Progress::new(Display::of_stderr(quiet), "measuring", Unit::Tokens);
    let mut done = 0;
    for window in windows {
        sessions.iter_mut().for_each(|s| s.truncate(0));
        // The logits at a position are for the next token, so the last token is not needed.
        let (unscored, scored) = window.tokens[..window.scored.end - 1].split_at(window.scored.start - 1);
        for (part, want) in [(unscored, Want::Nothing), (scored, Want::All)] {
            for piece in part.chunks(n_batch) {
                let at = sessions[0].tokens().len();
                let logits: Vec<Vec<f32>> =
                    sessions.iter_mut().map(|s| s.eval(piece, want)).collect::<Result<_, models::Error>>()?;
                if want == Want::All {
                    measured.add(&logits, &window.tokens[at + 1..][..piece.len()]);
                }
            }
        }
        done += window.tokens.len() as u64;
        progress.update(done, total);
    }
    Ok(measured)
}

impl Measured {
    /// Adds the tokens `next` that follow the positions of `logits`, `[positions, n_vocab]` each.
    fn add(&mut self, logits: &[Vec<f32>], next: &[TokenId]) {
        let n_vocab = logits[0].len() / next.len();
        for (i, &token) in next.iter().enumerate() {
            let row = |m: usize| &logits[m][i * n_vocab..][..n_vocab];
            let q = log_softmax(row(0));
            self.nll.push(-q[token as usize]);
            if logits.len() > 1 {
                let p = log_softmax(row(1));
                self.base_nll.push(-p[token as usize]);
                self.kl.push(divergence(&p, &q));
                self.same_top.push(top(&p) == top(&q));
            }
        }
    }
}

/// Logarithms of probabilities, in nats.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
    let log_sum = sum.ln();
    logits.iter().map(|&l| f64::from(l - max) - log_sum).collect()
}

/// KL(P‖Q) = Σ p·(ln p − ln q).
fn divergence(p: &[f64], q: &[f64]) -> f64 {
    let terms = p.iter().zip(q).map(|(&p, &q)| if p == f64::NEG_INFINITY { 0.0 } else { p.exp() * (p - q) });
    // Rounding can leave a tiny negative sum.
    terms.sum::<f64>().max(0.0)
}

fn top(p: &[f64]) -> Option<usize> {
    (0..p.len()).rev().max_by(|&a, &b| p[a].total_cmp(&p[b]))
}

/// Everything that was measured. docs/json.md describes the fields.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    perplexity: f64,
    /// Half the width of the interval of one standard error.
    perplexity_error: f64,
    nll: f64,
    tokens: usize,
    scored_tokens: usize,
    windows: usize,
    kl: Option<Divergence<'a>>,
    per_token: PerToken<'a>,
}

#[derive(Serialize)]
struct Divergence<'a> {
    base: &'a str,
    base_perplexity: f64,
    mean: f64,
    mean_error: f64,
    median: f64,
    p99: f64,
    max: f64,
    /// Share of positions at which both think the same token likeliest.
    same_top: f64,
}

/// Arrays of the same length, an element for each scored token.
#[derive(Serialize)]
struct PerToken<'a> {
    /// Where in the text it stands.
    position: Vec<usize>,
    id: Vec<TokenId>,
    nll: &'a [f64],
    kl: Option<&'a [f64]>,
}

impl<'a> Report<'a> {
    fn new(
        loaded: &'a Loaded,
        base: Option<&'a Loaded>,
        windows: &[Window],
        measured: &'a Measured,
        n_tokens: usize,
    ) -> Self {
        let (nll, error) = (statistics::mean(&measured.nll), statistics::mean_error(&measured.nll));
        let scored =
            || windows.iter().flat_map(|w| w.scored.clone().map(move |i| (w.start + i, w.tokens[i])));
        Report {
            model: &loaded.name,
            perplexity: nll.exp(),
            perplexity_error: nll.exp() * error,
            nll,
            tokens: n_tokens,
            scored_tokens: measured.nll.len(),
            windows: windows.len(),
            kl: base.map(|base| Divergence::new(base, measured)),
            per_token: PerToken {
                position: scored().map(|t| t.0).collect(),
                id: scored().map(|t| t.1).collect(),
                nll: &measured.nll,
                kl: base.map(|_| &*measured.kl),
            },
        }
    }

    fn text(&self) -> String {
        let mut out = format!(
            "perplexity  {:.4} ± {:.4}  ({} of {} tokens, {})\n",
            self.perplexity,
            self.perplexity_error,
            self.scored_tokens,
            self.tokens,
            Count(self.windows, "window"),
        );
        if let Some(kl) = &self.kl {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "of {}  {:.4}", kl.base, kl.base_perplexity);
            let _ = writeln!(
                out,
                "divergence  mean {:.6} ± {:.6}, median {:.6}, 99 % {:.6}, maximum {:.6} nats",
                kl.mean, kl.mean_error, kl.median, kl.p99, kl.max
            );
            let _ = writeln!(out, "same token likeliest  {:.2} %", kl.same_top * 100.0);
        }
        out
    }
}

impl<'a> Divergence<'a> {
    fn new(base: &'a Loaded, measured: &Measured) -> Self {
        let same = measured.same_top.iter().filter(|same| **same).count();
        Divergence {
            base: &base.name,
            base_perplexity: statistics::mean(&measured.base_nll).exp(),
            mean: statistics::mean(&measured.kl),
            mean_error: statistics::mean_error(&measured.kl),
            median: statistics::median(&measured.kl),
            p99: statistics::quantile(&measured.kl, 0.99),
            max: statistics::quantile(&measured.kl, 1.0),
            same_top: same as f64 / measured.same_top.len().max(1) as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_half_of_each_window_counts() {
        let tokens: Vec<TokenId> = (10..31).collect();
        let windows = windows_of(&tokens, 8, true, Some(0)).unwrap();
        assert_eq!(windows.len(), 2);
        // llama.cpp scores n - n/2 - 1 tokens of a window of n.
        assert_eq!(windows[1].scored, 5..8);
        assert_eq!(windows[1].start, 8);
        assert_eq!(windows[1].tokens, [0, 19, 20, 21, 22, 23, 24, 25]);
        assert_eq!(windows_of(&tokens, 21, false, None).unwrap()[0].scored, 1..21);
        assert_eq!(windows_of(&tokens, 2, true, None).unwrap()[0].scored, 1..2);
        assert!(windows_of(&tokens, 22, true, None).is_err());
        assert!(windows_of(&tokens, 1, true, None).is_err());
    }

    #[test]
    fn documents_begin_with_bos() {
        let windows = documents_of(&[5, 0, 1, 2, 0, 0, 3], Some(0)).unwrap();
        let starts: Vec<_> = windows.iter().map(|w| (w.start, w.tokens.len(), w.scored.clone())).collect();
        assert_eq!(starts, [(1, 3, 1..3), (5, 2, 1..2)]);
        assert!(documents_of(&[1, 2], Some(0)).is_err());
        assert!(documents_of(&[1, 2], None).is_err());
    }

    #[test]
    fn divergence_is_that_of_the_definition() {
        let ln = |p: [f64; 3]| p.map(|p: f64| (p.ln() + 7.0) as f32);
        let (p, q) = (log_softmax(&ln([0.5, 0.25, 0.25])), log_softmax(&ln([0.25, 0.25, 0.5])));
        let expected = 0.5 * (2f64).ln() - 0.25 * (2f64).ln();
        assert!((divergence(&p, &q) - expected).abs() < 1e-6);
        assert_eq!(divergence(&p, &p), 0.0);
        assert_eq!((top(&p), top(&q)), (Some(0), Some(2)));
        let sure = log_softmax(&[0.0, f32::NEG_INFINITY, f32::NEG_INFINITY]);
        assert!((divergence(&sure, &q) - (4f64).ln()).abs() < 1e-6);
    }
}
