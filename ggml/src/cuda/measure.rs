//! What a device does at best.

use std::time::Instant;

use super::Cuda;
use super::args::{MeasureMmaArgs, MeasureReadArgs};
use super::device::Stream;
use super::modules::{Geometry, Kernel};
use super::staging::Pinned;
use crate::error::Result;

/// Bytes that are read: more than any cache holds.
const READ: usize = 1 << 30;
/// Bytes that are copied at a time.
const COPIED: usize = 32 << 20;
/// Bytes that are sent: more than most caches hold.
const SENT: usize = 128 << 20;
/// Launches that are timed together, so that starting them does not count.
const LAUNCHES: usize = 8;
/// Timings, of which the best counts.
const REPEATS: usize = 5;
/// A sum that does not come about.
const NEVER: u32 = 0x5EED_F00D;

impl Cuda {
    /// Bytes of its memory that the device reads a second.
    ///
    /// # Errors
    /// If the device has no room for what is read, or fails.
    pub fn read_bandwidth(&self) -> Result<f64> {
        let d = self.device();
        // No more than a quarter of what is free.
        let bytes = READ.min(usize::try_from(d.free_memory()? / 4).unwrap_or(READ)) / 16 * 16;
        let (memory, out) = (d.zeroed("measuring", bytes)?, d.zeroed("measuring", 16)?);
        let kernel: Kernel<MeasureReadArgs> = self.modules.kernel("measure_read")?;
        let args = MeasureReadArgs { at: memory.at(), out: out.at(), n: bytes as u64 / 16, never: NEVER };
        let geometry = Geometry::new([8 * d.properties().processors, 1, 1], 256);
        let seconds = self.best(|| {
            // SAFETY: the memory has so many bytes, and `out` a number.
            unsafe { kernel.launch(geometry, &args) }
        })?;
        Ok((LAUNCHES * bytes) as f64 / seconds)
    }

    /// Products of bytes that its tensor cores do a second.
    ///
    /// # Errors
    /// If the device fails.
    pub fn int8_peak(&self) -> Result<f64> {
        /// Tiles of a warp, divided by eight.
        const ROUNDS: u32 = 2048;
        let d = self.device();
        let out = d.zeroed("measuring", 16)?;
        let kernel: Kernel<MeasureMmaArgs> = self.modules.kernel("measure_mma")?;
        let blocks = 4 * d.properties().processors;
        let args = MeasureMmaArgs { out: out.at(), rounds: ROUNDS, never: NEVER };
        let seconds = self.best(|| {
            // SAFETY: `out` has room for a number.
            unsafe { kernel.launch(Geometry::new([blocks, 1, 1], 256), &args) }
        })?;
        let tiles = f64::from(blocks) * 8.0 * 8.0 * f64::from(ROUNDS);
        Ok(LAUNCHES as f64 * tiles * (16 * 8 * 32) as f64 / seconds)
    }

    /// Bytes of pinned memory of the host that the device copies a second: what the bus does at best.
    ///
    /// # Errors
    /// If there is no room for what is copied, or the device fails.
    pub fn copy_bandwidth(&self) -> Result<f64> {
        let d = self.device();
        let (from, to) = (Pinned::new(d, COPIED)?, d.alloc("measuring", COPIED)?);
        let copy = || from.send(Stream::Copies, 0..COPIED, to.at());
        Ok((LAUNCHES * COPIED) as f64 / self.best_in(Stream::Copies, LAUNCHES, REPEATS, copy)?)
    }

    /// Bytes of any memory of the host that are sent to the device a second, through pinned memory: what experts are sent with.
    ///
    /// # Errors
    /// If there is no room for what is sent, or the device fails.
    pub fn send_bandwidth(&self) -> Result<f64> {
        let d = self.device();
        let (from, to) = (vec![1u8; SENT], d.alloc("measuring", SENT)?);
        let send = || d.upload_in(Stream::Copies, &to, 0, &from);
        Ok(SENT as f64 / self.best_in(Stream::Copies, 1, 2, send)?)
    }

    /// Seconds of [`LAUNCHES`] launches, the best of some.
    fn best(&self, launch: impl Fn() -> Result<()>) -> Result<f64> {
        self.best_in(Stream::Compute, LAUNCHES, REPEATS, launch)
    }

    /// Seconds that `n` of something in a stream take, the best of some, after it has been done once.
    fn best_in(&self, stream: Stream, n: usize, repeats: usize, put: impl Fn() -> Result<()>) -> Result<f64> {
        put()?;
        self.device().wait_for(stream)?;
        let mut best = f64::INFINITY;
        for _ in 0..repeats {
            let start = Instant::now();
            (0..n).try_for_each(|_| put())?;
            self.device().wait_for(stream)?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        // In no time: not a division by zero.
        Ok(best.max(1e-9))
    }
}
