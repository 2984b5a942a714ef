//! A plan carried out: files that exist only when they are complete, and a run that goes on where one was killed.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::deviation::Deviation;
use crate::error::{Error, Result};
use crate::journal::{Done, Identity, Journal};
use crate::output::Output;
use crate::parts::{self, Part};
use crate::plan::{self, Options, Plan, Progress, Report};
use crate::stream::{Sink, Stream, first_part};

/// Bytes that are written at once where tensors are small.
const BUFFER: usize = 1 << 20;
/// Bytes after which what is done is put on the disk and noted, unless the options say otherwise.
const SYNC_BYTES: u64 = 64 << 20;
/// Time after which it is, however little it is.
const SYNC_TIME: Duration = Duration::from_secs(2);

/// Writes the files that `plan` describes: `out`, or its shards beside it.
///
/// `progress` is called after every few megabytes; `cancel` is looked at as often. What an earlier run of the same work has
/// left, because it was killed or was to [keep](Options::keep_partial) it, is not done again.
///
/// # Errors
/// If `out` is the model that is read, exists (without [`Options::force`]) or is no regular file; if the disk is full,
/// or will be; if a tensor holds a number that is none, or one that its new type cannot express, or needs an importance
/// matrix; [`Error::Cancelled`]. Nothing of the new files is left then, unless it was to be kept, and an `out` that existed
/// is as before.
pub fn run(
    plan: &Plan,
    out: &Path,
    options: &Options,
    progress: &mut dyn FnMut(Progress<'_>),
    cancel: &AtomicBool,
) -> Result<Report> {
    plan.check_importance()?;
    let parts = plan.parts(options.split, &out.display().to_string())?;
    let paths = parts::paths(out, parts.len());
    let mut journal = Journal::new(out, identity(plan, &parts, &paths));
    let done = journal.read();
    if done.complete && done.tensors.len() == plan.lines().len() && finish(&paths, &parts)? {
        journal.remove();
        return Ok(report(&parts, paths, done.tensors.len(), done.tensors));
    }
    let inputs = || plan.source().files().iter().map(PathBuf::as_path);
    let mut outputs = Vec::new();
    for path in &paths {
        outputs.push(Output::open(path, inputs(), options.force)?);
    }
    let finished = resume(done, &parts, &outputs, &mut journal)?;
    let resumed = finished.len();
    // A run that is refused before it has done anything leaves what another one has done.
    outputs.iter_mut().for_each(|o| o.keep(resumed > 0));
    let kept: u64 = outputs.iter().map(Output::len).sum::<Result<u64>>()?;
    let size: u64 = parts.iter().map(|p| p.size).sum();
    outputs[0].check_space(size.saturating_sub(kept))?;
    let pool = plan::pool(options.threads)?;
    // From here on what fails is removed.
    outputs.iter_mut().for_each(|o| o.keep(false));
    plan.source().will_be_streamed();
    let stream = Stream { plan, parts: &parts, finished, pool, progress, cancel };
    let mut files =
        Files::new(&outputs, first_part(&parts, resumed), journal, stream.finished.clone(), options);
    let result = stream.run(&mut files);
    let (mut journal, noted) = files.end(options.keep_partial && result.is_err());
    match result {
        Ok(deviations) => {
            commit(outputs, &mut journal, &deviations)?;
            Ok(report(&parts, paths, resumed, deviations))
        }
        Err(e) => {
            if noted {
                outputs.iter_mut().for_each(|o| o.keep(true));
            } else {
                journal.remove();
            }
            Err(e)
        }
    }
}

fn report(parts: &[Part], files: Vec<PathBuf>, resumed: usize, deviations: Vec<Deviation>) -> Report {
    Report { deviations, bytes: parts.iter().map(|p| p.size).sum(), files, resumed }
}

/// Everything that the new files depend on.
fn identity(plan: &Plan, parts: &[Part], paths: &[PathBuf]) -> u64 {
    let mut identity = Identity::new();
    let importance = plan.importance().map(|file| file.path());
    for file in plan.source().files().iter().map(PathBuf::as_path).chain(importance) {
        identity.add_file(file);
    }
    for (part, path) in parts.iter().zip(paths) {
        identity.add(path.as_os_str().as_encoded_bytes());
        identity.add(&part.header);
    }
    // What is weighted by an importance matrix does not show in the headers.
    let weighted: Vec<u8> = plan.lines().iter().map(|l| u8::from(l.weighted)).collect();
    identity.add(&weighted);
    identity.finish()
}

/// Gives the files of a run that was killed while it did so their names. `false` if there is something else missing.
fn finish(paths: &[PathBuf], parts: &[Part]) -> Result<bool> {
    let size = |path: &Path| std::fs::metadata(path).ok().filter(|m| m.is_file()).map(|m| m.len());
    let there = |(path, part): (&PathBuf, &Part)| {
        size(&Output::partial(path)).or_else(|| size(path)) == Some(part.size)
    };
    if !paths.iter().zip(parts).all(there) {
        return Ok(false);
    }
    for path in paths.iter().filter(|p| Output::partial(p).exists()) {
        Output::open(path, [], true)?.commit()?;
    }
    Ok(true)
}

/// Cuts the files back to the tensors that are complete in them, all of them if nothing is; gives what encoding these has
/// cost.
fn resume(done: Done, parts: &[Part], outputs: &[Output], journal: &mut Journal) -> Result<Vec<Deviation>> {
    let finished = done.tensors.len();
    let first = first_part(parts, finished);
    let end = |i: usize| -> u64 {
        let part = &parts[i];
        match i.cmp(&first) {
            std::cmp::Ordering::Less => part.size,
            std::cmp::Ordering::Equal if part.lines.start < finished => {
                // Some of it is to come, so there is a tensor that begins where the last one ends.
                part.tensors[finished - part.lines.start].start
            }
            _ => 0,
        }
    };
    let mut whole = finished > 0 && parts.last().is_some_and(|p| finished <= p.lines.end);
    for (i, output) in outputs.iter().enumerate() {
        whole = whole && output.len()? >= end(i);
    }
    if !whole {
        // It goes first: it must never speak of what is not there.
        journal.remove();
        outputs.iter().try_for_each(|o| o.cut(0))?;
        return Ok(vec![]);
    }
    for (i, output) in outputs.iter().enumerate() {
        output.cut(end(i))?;
    }
    journal.begin(&done.tensors)?;
    Ok(done.tensors)
}

/// Gives complete files their names.
fn commit(outputs: Vec<Output>, journal: &mut Journal, deviations: &[Deviation]) -> Result<()> {
    if outputs.len() > 1 {
        // Between the first name and the last a kill leaves some of both, which the next run puts right.
        journal.begin(deviations)?;
        journal.complete()?;
    }
    for output in outputs {
        output.commit()?;
    }
    journal.remove();
    Ok(())
}

/// The files that are written, and the journal.
struct Files<'a> {
    outputs: &'a [Output],
    writer: Option<BufWriter<&'a std::fs::File>>,
    /// The file that is being written.
    at: usize,
    journal: Journal,
    /// Whether the journal has been begun.
    begun: bool,
    /// Tensors that are complete.
    tensors: Vec<Deviation>,
    /// How many of them are noted.
    noted: usize,
    /// Bytes that may not be on the disk yet, and since when.
    unsynced: u64,
    since: Instant,
    sync_bytes: u64,
}

