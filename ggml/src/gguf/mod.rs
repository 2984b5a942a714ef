//! GGUF files: header, metadata, tensor table, shards, writing.
//!
//! A file is a header (`GGUF`, version, counts), key-value pairs, one line per tensor (name,
//! dimensions, type, offset), padding, and the data of the tensors. [`Gguf::open`] maps it into
//! memory and reads all but the data: opening a model of 400 GB touches a few megabytes of it.
//! Nothing that a file says is believed before it is checked; every way in which one can be wrong
//! ends in an [`Error`] of one line that names the file, the key or tensor, and the place.
//!
//! # Limits
//!
//! Versions 2 and 3, little-endian. Keys and names of tensors must be UTF-8; strings may be any
//! bytes, and [`Metadata::str`] refuses those that are not UTF-8. Arrays of arrays are refused, as
//! llama.cpp does; nobody writes them.
//!
//! # Files that change while they are open
//!
//! The contents are read from the file when they are needed, not when it is opened. Who overwrites
//! a model in use changes its weights, and who truncates it ends the process with SIGBUS at the
//! next access to what is gone; no program that maps files can prevent that. Replacing a file by
//! renaming another over it, as fathom itself does, is safe: the map keeps the old one.

mod cursor;
mod error;
mod lookalike;
mod metadata;
mod parse;
mod residence;
mod shards;
mod value;
mod writer;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

pub use error::{Error, ErrorKind, Quoted, Result};
pub use metadata::Metadata;
pub use shards::shard_path;
pub use value::{Array, NumberArray, StringArray, Text, Value, ValueType};
pub use writer::{DataWriter, Layout, Writer};

use crate::tensor::{Owner, Tensor};
use parse::Parsed;
use residence::FileMap;
use shards::Split;

/// The first bytes of every GGUF file.
const MAGIC: &[u8] = b"GGUF";
/// Key of the alignment of tensor data.
const ALIGNMENT_KEY: &str = "general.alignment";
/// Alignment of tensor data where the key is missing.
const DEFAULT_ALIGNMENT: u64 = 32;

/// An open model file, with all its shards. Cheap to clone; tensors keep what they need alive.
#[derive(Clone)]
pub struct Gguf(Arc<Inner>);

struct Inner {
    metadata: Metadata,
    tensors: Vec<Tensor>,
    index: HashMap<Arc<str>, usize>,
    shards: Vec<Shard>,
}

/// One file of a model.
pub struct Shard {
    path: PathBuf,
    size: u64,
    version: u32,
    alignment: u64,
    data_start: u64,
    n_tensors: usize,
    owner: Owner,
    map: Option<Arc<FileMap>>,
}

impl Shard {
    /// The path it was opened by, or the name given to [`Gguf::from_bytes`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What the offsets of tensors are multiples of.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Offset in the file at which the data of tensors starts.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// Tensors in this file.
    pub fn n_tensors(&self) -> usize {
        self.n_tensors
    }
}

/// How the pages of a file will be read, a hint to the operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// No particular way.
    Normal,
    /// From front to back: read ahead much, forget soon.
    Sequential,
    /// Here and there, as chosen experts are: read no more than is asked for.
    Random,
}

impl Gguf {
    /// Maps the file into memory and reads its metadata and tensor table. A shard of a split model
    /// opens all of them, whichever it is.
    ///
    /// # Errors
    /// If the file, or one of its shards, cannot be opened or is not as it should be.
    pub fn open(path: &Path) -> Result<Self> {
        let part = Part::open(path)?;
        let Some(split) = Split::of(&part.parsed.metadata)? else {
            return Self::assemble(vec![part], None);
        };
        let stem = shards::stem(path, split)?;
        let mut parts = Vec::new();
        let mut given = Some(part);
        for no in 0..split.count {
            let part = match given.take_if(|_| no == split.no) {
                Some(part) => part,
                None => Part::open_shard(&shards::path(path, stem, no, split.count), no, split.count)?,
            };
            parts.push(part);
        }
        Self::assemble(parts, Some(split))
    }

    /// Reads a file that is in memory: embedded in the binary, or made by a test. `name` stands for
    /// its path in errors.
    ///
    /// # Errors
    /// If the file is not as it should be, or is one of several shards.
    pub fn from_bytes(owner: Owner, name: &str) -> Result<Self> {
        let part = Part::new(owner, Path::new(name), None)?;
        if let Some(split) = Split::of(&part.parsed.metadata)? {
            let what =
                format!("is shard {} of {}, the others of which cannot be found", split.no + 1, split.count);
            return Err(Error::new(name, ErrorKind::Shards(what)));
        }
        Self::assemble(vec![part], None)
    }

    /// Puts the files of a model together, in order and at least one; the first one's metadata
    /// become the model's.
    fn assemble(parts: Vec<Part>, split: Option<Split>) -> Result<Self> {
        if let Some(split) = split {
            shards::check(parts.iter().map(|p| (&*p.shard.path, &p.parsed)), split)?;
        }
        let metadata = parts[0].parsed.metadata.clone();
        let (mut tensors, mut index, mut shards) = (Vec::new(), HashMap::new(), Vec::new());
        for Part { shard, parsed } in parts {
            for tensor in parsed.tensors {
                if index.insert(tensor.shared_name().clone(), tensors.len()).is_some() {
                    let what = "stands in another shard already";
                    return Err(Error::new(&display(&shard.path), ErrorKind::tensor(tensor.name(), what)));
                }
                tensors.push(tensor);
            }
            shards.push(shard);
        }
        Ok(Gguf(Arc::new(Inner { metadata, tensors, index, shards })))
    }

