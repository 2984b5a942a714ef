//! Files of other converters: `attn_kv_b` in one tensor as before the latent cache, and gate and up of the experts in one
//! tensor. They hold the same numbers, so logits equal transformers' all the same.

use std::num::NonZeroUsize;
use std::sync::Arc;

use fathom_testing::fixtures;
use ggml_sys::cpu::Cpu;
use ggml_sys::gguf::{Gguf, Writer};
use ggml_sys::{GgmlType, Shape, Tensor};
use models::{Engine, EngineOptions, MlaForm, Model, Session, Want};

/// A tensor to be: name, type, shape, values.
type Made = (String, GgmlType, Shape, Vec<f32>);

/// `attn_kv_b`: for each head the key rows, transposed back, then the value rows.
fn kv_b(name: &str, k: &Tensor, v: &Tensor) -> Made {
    let ([nope, rank, heads, _], [_, n_v, ..]) = (k.shape().0, v.shape().0);
    let (kf, vf) = (k.to_f32(), v.to_f32());
    let mut out = vec![];
    for h in 0..heads {
        for d in 0..nope {
            out.extend((0..rank).map(|c| kf[(h * rank + c) * nope + d]));
        }
        out.extend_from_slice(&vf[h * n_v * rank..(h + 1) * n_v * rank]);
    }
    (name.into(), k.ty(), Shape::new(&[rank, heads * (nope + n_v)]).unwrap(), out)
}

/// `ffn_gate_up_exps`: for each expert the gate rows, then the up rows.
fn gate_up(name: &str, gate: &Tensor, up: &Tensor) -> Made {
    let [n_embd, n_ff, n, _] = gate.shape().0;
    let (g, u) = (gate.to_f32(), up.to_f32());
    let one = n_embd * n_ff;
    let out = (0..n).flat_map(|e| [&g[e * one..][..one], &u[e * one..][..one]].concat()).collect();
    (name.into(), gate.ty(), Shape::new(&[n_embd, 2 * n_ff, n]).unwrap(), out)
}

/// The file as an old converter would have written it.
fn old_form(new: &Gguf) -> Gguf {
    let mut w = Writer::new("old.gguf");
    w.copy_metadata(new.metadata());
    let md = new.metadata();
    let key = |k: &str| format!("deepseek2.attention.{k}");
    let number = |k: &str| md.require_u32(&key(k)).unwrap();
    w.set(&key("head_count_kv"), number("head_count"));
    for k in ["key_length", "value_length"] {
        w.set(&key(k), number(&format!("{k}_mla")));
        w.remove(&key(&format!("{k}_mla")));
    }
    let mut tensors: Vec<Made> = vec![];
    for t in new.tensors() {
        let name = t.name();
        let get = |n: &str| new.tensor(n).unwrap();
        if let Some(p) = name.strip_suffix("attn_k_b.weight") {
            tensors.push(kv_b(&format!("{p}attn_kv_b.weight"), t, get(&format!("{p}attn_v_b.weight"))));
        } else if let Some(p) = name.strip_suffix("ffn_gate_exps.weight") {
            let up = get(&format!("{p}ffn_up_exps.weight"));
            tensors.push(gate_up(&format!("{p}ffn_gate_up_exps.weight"), t, up));
        } else if !name.ends_with("attn_v_b.weight") && !name.ends_with("ffn_up_exps.weight") {
            tensors.push((name.into(), t.ty(), t.shape(), t.to_f32()));
        }
    }
    for (name, ty, shape, _) in &tensors {
        w.tensor(name, *ty, *shape).unwrap();
    }
    let mut data = w.begin(vec![]).unwrap();
    for (_, ty, shape, values) in &tensors {
        let mut bytes = vec![0; ty.row_bytes(shape.row_len()).unwrap() * shape.n_rows()];
        ty.format().encode(values, None, &mut bytes).unwrap();
        data.write(&bytes).unwrap();
    }
    let bytes = data.finish().unwrap();
    Gguf::from_bytes(Arc::new(bytes), "old.gguf").unwrap()
}

#[test]
fn old_files_give_the_same_logits() {
    for name in ["deepseek_v2-lite", "deepseek_v2", "deepseek_v3"] {
        let fixture = fixtures::model(name);
        let tensors = fixture.reference_tensors();
        for file in [&fixture.f32, &fixture.f16] {
            let model = Arc::new(Model::load(old_form(&Gguf::open(file).unwrap())).unwrap());
            for mla in [MlaForm::Absorbed, MlaForm::Naive] {
                for prompt in fixture.reference().prompts {
                    let cpu = Arc::new(Cpu::new(NonZeroUsize::new(2).unwrap()).unwrap());
                    let f32 = Some(GgmlType::F32);
                    let options =
                        EngineOptions { n_ctx: 512, k_ty: f32, v_ty: f32, n_batch: 512, mla: Some(mla) };
                    let mut s = Session::new(Engine::new(model.clone(), cpu, options).unwrap());
                    let got = s.eval(&prompt.ids, Want::All).unwrap();
                    let (shape, want) = tensors.f32(&prompt.output.logits);
                    let got = &got[prompt.output.logits_first_position * shape[1]..];
                    let e = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(e <= 3e-4, "{name}, {mla:?}, {}: off by {e}", prompt.name);
                }
            }
        }
    }
}
