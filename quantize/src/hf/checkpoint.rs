//! The weights of a folder: safetensors files, mapped, and what is in them.
//!
//! A file is the length of a header, the header (JSON: name, type, shape, place) and the data. The crate `safetensors`
//! reads the header and sees to it that the places follow each other without gaps and have the sizes that types and
//! shapes ask for. That the last one ends where the file does is checked here: its own sum can wrap around.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use ggml_sys::Bytes;
use ggml_sys::gguf::{self, ErrorKind, Quoted};
use ggml_sys::tensor::Owner;
use safetensors::tensor::{Dtype, Metadata};

use super::Folder;
use super::contents::{Float, Scales, Weights};
use super::json::{Object, describe};
use crate::error::{Error, Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Longest header that is read: the same as in other readers.
const LONGEST_HEADER: usize = 100_000_000;
/// What the name of an FP8 tensor's scales ends in.
const SCALES: &str = "_scale_inv";

/// The tensors of all files. Conversion takes them out one by one; what is left in the end nobody knew.
pub(super) struct Checkpoint {
    pub files: Vec<PathBuf>,
    pub size: u64,
    tensors: BTreeMap<String, Raw>,
    /// Rows and columns that share a scale, if there are FP8 tensors.
    block: Option<[usize; 2]>,
}

/// A tensor where it lies.
struct Raw {
    file: PathBuf,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Bytes,
}

impl Checkpoint {
    /// Maps all files of a folder.
    pub fn open(folder: &Folder<'_>, config: &Object) -> Result<Checkpoint> {
        let mut all = Checkpoint { files: vec![], size: 0, tensors: BTreeMap::new(), block: block(config)? };
        match folder.json(INDEX)? {
            Some(index) => all.open_shards(folder, &index)?,
            None => match folder.open(SINGLE)? {
                Some(owner) => all.add(folder.path.join(SINGLE), owner)?,
                None => {
                    let what = format!("has no weights: neither {SINGLE} nor {INDEX}");
                    return Err(folder.error(what));
                }
            },
        }
        Ok(all)
    }

    fn open_shards(&mut self, folder: &Folder<'_>, index: &Object) -> Result<()> {
        let map = index.object("weight_map")?;
        let mut shards = BTreeMap::<&str, Vec<&str>>::new();
        for (tensor, file) in map.map() {
            let name = file.as_str().filter(|name| is_file_name(name)).ok_or_else(|| {
                map.invalid(tensor, format!("is {}, not the name of a file in this folder", describe(file)))
            })?;
            shards.entry(name).or_default().push(tensor);
        }
        for (&name, tensors) in &shards {
            let path = folder.path.join(name);
            let Some(owner) = folder.open(name)? else {
                let what = format!("is missing: {INDEX} says that {} tensors are in it", tensors.len());
                return Err(file_error(&path, what));
            };
            self.add(path, owner)?;
        }
        for (&name, tensors) in &shards {
            let path = folder.path.join(name);
            for &tensor in tensors {
                if self.tensors.get(tensor).is_none_or(|t| t.file != path) {
                    return Err(Error::tensor(
                        &path,
                        tensor,
                        format!("is not there, and {INDEX} says it is"),
                    ));
                }
            }
        }
        match self.tensors.iter().find(|(name, _)| !map.map().contains_key(*name)) {
            Some((name, t)) => Err(Error::tensor(&t.file, name, format!("is not in {INDEX}"))),
            None => Ok(()),
        }
    }

    /// Adds the tensors of a file.
    fn add(&mut self, path: PathBuf, owner: Owner) -> Result<()> {
        let bytes = (*owner).as_ref();
        let (start, header) = header(&path, bytes)?;
        for (name, info) in header.tensors() {
            let (from, to) = info.data_offsets;
            let range = start.checked_add(from).zip(start.checked_add(to));
            let data = range.and_then(|(from, to)| Bytes::new(owner.clone(), from..to));
            let data =
                data.ok_or_else(|| Error::tensor(&path, &name, "lies beyond the end of the file".into()))?;
            let raw = Raw { file: path.clone(), dtype: info.dtype, shape: info.shape.clone(), bytes: data };
            if let Some(other) = self.tensors.insert(name.clone(), raw) {
                let what = format!("is in {} too", other.file.display());
                return Err(Error::tensor(&path, &name, what));
            }
        }
        self.size = self.size.saturating_add(bytes.len() as u64);
        self.files.push(path);
        Ok(())
    }

    /// Whether a tensor is there.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Whether there is a tensor whose name begins like this.
    pub fn has_prefix(&self, prefix: &str) -> bool {
        let range = (std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded);
        self.tensors.range::<str, _>(range).next().is_some_and(|(name, _)| name.starts_with(prefix))
    }

    /// Takes a tensor out that is not wanted, if it is there.
    pub fn drop(&mut self, name: &str) {
        self.tensors.remove(name);
        self.tensors.remove(&format!("{name}{SCALES}"));
    }

    /// Takes out every tensor whose name fits.
    pub fn drop_all(&mut self, unwanted: impl Fn(&str) -> bool) {
        self.tensors.retain(|name, _| !unwanted(name));
    }

    /// Takes a tensor out. `shape` is the one that it must have, the slowest dimension first; all but the last are rows.
    pub fn take(&mut self, folder: &Folder<'_>, name: &str, shape: &[usize]) -> Result<Weights> {
        let Some(raw) = self.tensors.remove(name) else {
            return Err(Error::tensor(folder.path, name, "is missing".into()));
        };
        let bad = |what: String| Err(Error::tensor(&raw.file, name, what));
        if raw.shape != shape {
            return bad(format!("is {:?}, and {shape:?} by config.json", Dims(&raw.shape)));
        }
        let cols = shape.last().copied().unwrap_or(1);
        let rows = match raw.bytes.len().checked_div(cols.saturating_mul(raw.dtype.bitsize() / 8)) {
            Some(rows) if rows > 0 => rows,
            _ => return bad("has no elements".into()),
        };
        let float = match raw.dtype {
            Dtype::F32 => Float::F32,
            Dtype::F16 => Float::F16,
            Dtype::BF16 => Float::BF16,
            Dtype::F8_E4M3 => Float::Fp8(self.scales(folder, name, rows, cols)?),
            other => return bad(format!("is of type {other:?}; F32, F16, BF16 and F8_E4M3 are read")),
        };
        Ok(Weights { float, rows, cols, bytes: raw.bytes })
    }

    /// The scales of an FP8 tensor.
    fn scales(&mut self, folder: &Folder<'_>, name: &str, rows: usize, cols: usize) -> Result<Scales> {
        let Some(block) = self.block else {
            let what = "is of type F8_E4M3, and config.json has no quantization_config.weight_block_size";
            return Err(Error::tensor(folder.path, name, what.into()));
        };
        let shape = [rows.div_ceil(block[0]), cols.div_ceil(block[1])];
        let name = format!("{name}{SCALES}");
        let dtype = self.tensors.get(&name).map(|t| t.dtype);
        if dtype == Some(Dtype::F8_E4M3) {
            return Err(Error::tensor(folder.path, &name, "is of type F8_E4M3 itself".into()));
        }
        Ok(Scales { values: Box::new(self.take(folder, &name, &shape)?), block })
    }

    /// Every tensor must have been taken.
    pub fn finish(self) -> Result<(Vec<PathBuf>, u64)> {
        match self.tensors.iter().next() {
            Some((name, raw)) => {
                let n = self.tensors.len();
                let more = if n > 1 { format!(", nor are {} others", n - 1) } else { String::new() };
                let what = format!("is not known in this architecture{more}");
                Err(Error::tensor(&raw.file, name, what))
            }
            None => Ok((self.files, self.size)),
        }
    }
}

/// Dimensions as far as they are of interest.
struct Dims<'a>(&'a [usize]);

