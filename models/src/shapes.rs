//! Models of the shapes of real ones with random weights, made in memory: for measuring speed, which depends on shapes and
//! formats and not on what the weights say.
//!
//! They have no tokenizer. The tensors are those of published files, in the types that llama.cpp's quantizer gives
//! them, and go through the same reader as a file does.

use std::ops::Range;
use std::sync::Arc;

use ggml_sys::format::random::{Random, random_blocks};
use ggml_sys::gguf::{Gguf, Writer};
use ggml_sys::memory::AlignedBuf;
use ggml_sys::{GgmlType, Shape};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::loader::MAX_LAYERS;

/// A model's shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelShape {
    /// What it is called: `qwen2-7b`.
    pub name: &'static str,
    n_layer: usize,
    n_embd: usize,
    n_ff: usize,
    n_head: usize,
    n_vocab: usize,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Dense(Dense),
    Latent(Latent),
}

/// Grouped-query attention and one feed-forward network a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Dense {
    arch: &'static str,
    n_head_kv: usize,
    head_dim: usize,
    freq_base: f32,
    /// Whether queries, keys and values have biases.
    bias: bool,
}

/// Multi-head latent attention and mixtures of experts: deepseek2.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Latent {
    /// Layers without a mixture.
    n_dense: usize,
    /// 0 is none.
    q_lora_rank: usize,
    kv_lora_rank: usize,
    n_nope: usize,
    n_rope: usize,
    n_v: usize,
    n_expert: usize,
    n_used: usize,
    n_shared: usize,
    n_ff_expert: usize,
    /// Groups, and how many of them are used.
    groups: (usize, usize),
    scale: f32,
    /// Scores as in V3 and R1: sigmoid with a correction bias, normalized.
    sigmoid: bool,
}

/// All shapes.
pub static SHAPES: &[ModelShape] = &[
    dense("qwen2-0.5b", "qwen2", [24, 896, 4864, 14, 2, 64, 151_936], 1e6),
    dense("qwen2-1.5b", "qwen2", [28, 1536, 8960, 12, 2, 128, 151_936], 1e4),
    dense("qwen2-7b", "qwen2", [28, 3584, 18_944, 28, 4, 128, 152_064], 1e4),
    dense("llama-8b", "llama", [32, 4096, 14_336, 32, 8, 128, 128_256], 5e5),
    ModelShape {
        name: "deepseek2-lite",
        n_layer: 27,
        n_embd: 2048,
        n_ff: 10_944,
        n_head: 16,
        n_vocab: 102_400,
        kind: Kind::Latent(Latent {
            n_dense: 1,
            q_lora_rank: 0,
            kv_lora_rank: 512,
            n_nope: 128,
            n_rope: 64,
            n_v: 128,
            n_expert: 64,
            n_used: 6,
            n_shared: 2,
            n_ff_expert: 1408,
            groups: (1, 1),
            scale: 1.0,
            sigmoid: false,
        }),
    },
    // Two layers of R1, one dense and one with a mixture, in their true size: what a layer of the 671B model costs.
    ModelShape {
        name: "r1-slice",
        n_layer: 2,
        n_embd: 7168,
        n_ff: 18_432,
        n_head: 128,
        n_vocab: 129_280,
        kind: Kind::Latent(Latent {
            n_dense: 1,
            q_lora_rank: 1536,
            kv_lora_rank: 512,
            n_nope: 128,
            n_rope: 64,
            n_v: 128,
            n_expert: 256,
            n_used: 8,
            n_shared: 1,
            n_ff_expert: 2048,
            groups: (8, 4),
            scale: 2.5,
            sigmoid: true,
        }),
    },
];

/// `[n_layer, n_embd, n_ff, n_head, n_head_kv, head_dim, n_vocab]`.
const fn dense(name: &'static str, arch: &'static str, n: [usize; 7], freq_base: f32) -> ModelShape {
    let [n_layer, n_embd, n_ff, n_head, n_head_kv, head_dim, n_vocab] = n;
    // qwen2 has biases, llama has not.
    let bias = arch.as_bytes()[0] == b'q';
    let kind = Kind::Dense(Dense { arch, n_head_kv, head_dim, freq_base, bias });
    ModelShape { name, n_layer, n_embd, n_ff, n_head, n_vocab, kind }
}

/// Which tensor gets which type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// What it is called: `q4_k_m`.
    pub name: &'static str,
    /// Of most matrices.
    base: GgmlType,
    /// Of the head and, in half of the layers, of values and down-projections.
    high: GgmlType,
}

