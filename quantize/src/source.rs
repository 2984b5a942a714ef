//! Where a model comes from: its keys, and tensors whose contents are read piece by piece.
//!
//! A [`Plan`](crate::Plan) reads from a [`Source`] and does not know whether a GGUF file or a folder of safetensors is
//! behind it. Whatever conversion needs (rows in another order, experts in one tensor) happens in the
//! [`Contents`] of a tensor while it is read, so that no tensor is ever in memory as a whole.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ggml_sys::gguf::{Access, Gguf, Metadata};
use ggml_sys::{GgmlType, Shape, Tensor};

use crate::error::Result;
use crate::hf;

/// A model that is read. Cheap to clone.
#[derive(Clone)]
pub struct Source(Arc<Inner>);

struct Inner {
    path: PathBuf,
    files: Vec<PathBuf>,
    size: u64,
    metadata: Metadata,
    tensors: Vec<SourceTensor>,
    /// What the tensors are views of, if that is a GGUF file.
    gguf: Option<Gguf>,
}

/// A tensor of a [`Source`].
#[derive(Clone)]
pub struct SourceTensor {
    /// Its name in GGUF files.
    pub name: Arc<str>,
    /// Its dimensions in GGUF files, the fastest first.
    pub shape: Shape,
    /// The type it is stored in.
    pub stored: Stored,
    /// The type it has in a new file that does not convert it.
    pub kept: GgmlType,
    /// Bytes of it in the files.
    pub bytes: u64,
    /// Which of the source's files it is in.
    pub file: usize,
    /// Its values.
    pub contents: Arc<dyn Contents>,
}

/// How the values of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// In one of ggml's types.
    Ggml(GgmlType),
    /// Eight bits with a scale for each 128 × 128 of them: `float8_e4m3fn` with `weight_scale_inv`.
    Fp8,
}

impl Stored {
    /// Its name: `Q4_K`, `F8_E4M3`.
    pub fn name(self) -> &'static str {
        match self {
            Stored::Ggml(ty) => ty.name(),
            Stored::Fp8 => "F8_E4M3",
        }
    }

    /// Elements of a block: what is read begins and ends with whole ones.
    pub fn block(self) -> usize {
        match self {
            Stored::Ggml(ty) => ty.format().block,
            Stored::Fp8 => 1,
        }
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The values of a tensor, row-major, in the order in which a GGUF file has them.
pub trait Contents: Send + Sync {
    /// Reads the elements from `at` on into all of `out`. Both are whole blocks of what is stored.
    ///
    /// # Panics
    /// If there are not so many.
    fn read(&self, at: usize, out: &mut [f32]);

    /// All blocks as a GGUF file has them, where they lie like that in the source.
    fn encoded(&self) -> Option<&[u8]> {
        None
    }

    /// These elements will be read in a moment: they may be fetched meanwhile.
    fn will_need(&self, _elements: Range<usize>) {}

    /// These elements will not be read again: their memory may be given back. They can be read again nevertheless.
    fn release(&self, _elements: Range<usize>) {}
}

impl Source {
    /// A source of one's own. `path` is the file or folder that was named, `files` are all that are read, `size` is how
    /// many bytes they have.
    pub fn new(
        path: PathBuf,
        files: Vec<PathBuf>,
        size: u64,
        metadata: Metadata,
        tensors: Vec<SourceTensor>,
    ) -> Self {
        Source(Arc::new(Inner { path, files, size, metadata, tensors, gguf: None }))
    }

    /// Opens a GGUF file, all shards of it, or a Hugging Face folder.
    ///
    /// # Errors
    /// If it cannot be opened or is not as it should be.
    pub fn open(path: &Path) -> Result<Source> {
        if path.is_dir() { hf::open(path) } else { Ok(Source::from(&Gguf::open(path)?)) }
    }

    /// The file or folder that was named; of a split model, the first file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// All files that are read.
    pub fn files(&self) -> &[PathBuf] {
        &self.0.files
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// The keys of a GGUF file of this model, in their order.
    pub fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    /// The tensors of a GGUF file of this model, in their order.
    pub fn tensors(&self) -> &[SourceTensor] {
        &self.0.tensors
    }

    /// Tells the operating system that the tensors will be read in their order. The tensors of folders lie in another one,
    /// and announce what is read of them.
    pub fn will_be_streamed(&self) {
        if let Some(gguf) = &self.0.gguf {
            gguf.advise(Access::Sequential);
            gguf.announce_reads(true);
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (keys, tensors) = (self.metadata().len(), self.tensors().len());
        write!(f, "{}: {keys} keys, {tensors} tensors", self.path().display())
    }
}

impl From<&Gguf> for Source {
    fn from(gguf: &Gguf) -> Self {
        let counts = gguf.shards().iter().enumerate();
        let files = counts.flat_map(|(file, shard)| std::iter::repeat_n(file, shard.n_tensors()));
        let tensors = gguf.tensors().iter().zip(files).map(|(t, file)| SourceTensor {
            name: t.shared_name().clone(),
            shape: t.shape(),
            stored: Stored::Ggml(t.ty()),
            kept: t.ty(),
            bytes: t.bytes().len() as u64,
            file,
            contents: Arc::new(t.clone()),
        });
        Source(Arc::new(Inner {
            path: gguf.path().into(),
            files: gguf.shards().iter().map(|s| s.path().into()).collect(),
            size: gguf.size(),
            metadata: gguf.metadata().clone(),
            tensors: tensors.collect(),
            gguf: Some(gguf.clone()),
        }))
    }
}

impl From<&Source> for Source {
    fn from(source: &Source) -> Self {
        source.clone()
    }
}

impl Contents for Tensor {
    fn read(&self, at: usize, out: &mut [f32]) {
        let format = self.ty().format();
        let bytes = |n: usize| n / format.block * format.bytes;
        format.decode(&self.bytes()[bytes(at)..][..bytes(out.len())], out);
    }

    fn encoded(&self) -> Option<&[u8]> {
        Some(self.bytes())
    }

    fn will_need(&self, elements: Range<usize>) {
        let n = self.shape().row_len();
        Tensor::will_need(self, elements.start / n..elements.end.div_ceil(n));
    }

    fn release(&self, elements: Range<usize>) {
        let format = self.ty().format();
        let bytes = |n: usize| n / format.block * format.bytes;
        self.shared_bytes().release(bytes(elements.start)..bytes(elements.end));
    }
}
