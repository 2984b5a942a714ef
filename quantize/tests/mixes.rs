//! Every mix gives every tensor the type that llama-quantize gives it, for models of the shapes of real ones.

use std::collections::BTreeMap;

use ggml_sys::{GgmlType, Shape};
use quantize::mix::{Facts, Item, Mix};
use quantize::{Override, Target};

const EXPECTED: &str = include_str!("mixes.txt");

/// What a model is, as far as types go: tensors in the order of a file.
struct Model {
    facts: Facts,
    tensors: Vec<(String, Shape)>,
}

/// Widths of a model.
#[derive(Clone, Copy)]
struct Dims {
    n_layer: usize,
    n_embd: usize,
    n_ff: usize,
    n_head: usize,
    n_head_kv: usize,
    n_vocab: usize,
    /// Experts, and the width of each.
    experts: Option<(usize, usize)>,
}

impl Model {
    fn new(d: Dims, tied: bool) -> Self {
        let facts = Facts {
            n_layer: d.n_layer,
            n_nextn: 0,
            n_gqa: d.n_head / d.n_head_kv,
            n_expert: d.experts.map_or(0, |e| e.0),
            is_70b: d.n_layer == 80,
        };
        let mut model = Model { facts, tensors: vec![] };
        model.add("token_embd", &[d.n_embd, d.n_vocab]);
        model.add("output_norm", &[d.n_embd]);
        if !tied {
            model.add("output", &[d.n_embd, d.n_vocab]);
        }
        model
    }

    fn add(&mut self, name: &str, dims: &[usize]) {
        self.tensors.push((format!("{name}.weight"), Shape::new(dims).unwrap()));
    }

    fn ffn(&mut self, i: usize, suffix: &str, n_embd: usize, n_ff: usize, n: Option<usize>) {
        for (part, from, to) in [("gate", n_embd, n_ff), ("up", n_embd, n_ff), ("down", n_ff, n_embd)] {
            let mut dims = vec![from, to];
            dims.extend(n);
            self.add(&format!("blk.{i}.ffn_{part}{suffix}"), &dims);
        }
    }

    /// Grouped-query attention with heads of 128.
    fn transformer(d: Dims, tied: bool) -> Self {
        let mut model = Model::new(d, tied);
        let (n_q, n_kv) = (d.n_head * 128, d.n_head_kv * 128);
        for i in 0..d.n_layer {
            model.add(&format!("blk.{i}.attn_norm"), &[d.n_embd]);
            for (part, from, to) in [
                ("q", d.n_embd, n_q),
                ("k", d.n_embd, n_kv),
                ("v", d.n_embd, n_kv),
                ("output", n_q, d.n_embd),
            ] {
                model.add(&format!("blk.{i}.attn_{part}"), &[from, to]);
            }
            match d.experts {
                None => model.ffn(i, "", d.n_embd, d.n_ff, None),
                Some((n, n_ff)) => {
                    model.add(&format!("blk.{i}.ffn_gate_inp"), &[d.n_embd, n]);
                    model.ffn(i, "_exps", d.n_embd, n_ff, Some(n));
                }
            }
        }
        model
    }

    /// Multi-head latent attention and experts: queries through `q_rank`, `n_dense` layers without experts, and keys and
    /// values in one tensor or two. The last layer of R1 predicts a further token.
    fn deepseek(d: Dims, q_rank: Option<usize>, n_dense: usize, is_r1: bool) -> Self {
        let mut model = Model::new(d, false);
        let (n_expert, n_expert_ff) = d.experts.unwrap();
        for i in 0..d.n_layer {
            let b = format!("blk.{i}");
            match q_rank {
                None => model.add(&format!("{b}.attn_q"), &[d.n_embd, d.n_head * 192]),
                Some(rank) => {
                    model.add(&format!("{b}.attn_q_a"), &[d.n_embd, rank]);
                    model.add(&format!("{b}.attn_q_b"), &[rank, d.n_head * 192]);
                }
            }
            model.add(&format!("{b}.attn_kv_a_mqa"), &[d.n_embd, 512 + 64]);
            if is_r1 {
                model.add(&format!("{b}.attn_k_b"), &[128, 512, d.n_head]);
                model.add(&format!("{b}.attn_v_b"), &[512, 128, d.n_head]);
            } else {
                model.add(&format!("{b}.attn_kv_b"), &[512, d.n_head * 256]);
            }
            model.add(&format!("{b}.attn_output"), &[d.n_head * 128, d.n_embd]);
            if i < n_dense {
                model.ffn(i, "", d.n_embd, d.n_ff, None);
            } else {
                model.ffn(i, "_exps", d.n_embd, n_expert_ff, Some(n_expert));
                model.ffn(i, "_shexp", d.n_embd, n_expert_ff, None);
            }
            if is_r1 && i + 1 == d.n_layer {
                model.add(&format!("{b}.nextn.eh_proj"), &[2 * d.n_embd, d.n_embd]);
            }
        }
        model
    }

