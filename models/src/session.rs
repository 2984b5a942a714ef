//! One conversation: the tokens so far and the cache that belongs to them.

use std::ops::ControlFlow;

use ggml_sys::graph::Row;

use crate::engine::{Engine, StepOutput};
use crate::error::{Error, Result};

/// Which logits [`Session::eval`] gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Of the last token only.
    Last,
    /// Of every token.
    All,
    /// None.
    Nothing,
}

/// The sequence that a session uses.
pub(crate) const SEQ: u32 = 0;

/// A sequence of tokens with its cache.
pub struct Session {
    pub(crate) engine: Engine,
    pub(crate) tokens: Vec<u32>,
}

impl Session {
    /// An empty sequence.
    pub fn new(engine: Engine) -> Session {
        Session { engine, tokens: vec![] }
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The engine, to be told what to watch.
    pub fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// Positions that fit.
    pub fn n_ctx(&self) -> usize {
        self.engine.options().n_ctx
    }

    /// Tokens that the cache holds.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Cuts back to `len` tokens; longer than it is changes nothing.
    pub fn truncate(&mut self, len: usize) {
        if len < self.tokens.len() {
            self.tokens.truncate(len);
            self.engine.cache_mut().truncate(SEQ, len);
        }
    }

    /// Keeps what `tokens` and the cache have in common, so that only the rest of `tokens` need be processed; gives the number
    /// kept. At least one token is left to process.
    pub fn keep_prefix(&mut self, tokens: &[u32]) -> usize {
        let same = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let keep = same.min(tokens.len().saturating_sub(1));
        self.truncate(keep);
        keep
    }

    /// Appends tokens and gives the logits that are wanted, `[positions, n_vocab]`.
    pub fn eval(&mut self, tokens: &[u32], want: Want) -> Result<Vec<f32>> {
        let mut all = vec![];
        let _ = self.eval_with(tokens, want, &mut |_, logits| {
            all.extend_from_slice(logits);
            ControlFlow::Continue(())
        })?;
        Ok(all)
    }

    /// As [`Session::eval`], handing over piece by piece: the number of tokens done so far and the piece's logits. On
    /// `Break` it stops between two pieces and keeps what has been processed.
    ///
    /// # Errors
    /// [`Error::ContextFull`] before anything is done if the tokens do not fit.
    pub fn eval_with(
        &mut self,
        tokens: &[u32],
        want: Want,
        on_piece: &mut dyn FnMut(usize, &[f32]) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let (n, n_ctx) = (self.tokens.len(), self.n_ctx());
        if n + tokens.len() > n_ctx {
            return Err(Error::ContextFull { needed: n + tokens.len(), n_ctx });
        }
        let mut done = 0;
        for piece in tokens.chunks(self.engine.options().n_batch) {
            let row = |(i, &token): (usize, &u32)| Row {
                token,
                // The context fits 32 bits, and so does every position in it.
                pos: (n + done + i) as u32,
                seq: SEQ,
                output: want == Want::All || (want == Want::Last && done + i + 1 == tokens.len()),
            };
            let rows: Vec<Row> = piece.iter().enumerate().map(row).collect();
            let output = match self.engine.step(&rows) {
                Err(Error::Compute(e @ ggml_sys::Error::Device { .. })) => self.step_elsewhere(e, &rows)?,
                output => output?,
            };
            self.tokens.extend_from_slice(piece);
            done += piece.len();
            if on_piece(done, &output.logits).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// After a device failed: processes all tokens again on the fallback, and then the rows.
    ///
    /// # Errors
    /// The device's if there is no fallback.
    fn step_elsewhere(&mut self, e: ggml_sys::Error, rows: &[Row]) -> Result<StepOutput> {
        if !self.engine.fall_back()? {
            return Err(e.into());
        }
        log::warn!("{e}; going on with {}", self.engine.backend().name());
        let n_batch = self.engine.options().n_batch;
        for (i, piece) in self.tokens.chunks(n_batch).enumerate() {
            let row = |(j, &token): (usize, &u32)| Row {
                token,
                pos: (i * n_batch + j) as u32,
                seq: SEQ,
                output: false,
            };
            self.engine.step(&piece.iter().enumerate().map(row).collect::<Vec<_>>())?;
        }
        self.engine.step(rows)
    }
}
