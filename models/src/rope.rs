//! Frequencies of rotary embeddings and their scalings.
//!
//! YaRN (Peng et al., 2023) divides low frequencies by the factor, leaves high ones, and ramps between; it
//! also sharpens attention, which qwen and llama do by scaling sine and cosine, and DeepSeek in the scale of the scores.

use std::f64::consts::TAU;
use std::sync::Arc;

use ggml_sys::graph::WeightId;

use crate::error::Result;
use crate::loader::Loader;

/// Frequencies and scales of a model.
#[derive(Clone, Debug)]
pub struct Rope {
    /// Radians per position, one a rotated pair.
    pub freqs: Arc<[f32]>,
    /// Scale of sine and cosine.
    pub scale: f32,
    /// The context that the model was made for before it was stretched, where the file says so.
    pub original_context: Option<usize>,
    /// YaRN's factor s, where that is the scaling.
    pub yarn_factor: Option<f64>,
}

/// Keys of YaRN.
struct Yarn {
    factor: f64,
    original_context: usize,
    ext_factor: f64,
    beta_fast: f64,
    beta_slow: f64,
}

impl Rope {
    /// Reads `rope.*` of the architecture for heads that rotate `n_dims` elements, and `rope_freqs.weight`, whose numbers
    /// divide the frequencies (Llama 3's scaling, made by the converter).
    pub fn load(l: &mut Loader<'_>, n_dims: usize) -> Result<Rope> {
        if !n_dims.is_multiple_of(2) {
            return Err(l.config_error(format!("{n_dims} rotated dimensions are no pairs")));
        }
        let base = f64::from(l.find_f32("rope.freq_base")?.unwrap_or(10_000.0));
        if base <= 0.0 {
            return Err(l.config_error(format!("rope.freq_base is {base}")));
        }
        let mut freqs: Vec<f64> =
            (0..n_dims / 2).map(|i| base.powf(-2.0 * i as f64 / n_dims as f64)).collect();
        if let Some(id) = l.find_vector("rope_freqs.weight", n_dims / 2)? {
            divide(&mut freqs, l, id);
        }
        let factor = match l.find_f32("rope.scaling.factor")? {
            Some(f) => Some(f),
            None => l.find_f32("rope.scale_linear")?,
        };
        let factor = f64::from(factor.unwrap_or(1.0));
        if factor <= 0.0 {
            return Err(l.config_error(format!("rope.scaling.factor is {factor}")));
        }
        let original_context = l.find_usize("rope.scaling.original_context_length")?;
        let mut rope = Rope { freqs: Arc::new([]), scale: 1.0, original_context, yarn_factor: None };
        match l.find_str("rope.scaling.type")? {
            Some("none") => {}
            Some("linear") => freqs.iter_mut().for_each(|f| *f /= factor),
            None if factor != 1.0 => freqs.iter_mut().for_each(|f| *f /= factor),
            None => {}
            Some("yarn") => {
                let yarn = Yarn::load(l, factor, original_context)?;
                yarn.scale(base, &mut freqs);
                rope.yarn_factor = Some(factor);
                let attn_factor = f64::from(l.find_f32("rope.scaling.attn_factor")?.unwrap_or(1.0));
                rope.scale = (attn_factor * (1.0 + 0.1 * factor.ln())) as f32;
            }
            Some(other) => return Err(l.config_error(format!("rope scaling {other:?} is not supported"))),
        }
        rope.freqs = freqs.iter().map(|&f| f as f32).collect();
        Ok(rope)
    }
}

fn divide(freqs: &mut [f64], l: &Loader<'_>, id: WeightId) {
    for (f, d) in freqs.iter_mut().zip(l.weights.get(id).to_f32()) {
        *f /= f64::from(d);
    }
}

