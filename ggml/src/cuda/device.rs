//! A device: its context, its memory, its streams.

use std::ffi::c_int;
use std::ptr;
use std::sync::{Arc, Mutex};

use super::driver::{DevicePtr, Driver, Handle};
use super::staging::{HALF, Staging};
use crate::error::{Error, Result};

/// The oldest devices that the kernels run on: Ampere.
const OLDEST: (i32, i32) = (8, 0);

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Its number.
    pub ordinal: usize,
    /// The maker's name for it.
    pub name: String,
    /// Compute capability: (8, 9) is Ada.
    pub capability: (i32, i32),
    /// Bytes of its memory.
    pub memory: u64,
    /// Streaming multiprocessors.
    pub processors: u32,
}

impl Properties {
    /// Whether the kernels run on it.
    pub fn is_supported(&self) -> bool {
        self.capability >= OLDEST
    }
}

/// A queue of a device: what is put into it happens in order, and beside what is in the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// Everything but what the other one is for.
    Compute,
    /// Weights that are sent while others are computed with.
    Copies,
}

/// A device with a context of this process and its streams.
pub struct Device {
    driver: Arc<Driver>,
    properties: Properties,
    number: c_int,
    context: Handle,
    streams: [Handle; 2],
    /// Memory that the device can read at full speed, for uploads; made when first needed.
    staging: Mutex<Option<Staging>>,
}

// SAFETY: handles of the driver API may be used from any thread; each call here makes the context current first.
unsafe impl Send for Device {}
// SAFETY: as above; the driver's functions lock what they share.
unsafe impl Sync for Device {}

/// What the driver says of a device.
///
/// # Errors
/// If it does not answer.
pub fn properties(driver: &Driver, ordinal: usize) -> Result<Properties> {
    const MAJOR: c_int = 75;
    const MINOR: c_int = 76;
    const PROCESSORS: c_int = 16;
    let fail = |rc| Error::Device {
        device: format!("CUDA device {ordinal}"),
        what: "asking what it is",
        why: driver.error(rc),
    };
    let check = |rc| if rc == 0 { Ok(()) } else { Err(fail(rc)) };
    let number = handle(driver, ordinal)?;
    let mut name = [0u8; 128];
    // SAFETY: writes at most as many characters as it is told, the end included.
    check(unsafe { (driver.call.device_name)(name.as_mut_ptr().cast(), name.len() as c_int, number) })?;
    let mut memory = 0usize;
    // SAFETY: writes one number.
    check(unsafe { (driver.call.device_memory)(&mut memory, number) })?;
    let attribute = |which| {
        let mut value = 0;
        // SAFETY: writes one integer.
        check(unsafe { (driver.call.device_attribute)(&mut value, which, number) }).map(|()| value)
    };
    let name = name.split(|b| *b == 0).next().unwrap_or_default();
    Ok(Properties {
        ordinal,
        name: String::from_utf8_lossy(name).into_owned(),
        capability: (attribute(MAJOR)?, attribute(MINOR)?),
        memory: memory as u64,
        processors: u32::try_from(attribute(PROCESSORS)?).unwrap_or(1),
    })
}

fn handle(driver: &Driver, ordinal: usize) -> Result<c_int> {
    let mut number = 0;
    // SAFETY: writes one integer.
    let rc = unsafe { (driver.call.device_get)(&mut number, ordinal as c_int) };
    match rc {
        0 => Ok(number),
        _ => Err(Error::Device {
            device: format!("CUDA device {ordinal}"),
            what: "opening it",
            why: driver.error(rc),
        }),
    }
}

