//! What becomes of each tensor, and the stream of the new file.

use std::io::Write;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ggml_sys::format::Kind;
use ggml_sys::gguf::{Value, Writer};
use ggml_sys::{GgmlType, Shape};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::deviation::Deviation;
use crate::error::{Error, Result};
use crate::imatrix::ImportanceFile;
use crate::mix::{self, Choice, Facts, Item, Mix};
use crate::parts::{self, Part, Split};
use crate::source::{Source, SourceTensor, Stored};
use crate::stream::{Sink, Stream};
use crate::target::{self, Target};

/// Version of ggml's quantized formats: the one since May 2023.
const QUANTIZATION_VERSION: u32 = 2;
/// Key of the alignment of tensor data, which each shard must have for itself.
const ALIGNMENT: &str = "general.alignment";
/// Keys of a shard that make no sense in a file that stands alone.
const SPLIT_KEYS: [&str; 3] = ["split.no", "split.count", "split.tensors.count"];

/// How a plan is carried out.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Replace an output that exists.
    pub force: bool,
    /// Threads that convert; one per core if not given.
    pub threads: Option<NonZeroUsize>,
    /// How many files it becomes.
    pub split: Split,
    /// If it does not come to the end, keep what is done, so that the next run goes on from there.
    pub keep_partial: bool,
    /// Bytes after which what is done is put on the disk and noted; 64 MiB if not given.
    pub sync_bytes: Option<u64>,
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
    /// Whether it is encoded by what matters.
    pub weighted: bool,
}

/// What becomes of a model.
pub struct Plan {
    source: Source,
    lines: Vec<Line>,
    mix: Mix,
    importance: Option<ImportanceFile>,
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
    /// Bytes of the new files.
    pub bytes: u64,
    /// The new files.
    pub files: Vec<PathBuf>,
    /// Tensors that an earlier run had completed.
    pub resumed: usize,
}

impl Plan {
    /// Decides on the type of every tensor of `source`, all files of it. Reads no tensor.
    ///
    /// # Errors
    /// If an override fits no tensor that can be converted, or the sizes of the new tensors overflow.
    pub fn new(source: impl Into<Source>, target: &Target) -> Result<Plan> {
        let source = source.into();
        let items: Vec<Item<'_>> =
            source.tensors().iter().map(|t| Item { name: &t.name, shape: t.shape }).collect();
        let importance = target.importance();
        let choices = target.types(&Facts::new(source.metadata()), importance.is_some(), &items);
        for o in target.overrides() {
            if !items.iter().zip(&choices).any(|(item, choice)| choice.is_some() && o.fits(item.name)) {
                let what = "fits the name of no tensor that can be converted".into();
                return Err(Error::Pattern { pattern: o.pattern().into(), what });
            }
        }
        let mut lines: Vec<Line> =
            source.tensors().iter().zip(choices).map(|(t, choice)| Line::new(t, choice)).collect();
        if let Some(l) = lines.iter().find(|l| !l.is_copied() && !target::is_writable(l.to.format())) {
            return Err(Error::NoEncoder { ty: l.to });
        }
        if let Some(file) = importance {
            lines.iter_mut().try_for_each(|l| l.weigh(file))?;
        }
        let importance = importance.cloned();
        let mut plan = Plan { source, lines, mix: target.mix(), importance, keys: Vec::new(), file_size: 0 };
        plan.keys.push(("general.quantization_version".into(), QUANTIZATION_VERSION.into()));
        plan.keys.push(("general.file_type".into(), target.mix().file_type().into()));
        plan.keys.extend(plan.importance.as_ref().map(importance_keys).unwrap_or_default());
        plan.measure()?;
        Ok(plan)
    }

    /// The model that is read.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// What matters in its tensors, if that is known.
    pub fn importance(&self) -> Option<&ImportanceFile> {
        self.importance.as_ref()
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
        self.measure()
    }

    fn measure(&mut self) -> Result<()> {
        let parts = self.parts(Split::Whole, &self.source.path().display().to_string())?;
        self.file_size = parts.iter().map(|p| p.size).sum();
        Ok(())
    }

    /// The keys of the new file.
    fn set_keys(&self, writer: &mut Writer) {
        writer.copy_metadata(self.source.metadata());
        SPLIT_KEYS.iter().for_each(|key| writer.remove(key));
        for (key, value) in &self.keys {
            writer.set(key, value.clone());
        }
    }

    /// The files that it becomes; `name` is what errors call them.
    pub(crate) fn parts(&self, split: Split, name: &str) -> Result<Vec<Part>> {
        let groups = parts::groups(self, split)?;
        let count = groups.len();
        let part = |(no, lines): (usize, Range<usize>)| {
            let mut writer = Writer::new(name);
            if no == 0 {
                self.set_keys(&mut writer);
            } else if let Some(alignment) = self.source.metadata().get(ALIGNMENT) {
                writer.set(ALIGNMENT, alignment.clone());
            }
            if count > 1 {
                // There are fewer than 65,536 files, and tensors that nobody could count with 31 bits do not exist.
                writer.set(SPLIT_KEYS[0], no as u16);
                writer.set(SPLIT_KEYS[1], count as u16);
                writer.set(SPLIT_KEYS[2], self.lines.len() as i32);
            }
            for line in &self.lines[lines.clone()] {
                writer.tensor(&line.name, line.to, line.shape)?;
            }
            let layout = writer.layout()?;
            Ok(Part { lines, header: layout.header, tensors: layout.tensors, size: layout.size })
        };
        groups.into_iter().enumerate().map(part).collect()
    }

