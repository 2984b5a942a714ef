//! What a compiled step works on: buffers in one arena, quantized rows, chosen experts.
//!
//! All threads share an [`Exec`] and write to disjoint parts of it within a phase. That they are disjoint is the plan's
//! business ([`super::plan`]): it puts operations into one phase only if none writes what another touches.

use crate::act::{Q8Rows, SUM};
use crate::cache::Cache;
use crate::cpu::kernels::Kernels;
use crate::graph::{Graph, Heads, Row, Rows, SelId, TallyShape, View};
use crate::memory::ALIGN;

/// A piece of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct RegionId(pub usize);

/// Rows of activations quantized to 8 bits: `groups` heads of `k` columns, each `[per_token · tokens, k]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub region: RegionId,
    /// Columns of a row of a group.
    pub k: usize,
    /// Elements that share a scale.
    pub block: usize,
    /// Groups, 1 unless heads are quantized apart.
    pub groups: usize,
    /// Rows per row of the batch, 1 unless rows are pairs of token and expert.
    pub per_token: usize,
}

impl Slot {
    /// F32-sized columns that a row of the batch takes, and where in them scales and sums begin.
    pub fn columns(&self) -> (usize, usize, usize) {
        let round = |n: usize| n.next_multiple_of(ALIGN / 4);
        let k = self.k * self.groups * self.per_token;
        let d = round(k.div_ceil(4));
        let sums = d + round(k / self.block);
        (sums + round((k / SUM).div_ceil(2)), d, sums)
    }
}

/// How the chosen experts of a batch are grouped; one a mixture layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grouping {
    pub region: RegionId,
    pub n_expert: usize,
    pub n_used: usize,
}

impl Grouping {
    /// Words for the expert table; the order of the pairs takes `n_used` words a row after it.
    pub fn table_words(&self) -> usize {
        2 * self.n_expert + 2
    }
}

/// The state of a run, shared by all threads.
pub(super) struct Exec<'a> {
    pub graph: &'a Graph,
    pub batch: &'a [Row],
    /// Rows of the batch whose output is wanted.
    pub outputs: &'a [usize],
    pub cache: &'a Cache,
    pub kernels: &'static Kernels,
    /// Threads that share it.
    pub threads: usize,
    pub arena: *mut f32,
    /// Where each region begins, in floats. Regions of buffers come first, in the order of the buffers.
    pub offsets: &'a [usize],
    /// Rows that regions were made for.
    pub max_rows: usize,
    /// First region of the selections.
    pub first_sel: usize,
    /// Sums that last from run to run.
    pub tallies: &'a [TallyPtr],
}

/// Where a tally lies.
#[derive(Clone, Copy)]
pub(super) struct TallyPtr {
    pub shape: TallyShape,
    /// `[groups, width]`.
    pub sums: *mut f64,
    /// `[groups]`.
    pub counts: *mut u64,
}

// SAFETY: threads write through `arena`, the tallies and the cache to disjoint places, which the plan ensures.
unsafe impl Sync for Exec<'_> {}

