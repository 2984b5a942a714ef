//! The key/value cache: fixed chunks of rows behind a table per sequence.
//!
//! A chunk holds [`CHUNK`] positions of every layer. Sequences name their chunks in order, so that cutting a
//! sequence back, sharing a prefix and dropping a sequence are changes of the table; a chunk that two
//! sequences share is copied when one of them writes to it. Chunks are allocated as sequences grow, and
//! zeroed memory that nobody touched yet costs nothing on systems that commit pages on first use.
//!
//! Inside a chunk each layer has its keys as `[n_head_kv, CHUNK, k_dim]`, then its values as
//! `[n_head_kv, CHUNK, v_dim]`, each row encoded in the layer's format. With MLA there is one head
//! whose row is `[latent | rope]`, and the value of a row is the first part of the same row.
//!
//! Layers that a device computes have their rows in its memory; a chunk then has a part in each memory.

mod chunk;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::GgmlType;
use crate::graph::Row;
use chunk::Data;
pub use chunk::{ChunkMemory, DeviceChunk};

/// Positions of a chunk. Attention combines chunks in order, so results do not depend on how the work is split.
pub const CHUNK: usize = 256;

/// The value rows of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueRows {
    /// Rows of their own.
    Own {
        /// Elements of a head's row.
        dim: usize,
        /// Format of a row.
        ty: GgmlType,
    },
    /// The first elements of the key row (the latent of MLA).
    KeyPrefix {
        /// Elements.
        dim: usize,
    },
}

/// What a layer keeps per position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerCache {
    /// Heads that keep keys and values.
    pub n_head_kv: usize,
    /// Elements of a head's key row.
    pub k_dim: usize,
    /// Format of a key row: F32, F16 or Q8_0.
    pub k_ty: GgmlType,
    /// The values.
    pub v: ValueRows,
}

impl LayerCache {
    /// Elements of a value row of a head.
    pub fn v_dim(&self) -> usize {
        match self.v {
            ValueRows::Own { dim, .. } | ValueRows::KeyPrefix { dim } => dim,
        }
    }

    /// Format of a value row.
    pub fn v_ty(&self) -> GgmlType {
        match self.v {
            ValueRows::Own { ty, .. } => ty,
            ValueRows::KeyPrefix { .. } => self.k_ty,
        }
    }

    /// Bytes of a head's key row; `None` if the format cannot hold it.
    fn k_row_bytes(&self) -> Option<usize> {
        self.k_ty.row_bytes(self.k_dim)
    }

    fn v_row_bytes(&self) -> Option<usize> {
        match self.v {
            ValueRows::Own { dim, ty } => ty.row_bytes(dim),
            ValueRows::KeyPrefix { dim } => self.k_ty.row_bytes(dim).map(|_| 0),
        }
    }

    /// Bytes that a position takes in this layer; `None` if a format cannot hold its row.
    pub fn bytes_per_position(&self) -> Option<usize> {
        Some(self.n_head_kv * (self.k_row_bytes()? + self.v_row_bytes()?))
    }
}

/// Rows of one head in one chunk: `n` rows, `stride` bytes apart.
#[derive(Clone, Copy, Debug)]
pub struct RowsAt {
    /// The first row.
    pub ptr: *const u8,
    /// Bytes from one row to the next.
    pub stride: usize,
}

/// Where in a chunk the rows of a layer lie.
#[derive(Clone, Copy, Debug)]
struct LayerPlace {
    layer: LayerCache,
    /// Index of the memory.
    memory: usize,
    k_offset: usize,
    k_row: usize,
    v_offset: usize,
    v_row: usize,
}

#[derive(Clone, Debug, Default)]
struct Sequence {
    chunks: Vec<usize>,
    len: usize,
}

struct Chunk {
    /// A part for each memory.
    parts: Vec<Data>,
    users: usize,
}

/// Keys or values of a layer in the parts of chunks, as a device finds them: row `p` of head `h` at
/// `offset + (h * CHUNK + p) * row` bytes.
#[derive(Clone, Copy, Debug)]
pub struct RowsIn {
    /// Bytes before the first row.
    pub offset: usize,
    /// Bytes of a row; 0 for values that are key prefixes.
    pub row: usize,
}

/// A memory that layers can lie in: the host's, or a device's.
#[derive(Clone)]
pub struct Place {
    /// What gives the memory of chunks; `None` is the host.
    pub memory: Option<Arc<dyn ChunkMemory>>,
    /// Bytes of the part of a chunk.
    bytes: usize,
}

