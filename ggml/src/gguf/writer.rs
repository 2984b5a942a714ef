//! Writing files: metadata and tensor table first, then the data of the tensors as a stream.

use std::collections::HashSet;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use super::MAGIC;
use super::error::{Error, ErrorKind, Result};
use super::metadata::Metadata;
use super::parse;
use super::value::{Array, Value};
use crate::format::GgmlType;
use crate::tensor::Shape;

/// The version that is written.
const VERSION: u32 = 3;

/// Where everything will lie in a new file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout<W = Vec<u8>> {
    /// Everything up to the data of the tensors.
    pub header: W,
    /// The data of each tensor, in the order of announcing. What is between them is zero.
    pub tensors: Vec<Range<u64>>,
    /// Bytes of the file.
    pub size: u64,
}

/// What a new file will say. Tensors are announced here, in the order in which their data follow.
///
/// ```
/// use ggml_sys::gguf::Writer;
/// use ggml_sys::{GgmlType, Shape};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut writer = Writer::new("small.gguf");
/// writer.set("general.architecture", "llama");
/// writer.tensor("output_norm.weight", GgmlType::F32, Shape([2, 1, 1, 1]))?;
/// let mut data = writer.begin(Vec::new())?;
/// data.write(&1f32.to_le_bytes())?;
/// data.write(&2f32.to_le_bytes())?;
/// let bytes = data.finish()?;
/// # assert_eq!(bytes.len() % 32, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Writer {
    metadata: Metadata,
    tensors: Vec<Announced>,
    names: HashSet<Arc<str>>,
}

/// A tensor whose data will follow.
#[derive(Clone)]
struct Announced {
    name: Arc<str>,
    ty: GgmlType,
    shape: Shape,
    /// Bytes of its data.
    size: u64,
}

impl Writer {
    /// A file without keys and tensors; `file` is what errors call it.
    pub fn new(file: &str) -> Self {
        Writer { metadata: Metadata::new(file.into()), tensors: Vec::new(), names: HashSet::new() }
    }

    /// Sets a key: in its place if it is there already, at the end if not.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.metadata.set(key, value.into());
    }

    /// Takes a key out again.
    pub fn remove(&mut self, key: &str) {
        self.metadata.remove(key);
    }

    /// Takes all keys over from another file, in its order. Costs no copy of arrays.
    pub fn copy_metadata(&mut self, from: &Metadata) {
        for (key, value) in from.iter() {
            self.metadata.set(key, value.clone());
        }
    }

    /// What has been set.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Announces a tensor.
    ///
    /// # Errors
    /// If the name is taken, or rows are no whole number of blocks.
    pub fn tensor(&mut self, name: &str, ty: GgmlType, shape: Shape) -> Result<()> {
        let bad = |what: String| self.metadata.error(ErrorKind::tensor(name, what));
        let size = ty.row_bytes(shape.row_len()).and_then(|row| row.checked_mul(shape.n_rows()));
        let size = size.ok_or_else(|| bad(format!("{shape} cannot be stored as {ty}")))? as u64;
        let name: Arc<str> = name.into();
        if !self.names.insert(name.clone()) {
            return Err(self.metadata.error(ErrorKind::tensor(&name, "is announced twice")));
        }
        self.tensors.push(Announced { name, ty, shape, size });
        Ok(())
    }

    /// Bytes that the whole file will have.
    ///
    /// # Errors
    /// If `general.alignment` is set to something that cannot be.
    pub fn file_size(&self) -> Result<u64> {
        self.place(io::sink()).map(|l| l.size)
    }

    /// Where everything will lie, for those who put the data there themselves.
    ///
    /// # Errors
    /// If `general.alignment` is set to something that cannot be.
    pub fn layout(&self) -> Result<Layout> {
        self.place(Vec::new())
    }

    /// Where everything will lie behind a header that goes to `out`.
    fn place<W: Write>(&self, out: W) -> Result<Layout<W>> {
        let alignment = parse::alignment(&self.metadata)?;
        let mut out = Output { out, at: 0 };
        self.encode(&mut out, alignment).map_err(|e| self.failed(e))?;
        let mut size = out.at;
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for t in &self.tensors {
            tensors.push(size..size + t.size);
            size += t.size.next_multiple_of(alignment);
        }
        Ok(Layout { header: out.out, tensors, size })
    }

    /// Writes everything up to the data of the tensors. `out` should be buffered.
    ///
    /// # Errors
    /// If writing fails, or `general.alignment` is set to something that cannot be.
    pub fn begin<W: Write>(&self, out: W) -> Result<DataWriter<W>> {
        let alignment = parse::alignment(&self.metadata)?;
        let mut out = Output { out, at: 0 };
        self.encode(&mut out, alignment).map_err(|e| self.failed(e))?;
        let tensors = self.tensors.clone();
        Ok(DataWriter { file: self.metadata.file().clone(), out, alignment, tensors, current: 0, written: 0 })
    }

    fn failed(&self, source: io::Error) -> Error {
        self.metadata.error(ErrorKind::Io { doing: "write", source })
    }

    fn encode<W: Write>(&self, out: &mut Output<W>, alignment: u64) -> io::Result<()> {
        out.put(MAGIC)?;
        out.put(&VERSION.to_le_bytes())?;
        out.count(self.tensors.len())?;
        out.count(self.metadata.len())?;
        for (key, value) in self.metadata.iter() {
            out.string(key.as_bytes())?;
            out.code(value.ty() as u32)?;
            out.value(value)?;
        }
        let mut offset = 0u64;
        for t in &self.tensors {
            out.string(t.name.as_bytes())?;
            let dims = t.shape.used();
            out.code(dims.len() as u32)?;
            dims.iter().try_for_each(|&d| out.count(d))?;
            out.code(t.ty as u32)?;
            out.put(&offset.to_le_bytes())?;
            offset += t.size.next_multiple_of(alignment);
        }
        out.pad(alignment)
    }
}

