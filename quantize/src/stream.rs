//! The stream of the new files: while a slab is converted on all cores, the one before is written and the next is
//! fetched.
//!
//! The calling thread walks the tensors and has a pool convert slab after slab; a thread of its own writes them. Between
//! the two go [`DEPTH`] slabs at most, whose memory is used again, so that memory is bounded however large the model or slow
//! the disk is.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use rayon::ThreadPool;

use crate::convert::{self, SLAB};
use crate::deviation::Deviation;
use crate::error::{Error, Result};
use crate::parts::Part;
use crate::plan::{Plan, Progress, refused};

/// Slabs that wait to be written: about as many as are converted while the file is put on the disk, now and then, for the journal.
const DEPTH: usize = 6;

/// Where the bytes of the files go, one file after another.
pub(crate) trait Sink: Send {
    /// The next bytes of the file.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// A tensor is complete, padding and all.
    fn end_tensor(&mut self, line: usize, deviation: Deviation) -> Result<()>;

    /// The file is complete.
    fn end_file(&mut self) -> Result<()>;
}

/// What the writing thread is told.
enum Message {
    /// Memory that is handed back.
    Slab(Vec<u8>),
    /// Headers and padding.
    Other(Vec<u8>),
    EndTensor(usize, Deviation),
    EndFile,
}

/// The first file that is not complete when so many tensors are.
pub(crate) fn first_part(parts: &[Part], finished: usize) -> usize {
    let rest = || parts.iter().position(|p| p.lines.end > finished).unwrap_or(parts.len());
    if finished == 0 { 0 } else { rest() }
}

/// The work of one run.
pub(crate) struct Stream<'a> {
    pub plan: &'a Plan,
    pub parts: &'a [Part],
    /// Tensors that are complete already, and what encoding them has cost.
    pub finished: Vec<Deviation>,
    pub pool: ThreadPool,
    pub progress: &'a mut dyn FnMut(Progress<'_>),
    pub cancel: &'a AtomicBool,
}

/// The writing thread has ended, for a reason that it tells.
struct Gone;

/// Why converting stopped.
enum Stop {
    Failed(Error),
    Gone,
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Stop::Gone
    }
}

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Stop::Failed(e)
    }
}

/// What the converting thread has.
struct Lane {
    full: SyncSender<Message>,
    empty: Receiver<Vec<u8>>,
}

impl Lane {
    /// Memory for a slab, as soon as there is some.
    fn buffer(&self) -> Result<Vec<u8>, Gone> {
        self.empty.recv().map_err(|_| Gone)
    }

    fn send(&self, message: Message) -> Result<(), Gone> {
        self.full.send(message).map_err(|_| Gone)
    }
}

impl Stream<'_> {
    /// Runs to the end; gives what encoding each tensor has cost.
    pub fn run(mut self, sink: &mut dyn Sink) -> Result<Vec<Deviation>> {
        let (full, messages) = sync_channel(DEPTH);
        let (spent, empty) = channel();
        for _ in 0..=DEPTH {
            // The receiver is at hand.
            let _ = spent.send(Vec::new());
        }
        let lane = Lane { full, empty };
        let (converted, written) = std::thread::scope(|scope| {
            let writer = scope.spawn(move || write(&messages, &spent, sink));
            let converted = self.convert(&lane);
            drop(lane);
            let panicked = |_| Err(Error::Stopped("the thread that writes"));
            (converted, writer.join().unwrap_or_else(panicked))
        });
        match converted {
            Err(Stop::Failed(e)) => Err(e),
            Err(Stop::Gone) => written.and(Err(Error::Stopped("the thread that writes"))),
            Ok(()) => written.map(|()| self.finished),
        }
    }

    fn convert(&mut self, lane: &Lane) -> Result<(), Stop> {
        let lines = self.plan.lines();
        // A damaged file may claim some bytes for many tensors.
        let bytes = |lines: &[crate::Line]| lines.iter().fold(0u64, |sum, l| sum.saturating_add(l.bytes));
        let first = self.finished.len();
        let (mut done, total) = (bytes(&lines[..first]), bytes(lines));
        let parts = self.parts;
        for part in &parts[first_part(parts, first)..] {
            if part.lines.start >= first {
                lane.send(Message::Other(part.header.clone()))?;
            }
            for line in part.lines.clone().skip(first.saturating_sub(part.lines.start)) {
                let place = line - part.lines.start;
                let end = part.tensors.get(place + 1).map_or(part.size, |next| next.start);
                let deviation = self.tensor(line, (done, total), lane)?;
                let padding = end - part.tensors[place].end;
                if padding > 0 {
                    lane.send(Message::Other(vec![0; padding as usize]))?;
                }
                lane.send(Message::EndTensor(line, deviation))?;
                self.finished.push(deviation);
                done = done.saturating_add(lines[line].bytes);
            }
            lane.send(Message::EndFile)?;
        }
        Ok(())
    }

    /// Converts a tensor, slab by slab.
    fn tensor(&mut self, at: usize, (done, total): (u64, u64), lane: &Lane) -> Result<Deviation, Stop> {
        let (line, tensor) = (&self.plan.lines()[at], &self.plan.source().tensors()[at]);
        let (n, to) = (line.shape.n_elements(), line.to.format());
        let weights = self.plan.weights(at)?;
        let mut sum = Deviation::default();
        for start in (0..n).step_by(SLAB) {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(Error::Cancelled.into());
            }
            let range = start..n.min(start + SLAB);
            self.announce(at, range.end);
            let mut slab = lane.buffer()?;
            let convert = || convert::slab(tensor, to, range.clone(), weights.as_deref(), &mut slab);
            let converted = self.pool.install(convert);
            let file = self.plan.source().path();
            sum += converted.map_err(|bad| refused(file, line, start + bad.at, bad.value))?;
            lane.send(Message::Slab(slab))?;
            tensor.contents.release(range.clone());
            // Of at most as many bytes as the tensor has.
            let read = u128::from(line.bytes) * range.end as u128 / n as u128;
            let done = done.saturating_add(read as u64);
            (self.progress)(Progress { done, total, tensor: &line.name });
        }
        Ok(sum)
    }

    /// Has what comes next fetched: the slab of a tensor that begins at an element, or the first of the next tensor.
    fn announce(&self, at: usize, start: usize) {
        let tensors = self.plan.source().tensors();
        let next = |t: &crate::source::SourceTensor, start: usize| -> Option<Range<usize>> {
            let n = t.shape.n_elements();
            (start < n).then(|| start..n.min(start + SLAB))
        };
        if let Some(range) = next(&tensors[at], start) {
            tensors[at].contents.will_need(range);
        } else if let Some((t, range)) = tensors.get(at + 1).and_then(|t| Some((t, next(t, 0)?))) {
            t.contents.will_need(range);
        }
    }
}

/// Writes what comes, and hands memory back.
fn write(messages: &Receiver<Message>, spent: &Sender<Vec<u8>>, sink: &mut dyn Sink) -> Result<()> {
    for message in messages {
        match message {
            Message::Slab(bytes) => {
                sink.write(&bytes)?;
                // Nobody needs it any more if the other side is gone.
                let _ = spent.send(bytes);
            }
            Message::Other(bytes) => sink.write(&bytes)?,
            Message::EndTensor(line, deviation) => sink.end_tensor(line, deviation)?,
            Message::EndFile => sink.end_file()?,
        }
    }
    Ok(())
}