    fn named(name: &str) -> Self {
        let dims = |n_layer, n_embd, n_ff, (n_head, n_head_kv), n_vocab, experts| Dims {
            n_layer,
            n_embd,
            n_ff,
            n_head,
            n_head_kv,
            n_vocab,
            experts,
        };
        match name {
            "qwen2-1.5b" => Model::transformer(dims(28, 1536, 8960, (12, 2), 151_936, None), true),
            "llama-8b" => Model::transformer(dims(32, 4096, 14336, (32, 8), 128_256, None), false),
            "llama-70b" => Model::transformer(dims(80, 8192, 28672, (64, 8), 128_256, None), false),
            "llama-7b" => Model::transformer(dims(32, 4096, 11008, (32, 32), 32_000, None), false),
            "mixtral" => Model::transformer(dims(32, 4096, 14336, (32, 8), 32_000, Some((8, 14336))), false),
            "qwen3-30b" => Model::transformer(dims(48, 2048, 768, (32, 4), 151_936, Some((128, 768))), false),
            "v2-lite" => {
                let d = dims(27, 2048, 10944, (16, 16), 102_400, Some((64, 1408)));
                Model::deepseek(d, None, 1, false)
            }
            "r1" => {
                let d = dims(62, 7168, 18432, (128, 1), 129_280, Some((256, 2048)));
                Model::deepseek(d, Some(1536), 3, true)
            }
            _ => panic!("no model {name}"),
        }
    }
}

/// Types by kind of tensor and layer; `None` is all layers.
type Table = BTreeMap<String, Vec<(Option<(usize, usize)>, GgmlType)>>;

/// Reads `attn_q/attn_k Q4_K; ffn_down Q6_K:0-3,Q4_K:4-27`.
fn table(text: &str) -> Table {
    let mut table = Table::new();
    for group in text.split("; ") {
        let (kinds, types) = group.split_once(' ').unwrap();
        let run = |run: &str| {
            let (ty, layers) = run.split_once(':').map_or((run, None), |(ty, l)| (ty, Some(l)));
            let layers = layers.map(|l| {
                let (first, last) = l.split_once('-').unwrap_or((l, l));
                (first.parse().unwrap(), last.parse().unwrap())
            });
            (layers, GgmlType::from_name(ty).unwrap())
        };
        for kind in kinds.split('/') {
            table.insert(kind.into(), types.split(',').map(run).collect());
        }
    }
    table
}

fn expected(table: &Table, name: &str) -> GgmlType {
    let name = name.strip_suffix(".weight").unwrap();
    let (layer, kind) = match name.strip_prefix("blk.") {
        Some(rest) => {
            let (layer, kind) = rest.split_once('.').unwrap();
            (layer.parse().unwrap(), kind)
        }
        None => (0, name),
    };
    let runs = &table[kind];
    runs.iter().find(|(l, _)| l.is_none_or(|(a, b)| (a..=b).contains(&layer))).unwrap().1
}

#[test]
fn every_tensor_gets_the_type_that_llama_cpp_gives_it() {
    let mut seen = 0;
    for line in EXPECTED.lines().filter(|l| !l.starts_with('#')) {
        let (head, types) = line.split_once(": ").unwrap();
        let (name, mix) = head.split_once(' ').unwrap();
        // Where a matrix changes nothing there is one line for both.
        let with = mix.ends_with('+');
        let known_differs = EXPECTED.contains(&format!("\n{head}+: "));
        let table = table(types);
        let model = Model::named(name);
        let items: Vec<Item<'_>> =
            model.tensors.iter().map(|(name, shape)| Item { name, shape: *shape }).collect();
        let mix = Mix::named(mix.trim_end_matches('+')).unwrap();
        let states = [(true, with || !known_differs), (false, !with)];
        for (known, _) in states.into_iter().filter(|s| s.1) {
            let got = Target::of(mix).types(&model.facts, known, &items);
            for (item, got) in items.iter().zip(got) {
                let kept = item.shape.used().len() < 2 || item.name.contains("ffn_gate_inp");
                let got = got.map(|choice| choice.to);
                let want = (!kept).then(|| expected(&table, item.name));
                assert_eq!(got, want, "{name}, {} (importance {known}): {}", mix.name(), item.name);
                seen += 1;
            }
        }
    }
    assert!(seen > 100_000, "{seen}");
}

