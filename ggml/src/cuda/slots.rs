//! Memory that experts are brought to while the device computes.
//!
//! A thread of its own fills pinned memory and puts copies into the stream of copies, so that neither the host's threads nor kernels wait:
//! copies wait for the kernels that were there before, which may still read what is overwritten, and the host asks by an event
//! whether they are done.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use super::device::{Device, Memory, Stream};
use super::staging::{Event, Staging};
use crate::backend::{Arrival, Piece, SlotMemory};
use crate::error::{Error, Result};

/// Bytes of each half of the pinned memory.
const HALF: usize = 4 << 20;

pub(super) struct Slots {
    device: Arc<Device>,
    memory: Arc<Memory>,
    /// What kernels may still read has been read.
    used: Event,
    /// None once the thread is to end.
    jobs: Mutex<Option<Sender<Job>>>,
    thread: Option<JoinHandle<()>>,
}

/// Pieces to bring, and where to say how far they are.
struct Job {
    pieces: Vec<Piece>,
    state: Arc<Mutex<State>>,
}

enum State {
    /// Not all copies are in the stream.
    Waiting,
    /// They are, and this comes behind them.
    Sent(Event),
    Failed(Error),
    /// That has been said.
    Gone,
}

struct Coming(Arc<Mutex<State>>);

impl Slots {
    /// So many bytes.
    ///
    /// # Errors
    /// If the device has no room for them, or there can be no thread.
    pub fn new(device: &Arc<Device>, bytes: usize) -> Result<Slots> {
        let memory = Arc::new(device.alloc("slots for experts", bytes)?);
        let staging = Owned { device: device.clone(), staging: Some(Staging::new(device, HALF, false)?) };
        let used = Event::new(device)?;
        let (sender, jobs) = mpsc::channel();
        let to = memory.clone();
        let thread = std::thread::Builder::new()
            .name("experts".into())
            .spawn(move || work(&jobs, staging, &to))
            .map_err(|e| Error::Unsupported(format!("a thread that brings experts: {e}")))?;
        let jobs = Mutex::new(Some(sender));
        Ok(Slots { device: device.clone(), memory, used, jobs, thread: Some(thread) })
    }
}

/// Pinned memory that is given back.
struct Owned {
    device: Arc<Device>,
    staging: Option<Staging>,
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let (Some(s), Ok(())) = (self.staging.take(), self.device.enter()) {
            s.free(self.device.driver());
        }
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(|e| e.into_inner())
}

/// The thread: job after job until nobody can give one any more.
fn work(jobs: &Receiver<Job>, mut staging: Owned, memory: &Memory) {
    while let Ok(job) = jobs.recv() {
        let Some(s) = &mut staging.staging else { return };
        let state = match send(&staging.device, s, memory, &job.pieces) {
            Ok(event) => State::Sent(event),
            Err(e) => State::Failed(e),
        };
        *locked(&job.state) = state;
    }
}

fn send(device: &Arc<Device>, staging: &mut Staging, memory: &Memory, pieces: &[Piece]) -> Result<Event> {
    let event = Event::new(device)?;
    for p in pieces {
        staging.upload(
            device,
            Stream::Copies,
            memory.at() + p.to as u64,
            &p.tensor.bytes()[p.bytes.clone()],
        )?;
    }
    event.record(Stream::Copies)?;
    Ok(event)
}

impl SlotMemory for Slots {
    fn address(&self) -> u64 {
        self.memory.at()
    }

    fn bring(&self, pieces: Vec<Piece>) -> Result<Box<dyn Arrival>> {
        for p in &pieces {
            let fits = p.to.checked_add(p.bytes.len()).is_some_and(|end| end <= self.memory.len());
            assert!(fits && p.bytes.end <= p.tensor.bytes().len(), "bytes beyond the end");
        }
        self.device.enter()?;
        self.used.record(Stream::Compute)?;
        self.used.hold(Stream::Copies)?;
        let state = Arc::new(Mutex::new(State::Waiting));
        let job = Job { pieces, state: state.clone() };
        let sent = locked(&self.jobs).as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if sent { Ok(Box::new(Coming(state))) } else { Err(gone()) }
    }
}

fn gone() -> Error {
    Error::Unsupported("experts for slots whose thread has ended".into())
}

impl Arrival for Coming {
    fn has_come(&self) -> Result<bool> {
        let mut state = locked(&self.0);
        match &*state {
            State::Waiting => Ok(false),
            State::Sent(event) => event.is_over(),
            State::Failed(_) | State::Gone => match std::mem::replace(&mut *state, State::Gone) {
                State::Failed(e) => Err(e),
                _ => Err(gone()),
            },
        }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // Without a sender it ends after the jobs that it has.
        locked(&self.jobs).take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
