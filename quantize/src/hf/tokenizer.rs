//! The vocabulary: tokens, their types and merges, from tokenizer.json and tokenizer_config.json.

use std::collections::BTreeMap;

use ggml_sys::gguf::{StringArray, Writer};
use serde_json::Value;

use super::json::{Object, describe};
use super::{Folder, pre, special};
use crate::error::Result;

/// The files of a tokenizer.
pub(super) struct Files {
    /// tokenizer.json.
    pub tokenizer: Object,
    /// tokenizer_config.json; without keys if it is not there.
    pub config: Object,
    /// generation_config.json; without keys if it is not there.
    pub generation: Object,
}

/// A token that is matched as it is written, before a text is cut into words.
pub(super) struct Added {
    pub content: String,
    special: bool,
}

/// Added tokens by id.
pub(super) type AddedTokens = BTreeMap<u32, Added>;

/// Types of tokens as numbered in GGUF files.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// DeepSeek's distilled models have Qwen's words with DeepSeek's special tokens; llama.cpp tells them apart.
const DEEPSEEK_BOS: &str = "<｜begin▁of▁sentence｜>";

/// The file of a vocabulary that is not read, if the folder has one: tiktoken's (Kimi K2), SentencePiece's, or GPT-2's.
fn other_tokenizer(folder: &Folder<'_>) -> Result<Option<&'static str>> {
    for name in ["tiktoken.model", "tokenizer.model", "vocab.json"] {
        if folder.open(name)?.is_some() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

impl Files {
    pub fn read(folder: &Folder<'_>) -> Result<Files> {
        let Some(tokenizer) = folder.json("tokenizer.json")? else {
            return Err(folder.error(match other_tokenizer(folder)? {
                Some(name) => format!("has no tokenizer.json, and its {name} is not read"),
                None => "has no tokenizer.json".into(),
            }));
        };
        let config = folder.json_or_none("tokenizer_config.json")?;
        Ok(Files { tokenizer, config, generation: folder.json_or_none("generation_config.json")? })
    }

    /// Sets `tokenizer.*`. `n_vocab` are the rows of the embedding: what the tokenizer lacks is filled up.
    pub fn keys(
        &self,
        folder: &Folder<'_>,
        config: &Object,
        n_vocab: usize,
        keys: &mut Writer,
    ) -> Result<()> {
        let model = self.tokenizer.object("model")?;
        match model.find_str("type")? {
            Some("BPE") | None => {}
            Some(_) => return Err(model.invalid("type", "is not BPE; other tokenizers are not read")),
        }
        self.check_normalizer()?;
        let pre = pre::recognize(&self.tokenizer)?;
        let added = self.added()?;
        let is_distilled = pre == "qwen2" && added.values().any(|a| a.content == DEEPSEEK_BOS);
        let (tokens, types) = self.tokens(&model, &added, n_vocab)?;
        keys.set("tokenizer.ggml.model", "gpt2");
        keys.set("tokenizer.ggml.pre", if is_distilled { "deepseek-r1-qwen" } else { pre });
        let too_large = || model.invalid("vocab", "is too large");
        keys.set("tokenizer.ggml.tokens", StringArray::from_strings(tokens).ok_or_else(too_large)?);
        keys.set("tokenizer.ggml.token_type", &types[..]);
        let merges = StringArray::from_strings(merges(&model)?);
        keys.set("tokenizer.ggml.merges", merges.ok_or_else(|| model.invalid("merges", "is too large"))?);
        special::keys(self, config, &added, n_vocab, keys)?;
        self.template(folder, keys)
    }

    /// Only what leaves ordinary text alone: GGUF files cannot say more.
    fn check_normalizer(&self) -> Result<()> {
        const KEY: &str = "normalizer";
        let Some(normalizer) = self.tokenizer.find_object(KEY)? else { return Ok(()) };
        let steps = match normalizer.str("type")? {
            "Sequence" => normalizer.find_array("normalizers")?.unwrap_or_default(),
            "NFC" => &[],
            _ => &[Value::Null][..],
        };
        let is_nfc = |step: &Value| step.get("type").and_then(Value::as_str) == Some("NFC");
        if steps.iter().all(is_nfc) {
            return Ok(());
        }
        Err(self.tokenizer.invalid(KEY, "changes the text in a way that GGUF files cannot say"))
    }

    /// The added tokens; tokenizer_config.json has the last word on whether one is special.
    fn added(&self) -> Result<AddedTokens> {
        const KEY: &str = "added_tokens";
        let mut added = AddedTokens::new();
        for (i, token) in self.tokenizer.find_array(KEY)?.unwrap_or_default().iter().enumerate() {
            let id = token.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
            let (Some(id), Some(content)) = (id, content(token)) else {
                return Err(self.tokenizer.invalid(KEY, format!("entry {i} has no id or no content")));
            };
            let token = Added { content: content.into(), special: is_special(token) };
            if let Some(other) = added.insert(id, token).filter(|other| other.content != content) {
                let what = format!("token {id} is both {:?} and {content:?}", other.content);
                return Err(self.tokenizer.invalid(KEY, what));
            }
        }
        const DECODER: &str = "added_tokens_decoder";
        let decoder = self.config.find_object(DECODER)?;
        for (id, token) in decoder.iter().flat_map(|d| d.map()) {
            let (Ok(number), Some(content)) = (id.parse::<u32>(), content(token)) else {
                return Err(self.config.invalid(DECODER, format!("entry {id:?} has no id or no content")));
            };
            let token = Added { content: content.into(), special: is_special(token) };
            match added.get(&number) {
                Some(known) if known.content != content => {}
                _ => _ = added.insert(number, token),
            }
        }
        Ok(added)
    }

    /// Texts and types of all tokens, by id.
    fn tokens(&self, model: &Object, added: &AddedTokens, n_vocab: usize) -> Result<(Vec<String>, Vec<i32>)> {
        let vocab = model.object("vocab")?;
        let mut tokens = vec![String::new(); n_vocab];
        let mut types = vec![UNUSED; n_vocab];
        let beyond =
            |id: &dyn std::fmt::Display| format!("has the id {id}, and the embedding has {n_vocab} rows");
        for (text, id) in vocab.map() {
            let known = id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|id| *id < n_vocab);
            let Some(at) = known else { return Err(vocab.invalid(text, beyond(&describe(id)))) };
            if types[at] == NORMAL {
                return Err(vocab.invalid(text, format!("has the id {at}, as {:?} has", tokens[at])));
            }
            (tokens[at], types[at]) = (text.clone(), NORMAL);
        }
        for (&id, token) in added {
            let Some(at) = usize::try_from(id).ok().filter(|id| *id < n_vocab) else {
                return Err(self
                    .tokenizer
                    .invalid("added_tokens", format!("{:?} {}", token.content, beyond(&id))));
            };
            let is_control = token.special || looks_special(&token.content);
            types[at] = if is_control { CONTROL } else { USER_DEFINED };
            // As llama.cpp matches them: with spaces, not with the sign that stands for them.
            tokens[at] = if is_control { token.content.clone() } else { token.content.replace('▁', " ") };
        }
        for (i, (token, ty)) in tokens.iter_mut().zip(&types).enumerate() {
            if *ty == UNUSED {
                *token = format!("[PAD{i}]");
            }
        }
        Ok((tokens, types))
    }

    /// `tokenizer.chat_template`: from tokenizer_config.json or a file of its own. A model can have several.
    fn template(&self, folder: &Folder<'_>, keys: &mut Writer) -> Result<()> {
        const KEY: &str = "chat_template";
        match self.config.get(KEY) {
            Some(Value::String(template)) => keys.set("tokenizer.chat_template", &template[..]),
            Some(Value::Array(templates)) => self.templates(templates, keys)?,
            Some(other) => {
                return Err(self.config.invalid(KEY, format!("is {}, not a string", describe(other))));
            }
            None => {
                let jinja = folder.text("chat_template.jinja")?;
                let json = folder.json_or_none("chat_template.json")?;
                let template = match &jinja {
                    Some(text) => Some(&text[..]),
                    None => json.find_str(KEY)?,
                };
                if let Some(template) = template {
                    keys.set("tokenizer.chat_template", template);
                }
            }
        }
        Ok(())
    }

    fn templates(&self, templates: &[Value], keys: &mut Writer) -> Result<()> {
        let mut names = Vec::new();
        for (i, entry) in templates.iter().enumerate() {
            let part = |key: &str| entry.get(key).and_then(Value::as_str);
            let (Some(name), Some(template)) = (part("name"), part("template")) else {
                let what = format!("entry {i} has no name or no template");
                return Err(self.config.invalid("chat_template", what));
            };
            let name: String =
                name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
            if name == "default" {
                keys.set("tokenizer.chat_template", template);
            } else {
                keys.set(&format!("tokenizer.chat_template.{name}"), template);
                names.push(name);
            }
        }
        if let Some(names) = StringArray::from_strings(names).filter(|names| !names.is_empty()) {
            keys.set("tokenizer.chat_templates", names);
        }
        Ok(())
    }
}

/// The text of an added token; empty ones would match everywhere.
fn content(token: &Value) -> Option<&str> {
    token.get("content")?.as_str().filter(|text| !text.is_empty())
}

fn is_special(token: &Value) -> bool {
    token.get("special").and_then(Value::as_bool).unwrap_or(false)
}

/// Whether a token steers the model although its file does not say so: as `<｜User｜>` in DeepSeek's.
fn looks_special(text: &str) -> bool {
    let between = |start: &str, end: &str| text.starts_with(start) && text.ends_with(end);
    matches!(text, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || between("<|", "|>")
        || between("<｜", "｜>")
        || between("<unused", ">")
}

/// The merges, each two tokens with a space between. Spaces in tokens are written as byte-level vocabularies do.
fn merges(model: &Object) -> Result<Vec<String>> {
    const KEY: &str = "merges";
    let merge = |(i, merge): (usize, &Value)| {
        let pair = match merge {
            Value::String(pair) => Some(pair.clone()),
            Value::Array(pair) => match &pair[..] {
                [Value::String(a), Value::String(b)] => {
                    Some(format!("{} {}", a.replace(' ', "Ġ"), b.replace(' ', "Ġ")))
                }
                _ => None,
            },
            _ => None,
        };
        pair.ok_or_else(|| model.invalid(KEY, format!("entry {i} is {}, not two tokens", describe(merge))))
    };
    model.find_array(KEY)?.unwrap_or_default().iter().enumerate().map(merge).collect()
}
