//! Recording a forward pass: [`Graph`] with the paper's verbs.

use ggml_sys::Result;
use ggml_sys::graph::{Graph, Heads, Rows, SelId, Stack, TallyId, View, WeightId};
use ggml_sys::ops::{
    Attention, Embed, Experts, GateUp, HeadLinear, Linear, MlaNaive, Op, Pairing, Projection, RmsNorm,
    RopeTable, Router, SelectOutputs, StoreKv, SumSquares,
};

use crate::rope::Rope;

/// A weight with an optional bias.
#[derive(Clone, Copy, Debug)]
pub struct Affine {
    /// `[n_in, n_out]`.
    pub w: WeightId,
    /// `[n_out]`.
    pub bias: Option<WeightId>,
}

impl From<WeightId> for Affine {
    fn from(w: WeightId) -> Self {
        Affine { w, bias: None }
    }
}

/// A weight whose inputs are watched.
#[derive(Clone, Copy, Debug)]
pub struct Watched {
    /// The weight.
    pub weight: WeightId,
    /// Sums of squares of its inputs, see [`SumSquares`].
    pub tally: TallyId,
    /// Whether each of its matrices is an expert's, which only some rows meet.
    pub experts: bool,
}

/// Records operations, making the buffers they write.
pub struct Recorder<'a> {
    g: &'a mut Graph,
    eps: f32,
    /// If inputs of weights are watched, those that are.
    watched: Option<Vec<Watched>>,
}

impl<'a> Recorder<'a> {
    /// Records into `g`; `eps` is that of the model's norms.
    pub fn new(g: &'a mut Graph, eps: f32) -> Self {
        Recorder { g, eps, watched: None }
    }

    /// From here on, watches what meets the weights.
    pub fn watch(&mut self) {
        self.watched.get_or_insert_default();
    }

    /// From here on, does no longer; gives what has been watched.
    pub fn unwatch(&mut self) -> Vec<Watched> {
        self.watched.take().unwrap_or_default()
    }

    /// Watches `x`, which meets `weights`: one matrix for each head or, with `sel`, for each expert. Weights whose matrices
    /// all meet one input have a single head.
    pub fn observe(&mut self, x: Heads, sel: Option<SelId>, weights: &[WeightId]) -> Result<()> {
        let Some(watched) = &mut self.watched else { return Ok(()) };
        let Some(first) = weights.first() else { return Ok(()) };
        let groups = if sel.is_some() { self.g.weight(*first).shape().0[2] } else { x.n };
        let to = self.g.tally(groups, x.width);
        let experts = sel.is_some();
        watched.extend(weights.iter().map(|&weight| Watched { weight, tally: to, experts }));
        self.g.push(SumSquares { x, sel, to })
    }

    /// A buffer of a row a token.
    pub fn buffer(&mut self, width: usize) -> View {
        self.g.buffer(width, Rows::Tokens)
    }

    /// Appends any operation.
    pub fn push(&mut self, op: impl Into<Op>) -> Result<()> {
        self.g.push(op)
    }

    /// Rows of a matrix.
    pub fn n_out(&self, w: WeightId) -> usize {
        self.g.weight(w).shape().0[1]
    }

    /// The matrices of a three-dimensional tensor.
    pub fn stack(&self, w: WeightId) -> Stack {
        Stack::whole(w, self.g.weight(w))
    }

    /// Embeddings of the tokens.
    pub fn embed(&mut self, table: WeightId) -> Result<View> {
        let y = self.buffer(self.g.weight(table).shape().row_len());
        self.g.push(Embed { table, y })?;
        Ok(y)
    }

    /// A normalized copy.
    pub fn norm(&mut self, x: View, weight: WeightId) -> Result<View> {
        let y = self.g.buffer(x.width, self.g.rows(x.buf));
        self.g.push(RmsNorm { x, weight, eps: self.eps, y })?;
        Ok(y)
    }

    /// Normalizes in place, the whole row or each head.
    pub fn norm_in_place(&mut self, x: View, weight: WeightId) -> Result<()> {
        self.g.push(RmsNorm { x, weight, eps: self.eps, y: x })
    }

