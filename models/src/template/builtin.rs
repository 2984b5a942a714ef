//! DeepSeek's formats, for files that come without a template.

use ggml_sys::gguf::{Metadata, Result};

use crate::tokenizer::Tokenizer;

/// V3 and R1. An assistant's earlier reasoning is left out. R1's answer begins inside `<think>`.
const V3: &str = "\
{%- set ns = namespace(system='') -%}
{%- for message in messages if message.role == 'system' -%}
    {%- set ns.system = ns.system ~ ('\n\n' if ns.system else '') ~ message.content -%}
{%- endfor -%}
{{- bos_token ~ ns.system -}}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}
        {{- '<｜User｜>' ~ message.content -}}
    {%- elif message.role == 'assistant' and message.content is not none -%}
        {{- '<｜Assistant｜>' ~ message.content.split('</think>')[-1] ~ '<｜end▁of▁sentence｜>' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<｜Assistant｜>' ~ ('<think>\n' if opens_think and enable_thinking else '') -}}
{%- endif -%}
";

/// DeepSeek LLM and V2, whose roles are words.
const V2: &str = "\
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message.role == 'system' -%}
        {{- message.content ~ '\n\n' -}}
    {%- elif message.role == 'user' -%}
        {{- 'User: ' ~ message.content ~ '\n\n' -}}
    {%- elif message.role == 'assistant' and message.content is not none -%}
        {{- 'Assistant: ' ~ message.content ~ eos_token -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- 'Assistant:' -}}
{%- endif -%}
";

/// A format that stands in for a template.
#[derive(Clone, Copy, Debug)]
pub(super) struct BuiltIn {
    pub name: &'static str,
    pub source: &'static str,
    /// Whether the prompt opens the reasoning.
    pub opens_think: bool,
}

/// The format for a file without a template: that of V3 and R1 where the vocabulary has its tokens
/// (the distilled models have them too), V2's for DeepSeek's architectures; `None` for others.
pub(super) fn for_file(md: &Metadata, tokenizer: &Tokenizer) -> Result<Option<BuiltIn>> {
    let has = |token| tokenizer.token_id(token).is_some();
    if has("<｜User｜>") && has("<｜Assistant｜>") && has("<｜end▁of▁sentence｜>") {
        // V3 and R1 differ in nothing but what they were trained to do.
        let keys = ["general.name", "general.basename", "general.finetune"];
        let mut names = keys.iter().map(|key| md.str(key));
        let is_r1 = names.any(|name| matches!(name, Ok(Some(n)) if n.to_ascii_lowercase().contains("r1")));
        let opens_think = is_r1 && has("<think>");
        let name = if opens_think { "DeepSeek-R1" } else { "DeepSeek-V3" };
        return Ok(Some(BuiltIn { name, source: V3, opens_think }));
    }
    let architecture = md.str("general.architecture")?;
    let deepseek = matches!(architecture, Some("deepseek" | "deepseek2"));
    Ok(deepseek.then_some(BuiltIn { name: "DeepSeek-V2", source: V2, opens_think: false }))
}
