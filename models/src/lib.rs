//! Architectures, tokenizers, sampling and generation for fathom.
//!
//! | module | what it holds |
//! |---|---|
//! | [`model`] | a file, its architecture, its weights |
//! | [`arch`] | the table of architectures, one file each |
//! | [`loader`], [`record`], [`rope`] | what architectures are written with |
//! | [`engine`], [`session`], [`saved`] | batches over a cache; one conversation, and its cache in a file |
//! | [`tokenizer`], [`template`] | text to tokens and back; messages to text |
//! | [`sampler`], [`generate`](mod@generate), [`reasoning`], [`stop`] | logits to tokens to events |
//! | [`constraint`], [`grammar`] | answers of a certain form: JSON by a schema, texts by a grammar |
//! | [`memory`] | what a model takes, and the context that fits |
//! | [`cost`], [`shapes`] | what a step costs, and models of random weights, to measure speed with |

pub mod arch;
pub mod clock;
pub mod constraint;
pub mod cost;
pub mod engine;
pub mod error;
pub mod generate;
pub mod grammar;
pub mod loader;
pub mod memory;
pub mod model;
pub mod placement;
pub mod reasoning;
pub mod record;
pub mod rope;
pub mod sampler;
pub mod saved;
pub mod session;
pub mod shapes;
pub mod stop;
pub mod template;
pub mod tokenizer;

pub use arch::MlaForm;
pub use constraint::{Constraint, Reasoning};
pub use engine::{Engine, EngineOptions, Observation};
pub use error::{Error, Result};
pub use generate::{Draw, Event, Finish, GenerateOptions, Summary, generate};
pub use memory::MemoryPlan;
pub use model::{Model, Watch};
pub use sampler::{Sampler, SamplerOptions};
pub use session::{Session, Want};
pub use tokenizer::Tokenizer;
