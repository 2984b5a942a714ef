//! What dense and mixture transformers share: grouped-query attention, feed-forward networks, mixtures.

use ggml_sys::cache::{LayerCache, ValueRows};
use ggml_sys::graph::{Stack, View, WeightId};
use ggml_sys::ops::{Gating, Groups, Pairing, Router};
use ggml_sys::{GgmlType, Result as GgmlResult};

use super::Base;
use crate::error::Result;
use crate::loader::Loader;
use crate::record::{Affine, Recorder};
use crate::rope::Rope;

/// Hyperparameters of grouped-query attention (Ainslie et al., 2023).
pub struct AttentionConfig {
    pub n_head: usize,
    pub n_head_kv: usize,
    /// Elements of a query or key head.
    pub k_dim: usize,
    /// Elements of a value head.
    pub v_dim: usize,
    pub rope: Rope,
    pub pairing: Pairing,
    pub scale: f32,
}

impl AttentionConfig {
    pub fn load(l: &mut Loader<'_>, base: &Base, pairing: Pairing) -> Result<Self> {
        let n_head = l.usize("attention.head_count")?;
        let n_head_kv = l.find_usize("attention.head_count_kv")?.unwrap_or(n_head);
        if n_head_kv == 0 || !n_head.is_multiple_of(n_head_kv) {
            return Err(l.config_error(format!("{n_head} heads cannot share {n_head_kv} key/value heads")));
        }
        let k_dim = l.find_usize("attention.key_length")?.unwrap_or(base.n_embd / n_head);
        let v_dim = l.find_usize("attention.value_length")?.unwrap_or(k_dim);
        let n_rot = l.find_usize("rope.dimension_count")?.unwrap_or(k_dim);
        if k_dim == 0 || v_dim == 0 || n_rot == 0 || n_rot > k_dim {
            return Err(
                l.config_error(format!("heads of {k_dim} and {v_dim} elements, {n_rot} of them rotated"))
            );
        }
        let rope = Rope::load(l, n_rot)?;
        Ok(AttentionConfig {
            n_head,
            n_head_kv,
            k_dim,
            v_dim,
            rope,
            pairing,
            scale: 1.0 / (k_dim as f32).sqrt(),
        })
    }

    pub fn cache(&self, k_ty: GgmlType, v_ty: GgmlType) -> LayerCache {
        let v = ValueRows::Own { dim: self.v_dim, ty: v_ty };
        LayerCache { n_head_kv: self.n_head_kv, k_dim: self.k_dim, k_ty, v }
    }
}

/// Weights of grouped-query attention.
pub struct Attention {
    wq: Affine,
    wk: Affine,
    wv: Affine,
    wo: Affine,
    /// Norms of each query and key head before the rotation (qwen3).
    qk_norm: Option<(WeightId, WeightId)>,
}

impl Attention {
    pub fn load(
        l: &mut Loader<'_>,
        base: &Base,
        c: &AttentionConfig,
        il: usize,
        qk_norm: bool,
    ) -> Result<Self> {
        let mut affine = |name: &str, n_in: usize, n_out: usize| -> Result<Affine> {
            let w = l.matrix(&format!("blk.{il}.{name}.weight"), &[n_in, n_out])?;
            Ok(Affine { w, bias: l.find_vector(&format!("blk.{il}.{name}.bias"), n_out)? })
        };
        let (n_q, n_v) = (c.n_head * c.k_dim, c.n_head * c.v_dim);
        let wq = affine("attn_q", base.n_embd, n_q)?;
        let wk = affine("attn_k", base.n_embd, c.n_head_kv * c.k_dim)?;
        let wv = affine("attn_v", base.n_embd, c.n_head_kv * c.v_dim)?;
        let wo = affine("attn_output", n_v, base.n_embd)?;
        let qk_norm = if qk_norm {
            let q = l.vector(&format!("blk.{il}.attn_q_norm.weight"), c.k_dim)?;
            Some((q, l.vector(&format!("blk.{il}.attn_k_norm.weight"), c.k_dim)?))
        } else {
            None
        };
        Ok(Attention { wq, wk, wv, wo, qk_norm })
    }