/// All mixes.
pub static MIXES: &[Mix] = &[
    Mix { name: "f16", base: GgmlType::F16, high: GgmlType::F16 },
    Mix { name: "q8_0", base: GgmlType::Q8_0, high: GgmlType::Q8_0 },
    Mix { name: "q4_0", base: GgmlType::Q4_0, high: GgmlType::Q4_0 },
    Mix { name: "q4_k_m", base: GgmlType::Q4_K, high: GgmlType::Q6_K },
    Mix { name: "q6_k", base: GgmlType::Q6_K, high: GgmlType::Q6_K },
];

/// A model that has been laid out and not been made yet.
pub struct Blueprint {
    name: String,
    writer: Writer,
    tensors: Vec<(String, GgmlType, Shape)>,
}

impl Blueprint {
    /// The tensors of a shape in a mix, with so many layers in place of its own.
    ///
    /// # Errors
    /// If there are no layers, or more than a model can have.
    pub fn new(shape: &ModelShape, mix: &Mix, n_layer: Option<usize>) -> Result<Blueprint> {
        let mut name = format!("{} {}", shape.name, mix.name);
        if let Some(n) = n_layer {
            name += &format!(" with {n} layer{}", if n == 1 { "" } else { "s" });
        }
        let shape = ModelShape { n_layer: n_layer.unwrap_or(shape.n_layer), ..*shape };
        if !(1..=MAX_LAYERS).contains(&shape.n_layer) {
            let what = format!("{} layers where 1 to {MAX_LAYERS} are possible", shape.n_layer);
            return Err(Error::Config { file: name, what });
        }
        let mut list = List { mix, writer: Writer::new(&name), tensors: vec![] };
        match &shape.kind {
            Kind::Dense(dense) => list.dense(&shape, dense),
            Kind::Latent(latent) => list.latent(&shape, latent),
        }
        for (name, ty, shape) in &list.tensors {
            list.writer.tensor(name, *ty, *shape)?;
        }
        Ok(Blueprint { name, writer: list.writer, tensors: list.tensors })
    }

    /// What it is called: `qwen2-7b q4_k_m`, or `qwen2-7b q4_k_m with 2 layers`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes that it takes.
    ///
    /// # Errors
    /// Never for the shapes here.
    pub fn size(&self) -> Result<u64> {
        Ok(self.writer.file_size()?)
    }

    /// Makes the weights, on all processors, and calls `progress` with the bytes made since it was last called.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub fn build(&self, progress: &(dyn Fn(usize) + Sync)) -> Result<Gguf> {
        let layout = self.writer.layout()?;
        let size = usize::try_from(layout.size).unwrap_or(usize::MAX);
        let what = "the weights of the shape";
        let mut file = AlignedBuf::huge(size).ok_or(ggml_sys::Error::OutOfMemory { what, bytes: size })?;
        file.as_mut_slice()[..layout.header.len()].copy_from_slice(&layout.header);
        let mut random = Random(1);
        let mut patterns: Vec<Pattern> = vec![];
        for ((name, ty, shape), range) in self.tensors.iter().zip(layout.tensors) {
            let out = &mut file.as_mut_slice()[as_usize(range)];
            if shape.used().len() == 1 {
                fill_vector(name, out, &mut random);
                continue;
            }
            let columns = shape.row_len();
            let at = patterns.iter().position(|p| (p.ty, p.columns) == (*ty, columns)).unwrap_or_else(|| {
                patterns.push(Pattern::new(*ty, columns, random.next()));
                patterns.len() - 1
            });
            patterns[at].fill(out, random.next(), progress);
        }
        Ok(Gguf::from_bytes(Arc::new(file), &self.name)?)
    }
}

/// The range lies in memory that has been allocated.
fn as_usize(range: Range<u64>) -> Range<usize> {
    range.start as usize..range.end as usize
}

/// Norms are ones, biases small.
fn fill_vector(name: &str, out: &mut [u8], random: &mut Random) {
    for bytes in out.as_chunks_mut::<4>().0 {
        let value = if name.contains("norm") { 1.0 } else { 0.02 * random.gaussian() };
        *bytes = value.to_le_bytes();
    }
}

/// A piece of random weights that is copied again and again, each time from another place on: random numbers for all
/// weights would take minutes.
struct Pattern {
    ty: GgmlType,
    columns: usize,
    blocks: Vec<u8>,
}

