//! What a step costs at least: bytes that it reads and multiplications that it makes.
//!
//! Both are read off the recorded operations, so they hold for every architecture. What is counted:
//!
//! - **bytes**: every weight that the step reads, once: of the embedding one row a token, of mixtures the chosen experts
//!   only, the output head (the embedding once more where they are one) if anything is wanted of it; and every row of
//!   the cache that it attends to, once;
//! - **multiplications**: products of weights with activations. Those of attention itself, scores and sums of values, are left
//!   out: they grow with the context, and are small beside the others until it is long.
//!
//! Which experts several tokens choose is not known beforehand. They are counted as if each token chose by lot: of n experts,
//! r tokens that take k each use n·(1 − (1 − k/n)^r) in the mean. Real routers prefer some, so it is rather less.

use ggml_sys::cache::LayerCache;
use ggml_sys::graph::{Graph, Rows, Stack, WeightId};
use ggml_sys::ops::Op;

/// Bytes and multiplications of the steps of one graph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepCost {
    /// Bytes of weights that every step reads.
    pub always: u64,
    /// Bytes that each token adds: its row of the embedding.
    pub per_token: u64,
    /// Bytes that are read if any logits are wanted: the head.
    pub head: u64,
    /// The mixtures, layer by layer.
    pub mixtures: Vec<Mixture>,
    /// Bytes of a position in the cache, all layers.
    pub per_position: u64,
    /// Multiplications of a token, without the head.
    pub macs_per_token: u64,
    /// Multiplications of a row of logits.
    pub macs_per_output: u64,
}

/// The experts of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mixture {
    /// Experts there are.
    pub n_expert: usize,
    /// Experts that a token uses.
    pub n_used: usize,
    /// Bytes of one.
    pub bytes: u64,
    /// Multiplications of one for a row.
    pub macs: u64,
}

impl StepCost {
    /// Of a recorded step over a cache with these layers.
    pub fn new(graph: &Graph, layers: &[LayerCache]) -> StepCost {
        let per_position = layers.iter().filter_map(LayerCache::bytes_per_position).sum::<usize>() as u64;
        let mut cost = StepCost { per_position, ..StepCost::default() };
        graph.ops().iter().for_each(|op| cost.add(graph, op));
        cost
    }

    fn add(&mut self, g: &Graph, op: &Op) {
        match op {
            Op::Embed(o) => self.per_token += g.weight(o.table).row_bytes() as u64,
            Op::RmsNorm(o) => self.vector(g, Some(o.weight)),
            Op::Router(o) => self.vector(g, o.bias),
            Op::Linear(o) => {
                for part in &o.parts {
                    self.matrix(g, part.w, g.rows(o.x.buf));
                    self.vector(g, part.bias);
                }
            }
            Op::GateUp(o) => {
                self.matrix(g, o.gate, g.rows(o.x.buf));
                self.matrix(g, o.up, g.rows(o.x.buf));
            }
            Op::HeadLinear(o) => self.stack(g, o.w),
            Op::MlaNaive(o) => {
                self.stack(g, o.k_up.stack());
                self.stack(g, o.v_up);
            }
            Op::Experts(o) => {
                let stacks = [o.gate, o.up, o.down];
                let bytes = stacks.iter().map(|s| matrix_bytes(g, *s)).sum();
                let n_used = g.n_used(o.sel);
                let macs: u64 = stacks.iter().map(|s| matrix_macs(g, *s)).sum();
                self.mixtures.push(Mixture { n_expert: o.gate.n, n_used, bytes, macs });
                self.macs_per_token += n_used as u64 * macs;
            }
            // No weights, or what belongs to attention.
            Op::SumSquares(_)
            | Op::SelectOutputs(_)
            | Op::Add(_)
            | Op::RopeTable(_)
            | Op::Rope(_)
            | Op::StoreKv(_)
            | Op::Attention(_) => {}
        }
    }

    fn vector(&mut self, g: &Graph, w: Option<WeightId>) {
        self.always += w.map_or(0, |w| g.weight(w).bytes().len() as u64);
    }

    fn matrix(&mut self, g: &Graph, w: WeightId, rows: Rows) {
        let t = g.weight(w);
        let (bytes, macs) = (t.bytes().len() as u64, t.shape().n_elements() as u64);
        let (read, made) = match rows {
            Rows::Tokens => (&mut self.always, &mut self.macs_per_token),
            Rows::Outputs => (&mut self.head, &mut self.macs_per_output),
        };
        *read += bytes;
        *made += macs;
    }

    /// One matrix for each head.
    fn stack(&mut self, g: &Graph, s: Stack) {
        self.always += s.n as u64 * matrix_bytes(g, s);
        self.macs_per_token += s.n as u64 * matrix_macs(g, s);
    }

