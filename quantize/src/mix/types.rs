//! Which tensor gets which type in which mix.

use ggml_sys::GgmlType;
use ggml_sys::GgmlType as T;
use ggml_sys::format::Kind;

use super::{Class, Facts, Item, Mix};
use crate::rules;
use crate::target::{Override, Target};

/// What becomes of a tensor that is converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The type it gets.
    pub to: GgmlType,
    /// The type it would have got if its rows were a whole number of blocks, if they are not.
    pub fallback_of: Option<GgmlType>,
}

/// What becomes of all tensors of a model; `None` for those that keep their type. `known` says that there is an importance
/// matrix.
pub(crate) fn choose(target: &Target, facts: &Facts, known: bool, items: &[Item<'_>]) -> Vec<Option<Choice>> {
    let count = |class| items.iter().filter(|i| Class::of(i.name) == class).count();
    let mut chooser = Chooser {
        target,
        mix: target.mix(),
        facts,
        known,
        tied: count(Class::Output) == 0,
        n_v: count(Class::V),
        seen: Seen::default(),
    };
    // Some rules count tensors in the order of layers and names.
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|&i| (items[i].layer(), items[i].name));
    let mut choices = vec![None; items.len()];
    for i in order {
        let item = &items[i];
        let left = target.keeps_output() && Class::of(item.name) == Class::Output;
        if !left && !rules::is_kept(item.name, item.shape) {
            let wanted = chooser.wanted(item);
            let to = rules::fitting(wanted, item.shape);
            choices[i] = Some(Choice { to, fallback_of: (to != wanted).then_some(wanted) });
        }
    }
    choices
}

/// Tensors of a class so far.
#[derive(Default)]
struct Seen {
    v: usize,
    gate: usize,
    up: usize,
    down: usize,
}

struct Chooser<'a> {
    target: &'a Target,
    mix: Mix,
    facts: &'a Facts,
    known: bool,
    tied: bool,
    n_v: usize,
    seen: Seen,
}

/// Whether layer `i` of `n` is one of the first or last eighth, or every third of those between.
fn more(i: usize, n: usize) -> bool {
    i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2
}