    /// Attends from the normalized `h` and adds the result to the residual stream `x`.
    pub fn record(
        &self,
        r: &mut Recorder<'_>,
        c: &AttentionConfig,
        il: usize,
        h: View,
        angles: View,
        x: View,
    ) -> GgmlResult<()> {
        let [q, k, v] = r.linear(h, [self.wq, self.wk, self.wv])?;
        if let Some((q_norm, k_norm)) = self.qk_norm {
            r.norm_in_place(q, q_norm)?;
            r.norm_in_place(k, k_norm)?;
        }
        let (q, k, v) = (q.heads(c.n_head), k.heads(c.n_head_kv), v.heads(c.n_head_kv));
        r.rope(q, angles, c.pairing, q)?;
        r.rope(k, angles, c.pairing, k)?;
        r.store(il, k, Some(v))?;
        let y = r.attention(il, q, c.n_head_kv, c.scale, c.v_dim)?;
        r.linear_add(y, self.wo, x)
    }
}

/// A feed-forward network.
pub struct Ffn {
    gate: WeightId,
    up: WeightId,
    down: WeightId,
}

impl Ffn {
    /// Loads `blk.IL.ffn_{gate,up,down}SUFFIX.weight`.
    pub fn load(l: &mut Loader<'_>, base: &Base, il: usize, suffix: &str, n_ff: usize) -> Result<Self> {
        let name = |part: &str| format!("blk.{il}.ffn_{part}{suffix}.weight");
        Ok(Ffn {
            gate: l.matrix(&name("gate"), &[base.n_embd, n_ff])?,
            up: l.matrix(&name("up"), &[base.n_embd, n_ff])?,
            down: l.matrix(&name("down"), &[n_ff, base.n_embd])?,
        })
    }

    /// Adds the network of the normalized `h` to the residual stream `x`.
    pub fn record(&self, r: &mut Recorder<'_>, h: View, x: View) -> GgmlResult<()> {
        r.ffn_add(h, self.gate, self.up, self.down, x)
    }
}

/// How experts are chosen.
pub struct RouterConfig {
    pub n_expert: usize,
    pub n_used: usize,
    pub gating: Gating,
    pub groups: Option<Groups>,
    pub normalize: bool,
    pub scale: f32,
}

impl RouterConfig {
    /// `expert_count` and `expert_used_count`, checked; the rest plain.
    pub fn load(l: &Loader<'_>, gating: Gating, normalize: bool) -> Result<Self> {
        let (n_expert, n_used) = (l.usize("expert_count")?, l.usize("expert_used_count")?);
        if n_used > n_expert {
            return Err(l.config_error(format!("{n_used} of {n_expert} experts are to be used")));
        }
        let scale = l.find_f32("expert_weights_scale")?.filter(|s| *s != 0.0).unwrap_or(1.0);
        Ok(RouterConfig { n_expert, n_used, gating, groups: None, normalize, scale })
    }
}

/// A mixture of experts with an optional shared one.
pub struct Moe {
    router: WeightId,
    bias: Option<WeightId>,
    gate: Stack,
    up: Stack,
    down: Stack,
    shared: Option<Ffn>,
}

impl Moe {
    /// Loads the experts of a layer, gate and up apart or in one tensor; `n_shared` is the width of the shared one.
    pub fn load(
        l: &mut Loader<'_>,
        base: &Base,
        c: &RouterConfig,
        il: usize,
        n_ff: usize,
        n_shared: Option<usize>,
    ) -> Result<Self> {
        let (n_embd, n) = (base.n_embd, c.n_expert);
        let name = |part: &str| format!("blk.{il}.{part}");
        let stack = |w| Stack { w, row0: 0, stride: n_ff, rows: n_ff, n };
        let (gate, up) = if l.has(&name("ffn_gate_up_exps.weight")) {
            let w = l.matrix(&name("ffn_gate_up_exps.weight"), &[n_embd, 2 * n_ff, n])?;
            let half = |row0| Stack { w, row0, stride: 2 * n_ff, rows: n_ff, n };
            (half(0), half(n_ff))
        } else {
            let gate = l.matrix(&name("ffn_gate_exps.weight"), &[n_embd, n_ff, n])?;
            (stack(gate), stack(l.matrix(&name("ffn_up_exps.weight"), &[n_embd, n_ff, n])?))
        };
        let down = l.matrix(&name("ffn_down_exps.weight"), &[n_ff, n_embd, n])?;
        let shared = n_shared.map(|n| Ffn::load(l, base, il, "_shexp", n)).transpose()?;
        Ok(Moe {
            router: l.matrix(&name("ffn_gate_inp.weight"), &[n_embd, n])?,
            bias: l.find_vector(&name("exp_probs_b.bias"), n)?,
            gate,
            up,
            down: Stack { w: down, row0: 0, stride: n_embd, rows: n_embd, n },
            shared,
        })
    }