/// Keys and values of all sequences.
pub struct Cache {
    layers: Vec<LayerPlace>,
    places: Vec<Place>,
    capacity: usize,
    chunks: Vec<Chunk>,
    free: Vec<usize>,
    sequences: HashMap<u32, Sequence>,
}

impl Cache {
    /// A cache for up to `capacity` positions a sequence, in the host's memory.
    ///
    /// # Errors
    /// If a row does not fit the blocks of its format.
    pub fn new(layers: &[LayerCache], capacity: usize) -> Result<Self> {
        Cache::in_memories(layers, capacity, vec![None], &vec![0; layers.len()])
    }

    /// The same in several memories, `None` being the host's: layer `il` lies in memory `of_layer[il]`.
    ///
    /// # Errors
    /// If a row does not fit the blocks of its format.
    pub fn in_memories(
        layers: &[LayerCache],
        capacity: usize,
        memories: Vec<Option<Arc<dyn ChunkMemory>>>,
        of_layer: &[usize],
    ) -> Result<Self> {
        let mut places: Vec<Place> = memories.into_iter().map(|memory| Place { memory, bytes: 0 }).collect();
        let mut at_layers = Vec::with_capacity(layers.len());
        for (i, (layer, &memory)) in layers.iter().zip(of_layer).enumerate() {
            let bad = || {
                Error::Unsupported(format!(
                    "layer {i}: cache rows of {} and {} elements do not fit the formats {} and {}",
                    layer.k_dim,
                    layer.v_dim(),
                    layer.k_ty,
                    layer.v_ty()
                ))
            };
            let (k_row, v_row) = layer.k_row_bytes().zip(layer.v_row_bytes()).ok_or_else(bad)?;
            let at = &mut places[memory].bytes;
            let k_offset = *at;
            let v_offset = align(k_offset + layer.n_head_kv * CHUNK * k_row);
            *at = align(v_offset + layer.n_head_kv * CHUNK * v_row);
            at_layers.push(LayerPlace { layer: *layer, memory, k_offset, k_row, v_offset, v_row });
        }
        Ok(Cache {
            layers: at_layers,
            places,
            capacity,
            chunks: vec![],
            free: vec![],
            sequences: HashMap::new(),
        })
    }

    /// What layer `il` keeps.
    pub fn layer(&self, il: usize) -> &LayerCache {
        &self.layers[il].layer
    }

    /// Number of layers.
    pub fn n_layers(&self) -> usize {
        self.layers.len()
    }

    /// Positions a sequence can have.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Positions that the sequence has now.
    pub fn len(&self, seq: u32) -> usize {
        self.sequences.get(&seq).map_or(0, |s| s.len)
    }

    /// Whether the sequence has no positions.
    pub fn is_empty(&self, seq: u32) -> bool {
        self.len(seq) == 0
    }

    /// Bytes of all allocated chunks.
    pub fn allocated_bytes(&self) -> usize {
        self.chunks.len() * self.places.iter().map(|p| p.bytes).sum::<usize>()
    }

    /// Cuts the sequence back to `len` positions; longer than it is changes nothing.
    pub fn truncate(&mut self, seq: u32, len: usize) {
        let Some(s) = self.sequences.get_mut(&seq) else { return };
        s.len = s.len.min(len);
        let dropped = s.chunks.split_off(s.len.div_ceil(CHUNK).min(s.chunks.len()));
        self.release(dropped);
        if len == 0 {
            self.sequences.remove(&seq);
        }
    }

    /// Makes `dst` share the first `len` positions of `src`; what `dst` had is dropped.
    pub fn fork(&mut self, src: u32, dst: u32, len: usize) {
        self.truncate(dst, 0);
        let Some(s) = self.sequences.get(&src) else { return };
        let len = len.min(s.len);
        let chunks = s.chunks[..len.div_ceil(CHUNK)].to_vec();
        for &c in &chunks {
            self.chunks[c].users += 1;
        }
        self.sequences.insert(dst, Sequence { chunks, len });
    }

    /// Makes room for the rows of a batch and counts them as present.
    ///
    /// Rows of a sequence must follow each other and what the sequence already has.
    pub fn prepare(&mut self, batch: &[Row]) -> Result<()> {
        self.check(batch)?;
        for row in batch {
            let (pos, seq) = (row.pos as usize, row.seq);
            let index = pos / CHUNK;
            let chunk = self.sequences.entry(seq).or_default().chunks.get(index).copied();
            let chunk = match chunk {
                None => {
                    let c = self.allocate()?;
                    self.sequences.entry(seq).or_default().chunks.push(c);
                    c
                }
                Some(c) if self.chunks[c].users > 1 => self.unshare(c)?,
                Some(c) => c,
            };
            let s = self.sequences.entry(seq).or_default();
            s.chunks[index] = chunk;
            s.len = pos + 1;
        }
        Ok(())
    }

