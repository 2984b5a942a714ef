//! The expected outputs as their JSON files have them.

use serde::Deserialize;

/// What transformers make of a reference model.
#[derive(Deserialize)]
pub struct Reference {
    /// Three prompts: short, mid, long.
    pub prompts: Vec<Prompt>,
    /// Texts and their ids; special tokens parsed, nothing added.
    pub tokenize: Vec<Tokenized>,
    /// Conversations rendered by the chat template.
    pub chat: Vec<Chat>,
}

/// A prompt and what follows it.
#[derive(Deserialize)]
pub struct Prompt {
    /// short, mid or long.
    pub name: String,
    /// Token ids to feed as they are; BOS is among them where the family has one.
    pub ids: Vec<u32>,
    /// What comes out under the model's own rules.
    #[serde(flatten)]
    pub output: Output,
    /// deepseek_v2 only: what comes out if groups are ranked by the sum of their two best experts.
    pub top2_sum: Option<Output>,
    /// deepseek_v3-fp8 only: name of the MTP layer's logits.
    pub mtp_logits: Option<String>,
    /// The slot that row 0 of those belongs to.
    pub mtp_logits_first_slot: Option<usize>,
}

/// Logits and greedy continuation of a prompt.
#[derive(Deserialize)]
pub struct Output {
    /// Name of the logits `[positions, n_vocab]` in the safetensors file.
    pub logits: String,
    /// The position that row 0 belongs to; the same under every rule, given once.
    #[serde(default)]
    pub logits_first_position: usize,
    /// The 32 tokens of largest logit that follow, end tokens ignored.
    pub greedy: Vec<u32>,
    /// Smallest gap between best and second-best logit on that way.
    pub greedy_min_margin: f32,
}

/// A text and its token ids.
#[derive(Deserialize)]
pub struct Tokenized {
    /// The text.
    pub text: String,
    /// Its ids.
    pub ids: Vec<u32>,
}

/// A conversation, rendered.
#[derive(Deserialize)]
pub struct Chat {
    /// The messages as the template takes them.
    pub messages: serde_json::Value,
    /// Whether the template was asked to open the answer.
    pub add_generation_prompt: bool,
    /// What the template makes of them.
    pub text: String,
    /// Its token ids.
    pub ids: Vec<u32>,
}

/// A line of a tokenizer's test file.
#[derive(Deserialize)]
pub struct TokenizerCase {
    /// The text.
    pub text: String,
    /// Its ids, nothing added.
    pub ids: Vec<u32>,
    /// Whether special tokens in the text are recognized.
    pub parse_special: bool,
}

/// The reference of tiny-r1.
#[derive(Deserialize)]
pub struct TinyReference {
    /// The prompts whose logits are in the safetensors file.
    pub prompts: Vec<TinyPrompt>,
    /// 20 greedy continuations.
    pub greedy: Vec<TinyGreedy>,
}

/// A prompt of tiny-r1.
#[derive(Deserialize)]
pub struct TinyPrompt {
    /// N of `promptN.…`.
    pub index: usize,
    /// The messages as the template takes them.
    pub messages: serde_json::Value,
    /// The rendered template.
    pub text: String,
    /// "all", or "last 8": what the rows of the logits belong to.
    pub positions: String,
}

/// A greedy continuation by tiny-r1.
#[derive(Deserialize)]
pub struct TinyGreedy {
    /// The messages as the template takes them.
    pub messages: serde_json::Value,
    /// Ids of the rendered template.
    pub input_ids: Vec<u32>,
    /// What follows, with the end token.
    pub output_ids: Vec<u32>,
}
