//! Files to files: which tensor gets which format, and the new file, written as a stream.
//!
//! A [`Plan`] says for every tensor of a [`Source`] what becomes of it, and how large the new file will be; nothing has
//! been read or written then but metadata. [`run`] carries it out: tensor by tensor, some megabytes at a time, on all
//! cores, into `OUT.partial`, which becomes `OUT` when it is complete and on the disk. Whatever goes wrong, nothing is
//! left behind; of a process that was killed, `OUT.partial` and `OUT.journal` are, and the next run goes on from there. The
//! same input gives the same bytes, whatever the number of threads and however often it was interrupted.
//!
//! | module | what it holds |
//! |---|---|
//! | [`source`] | a model that is read: keys, and tensors that are read piece by piece |
//! | [`hf`] | Hugging Face folders |
//! | [`target`] | what is asked for: a type, and others for some tensors |
//! | [`mix`] | types for all tensors under one name |
//! | [`plan`] | what becomes of each tensor |
//! | `job`, `journal` | plans carried out, and gone on with |
//! | `stream`, `convert` | reading, converting and writing at the same time |
//! | `parts` | one file or shards |
//! | [`output`] | a file that exists only when it is complete |
//! | [`deviation`] | what encoding costs |
//! | [`imatrix`] | how much each column of a weight matters |
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
pub mod imatrix;
mod job;
mod journal;
pub mod mix;
pub mod output;
mod parts;
pub mod plan;
mod rules;
pub mod source;
mod stream;
pub mod target;

pub use deviation::Deviation;
pub use error::{Error, Result};
pub use imatrix::{ImportanceFile, ImportanceMatrix};
pub use job::run;
pub use mix::Mix;
pub use output::Output;
pub use parts::Split;
pub use plan::{Line, Options, Plan, Progress, Report};
pub use source::Source;
pub use target::{Override, Target, types};
