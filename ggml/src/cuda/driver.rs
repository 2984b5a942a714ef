//! NVIDIA's driver, found at run time: a table of the functions that are used, and its errors in words.
//!
//! Nothing of CUDA is needed to build, and nothing but a driver to run. The table is our own because the alternative
//! (cudarc) panics where the library or one of its symbols is absent, and both are normal here.

use std::env;
use std::error::Error;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::ptr;

use libloading::Library;

/// Names another library in place of the system's driver.
pub const LIBRARY: &str = "FATHOM_CUDA_DRIVER";

/// The CUDA version from which drivers understand the kernels' PTX 7.0: 11.0, as drivers say it.
const OLDEST: c_int = 11_000;

/// Address in device memory.
pub type DevicePtr = u64;

/// A pointer of the driver's own.
pub type Handle = *mut c_void;

/// Why CUDA cannot be used at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The driver's library cannot be loaded.
    #[error("no NVIDIA driver: {0}")]
    NoLibrary(String),
    /// The library lacks a function.
    #[error("the NVIDIA driver is too old: it has no {0}")]
    NoFunction(&'static str),
    /// The driver does not understand the kernels.
    #[error("the NVIDIA driver is too old: it supports CUDA {}.{}, and 11.0 is needed", .0 / 1000, .0 % 1000 / 10)]
    Old(c_int),
    /// It does not start.
    #[error("the NVIDIA driver does not start: {0}")]
    Start(String),
    /// It sees no device.
    #[error("the NVIDIA driver sees no device")]
    NoDevice,
}