    /// Takes the memory for a full sequence now, if some of it is a device's, so that it cannot be missing later. The host
    /// commits memory as it is filled.
    ///
    /// # Errors
    /// If there is not so much.
    pub fn reserve(&mut self) -> Result<()> {
        if self.places.iter().all(|p| p.memory.is_none() || p.bytes == 0) {
            return Ok(());
        }
        let mut taken = vec![];
        let mut reserved = Ok(());
        while self.chunks.len() < self.capacity.div_ceil(CHUNK) && reserved.is_ok() {
            reserved = self.allocate().map(|chunk| taken.push(chunk));
        }
        self.free.extend(taken);
        reserved
    }

    fn check(&self, batch: &[Row]) -> Result<()> {
        let mut next: HashMap<u32, usize> = HashMap::new();
        for row in batch {
            let next = next.entry(row.seq).or_insert_with(|| self.len(row.seq));
            let (seq, pos) = (row.seq, row.pos);
            if pos as usize != *next {
                return Err(Error::Batch(format!(
                    "sequence {seq}: position {pos} where {next} should follow"
                )));
            }
            *next += 1;
            if *next > self.capacity {
                return Err(Error::CacheFull { needed: *next, capacity: self.capacity });
            }
        }
        Ok(())
    }

    fn allocate(&mut self) -> Result<usize> {
        if let Some(c) = self.free.pop() {
            self.chunks[c].users = 1;
            return Ok(c);
        }
        let parts: Result<Vec<_>> =
            self.places.iter().map(|p| Data::new(p.memory.as_deref(), p.bytes)).collect();
        self.chunks.push(Chunk { parts: parts?, users: 1 });
        Ok(self.chunks.len() - 1)
    }

    fn unshare(&mut self, shared: usize) -> Result<usize> {
        let parts: Result<Vec<_>> = self.chunks[shared].parts.iter().map(Data::duplicate).collect();
        let own = Chunk { parts: parts?, users: 1 };
        self.chunks[shared].users -= 1;
        Ok(match self.free.pop() {
            Some(c) => {
                self.chunks[c] = own;
                c
            }
            None => {
                self.chunks.push(own);
                self.chunks.len() - 1
            }
        })
    }

    fn release(&mut self, chunks: Vec<usize>) {
        for c in chunks {
            self.chunks[c].users -= 1;
            if self.chunks[c].users == 0 {
                self.free.push(c);
            }
        }
    }

    /// The host's part of a chunk.
    fn base(&self, seq: u32, memory: usize, chunk: usize) -> *const u8 {
        let at = self.part(seq, memory, chunk).host();
        assert!(!at.is_null(), "the rows lie on a device");
        at
    }

    fn part(&self, seq: u32, memory: usize, chunk: usize) -> &Data {
        &self.chunks[self.sequences[&seq].chunks[chunk]].parts[memory]
    }

    /// The memory that a layer lies in; `None` is the host's.
    pub fn memory_of(&self, il: usize) -> Option<&Arc<dyn ChunkMemory>> {
        self.places[self.layers[il].memory].memory.as_ref()
    }

    /// Chunks that a sequence has.
    pub fn n_chunks(&self, seq: u32) -> usize {
        self.sequences.get(&seq).map_or(0, |s| s.chunks.len())
    }

    /// The address on its device of the part of the `chunk`-th chunk of a sequence in which layer `il` lies; 0 on the host.
    ///
    /// # Panics
    /// If there is no such chunk.
    pub fn address(&self, seq: u32, il: usize, chunk: usize) -> u64 {
        self.part(seq, self.layers[il].memory, chunk).address()
    }

    /// Where in a chunk's part the keys and the values of a layer lie.
    pub fn rows_in(&self, il: usize) -> (RowsIn, RowsIn) {
        let p = &self.layers[il];
        (RowsIn { offset: p.k_offset, row: p.k_row }, RowsIn { offset: p.v_offset, row: p.v_row })
    }

    /// Key rows of a head in the `chunk`-th chunk of a sequence.
    pub fn keys(&self, seq: u32, il: usize, head: usize, chunk: usize) -> RowsAt {
        let p = &self.layers[il];
        let offset = p.k_offset + head * CHUNK * p.k_row;
        RowsAt { ptr: self.base(seq, p.memory, chunk).wrapping_add(offset), stride: p.k_row }
    }