    /// The keys of the file; of a split model, those of its first shard.
    pub fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    /// All tensors in the order of the file, over all shards.
    pub fn tensors(&self) -> &[Tensor] {
        &self.0.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.0.index.get(name).map(|&i| &self.0.tensors[i])
    }

    /// The files of the model; one unless it is split.
    pub fn shards(&self) -> &[Shard] {
        &self.0.shards
    }

    /// Path of the (first) file.
    pub fn path(&self) -> &Path {
        self.0.shards[0].path()
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.0.shards.iter().map(Shard::size).sum()
    }

    /// Tells the operating system how the files will be read.
    pub fn advise(&self, access: Access) {
        #[cfg(unix)]
        for map in self.maps() {
            let advice = match access {
                Access::Normal => memmap2::Advice::Normal,
                Access::Sequential => memmap2::Advice::Sequential,
                Access::Random => memmap2::Advice::Random,
            };
            hint(map.map.advise(advice));
        }
        #[cfg(not(unix))]
        let _ = access;
    }

    /// The files that are mapped.
    fn maps(&self) -> impl Iterator<Item = &FileMap> {
        self.0.shards.iter().filter_map(|s| s.map.as_deref())
    }
}

/// Maps any file into memory, to be read only; for files of weights in other formats. What the module says about files
/// that change while they are open holds for it too. What [`Bytes::will_need`](crate::Bytes::will_need) announces of it is
/// fetched.
///
/// # Errors
/// If it cannot be opened, or is no regular file.
pub fn map_file(path: &Path) -> Result<Owner> {
    let failed = |source| Error::new(&display(path), ErrorKind::Io { doing: "open", source });
    let meta = std::fs::metadata(path).map_err(failed)?;
    // To open a pipe would wait for its other end.
    if !meta.is_file() {
        let what = if meta.is_dir() { "it is a directory" } else { "it is no regular file" };
        return Err(Error::new(&display(path), ErrorKind::Header(what.into())));
    }
    // Nothing cannot be mapped.
    if meta.len() == 0 {
        return Ok(Arc::new([0u8; 0]));
    }
    let map = map(path)?;
    map.announce_reads(true);
    Ok(map)
}

/// Maps a regular file that has at least one byte.
fn map(path: &Path) -> Result<Arc<FileMap>> {
    let failed = |doing| move |source| Error::new(&display(path), ErrorKind::Io { doing, source });
    let file = File::open(path).map_err(failed("open"))?;
    // SAFETY: the map is only read. That nobody changes the file meanwhile cannot be enforced;
    // the module's documentation says what happens then. Nothing relies on two reads of a byte
    // being equal for memory safety: offsets into the map are checked by slicing each time.
    let map = unsafe { Mmap::map(&file) }.map_err(failed("map"))?;
    Ok(Arc::new(FileMap::new(map)))
}

impl fmt::Debug for Gguf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (keys, tensors) = (self.metadata().len(), self.tensors().len());
        write!(f, "{}: {keys} keys, {tensors} tensors", self.path().display())
    }
}

/// Advice that is not taken costs speed at most.
#[cfg(unix)]
fn hint(result: std::io::Result<()>) {
    if let Err(e) = result {
        log::debug!("madvise: {e}");
    }
}

/// A file that has been read but does not belong to a model yet.
struct Part {
    shard: Shard,
    parsed: Parsed,
}

impl Part {
    fn new(owner: Owner, path: &Path, map: Option<Arc<FileMap>>) -> Result<Self> {
        let parsed = parse::parse(&owner, &display(path).into())?;
        let shard = Shard {
            path: path.into(),
            size: (*owner).as_ref().len() as u64,
            version: parsed.version,
            alignment: parsed.alignment,
            data_start: parsed.data_start,
            n_tensors: parsed.tensors.len(),
            owner,
            map,
        };
        Ok(Part { shard, parsed })
    }

    fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::new(&display(path), ErrorKind::Io { doing: "open", source });
        let meta = std::fs::metadata(path).map_err(failed)?;
        // To open a pipe would wait for its other end.
        if !meta.is_file() {
            let what = if meta.is_dir() { "it is a directory" } else { "it is no regular file" };
            return Err(Error::new(&display(path), ErrorKind::NotGguf(what)));
        }
        if meta.len() == 0 {
            return Part::new(Arc::new([0u8; 0]), path, None);
        }
        let map = map(path)?;
        Part::new(map.clone(), path, Some(map))
    }

    /// Opens shard `no` of a model one of whose shards is open.
    fn open_shard(path: &Path, no: usize, count: usize) -> Result<Self> {
        Part::open(path).map_err(|e| match e.kind() {
            ErrorKind::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                let what = format!("is missing: shard {} of {count} of the model", no + 1);
                Error::new(&display(path), ErrorKind::Shards(what))
            }
            _ => e,
        })
    }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}
