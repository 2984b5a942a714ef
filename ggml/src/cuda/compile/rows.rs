//! Operations on single rows.

use super::rope_store::rope_args;
use super::{Compiler, NO_Q8, Slot, access};
use crate::act::ActFormat;
use crate::cuda::args::{
    AddArgs, EmbedArgs, NormArgs, QuantizeArgs, RopeArgs, RopeTableArgs, SelectArgs, SumSquaresArgs,
};
use crate::cuda::modules::{Geometry, Kernel};
use crate::error::Result;
use crate::graph::{Heads, View};
use crate::ops::{Add, Embed, Op, RmsNorm, Rope, RopeTable, SelectOutputs, SumSquares};

impl Compiler<'_> {
    pub(super) fn embed(&mut self, o: &Embed) -> Result<()> {
        let t = self.graph.weight(o.table);
        let (row_bytes, y) = (t.row_bytes() as u64, o.y);
        let kernel: Kernel<EmbedArgs> = self.kernel(&format!("embed_{}", super::matrix::lower(t.ty())))?;
        let (w, rows) = (self.encoded(o.table)?, self.rows_of(y.buf));
        self.steps.push(Box::new(move |l| {
            let args = EmbedArgs { w, row_bytes, token: l.batch.token, y: l.view(y), k: y.width as u32 };
            // SAFETY: tokens are rows of the table, as every run checks first; `y` has a row for each.
            unsafe { kernel.launch(Geometry::new([l.n(rows), 1, 1], 128), &args) }
        }));
        Ok(())
    }

    pub(super) fn select_outputs(&mut self, o: &SelectOutputs) -> Result<()> {
        let kernel: Kernel<SelectArgs> = self.kernel("select_outputs")?;
        let (x, y, rows) = (o.x, o.y, self.rows_of(o.y.buf));
        self.steps.push(Box::new(move |l| {
            let args =
                SelectArgs { x: l.view(x), y: l.view(y), output: l.batch.output, width: x.width as u32 };
            // SAFETY: the outputs are rows of the batch.
            unsafe { kernel.launch(Geometry::new([l.n(rows), 1, 1], 256), &args) }
        }));
        Ok(())
    }

    pub(super) fn add(&mut self, o: &Add) -> Result<()> {
        let kernel: Kernel<AddArgs> = self.kernel("add")?;
        let (x, y, rows) = (o.x, o.y, self.rows_of(o.y.buf));
        self.steps.push(Box::new(move |l| {
            let n = y.width as u32;
            let args = AddArgs { x: l.view(x), y: l.view(y), n };
            // SAFETY: both have rows of this width.
            unsafe { kernel.launch(Geometry::new([n.div_ceil(256), l.n(rows), 1], 256), &args) }
        }));
        Ok(())
    }

    /// A norm, which leaves its result quantized too if the operations behind it take it so.
    pub(super) fn norm(&mut self, o: &RmsNorm) -> Result<()> {
        let kernel: Kernel<NormArgs> = self.kernel("rms_norm")?;
        let n = self.graph.weight(o.weight).shape().n_elements();
        let (weight, rows, groups) = (self.floats(o.weight)?, self.rows_of(o.x.buf), o.x.width / n);
        let (x, y, eps) = (o.x, o.y, o.eps);
        let mut slots = [None; 2];
        if groups == 1 {
            for format in self.formats_taken(y) {
                let slot = self.slot(y.heads(1), format, 1);
                slots[usize::from(format == ActFormat::Q8x256)] = Some(slot);
            }
        }
        let step = move |l: &super::Launcher<'_>| {
            let q8 = |s: Option<Slot>| s.map_or(NO_Q8, |s| l.q8(s));
            let [q32, q256] = slots.map(q8);
            let args = NormArgs { x: l.view(x), y: l.view(y), weight, q32, q256, n: n as u32, eps };
            // SAFETY: rows have `groups` groups of as many columns as the weight, which divide into blocks where asked for.
            unsafe { kernel.launch(Geometry::new([l.n(rows), groups as u32, 1], 256), &args) }
        };
        self.steps.push(Box::new(step));
        self.quantized.extend(slots.iter().flatten().map(|s| (y.heads(1), *s)));
        Ok(())
    }

    /// The 8-bit formats in which later operations of this part take `v` before it is written again.
    fn formats_taken(&self, v: View) -> Vec<ActFormat> {
        let mut formats = vec![];
        for &op in &self.share.parts[self.part.0][self.part.1 + 1..] {
            let op = &self.graph.ops()[op];
            let weights = match op {
                Op::Linear(o) if o.x == v => o.parts.iter().map(|p| p.w).collect(),
                Op::GateUp(o) if o.x == v => vec![o.gate, o.up],
                Op::Experts(o) if o.x == v => vec![o.gate.w, o.up.w],
                _ => vec![],
            };
            for format in weights.into_iter().map(|w| self.act(w)) {
                if format != ActFormat::F32 && !formats.contains(&format) {
                    formats.push(format);
                }
            }
            if access(op).writes.iter().any(|w| w.overlaps(v)) {
                break;
            }
        }
        formats
    }

    /// A new place for heads as 8-bit rows; `per_head` rows for each of them.
    pub(super) fn slot(&mut self, heads: Heads, format: ActFormat, per_head: usize) -> Slot {
        let (k, block, per_row) = (heads.width, format.block(), heads.n * per_head);
        let rows = self.rows_of(heads.buf);
        let region = self.region(rows, Slot::floats(k, block, per_row), 0);
        self.touch(region);
        Slot { region, k, block, per_row }
    }

    /// Heads as 8-bit rows, quantized now unless they are already.
    pub(super) fn quantized(&mut self, heads: Heads, format: ActFormat) -> Result<Slot> {
        let same = |q: &&(Heads, Slot)| q.0 == heads && q.1.block == format.block();
        if let Some(&(_, slot)) = self.quantized.iter().find(same) {
            self.touch(slot.region);
            return Ok(slot);
        }
        let slot = self.slot(heads, format, 1);
        let (kernel, rows) = (self.kernel::<QuantizeArgs>("quantize")?, self.rows_of(heads.buf));
        self.steps.push(Box::new(move |l| {
            let args = quantize_args(l.heads(heads), l.q8(slot), slot, heads.n);
            // SAFETY: the slot has a row for each head of each row.
            unsafe { kernel.launch(Geometry::new([l.n(rows), heads.n as u32, 1], 256), &args) }
        }));
        self.quantized.push((heads, slot));
        Ok(slot)
    }

    pub(super) fn rope_table(&mut self, o: &RopeTable) -> Result<()> {
        let kernel: Kernel<RopeTableArgs> = self.kernel("rope_table")?;
        let (freqs, pairs) = (self.constant(&o.freqs)?, o.freqs.len() as u32);
        let (scale, y, rows) = (o.scale, o.y, self.rows_of(o.y.buf));
        self.steps.push(Box::new(move |l| {
            let args = RopeTableArgs { pos: l.batch.pos, freqs, y: l.view(y), pairs, scale };
            // SAFETY: `y` has two columns for each of the frequencies.
            unsafe { kernel.launch(Geometry::new([l.n(rows), 1, 1], 64), &args) }
        }));
        Ok(())
    }

    pub(super) fn rope(&mut self, o: &Rope) -> Result<()> {
        let kernel: Kernel<RopeArgs> = self.kernel("rope")?;
        let (o, rows) = (o.clone(), self.rows_of(o.x.buf));
        self.steps.push(Box::new(move |l| {
            let args = rope_args(l, &o);
            // SAFETY: heads are as wide as said, the table has two columns a pair.
            unsafe { kernel.launch(Geometry::new([l.n(rows), o.x.n as u32, 1], 64), &args) }
        }));
        Ok(())
    }

    pub(super) fn sum_squares(&mut self, o: &SumSquares) -> Result<()> {
        let kernel: Kernel<SumSquaresArgs> = self.kernel("sum_squares")?;
        let (o, rows, shape) = (*o, self.rows_of(o.x.buf), self.graph.tally_shape(o.to));
        let ids = o.sel.map(|s| (self.sel(s), self.graph.n_used(s)));
        let (sums, counts) = &self.tallies[o.to.0 as usize];
        let (sums, counts) = (sums.at(), counts.at());
        self.steps.push(Box::new(move |l| {
            let args = SumSquaresArgs {
                x: l.heads(o.x),
                ids: ids.map_or(0, |(sel, _)| sel.ids(l)),
                sums,
                counts,
                width: shape.width as u32,
                heads: o.x.n as u32,
                n_used: ids.map_or(0, |(_, n)| n as u32),
                n_rows: l.n(rows),
            };
            let grid = [(shape.width as u32).div_ceil(128), shape.groups as u32, 1];
            // SAFETY: sums and counts are of this shape; groups are heads, or experts that the router chose.
            unsafe { kernel.launch(Geometry::new(grid, 128), &args) }
        }));
        Ok(())
    }
}

/// What `quantize` takes for heads and their slot.
pub(super) fn quantize_args(
    x: crate::cuda::args::Heads,
    q: crate::cuda::args::Q8,
    slot: Slot,
    heads: usize,
) -> QuantizeArgs {
    QuantizeArgs { x, q, k: slot.k as u32, block: slot.block as u32, heads: heads as u32 }
}
