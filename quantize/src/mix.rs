//! Mixes: names for a type for most weights and better ones where that pays, such as `Q4_K_M`.
//!
//! The names and rules are llama.cpp's, so that files are like those that people know; [`types`] holds the rules. Mixes that
//! begin with `MOE_` are fathom's own, for models most of whose weights are routed experts.

mod types;

use ggml_sys::gguf::{Metadata, Value};
use ggml_sys::{GgmlType, Shape};

pub use types::Choice;
pub(crate) use types::{choose, needs_importance};

macro_rules! mixes {
    ($($name:ident $base:ident $number:literal),* $(,)?) => {
        /// A mix of types.
        #[allow(missing_docs, non_camel_case_types)] // names that people know
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Mix { $($name),* }

        impl Mix {
            /// All mixes.
            pub const ALL: &[Mix] = &[$(Mix::$name),*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Mix::$name => stringify!($name)),* }
            }

            /// The type of most weights.
            pub fn base(self) -> GgmlType {
                match self { $(Mix::$name => GgmlType::$base),* }
            }

            /// `general.file_type`. Mixes of fathom's own have that of the nearest one of llama.cpp.
            pub fn file_type(self) -> u32 {
                match self { $(Mix::$name => $number),* }
            }
        }
    };
}

mixes! {
    F32 F32 0, F16 F16 1, BF16 BF16 32,
    Q8_0 Q8_0 7, Q6_K Q6_K 18, Q5_K_M Q5_K 17, Q5_K_S Q5_K 16, Q5_1 Q5_1 9, Q5_0 Q5_0 8,
    Q4_K_M Q4_K 15, Q4_K_S Q4_K 14, Q4_1 Q4_1 3, Q4_0 Q4_0 2, IQ4_NL IQ4_NL 25, IQ4_XS IQ4_XS 30,
    Q3_K_L Q3_K 13, Q3_K_M Q3_K 12, Q3_K_S Q3_K 11, IQ3_M IQ3_S 27, IQ3_S IQ3_S 26, IQ3_XS IQ3_S 22,
    IQ3_XXS IQ3_XXS 23, Q2_K Q2_K 10, Q2_K_S Q2_K 21, IQ2_M IQ2_S 29, IQ2_S IQ2_XS 28, IQ2_XS IQ2_XS 20,
    IQ2_XXS IQ2_XXS 19, IQ1_M IQ1_M 31, IQ1_S IQ1_S 24, TQ2_0 TQ2_0 37, TQ1_0 TQ1_0 36,
    MXFP4_MOE MXFP4 38, NVFP4 NVFP4 39,
    MOE_Q4_K Q4_K 15, MOE_IQ4_XS IQ4_XS 30, MOE_Q3_K Q3_K 12, MOE_IQ3_XXS IQ3_XXS 23, MOE_Q2_K Q2_K 10,
    MOE_IQ2_XXS IQ2_XXS 19, MOE_IQ1_M IQ1_M 31, MOE_IQ1_S IQ1_S 24,
}

/// Other names: those of types, as llama.cpp takes them.
const ALIASES: [(&str, Mix); 4] =
    [("Q3_K", Mix::Q3_K_M), ("Q4_K", Mix::Q4_K_M), ("Q5_K", Mix::Q5_K_M), ("MXFP4", Mix::MXFP4_MOE)];

impl Mix {
    /// The mix of this name, in either case.
    pub fn named(name: &str) -> Option<Mix> {
        let is = |n: &str| n.eq_ignore_ascii_case(name);
        let alias = ALIASES.iter().find(|(n, _)| is(n)).map(|(_, mix)| *mix);
        alias.or_else(|| Mix::ALL.iter().copied().find(|m| is(m.name())))
    }

    /// The mix that is named after a type.
    pub fn of(ty: GgmlType) -> Mix {
        // Every type has its name among the mixes, a test says.
        Mix::named(ty.name()).unwrap_or(Mix::F16)
    }

    /// Whether it is one for models of routed experts.
    pub fn is_for_experts(self) -> bool {
        self.name().starts_with("MOE_")
    }
}

