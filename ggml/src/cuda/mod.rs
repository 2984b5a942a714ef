//! The CUDA backend: kernels of our own on NVIDIA's devices, driver found at run time.
//!
//! | module | what it holds |
//! |---|---|
//! | [`driver`] | the library, its functions, its errors |
//! | [`device`] | a device with its streams and memory |
//! | `staging` | pinned memory, and uploads through it |
//! | `modules` | kernels: PTX in the binary |
//! | `args` | what kernels take |
//! | `weights` | tensors on the device |
//! | `streamed` | tensors that pass through it, piece by piece |
//! | `slots` | memory that experts are brought to meanwhile |
//! | `compile` | operations to launches |
//! | `program` | memory of a compiled graph, batches, recorded steps |
//!
//! Everything of a program happens in one stream in order, but for weights that are sent in another one. A step of few rows is captured the first time and replayed after:
//! all that changes between two steps (tokens, positions, where the chunks of the cache lie) is in device memory.

mod args;
mod compile;
pub mod device;
pub mod driver;
mod measure;
mod modules;
mod naive;
mod program;
mod slots;
mod staging;
mod streamed;
mod weights;

use std::sync::Arc;

use crate::backend::{Backend, Program, Share, SlotMemory};
use crate::cache::{ChunkMemory, DeviceChunk, LayerCache};
use crate::cpu::check_cache_types;
use crate::error::Result;
use crate::graph::Graph;
use device::{Device, Memory, Properties};
use driver::{Driver, Unavailable};
use modules::Modules;
use program::CudaProgram;
use weights::Weights;

/// A CUDA device as a backend.
pub struct Cuda {
    device: Arc<Device>,
    modules: Arc<Modules>,
    weights: Weights,
}

/// What the driver sees: devices, the usable ones and the others.
///
/// # Errors
/// Why there is no CUDA here.
pub fn devices() -> Result<Vec<Properties>, Unavailable> {
    let driver = Driver::load()?;
    let all: Result<Vec<_>> = (0..driver.n_devices()).map(|i| device::properties(&driver, i)).collect();
    all.map_err(|e| Unavailable::Start(e.to_string()))
}

impl Cuda {
    /// Opens a device by its number.
    ///
    /// # Errors
    /// If the kernels do not run on it, or the driver refuses.
    pub fn open(driver: Arc<Driver>, ordinal: usize) -> Result<Cuda> {
        let device = Device::open(driver, ordinal)?;
        Ok(Cuda {
            modules: Arc::new(Modules::new(device.clone())),
            weights: Weights::new(device.clone()),
            device,
        })
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }
}

impl Backend for Cuda {
    fn name(&self) -> String {
        let p = self.device.properties();
        format!("cuda ({}, device {})", p.name, p.ordinal)
    }

    fn compile_share(
        &self,
        graph: &Graph,
        layers: &[LayerCache],
        max_rows: usize,
        share: &Share,
    ) -> Result<Box<dyn Program>> {
        check_cache_types(layers)?;
        let Cuda { device, modules, weights } = self;
        Ok(Box::new(CudaProgram::new(device, modules, weights, graph, layers, max_rows, share)?))
    }

    fn slot_memory(&self, bytes: usize) -> Result<Option<Arc<dyn SlotMemory>>> {
        Ok(Some(Arc::new(slots::Slots::new(&self.device, bytes)?)))
    }

    // The naive form decodes its matrices to F32, and expands all keys for every batch.
    fn prefers_absorbed(&self) -> bool {
        true
    }

    fn memory(&self) -> Option<Arc<dyn ChunkMemory>> {
        Some(Arc::new(OnDevice(self.device.clone())))
    }
}

/// Chunks in a device's memory.
struct OnDevice(Arc<Device>);

impl ChunkMemory for OnDevice {
    fn allocate(&self, bytes: usize) -> Result<Box<dyn DeviceChunk>> {
        Ok(Box::new(Chunk { device: self.0.clone(), memory: self.0.zeroed("the key/value cache", bytes)? }))
    }
}

struct Chunk {
    device: Arc<Device>,
    memory: Memory,
}

impl DeviceChunk for Chunk {
    fn address(&self) -> u64 {
        self.memory.at()
    }

    fn read(&self, at: usize, to: &mut [u8]) -> Result<()> {
        self.memory.read(at, to)
    }

    fn write(&mut self, at: usize, from: &[u8]) -> Result<()> {
        self.memory.write(at, from)
    }

    fn duplicate(&self) -> Result<Box<dyn DeviceChunk>> {
        let memory = self.device.alloc("the key/value cache", self.memory.len())?;
        memory.copy_from(&self.memory)?;
        Ok(Box::new(Chunk { device: self.device.clone(), memory }))
    }
}