    /// Value rows of a head in the `chunk`-th chunk of a sequence.
    pub fn values(&self, seq: u32, il: usize, head: usize, chunk: usize) -> RowsAt {
        let p = &self.layers[il];
        if let ValueRows::KeyPrefix { .. } = p.layer.v {
            return self.keys(seq, il, head, chunk);
        }
        let offset = p.v_offset + head * CHUNK * p.v_row;
        RowsAt { ptr: self.base(seq, p.memory, chunk).wrapping_add(offset), stride: p.v_row }
    }

    /// The encoded key row of a position.
    pub fn key_row(&self, seq: u32, il: usize, head: usize, pos: usize) -> &[u8] {
        let (at, len) = (self.keys(seq, il, head, pos / CHUNK), self.layers[il].k_row);
        // SAFETY: the offset of every row lies inside its chunk by the layout of `new`, and the chunk lives
        // as long as the borrow of the cache.
        unsafe { std::slice::from_raw_parts(at.ptr.add(pos % CHUNK * at.stride), len) }
    }

    /// The encoded value row of a position.
    pub fn value_row(&self, seq: u32, il: usize, head: usize, pos: usize) -> &[u8] {
        let (at, layer) = (self.values(seq, il, head, pos / CHUNK), &self.layers[il].layer);
        let len = layer.v_ty().row_bytes(layer.v_dim()).unwrap_or(0);
        // SAFETY: as in `key_row`; a key prefix is no longer than the key row.
        unsafe { std::slice::from_raw_parts(at.ptr.add(pos % CHUNK * at.stride), len) }
    }

    /// Hands out the rows of a sequence: of each chunk, layer and head the encoded keys, then the values, in one piece each.
    ///
    /// # Errors
    /// The first that `take` gives, or that of a device.
    pub fn export<E: From<Error>>(
        &self,
        seq: u32,
        take: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(s) = self.sequences.get(&seq) else { return Ok(()) };
        for (i, &chunk) in s.chunks.iter().enumerate() {
            for (memory, span) in spans(&self.layers, CHUNK.min(s.len - i * CHUNK)) {
                self.chunks[chunk].parts[memory].show(span, take)?;
            }
        }
        Ok(())
    }

    /// Makes `seq` a sequence of `len` positions with the rows that `fill` writes, in the order of [`Cache::export`]; what it
    /// had is dropped.
    ///
    /// # Errors
    /// If there are more positions than fit, or `fill` fails; the sequence is empty then.
    pub fn import<E: From<Error>>(
        &mut self,
        seq: u32,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.truncate(seq, 0);
        if len > self.capacity {
            return Err(Error::CacheFull { needed: len, capacity: self.capacity }.into());
        }
        let mut chunks = Vec::with_capacity(len.div_ceil(CHUNK));
        let filled = (0..len).step_by(CHUNK).try_for_each(|at| {
            let chunk = self.allocate()?;
            chunks.push(chunk);
            let parts = &mut self.chunks[chunk].parts;
            spans(&self.layers, CHUNK.min(len - at))
                .try_for_each(|(memory, span)| parts[memory].fill(span, fill))
        });
        match filled {
            Ok(()) if len > 0 => drop(self.sequences.insert(seq, Sequence { chunks, len })),
            _ => self.release(chunks),
        }
        filled
    }

    /// Where the key row of a position is to be written, and its length.
    ///
    /// Distinct positions, heads and layers never overlap.
    pub(crate) fn key_slot(&self, seq: u32, il: usize, head: usize, pos: usize) -> (*mut u8, usize) {
        let at = self.keys(seq, il, head, pos / CHUNK);
        (at.ptr.wrapping_add(pos % CHUNK * at.stride).cast_mut(), self.layers[il].k_row)
    }

    /// Where the value row of a position is to be written; length 0 where values are key prefixes.
    pub(crate) fn value_slot(&self, seq: u32, il: usize, head: usize, pos: usize) -> (*mut u8, usize) {
        let at = self.values(seq, il, head, pos / CHUNK);
        (at.ptr.wrapping_add(pos % CHUNK * at.stride).cast_mut(), self.layers[il].v_row)
    }
}

/// Where in a chunk its first `rows` rows lie, and in which memory: of each layer and head the keys, then the values that
/// have rows of their own.
fn spans(layers: &[LayerPlace], rows: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    layers.iter().flat_map(move |p| {
        let at = move |offset: usize, head: usize, row: usize| {
            let start = offset + head * CHUNK * row;
            start..start + rows * row
        };
        let heads = 0..p.layer.n_head_kv;
        heads
            .flat_map(move |h| [at(p.k_offset, h, p.k_row), at(p.v_offset, h, p.v_row)])
            .filter(|s| !s.is_empty())
            .map(|s| (p.memory, s))
    })
}

