//! Steps that do a row by themselves.

use std::sync::Arc;

use super::super::exec::{Exec, Scratch, Slot, head};
use super::super::plan::RowStep;
use crate::act::SUM;
use crate::format::GgmlType;
use crate::graph::Heads;
use crate::ops::{Add, Embed, RmsNorm, Rope, RopeTable, Router, SelectOutputs, StoreKv};

impl RowStep for Embed {
    fn run(&self, x: &Exec<'_>, i: usize, _scratch: Scratch<'_>) {
        let table = x.graph.weight(self.table);
        // SAFETY: the step owns row `i` of what it writes in this phase.
        let y = unsafe { x.row_mut(self.y, i) };
        table.ty().format().decode(table.row(x.batch[i].token as usize), y);
    }
}

impl RowStep for SelectOutputs {
    fn run(&self, x: &Exec<'_>, i: usize, _scratch: Scratch<'_>) {
        // SAFETY: the input was written in an earlier phase, the step owns row `i` of the output, and they are
        // different buffers.
        let (from, to) = unsafe { (x.row(self.x, x.outputs[i]), x.row_mut(self.y, i)) };
        to.copy_from_slice(from);
    }
}

impl RowStep for Add {
    fn run(&self, x: &Exec<'_>, i: usize, _scratch: Scratch<'_>) {
        // SAFETY: the step owns row `i` of the output, and they are different buffers.
        let (from, to) = unsafe { (x.row(self.x, i), x.row_mut(self.y, i)) };
        to.iter_mut().zip(from).for_each(|(y, x)| *y += x);
    }
}

/// [`RmsNorm`] with the weight at hand as F32.
pub struct Norm {
    pub op: RmsNorm,
    pub weight: Arc<[f32]>,
}

impl RowStep for Norm {
    fn run(&self, x: &Exec<'_>, i: usize, _scratch: Scratch<'_>) {
        let n = self.weight.len();
        for g in 0..self.op.x.width / n {
            let (from, to) = (self.op.x.cols(g * n, n), self.op.y.cols(g * n, n));
            // SAFETY: the step owns row `i`.
            let y = unsafe { x.row_mut(to, i) };
            if from == to {
                x.kernels.rms_norm_inplace(y, &self.weight, self.op.eps);
            } else {
                // SAFETY: as above; the plan's shape check allows no partial overlap: the views are of different buffers
                // or of different columns.
                x.kernels.rms_norm(unsafe { x.row(from, i) }, &self.weight, self.op.eps, y);
            }
        }
    }
}

impl RowStep for RopeTable {
    fn run(&self, x: &Exec<'_>, i: usize, _scratch: Scratch<'_>) {
        // SAFETY: the step owns row `i` of the table.
        self.fill(x.batch[i].pos, unsafe { x.row_mut(self.y, i) });
    }
}

impl RowStep for Rope {
    fn run(&self, x: &Exec<'_>, i: usize, _scratch: Scratch<'_>) {
        // SAFETY: the table is not written by this step, which owns row `i` of its heads.
        let table = unsafe { x.row(self.table, i) };
        for h in 0..self.x.n {
            let (from, to) = (x.ptr(head(self.x, h), i), x.ptr(head(self.y, h), i));
            // SAFETY: as above; `copy` allows source and destination to be the same.
            let y = unsafe {
                std::ptr::copy(from, to, self.x.width);
                std::slice::from_raw_parts_mut(to, self.x.width)
            };
            self.rotate(table, y);
        }
    }
}

impl RowStep for StoreKv {
    fn run(&self, x: &Exec<'_>, i: usize, _scratch: Scratch<'_>) {
        let (row, layer) = (x.batch[i], x.cache.layer(self.layer));
        let store = |heads: Heads, h: usize, ty, (slot, len): (*mut u8, usize)| {
            // SAFETY: the heads of row `i` are not written in this phase but by earlier steps of this row; the
            // slot belongs to this row alone and has `len` bytes.
            unsafe {
                let from = x.row(head(heads, h), i);
                encode(x, ty, from, std::slice::from_raw_parts_mut(slot, len));
            }
        };
        let pos = row.pos as usize;
        for h in 0..self.k.n {
            store(self.k, h, layer.k_ty, x.cache.key_slot(row.seq, self.layer, h, pos));
            if let Some(v) = self.v {
                store(v, h, layer.v_ty(), x.cache.value_slot(row.seq, self.layer, h, pos));
            }
        }
    }
}

/// Encodes a row of the cache.
fn encode(x: &Exec<'_>, ty: GgmlType, from: &[f32], to: &mut [u8]) {
    match ty {
        GgmlType::F16 => x.kernels.to_f16(from, to),
        GgmlType::Q8_0 => x.kernels.to_q8_0(from, to),
        _ => {
            // The formats that a cache can have all have encoders, which the backend checks when it compiles.
            let _ = ty.format().encode(from, None, to);
        }
    }
}

/// Quantizes heads of a row into a slot, each head a group.
pub struct Quantize {
    pub heads: Heads,
    pub slot: Slot,
}

impl RowStep for Quantize {
    fn run(&self, x: &Exec<'_>, i: usize, _scratch: Scratch<'_>) {
        for h in 0..self.heads.n {
            let k = self.slot.k;
            let (qs, d, sums) = x.q8_ptrs(self.slot, h, i);
            // SAFETY: the step owns row `i` of the slot, which has room for these, and reads what earlier steps of
            // this row wrote.
            unsafe {
                x.kernels.quantize_row(
                    x.row(head(self.heads, h), i),
                    self.slot.block,
                    std::slice::from_raw_parts_mut(qs, k),
                    std::slice::from_raw_parts_mut(d, k / self.slot.block),
                    std::slice::from_raw_parts_mut(sums, k / SUM),
                );
            }
        }
    }
}

/// [`Router`] with the bias at hand.
pub struct Choose {
    pub op: Router,
    pub bias: Option<Arc<[f32]>>,
}

impl RowStep for Choose {
    fn run(&self, x: &Exec<'_>, i: usize, mut scratch: Scratch<'_>) {
        // SAFETY: the step owns row `i` of the selection and reads logits written before.
        let (logits, chosen) = unsafe {
            let n_used = x.graph.n_used(self.op.sel);
            (x.row(self.op.logits, i), std::slice::from_raw_parts_mut(x.chosen(self.op.sel, i), n_used))
        };
        self.op.choose(logits, self.bias.as_deref(), scratch.floats(2 * logits.len()), chosen);
    }

    fn scratch(&self) -> usize {
        super::super::exec::scratch_for(&[8 * self.op.logits.width])
    }
}
