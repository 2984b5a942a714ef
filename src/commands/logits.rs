//! `fathom logits`: what people compare engines with.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use models::Want;
use models::tokenizer::{Encode, TokenId, Tokenizer};

use crate::cli::args::{LogitsArgs, TextArgs};
use crate::cli::lookup::Lookup;
use crate::cli::settings::{self, Context, EngineSettings, Source};
use crate::failure::{Failure, Outcome, Result};
use crate::term::interrupt::Guard;
use crate::term::progress::{Display, Progress, Unit};
use crate::{input, model};

/// What `logits` and `perplexity` compute on, before the model is loaded.
pub enum Material {
    Text(String),
    Tokens(Vec<TokenId>),
}

impl Material {
    /// Reads it, and says which model is meant.
    ///
    /// # Errors
    /// If there is none, or both kinds.
    pub fn read(text: &TextArgs, tokens: Option<&Path>, lookup: &Lookup) -> Result<(Source, Material)> {
        let Some(path) = tokens else {
            let (source, text) = super::text(text, lookup)?;
            return Ok((source, Material::Text(text)));
        };
        let choice = settings::choose(&text.model, &text.words, lookup)?;
        if !choice.words.is_empty() || choice.stdin || text.file.is_some() {
            return Err(Failure::usage("there are a text and --tokens", "leave one of them out"));
        }
        Ok((choice.source, Material::Tokens(input::tokens(path)?)))
    }

    /// The tokens: those of a text with what the model wants around it.
    ///
    /// # Errors
    /// If there are none, or the model does not have them.
    pub fn tokens(self, tokenizer: &Tokenizer, parse_special: bool, n_vocab: usize) -> Result<Vec<TokenId>> {
        let tokens = match self {
            Material::Tokens(tokens) => tokens,
            Material::Text(text) => tokenizer.encode(&text, Encode { add_special: true, parse_special }),
        };
        if tokens.is_empty() {
            return Err(Failure::usage("there are no tokens", "give a text that is not empty"));
        }
        model::check_tokens(&tokens, n_vocab)?;
        Ok(tokens)
    }
}

/// Writes the logits at every position, or the last few, to a safetensors file.
///
/// # Errors
/// If the model or the text cannot be used, or the file not be written.
pub fn logits(args: &LogitsArgs, lookup: &Lookup, quiet: bool) -> Result<Outcome> {
    let settings = EngineSettings { longer_batches: false, ..EngineSettings::new(&args.engine)? };
    if args.last == Some(0) {
        return Err(Failure::usage("--last is 0", "it is at least 1"));
    }
    let (source, material) = Material::read(&args.text, args.tokens.as_deref(), lookup)?;
    model::announce(&source);
    let loaded = model::load(&source, settings.loading, quiet)?;
    let n_vocab = loaded.model.base().n_vocab;
    let tokens = material.tokens(&loaded.tokenizer, args.text.parse_special, n_vocab)?;
    let context = match settings.context {
        Context::Fitting => Context::Tokens(tokens.len()),
        asked => asked,
    };
    let mut session = loaded.session(&settings, context)?;
    if tokens.len() > session.n_ctx() {
        let what = format!("there are {} tokens and the context is {}", tokens.len(), session.n_ctx());
        return Err(Failure::new(what).or_hint(format!("-c {} fits", tokens.len())));
    }
    let first = tokens.len() - args.last.unwrap_or(tokens.len()).min(tokens.len());
    let output = quantize::Output::create(&args.output, [], true)?;
    let mut file = Tensors::new(&args.output, &output, [tokens.len() - first, n_vocab])?;
    let mut progress = Progress::new(Display::of_stderr(quiet), "computing", Unit::Tokens);
    let guard = Guard::new();
    let mut at = 0;
    for piece in tokens.chunks(settings.n_batch) {
        // The pieces are the same whatever is wanted of them, so that the logits are, too.
        let skipped = first.saturating_sub(at);
        let want = if skipped < piece.len() { Want::All } else { Want::Nothing };
        let logits = session.eval(piece, want)?;
        if want == Want::All {
            file.append(&logits[skipped * n_vocab..])?;
        }
        at += piece.len();
        progress.update(at as u64, tokens.len() as u64);
        if guard.is_cancelled() {
            return Ok(Outcome::Interrupted);
        }
    }
    file.finish()?;
    output.commit()?;
    Ok(Outcome::Done)
}

/// A safetensors file with one F32 tensor, written row by row.
struct Tensors<'a> {
    path: &'a Path,
    file: BufWriter<&'a File>,
}

impl<'a> Tensors<'a> {
    fn new(path: &'a Path, output: &'a quantize::Output, shape: [usize; 2]) -> Result<Self> {
        let mut tensors = Tensors { path, file: BufWriter::new(output.file()) };
        tensors.write(&header(shape))?;
        Ok(tensors)
    }

    fn append(&mut self, values: &[f32]) -> Result<()> {
        let mut bytes = [0; 4096];
        for values in values.chunks(bytes.len() / 4) {
            for (bytes, value) in bytes.chunks_exact_mut(4).zip(values) {
                bytes.copy_from_slice(&value.to_le_bytes());
            }
            self.write(&bytes[..values.len() * 4])?;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| self.failed(&e))
    }

    fn finish(mut self) -> Result<()> {
        self.file.flush().map_err(|e| self.failed(&e))
    }

    fn failed(&self, error: &io::Error) -> Failure {
        let what = format!("cannot write {}: {error}", self.path.display());
        Failure::new(what).or_hint("check the space on its disk")
    }
}

/// Length of the description, the description, spaces to a multiple of 8:
/// <https://github.com/huggingface/safetensors#format>.
fn header(shape: [usize; 2]) -> Vec<u8> {
    let bytes = shape[0] as u128 * shape[1] as u128 * 4;
    let mut json = format!(
        r#"{{"logits":{{"dtype":"F32","shape":[{},{}],"data_offsets":[0,{bytes}]}}}}"#,
        shape[0], shape[1]
    );
    json.push_str(&" ".repeat(json.len().next_multiple_of(8) - json.len()));
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(json.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_safetensors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let values: Vec<f32> = (0..3000).map(|i| i as f32 * 0.5).collect();
        let output = quantize::Output::create(&path, [], true).unwrap();
        let mut file = Tensors::new(&path, &output, [3, 1000]).unwrap();
        file.append(&values[..1000]).unwrap();
        file.append(&values[1000..]).unwrap();
        file.finish().unwrap();
        output.commit().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let logits = tensors.tensor("logits").unwrap();
        assert_eq!(logits.shape(), [3, 1000]);
        assert_eq!(logits.dtype(), safetensors::Dtype::F32);
        let read = logits.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        assert!(read.eq(values));
    }
}
