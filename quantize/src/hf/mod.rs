//! Hugging Face folders as a [`Source`]: what `fathom quantize FOLDER` reads.
//!
//! A folder holds config.json, tokenizer.json with tokenizer_config.json, perhaps generation_config.json,
//! chat_template.jinja and README.md, and weights in safetensors: F32, F16, BF16, or DeepSeek's FP8 with a scale for
//! each 128 × 128 weights. It becomes the GGUF file that llama.cpp's converter makes of it, tensor by tensor and key by
//! key; `quantize/tests/hf.rs` lists the few differences. The layer that predicts the token after the next is kept.
//!
//! | file | what it does |
//! |---|---|
//! | `arch/` | **the table of architectures**, one line each: hyperparameters, names and shapes of tensors |
//! | `convert.rs` | the verbs that it is written with |
//! | `checkpoint.rs`, `contents.rs` | safetensors files; their values in the order of the new file |
//! | `rope.rs` | scaling of positions |
//! | `tokenizer.rs`, `pre.rs`, `special.rs` | vocabulary, how texts are cut, tokens with a role |
//! | `card.rs` | name, size, license, sampling |
//! | `json.rs` | typed access to JSON |
//!
//! Nothing that a folder says is believed before it is checked: a tensor that is missing, left over or of another shape
//! than config.json asks for is an error that names it, and no file outside the folder is opened, whatever an index says.

mod arch;
mod card;
mod checkpoint;
mod contents;
mod convert;
mod json;
mod pre;
mod rope;
mod special;
mod tokenizer;

use std::path::Path;

use ggml_sys::gguf::{self, ErrorKind, Writer};
use ggml_sys::tensor::Owner;

use crate::error::{Error, Result};
use crate::source::Source;
use checkpoint::Checkpoint;
use convert::Conversion;
use json::Object;

/// Longest text file that is read: no tokenizer comes near.
const LONGEST_TEXT: usize = 1 << 28;

/// A folder, and how its files are opened.
struct Folder<'a> {
    path: &'a Path,
    open: &'a dyn Fn(&str) -> Result<Option<Owner>>,
}

impl Folder<'_> {
    /// The contents of a file, `None` if it is not there.
    fn open(&self, name: &str) -> Result<Option<Owner>> {
        (self.open)(name)
    }

    /// The folder's own name.
    fn name(&self) -> String {
        let absolute = std::path::absolute(self.path).ok();
        let name = absolute.as_deref().unwrap_or(self.path).file_name();
        name.map_or("model".into(), |name| name.to_string_lossy().into_owned())
    }

    fn file(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    /// An error about the folder as a whole.
    fn error(&self, what: String) -> Error {
        gguf::Error::new(&self.path.display().to_string(), ErrorKind::Header(what)).into()
    }

    /// A file of text, `None` if it is not there.
    fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(owner) = self.open(name)? else { return Ok(None) };
        let bytes = (*owner).as_ref();
        let bad = |what: String| gguf::Error::new(&self.file(name), ErrorKind::Header(what)).into();
        if bytes.len() > LONGEST_TEXT {
            return Err(bad(format!("has {} bytes; {LONGEST_TEXT} are read at most", bytes.len())));
        }
        String::from_utf8(bytes.to_vec())
            .map(Some)
            .map_err(|e| bad(format!("is no UTF-8: {}", e.utf8_error())))
    }

    /// A file that is a JSON object, `None` if it is not there.
    fn json(&self, name: &str) -> Result<Option<Object>> {
        let text = self.text(name)?;
        text.map(|text| Object::parse(self.file(name), text.as_bytes())).transpose()
    }

    /// A file that is a JSON object; one without keys if it is not there.
    fn json_or_none(&self, name: &str) -> Result<Object> {
        Ok(self.json(name)?.unwrap_or_else(|| Object::none(self.file(name))))
    }
}

/// Opens a folder.
///
/// # Errors
/// If a file is missing or not as it should be; if the architecture or the kind of tokenizer is none of those known.
pub fn open(path: &Path) -> Result<Source> {
    let open = |name: &str| {
        let file = path.join(name);
        // A file that is not there; what cannot be opened otherwise says why.
        match std::fs::symlink_metadata(&file) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            _ => Ok(Some(gguf::map_file(&file)?)),
        }
    };
    from_files(path, &open).map_err(|e| match e {
        Error::File(e) => Error::Folder(e),
        e => e,
    })
}

/// As [`open`], with files from wherever `open` gets them; for tests.
///
/// # Errors
/// As [`open`].
#[doc(hidden)]
pub fn from_files(path: &Path, open: &dyn Fn(&str) -> Result<Option<Owner>>) -> Result<Source> {
    let folder = Folder { path, open };
    let Some(config) = folder.json("config.json")? else {
        return Err(folder.error("has no config.json: it is no Hugging Face folder of a model".into()));
    };
    let architecture = arch::of(&config)?;
    let files = tokenizer::Files::read(&folder)?;
    let mut keys = Writer::new(&path.display().to_string());
    keys.set("general.architecture", architecture.name);
    keys.set("general.type", "model");
    card::keys(&folder, &config, &files.generation, &mut keys)?;
    // In its place among the keys; what it holds is known when the tensors are.
    keys.set("general.size_label", "");
    let mut conversion = Conversion {
        folder: &folder,
        config: &config,
        arch: architecture.name,
        checkpoint: Checkpoint::open(&folder, &config)?,
        keys,
        tensors: vec![],
    };
    (architecture.convert)(&mut conversion)?;
    let Conversion { mut checkpoint, mut keys, tensors, .. } = conversion;
    // Old checkpoints hold what follows from config.json.
    checkpoint.drop_all(|name| name.ends_with(".rotary_emb.inv_freq"));
    let (paths, size) = checkpoint.finish()?;
    keys.set("general.size_label", &card::size_label(&tensors)[..]);
    // Their values are the plan's.
    keys.set("general.file_type", 0u32);
    keys.set("general.quantization_version", 0u32);
    files.keys(&folder, &config, config.count("vocab_size")? as usize, &mut keys)?;
    Ok(Source::new(path.into(), paths, size, keys.metadata().clone(), tensors))
}
