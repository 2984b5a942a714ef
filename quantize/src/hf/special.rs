//! Tokens with a role: which begin and end a text, and whether they are added to one.
//!
//! Several files speak of them. The post-processor of tokenizer.json says what is added, else tokenizer_config.json
//! does; it is the other way round for the class LlamaTokenizerFast, which DeepSeek's tokenizers are of. The tokens
//! themselves are named by tokenizer_config.json, else by their ids in config.json.

use ggml_sys::gguf::Writer;
use serde_json::Value;

use super::json::Object;
use super::tokenizer::{AddedTokens, Files};
use crate::error::Result;

/// Roles in Hugging Face's files and in keys of GGUF.
const ROLES: [(&str, &str); 7] = [
    ("bos", "bos"),
    ("eos", "eos"),
    ("unk", "unknown"),
    // Sic.
    ("sep", "seperator"),
    ("pad", "padding"),
    ("cls", "cls"),
    ("mask", "mask"),
];

/// Ends of texts that every reader of GGUF files knows by their text.
const KNOWN_ENDS: [&str; 2] = ["<|endoftext|>", "<|end_of_text|>"];

/// Whether tokens are added to a text: at its begin, its end, between two.
#[derive(Debug, Default, PartialEq)]
struct Adds {
    bos: Option<bool>,
    eos: Option<bool>,
    sep: Option<bool>,
}

/// Sets `tokenizer.ggml.*_token_id` and `tokenizer.ggml.add_*_token`.
pub(super) fn keys(
    files: &Files,
    config: &Object,
    added: &AddedTokens,
    n_vocab: usize,
    keys: &mut Writer,
) -> Result<()> {
    let in_range = |from: &Object, key: &str, id: u64| match u32::try_from(id) {
        Ok(id) if (id as usize) < n_vocab => Ok(id),
        _ => Err(from.invalid(key, format!("is {id}, and there are {n_vocab} tokens"))),
    };
    let ends = end_ids(&files.generation)?;
    let mut eos = None;
    for (role, name) in ROLES {
        let key = format!("{role}_token_id");
        let named = token(&files.config, &format!("{role}_token"));
        let by_name = named.and_then(|text| added.iter().find(|(_, a)| a.content == text)).map(|(id, _)| *id);
        let by_id = config.get(&key).and_then(Value::as_u64);
        let by_id = by_id.or_else(|| ends.first().copied().filter(|_| role == "eos"));
        let id = match (by_name, by_id) {
            (Some(id), _) => id,
            (None, Some(id)) if matches!(role, "bos" | "eos") => in_range(config, &key, id)?,
            // Nothing needs the others, and some files set them to nonsense.
            (None, Some(id)) if id < n_vocab as u64 => id as u32,
            _ => continue,
        };
        if role == "eos" {
            eos = Some(id);
        }
        keys.set(&format!("tokenizer.ggml.{name}_token_id"), id);
    }
    // What else ends an answer. Readers know many by their text; that it ends a turn is said of the others.
    for id in ends {
        let id = in_range(&files.generation, "eos_token_id", id)?;
        let text = added.get(&id).map(|a| &a.content[..]);
        if Some(id) == eos || text.is_some_and(|text| KNOWN_ENDS.contains(&text)) {
            continue;
        }
        let role = if text == Some("<|eom_id|>") { "eom" } else { "eot" };
        keys.set(&format!("tokenizer.ggml.{role}_token_id"), id);
    }
    let adds = Adds::of(files)?;
    // These classes of transformers make a post-processor of their own, by tokenizer_config.json.
    let class = files.config.get("tokenizer_class").and_then(Value::as_str);
    let is_configured = matches!(class, Some("LlamaTokenizer" | "LlamaTokenizerFast"));
    for (role, value) in [("bos", adds.bos), ("eos", adds.eos), ("sep", adds.sep)] {
        let configured = files.config.get(&format!("add_{role}_token")).and_then(Value::as_bool);
        if let Some(add) = if is_configured { configured.or(value) } else { value.or(configured) } {
            keys.set(&format!("tokenizer.ggml.add_{role}_token"), add);
        }
    }
    Ok(())
}

/// `eos_token_id` of generation_config.json: one or several.
fn end_ids(generation: &Object) -> Result<Vec<u64>> {
    const KEY: &str = "eos_token_id";
    let bad = || generation.invalid(KEY, "is neither an id nor an array of ids");
    match generation.get(KEY) {
        None => Ok(vec![]),
        Some(Value::Array(ids)) => ids.iter().map(|id| id.as_u64().ok_or_else(bad)).collect(),
        Some(id) => Ok(vec![id.as_u64().ok_or_else(bad)?]),
    }
}

/// A token of tokenizer_config.json: its text, or an object with that.
fn token<'a>(config: &'a Object, key: &str) -> Option<&'a str> {
    let token = config.get(key)?;
    token.as_str().or_else(|| token.get("content")?.as_str())
}

impl Adds {
    /// What the post-processor adds.
    fn of(files: &Files) -> Result<Adds> {
        let mut adds = Adds::default();
        let Some(processor) = files.tokenizer.find_object("post_processor")? else { return Ok(adds) };
        let one = [Value::Object(processor.map().clone())];
        for step in processor.find_array("processors")?.unwrap_or(&one) {
            match step.get("type").and_then(Value::as_str) {
                Some("ByteLevel") => {
                    adds.bos.get_or_insert(false);
                    adds.eos.get_or_insert(false);
                }
                Some("TemplateProcessing") => adds.template(files, step),
                _ => {}
            }
        }
        Ok(adds)
    }

    /// A template for one text (`<bos> A`), and one for two (`<bos> A <sep> B`).
    fn template(&mut self, files: &Files, step: &Value) {
        let sequence = |key: &str| step.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let special = |part: Option<&'_ Value>| -> Option<String> {
            Some(part?.get("SpecialToken")?.get("id")?.as_str()?.into())
        };
        let named = |key: &str| token(&files.config, key).map(String::from);
        let (single, pair) = (sequence("single"), sequence("pair"));
        let (mut first, mut last) = (None, None);
        if single.len() > 1 {
            (first, last) = (special(single.first()), special(single.last()));
            if let Some(first) = &first {
                self.bos = Some(named("bos_token").is_none_or(|bos| bos == *first));
            }
            if let Some(last) = &last {
                self.eos = Some(named("eos_token").is_none_or(|eos| eos == *last));
            }
        }
        let skip = usize::from(first.is_some() && special(pair.first()) == first);
        let cut = usize::from(last.is_some() && special(pair.last()) == last);
        // Between `A` and `B`.
        if let Some([_, between @ .., _]) = pair.get(skip..pair.len().saturating_sub(cut))
            && !between.is_empty()
        {
            let separators = [named("sep_token"), named("eos_token")];
            let is_separator =
                |part: &Value| special(Some(part)).is_some() && separators.contains(&special(Some(part)));
            let first = between.first().is_some_and(is_separator) && last.is_none();
            self.sep = Some(first || between.get(1).is_some_and(is_separator));
        }
    }
}