fn align(n: usize) -> usize {
    n.next_multiple_of(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(seq: u32, range: std::ops::Range<u32>) -> Vec<Row> {
        range.map(|pos| Row { token: 0, pos, seq, output: false }).collect()
    }

    fn cache() -> Cache {
        let v = ValueRows::Own { dim: 2, ty: GgmlType::F32 };
        Cache::new(&[LayerCache { n_head_kv: 2, k_dim: 3, k_ty: GgmlType::F32, v }; 2], 1000).unwrap()
    }

    fn write(c: &Cache, seq: u32, pos: usize, byte: u8) {
        let (at, len) = c.key_slot(seq, 1, 1, pos);
        // SAFETY: the slot belongs to a prepared row, and nothing else refers to it now.
        unsafe { std::ptr::write_bytes(at, byte, len) };
    }

    #[test]
    fn forked_sequences_do_not_see_each_others_rows() {
        let mut c = cache();
        c.prepare(&rows(0, 0..300)).unwrap();
        write(&c, 0, 299, 1);
        c.fork(0, 7, 300);
        c.prepare(&rows(7, 300..301)).unwrap();
        assert_eq!(c.key_row(7, 1, 1, 299)[0], 1);
        c.truncate(7, 299);
        c.prepare(&rows(7, 299..300)).unwrap();
        write(&c, 7, 299, 2);
        assert_eq!((c.key_row(0, 1, 1, 299)[0], c.key_row(7, 1, 1, 299)[0]), (1, 2));
        // The first chunk is still shared: three chunks in all.
        assert_eq!(c.allocated_bytes(), 3 * c.places[0].bytes);
    }

    #[test]
    fn exported_rows_come_back_as_they_were_and_only_those_in_use() {
        let mut c = cache();
        c.prepare(&rows(0, 0..300)).unwrap();
        write(&c, 0, 299, 7);
        let mut bytes = vec![];
        let taken: Result<()> = c.export(0, &mut |span| {
            bytes.extend_from_slice(span);
            Ok(())
        });
        taken.unwrap();
        // Two layers, two heads, three and two numbers of four bytes.
        assert_eq!(bytes.len(), 300 * 2 * 2 * (3 + 2) * 4);
        let mut other = cache();
        other.prepare(&rows(5, 0..600)).unwrap();
        let mut at = 0;
        let mut fill = |span: &mut [u8]| -> Result<()> {
            span.copy_from_slice(&bytes[at..at + span.len()]);
            at += span.len();
            Ok(())
        };
        other.import(5, 300, &mut fill).unwrap();
        assert_eq!(
            (other.len(5), other.key_row(5, 1, 1, 299)[0], other.key_row(5, 1, 1, 298)[0]),
            (300, 7, 0)
        );
        other.prepare(&rows(5, 300..301)).unwrap();
    }

    #[test]
    fn rows_that_do_not_come_leave_an_empty_sequence() {
        let mut c = cache();
        c.prepare(&rows(0, 0..300)).unwrap();
        let mut left = 5;
        let mut fill = |_: &mut [u8]| -> Result<()> {
            left -= 1;
            if left == 0 { Err(Error::Batch("no more".into())) } else { Ok(()) }
        };
        assert!(c.import(0, 600, &mut fill).is_err());
        assert!(c.is_empty(0));
        assert!(matches!(c.import(0, 1001, &mut |_| Ok(())), Err(Error::CacheFull { needed: 1001, .. })));
        c.prepare(&rows(0, 0..1000)).unwrap();
        assert_eq!(c.allocated_bytes(), 4 * c.places[0].bytes);
    }

    #[test]
    fn dropped_chunks_are_used_again() {
        let mut c = cache();
        c.prepare(&rows(0, 0..600)).unwrap();
        let bytes = c.allocated_bytes();
        c.truncate(0, 10);
        c.prepare(&rows(0, 10..600)).unwrap();
        assert_eq!((c.allocated_bytes(), c.len(0)), (bytes, 600));
    }

    #[test]
    fn gaps_and_overflow_are_refused_and_change_nothing() {
        let mut c = cache();
        assert!(matches!(c.prepare(&rows(0, 1..2)), Err(Error::Batch(_))));
        let full = c.prepare(&rows(0, 0..1001));
        assert!(matches!(full, Err(Error::CacheFull { needed: 1001, capacity: 1000 })));
        assert_eq!((c.len(0), c.allocated_bytes()), (0, 0));
    }
}