    /// The importance of the columns of a tensor, where it is known and counts.
    pub(crate) fn weights(&self, at: usize) -> Result<Option<Vec<f32>>> {
        let (line, Some(file)) = (&self.lines[at], &self.importance) else { return Ok(None) };
        let [n_in, _, n, _] = line.shape.0;
        if line.weighted { file.weights(&line.name, n_in, n) } else { Ok(None) }
    }

    /// The first tensor that would be garbage because nothing is known of what matters in it.
    pub fn needs_importance(&self) -> Option<&Line> {
        self.lines
            .iter()
            .find(|l| !l.weighted && mix::needs_importance(self.mix, &l.name, l.to) && !l.is_copied())
    }

    /// Writes a single new file to any stream; `name` is what errors call it. See [`run`](crate::run) for the rest.
    ///
    /// # Errors
    /// If writing fails; if a tensor holds a number that is none, or one that its new type cannot express, or needs an
    /// importance matrix; [`Error::Cancelled`].
    pub fn write<W: Write + Send>(
        &self,
        out: W,
        name: &str,
        threads: Option<NonZeroUsize>,
        progress: &mut dyn FnMut(Progress<'_>),
        cancel: &AtomicBool,
    ) -> Result<Report> {
        self.check_importance()?;
        let parts = self.parts(Split::Whole, name)?;
        let pool = pool(threads)?;
        let stream = Stream { plan: self, parts: &parts, finished: vec![], pool, progress, cancel };
        let deviations = stream.run(&mut OneStream { out, name })?;
        let bytes = parts.iter().map(|p| p.size).sum();
        Ok(Report { deviations, bytes, files: vec![], resumed: 0 })
    }

    pub(crate) fn check_importance(&self) -> Result<()> {
        match self.needs_importance() {
            None => Ok(()),
            Some(line) => Err(Error::NeedsImportance { tensor: line.name.to_string(), ty: line.to }),
        }
    }
}

/// A stream that takes a single file.
struct OneStream<'a, W> {
    out: W,
    name: &'a str,
}

impl<W: Write + Send> Sink for OneStream<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|e| Error::io(self.name.as_ref(), "write", e))
    }

    fn end_tensor(&mut self, _line: usize, _deviation: Deviation) -> Result<()> {
        Ok(())
    }

    fn end_file(&mut self) -> Result<()> {
        self.out.flush().map_err(|e| Error::io(self.name.as_ref(), "write", e))
    }
}

impl Line {
    fn new(tensor: &SourceTensor, choice: Option<Choice>) -> Line {
        let (name, shape) = (tensor.name.clone(), tensor.shape);
        let Choice { to, fallback_of } = choice.unwrap_or(Choice { to: tensor.kept, fallback_of: None });
        // Types have at most 4 bytes an element, and no file has 2^61 of them.
        let new_bytes = to.row_bytes(shape.row_len()).and_then(|row| row.checked_mul(shape.n_rows()));
        Line {
            name,
            shape,
            from: tensor.stored,
            to,
            fallback_of,
            bytes: tensor.bytes,
            new_bytes: new_bytes.map_or(u64::MAX, |n| n as u64),
            weighted: false,
        }
    }

    /// Whether it stays as it is.
    pub fn is_copied(&self) -> bool {
        self.from == Stored::Ggml(self.to)
    }

    /// Whether it becomes blocks that it was not before.
    pub fn is_converted(&self) -> bool {
        !self.is_copied() && !self.is_float()
    }

    /// Whether it becomes plain numbers.
    fn is_float(&self) -> bool {
        matches!(self.to.format().kind, Kind::Float { .. })
    }

    /// Looks for what matters in it.
    fn weigh(&mut self, file: &ImportanceFile) -> Result<()> {
        let [n_in, _, n, _] = self.shape.0;
        if !self.is_converted() {
            return Ok(());
        }
        self.weighted = match file.has(&self.name, n_in, n) {
            // Files of some tools have this one by the number of tokens.
            Err(_) if &*self.name == "token_embd.weight" => false,
            found => found?,
        };
        Ok(())
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

/// What says of a file by what it was encoded, as llama.cpp does.
fn importance_keys(file: &ImportanceFile) -> Vec<(String, Value)> {
    let key = |name: &str| format!("quantize.imatrix.{name}");
    let mut keys = vec![(key("file"), file.path().display().to_string().as_str().into())];
    if let Some(dataset) = file.datasets().first() {
        keys.push((key("dataset"), dataset.as_str().into()));
    }
    keys.push((key("entries_count"), u32::try_from(file.len()).unwrap_or(u32::MAX).into()));
    if file.chunks() > 0 {
        keys.push((key("chunks_count"), file.chunks().into()));
    }
    keys
}

pub(crate) fn pool(threads: Option<NonZeroUsize>) -> Result<ThreadPool> {
    let threads = threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("quantize {i}")).build();
    pool.map_err(|e| Error::Threads { threads, what: e.to_string() })
}

/// Element `at` of a tensor cannot be in the new file.
pub(crate) fn refused(file: &Path, line: &Line, at: usize, value: f32) -> Error {
    let n = line.shape.row_len();
    let (row, column) = (at / n, at % n);
    let cannot =
        if value.is_finite() { format!(", which {} cannot express", line.to.name()) } else { String::new() };
    Error::tensor(file, &line.name, format!("row {row}, column {column} is {value:?}{cannot}"))
}
