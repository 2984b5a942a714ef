//! What an architecture reads of a file: hyperparameters under its prefix, and tensors whose shapes are checked.

use ggml_sys::gguf::{Gguf, Metadata, Value};
use ggml_sys::graph::{WeightId, Weights};
use ggml_sys::{GgmlType, Shape, Tensor};

use crate::error::{Error, Result};

/// More layers than any model has. Guards loops over a number from the file.
pub const MAX_LAYERS: usize = 4096;

/// Reads one file for one architecture and collects the weights it takes.
pub struct Loader<'a> {
    gguf: &'a Gguf,
    arch: &'a str,
    /// The weights taken so far.
    pub weights: Weights,
}

impl<'a> Loader<'a> {
    /// A reader for the architecture that the file names.
    pub fn new(gguf: &'a Gguf, arch: &'a str) -> Self {
        Loader { gguf, arch, weights: Weights::default() }
    }

    /// The file's metadata.
    pub fn metadata(&self) -> &'a Metadata {
        self.gguf.metadata()
    }

    /// The name of the file, for messages.
    pub fn file(&self) -> String {
        self.gguf.path().display().to_string()
    }

    /// An error about the metadata of this file.
    pub fn config_error(&self, what: impl Into<String>) -> Error {
        Error::Config { file: self.file(), what: what.into() }
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    /// `ARCH.key` as a positive integer. A list counts if all its elements are the same, since some converters
    /// write one number a layer.
    pub fn find_usize(&self, key: &str) -> Result<Option<usize>> {
        let key = self.key(key);
        let value = match self.metadata().get(&key) {
            Some(Value::Array(_)) => {
                let all = self.metadata().require_u32s(&key)?;
                let first = all.first().copied();
                if all.iter().any(|v| Some(*v) != first) {
                    return Err(self
                        .config_error(format!("{key} differs from layer to layer, which is not supported")));
                }
                first.map(|v| v as usize)
            }
            _ => self.metadata().usize(&key)?,
        };
        match value {
            // Dimensions beyond 32 bits make no sense, and below they can be multiplied without care.
            Some(v) if v > u32::MAX as usize => {
                Err(self.config_error(format!("{key} is {v}, beyond any sense")))
            }
            v => Ok(v),
        }
    }

    /// As [`Loader::find_usize`], an error if the key is missing or zero.
    pub fn usize(&self, key: &str) -> Result<usize> {
        match self.find_usize(key)? {
            Some(0) => Err(self.config_error(format!("{} is 0", self.key(key)))),
            Some(v) => Ok(v),
            None => Ok(self.metadata().require_usize(&self.key(key))?),
        }
    }

    /// `ARCH.key` as a number, if it is there. It must be finite.
    pub fn find_f32(&self, key: &str) -> Result<Option<f32>> {
        let value = self.metadata().f32(&self.key(key))?;
        match value {
            Some(v) if !v.is_finite() => Err(self.config_error(format!("{} is {v}", self.key(key)))),
            v => Ok(v),
        }
    }

    /// `ARCH.key` as a boolean, if it is there.
    pub fn find_bool(&self, key: &str) -> Result<Option<bool>> {
        Ok(self.metadata().bool(&self.key(key))?)
    }

    /// `ARCH.key` as a string, if it is there.
    pub fn find_str(&self, key: &str) -> Result<Option<&'a str>> {
        Ok(self.metadata().str(&self.key(key))?)
    }

    /// Number of layers, within reason.
    pub fn n_layer(&self) -> Result<usize> {
        let n = self.usize("block_count")?;
        if n > MAX_LAYERS {
            return Err(self.config_error(format!("{} is {n}, beyond any sense", self.key("block_count"))));
        }
        Ok(n)
    }

    /// The tensor, if the file has it.
    pub fn find(&self, name: &str) -> Option<&'a Tensor> {
        self.gguf.tensor(name)
    }

    /// Whether the file has the tensor.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn checked(&self, name: &str, dims: &[usize]) -> Result<&'a Tensor> {
        let shape = Shape::new(dims)
            .ok_or_else(|| self.config_error(format!("tensor {name} would have the shape {dims:?}")))?;
        let t = self.find(name).ok_or_else(|| Error::MissingTensor {
            file: self.file(),
            name: name.into(),
            expected: shape.to_string(),
        })?;
        if t.shape() != shape {
            return Err(Error::TensorShape {
                file: self.file(),
                name: name.into(),
                found: t.shape().to_string(),
                expected: shape.to_string(),
            });
        }
        Ok(t)
    }

    /// A weight matrix (or stack of them) of this shape, the row length first.
    pub fn matrix(&mut self, name: &str, dims: &[usize]) -> Result<WeightId> {
        let t = self.checked(name, dims)?;
        Ok(self.weights.add(t.clone()))
    }

    /// As [`Loader::matrix`], `None` if the file has no such tensor.
    pub fn find_matrix(&mut self, name: &str, dims: &[usize]) -> Result<Option<WeightId>> {
        if self.has(name) { self.matrix(name, dims).map(Some) } else { Ok(None) }
    }

    /// A vector (norm weights, a bias), as F32 whatever the file has.
    pub fn vector(&mut self, name: &str, n: usize) -> Result<WeightId> {
        let t = self.checked(name, &[n])?;
        if t.ty() == GgmlType::F32 {
            return Ok(self.weights.add(t.clone()));
        }
        let values = t.to_f32();
        let made = Tensor::from_f32(name, t.shape(), &values)
            .ok_or_else(|| self.config_error(format!("tensor {name} cannot be read as F32")))?;
        Ok(self.weights.add(made))
    }

    /// As [`Loader::vector`], `None` if the file has no such tensor.
    pub fn find_vector(&mut self, name: &str, n: usize) -> Result<Option<WeightId>> {
        if self.has(name) { self.vector(name, n).map(Some) } else { Ok(None) }
    }
}