/// What a tensor is, as far as mixes care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Embedding,
    Output,
    Q,
    K,
    /// Also keys and values in one, and the up-projection of latents: what rounding hurts most.
    V,
    AttentionOutput,
    Gate,
    Up,
    Down,
    Other,
}

impl Class {
    pub fn of(name: &str) -> Class {
        match name {
            "output.weight" => return Class::Output,
            "token_embd.weight" => return Class::Embedding,
            _ => {}
        }
        let classes = [
            ("attn_qkv.weight", Class::V),
            ("attn_kv_b.weight", Class::V),
            ("attn_v.weight", Class::V),
            ("attn_k.weight", Class::K),
            ("attn_q.weight", Class::Q),
            ("attn_output.weight", Class::AttentionOutput),
            ("ffn_up", Class::Up),
            ("ffn_gate", Class::Gate),
            ("ffn_down", Class::Down),
        ];
        classes.iter().find(|(part, _)| name.contains(part)).map_or(Class::Other, |c| c.1)
    }
}

/// What mixes look at in a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Layers, with those that predict further tokens.
    pub n_layer: usize,
    /// Those.
    pub n_nextn: usize,
    /// Heads that share a key and a value.
    pub n_gqa: usize,
    /// Routed experts of a layer.
    pub n_expert: usize,
    /// Whether it is a 70B, whose values are worth more bits: 80 layers of llama with grouped heads, or of qwen2.
    pub is_70b: bool,
}

/// What mixes look at in a tensor.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its dimensions.
    pub shape: Shape,
}

impl Facts {
    /// Of a model with these keys; what is missing or makes no sense counts as none.
    pub fn new(md: &Metadata) -> Facts {
        let arch = md.str("general.architecture").ok().flatten().unwrap_or_default();
        let number = |key: &str| {
            let key = format!("{arch}.{key}");
            let first = || md.numbers(&key).ok().flatten()?.get(0)?.integer();
            // Some files have a number for each layer.
            let value = md.get(&key).and_then(Value::integer).or_else(first);
            value.and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
        };
        let n_layer = number("block_count");
        let (n_head, n_head_kv) = (number("attention.head_count"), number("attention.head_count_kv"));
        let n_head_kv = if n_head_kv == 0 { n_head } else { n_head_kv };
        Facts {
            n_layer,
            n_nextn: number("nextn_predict_layers"),
            n_gqa: n_head.checked_div(n_head_kv).unwrap_or(0),
            n_expert: number("expert_count"),
            is_70b: n_layer == 80 && (arch == "qwen2" || (arch == "llama" && n_head != n_head_kv)),
        }
    }
}

impl Item<'_> {
    /// Number of its layer.
    pub(crate) fn layer(&self) -> Option<usize> {
        let (number, _) = self.name.strip_prefix("blk.")?.split_once('.')?;
        number.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use ggml_sys::format::FORMATS;

    use super::*;

    #[test]
    fn mixes_are_found_by_name() {
        assert_eq!(Mix::named("q4_k_m"), Some(Mix::Q4_K_M));
        assert_eq!(Mix::named("Q4_K"), Some(Mix::Q4_K_M));
        assert_eq!(Mix::named("Q3_K").map(Mix::base), Some(GgmlType::Q3_K));
        assert_eq!(Mix::named("Q4_K_X"), None);
        for &mix in Mix::ALL {
            assert_eq!(Mix::named(mix.name()), Some(mix));
        }
    }

    #[test]
    fn every_type_names_a_mix_of_it() {
        for f in FORMATS {
            let mix = Mix::named(f.name).unwrap_or_else(|| panic!("{}", f.name));
            // llama.cpp's IQ2_S is mostly IQ2_XS; IQ2_M is IQ2_S.
            let base = if f.ty == GgmlType::IQ2_S { GgmlType::IQ2_XS } else { f.ty };
            assert_eq!((mix.base(), Mix::of(f.ty)), (base, mix));
        }
    }
}