impl<'a> Exec<'a> {
    /// Rows of a kind in this batch.
    pub fn n_rows(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.batch.len(),
            Rows::Outputs => self.outputs.len(),
        }
    }

    /// Floats from one row of a buffer to the next.
    pub fn stride(&self, v: View) -> usize {
        self.graph.width(v.buf)
    }

    /// The first column of row `i` of a view.
    pub fn ptr(&self, v: View, i: usize) -> *mut f32 {
        self.region(RegionId(v.buf.0 as usize)).wrapping_add(i * self.stride(v) + v.col)
    }

    /// The beginning of a region.
    pub fn region(&self, r: RegionId) -> *mut f32 {
        self.arena.wrapping_add(self.offsets[r.0])
    }

    /// Row `i` of a view.
    ///
    /// # Safety
    /// - `i` is a row of the batch.
    /// - No thread writes these columns of the row as long as the slice lives.
    pub unsafe fn row(&self, v: View, i: usize) -> &'a [f32] {
        // SAFETY: the plan gave the buffer `max_rows` rows of its width.
        unsafe { std::slice::from_raw_parts(self.ptr(v, i), v.width) }
    }

    /// Row `i` of a view, to be changed.
    ///
    /// # Safety
    /// - `i` is a row of the batch.
    /// - Nothing else refers to these columns of the row as long as the slice lives.
    pub unsafe fn row_mut(&self, v: View, i: usize) -> &'a mut [f32] {
        // SAFETY: the plan gave the buffer `max_rows` rows of its width.
        unsafe { std::slice::from_raw_parts_mut(self.ptr(v, i), v.width) }
    }

    /// Quantized rows `first .. first + n` of a group of a slot.
    ///
    /// # Safety
    /// - The rows have been quantized in an earlier phase of this run.
    pub unsafe fn q8(&self, slot: Slot, group: usize, first: usize, n: usize) -> Q8Rows<'a> {
        let (qs, d, sums) = self.q8_ptrs(slot, group, first);
        let (k, block) = (slot.k, slot.block);
        // SAFETY: the region has room for `max_rows` rows of every group, and nobody writes it any more.
        unsafe {
            Q8Rows {
                k,
                rows: n,
                block,
                qs: std::slice::from_raw_parts(qs, n * k),
                d: std::slice::from_raw_parts(d, n * k / block),
                sums: std::slice::from_raw_parts(sums, n * k / SUM),
            }
        }
    }

    /// Where row `i` of a group of a slot keeps its integers, scales and sums.
    pub fn q8_ptrs(&self, slot: Slot, group: usize, i: usize) -> (*mut i8, *mut f32, *mut i16) {
        let (_, d, sums) = slot.columns();
        let base = self.region(slot.region);
        let row = group * slot.per_token * self.max_rows + i;
        (
            base.cast::<i8>().wrapping_add(row * slot.k),
            base.wrapping_add(d * self.max_rows + row * (slot.k / slot.block)),
            base.wrapping_add(sums * self.max_rows).cast::<i16>().wrapping_add(row * (slot.k / SUM)),
        )
    }

    /// The chosen experts of row `i`.
    pub fn chosen(&self, sel: SelId, i: usize) -> *mut (u32, f32) {
        let region = self.region(RegionId(self.first_sel + sel.0 as usize));
        region.cast::<(u32, f32)>().wrapping_add(i * self.graph.n_used(sel))
    }

    /// The words of a grouping: a table for the experts, then an order of pairs.
    pub fn words(&self, g: Grouping) -> *mut u32 {
        self.region(g.region).cast()
    }
}

/// Columns of head `h`.
pub(super) fn head(heads: Heads, h: usize) -> View {
    View { buf: heads.buf, col: heads.col + h * heads.stride, width: heads.width }
}

/// Memory of one thread for the length of an item, cut into slices.
pub(super) struct Scratch<'a>(pub &'a mut [u8]);

impl<'a> Scratch<'a> {
    /// Cuts `n` floats off, on a cache line.
    ///
    /// # Panics
    /// If the step asked for less than it takes.
    pub fn floats(&mut self, n: usize) -> &'a mut [f32] {
        bytemuck::cast_slice_mut(self.bytes(4 * n))
    }

    /// Cuts `n` bytes off, on a cache line.
    ///
    /// # Panics
    /// If the step asked for less than it takes.
    pub fn bytes(&mut self, n: usize) -> &'a mut [u8] {
        let (piece, rest) = std::mem::take(&mut self.0).split_at_mut(n.next_multiple_of(ALIGN));
        self.0 = rest;
        &mut piece[..n]
    }
}

/// Bytes that [`Scratch`] takes for pieces of the given sizes.
pub(super) fn scratch_for(pieces: &[usize]) -> usize {
    pieces.iter().map(|n| n.next_multiple_of(ALIGN)).sum()
}