impl Pattern {
    /// About a megabyte of blocks; the products of a row of `columns` of them with a vector are as large as the vector's
    /// elements.
    fn new(ty: GgmlType, columns: usize, seed: u64) -> Pattern {
        let n_blocks = (1 << 20) / ty.format().bytes;
        let scale = (columns as f32).sqrt().recip();
        Pattern { ty, columns, blocks: random_blocks(ty, n_blocks, scale, seed) }
    }

    fn fill(&self, out: &mut [u8], seed: u64, progress: &(dyn Fn(usize) + Sync)) {
        let block = self.ty.format().bytes;
        let n_blocks = self.blocks.len() / block;
        out.par_chunks_mut(self.blocks.len()).enumerate().for_each(|(i, out)| {
            let shift = Random(seed.wrapping_add(i as u64)).next() as usize % n_blocks * block;
            let (end, start) = (&self.blocks[shift..], &self.blocks[..shift]);
            let n = out.len().min(end.len());
            out[..n].copy_from_slice(&end[..n]);
            let rest = &mut out[n..];
            rest.copy_from_slice(&start[..rest.len()]);
            progress(out.len());
        });
    }
}

/// Collects keys and tensors.
struct List<'a> {
    mix: &'a Mix,
    writer: Writer,
    tensors: Vec<(String, GgmlType, Shape)>,
}

