//! Weights on the device: uploaded once, shared by all programs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};

use super::device::{Device, Memory};
use super::streamed::Buffers;
use crate::error::Result;
use crate::format::GgmlType;
use crate::tensor::{Bytes, Tensor};

/// What has been uploaded to a device.
pub(super) struct Weights {
    device: Arc<Device>,
    /// By the address of a tensor's bytes, and whether they have been decoded.
    uploads: Mutex<HashMap<(usize, bool), Upload>>,
}

struct Upload {
    memory: Arc<Memory>,
    /// Keeps the address from being another tensor's.
    _bytes: Bytes,
}

impl Weights {
    pub fn new(device: Arc<Device>) -> Self {
        Weights { device, uploads: Mutex::default() }
    }

    /// The encoded rows of a tensor.
    ///
    /// # Errors
    /// If the device has no room for them.
    pub fn encoded(&self, t: &Tensor) -> Result<Arc<Memory>> {
        self.uploaded(t, false, |to| self.device.upload(to, t.bytes()))
    }

    /// The values of a tensor as F32.
    ///
    /// # Errors
    /// If the device has no room for them.
    pub fn floats(&self, t: &Tensor) -> Result<Arc<Memory>> {
        if t.ty() == GgmlType::F32 {
            return self.encoded(t);
        }
        self.uploaded(t, true, |to| self.device.upload(to, bytemuck::cast_slice(&t.to_f32())))
    }

    fn uploaded(
        &self,
        t: &Tensor,
        decoded: bool,
        fill: impl FnOnce(&Memory) -> Result<()>,
    ) -> Result<Arc<Memory>> {
        let mut uploads = self.uploads.lock().unwrap_or_else(|e| e.into_inner());
        let entry = uploads.entry((t.bytes().as_ptr() as usize, decoded));
        let vacant = match entry {
            Entry::Occupied(e) => return Ok(e.get().memory.clone()),
            Entry::Vacant(vacant) => vacant,
        };
        let len = if decoded { 4 * t.shape().n_elements() } else { t.bytes().len() };
        let memory = Arc::new(self.device.alloc("the weights", len)?);
        fill(&memory)?;
        vacant.insert(Upload { memory: memory.clone(), _bytes: t.shared_bytes().clone() });
        Ok(memory)
    }

    /// Bytes of a program's own.
    ///
    /// # Errors
    /// If the device has no room for them.
    pub fn own(&self, bytes: &[u8]) -> Result<Memory> {
        let memory = self.device.alloc("constants", bytes.len())?;
        self.device.upload(&memory, bytes)?;
        Ok(memory)
    }

    /// Two buffers of so many bytes for weights that are not kept on the device.
    ///
    /// # Errors
    /// If the device has no room for them.
    pub fn buffers(&self, bytes: usize) -> Result<Buffers> {
        Buffers::new(&self.device, bytes)
    }

    /// So many zeros.
    ///
    /// # Errors
    /// If the device has no room for them.
    pub fn zeroed(&self, what: &'static str, len: usize) -> Result<Memory> {
        self.device.zeroed(what, len)
    }
}
