//! deepseek2: multi-head latent attention and mixtures of experts. DeepSeek-V2, V2-Lite, V3 and R1.
//!
//! The cache keeps a row `[latent | rope]` a position ([DeepSeek-V2, 2024](https://arxiv.org/abs/2405.04434), section 2.1).
//! Files hold the up-projection of the latent either as one tensor `attn_kv_b`, whose rows are for each head first the key
//! elements and then the value elements, or as `attn_k_b`, transposed, and `attn_v_b`. Both run in both forms of
//! attention; the transposed keys that the absorbed form wants are made at load where the file has them not.

use ggml_sys::cache::{LayerCache, ValueRows};
use ggml_sys::graph::{Heads, Stack, View, WeightId};
use ggml_sys::ops::{Gating, GroupScore, Groups, KeyUp, MlaNaive, Pairing};
use ggml_sys::{Bytes, GgmlType, Result as GgmlResult, Shape, Tensor};
use rayon::prelude::*;

use super::blocks::{Ffn, Mlp, Moe, RouterConfig};
use super::{Base, MlaCost, MlaForm, Network};
use crate::error::Result;
use crate::loader::Loader;
use crate::record::Recorder;
use crate::rope::Rope;

struct DeepSeek2 {
    base: Base,
    mla: MlaConfig,
    router: Option<RouterConfig>,
    layers: Vec<Layer>,
}

struct MlaConfig {
    n_head: usize,
    kv_lora_rank: usize,
    /// Elements of a key without position, with position, and of a value.
    n_nope: usize,
    n_rope: usize,
    n_v: usize,
    rope: Rope,
    scale: f32,
}

struct Layer {
    attn_norm: WeightId,
    q: Query,
    kv_a: WeightId,
    kv_a_norm: WeightId,
    /// Transposed keys, for the absorbed form.
    k_b: Stack,
    /// Keys as the naive form takes them.
    k_up: KeyUp,
    v_up: Stack,
    output: WeightId,
    ffn_norm: WeightId,
    ffn: Mlp,
}

/// Queries at once, or through a low-rank bottleneck.
enum Query {
    Full(WeightId),
    LowRank { a: WeightId, norm: WeightId, b: WeightId },
}

pub fn load(l: &mut Loader<'_>) -> Result<Box<dyn Network>> {
    let mut base = Base::load(l)?;
    let n_mtp = l.find_usize("nextn_predict_layers")?.unwrap_or(0);
    base.n_layer = base.n_layer.checked_sub(n_mtp).filter(|n| *n > 0).ok_or_else(|| {
        l.config_error(format!("{n_mtp} of {} layers predict further tokens, none is left", base.n_layer))
    })?;
    let mla = MlaConfig::load(l)?;
    let n_dense = l.find_usize("leading_dense_block_count")?.unwrap_or(0).min(base.n_layer);
    let router = if n_dense < base.n_layer { Some(load_router(l, n_dense)?) } else { None };
    let mut layers = Vec::with_capacity(base.n_layer);
    for il in 0..base.n_layer {
        let ffn = match &router {
            Some(c) if il >= n_dense => load_moe(l, &base, c, il)?,
            _ => Mlp::Dense(Ffn::load(l, &base, il, "", l.usize("feed_forward_length")?)?),
        };
        layers.push(load_layer(l, &base, &mla, il, ffn)?);
    }
    Ok(Box::new(DeepSeek2 { base, mla, router, layers }))
}

