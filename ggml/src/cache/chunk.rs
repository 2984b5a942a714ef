//! The memory of chunks: the host's, or a device's.

use crate::error::{Error, Result};
use crate::memory::AlignedBuf;

/// What gives the memory of chunks.
pub trait ChunkMemory: Send + Sync {
    /// Memory for the rows that a chunk has here, zeroed.
    ///
    /// # Errors
    /// If there is not so much.
    fn allocate(&self, bytes: usize) -> Result<Box<dyn DeviceChunk>>;
}

/// The part of a chunk that lies in a device's memory.
pub trait DeviceChunk: Send + Sync {
    /// Its address on the device.
    fn address(&self) -> u64;

    /// Copies bytes from it.
    ///
    /// # Errors
    /// If the device fails.
    fn read(&self, at: usize, to: &mut [u8]) -> Result<()>;

    /// Copies bytes into it.
    ///
    /// # Errors
    /// If the device fails.
    fn write(&mut self, at: usize, from: &[u8]) -> Result<()>;

    /// Memory of its own with the same bytes.
    ///
    /// # Errors
    /// If there is not so much, or the device fails.
    fn duplicate(&self) -> Result<Box<dyn DeviceChunk>>;
}

/// The part of a chunk that lies in one memory.
pub(super) enum Data {
    Host(AlignedBuf),
    Device(Box<dyn DeviceChunk>),
}

impl Data {
    /// Zeroed bytes of the host, or of `memory` if that is given.
    pub fn new(memory: Option<&dyn ChunkMemory>, bytes: usize) -> Result<Data> {
        match memory {
            Some(m) => Ok(Data::Device(m.allocate(bytes)?)),
            None => AlignedBuf::huge(bytes)
                .map(Data::Host)
                .ok_or(Error::OutOfMemory { what: "the key/value cache", bytes }),
        }
    }

    /// The first byte of host memory, null for a device's.
    pub fn host(&self) -> *mut u8 {
        match self {
            Data::Host(b) => b.as_ptr(),
            Data::Device(_) => std::ptr::null_mut(),
        }
    }

    /// The address on the device, 0 for host memory.
    pub fn address(&self) -> u64 {
        match self {
            Data::Host(_) => 0,
            Data::Device(d) => d.address(),
        }
    }

    pub fn duplicate(&self) -> Result<Data> {
        match self {
            Data::Host(b) => {
                let bytes = b.as_slice();
                let mut own = Data::new(None, bytes.len())?;
                if let Data::Host(own) = &mut own {
                    own.as_mut_slice().copy_from_slice(bytes);
                }
                Ok(own)
            }
            Data::Device(d) => Ok(Data::Device(d.duplicate()?)),
        }
    }

    /// Shows bytes to `take`.
    pub fn show<E: From<Error>>(
        &self,
        span: std::ops::Range<usize>,
        take: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Data::Host(b) => take(&b.as_slice()[span]),
            Data::Device(d) => {
                let mut bytes = vec![0; span.len()];
                d.read(span.start, &mut bytes)?;
                take(&bytes)
            }
        }
    }

    /// Has `fill` write bytes.
    pub fn fill<E: From<Error>>(
        &mut self,
        span: std::ops::Range<usize>,
        fill: &mut dyn FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Data::Host(b) => fill(&mut b.as_mut_slice()[span]),
            Data::Device(d) => {
                let mut bytes = vec![0; span.len()];
                fill(&mut bytes)?;
                Ok(d.write(span.start, &bytes)?)
            }
        }
    }
}