    /// Bytes that a step of `rows` tokens reads if `outputs` of them want logits and the longest sees `positions` rows of
    /// the cache.
    pub fn bytes(&self, rows: usize, outputs: usize, positions: usize) -> f64 {
        let experts: f64 = self.mixtures.iter().map(|m| m.distinct(rows) * m.bytes as f64).sum();
        let head = if outputs > 0 { self.head } else { 0 };
        let exact = self.always + head + rows as u64 * self.per_token + positions as u64 * self.per_position;
        exact as f64 + experts
    }

    /// Multiplications of a step of `rows` tokens of which `outputs` want logits, attention's own left out.
    pub fn macs(&self, rows: usize, outputs: usize) -> f64 {
        rows as f64 * self.macs_per_token as f64 + outputs as f64 * self.macs_per_output as f64
    }
}

/// Rows of a batch from which it takes less time to send all experts of these mixtures to a device, at `bytes` a second, than to
/// multiply with the chosen ones here, at `macs` a second; `None` if it never does.
///
/// Sending takes Σ n_expert·bytes ÷ B, whatever the rows; the processor takes rows · Σ n_used·macs ÷ M. The device multiplies while
/// the next experts are on their way, many times faster, so that its time does not count; nor does reading memory, which sending does
/// too.
pub fn streaming_rows(mixtures: &[Mixture], bytes: f64, macs: f64) -> Option<usize> {
    let sent: f64 = mixtures.iter().map(|m| m.n_expert as f64 * m.bytes as f64).sum();
    let made: f64 = mixtures.iter().map(|m| m.n_used as f64 * m.macs as f64).sum();
    let rows = (sent / bytes) * (macs / made);
    // Not a number if there is nothing to send or no speed.
    (rows > 0.0 && rows < 1e9).then(|| rows.ceil() as usize)
}

impl Mixture {
    /// Experts that `rows` tokens use in the mean if they choose by lot.
    pub fn distinct(&self, rows: usize) -> f64 {
        let n = self.n_expert as f64;
        n * (1.0 - (1.0 - self.n_used as f64 / n).powf(rows as f64))
    }
}

/// Bytes of one matrix of a stack.
fn matrix_bytes(g: &Graph, s: Stack) -> u64 {
    (s.rows * g.weight(s.w).row_bytes()) as u64
}

/// Elements of one matrix of a stack.
fn matrix_macs(g: &Graph, s: Stack) -> u64 {
    (s.rows * g.weight(s.w).shape().row_len()) as u64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ggml_sys::graph::Weights;
    use ggml_sys::ops::{Embed, Linear, Projection, SelectOutputs};
    use ggml_sys::{Shape, Tensor};

    use super::*;

    /// A head that is the embedding again reads all of it, and each token a row besides.
    #[test]
    fn a_tied_head_counts_whole_and_the_embedding_by_rows() {
        let shape = Shape::new(&[4, 10]).unwrap();
        let mut weights = Weights::default();
        let table = weights.add(Tensor::from_f32("token_embd.weight", shape, &[0.0; 40]).unwrap());
        let mut g = Graph::new(Arc::new(weights));
        let (x, h) = (g.buffer(4, Rows::Tokens), g.buffer(4, Rows::Outputs));
        let y = g.buffer(10, Rows::Outputs);
        g.push(Embed { table, y: x }).unwrap();
        g.push(SelectOutputs { x, y: h }).unwrap();
        g.push(Linear { x: h, parts: vec![Projection { w: table, bias: None, y }], add: false }).unwrap();
        let cost = StepCost::new(&g, &[]);
        assert_eq!(cost, StepCost { per_token: 16, head: 160, macs_per_output: 40, ..StepCost::default() });
        assert_eq!((cost.bytes(3, 0, 0), cost.bytes(3, 1, 0)), (48.0, 208.0));
        assert_eq!(cost.macs(3, 2), 80.0);
    }

    #[test]
    fn tokens_share_experts_the_more_the_more_there_are() {
        let m = Mixture { n_expert: 8, n_used: 2, bytes: 1, macs: 2 };
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} is not {b}");
        near(m.distinct(0), 0.0);
        near(m.distinct(1), 2.0);
        // 8 · (1 − (3/4)²).
        near(m.distinct(2), 3.5);
        near(m.distinct(10_000), 8.0);
    }

    #[test]
    fn experts_are_sent_for_as_many_rows_as_take_the_processor_longer() {
        // DeepSeek-V2-Lite in 4.5 bits: 64 experts of 3 · 2048 · 1408 weights, of which a token uses 6.
        let macs = 3 * 2048 * 1408;
        let lite = [Mixture { n_expert: 64, n_used: 6, bytes: macs * 9 / 16, macs }; 26];
        // 25 GB/s; 1000 GMAC/s: 64 / 6 · 9/16 · 40 = 240.
        assert_eq!(streaming_rows(&lite, 25e9, 1e12), Some(240));
        // Half the bus takes twice the rows.
        assert_eq!(streaming_rows(&lite, 12.5e9, 1e12), Some(480));
        assert_eq!(streaming_rows(&[], 25e9, 1e12), None);
        assert_eq!(streaming_rows(&lite, 0.0, 1e12), None);
    }
}
