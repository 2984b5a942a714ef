//! What becomes of each tensor, and the stream of the new file.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ggml_sys::format::Kind;
use ggml_sys::gguf::{DataWriter, Value, Writer};
use ggml_sys::{GgmlType, Shape};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::convert::{self, SLAB};
use crate::deviation::Deviation;
use crate::error::{Error, Result};
use crate::rules;
use crate::source::{Source, SourceTensor, Stored};
use crate::target::{self, Target};

/// Version of ggml's quantized formats: the one since May 2023.
const QUANTIZATION_VERSION: u32 = 2;
/// Keys of a shard that make no sense in a file that stands alone.
const SPLIT_KEYS: [&str; 3] = ["split.no", "split.count", "split.tensors.count"];

/// How a plan is carried out.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Replace an output that exists.
    pub force: bool,
    /// Threads that convert; one per core if not given.
    pub threads: Option<NonZeroUsize>,
}

/// What becomes of a tensor.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name.
    pub name: Arc<str>,
    /// Its dimensions, the fastest first.
    pub shape: Shape,
    /// The type it has.
    pub from: Stored,
    /// The type it gets.
    pub to: GgmlType,
    /// The type it would have got if its rows were a whole number of blocks, if they are not.
    pub fallback_of: Option<GgmlType>,
    /// Bytes of its data now.
    pub bytes: u64,
    /// Bytes of its data in the new file.
    pub new_bytes: u64,
}

/// What becomes of a model.
pub struct Plan {
    source: Source,
    lines: Vec<Line>,
    /// Keys that are set anew.
    keys: Vec<(String, Value)>,
    file_size: u64,
}

/// How far the stream is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Bytes of the source that have been read.
    pub done: u64,
    /// Bytes of all its tensors.
    pub total: u64,
    /// Name of the tensor that is being read.
    pub tensor: &'a str,
}

/// What a stream did.
#[derive(Clone, Debug)]
pub struct Report {
    /// For each line of the plan, what encoding has cost: no error where the type stays.
    pub deviations: Vec<Deviation>,
    /// Bytes of the new file.
    pub bytes: u64,
}

impl Plan {
    /// Decides on the type of every tensor of `source`, all files of it. Reads no tensor.
    ///
    /// # Errors
    /// If an override fits no tensor that can be converted, or the sizes of the new tensors overflow.
    pub fn new(source: impl Into<Source>, target: &Target) -> Result<Plan> {
        let source = source.into();
        let tied = !source.tensors().iter().any(|t| &*t.name == rules::OUTPUT);
        let lines: Vec<Line> = source.tensors().iter().map(|t| Line::new(t, target, tied)).collect();
        for o in target.overrides() {
            if !lines.iter().any(|l| !rules::is_kept(&l.name, l.shape) && o.fits(&l.name)) {
                let what = "fits the name of no tensor that can be converted".into();
                return Err(Error::Pattern { pattern: o.pattern().into(), what });
            }
        }
        let copied = |l: &Line| l.from == Stored::Ggml(l.to);
        if let Some(l) = lines.iter().find(|l| !copied(l) && !target::is_writable(l.to.format())) {
            return Err(Error::NoEncoder { ty: l.to });
        }
        let mut plan = Plan { source, lines, keys: Vec::new(), file_size: 0 };
        plan.set("general.quantization_version", QUANTIZATION_VERSION)?;
        plan.set("general.file_type", rules::file_type(target.ty()))?;
        Ok(plan)
    }

    /// The model that is read.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The tensors in the order of the file.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Bytes of the new file.
    pub fn file_size(&self) -> u64 {
        self.file_size
    }