/// Writes the data of the announced tensors, one after another.
pub struct DataWriter<W: Write> {
    file: Arc<str>,
    out: Output<W>,
    alignment: u64,
    tensors: Vec<Announced>,
    current: usize,
    /// Bytes of the current tensor written so far.
    written: u64,
}

impl<W: Write> DataWriter<W> {
    /// Writes the next bytes of the current tensor; when it is complete, the next one's turn comes.
    ///
    /// # Errors
    /// If writing fails, or these are more bytes than the current tensor has left.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let error = |kind| Error::new(&self.file, kind);
        let failed = |source| error(ErrorKind::Io { doing: "write", source });
        let Some(tensor) = self.tensors.get(self.current) else {
            return Err(error(ErrorKind::Header(format!("{} bytes beyond the last tensor", bytes.len()))));
        };
        let left = tensor.size - self.written;
        if bytes.len() as u64 > left {
            let what = format!("{} bytes to write, but {left} are left of {}", bytes.len(), tensor.size);
            return Err(error(ErrorKind::tensor(&tensor.name, what)));
        }
        self.out.put(bytes).map_err(failed)?;
        self.written += bytes.len() as u64;
        if self.written == tensor.size {
            self.out.pad(self.alignment).map_err(failed)?;
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Bytes of the file written so far.
    pub fn position(&self) -> u64 {
        self.out.at
    }

    /// Flushes, and gives back what was written to.
    ///
    /// # Errors
    /// If writing fails, or data of announced tensors are missing.
    pub fn finish(mut self) -> Result<W> {
        let error = |kind| Error::new(&self.file, kind);
        if let Some(tensor) = self.tensors.get(self.current) {
            let what = format!("has {} of its {} bytes", self.written, tensor.size);
            return Err(error(ErrorKind::tensor(&tensor.name, what)));
        }
        self.out.out.flush().map_err(|source| error(ErrorKind::Io { doing: "write", source }))?;
        Ok(self.out.out)
    }
}

/// A stream that knows its position.
struct Output<W> {
    out: W,
    at: u64,
}

impl<W: Write> Output<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn code(&mut self, code: u32) -> io::Result<()> {
        self.put(&code.to_le_bytes())
    }

    fn count(&mut self, n: usize) -> io::Result<()> {
        self.put(&(n as u64).to_le_bytes())
    }

    fn string(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.count(bytes.len())?;
        self.put(bytes)
    }

    fn value(&mut self, value: &Value) -> io::Result<()> {
        match value {
            Value::U8(v) => self.put(&v.to_le_bytes()),
            Value::I8(v) => self.put(&v.to_le_bytes()),
            Value::U16(v) => self.put(&v.to_le_bytes()),
            Value::I16(v) => self.put(&v.to_le_bytes()),
            Value::U32(v) => self.put(&v.to_le_bytes()),
            Value::I32(v) => self.put(&v.to_le_bytes()),
            Value::U64(v) => self.put(&v.to_le_bytes()),
            Value::I64(v) => self.put(&v.to_le_bytes()),
            Value::F32(v) => self.put(&v.to_le_bytes()),
            Value::F64(v) => self.put(&v.to_le_bytes()),
            Value::Bool(v) => self.put(&[u8::from(*v)]),
            Value::String(s) => self.string(s.as_bytes()),
            Value::Array(a) => {
                self.code(a.element_type() as u32)?;
                self.count(a.len())?;
                // Elements are kept as they lie in files.
                match a {
                    Array::Strings(a) => self.put(a.encoded()),
                    Array::Numbers(a) => self.put(a.encoded()),
                }
            }
        }
    }

    fn pad(&mut self, alignment: u64) -> io::Result<()> {
        let mut left = self.at.next_multiple_of(alignment) - self.at;
        const ZEROS: [u8; 4096] = [0; 4096];
        while left > 0 {
            let n = left.min(ZEROS.len() as u64);
            self.put(&ZEROS[..n as usize])?;
            left -= n;
        }
        Ok(())
    }
}