impl List<'_> {
    /// A matrix or a stack of them, the row length first, in the type nearest to `ty` that its rows are whole blocks of.
    fn matrix(&mut self, name: &str, dims: &[usize], ty: GgmlType) {
        let ty = match ty {
            GgmlType::Q4_K if !dims[0].is_multiple_of(256) => GgmlType::Q5_0,
            GgmlType::Q6_K if !dims[0].is_multiple_of(256) => GgmlType::Q8_0,
            ty => ty,
        };
        self.push(format!("{name}.weight"), ty, dims);
    }

    fn base(&mut self, name: &str, dims: &[usize]) {
        self.matrix(name, dims, self.mix.base);
    }

    fn norm(&mut self, name: &str, n: usize) {
        self.push(format!("{name}.weight"), GgmlType::F32, &[n]);
    }

    fn bias(&mut self, name: &str, n: usize) {
        self.push(format!("{name}.bias"), GgmlType::F32, &[n]);
    }

    fn push(&mut self, name: String, ty: GgmlType, dims: &[usize]) {
        let mut shape = [1; 4];
        shape[..dims.len()].copy_from_slice(dims);
        self.tensors.push((name, ty, Shape(shape)));
    }

    /// Sets `ARCH.key`s. No number of a shape goes beyond 32 bits.
    fn keys(&mut self, arch: &str, keys: &[(&str, usize)]) {
        for (key, value) in keys {
            self.writer.set(&format!("{arch}.{key}"), *value as u32);
        }
    }

    /// What all models have.
    fn common(&mut self, arch: &str, m: &ModelShape, n_ctx: usize, freq_base: f32) {
        self.writer.set("general.architecture", arch);
        self.keys(
            arch,
            &[
                ("block_count", m.n_layer),
                ("context_length", n_ctx),
                ("embedding_length", m.n_embd),
                ("feed_forward_length", m.n_ff),
                ("attention.head_count", m.n_head),
            ],
        );
        self.writer.set(&format!("{arch}.attention.layer_norm_rms_epsilon"), 1e-6f32);
        self.writer.set(&format!("{arch}.rope.freq_base"), freq_base);
        self.base("token_embd", &[m.n_embd, m.n_vocab]);
        self.norm("output_norm", m.n_embd);
        self.matrix("output", &[m.n_embd, m.n_vocab], self.mix.high);
    }

    /// The type of values and down-projections in layer `i` of `n`: the first and the last eighth and every third layer
    /// between them get more bits.
    fn more(&self, i: usize, n: usize) -> GgmlType {
        let more = i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
        if more { self.mix.high } else { self.mix.base }
    }

    /// `ffn_{gate,up,down}SUFFIX`.
    fn ffn(&mut self, il: usize, suffix: &str, [n_embd, n_ff]: [usize; 2], n: Option<usize>, down: GgmlType) {
        let dims = |a: usize, b: usize| [Some(a), Some(b), n].into_iter().flatten().collect::<Vec<_>>();
        self.base(&format!("blk.{il}.ffn_gate{suffix}"), &dims(n_embd, n_ff));
        self.base(&format!("blk.{il}.ffn_up{suffix}"), &dims(n_embd, n_ff));
        self.matrix(&format!("blk.{il}.ffn_down{suffix}"), &dims(n_ff, n_embd), down);
    }

    fn dense(&mut self, m: &ModelShape, d: &Dense) {
        self.common(d.arch, m, 131_072, d.freq_base);
        self.keys(d.arch, &[("attention.head_count_kv", d.n_head_kv), ("rope.dimension_count", d.head_dim)]);
        let (n_q, n_kv) = (m.n_head * d.head_dim, d.n_head_kv * d.head_dim);
        for il in 0..m.n_layer {
            let name = |part: &str| format!("blk.{il}.{part}");
            let more = self.more(il, m.n_layer);
            self.norm(&name("attn_norm"), m.n_embd);
            self.norm(&name("ffn_norm"), m.n_embd);
            self.base(&name("attn_q"), &[m.n_embd, n_q]);
            self.base(&name("attn_k"), &[m.n_embd, n_kv]);
            self.matrix(&name("attn_v"), &[m.n_embd, n_kv], more);
            if d.bias {
                self.bias(&name("attn_q"), n_q);
                self.bias(&name("attn_k"), n_kv);
                self.bias(&name("attn_v"), n_kv);
            }
            self.base(&name("attn_output"), &[n_q, m.n_embd]);
            self.ffn(il, "", [m.n_embd, m.n_ff], None, more);
        }
    }

    fn latent(&mut self, m: &ModelShape, c: &Latent) {
        self.common(ARCH, m, 163_840, 1e4);
        self.latent_keys(c);
        for il in 0..m.n_layer {
            self.latent_attention(m, c, il);
            let (more, name) = (self.more(il, m.n_layer), |part: &str| format!("blk.{il}.{part}"));
            self.norm(&name("ffn_norm"), m.n_embd);
            if il < c.n_dense {
                self.ffn(il, "", [m.n_embd, m.n_ff], None, more);
                continue;
            }
            self.matrix(&name("ffn_gate_inp"), &[m.n_embd, c.n_expert], GgmlType::F32);
            if c.sigmoid {
                self.bias(&name("exp_probs_b"), c.n_expert);
            }
            self.ffn(il, "_exps", [m.n_embd, c.n_ff_expert], Some(c.n_expert), more);
            self.ffn(il, "_shexp", [m.n_embd, c.n_shared * c.n_ff_expert], None, more);
        }
    }

    fn latent_keys(&mut self, c: &Latent) {
        let mut keys = vec![
            ("attention.head_count_kv", 1),
            ("leading_dense_block_count", c.n_dense),
            ("attention.kv_lora_rank", c.kv_lora_rank),
            ("attention.key_length", c.kv_lora_rank + c.n_rope),
            ("attention.value_length", c.kv_lora_rank),
            ("attention.key_length_mla", c.n_nope + c.n_rope),
            ("attention.value_length_mla", c.n_v),
            ("expert_feed_forward_length", c.n_ff_expert),
            ("expert_count", c.n_expert),
            ("expert_used_count", c.n_used),
            ("expert_shared_count", c.n_shared),
            ("expert_gating_func", if c.sigmoid { 2 } else { 1 }),
            ("rope.dimension_count", c.n_rope),
            ("rope.scaling.original_context_length", 4096),
        ];
        if c.q_lora_rank > 0 {
            keys.push(("attention.q_lora_rank", c.q_lora_rank));
        }
        if c.groups.0 > 1 {
            keys.extend([("expert_group_count", c.groups.0), ("expert_group_used_count", c.groups.1)]);
        }
        self.keys(ARCH, &keys);
        let mut set = |key: &str, value: f32| self.writer.set(&format!("{ARCH}.{key}"), value);
        set("expert_weights_scale", c.scale);
        set("rope.scaling.factor", 40.0);
        set("rope.scaling.yarn_log_multiplier", if c.sigmoid { 0.1 } else { 0.0707 });
        self.writer.set(&format!("{ARCH}.expert_weights_norm"), c.sigmoid);
        self.writer.set(&format!("{ARCH}.rope.scaling.type"), "yarn");
    }

    fn latent_attention(&mut self, m: &ModelShape, c: &Latent, il: usize) {
        let name = |part: &str| format!("blk.{il}.{part}");
        let n_q = m.n_head * (c.n_nope + c.n_rope);
        self.norm(&name("attn_norm"), m.n_embd);
        if c.q_lora_rank > 0 {
            self.base(&name("attn_q_a"), &[m.n_embd, c.q_lora_rank]);
            self.norm(&name("attn_q_a_norm"), c.q_lora_rank);
            self.base(&name("attn_q_b"), &[c.q_lora_rank, n_q]);
        } else {
            self.base(&name("attn_q"), &[m.n_embd, n_q]);
        }
        self.base(&name("attn_kv_a_mqa"), &[m.n_embd, c.kv_lora_rank + c.n_rope]);
        self.norm(&name("attn_kv_a_norm"), c.kv_lora_rank);
        self.base(&name("attn_k_b"), &[c.n_nope, c.kv_lora_rank, m.n_head]);
        self.base(&name("attn_v_b"), &[c.kv_lora_rank, c.n_v, m.n_head]);
        self.base(&name("attn_output"), &[m.n_head * c.n_v, m.n_embd]);
    }
}