impl Chooser<'_> {
    /// The type that is wanted, whether rows divide or not.
    fn wanted(&mut self, item: &Item<'_>) -> GgmlType {
        let class = Class::of(item.name);
        let given = match class {
            Class::Embedding => self.target.embedding(),
            Class::Output => self.target.output(),
            _ => None,
        };
        let other = || self.target.overrides().iter().find(|o| o.fits(item.name)).map(Override::ty);
        // Rules do not count what somebody decided on.
        given.or_else(other).unwrap_or_else(|| self.by_rules(item, class))
    }

    fn by_rules(&mut self, item: &Item<'_>, class: Class) -> GgmlType {
        let mix = self.mix;
        if self.target.is_pure() || matches!(mix.base().format().kind, Kind::Float { .. }) {
            return mix.base();
        }
        match class {
            Class::Output => self.output(item),
            Class::Embedding if self.tied => self.output(item),
            // Made for experts. That heads of latent attention are stacks too is llama.cpp's slip, and in its files.
            _ if mix == Mix::MXFP4_MOE && item.shape.0[2] > 1 => T::MXFP4,
            _ if mix == Mix::MXFP4_MOE => T::Q8_0,
            Class::Embedding => self.embedding(),
            _ if mix.is_for_experts() => self.for_experts(item, class),
            _ if self.is_two_bits() => self.two_bits(class),
            Class::V => self.v(),
            Class::Q | Class::K => self.qk(class),
            Class::Down => self.down(item),
            Class::AttentionOutput => self.attention_output(),
            Class::Gate | Class::Up => self.gate_or_up(item, class),
            Class::Other => mix.base(),
        }
    }

    fn output(&self, item: &Item<'_>) -> GgmlType {
        if let Some(given) = self.target.output() {
            return given;
        }
        let base = self.mix.base();
        let divides = item.shape.row_len().is_multiple_of(base.format().block);
        match self.mix {
            Mix::MXFP4_MOE => T::Q8_0,
            _ if !divides => T::Q8_0,
            Mix::IQ2_XXS | Mix::IQ2_XS | Mix::IQ2_S | Mix::IQ2_M | Mix::IQ3_XXS | Mix::IQ1_S | Mix::IQ1_M => {
                T::Q5_K
            }
            _ if base == T::Q8_0 => T::Q8_0,
            _ => T::Q6_K,
        }
    }

    fn embedding(&self) -> GgmlType {
        match self.mix {
            Mix::IQ2_XXS | Mix::IQ2_XS | Mix::IQ1_S | Mix::IQ1_M => T::Q2_K,
            Mix::IQ2_S | Mix::IQ2_M | Mix::IQ3_XXS => T::IQ3_S,
            Mix::TQ1_0 | Mix::TQ2_0 => T::Q4_K,
            // Each token reads one row: the bits cost nothing but space, and not much of that.
            mix if mix.is_for_experts() => T::Q4_K,
            mix => mix.base(),
        }
    }

    /// Layer and number of layers as rules about halves and eighths count them: by the tensor's name where there are
    /// experts, else by the tensors of its class so far.
    fn layer(&self, item: &Item<'_>, seen: usize) -> (usize, usize) {
        let i = if self.facts.n_expert > 1 { item.layer().unwrap_or(seen) } else { seen };
        (i, self.facts.n_layer)
    }

    fn is_two_bits(&self) -> bool {
        use Mix::{IQ1_M, IQ1_S, IQ2_M, IQ2_S, IQ2_XS, IQ2_XXS};
        matches!(self.mix, IQ2_XXS | IQ2_XS | IQ2_S | IQ2_M | IQ1_S | IQ1_M)
    }

    /// Mixes of one and two bits.
    fn two_bits(&mut self, class: Class) -> GgmlType {
        let (mix, f) = (self.mix, self.facts);
        let better = if matches!(mix, Mix::IQ2_S | Mix::IQ2_M) { T::IQ3_S } else { T::Q2_K };
        match class {
            Class::V if f.n_gqa >= 4 || f.n_expert >= 4 => T::Q4_K,
            Class::V => better,
            Class::K if f.n_expert == 8 => T::Q4_K,
            Class::Down => {
                self.seen.down += 1;
                if self.seen.down <= f.n_layer / 8 { better } else { mix.base() }
            }
            Class::AttentionOutput => match mix {
                _ if f.n_expert == 8 => T::Q5_K,
                Mix::IQ1_S | Mix::IQ1_M => T::IQ2_XXS,
                Mix::IQ2_S | Mix::IQ2_M => T::IQ3_S,
                _ => mix.base(),
            },
            _ => mix.base(),
        }
    }

    fn v(&mut self) -> GgmlType {
        let (f, i) = (self.facts, self.seen.v);
        self.seen.v += 1;
        let grouped = f.n_gqa >= 4;
        let ty = match self.mix {
            Mix::Q2_K if !grouped => T::Q3_K,
            Mix::Q2_K | Mix::IQ3_M => T::Q4_K,
            Mix::Q2_K_S | Mix::IQ3_XXS | Mix::IQ3_XS | Mix::IQ3_S if grouped => T::Q4_K,
            Mix::IQ3_XXS if !self.known => T::IQ3_S,
            Mix::Q3_K_M if i >= 2 => T::Q4_K,
            Mix::Q3_K_M | Mix::Q3_K_L => T::Q5_K,
            Mix::IQ4_NL | Mix::IQ4_XS if grouped => T::Q5_K,
            Mix::Q4_K_M | Mix::Q5_K_M if more(i, self.n_v) => T::Q6_K,
            Mix::Q4_K_S if i < 4 => T::Q5_K,
            mix => mix.base(),
        };
        match ty {
            _ if f.n_expert == 8 => T::Q8_0,
            T::Q3_K | T::Q4_K if f.is_70b => T::Q5_K,
            ty => ty,
        }
    }

    fn qk(&self, class: Class) -> GgmlType {
        match self.mix {
            _ if class == Class::K && self.facts.n_expert == 8 => T::Q8_0,
            Mix::IQ3_XS => T::IQ3_XXS,
            Mix::IQ3_XXS => T::IQ2_S,
            mix => mix.base(),
        }
    }

    fn down(&mut self, item: &Item<'_>) -> GgmlType {
        let (i, n) = self.layer(item, self.seen.down);
        self.seen.down += 1;
        let (known, first) = (self.known, i < n / 8);
        match self.mix {
            Mix::Q2_K => T::Q3_K,
            Mix::Q2_K_S if first => T::Q4_K,
            Mix::IQ3_XXS if !known && first => T::Q4_K,
            Mix::IQ3_XXS if !known => T::Q3_K,
            Mix::Q3_K_M if i < n / 16 => T::Q5_K,
            Mix::Q3_K_M => T::Q4_K,
            Mix::IQ3_M if first || (self.facts.n_expert == 8 && more(i, n)) => T::Q4_K,
            Mix::Q3_K_L => T::Q5_K,
            Mix::Q4_K_M | Mix::Q5_K_M if more(i, n) => T::Q6_K,
            Mix::IQ4_NL | Mix::IQ4_XS if first && !known => T::Q5_K,
            Mix::Q4_K_S if first => T::Q5_K,
            // The first of these can go astray even when it is known what matters.
            Mix::Q4_0 if first && known => T::Q4_1,
            Mix::Q5_0 if first && known => T::Q5_1,
            mix => mix.base(),
        }
    }

    fn attention_output(&self) -> GgmlType {
        use Mix::*;
        match self.mix {
            Q2_K | IQ3_XS | IQ3_XXS | Q3_K_S | Q3_K_M | IQ4_NL | Q4_K_S | Q4_K_M | IQ3_S | IQ3_M | IQ4_XS
                if self.facts.n_expert == 8 =>
            {
                T::Q5_K
            }
            mix if self.facts.n_expert == 8 => mix.base(),
            Q2_K => T::Q3_K,
            IQ3_XXS => T::IQ3_S,
            Q3_K_M | IQ3_M => T::Q4_K,
            Q3_K_L => T::Q5_K,
            mix => mix.base(),
        }
    }

    fn gate_or_up(&mut self, item: &Item<'_>, class: Class) -> GgmlType {
        let seen = if class == Class::Gate { &mut self.seen.gate } else { &mut self.seen.up };
        let before = *seen;
        *seen += 1;
        let (i, n) = self.layer(item, before);
        match self.mix {
            Mix::IQ3_XS if i >= n / 8 && i < 7 * n / 8 => T::IQ3_XXS,
            mix => mix.base(),
        }
    }

    /// Our own mixes. Nearly all of a large mixture is routed experts, of which a token uses a few: they get the base type,
    /// the first eighth of the layers and all down-projections that of one step up. Everything that each token uses is a
    /// small share of the file and gets Q6_K; the projections into and out of the latent, smaller still, Q8_0.
    fn for_experts(&self, item: &Item<'_>, class: Class) -> GgmlType {
        let base = self.mix.base();
        if !item.name.contains("_exps.") {
            let latent = ["attn_kv_a_mqa", "attn_k_b", "attn_v_b", "attn_kv_b", "attn_k.", "attn_v."];
            return if latent.iter().any(|part| item.name.contains(part)) { T::Q8_0 } else { T::Q6_K };
        }
        let layer = item.layer().unwrap_or(0);
        if layer >= self.facts.n_layer - self.facts.n_nextn.min(self.facts.n_layer) {
            // An importance matrix knows nothing of layers that predict further tokens.
            return T::Q4_K;
        }
        let first = layer < self.facts.n_layer.div_ceil(8);
        if first || class == Class::Down { step_up(base) } else { base }
    }
}

/// The next better type for experts.
fn step_up(ty: GgmlType) -> GgmlType {
    match ty {
        T::IQ1_S | T::IQ1_M => T::IQ2_XXS,
        T::IQ2_XXS => T::IQ2_S,
        T::Q2_K => T::Q3_K,
        T::IQ3_XXS => T::IQ3_S,
        T::Q3_K => T::Q4_K,
        T::Q4_K | T::IQ4_XS => T::Q5_K,
        ty => ty,
    }
}

/// Whether a weight of this type is garbage without an importance matrix, so that llama.cpp and fathom refuse it. The
/// embedding and the output matrix never ask for one, since nothing is known of them.
pub(crate) fn needs_importance(mix: Mix, name: &str, ty: GgmlType) -> bool {
    !matches!(Class::of(name), Class::Embedding | Class::Output)
        && match ty {
            T::IQ3_XXS | T::IQ2_XXS | T::IQ2_XS | T::IQ2_S | T::IQ1_M | T::IQ1_S => true,
            T::Q2_K => mix == Mix::Q2_K_S,
            _ => false,
        }
}
