//! The scalar reference: runs a graph operation by operation, row by row, the plain way.
//!
//! It is the truth that every backend is held to, and is itself compared with Hugging Face transformers'
//! logits. Sums are taken in F64, so that what a kernel differs by is the kernel's own rounding. Weights in
//! blocks meet 8-bit activations as on every backend, unless it is asked to keep them F32, which
//! shows what the blocks cost.

use std::sync::Arc;

use crate::act::{self, ActFormat, Q8Rows, SUM};
use crate::backend::{Backend, Program, Share, check_values};
use crate::cache::{Cache, LayerCache};
use crate::error::{Error, Result};
use crate::format::{GgmlType, dot_f32, dot_q8};
use crate::graph::{BufId, Graph, Heads, Row, Rows, SelId, Tally, TallyId, View, WeightId};
use crate::ops::Op;
use crate::tensor::Tensor;

/// The reference as a backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference {
    /// Keep activations F32 where weights are quantized.
    pub f32_activations: bool,
}

impl Backend for Reference {
    fn name(&self) -> String {
        "scalar reference".into()
    }

    fn compile_share(
        &self,
        graph: &Graph,
        _layers: &[LayerCache],
        _max_rows: usize,
        share: &Share,
    ) -> Result<Box<dyn Program>> {
        Ok(Box::new(Interpreter {
            graph: graph.clone(),
            parts: share.parts.clone(),
            f32_activations: self.f32_activations,
            batch: vec![],
            bufs: vec![],
            sels: vec![],
            tallies: graph.tallies.iter().map(|t| Tally::new(*t)).collect(),
        }))
    }
}

struct Interpreter {
    graph: Graph,
    parts: Vec<Vec<usize>>,
    f32_activations: bool,
    batch: Vec<Row>,
    bufs: Vec<Vec<f32>>,
    sels: Vec<Vec<(u32, f32)>>,
    tallies: Vec<Tally>,
}

impl Program for Interpreter {
    fn begin(&mut self, batch: &[Row], _cache: &Cache) -> Result<()> {
        check_tokens(&self.graph, batch)?;
        let n_outputs = batch.iter().filter(|r| r.output).count();
        let rows = |r: Rows| if r == Rows::Tokens { batch.len() } else { n_outputs };
        self.bufs = self.graph.bufs.iter().map(|b| vec![0.0; b.width * rows(b.rows)]).collect();
        self.sels = self.graph.sels.iter().map(|n| vec![(0, 0.0); n * batch.len()]).collect();
        self.batch = batch.to_vec();
        Ok(())
    }

    fn write(&mut self, buf: BufId, values: &[f32]) -> Result<()> {
        let buf = &mut self.bufs[buf.0 as usize];
        check_values(values.len(), buf.len())?;
        buf.copy_from_slice(values);
        Ok(())
    }

    fn run_part(&mut self, part: usize, cache: &mut Cache) -> Result<()> {
        let mut machine = Machine {
            graph: &self.graph,
            bufs: std::mem::take(&mut self.bufs),
            sels: std::mem::take(&mut self.sels),
            batch: &self.batch,
            cache,
            tallies: &mut self.tallies,
            f32_activations: self.f32_activations,
        };
        for &op in &self.parts[part] {
            self.graph.ops()[op].operation().reference(&mut machine);
        }
        (self.bufs, self.sels) = (machine.bufs, machine.sels);
        Ok(())
    }

    fn n_parts(&self) -> usize {
        self.parts.len()
    }

    fn chosen(&self, sel: SelId) -> Result<Vec<(u32, f32)>> {
        Ok(self.sels[sel.0 as usize].clone())
    }

    fn choose(&mut self, sel: SelId, chosen: &[(u32, f32)]) -> Result<()> {
        let sel = &mut self.sels[sel.0 as usize];
        check_values(chosen.len(), sel.len())?;
        sel.copy_from_slice(chosen);
        Ok(())
    }

    fn read(&self, buf: BufId) -> Result<Vec<f32>> {
        self.bufs.get(buf.0 as usize).cloned().ok_or_else(|| Error::Batch("nothing has run yet".into()))
    }

    fn tally(&self, tally: TallyId) -> Result<Tally> {
        self.tallies.get(tally.0 as usize).cloned().ok_or_else(|| Error::Batch("no such tally".into()))
    }
}

/// Refuses tokens that the embedding table does not have.
pub(crate) fn check_tokens(graph: &Graph, batch: &[Row]) -> Result<()> {
    for op in graph.ops() {
        if let Op::Embed(e) = op {
            let n = graph.weight(e.table).shape().n_rows();
            if let Some(r) = batch.iter().find(|r| r.token as usize >= n) {
                return Err(Error::Batch(format!("token {} of a vocabulary of {n}", r.token)));
            }
        }
    }
    Ok(())
}

/// The state that operations work on: all buffers, whole.
pub struct Machine<'a> {
    graph: &'a Graph,
    bufs: Vec<Vec<f32>>,
    sels: Vec<Vec<(u32, f32)>>,
    batch: &'a [Row],
    cache: &'a mut Cache,
    tallies: &'a mut [Tally],
    f32_activations: bool,
}

