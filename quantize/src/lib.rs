//! Files to files: which tensor gets which format, and the new file, written as a stream.
//!
//! A [`Plan`] says for every tensor of a [`Source`] what becomes of it, and how large the new file will be; nothing has
//! been read or written then but metadata. [`run`] carries it out: tensor by tensor, some megabytes at a time, on all
//! cores, into `OUT.partial`, which becomes `OUT` when it is complete and on the disk. Whatever goes wrong, nothing is
//! left behind. The same input gives the same bytes, whatever the number of threads.
//!
//! | module | what it holds |
//! |---|---|
//! | [`source`] | a model that is read: keys, and tensors that are read piece by piece |
//! | [`hf`] | Hugging Face folders |
//! | [`target`] | what is asked for: a type, and others for some tensors |
//! | [`plan`] | what becomes of each tensor, and the stream |
//! | [`output`] | a file that exists only when it is complete |
//! | [`deviation`] | what encoding costs |
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::atomic::AtomicBool;
//! use ggml_sys::{GgmlType, gguf::Gguf};
//! use quantize::{Options, Plan, Target, run};
//!
//! let plan = Plan::new(&Gguf::open("model-f16.gguf".as_ref())?, &Target::new(GgmlType::Q8_0)?)?;
//! let cancel = AtomicBool::new(false);
//! run(&plan, "model-q8_0.gguf".as_ref(), &Options::default(), &mut |_| (), &cancel)?;
//! # Ok(())
//! # }
//! ```

mod convert;
pub mod deviation;
pub mod error;
pub mod hf;
pub mod output;
pub mod plan;
mod rules;
pub mod source;
pub mod target;

use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

pub use deviation::Deviation;
pub use error::{Error, Result};
pub use output::Output;
pub use plan::{Line, Options, Plan, Progress, Report};
pub use source::Source;
pub use target::{Override, Target, types};

/// Bytes that are written at once where tensors are small.
const BUFFER: usize = 1 << 20;

/// Writes the file that `plan` describes to `out`.
///
/// `progress` is called after every few megabytes; `cancel` is looked at as often.
///
/// # Errors
/// If `out` is the model that is read, exists (without [`Options::force`]) or is no regular file; if the disk is full,
/// or will be; if a tensor holds a number that is none, or one that its new type cannot express; [`Error::Cancelled`].
/// Nothing of the new file is left then, and an `out` that existed is as before.
pub fn run(
    plan: &Plan,
    out: &Path,
    options: &Options,
    progress: &mut dyn FnMut(Progress<'_>),
    cancel: &AtomicBool,
) -> Result<Report> {
    let inputs = plan.source().files().iter().map(PathBuf::as_path);
    let output = Output::create(out, inputs, options.force)?;
    output.check_space(plan.file_size())?;
    plan.source().will_be_streamed();
    let stream = BufWriter::with_capacity(BUFFER, output.file());
    let report = plan.write(stream, &out.display().to_string(), options.threads, progress, cancel)?;
    output.commit()?;
    Ok(report)
}
