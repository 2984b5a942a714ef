//! Memory for keys and values that latent attention in its naive form makes from the cached latents.
//!
//! It is laid out like a cache with a head for each head of the queries, its numbers split into two halves: chunks of [`CHUNK`] positions, one after
//! another, first those of the first sequence of the batch. Kernels reach them through a table of chunks of their own.

use super::args::{self, MlaExpandArgs};
use super::compile::Launcher;
use super::device::Memory;
use super::driver::DevicePtr;
use super::modules::{Geometry, Kernel};
use crate::cache::CHUNK;
use crate::error::Result;

/// Positions that a block expands, and elements of keys and values.
const POSITIONS: u32 = 64;
/// See [`POSITIONS`].
const ELEMENTS: u32 = 64;

/// The type of rows that are two halves for each number.
const SPLIT: u32 = 3;

/// Bytes that are enough for many heads at a time.
const ROOM: usize = 256 << 20;

/// Positions of a sequence of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Where its chunks begin in the batch's table.
    pub table: u32,
    /// Its first chunk here.
    pub first: usize,
    /// Positions that are attended to.
    pub n_pos: usize,
}

/// Room for the keys and values of a batch.
pub(super) struct Scratch {
    pub memory: Memory,
    /// Sequences of the batch.
    pub spans: Vec<Span>,
    /// For each row the first chunk of its sequence here, and the addresses of the chunks, on the device.
    pub table: DevicePtr,
    pub chunks: DevicePtr,
    /// Bytes from one chunk to the next.
    pub stride: usize,
}

/// Bytes of a chunk for so many heads, keys and all.
fn chunk_bytes(k_dim: usize, v_dim: usize, heads: usize) -> usize {
    heads * CHUNK * 4 * (k_dim + v_dim)
}

/// Bytes of a chunk of scratch memory: all heads, or as many as fit [`ROOM`], but at least one.
pub(super) fn stride(k_dim: usize, v_dim: usize, n_head: usize, n_chunks: usize) -> usize {
    let one = chunk_bytes(k_dim, v_dim, 1);
    one * (ROOM / (one * n_chunks).max(1)).clamp(1, n_head)
}

impl Scratch {
    /// Heads that are expanded at a time.
    pub fn heads_at_once(&self, k_dim: usize, v_dim: usize, n_head: usize) -> usize {
        (self.stride / chunk_bytes(k_dim, v_dim, 1)).clamp(1, n_head)
    }

    /// The batch over these chunks.
    pub fn batch(&self, batch: args::Batch) -> args::Batch {
        args::Batch { table: self.table, chunks: self.chunks, ..batch }
    }
}

/// What makes keys and values of latents.
pub(super) struct Naive {
    pub expand: Kernel<MlaExpandArgs>,
    /// `[n_head, n_nope, rank]` floats.
    pub k_up: DevicePtr,
    /// `[n_head, n_v, rank]` floats.
    pub v_up: DevicePtr,
    /// Elements of a latent, of a key without and with position, of a value.
    pub dims: [usize; 4],
    pub layer: usize,
}

impl Naive {
    /// Puts the expansion of some heads into the stream; gives where their keys and values lie in a chunk.
    pub fn expand(
        &self,
        l: &Launcher<'_>,
        scratch: &Scratch,
        first: usize,
        n: usize,
    ) -> Result<(args::CacheRows, args::CacheRows)> {
        let [rank, n_nope, n_rope, n_v] = self.dims;
        let k_dim = n_nope + n_rope;
        let out_v = (n * CHUNK * k_dim * 4) as u64;
        for span in &scratch.spans {
            let args = MlaExpandArgs {
                latent: l.layers[self.layer].0,
                chunks: l.batch.chunks,
                k_up: self.k_up,
                v_up: self.v_up,
                out: scratch.memory.at() + (span.first * scratch.stride) as u64,
                out_chunk: scratch.stride as u64,
                out_v,
                table0: span.table,
                n_pos: span.n_pos as u32,
                first_head: first as u32,
                n_heads: n as u32,
                rank: rank as u32,
                n_nope: n_nope as u32,
                n_rope: n_rope as u32,
                n_v: n_v as u32,
            };
            let grid =
                [args.n_pos.div_ceil(POSITIONS), (args.n_nope + args.n_v).div_ceil(ELEMENTS), n as u32];
            // SAFETY: the cache has these positions, and the scratch a chunk for each of the cache's with room for `n` heads.
            unsafe { self.expand.launch(Geometry::new(grid, 128), &args)? };
        }
        let rows =
            |offset, dim: usize| args::CacheRows { offset, row: 4 * dim as u64, ty: SPLIT, dim: dim as u32 };
        Ok((rows(0, k_dim), rows(out_v, n_v)))
    }
}