    /// Adds the mixture of the normalized `h` to the residual stream `x`.
    pub fn record(&self, r: &mut Recorder<'_>, c: &RouterConfig, h: View, x: View) -> GgmlResult<()> {
        let [logits] = r.linear(h, [self.router.into()])?;
        let router = |sel| Router {
            logits,
            bias: self.bias,
            gating: c.gating,
            groups: c.groups,
            normalize: c.normalize,
            scale: c.scale,
            sel,
        };
        r.experts_add(h, c.n_used, router, (self.gate, self.up, self.down), x)?;
        if let Some(shared) = &self.shared {
            shared.record(r, h, x)?;
        }
        Ok(())
    }
}

/// A transformer of grouped-query attention and feed-forward networks or mixtures: llama, qwen2, qwen3, qwen3moe.
pub struct Transformer {
    pub base: Base,
    pub attention: AttentionConfig,
    pub router: Option<RouterConfig>,
    pub layers: Vec<Layer>,
}

pub struct Layer {
    pub attn_norm: WeightId,
    pub attention: Attention,
    pub ffn_norm: WeightId,
    pub ffn: Mlp,
}

/// The second half of a layer.
pub enum Mlp {
    Dense(Ffn),
    Moe(Box<Moe>),
}

impl Mlp {
    pub fn record(
        &self,
        r: &mut Recorder<'_>,
        router: Option<&RouterConfig>,
        h: View,
        x: View,
    ) -> GgmlResult<()> {
        match (self, router) {
            (Mlp::Dense(ffn), _) => ffn.record(r, h, x),
            (Mlp::Moe(moe), Some(c)) => moe.record(r, c, h, x),
            (Mlp::Moe(_), None) => Err(ggml_sys::Error::Unsupported("a mixture without a router".into())),
        }
    }
}

impl Transformer {
    /// Loads the layers; `ffn` makes the second half of each.
    pub fn load_layers(
        l: &mut Loader<'_>,
        base: &Base,
        attention: &AttentionConfig,
        qk_norm: bool,
        mut ffn: impl FnMut(&mut Loader<'_>, usize) -> Result<Mlp>,
    ) -> Result<Vec<Layer>> {
        (0..base.n_layer)
            .map(|il| {
                Ok(Layer {
                    attn_norm: l.vector(&format!("blk.{il}.attn_norm.weight"), base.n_embd)?,
                    attention: Attention::load(l, base, attention, il, qk_norm)?,
                    ffn_norm: l.vector(&format!("blk.{il}.ffn_norm.weight"), base.n_embd)?,
                    ffn: ffn(l, il)?,
                })
            })
            .collect()
    }
}

impl super::Network for Transformer {
    fn base(&self) -> &Base {
        &self.base
    }

    fn cache(&self, k: GgmlType, v: GgmlType) -> Vec<LayerCache> {
        vec![self.attention.cache(k, v); self.base.n_layer]
    }

    fn layers(&self, r: &mut Recorder<'_>, _form: super::MlaForm) -> Result<View> {
        let x = r.embed(self.base.token_embd)?;
        let angles = r.rope_table(&self.attention.rope, self.attention.rope.scale)?;
        for (il, layer) in self.layers.iter().enumerate() {
            let h = r.norm(x, layer.attn_norm)?;
            layer.attention.record(r, &self.attention, il, h, angles, x)?;
            let h = r.norm(x, layer.ffn_norm)?;
            layer.ffn.record(r, self.router.as_ref(), h, x)?;
        }
        Ok(x)
    }

    fn experts(&self) -> Option<(usize, usize)> {
        self.router.as_ref().map(|r| (r.n_expert, r.n_used))
    }
}
