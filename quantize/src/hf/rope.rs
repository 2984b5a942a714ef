//! Positions: what config.json says about rotation, as keys, and Llama 3's factors as a tensor.

use std::f32::consts::PI;

use ggml_sys::gguf::Quoted;

use super::convert::Conversion;
use super::json::Object;
use crate::error::Result;

/// The object with the parameters: `rope_parameters` of new files, `rope_scaling` of others, or nothing.
pub(super) fn parameters(config: &Object) -> Result<Object> {
    for key in ["rope_parameters", "rope_scaling"] {
        if let Some(found) = config.find_object(key)? {
            return Ok(found);
        }
    }
    Ok(Object::none(config.file().into()))
}

/// Which kind of scaling; old files call the key `type`.
fn kind(parameters: &Object) -> Result<Option<(&'static str, &str)>> {
    for key in ["rope_type", "type"] {
        if let Some(kind) = parameters.find_str(key)? {
            return Ok(Some((key, kind)));
        }
    }
    Ok(None)
}

/// Sets `rope.scaling.*` and `rope.freq_base`.
pub(super) fn keys(c: &mut Conversion<'_>) -> Result<()> {
    let p = parameters(c.config)?;
    match kind(&p)? {
        // Llama 3's is a tensor.
        None | Some((_, "default" | "llama3")) => {}
        Some((_, "linear")) => {
            c.key("rope.scaling.type", "linear");
            c.key("rope.scaling.factor", p.number("factor")? as f32);
        }
        Some((_, "yarn")) => yarn(c, &p)?,
        Some((key, other)) => {
            let what = format!("is {}; known are default, linear, llama3 and yarn", Quoted(other.as_bytes()));
            return Err(p.invalid(key, what));
        }
    }
    let theta = match p.find_number("rope_theta")? {
        Some(theta) => Some(theta),
        None => c.config.find_number("rope_theta")?,
    };
    if let Some(theta) = theta {
        c.key("rope.freq_base", theta as f32);
    }
    Ok(())
}

/// [YaRN](https://arxiv.org/abs/2309.00071).
fn yarn(c: &mut Conversion<'_>, p: &Object) -> Result<()> {
    const ORIGINAL: &str = "original_max_position_embeddings";
    c.key("rope.scaling.type", "yarn");
    c.key("rope.scaling.factor", p.number("factor")? as f32);
    let original = match (p.find_count(ORIGINAL)?, c.config.find_count(ORIGINAL)?) {
        (Some(n), _) | (None, Some(n)) => n,
        // As in transformers.
        (None, None) => c.config.count("max_position_embeddings")?,
    };
    c.key("rope.scaling.original_context_length", original);
    let attention = if p.get("attention_factor").is_some() { "attention_factor" } else { "attn_factor" };
    for (name, key) in [
        ("extrapolation_factor", "ext_factor"),
        (attention, "attn_factor"),
        ("beta_fast", "beta_fast"),
        ("beta_slow", "beta_slow"),
    ] {
        if let Some(value) = p.find_number(name)? {
            c.key(&format!("rope.scaling.yarn_{key}"), value as f32);
        }
    }
    Ok(())
}

/// What each frequency of a head is divided by, with Llama 3's scaling; `None` without it.
///
/// High frequencies stay, low ones are divided by the factor, and between there is a ramp
/// ([transformers](https://github.com/huggingface/transformers), `_compute_llama3_parameters`). In F32, as there.
pub(super) fn llama3_factors(config: &Object, head_dim: usize) -> Result<Option<Vec<f32>>> {
    let p = parameters(config)?;
    if kind(&p)?.is_none_or(|(_, kind)| kind != "llama3") {
        return Ok(None);
    }
    let number = |key: &str, default: f64| Ok::<_, crate::Error>(p.find_number(key)?.unwrap_or(default));
    let base = match p.find_number("rope_theta")? {
        Some(theta) => theta,
        None => config.find_number("rope_theta")?.unwrap_or(10_000.0),
    };
    let factor = number("factor", 8.0)? as f32;
    let (low, high) = (number("low_freq_factor", 1.0)?, number("high_freq_factor", 4.0)?);
    let original = number("original_max_position_embeddings", 8192.0)?;
    if !(factor > 0.0 && base > 0.0 && low > 0.0 && high > low && original > 0.0) {
        return Err(p.invalid("low_freq_factor", "and the numbers beside it make no ramp"));
    }
    let (longest, shortest) = ((original / low) as f32, (original / high) as f32);
    let factors = (0..head_dim / 2).map(|i| {
        let frequency = 1.0 / (base.powf((2.0 * i as f32 / head_dim as f32).into()) as f32);
        let wavelength = 2.0 * PI / frequency;
        if wavelength < shortest {
            1.0
        } else if wavelength > longest {
            factor
        } else {
            let smooth = (original as f32 / wavelength - low as f32) / (high - low) as f32;
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    });
    Ok(Some(factors.collect()))
}
