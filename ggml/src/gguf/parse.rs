//! One file: header, metadata, tensor table. Everything it says is checked here, before use.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use super::cursor::{Cursor, Cut};
use super::error::{Error, ErrorKind, Quoted, Result};
use super::lookalike;
use super::metadata::Metadata;
use super::value::{Array, NumberArray, StringArray, Text, Value, ValueType, number};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC};
use crate::format::GgmlType;
use crate::tensor::{Bytes, Owner, Shape, Tensor};

/// Longest key or tensor name, from the specification of keys.
const MAX_NAME: usize = 65_535;
/// Most elements of an array; the largest vocabularies have about 2^20 merges.
const MAX_ARRAY: u64 = 1 << 24;
/// Largest alignment: past the huge pages of 2 MiB there is nothing to align to.
const MAX_ALIGNMENT: u64 = 1 << 21;
/// Fewest bytes of a metadata entry: key of one byte, type, value of one byte.
const MIN_ENTRY: u64 = 8 + 1 + 4 + 1;
/// Fewest bytes of a tensor's description: name of one byte, one dimension, type, offset.
const MIN_INFO: u64 = 8 + 1 + 4 + 8 + 4 + 8;
/// What is reserved ahead on a count that a file states; beyond it vectors grow as they fill.
const RESERVE: u64 = 4096;

/// What one file says.
pub(super) struct Parsed {
    pub version: u32,
    pub alignment: u64,
    /// Offset in the file at which tensor data starts.
    pub data_start: u64,
    pub metadata: Metadata,
    pub tensors: Vec<Tensor>,
}

/// Reads everything but the data of the tensors, whose pages are not touched.
pub(super) fn parse(owner: &Owner, file: &Arc<str>) -> Result<Parsed> {
    let mut parser = Parser { file, owner, cur: Cursor::new((**owner).as_ref()) };
    let (version, n_tensors, n_keys) = parser.header()?;
    let metadata = parser.metadata(n_keys)?;
    let alignment = alignment(&metadata)?;
    let infos = parser.infos(n_tensors)?;
    let data_start = (parser.cur.at() as u64).next_multiple_of(alignment);
    let tensors =
        infos.iter().map(|i| parser.tensor(i, alignment, data_start)).collect::<Result<Vec<_>>>()?;
    parser.check_overlap(&tensors)?;
    Ok(Parsed { version, alignment, data_start, metadata, tensors })
}

/// A tensor as its line in the table describes it, not yet held against the size of the file.
struct Info {
    name: Arc<str>,
    ty: GgmlType,
    shape: Shape,
    /// Bytes of its data.
    size: u64,
    /// From the start of the data section.
    offset: u64,
}

struct Parser<'a> {
    file: &'a Arc<str>,
    owner: &'a Owner,
    cur: Cursor<'a>,
}

impl<'a> Parser<'a> {
    fn error(&self, kind: ErrorKind) -> Error {
        Error::new(self.file, kind)
    }