    /// Several matrices over the same input.
    pub fn linear<const N: usize>(&mut self, x: View, ws: [Affine; N]) -> Result<[View; N]> {
        let rows = self.g.rows(x.buf);
        let parts = ws.map(|a| Projection { w: a.w, bias: a.bias, y: self.g.buffer(self.n_out(a.w), rows) });
        self.observe(x.heads(1), None, &ws.map(|a| a.w))?;
        self.g.push(Linear { x, parts: parts.to_vec(), add: false })?;
        Ok(parts.map(|p| p.y))
    }

    /// Adds `x · wᵀ + bias` to `y`.
    pub fn linear_add(&mut self, x: View, w: impl Into<Affine>, y: View) -> Result<()> {
        let w = w.into();
        self.observe(x.heads(1), None, &[w.w])?;
        self.g.push(Linear { x, parts: vec![Projection { w: w.w, bias: w.bias, y }], add: true })
    }

    /// A matrix of its own for each head.
    pub fn head_linear(&mut self, x: Heads, w: Stack, y: Heads) -> Result<()> {
        self.g.push(HeadLinear { x, w, y })
    }

    /// Adds `down(silu(gate x) ⊙ up x)` to `y`.
    pub fn ffn_add(&mut self, x: View, gate: WeightId, up: WeightId, down: WeightId, y: View) -> Result<()> {
        let hidden = self.buffer(self.n_out(gate));
        self.observe(x.heads(1), None, &[gate, up])?;
        self.g.push(GateUp { x, gate, up, y: hidden })?;
        self.linear_add(hidden, down, y)
    }

    /// Angles for the positions of the batch.
    pub fn rope_table(&mut self, rope: &Rope, scale: f32) -> Result<View> {
        let y = self.buffer(2 * rope.freqs.len());
        self.g.push(RopeTable { freqs: rope.freqs.clone(), scale, y })?;
        Ok(y)
    }

    /// Rotates heads from `x` to `y`, which may be the same.
    pub fn rope(&mut self, x: Heads, table: View, pairing: Pairing, y: Heads) -> Result<()> {
        self.g.push(ggml_sys::ops::Rope { x, table, pairing, y })
    }

    /// Writes the batch's keys and values to the cache.
    pub fn store(&mut self, layer: usize, k: Heads, v: Option<Heads>) -> Result<()> {
        self.g.push(StoreKv { layer, k, v })
    }

    /// Attention over the cache; `n_out` columns.
    pub fn attention(
        &mut self,
        layer: usize,
        q: Heads,
        n_head_kv: usize,
        scale: f32,
        v_dim: usize,
    ) -> Result<View> {
        let y = self.buffer(q.n * v_dim);
        self.g.push(Attention { layer, n_head_kv, q, scale, y: y.heads(q.n) })?;
        Ok(y)
    }

    /// MLA in its naive form.
    pub fn mla_naive(&mut self, op: MlaNaive) -> Result<()> {
        self.g.push(op)
    }

    /// Chooses `n_used` experts by gate logits and adds their weighted outputs to `y`.
    pub fn experts_add(
        &mut self,
        x: View,
        n_used: usize,
        router: impl FnOnce(ggml_sys::graph::SelId) -> Router,
        (gate, up, down): (Stack, Stack, Stack),
        y: View,
    ) -> Result<()> {
        let sel = self.g.selection(n_used);
        self.g.push(router(sel))?;
        let hidden = self.watched.is_some().then(|| self.buffer(n_used * gate.rows));
        self.g.push(Experts { x, sel, gate, up, down, y, hidden })?;
        let Some(hidden) = hidden else { return Ok(()) };
        // Gate and up may be halves of one tensor.
        let both = [gate.w, up.w];
        self.observe(x.heads(1), Some(sel), if gate.w == up.w { &both[..1] } else { &both })?;
        self.observe(hidden.heads(n_used), Some(sel), &[down.w])
    }

    /// The rows whose output is wanted.
    pub fn select_outputs(&mut self, x: View) -> Result<View> {
        let y = self.g.buffer(x.width, Rows::Outputs);
        self.g.push(SelectOutputs { x, y })?;
        Ok(y)
    }
}