impl Yarn {
    fn load(l: &Loader<'_>, factor: f64, original_context: Option<usize>) -> Result<Yarn> {
        let original = match original_context {
            Some(n) => n,
            None => l.usize("context_length")?,
        };
        let get =
            |key: &str, default: f32| Ok::<_, crate::Error>(f64::from(l.find_f32(key)?.unwrap_or(default)));
        Ok(Yarn {
            factor,
            original_context: original,
            ext_factor: get("rope.scaling.yarn_ext_factor", 1.0)?,
            beta_fast: get("rope.scaling.yarn_beta_fast", 32.0)?,
            beta_slow: get("rope.scaling.yarn_beta_slow", 1.0)?,
        })
    }

    /// Mixes stretched and plain frequencies: pairs that turn more than `beta_fast` times within the original context
    /// stay, those that turn less than `beta_slow` times are stretched.
    fn scale(&self, base: f64, freqs: &mut [f64]) {
        let n_dims = 2.0 * freqs.len() as f64;
        let dim =
            |turns: f64| n_dims * (self.original_context as f64 / (turns * TAU)).ln() / (2.0 * base.ln());
        let low = dim(self.beta_fast).floor().max(0.0);
        let high = dim(self.beta_slow).ceil().min(n_dims - 1.0);
        for (i, f) in freqs.iter_mut().enumerate() {
            let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            let plain = (1.0 - ramp) * self.ext_factor;
            *f = *f / self.factor * (1.0 - plain) + *f * plain;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ggml_sys::gguf::{Gguf, Value, Writer};

    use super::*;

    fn rope(keys: &[(&str, Value)], n_dims: usize) -> Result<Rope> {
        let mut w = Writer::new("test");
        for (key, value) in keys {
            w.set(&format!("qwen3.{key}"), value.clone());
        }
        let bytes = w.begin(vec![]).unwrap().finish().unwrap();
        let gguf = Gguf::from_bytes(Arc::new(bytes), "test").unwrap();
        Rope::load(&mut Loader::new(&gguf, "qwen3"), n_dims)
    }

    #[test]
    fn the_8b_distill_of_r1_0528_stretches_low_frequencies_by_four() {
        let keys = [
            ("rope.freq_base", 1e6f32.into()),
            ("rope.scaling.type", "yarn".into()),
            ("rope.scaling.factor", 4f32.into()),
            ("rope.scaling.original_context_length", 32_768u32.into()),
            ("rope.scaling.attn_factor", 0.878_244_4f32.into()),
        ];
        let r = rope(&keys, 128).unwrap();
        let plain = |i: i32| 1e6f64.powf(-f64::from(i) / 64.0) as f32;
        // 32 turns within 32,768 positions: pair 23; one turn: pair 40.
        assert_eq!(r.freqs[..24], (0..24).map(plain).collect::<Vec<_>>());
        assert_eq!(r.freqs[40..], (40..64).map(|i| plain(i) / 4.0).collect::<Vec<_>>());
        // Eight of seventeen steps up the ramp.
        let want = plain(31) * (1.0 / 4.0 * (8.0 / 17.0) + 9.0 / 17.0);
        assert!((r.freqs[31] / want - 1.0).abs() < 1e-6, "{} is not {want}", r.freqs[31]);
        // 0.878 and 1 + 0.1 ln 4 cancel.
        assert!((r.scale - 1.0).abs() < 1e-4, "{}", r.scale);
    }

    #[test]
    fn linear_scaling_divides_all() {
        let r =
            rope(&[("rope.scaling.type", "linear".into()), ("rope.scaling.factor", 4f32.into())], 4).unwrap();
        assert_eq!((&*r.freqs, r.scale), (&[0.25, 0.0025][..], 1.0));
    }

    #[test]
    fn nonsense_is_named() {
        let error = |keys: &[(&str, Value)]| rope(keys, 64).unwrap_err().to_string();
        assert!(error(&[("rope.freq_base", 0f32.into())]).contains("rope.freq_base"));
        assert!(error(&[("rope.freq_base", f32::NAN.into())]).contains("rope.freq_base"));
        assert!(error(&[("rope.scaling.type", "dynamic".into())]).contains("dynamic"));
        assert!(error(&[("rope.scaling.factor", (-1f32).into())]).contains("rope.scaling.factor"));
    }
}