#[test]
fn names_of_llama_cpp_are_all_known() {
    let mixes: std::collections::BTreeSet<&str> = EXPECTED
        .lines()
        .filter(|l| !l.starts_with('#'))
        .map(|l| l.split([' ', ':']).nth(1).unwrap().trim_end_matches('+'))
        .collect();
    assert_eq!(mixes.len(), 30);
    assert!(mixes.iter().all(|name| Mix::named(name).is_some()));
}

/// What options make of the rules: pure, given types, patterns. Their types are not counted by the rules for the others.
#[test]
fn options_come_before_rules() {
    use GgmlType as T;
    let model = Model::named("llama-8b");
    let items: Vec<Item<'_>> =
        model.tensors.iter().map(|(name, shape)| Item { name, shape: *shape }).collect();
    let ty = |target: &Target, name: &str| {
        let at = items.iter().position(|i| i.name == format!("{name}.weight")).unwrap();
        target.types(&model.facts, false, &items)[at].unwrap().to
    };
    let base = Target::of(Mix::Q4_K_M);
    assert_eq!([ty(&base, "output"), ty(&base, "blk.0.attn_v"), ty(&base, "blk.3.ffn_down")], [T::Q6_K; 3]);
    let pure = base.clone().pure();
    assert_eq!([ty(&pure, "output"), ty(&pure, "blk.0.attn_v"), ty(&pure, "blk.3.ffn_down")], [T::Q4_K; 3]);
    let given = pure.with_output(T::Q8_0).unwrap().with_embedding(T::Q5_0).unwrap();
    assert_eq!([ty(&given, "output"), ty(&given, "token_embd")], [T::Q8_0, T::Q5_0]);
    // Without two of them, the third is the first that counts.
    let some = base.with(Override::parse("blk.[01].ffn_down=Q3_K").unwrap());
    assert_eq!(ty(&some, "blk.1.ffn_down"), T::Q3_K);
    let downs: Vec<_> = (2..32).map(|i| ty(&some, &format!("blk.{i}.ffn_down"))).collect();
    let shifted: Vec<_> =
        (0..30).map(|i| ty(&Target::of(Mix::Q4_K_M), &format!("blk.{i}.ffn_down"))).collect();
    assert_eq!(downs, shifted);
}

#[test]
fn an_output_matrix_that_is_left_alone_is_all_that_is() {
    for name in ["llama-8b", "r1"] {
        let model = Model::named(name);
        let items: Vec<Item<'_>> =
            model.tensors.iter().map(|(name, shape)| Item { name, shape: *shape }).collect();
        let with = Target::of(Mix::Q4_K_M).types(&model.facts, false, &items);
        let without = Target::of(Mix::Q4_K_M).keeping_output().types(&model.facts, false, &items);
        let mut left = 0;
        for ((item, with), without) in items.iter().zip(with).zip(without) {
            if item.name == "output.weight" {
                assert!(with.is_some() && without.is_none(), "{name}");
                left += 1;
            } else {
                assert_eq!(with, without, "{name}: {}", item.name);
            }
        }
        assert_eq!(left, 1, "{name}");
    }
}

#[test]
fn our_mixes_spare_what_every_token_uses() {
    use GgmlType as T;
    let mut model = Model::named("r1");
    model.facts.n_nextn = 1;
    let items: Vec<Item<'_>> =
        model.tensors.iter().map(|(name, shape)| Item { name, shape: *shape }).collect();
    let choices = Target::of(Mix::MOE_Q2_K).types(&model.facts, false, &items);
    let ty = |name: &str| {
        let at = items.iter().position(|i| i.name == format!("{name}.weight")).unwrap();
        choices[at].unwrap().to
    };
    for (name, want) in [
        ("output", T::Q6_K),
        ("token_embd", T::Q4_K),
        ("blk.9.attn_q_b", T::Q6_K),
        ("blk.9.attn_kv_a_mqa", T::Q8_0),
        ("blk.9.attn_v_b", T::Q8_0),
        ("blk.9.ffn_up_shexp", T::Q6_K),
        ("blk.0.ffn_down", T::Q6_K),
        ("blk.7.ffn_up_exps", T::Q3_K),
        ("blk.8.ffn_up_exps", T::Q2_K),
        ("blk.60.ffn_gate_exps", T::Q2_K),
        ("blk.8.ffn_down_exps", T::Q3_K),
        ("blk.61.ffn_up_exps", T::Q4_K),
    ] {
        assert_eq!(ty(name), want, "{name}");
    }
}
