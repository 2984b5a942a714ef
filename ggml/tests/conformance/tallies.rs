//! Sums of squares of what meets the weights.

use ggml_sys::GgmlType;
use ggml_sys::backend::Backend;
use ggml_sys::graph::{Rows, Stack, Tally, TallyId, Weights};
use ggml_sys::ops::*;
use ggml_sys::reference::Reference;

use super::case::{Case, backends, rows, tensor};

/// Runs twice over the same rows and gives the tallies.
fn tallies(backend: &dyn Backend, c: &Case, ids: &[TallyId]) -> Vec<Tally> {
    let mut cache = backend.cache(&c.layers, 1 << 20).unwrap();
    let mut p = backend.compile(&c.graph, &c.layers, c.batch.len()).unwrap();
    let inputs: Vec<_> = c.inputs.iter().map(|(b, v)| (*b, &v[..])).collect();
    for _ in 0..2 {
        p.run(&c.batch, &mut cache, &inputs).unwrap();
    }
    ids.iter().map(|id| p.tally(*id).unwrap()).collect()
}

#[test]
fn squares_add_up_by_heads_and_by_chosen_experts() {
    let (n_expert, n_used, n_embd, n_ff, n) = (6, 2, 600, 64, 11);
    let mut weights = Weights::default();
    let [gate, up, down] = [(n_embd, n_ff), (n_embd, n_ff), (n_ff, n_embd)].map(|(from, to)| {
        let w = weights.add(tensor(GgmlType::F32, &[from, to, n_expert], 0.1, 3));
        Stack { w, row0: 0, stride: to, rows: to, n: n_expert }
    });
    let mut c = Case::new("tallies", weights);
    let logits = c.input(n, n_expert, 1.0, 4);
    let x = c.input(n, n_embd, 1.0, 5);
    let y = c.input(n, n_embd, 1.0, 6);
    let g = &mut c.graph;
    let sel = g.selection(n_used);
    let gating = Gating::Softmax;
    let router = Router { logits, bias: None, gating, groups: None, normalize: false, scale: 1.0, sel };
    g.push(router).unwrap();
    let hidden = g.buffer(n_used * n_ff, Rows::Tokens);
    g.push(Experts { x, sel, gate, up, down, y, hidden: Some(hidden) }).unwrap();
    let ids = [g.tally(3, 150), g.tally(n_expert, n_embd), g.tally(n_expert, n_ff)];
    // Heads with columns between them that do not count.
    g.push(SumSquares { x: x.heads(3).cols(50, 150), sel: None, to: ids[0] }).unwrap();
    g.push(SumSquares { x: x.heads(1), sel: Some(sel), to: ids[1] }).unwrap();
    g.push(SumSquares { x: hidden.heads(n_used), sel: Some(sel), to: ids[2] }).unwrap();
    // No groups for the other heads, columns that are too few.
    assert!(g.push(SumSquares { x: x.heads(4), sel: None, to: ids[0] }).is_err());
    assert!(g.push(SumSquares { x: hidden.heads(n_used), sel: Some(sel), to: ids[1] }).is_err());
    c.batch = rows(0, n);

    let want = tallies(&Reference::default(), &c, &ids);
    let values = &c.inputs[1].1;
    let square = |row: usize, col: usize| f64::from(values[row * n_embd + col]).powi(2);
    let second_head: f64 = (0..n).map(|i| square(i, 200 + 50 + 7)).sum();
    assert!((want[0].sums[150 + 7] - 2.0 * second_head).abs() < 1e-9, "{}", want[0].sums[157]);
    assert_eq!(want[0].counts, [2 * n as u64; 3]);
    assert_eq!(want[1].counts.iter().sum::<u64>(), (2 * n * n_used) as u64);
    let column: f64 = (0..n_expert).map(|e| want[1].sums[e * n_embd + 5]).sum();
    let total: f64 = (0..n).map(|i| (2 * n_used) as f64 * square(i, 5)).sum();
    assert!((column - total).abs() < 1e-9, "{column} is not {total}");
    assert_eq!(want[2].counts, want[1].counts);
    for same in backends() {
        for backend in &same {
            let got = tallies(&**backend, &c, &ids);
            assert_eq!(got[..2], want[..2], "{}", backend.name());
            assert_eq!(got[2].counts, want[2].counts);
            for (g, w) in got[2].sums.iter().zip(&want[2].sums) {
                assert!((g - w).abs() <= 1e-4 * w + 1e-9, "{}: {g} is not {w}", backend.name());
            }
            assert_eq!(got, tallies(&*same[0], &c, &ids), "{}: other bits", backend.name());
        }
    }
}