impl<'a> Files<'a> {
    fn new(
        outputs: &'a [Output],
        at: usize,
        journal: Journal,
        tensors: Vec<Deviation>,
        options: &Options,
    ) -> Self {
        let noted = tensors.len();
        let mut files = Files {
            outputs,
            writer: None,
            at,
            journal,
            begun: noted > 0,
            tensors,
            noted,
            unsynced: 0,
            since: Instant::now(),
            sync_bytes: options.sync_bytes.unwrap_or(SYNC_BYTES),
        };
        files.open();
        files
    }

    fn open(&mut self) {
        self.writer = self.outputs.get(self.at).map(|o| BufWriter::with_capacity(BUFFER, o.file()));
    }

    /// Puts what is complete on the disk, and notes it.
    fn note(&mut self) -> Result<()> {
        if let (Some(writer), Some(output)) = (&mut self.writer, self.outputs.get(self.at)) {
            let synced = writer.flush().and_then(|()| output.file().sync_data());
            synced.map_err(|e| output.failed(e))?;
        }
        (self.unsynced, self.since) = (0, Instant::now());
        if self.begun {
            self.journal.add(self.noted, &self.tensors[self.noted..])?;
        } else {
            self.journal.begin(&self.tensors)?;
        }
        (self.begun, self.noted) = (true, self.tensors.len());
        Ok(())
    }

    /// Ends, noting what is complete if that is wanted; says whether there is anything worth keeping.
    fn end(mut self, keep: bool) -> (Journal, bool) {
        let noted = keep && (self.noted == self.tensors.len() || self.note().is_ok() || self.noted > 0);
        let worth = noted && self.noted > 0;
        if let Some(writer) = self.writer.take() {
            // What is still in its buffer belongs to a tensor that is not complete.
            let _ = writer.into_parts();
        }
        (self.journal, worth)
    }
}

impl Sink for Files<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let (Some(writer), Some(output)) = (&mut self.writer, self.outputs.get(self.at)) else {
            return Err(Error::Stopped("the last file"));
        };
        writer.write_all(bytes).map_err(|e| output.failed(e))?;
        self.unsynced += bytes.len() as u64;
        Ok(())
    }

    fn end_tensor(&mut self, line: usize, deviation: Deviation) -> Result<()> {
        debug_assert_eq!(line, self.tensors.len());
        self.tensors.push(deviation);
        let due = self.unsynced >= self.sync_bytes || self.since.elapsed() >= SYNC_TIME;
        if due { self.note() } else { Ok(()) }
    }

    fn end_file(&mut self) -> Result<()> {
        if let (Some(mut writer), Some(output)) = (self.writer.take(), self.outputs.get(self.at)) {
            let synced = writer.flush().and_then(|()| output.file().sync_all());
            synced.map_err(|e| output.failed(e))?;
        }
        self.at += 1;
        self.open();
        Ok(())
    }
}
