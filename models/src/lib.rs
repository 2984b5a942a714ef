//! Architectures, tokenizers, sampling and generation for fathom.

pub mod arch;
pub mod engine;
pub mod error;
pub mod loader;
pub mod model;
pub mod reasoning;
pub mod record;
pub mod rope;
pub mod session;
pub mod template;
pub mod tokenizer;

pub use arch::MlaForm;
pub use engine::{Engine, EngineOptions};
pub use error::{Error, Result};
pub use model::Model;
pub use session::{Session, Want};
