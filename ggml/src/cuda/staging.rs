//! Pinned host memory: what the device reads by itself, at the speed of the bus, while the host goes on.

use std::ffi::c_void;
use std::ops::Range;
use std::ptr;
use std::sync::Arc;

use super::device::{Device, Stream};
use super::driver::{DevicePtr, Driver, Handle};
use crate::error::Result;

/// Pinned host memory.
pub(super) struct Pinned {
    device: Arc<Device>,
    at: Handle,
    len: usize,
}

// SAFETY: owned memory, like a `Box<[u8]>`.
unsafe impl Send for Pinned {}
// SAFETY: shared references give shared access to bytes only.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// `len` zeroed bytes.
    pub fn new(device: &Arc<Device>, len: usize) -> Result<Pinned> {
        device.enter()?;
        let at = pinned(device, len)?;
        Ok(Pinned { device: device.clone(), at, len })
    }

    /// Some of its bytes, to be changed. Nothing in a stream may be reading them.
    pub fn part_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.len, "bytes beyond the end");
        // SAFETY: initialized bytes that this owns, as just checked.
        unsafe { std::slice::from_raw_parts_mut(self.at.cast::<u8>().add(range.start), range.len()) }
    }

    /// Copies `range` of it to the device in a stream's order. It must not be changed before the stream got there.
    pub fn send(&self, stream: Stream, range: Range<usize>, to: DevicePtr) -> Result<()> {
        assert!(range.start <= range.end && range.end <= self.len, "bytes beyond the end");
        let d = &self.device;
        // SAFETY: the range is checked; whoever made `to` has room there.
        let rc = unsafe {
            let from = self.at.cast::<u8>().add(range.start).cast::<c_void>();
            (d.driver().call.to_device_async)(to, from, range.len(), d.handle(stream))
        };
        d.check("copying to it", rc)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: allocated once, and nobody else has it.
            unsafe { (self.device.driver().call.free_host)(self.at) };
        }
    }
}

fn pinned(device: &Device, len: usize) -> Result<Handle> {
    let mut at = ptr::null_mut();
    // SAFETY: writes one address.
    let rc = unsafe { (device.driver().call.alloc_host)(&mut at, len.max(1)) };
    device.check("giving pinned memory", rc)?;
    // SAFETY: so many bytes are there, and nobody else's.
    unsafe { ptr::write_bytes(at.cast::<u8>(), 0, len) };
    Ok(at)
}

fn new_event(device: &Device) -> Result<Handle> {
    const NO_TIMING: u32 = 2;
    let mut event = ptr::null_mut();
    // SAFETY: writes one handle.
    let rc = unsafe { (device.driver().call.event_create)(&mut event, NO_TIMING) };
    device.check("making an event", rc)?;
    Ok(event)
}

/// A point in one stream that another one waits for.
pub(super) struct Event {
    device: Arc<Device>,
    handle: Handle,
}

// SAFETY: handles of the driver API may be used from any thread.
unsafe impl Send for Event {}
// SAFETY: as above; the driver locks what its functions share.
unsafe impl Sync for Event {}

impl Event {
    /// One that has not been recorded: nobody waits for it.
    pub fn new(device: &Arc<Device>) -> Result<Event> {
        device.enter()?;
        Ok(Event { device: device.clone(), handle: new_event(device)? })
    }

    /// Makes it the point at which `stream` is now.
    pub fn record(&self, stream: Stream) -> Result<()> {
        let d = &self.device;
        // SAFETY: the event and the stream are alive.
        let rc = unsafe { (d.driver().call.event_record)(self.handle, d.handle(stream)) };
        d.check("recording an event", rc)
    }

    /// Whether that point has been passed. Does not wait.
    pub fn is_over(&self) -> Result<bool> {
        const NOT_READY: i32 = 600;
        let d = &self.device;
        d.enter()?;
        // SAFETY: the event is alive.
        match unsafe { (d.driver().call.event_query)(self.handle) } {
            NOT_READY => Ok(false),
            rc => d.check("asking for an event", rc).map(|()| true),
        }
    }