impl<'a> Machine<'a> {
    /// The tensor behind an id.
    pub fn weight(&self, id: WeightId) -> &'a Tensor {
        self.graph.weight(id)
    }

    /// The rows of the batch.
    pub fn batch(&self) -> &'a [Row] {
        self.batch
    }

    /// Rows that a buffer has in this batch.
    pub fn n_rows(&self, buf: BufId) -> usize {
        self.bufs[buf.0 as usize].len() / self.graph.width(buf)
    }

    /// Row `i` of a view.
    pub fn row(&self, v: View, i: usize) -> &[f32] {
        &self.bufs[v.buf.0 as usize][i * self.graph.width(v.buf) + v.col..][..v.width]
    }

    /// Row `i` of a view, to be changed.
    pub fn row_mut(&mut self, v: View, i: usize) -> &mut [f32] {
        let at = i * self.graph.width(v.buf) + v.col;
        &mut self.bufs[v.buf.0 as usize][at..][..v.width]
    }

    /// Head `h` of row `i`.
    pub fn head(&self, heads: Heads, i: usize, h: usize) -> &[f32] {
        self.row(head_view(heads, h), i)
    }

    /// Head `h` of row `i`, to be changed.
    pub fn head_mut(&mut self, heads: Heads, i: usize, h: usize) -> &mut [f32] {
        self.row_mut(head_view(heads, h), i)
    }

    /// The experts chosen for row `i`.
    pub fn chosen(&self, sel: SelId, i: usize) -> &[(u32, f32)] {
        let n = self.graph.n_used(sel);
        &self.sels[sel.0 as usize][i * n..][..n]
    }

    /// The experts chosen for row `i`, to be changed.
    pub fn chosen_mut(&mut self, sel: SelId, i: usize) -> &mut [(u32, f32)] {
        let n = self.graph.n_used(sel);
        &mut self.sels[sel.0 as usize][i * n..][..n]
    }

    /// A tally, to be added to.
    pub(crate) fn tally_mut(&mut self, tally: TallyId) -> &mut Tally {
        &mut self.tallies[tally.0 as usize]
    }

    /// A row of activations as a dot product with weights of type `ty` takes it.
    pub fn activations(&self, ty: GgmlType, x: &[f32]) -> Activations {
        let format = if self.f32_activations { ActFormat::F32 } else { ty.format().act() };
        Activations::new(ty, format, x)
    }

    /// Encodes the key of row `i` of the batch into the cache.
    pub fn store_key(&mut self, il: usize, i: usize, head: usize, k: &[f32]) {
        let row = self.batch[i];
        let ty = self.cache.layer(il).k_ty;
        encode_into(ty, k, self.cache.key_slot(row.seq, il, head, row.pos as usize));
    }

    /// Encodes the value of row `i` of the batch into the cache.
    pub fn store_value(&mut self, il: usize, i: usize, head: usize, v: &[f32]) {
        let row = self.batch[i];
        let ty = self.cache.layer(il).v_ty();
        encode_into(ty, v, self.cache.value_slot(row.seq, il, head, row.pos as usize));
    }

    /// The key at a position of the sequence of row `i`, decoded.
    pub fn cached_key(&self, il: usize, i: usize, head: usize, pos: usize) -> Vec<f32> {
        let layer = self.cache.layer(il);
        decode(layer.k_ty, layer.k_dim, self.cache.key_row(self.batch[i].seq, il, head, pos))
    }

    /// The value at a position of the sequence of row `i`, decoded.
    pub fn cached_value(&self, il: usize, i: usize, head: usize, pos: usize) -> Vec<f32> {
        let layer = self.cache.layer(il);
        decode(layer.v_ty(), layer.v_dim(), self.cache.value_row(self.batch[i].seq, il, head, pos))
    }
}

fn head_view(heads: Heads, h: usize) -> View {
    View { buf: heads.buf, col: heads.col + h * heads.stride, width: heads.width }
}

fn decode(ty: GgmlType, n: usize, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; n];
    ty.format().decode(bytes, &mut out);
    out
}

fn encode_into(ty: GgmlType, x: &[f32], (slot, len): (*mut u8, usize)) {
    let mut bytes = vec![0; len];
    if ty.format().encode(x, None, &mut bytes).is_some() {
        // SAFETY: the slot has `len` bytes inside a chunk of the cache, which the caller borrows mutably.
        unsafe { slot.copy_from_nonoverlapping(bytes.as_ptr(), len) };
    }
}

/// A row of activations, quantized as the weights it meets ask for.
pub struct Activations {
    ty: GgmlType,
    row: ActRow,
}

enum ActRow {
    F32(Vec<f32>),
    Q8 { block: usize, qs: Vec<i8>, d: Vec<f32>, sums: Vec<i16> },
}

impl Activations {
    fn new(ty: GgmlType, format: ActFormat, x: &[f32]) -> Self {
        let row = match format {
            ActFormat::F32 => ActRow::F32(x.to_vec()),
            ActFormat::Q8x32 | ActFormat::Q8x256 => {
                let block = format.block();
                let (mut qs, mut d) = (vec![0; x.len()], vec![0.0; x.len() / block]);
                let mut sums = vec![0; x.len() / SUM];
                act::quantize_row(x, block, &mut qs, &mut d, &mut sums);
                ActRow::Q8 { block, qs, d, sums }
            }
        };
        Activations { ty, row }
    }

    /// The dot product with an encoded row of weights.
    pub fn dot(&self, w: &[u8]) -> f32 {
        let format = self.ty.format();
        match &self.row {
            ActRow::F32(x) => dot_f32(format, w, x),
            ActRow::Q8 { block, qs, d, sums } => {
                dot_q8(format, w, Q8Rows { k: qs.len(), rows: 1, block: *block, qs, d, sums })
            }
        }
    }
}

/// x / (1 + e⁻ˣ) (Elfwing et al., 2017), in F64 and rounded.
pub fn silu(x: f32) -> f32 {
    let x = f64::from(x);
    (x / (1.0 + (-x).exp())) as f32
}

/// The reference, shared.
pub fn backend() -> Arc<dyn Backend> {
    Arc::new(Reference::default())
}