macro_rules! functions {
    ($($field:ident = $symbol:literal ($($ty:ty),*);)*) => {
        /// The functions of the driver API that are used; each gives 0 or an error's number.
        pub struct Functions {
            $(#[allow(missing_docs)] pub $field: unsafe extern "system" fn($($ty),*) -> c_int,)*
        }

        impl Functions {
            fn load(library: &Library) -> Result<Functions, Unavailable> {
                Ok(Functions {
                    $($field: {
                        // SAFETY: the driver API gives this function this signature.
                        let symbol = unsafe { library.get(concat!($symbol, "\0").as_bytes()) };
                        *symbol.map_err(|_| Unavailable::NoFunction($symbol))?
                    },)*
                })
            }
        }
    };
}

functions! {
    init = "cuInit"(c_uint);
    version = "cuDriverGetVersion"(*mut c_int);
    device_count = "cuDeviceGetCount"(*mut c_int);
    device_get = "cuDeviceGet"(*mut c_int, c_int);
    device_name = "cuDeviceGetName"(*mut c_char, c_int, c_int);
    device_attribute = "cuDeviceGetAttribute"(*mut c_int, c_int, c_int);
    device_memory = "cuDeviceTotalMem_v2"(*mut usize, c_int);
    context_retain = "cuDevicePrimaryCtxRetain"(*mut Handle, c_int);
    context_release = "cuDevicePrimaryCtxRelease_v2"(c_int);
    context_set = "cuCtxSetCurrent"(Handle);
    memory_info = "cuMemGetInfo_v2"(*mut usize, *mut usize);
    alloc = "cuMemAlloc_v2"(*mut DevicePtr, usize);
    free = "cuMemFree_v2"(DevicePtr);
    alloc_host = "cuMemAllocHost_v2"(*mut Handle, usize);
    free_host = "cuMemFreeHost"(Handle);
    to_device = "cuMemcpyHtoD_v2"(DevicePtr, *const c_void, usize);
    to_host = "cuMemcpyDtoH_v2"(*mut c_void, DevicePtr, usize);
    to_device_async = "cuMemcpyHtoDAsync_v2"(DevicePtr, *const c_void, usize, Handle);
    to_host_async = "cuMemcpyDtoHAsync_v2"(*mut c_void, DevicePtr, usize, Handle);
    within_device = "cuMemcpyDtoD_v2"(DevicePtr, DevicePtr, usize);
    set_bytes = "cuMemsetD8_v2"(DevicePtr, u8, usize);
    stream_create = "cuStreamCreate"(*mut Handle, c_uint);
    stream_destroy = "cuStreamDestroy_v2"(Handle);
    stream_wait = "cuStreamSynchronize"(Handle);
    stream_wait_event = "cuStreamWaitEvent"(Handle, Handle, c_uint);
    event_create = "cuEventCreate"(*mut Handle, c_uint);
    event_destroy = "cuEventDestroy_v2"(Handle);
    event_record = "cuEventRecord"(Handle, Handle);
    event_wait = "cuEventSynchronize"(Handle);
    event_query = "cuEventQuery"(Handle);
    module_load = "cuModuleLoadData"(*mut Handle, *const c_void);
    module_unload = "cuModuleUnload"(Handle);
    module_function = "cuModuleGetFunction"(*mut Handle, Handle, *const c_char);
    function_attribute = "cuFuncSetAttribute"(Handle, c_int, c_int);
    launch = "cuLaunchKernel"(
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void
    );
    capture_begin = "cuStreamBeginCapture_v2"(Handle, c_uint);
    capture_end = "cuStreamEndCapture"(Handle, *mut Handle);
    graph_instantiate = "cuGraphInstantiateWithFlags"(*mut Handle, Handle, u64);
    graph_launch = "cuGraphLaunch"(Handle, Handle);
    graph_destroy = "cuGraphDestroy"(Handle);
    graph_exec_destroy = "cuGraphExecDestroy"(Handle);
    error_name = "cuGetErrorName"(c_int, *mut *const c_char);
    error_text = "cuGetErrorString"(c_int, *mut *const c_char);
}

/// A driver that has started and sees a device.
pub struct Driver {
    /// What can be called.
    pub call: Functions,
    /// The CUDA version it supports: 12020 is 12.2.
    pub version: c_int,
    n_devices: c_int,
    /// Keeps the functions where they are.
    _library: Library,
}

impl Driver {
    /// Finds and starts the driver: the library that [`LIBRARY`] names, or the system's.
    ///
    /// # Errors
    /// Says why there is none that can be used.
    pub fn load() -> Result<Driver, Unavailable> {
        match env::var_os(LIBRARY) {
            Some(path) => Driver::from(&[path.into()]),
            None if cfg!(windows) => Driver::from(&["nvcuda.dll".into()]),
            // The first is what drivers install; WSL keeps its own where no loader looks.
            None => Driver::from(&["libcuda.so.1".into(), "/usr/lib/wsl/lib/libcuda.so.1".into()]),
        }
    }

    /// Starts the driver in the first of these libraries that there is.
    ///
    /// # Errors
    /// Says why there is none that can be used.
    pub fn from(names: &[PathBuf]) -> Result<Driver, Unavailable> {
        let library = open(names)?;
        let call = Functions::load(&library)?;
        let mut driver = Driver { call, version: 0, n_devices: 0, _library: library };
        // SAFETY: cuDriverGetVersion may be called before cuInit, and writes one integer.
        let rc = unsafe { (driver.call.version)(&mut driver.version) };
        driver.started(rc)?;
        if driver.version < OLDEST {
            return Err(Unavailable::Old(driver.version));
        }
        // SAFETY: no pointers.
        let rc = unsafe { (driver.call.init)(0) };
        const NO_DEVICE: c_int = 100;
        if rc == NO_DEVICE {
            return Err(Unavailable::NoDevice);
        }
        driver.started(rc)?;
        // SAFETY: writes one integer.
        let rc = unsafe { (driver.call.device_count)(&mut driver.n_devices) };
        driver.started(rc)?;
        if driver.n_devices < 1 { Err(Unavailable::NoDevice) } else { Ok(driver) }
    }

    /// Devices that it sees; at least one.
    pub fn n_devices(&self) -> usize {
        usize::try_from(self.n_devices).unwrap_or(0)
    }

    fn started(&self, rc: c_int) -> Result<(), Unavailable> {
        if rc == 0 { Ok(()) } else { Err(Unavailable::Start(self.error(rc))) }
    }

    /// An error in the driver's words: `an illegal memory access was encountered (CUDA_ERROR_ILLEGAL_ADDRESS)`.
    pub fn error(&self, rc: c_int) -> String {
        let word = |get: unsafe extern "system" fn(c_int, *mut *const c_char) -> c_int| {
            let mut text: *const c_char = ptr::null();
            // SAFETY: writes one pointer: null, or to a string that lives as long as the library.
            let known = unsafe { get(rc, &mut text) } == 0 && !text.is_null();
            // SAFETY: a string with its end, as just said.
            known.then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
        };
        match (word(self.call.error_text), word(self.call.error_name)) {
            (Some(text), Some(name)) => format!("{text} ({name})"),
            _ => format!("error {rc}"),
        }
    }
}

/// The first library that can be loaded.
fn open(names: &[PathBuf]) -> Result<Library, Unavailable> {
    let mut first = None;
    for name in names {
        // SAFETY: the driver's library may be loaded into any process; another one is the wish of whoever names it.
        match unsafe { Library::new(name) } {
            Ok(library) => return Ok(library),
            // Which file is missing stands in what lies behind the error.
            Err(e) => {
                let why = e.source().map_or_else(|| e.to_string(), ToString::to_string);
                first = first.or(Some(one_line(&why)));
            }
        }
    }
    Err(Unavailable::NoLibrary(first.unwrap_or_default()))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