impl Device {
    /// Opens a device.
    ///
    /// # Errors
    /// If the kernels do not run on it, or the driver refuses.
    pub fn open(driver: Arc<Driver>, ordinal: usize) -> Result<Arc<Device>> {
        let properties = properties(&driver, ordinal)?;
        if !properties.is_supported() {
            let (major, minor) = properties.capability;
            return Err(Error::Unsupported(format!(
                "{} has compute capability {major}.{minor}; 8.0 (RTX 30 and later) is needed",
                properties.name
            )));
        }
        let number = handle(&driver, ordinal)?;
        let mut device = Device {
            driver,
            properties,
            number,
            context: ptr::null_mut(),
            streams: [ptr::null_mut(); 2],
            staging: Mutex::new(None),
        };
        // SAFETY: writes one handle, given back when the device is dropped.
        let rc = unsafe { (device.driver.call.context_retain)(&mut device.context, number) };
        device.check("making a context", rc)?;
        device.enter()?;
        const NON_BLOCKING: u32 = 1;
        for i in 0..device.streams.len() {
            // SAFETY: writes one handle, given back when the device is dropped.
            let rc = unsafe { (device.driver.call.stream_create)(&mut device.streams[i], NON_BLOCKING) };
            device.check("making a stream", rc)?;
        }
        Ok(Arc::new(device))
    }

    /// What it is.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// The driver's functions.
    pub(super) fn driver(&self) -> &Driver {
        &self.driver
    }

    /// The stream that kernels are in.
    pub(super) fn stream(&self) -> Handle {
        self.handle(Stream::Compute)
    }

    /// A stream as the driver names it.
    pub(super) fn handle(&self, stream: Stream) -> Handle {
        self.streams[stream as usize]
    }

    /// Makes its context the one of this thread, as all calls need.
    pub(super) fn enter(&self) -> Result<()> {
        // SAFETY: the context is this device's own.
        self.check("using it", unsafe { (self.driver.call.context_set)(self.context) })
    }

    /// An error's number to an error.
    pub(super) fn check(&self, what: &'static str, rc: c_int) -> Result<()> {
        if rc == 0 {
            return Ok(());
        }
        let p = &self.properties;
        Err(Error::Device {
            device: format!("{} (CUDA device {})", p.name, p.ordinal),
            what,
            why: self.driver.error(rc),
        })
    }

    /// Bytes that are free now.
    ///
    /// # Errors
    /// If the driver does not say.
    pub fn free_memory(&self) -> Result<u64> {
        self.enter()?;
        let (mut free, mut total) = (0usize, 0usize);
        // SAFETY: writes two numbers.
        let rc = unsafe { (self.driver.call.memory_info)(&mut free, &mut total) };
        self.check("asking for its free memory", rc)?;
        Ok(free as u64)
    }

    /// `len` bytes of its memory, not initialized.
    ///
    /// # Errors
    /// If there are not so many.
    pub fn alloc(self: &Arc<Self>, what: &'static str, len: usize) -> Result<Memory> {
        self.enter()?;
        let mut at = 0;
        // SAFETY: writes one address.
        let rc = unsafe { (self.driver.call.alloc)(&mut at, len.max(1)) };
        const OUT_OF_MEMORY: c_int = 2;
        if rc == OUT_OF_MEMORY {
            return Err(Error::OutOfMemory { what, bytes: len });
        }
        self.check("giving memory", rc)?;
        Ok(Memory { device: self.clone(), at, len })
    }

    /// The same with zeros in it.
    ///
    /// # Errors
    /// If there are not so many bytes.
    pub fn zeroed(self: &Arc<Self>, what: &'static str, len: usize) -> Result<Memory> {
        let memory = self.alloc(what, len)?;
        // SAFETY: these bytes are the allocation's.
        let rc = unsafe { (self.driver.call.set_bytes)(memory.at, 0, len.max(1)) };
        self.check("clearing memory", rc)?;
        // The stream does not wait for what happens outside it.
        self.wait_for_default_stream()?;
        Ok(memory)
    }

    fn wait_for_default_stream(&self) -> Result<()> {
        // SAFETY: null names the default stream.
        self.check("waiting", unsafe { (self.driver.call.stream_wait)(ptr::null_mut()) })
    }

    /// Waits until everything in the stream is done.
    ///
    /// # Errors
    /// If something in it failed.
    pub fn wait(&self) -> Result<()> {
        self.wait_for(Stream::Compute)
    }

    /// Waits until everything in a stream is done.
    ///
    /// # Errors
    /// If something in it failed.
    pub(super) fn wait_for(&self, stream: Stream) -> Result<()> {
        self.enter()?;
        // SAFETY: the stream is this device's own.
        self.check("computing", unsafe { (self.driver.call.stream_wait)(self.handle(stream)) })
    }