impl MlaConfig {
    fn load(l: &mut Loader<'_>) -> Result<MlaConfig> {
        let n_head = l.usize("attention.head_count")?;
        let kv_lora_rank = l.usize("attention.kv_lora_rank")?;
        let n_rope = l.usize("rope.dimension_count")?;
        // Files of before the latent cache give the lengths of a head under the plain keys.
        let length = |new: &str, old: &str| match l.find_usize(new)? {
            Some(n) => Ok(n),
            None => l.usize(old),
        };
        let n_k = length("attention.key_length_mla", "attention.key_length")?;
        let n_v = length("attention.value_length_mla", "attention.value_length")?;
        if n_k <= n_rope || n_v == 0 {
            return Err(
                l.config_error(format!("heads of {n_k} and {n_v} elements, {n_rope} of them rotated"))
            );
        }
        let rope = Rope::load(l, n_rope)?;
        // DeepSeek keeps sine and cosine and sharpens the scores instead: mscale_all_dim² / √n.
        let log_mul = f64::from(l.find_f32("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0));
        let mscale = rope.yarn_factor.map_or(1.0, |s| 1.0 + log_mul * s.ln());
        let scale = (mscale * mscale / (n_k as f64).sqrt()) as f32;
        Ok(MlaConfig { n_head, kv_lora_rank, n_nope: n_k - n_rope, n_rope, n_v, rope, scale })
    }
}

fn load_router(l: &Loader<'_>, first_moe: usize) -> Result<RouterConfig> {
    let gating = match l.find_usize("expert_gating_func")? {
        None | Some(0 | 1) => Gating::Softmax,
        Some(2) => Gating::Sigmoid,
        Some(other) => return Err(l.config_error(format!("expert_gating_func {other} is not known"))),
    };
    let normalize = l.find_bool("expert_weights_norm")?.unwrap_or(false);
    let mut c = RouterConfig::load(l, gating, normalize)?;
    let n = l.find_usize("expert_group_count")?.unwrap_or(0);
    if n > 1 {
        let used = l.usize("expert_group_used_count")?;
        if !c.n_expert.is_multiple_of(n) || used > n || c.n_expert / n * used < c.n_used {
            let what =
                format!("{} of {} experts cannot be chosen from {used} of {n} groups", c.n_used, c.n_expert);
            return Err(l.config_error(what));
        }
        // The file does not say how groups are ranked; what V3 brought tells it from V2.
        let v3 = gating == Gating::Sigmoid || l.has(&format!("blk.{first_moe}.exp_probs_b.bias"));
        c.groups = Some(Groups { n, used, score: if v3 { GroupScore::Top2Sum } else { GroupScore::Max } });
    }
    Ok(c)
}

fn load_moe(l: &mut Loader<'_>, base: &Base, c: &RouterConfig, il: usize) -> Result<Mlp> {
    let n_ff = l.usize("expert_feed_forward_length")?;
    let n_shared = l.find_usize("expert_shared_count")?.filter(|n| *n > 0).map(|n| n * n_ff);
    Ok(Mlp::Moe(Box::new(Moe::load(l, base, c, il, n_ff, n_shared)?)))
}

fn load_layer(l: &mut Loader<'_>, base: &Base, c: &MlaConfig, il: usize, ffn: Mlp) -> Result<Layer> {
    let name = |part: &str| format!("blk.{il}.{part}.weight");
    let (n_embd, n_q) = (base.n_embd, c.n_head * (c.n_nope + c.n_rope));
    let q = if l.has(&name("attn_q_a")) {
        let rank = l.usize("attention.q_lora_rank")?;
        Query::LowRank {
            a: l.matrix(&name("attn_q_a"), &[n_embd, rank])?,
            norm: l.vector(&name("attn_q_a_norm"), rank)?,
            b: l.matrix(&name("attn_q_b"), &[rank, n_q])?,
        }
    } else {
        Query::Full(l.matrix(&name("attn_q"), &[n_embd, n_q])?)
    };
    let (k_b, k_up, v_up) = load_up(l, c, il)?;
    Ok(Layer {
        attn_norm: l.vector(&name("attn_norm"), n_embd)?,
        q,
        kv_a: l.matrix(&name("attn_kv_a_mqa"), &[n_embd, c.kv_lora_rank + c.n_rope])?,
        kv_a_norm: l.vector(&name("attn_kv_a_norm"), c.kv_lora_rank)?,
        k_b,
        k_up,
        v_up,
        output: l.matrix(&name("attn_output"), &[c.n_head * c.n_v, n_embd])?,
        ffn_norm: l.vector(&name("ffn_norm"), n_embd)?,
        ffn,
    })
}

/// Up-projections of the latent: transposed keys, keys, values.
fn load_up(l: &mut Loader<'_>, c: &MlaConfig, il: usize) -> Result<(Stack, KeyUp, Stack)> {
    let (rank, n) = (c.kv_lora_rank, c.n_head);
    let name = format!("blk.{il}.attn_kv_b.weight");
    let whole = |w, rows| Stack { w, row0: 0, stride: rows, rows, n };
    if l.has(&name) && !l.has(&format!("blk.{il}.attn_k_b.weight")) {
        let stride = c.n_nope + c.n_v;
        let w = l.matrix(&name, &[rank, n * stride])?;
        let k = Stack { w, row0: 0, stride, rows: c.n_nope, n };
        let v = Stack { w, row0: c.n_nope, stride, rows: c.n_v, n };
        let transposed = transpose(l.weights.get(w), k, rank)
            .ok_or_else(|| l.config_error(format!("tensor {name} cannot be transposed")))?;
        let k_b = whole(l.weights.add(transposed), rank);
        return Ok((k_b, KeyUp::Rows(k), v));
    }
    let k = l.matrix(&format!("blk.{il}.attn_k_b.weight"), &[c.n_nope, rank, n])?;
    let v = l.matrix(&format!("blk.{il}.attn_v_b.weight"), &[rank, c.n_v, n])?;
    Ok((whole(k, rank), KeyUp::Transposed(whole(k, rank)), whole(v, c.n_v)))
}

/// `[n_nope, rank, n_head]` from the key rows of `attn_kv_b`. Plain numbers keep their type; quantized ones become F16,
/// which loses less than their own rounding.
fn transpose(t: &Tensor, k: Stack, rank: usize) -> Option<Tensor> {
    let ty = if matches!(t.ty(), GgmlType::F32 | GgmlType::BF16) { t.ty() } else { GgmlType::F16 };
    let head_bytes = ty.row_bytes(k.rows)?.checked_mul(rank)?;
    let mut bytes = vec![0u8; head_bytes.checked_mul(k.n)?];
    bytes.par_chunks_exact_mut(head_bytes).enumerate().for_each(|(h, out)| {
        let mut columns = vec![0f32; k.rows * rank];
        let mut row = vec![0f32; rank];
        for d in 0..k.rows {
            t.ty().format().decode(t.row(k.row(h, d)), &mut row);
            row.iter().enumerate().for_each(|(c, v)| columns[c * k.rows + d] = *v);
        }
        // F32, F16 and BF16 all have encoders.
        let _ = ty.format().encode(&columns, None, out);
    });
    let shape = Shape::new(&[k.rows, rank, k.n])?;
    Tensor::new(format!("{} (keys, transposed)", t.name()), ty, shape, Bytes::from_vec(bytes))
}

impl Layer {
    /// Multi-head latent attention of the normalized `h`, added to the residual stream `x`.
    fn attention(
        &self,
        r: &mut Recorder<'_>,
        c: &MlaConfig,
        il: usize,
        (h, angles, x): (View, View, View),
        form: MlaForm,
    ) -> GgmlResult<()> {
        let (q, kv) = self.query_and_latent(r, h)?;
        let q = q.heads(c.n_head);
        let latent = kv.cols(0, c.kv_lora_rank);
        let k_rope = kv.cols(c.kv_lora_rank, c.n_rope).heads(1);
        r.norm_in_place(latent, self.kv_a_norm)?;
        if let KeyUp::Rows(keys) = self.k_up {
            // Keys and values are rows of one tensor, which the naive form multiplies by the latent.
            r.observe(latent.heads(1), None, &[keys.w])?;
        }
        r.rope(k_rope, angles, Pairing::Adjacent, k_rope)?;
        r.store(il, kv.heads(1), None)?;
        let y = match form {
            MlaForm::Absorbed => self.absorbed(r, c, il, q, angles)?,
            MlaForm::Naive => self.naive(r, c, il, q, angles)?,
        };
        r.linear_add(y, self.output, x)
    }

    /// Queries, and `[latent | rope]` before norm and rotation.
    fn query_and_latent(&self, r: &mut Recorder<'_>, h: View) -> GgmlResult<(View, View)> {
        match self.q {
            Query::Full(w) => {
                let [q, kv] = r.linear(h, [w.into(), self.kv_a.into()])?;
                Ok((q, kv))
            }
            Query::LowRank { a, norm, b } => {
                let [q_a, kv] = r.linear(h, [a.into(), self.kv_a.into()])?;
                r.norm_in_place(q_a, norm)?;
                let [q] = r.linear(q_a, [b.into()])?;
                Ok((q, kv))
            }
        }
    }

    /// Queries enter the latent space, all heads attend to the same rows, results leave it.
    fn absorbed(
        &self,
        r: &mut Recorder<'_>,
        c: &MlaConfig,
        il: usize,
        q: Heads,
        angles: View,
    ) -> GgmlResult<View> {
        let width = c.kv_lora_rank + c.n_rope;
        let latent_q = r.buffer(c.n_head * width).heads(c.n_head);
        r.rope(
            q.cols(c.n_nope, c.n_rope),
            angles,
            Pairing::Adjacent,
            latent_q.cols(c.kv_lora_rank, c.n_rope),
        )?;
        r.head_linear(q.cols(0, c.n_nope), self.k_b, latent_q.cols(0, c.kv_lora_rank))?;
        let latent_y = r.attention(il, latent_q, 1, c.scale, c.kv_lora_rank)?.heads(c.n_head);
        if let KeyUp::Transposed(keys) = self.k_up {
            r.observe(q.cols(0, c.n_nope), None, &[keys.w])?;
            r.observe(latent_y, None, &[self.v_up.w])?;
        }
        let y = r.buffer(c.n_head * c.n_v);
        r.head_linear(latent_y, self.v_up, y.heads(c.n_head))?;
        Ok(y)
    }

    /// Keys and values of every head from the cached latents.
    fn naive(
        &self,
        r: &mut Recorder<'_>,
        c: &MlaConfig,
        il: usize,
        q: Heads,
        angles: View,
    ) -> GgmlResult<View> {
        let rotated = q.cols(c.n_nope, c.n_rope);
        r.rope(rotated, angles, Pairing::Adjacent, rotated)?;
        let y = r.buffer(c.n_head * c.n_v);
        r.mla_naive(MlaNaive {
            layer: il,
            q,
            kv_lora_rank: c.kv_lora_rank,
            n_nope: c.n_nope,
            k_up: self.k_up,
            v_up: self.v_up,
            scale: c.scale,
            y: y.heads(c.n_head),
        })?;
        Ok(y)
    }
}

impl Network for DeepSeek2 {
    fn base(&self) -> &Base {
        &self.base
    }

    fn cache(&self, k: GgmlType, _v: GgmlType) -> Vec<LayerCache> {
        let (rank, n_rope) = (self.mla.kv_lora_rank, self.mla.n_rope);
        let v = ValueRows::KeyPrefix { dim: rank };
        vec![LayerCache { n_head_kv: 1, k_dim: rank + n_rope, k_ty: k, v }; self.base.n_layer]
    }

    fn layers(&self, r: &mut Recorder<'_>, form: MlaForm) -> Result<View> {
        let x = r.embed(self.base.token_embd)?;
        let angles = r.rope_table(&self.mla.rope, 1.0)?;
        for (il, layer) in self.layers.iter().enumerate() {
            let h = r.norm(x, layer.attn_norm)?;
            layer.attention(r, &self.mla, il, (h, angles, x), form)?;
            let h = r.norm(x, layer.ffn_norm)?;
            layer.ffn.record(r, self.router.as_ref(), h, x)?;
        }
        Ok(x)
    }

    fn mla(&self) -> Option<MlaCost> {
        let c = &self.mla;
        Some(MlaCost { rank: c.kv_lora_rank, dims: (c.n_nope, c.n_rope, c.n_v) })
    }

    fn experts(&self) -> Option<(usize, usize)> {
        self.router.as_ref().map(|r| (r.n_expert, r.n_used))
    }
}