const ARCH: &str = "deepseek2";

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::Model;

    #[test]
    fn tensors_and_sizes_are_those_of_the_files() {
        // Counted in files that a tool outside of this repository made of the same shapes (routers as F32).
        for (shape, mix, n_tensors, parameters, bytes) in SIZES {
            let shape = SHAPES.iter().find(|s| s.name == *shape).unwrap();
            let mix = MIXES.iter().find(|m| m.name == *mix).unwrap();
            let plan = Blueprint::new(shape, mix, None).unwrap();
            let elements: usize = plan.tensors.iter().map(|t| t.2.n_elements()).sum();
            let data: u64 = plan.writer.layout().unwrap().tensors.iter().map(|r| r.end - r.start).sum();
            assert_eq!(
                (plan.tensors.len(), elements, data),
                (*n_tensors, *parameters, *bytes),
                "{}",
                plan.name
            );
        }
    }

    const SIZES: &[(&str, &str, usize, usize, u64)] = &[
        ("qwen2-1.5b", "q4_k_m", 339, 1_777_088_000, 1_111_370_240),
        ("qwen2-1.5b", "f16", 339, 1_777_088_000, 3_554_465_792),
        ("qwen2-1.5b", "q4_0", 339, 1_777_088_000, 1_000_110_080),
        ("qwen2-1.5b", "q6_k", 339, 1_777_088_000, 1_458_228_224),
        ("qwen2-1.5b", "q8_0", 339, 1_777_088_000, 1_888_581_632),
        ("qwen2-7b", "q4_k_m", 339, 7_615_616_512, 4_677_120_000),
        ("deepseek2-lite", "q4_k_m", 404, 15_706_484_224, 10_363_959_296),
        ("r1-slice", "q4_k_m", 34, 13_944_134_912, 9_063_697_408),
    ];

    #[test]
    fn every_shape_in_every_mix_is_a_model() {
        for shape in SHAPES {
            for mix in MIXES {
                let plan = Blueprint::new(shape, mix, None).unwrap();
                let layout = plan.writer.layout().unwrap();
                // A file of which nothing but the header is written takes no space, and its zeros no memory.
                let mut file = tempfile::NamedTempFile::new().unwrap();
                file.write_all(&layout.header).unwrap();
                file.as_file().set_len(layout.size).unwrap();
                let model = Model::load(Gguf::open(file.path()).unwrap()).unwrap();
                assert_eq!(model.base().n_layer, shape.n_layer, "{}", plan.name());
                assert_eq!(model.weights().iter().count(), plan.tensors.len(), "{}", plan.name());
            }
        }
    }

    #[test]
    fn weights_differ_from_place_to_place_and_are_finite() {
        let pattern = Pattern::new(GgmlType::Q4_K, 1536, 7);
        let mut out = vec![0; 3 * pattern.blocks.len() - 7 * 144];
        let made = std::sync::atomic::AtomicUsize::new(0);
        pattern.fill(&mut out, 3, &|n| _ = made.fetch_add(n, std::sync::atomic::Ordering::Relaxed));
        assert_eq!(made.into_inner(), out.len());
        let pieces: Vec<&[u8]> = out.chunks(pattern.blocks.len()).collect();
        assert!(pieces[0] != pieces[1] && pieces[1][..pieces[2].len()] != *pieces[2]);
        let mut values = vec![0f32; 256 * 7];
        for blocks in out.chunks_exact(7 * 144) {
            GgmlType::Q4_K.format().decode(blocks, &mut values);
            assert!(values.iter().all(|v| v.abs() < 1.0));
        }
    }

    #[test]
    fn no_layers_and_too_many_are_refused() {
        for n in [0, MAX_LAYERS + 1] {
            assert!(Blueprint::new(&SHAPES[0], &MIXES[0], Some(n)).is_err());
        }
    }
}