    /// Lets what is put into `stream` from now on wait for it, as it has been recorded until now.
    pub fn hold(&self, stream: Stream) -> Result<()> {
        let d = &self.device;
        // SAFETY: the event and the stream are alive; there are no flags.
        let rc = unsafe { (d.driver().call.stream_wait_event)(d.handle(stream), self.handle, 0) };
        d.check("waiting for an event", rc)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: made once, and nobody else has it; what waits for it does so all the same.
            unsafe { (self.device.driver().call.event_destroy)(self.handle) };
        }
    }
}

/// Two halves of pinned memory: one is filled while the device reads the other.
pub(super) struct Staging {
    /// Bytes of a half.
    half: usize,
    /// Whether many threads fill it.
    parallel: bool,
    at: [Handle; 2],
    /// Recorded when the device has read that half.
    free: [Handle; 2],
    /// The half that is filled next.
    next: usize,
}

// SAFETY: handles of the driver API may be used from any thread, and the memory is its own.
unsafe impl Send for Staging {}

/// Bytes of a half: large enough for the bus, small beside anything worth uploading.
pub(super) const HALF: usize = 16 << 20;

impl Staging {
    /// Halves of so many bytes, which one thread fills or many.
    ///
    /// # Errors
    /// If the driver does not give them.
    pub fn new(device: &Device, half: usize, parallel: bool) -> Result<Staging> {
        let (at, free) = ([ptr::null_mut(); 2], [ptr::null_mut(); 2]);
        let mut s = Staging { half, parallel, at, free, next: 0 };
        match s.fill(device) {
            Ok(()) => Ok(s),
            Err(e) => {
                s.free(device.driver());
                Err(e)
            }
        }
    }

    fn fill(&mut self, device: &Device) -> Result<()> {
        for (at, free) in self.at.iter_mut().zip(&mut self.free) {
            *at = pinned(device, self.half)?;
            *free = new_event(device)?;
        }
        Ok(())
    }

    /// Copies to `to` in the order of `stream`. Returns when the last bytes have been read from `bytes`.
    pub fn upload(&mut self, device: &Device, stream: Stream, to: DevicePtr, bytes: &[u8]) -> Result<()> {
        use rayon::prelude::*;
        let (call, stream) = (&device.driver().call, device.handle(stream));
        for (i, piece) in bytes.chunks(self.half).enumerate() {
            let (at, free) = (self.at[self.next], self.free[self.next]);
            // SAFETY: the event is alive; one never recorded is waited for no time at all.
            device.check("uploading", unsafe { (call.event_wait)(free) })?;
            // SAFETY: the half has room, nobody else has it, and the device has read what was there.
            let half = unsafe { std::slice::from_raw_parts_mut(at.cast::<u8>(), piece.len()) };
            const SHARE: usize = 1 << 20;
            if self.parallel {
                let pieces = half.par_chunks_mut(SHARE).zip(piece.par_chunks(SHARE));
                pieces.for_each(|(to, from)| to.copy_from_slice(from));
            } else {
                half.copy_from_slice(piece);
            }
            let to = to + (i * self.half) as u64;
            // SAFETY: the caller has room for all of `bytes`; the half is left alone until the event says so.
            let rc = unsafe { (call.to_device_async)(to, at, piece.len(), stream) };
            device.check("uploading", rc)?;
            // SAFETY: both are alive.
            device.check("uploading", unsafe { (call.event_record)(free, stream) })?;
            self.next = 1 - self.next;
        }
        Ok(())
    }

    pub fn free(self, driver: &Driver) {
        for (at, free) in self.at.into_iter().zip(self.free) {
            if !free.is_null() {
                // SAFETY: made in `fill`, used by nobody else.
                unsafe { (driver.call.event_destroy)(free) };
            }
            if !at.is_null() {
                // SAFETY: as above; the driver waits for copies that still run.
                unsafe { (driver.call.free_host)(at) };
            }
        }
    }
}
