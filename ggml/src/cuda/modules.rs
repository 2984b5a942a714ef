//! The kernels: PTX in the binary, handed to the driver module by module when first used.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::{Arc, Mutex};

use super::args::Args;
use super::device::Device;
use super::driver::Handle;
use crate::error::{Error, Result};

// MODULES: deflated PTX and its length. KERNELS: name, module, and bytes of the struct that it takes.
include!(concat!(env!("OUT_DIR"), "/ptx.rs"));

/// Where work is put: blocks of the grid, threads of a block, bytes of shared memory asked for at launch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub grid: [u32; 3],
    pub threads: u32,
    pub shared: u32,
}

impl Geometry {
    /// Without shared memory of its own size.
    pub fn new(grid: [u32; 3], threads: u32) -> Self {
        Geometry { grid, threads, shared: 0 }
    }
}

/// The modules that a device has loaded.
pub(super) struct Modules {
    device: Arc<Device>,
    loaded: Mutex<HashMap<usize, Module>>,
}

struct Module(Handle);

// SAFETY: handles of the driver API may be used from any thread.
unsafe impl Send for Module {}

/// A kernel that takes an `A`.
pub(super) struct Kernel<A> {
    device: Arc<Device>,
    function: Handle,
    args: std::marker::PhantomData<fn(A)>,
}

// SAFETY: as for modules; the program that holds the kernel keeps its module.
unsafe impl<A> Send for Kernel<A> {}
// SAFETY: as above.
unsafe impl<A> Sync for Kernel<A> {}

impl Modules {
    pub fn new(device: Arc<Device>) -> Self {
        Modules { device, loaded: Mutex::default() }
    }

    /// The kernel of that name.
    ///
    /// # Errors
    /// If the driver does not take its module.
    pub fn kernel<A: Args>(&self, name: &str) -> Result<Kernel<A>> {
        let unknown = || Error::Unsupported(format!("there is no CUDA kernel {name}"));
        let found = KERNELS.binary_search_by(|k| k.0.cmp(name)).ok();
        let &(_, module, size) = found.and_then(|i| KERNELS.get(i)).ok_or_else(unknown)?;
        // The text was made from the same structs; this is what keeps the launch below sound.
        if size != size_of::<A>() {
            return Err(Error::Unsupported(format!(
                "the CUDA kernel {name} takes {size} bytes, not {}",
                size_of::<A>()
            )));
        }
        let d = &self.device;
        d.enter()?;
        let mut loaded = self.loaded.lock().unwrap_or_else(|e| e.into_inner());
        let module = match loaded.entry(module) {
            std::collections::hash_map::Entry::Occupied(e) => e.get().0,
            std::collections::hash_map::Entry::Vacant(e) => e.insert(Module(load(d, module)?)).0,
        };
        let symbol = CString::new(name).map_err(|_| unknown())?;
        let mut function = ptr::null_mut();
        // SAFETY: writes one handle; the module is alive.
        let rc = unsafe { (d.driver().call.module_function)(&mut function, module, symbol.as_ptr()) };
        d.check("finding a kernel", rc)?;
        Ok(Kernel { device: d.clone(), function, args: std::marker::PhantomData })
    }
}

fn load(d: &Device, module: usize) -> Result<Handle> {
    let (packed, len) = MODULES[module];
    let damaged = || Error::Unsupported("the CUDA kernels in this binary are damaged".into());
    let mut text = miniz_oxide::inflate::decompress_to_vec_with_limit(packed, len).map_err(|_| damaged())?;
    // The driver reads up to a zero.
    text.push(0);
    let mut handle = ptr::null_mut();
    // SAFETY: writes one handle, and reads a text with its end.
    let rc = unsafe { (d.driver().call.module_load)(&mut handle, text.as_ptr().cast()) };
    d.check("loading kernels", rc)?;
    Ok(handle)
}

impl Drop for Modules {
    fn drop(&mut self) {
        let loaded = self.loaded.get_mut().unwrap_or_else(|e| e.into_inner());
        if self.device.enter().is_ok() {
            for module in loaded.values() {
                // SAFETY: loaded once; programs with its kernels are gone, since they hold these modules.
                unsafe { (self.device.driver().call.module_unload)(module.0) };
            }
        }
    }
}

impl<A: Args> Kernel<A> {
    /// Lets blocks of this kernel have so much shared memory, which needs saying above 48 KiB.
    ///
    /// # Errors
    /// If the device has not so much.
    pub fn allow_shared(&self, bytes: u32) -> Result<()> {
        const USUAL: u32 = 48 << 10;
        const MAX_DYNAMIC_SHARED: i32 = 8;
        if bytes <= USUAL {
            return Ok(());
        }
        self.device.enter()?;
        let call = &self.device.driver().call;
        // SAFETY: the function is alive.
        let rc = unsafe { (call.function_attribute)(self.function, MAX_DYNAMIC_SHARED, bytes as i32) };
        self.device.check("reserving shared memory", rc)
    }

    /// Puts a launch into the device's stream. A grid without blocks is left out.
    ///
    /// # Safety
    /// - The addresses in `args` are of memory of this device that is alive until the stream got there, of the lengths that
    ///   the kernel reads and writes with these arguments and this geometry.
    pub unsafe fn launch(&self, geometry: Geometry, args: &A) -> Result<()> {
        let Geometry { grid: [x, y, z], threads, shared } = geometry;
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        let mut params = [ptr::from_ref(args).cast_mut().cast::<c_void>()];
        let d = &self.device;
        // SAFETY: the kernel takes one `A`, as `Modules::kernel` made sure, which the driver copies; the rest is up to
        // the caller.
        let rc = unsafe {
            (d.driver().call.launch)(
                self.function,
                x,
                y,
                z,
                threads,
                1,
                1,
                shared,
                d.stream(),
                params.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        d.check("starting a kernel", rc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_sorted_by_name_and_every_module_unpacks() {
        assert!(KERNELS.is_sorted_by(|a, b| a.0 < b.0));
        for (packed, len) in MODULES {
            let text = miniz_oxide::inflate::decompress_to_vec_with_limit(packed, *len).unwrap();
            assert!(text.starts_with(b".version 7.0\n") || text.starts_with(b"//"));
        }
    }
}