impl std::fmt::Debug for Dims<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const MOST: usize = 8;
        if self.0.len() <= MOST { self.0.fmt(f) } else { write!(f, "of {} dimensions", self.0.len()) }
    }
}

/// Rows and columns of FP8 tensors that share a scale.
fn block(config: &Object) -> Result<Option<[usize; 2]>> {
    let Some(quantization) = config.find_object("quantization_config")? else { return Ok(None) };
    let method = quantization.find_str("quant_method")?.unwrap_or("fp8");
    if method != "fp8" {
        let what = format!("is {}; of quantized weights only fp8 is read", Quoted(method.as_bytes()));
        return Err(quantization.invalid("quant_method", what));
    }
    let Some(sizes) = quantization.find_array("weight_block_size")? else { return Ok(None) };
    let size = |i: usize| sizes.get(i)?.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    match (sizes.len(), size(0), size(1)) {
        (2, Some(rows), Some(cols)) => Ok(Some([rows, cols])),
        _ => Err(quantization.invalid("weight_block_size", "is not two positive integers")),
    }
}

/// Where the data of a file start, and its header.
fn header(path: &Path, bytes: &[u8]) -> Result<(usize, Metadata)> {
    let bad = |what: String| file_error(path, what);
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(bad(format!("no safetensors file: {} bytes long", bytes.len())));
    };
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length).ok().filter(|n| *n <= LONGEST_HEADER).and_then(|n| rest.get(..n));
    let Some(header) = header else {
        return Err(bad(format!("no safetensors file, or cut short: a header of {length} bytes")));
    };
    // The reader of the crate would quote the file at length.
    let header_error =
        |e: &dyn std::fmt::Display| bad(format!("header: {}", Quoted(e.to_string().as_bytes())));
    let metadata: Metadata = serde_json::from_slice(header).map_err(|e| header_error(&e))?;
    let (data, have) = (metadata.data_len(), rest.len() - header.len());
    if data != have {
        return Err(bad(format!("cut short or damaged: {have} bytes of data, {data} by its header")));
    }
    Ok((8 + header.len(), metadata))
}

fn file_error(path: &Path, what: String) -> Error {
    gguf::Error::new(&path.display().to_string(), ErrorKind::Header(what)).into()
}

/// Whether a name stays in the folder it is meant for.
fn is_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    !name.contains(['/', '\\', ':', '\0'])
        && matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
}