    /// Uploads to memory that nothing in the stream uses yet, through pinned memory that the device reads at the speed of
    /// the bus.
    ///
    /// # Errors
    /// If the copy fails.
    pub fn upload(&self, to: &Memory, bytes: &[u8]) -> Result<()> {
        self.upload_in(Stream::Compute, to, 0, bytes)
    }

    /// The same to a place in memory that nothing uses before `stream` gets there.
    ///
    /// # Errors
    /// If the copy fails.
    pub(super) fn upload_in(&self, stream: Stream, to: &Memory, at: usize, bytes: &[u8]) -> Result<()> {
        assert!(at.checked_add(bytes.len()).is_some_and(|end| end <= to.len), "more bytes than fit");
        self.enter()?;
        let mut staging = self.staging.lock().unwrap_or_else(|e| e.into_inner());
        let staging = match &mut *staging {
            Some(s) => s,
            none => none.insert(Staging::new(self, HALF, true)?),
        };
        staging.upload(self, stream, to.at + at as u64, bytes)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.enter().is_err() {
            return;
        }
        // Errors are of no use any more: the context goes with all that is in it.
        if let Some(staging) = self.staging.get_mut().unwrap_or_else(|e| e.into_inner()).take() {
            staging.free(&self.driver);
        }
        for stream in self.streams.into_iter().filter(|s| !s.is_null()) {
            // SAFETY: made in `open`, and nobody else has it.
            unsafe { (self.driver.call.stream_destroy)(stream) };
        }
        if !self.context.is_null() {
            // SAFETY: retained once, in `open`.
            unsafe { (self.driver.call.context_release)(self.number) };
        }
    }
}

/// Memory of a device.
pub struct Memory {
    device: Arc<Device>,
    at: DevicePtr,
    len: usize,
}

impl Memory {
    /// Its address on the device.
    pub fn at(&self) -> DevicePtr {
        self.at
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies from it once everything in the stream before is done.
    ///
    /// # Errors
    /// If the copy, or something in the stream, failed.
    pub fn read(&self, from: usize, to: &mut [u8]) -> Result<()> {
        assert!(from.checked_add(to.len()).is_some_and(|end| end <= self.len), "bytes beyond the end");
        let d = &self.device;
        d.enter()?;
        // SAFETY: both ranges are checked, and the wait below keeps `to` borrowed until the copy is done.
        let rc = unsafe {
            (d.driver.call.to_host_async)(to.as_mut_ptr().cast(), self.at + from as u64, to.len(), d.stream())
        };
        d.check("reading results", rc)?;
        d.wait()
    }

    /// Copies into it once everything in the stream before is done.
    ///
    /// # Errors
    /// If the copy, or something in the stream, failed.
    pub fn write(&self, to: usize, bytes: &[u8]) -> Result<()> {
        assert!(to.checked_add(bytes.len()).is_some_and(|end| end <= self.len), "bytes beyond the end");
        let d = &self.device;
        d.wait()?;
        // SAFETY: both ranges are checked; the call returns when `bytes` has been read.
        let rc =
            unsafe { (d.driver.call.to_device)(self.at + to as u64, bytes.as_ptr().cast(), bytes.len()) };
        d.check("copying to it", rc)?;
        d.wait_for_default_stream()
    }

    /// Copies all of `from`, of the same device and length.
    ///
    /// # Errors
    /// If the copy, or something in the stream, failed.
    pub fn copy_from(&self, from: &Memory) -> Result<()> {
        assert!(from.len == self.len && from.device.number == self.device.number, "another kind of memory");
        let d = &self.device;
        d.wait()?;
        // SAFETY: both allocations have these bytes.
        let rc = unsafe { (d.driver.call.within_device)(self.at, from.at, self.len) };
        d.check("copying", rc)?;
        d.wait_for_default_stream()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: allocated once, and nobody else has it; the driver waits for what still uses it.
            unsafe { (self.device.driver.call.free)(self.at) };
        }
    }
}