    /// Sets a key of the new file, whatever it was.
    ///
    /// # Errors
    /// If it is `general.alignment` and the value cannot be.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> Result<()> {
        self.keys.push((key.into(), value.into()));
        self.file_size = self.writer(&self.source.path().display().to_string())?.file_size()?;
        Ok(())
    }

    /// The head of the new file; `name` is what errors call it.
    fn writer(&self, name: &str) -> Result<Writer> {
        let mut writer = Writer::new(name);
        writer.copy_metadata(self.source.metadata());
        SPLIT_KEYS.iter().for_each(|key| writer.remove(key));
        for (key, value) in &self.keys {
            writer.set(key, value.clone());
        }
        for line in &self.lines {
            writer.tensor(&line.name, line.to, line.shape)?;
        }
        Ok(writer)
    }

    /// Writes the new file to any stream; `name` is what errors call it. See [`run`](crate::run) for the rest.
    ///
    /// # Errors
    /// If writing fails; if a tensor holds a number that is none, or one that its new type cannot express;
    /// [`Error::Cancelled`].
    pub fn write<W: Write>(
        &self,
        out: W,
        name: &str,
        threads: Option<NonZeroUsize>,
        progress: &mut dyn FnMut(Progress<'_>),
        cancel: &AtomicBool,
    ) -> Result<Report> {
        let mut stream = Stream {
            pool: pool(threads)?,
            data: self.writer(name)?.begin(out)?,
            slab: Vec::new(),
            done: 0,
            // A damaged file may claim some bytes for many tensors.
            total: self.lines.iter().fold(0, |sum, l| sum.saturating_add(l.bytes)),
            progress,
            cancel,
        };
        let tensors = self.source.tensors().iter().zip(&self.lines);
        let deviations = tensors.map(|(t, line)| stream.tensor(self.source.path(), t, line));
        let deviations = deviations.collect::<Result<Vec<_>>>()?;
        let bytes = stream.data.position();
        stream.data.finish()?;
        Ok(Report { deviations, bytes })
    }
}

impl Line {
    fn new(tensor: &SourceTensor, target: &Target, tied: bool) -> Line {
        let (name, shape) = (tensor.name.clone(), tensor.shape);
        let kept = rules::is_kept(&name, shape);
        let wanted = if kept { tensor.kept } else { rules::wanted(target, &name, tied) };
        let to = rules::fitting(wanted, shape);
        // Types have at most 4 bytes an element, and no file has 2^61 of them.
        let new_bytes = to.row_bytes(shape.row_len()).and_then(|row| row.checked_mul(shape.n_rows()));
        Line {
            name,
            shape,
            from: tensor.stored,
            to,
            fallback_of: (to != wanted).then_some(wanted),
            bytes: tensor.bytes,
            new_bytes: new_bytes.map_or(u64::MAX, |n| n as u64),
        }
    }

    /// Whether values go from one lossy type to another: that costs more than encoding what they once were.
    pub fn is_requantized(&self) -> bool {
        let is_float = |ty: GgmlType| matches!(ty.format().kind, Kind::Float { .. });
        match self.from {
            Stored::Ggml(from) => from != self.to && !is_float(from) && !is_float(self.to),
            // What a model was trained in.
            Stored::Fp8 => false,
        }
    }
}

fn pool(threads: Option<NonZeroUsize>) -> Result<ThreadPool> {
    let threads = threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("quantize {i}")).build();
    pool.map_err(|e| Error::Threads { threads, what: e.to_string() })
}

/// A new file that is being written.
struct Stream<'a, W: Write> {
    pool: ThreadPool,
    data: DataWriter<W>,
    slab: Vec<u8>,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(Progress<'_>),
    cancel: &'a AtomicBool,
}

impl<W: Write> Stream<'_, W> {
    fn tensor(&mut self, file: &Path, tensor: &SourceTensor, line: &Line) -> Result<Deviation> {
        let mut sum = Deviation::default();
        let (n, before) = (line.shape.n_elements(), self.done);
        for start in (0..n).step_by(SLAB) {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            let range = start..n.min(start + SLAB);
            let to = line.to.format();
            let converted = self.pool.install(|| convert::slab(tensor, to, range.clone(), &mut self.slab));
            sum += converted.map_err(|bad| refused(file, line, start + bad.at, bad.value))?;
            self.data.write(&self.slab)?;
            tensor.contents.release(range.clone());
            // Of at most as many bytes as the tensor has.
            let read = u128::from(line.bytes) * range.end as u128 / n as u128;
            self.done = before.saturating_add(read as u64);
            (self.progress)(Progress { done: self.done, total: self.total, tensor: &line.name });
        }
        Ok(sum)
    }
}

/// Element `at` of a tensor cannot be in the new file.
fn refused(file: &Path, line: &Line, at: usize, value: f32) -> Error {
    let n = line.shape.row_len();
    let (row, column) = (at / n, at % n);
    let cannot =
        if value.is_finite() { format!(", which {} cannot express", line.to.name()) } else { String::new() };
    Error::tensor(file, &line.name, format!("row {row}, column {column} is {value:?}{cannot}"))
}