    /// Turns what a cursor says into an error about `what`.
    fn cut<F: FnOnce() -> String>(&self, what: F) -> impl FnOnce(Cut) -> Error + use<'a, F> {
        let file = self.file;
        move |Cut { offset, need, have }| {
            Error::new(file, ErrorKind::CutShort { what: what(), offset, need, have })
        }
    }

    fn bytes(&self, range: Range<usize>) -> Result<Bytes> {
        // The cursor has been over this range, so it lies in the file.
        Bytes::new(self.owner.clone(), range)
            .ok_or_else(|| self.error(ErrorKind::Header("changed while it was read".into())))
    }

    /// Version, number of tensors, number of keys.
    fn header(&mut self) -> Result<(u32, u64, u64)> {
        let all = (**self.owner).as_ref();
        if !all.starts_with(MAGIC) {
            return Err(self.error(ErrorKind::NotGguf(lookalike::describe(all))));
        }
        self.cur.skip(MAGIC.len() as u64).map_err(self.cut(|| "the header".into()))?;
        let version = self.cur.u32().map_err(self.cut(|| "the header".into()))?;
        self.check_version(version)?;
        let n_tensors = self.cur.u64().map_err(self.cut(|| "the header".into()))?;
        let n_keys = self.cur.u64().map_err(self.cut(|| "the header".into()))?;
        self.check_count(n_tensors, MIN_INFO, "tensors")?;
        self.check_count(n_keys, MIN_ENTRY, "metadata keys")?;
        Ok((version, n_tensors, n_keys))
    }

    fn check_version(&self, version: u32) -> Result<()> {
        let what = match version {
            2 | 3 => return Ok(()),
            1 => "GGUF version 1 is not supported; versions 2 and 3 are (convert the model again)".into(),
            v if v & 0xffff == 0 && v != 0 => {
                format!("big-endian GGUF (version field {v:#010x}) is not supported; little-endian is")
            }
            v => format!("GGUF version {v} is not supported; versions 2 and 3 are"),
        };
        Err(self.error(ErrorKind::Version(what)))
    }

    /// Refuses a number of things that cannot fit into the rest of the file.
    fn check_count(&self, n: u64, min_bytes: u64, what: &str) -> Result<()> {
        let left = self.cur.left() as u64;
        if n > left / min_bytes {
            let text =
                format!("the header announces {n} {what}, which the {left} bytes after it cannot hold");
            return Err(self.error(ErrorKind::Header(text)));
        }
        Ok(())
    }

    fn metadata(&mut self, n: u64) -> Result<Metadata> {
        let mut metadata = Metadata::new(self.file.clone());
        for i in 0..n {
            let key = self.name(|| format!("the name of key {i} of {n}"))?;
            let value = self.value(key)?;
            if !metadata.insert(key, value) {
                return Err(self.error(ErrorKind::key(key, "stands in the file twice")));
            }
        }
        Ok(metadata)
    }

    /// A key or the name of a tensor: UTF-8, neither empty nor very long.
    fn name(&mut self, what: impl Fn() -> String) -> Result<&'a str> {
        let at = self.cur.at();
        let name = self.cur.string().map_err(self.cut(&what))?;
        let problem = if name.is_empty() {
            "is empty".into()
        } else if name.len() > MAX_NAME {
            format!("has {} bytes, more than {MAX_NAME}", name.len())
        } else {
            match std::str::from_utf8(name) {
                Ok(name) => return Ok(name),
                Err(_) => format!("is not UTF-8: {}", Quoted(name)),
            }
        };
        Err(self.error(ErrorKind::Header(format!("{} (at byte {at}) {problem}", what()))))
    }

    fn value(&mut self, key: &str) -> Result<Value> {
        let quoted = || format!("key {}", Quoted(key.as_bytes()));
        let ty = self.value_type(key, "its value")?;
        match ty {
            ValueType::String => {
                let start = self.cur.at() + size_of::<u64>();
                self.cur.string().map_err(self.cut(quoted))?;
                Ok(Value::String(Text::new(self.bytes(start..self.cur.at())?)))
            }
            ValueType::Array => self.array(key).map(Value::Array),
            scalar => {
                let size = scalar.size().unwrap_or_default() as u64;
                let bytes = self.cur.take(size).map_err(self.cut(quoted))?;
                self.check_bools(key, scalar, bytes)?;
                number(scalar, bytes).ok_or_else(|| self.error(ErrorKind::key(key, "has no value")))
            }
        }
    }

    fn value_type(&mut self, key: &str, what: &str) -> Result<ValueType> {
        let at = self.cur.at();
        let code = self.cur.u32().map_err(self.cut(|| format!("key {}", Quoted(key.as_bytes()))))?;
        ValueType::from_code(code).ok_or_else(|| {
            let what = format!("{what} has type {code} (at byte {at}); types are 0 to 12");
            self.error(ErrorKind::key(key, what))
        })
    }

    fn check_bools(&self, key: &str, ty: ValueType, bytes: &[u8]) -> Result<()> {
        match bytes.iter().position(|&b| b > 1) {
            Some(i) if ty == ValueType::Bool => {
                let what = format!("boolean {i} is {}; booleans are 0 or 1", bytes[i]);
                Err(self.error(ErrorKind::key(key, what)))
            }
            _ => Ok(()),
        }
    }

    fn array(&mut self, key: &str) -> Result<Array> {
        let ty = self.value_type(key, "the elements of its array")?;
        if ty == ValueType::Array {
            return Err(self.error(ErrorKind::key(key, "arrays of arrays are not supported")));
        }
        let cut = || format!("the array of key {}", Quoted(key.as_bytes()));
        let n = self.cur.u64().map_err(self.cut(cut))?;
        // A string takes at least the bytes of its length.
        let min_bytes = n.saturating_mul(ty.size().unwrap_or(size_of::<u64>()) as u64);
        if min_bytes > self.cur.left() as u64 {
            let cut_at = Cut { offset: self.cur.at() as u64, need: min_bytes, have: self.cur.left() as u64 };
            return Err(self.cut(|| format!("the array of {n} {ty} of key {}", Quoted(key.as_bytes())))(
                cut_at,
            ));
        }
        if n > MAX_ARRAY {
            let what = format!("an array of {n} elements; {MAX_ARRAY} at most are supported");
            return Err(self.error(ErrorKind::key(key, what)));
        }
        if ty == ValueType::String {
            return self.strings(key, n).map(Array::Strings);
        }
        let start = self.cur.at();
        let bytes = self.cur.take(min_bytes).map_err(self.cut(cut))?;
        self.check_bools(key, ty, if ty == ValueType::Bool { bytes } else { &[] })?;
        NumberArray::new(ty, self.bytes(start..self.cur.at())?)
            .map(Array::Numbers)
            .ok_or_else(|| self.error(ErrorKind::key(key, "has elements without a size")))
    }

    fn strings(&mut self, key: &str, n: u64) -> Result<StringArray> {
        let base = self.cur.at();
        let mut starts = Vec::with_capacity(n.min(RESERVE) as usize);
        for i in 0..=n {
            starts.push(u32::try_from(self.cur.at() - base).map_err(|_| {
                self.error(ErrorKind::key(key, "an array of more than 4 GiB of strings is not supported"))
            })?);
            if i < n {
                self.cur
                    .string()
                    .map_err(self.cut(|| format!("string {i} of {n} of key {}", Quoted(key.as_bytes()))))?;
            }
        }
        Ok(StringArray::new(self.bytes(base..self.cur.at())?, starts))
    }

    fn infos(&mut self, n: u64) -> Result<Vec<Info>> {
        let mut infos = Vec::with_capacity(n.min(RESERVE) as usize);
        let mut names = HashSet::new();
        for i in 0..n {
            let name = self.name(|| format!("the name of tensor {i} of {n}"))?;
            if !names.insert(name) {
                return Err(self.error(ErrorKind::tensor(name, "stands in the file twice")));
            }
            infos.push(self.info(name)?);
        }
        Ok(infos)
    }

    fn cut_in_info<'n>(&self, name: &'n str) -> impl FnOnce(Cut) -> Error + use<'a, 'n> {
        self.cut(move || format!("the description of tensor {}", Quoted(name.as_bytes())))
    }

    fn info(&mut self, name: &str) -> Result<Info> {
        let file = self.file;
        let bad = |what: String| Error::new(file, ErrorKind::tensor(name, what));
        let n_dims = self.cur.u32().map_err(self.cut_in_info(name))?;
        if n_dims == 0 || n_dims > 4 {
            return Err(bad(format!("has {n_dims} dimensions; 1 to 4 are supported")));
        }
        let mut dims = [1u64; 4];
        let dims = &mut dims[..n_dims as usize];
        for d in dims.iter_mut() {
            *d = self.cur.u64().map_err(self.cut_in_info(name))?;
        }
        let code = self.cur.u32().map_err(self.cut_in_info(name))?;
        let offset = self.cur.u64().map_err(self.cut_in_info(name))?;

        if dims.contains(&0) {
            return Err(bad(format!("shape {dims:?} has a dimension of zero")));
        }
        let too_large = || bad(format!("shape {dims:?} has more elements than can be counted"));
        let sizes = dims.iter().map(|&d| usize::try_from(d)).collect::<Result<Vec<_>, _>>();
        let shape = sizes.ok().and_then(|s| Shape::new(&s)).ok_or_else(too_large)?;
        let ty = GgmlType::from_code(code).ok_or_else(|| bad(unknown_type(code)))?;
        let f = ty.format();
        let row = ty.row_bytes(shape.row_len()).ok_or_else(|| {
            let len = shape.row_len();
            bad(format!("rows of {len} elements are no whole number of {ty} blocks of {}", f.block))
        })?;
        let size = row.checked_mul(shape.n_rows()).ok_or_else(too_large)? as u64;
        Ok(Info { name: name.into(), ty, shape, size, offset })
    }

    /// The tensor with its data, if that lies in the file.
    fn tensor(&self, info: &Info, alignment: u64, data_start: u64) -> Result<Tensor> {
        let Info { name, ty, shape, size, offset } = info;
        let bad = |what: String| self.error(ErrorKind::tensor(name, what));
        if !offset.is_multiple_of(alignment) {
            return Err(bad(format!("offset {offset} is no multiple of the alignment {alignment}")));
        }
        let file_size = (**self.owner).as_ref().len() as u64;
        let range = data_start.checked_add(*offset).and_then(|start| Some(start..start.checked_add(*size)?));
        let Some(range) = range else {
            return Err(bad(format!("offset {offset} and size {size} go beyond any file")));
        };
        if range.end > file_size {
            return Err(bad(format!(
                "its {size} bytes at byte {} go beyond the end of the file at {file_size}; the file is cut short",
                range.start
            )));
        }
        // No larger than the size of the file, which is in memory.
        let bytes = self.bytes(range.start as usize..range.end as usize)?;
        Tensor::new(name.clone(), *ty, *shape, bytes)
            .ok_or_else(|| bad(format!("{size} bytes do not make {ty} {shape}")))
    }

    fn check_overlap(&self, tensors: &[Tensor]) -> Result<()> {
        let mut order: Vec<(Range<usize>, &str)> =
            tensors.iter().map(|t| (t.shared_bytes().parts().1, t.name())).collect();
        order.sort_unstable_by_key(|(r, _)| r.start);
        for pair in order.windows(2) {
            let [(a, a_name), (b, b_name)] = pair else {
                continue;
            };
            if a.end > b.start {
                let (start, other) = (b.start, Quoted(a_name.as_bytes()));
                let what =
                    format!("its data at byte {start} overlaps that of {other}, which ends at {}", a.end);
                return Err(self.error(ErrorKind::tensor(b_name, what)));
            }
        }
        Ok(())
    }
}

/// What offsets of tensors are multiples of, by `general.alignment` or by default.
pub(super) fn alignment(metadata: &Metadata) -> Result<u64> {
    let n = metadata.u64(ALIGNMENT_KEY)?.unwrap_or(DEFAULT_ALIGNMENT);
    if !(8..=MAX_ALIGNMENT).contains(&n) || !n.is_power_of_two() {
        let what =
            format!("an alignment of {n} is not supported; powers of two from 8 to {MAX_ALIGNMENT} are");
        return Err(metadata.invalid(ALIGNMENT_KEY, what));
    }
    Ok(n)
}

/// Why a tensor of type `code` cannot be read.
fn unknown_type(code: u32) -> String {
    let name = match code {
        4 => "Q4_2, removed from GGML in 2023",
        5 => "Q4_3, removed from GGML in 2023",
        9 => "Q8_1, never stored in models",
        15 => "Q8_K, never stored in models",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        31..=33 => "a repacked Q4_0, removed from GGML; quantize the model to Q4_0 again",
        36..=38 => "a repacked IQ4_NL, removed from GGML; quantize the model to IQ4_NL again",
        _ => return format!("type {code} is unknown"),
    };
    format!("type {code} ({name}) is not supported")
}
