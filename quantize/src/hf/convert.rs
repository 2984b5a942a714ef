//! What an architecture's conversion is written with: keys under its prefix, tensors under their new names.

use std::sync::Arc;

use ggml_sys::gguf::{Value, Writer};
use ggml_sys::{GgmlType, Shape};

use super::Folder;
use super::checkpoint::Checkpoint;
use super::contents::{Computed, Float, Interleaved, KeysTransposed, Stack, UpProjection, Values, Weights};
use super::json::Object;
use crate::error::{Error, Result};
use crate::source::{Contents, SourceTensor, Stored};

/// A conversion that is under way.
pub(super) struct Conversion<'a> {
    pub folder: &'a Folder<'a>,
    /// config.json.
    pub config: &'a Object,
    /// `general.architecture`, and the prefix of keys.
    pub arch: &'static str,
    pub checkpoint: Checkpoint,
    /// The keys.
    pub keys: Writer,
    /// The tensors.
    pub tensors: Vec<SourceTensor>,
}

/// How the rows of a matrix are to be ordered.
#[derive(Clone, Copy)]
pub(super) enum Rows {
    /// As they are.
    Same,
    /// Halves of heads of so many rows interleaved.
    Interleaved(usize),
}

/// The product of dimensions that a file gives.
pub(super) fn product(config: &Object, key: &str, factors: &[usize]) -> Result<usize> {
    let product = factors.iter().try_fold(1usize, |n, f| n.checked_mul(*f));
    product.ok_or_else(|| config.invalid(key, "makes tensors too large"))
}

impl Conversion<'_> {
    /// Sets `{arch}.{key}`.
    pub fn key(&mut self, key: &str, value: impl Into<Value>) {
        self.keys.set(&format!("{}.{key}", self.arch), value);
    }

    /// Sets `{arch}.{key}` to the count `name` of config.json, if that is there.
    pub fn copy_count(&mut self, name: &str, key: &str) -> Result<()> {
        if let Some(n) = self.config.find_count(name)? {
            self.key(key, n);
        }
        Ok(())
    }

    /// A positive count of config.json.
    pub fn dim(&self, name: &str) -> Result<usize> {
        match self.config.count(name)? {
            0 => Err(self.config.invalid(name, "is 0")),
            n => Ok(n as usize),
        }
    }

    /// As [`Self::dim`], `None` if it is not there.
    pub fn find_dim(&self, name: &str) -> Result<Option<usize>> {
        if self.config.get(name).is_some() { self.dim(name).map(Some) } else { Ok(None) }
    }

    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Weights> {
        self.checkpoint.take(self.folder, name, shape)
    }

    /// Adds a tensor of these dimensions, the fastest first.
    fn add(
        &mut self,
        name: &str,
        dims: &[usize],
        (stored, bytes): (Stored, u64),
        contents: impl Contents + 'static,
    ) -> Result<()> {
        let bad = || Error::tensor(self.folder.path, name, format!("{dims:?} is too large"));
        let shape = Shape::new(dims).ok_or_else(bad)?;
        let (name, kept, contents) = (name.into(), GgmlType::F32, Arc::new(contents));
        self.tensors.push(SourceTensor { name, shape, stored, kept, bytes, file: 0, contents });
        Ok(())
    }

    /// A matrix or vector of this shape, the slowest dimension first.
    pub fn tensor(&mut self, from: &str, to: &str, shape: &[usize], rows: Rows) -> Result<()> {
        let weights = self.take(from, shape)?;
        let dims: Vec<usize> = shape.iter().rev().copied().collect();
        let stored = stored(&weights);
        match rows {
            Rows::Same => self.add(to, &dims, stored, weights),
            Rows::Interleaved(head) => self.add(to, &dims, stored, Interleaved { weights, head }),
        }
    }

    /// As [`Self::tensor`], if it is there.
    pub fn find_tensor(&mut self, from: &str, to: &str, shape: &[usize], rows: Rows) -> Result<()> {
        if self.checkpoint.has(from) { self.tensor(from, to, shape, rows) } else { Ok(()) }
    }

    /// The matrices `from(0..n)` of one shape, in one tensor.
    pub fn stack(
        &mut self,
        from: impl Fn(usize) -> String,
        to: &str,
        n: usize,
        shape: [usize; 2],
    ) -> Result<()> {
        // One after the other, not with room for `n`: a file may claim any number.
        let mut parts = Vec::new();
        for i in 0..n {
            parts.push(self.take(&from(i), &shape)?);
        }
        let bytes = parts.iter().fold(0u64, |sum, w| sum.saturating_add(w.bytes.len() as u64));
        let ty = parts.first().map_or(Stored::Fp8, |w| stored(w).0);
        self.add(to, &[shape[1], shape[0], n], (ty, bytes), Stack(parts))
    }

    /// The up-projection of latent attention, `[n_head * (n_nope + n_v), rank]`, as keys, transposed, and values.
    pub fn up_projection(
        &mut self,
        from: &str,
        [keys, values]: [&str; 2],
        n_head: usize,
        [n_nope, n_v]: [usize; 2],
        rank: usize,
    ) -> Result<()> {
        let n = n_nope.checked_add(n_v).and_then(|n| n.checked_mul(n_head));
        let n = n.ok_or_else(|| self.config.invalid("num_attention_heads", "makes tensors too large"))?;
        let weights = self.take(from, &[n, rank])?;
        let (ty, bytes) = stored(&weights);
        // Of the bytes, each gets its share.
        let key_bytes = bytes / (n_nope + n_v) as u64 * n_nope as u64;
        let up = Arc::new(UpProjection { weights, n_nope, n_v });
        self.add(keys, &[n_nope, rank, n_head], (ty, key_bytes), KeysTransposed(up.clone()))?;
        self.add(values, &[rank, n_v, n_head], (ty, bytes - key_bytes), Values(up))
    }

    /// A vector that is in no file.
    pub fn computed(&mut self, to: &str, values: Vec<f32>) -> Result<()> {
        let stored = (Stored::Ggml(GgmlType::F32), 0);
        self.add(to, &[values.len()], stored, Computed(values))
    }
}

/// How weights are stored, and in how many bytes.
fn stored(weights: &Weights) -> (Stored, u64) {
    let ty = match weights.float {
        Float::F32 => Stored::Ggml(GgmlType::F32),
        Float::F16 => Stored::Ggml(GgmlType::F16),
        Float::BF16 => Stored::Ggml(GgmlType::BF16),
        Float::Fp8(_) => Stored::Fp8,
    };
    (ty, weights.bytes.len() as u64)
}
