//! A compiled graph with its memory, run batch by batch.

use std::collections::HashMap;
use std::ptr;
use std::sync::Arc;

use super::args;
use super::compile::{FEW, Launcher, Plan};
use super::device::{Device, Memory, Stream};
use super::driver::{DevicePtr, Handle};
use super::modules::Modules;
use super::naive::{self, Scratch, Span};
use super::staging::Pinned;
use super::weights::Weights;
use crate::arena::place;
use crate::backend::{Program, Share, check_rows, check_values};
use crate::cache::{CHUNK, Cache, LayerCache};
use crate::error::{Error, Result};
use crate::graph::{BufId, Graph, Row, Rows, SKIPPED, SelId, Tally, TallyId};
use crate::ops::Op;
use crate::reference::check_tokens;

/// Rows of outputs that there is room for at first; logits are wide, and usually one row is wanted.
const OUTPUTS: usize = 8;

/// Recorded steps of batches of few rows that are kept.
const MAX_RECORDED: usize = 64;

pub(super) struct CudaProgram {
    // Recordings hold launches of kernels in modules: they go first.
    recorded: HashMap<Key, Recording>,
    device: Arc<Device>,
    _modules: Arc<Modules>,
    graph: Graph,
    plan: Plan,
    tokens: Arena,
    outputs: Arena,
    max_rows: usize,
    max_chunks: usize,
    places: Vec<DevicePtr>,
    batch: BatchMemory,
    /// Choices by others for batches of few rows, on their way: of each selection ids, and then weights.
    choices: Pinned,
    scratch: Option<Scratch>,
    /// The layer and dimensions (keys, values, heads) of latent attention in its naive form.
    naive: Option<[usize; 3]>,
    /// Layers of the cache that are used, all in one memory.
    cache_layers: Vec<usize>,
    /// Where the rows of each layer lie.
    layers: Vec<(args::CacheRows, args::CacheRows)>,
    /// Spans of keys of the longest row of the latest batch.
    n_spans: u32,
    /// Its tokens and outputs.
    n_rows: (usize, usize),
}

/// Memory that regions share.
struct Arena {
    memory: Option<Memory>,
    /// Rows that there is room for.
    rows: usize,
}

/// What a recording depends on besides device memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    part: usize,
    n_rows: (usize, usize),
    n_spans: u32,
}

/// A captured list of launches.
struct Recording {
    device: Arc<Device>,
    exec: Handle,
}

// SAFETY: handles of the driver API may be used from any thread.
unsafe impl Send for Recording {}

impl Drop for Recording {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: instantiated once; the driver waits for what still runs.
            unsafe { (self.device.driver().call.graph_exec_destroy)(self.exec) };
        }
    }
}

/// The batch as kernels see it, on both sides.
struct BatchMemory {
    host: Pinned,
    device: Memory,
    /// Numbers for tokens, positions, tables, outputs, and tables of the naive form; then addresses of chunks.
    rows: usize,
    chunks: usize,
}

/// Lists of a number for each row.
const LISTS: usize = 5;

impl BatchMemory {
    fn new(device: &Arc<Device>, rows: usize, chunks: usize) -> Result<Self> {
        let rows = rows.next_multiple_of(2);
        let bytes = 4 * LISTS * rows + 8 * 2 * chunks;
        Ok(BatchMemory {
            host: Pinned::new(device, bytes)?,
            device: device.alloc("the batch", bytes)?,
            rows,
            chunks,
        })
    }

    fn list(&self, i: usize) -> DevicePtr {
        self.device.at() + (4 * i * self.rows) as u64
    }

    /// Addresses of the cache's chunks (0), and of those of the naive form (1).
    fn addresses(&self, i: usize) -> DevicePtr {
        self.list(LISTS) + (8 * i * self.chunks) as u64
    }
}

impl CudaProgram {
    pub fn new(
        device: &Arc<Device>,
        modules: &Arc<Modules>,
        weights: &Weights,
        graph: &Graph,
        layers: &[LayerCache],
        max_rows: usize,
        share: &Share,
    ) -> Result<Self> {
        let plan = super::compile::compile(graph, layers, modules, weights, share)?;
        let own: Vec<&Op> = share.parts.iter().flatten().map(|&op| &graph.ops()[op]).collect();
        let naive = own.iter().find_map(|op| match op {
            Op::MlaNaive(o) => {
                let k_dim = o.n_nope + layers[o.layer].k_dim - o.kv_lora_rank;
                Some([k_dim, o.y.width, o.q.n])
            }
            _ => None,
        });
        let max_chunks = 2 * max_rows.div_ceil(CHUNK) + 2;
        let choices = graph.sels.iter().map(|n| 4 * 2 * n * FEW).sum();
        let mut program = CudaProgram {
            recorded: HashMap::new(),
            device: device.clone(),
            _modules: modules.clone(),
            graph: graph.clone(),
            places: vec![0; plan.regions.len()],
            plan,
            tokens: Arena { memory: None, rows: 0 },
            outputs: Arena { memory: None, rows: 0 },
            max_rows,
            max_chunks,
            batch: BatchMemory::new(device, max_rows, max_chunks)?,
            choices: Pinned::new(device, choices)?,
            scratch: None,
            naive,
            cache_layers: own.iter().filter_map(|op| layer_of(op)).collect(),
            layers: vec![],
            n_spans: 1,
            n_rows: (0, 0),
        };
        program.make_room(max_rows.min(OUTPUTS))?;
        Ok(program)
    }

    /// Places all regions, with room for so many outputs.
    fn make_room(&mut self, outputs: usize) -> Result<()> {
        self.recorded.clear();
        self.arena(Rows::Tokens, self.max_rows)?;
        self.arena(Rows::Outputs, outputs)
    }

    fn arena(&mut self, kind: Rows, rows: usize) -> Result<()> {
        let arena = if kind == Rows::Tokens { &mut self.tokens } else { &mut self.outputs };
        if arena.rows >= rows && arena.memory.is_some() {
            return Ok(());
        }
        arena.memory = None;
        let of = |r: &super::compile::Region| if r.rows == kind { r.floats(rows) } else { 0 };
        let sizes: Vec<usize> = self.plan.regions.iter().map(of).collect();
        let (places, len) = place(&sizes, &self.plan.lives);
        // Zeros, as on every backend: columns that nothing writes may be read.
        let memory = self.device.zeroed("activations", 4 * len)?;
        for (i, region) in self.plan.regions.iter().enumerate().filter(|(_, r)| r.rows == kind) {
            debug_assert!(region.floats(rows) == sizes[i]);
            self.places[i] = memory.at() + 4 * places[i] as u64;
        }
        arena.rows = rows;
        arena.memory = Some(memory);
        Ok(())
    }

    /// Sends the batch to the device: tokens, positions, outputs, and where the sequences have their chunks.
    fn send(&mut self, batch: &[Row], cache: &Cache) -> Result<()> {
        let spans = self.sequences(batch, cache);
        let n_chunks = spans.iter().map(|s| s.1.n_pos.div_ceil(CHUNK)).sum::<usize>();
        // The latest batch may still be on its way out of this memory.
        self.device.wait()?;
        if n_chunks > self.max_chunks {
            self.max_chunks = n_chunks.next_power_of_two();
            self.recorded.clear();
            self.batch = BatchMemory::new(&self.device, self.max_rows, self.max_chunks)?;
        }
        let stride = match self.naive {
            Some(dims) => self.make_scratch(dims, &spans, n_chunks)?,
            None => None,
        };
        let rows = self.batch.rows;
        let bytes = self.batch.host.part_mut(0..self.batch.device.len());
        let (lists, addresses) = bytes.split_at_mut(4 * LISTS * rows);
        let lists: &mut [u32] = bytemuck::cast_slice_mut(lists);
        let addresses: &mut [u64] = bytemuck::cast_slice_mut(addresses);
        let first_of = |seq: u32| spans.iter().find(|s| s.0 == seq).map_or(0, |s| s.1.table);
        let outputs = (0u32..).zip(batch).filter(|(_, r)| r.output).map(|(i, _)| i);
        for (i, r) in batch.iter().enumerate() {
            let first = first_of(r.seq);
            for (list, value) in [(0, r.token), (1, r.pos), (2, first), (4, first)] {
                lists[list * rows + i] = value;
            }
        }
        outputs.enumerate().for_each(|(j, i)| lists[3 * rows + j] = i);
        let layer = self.cache_layers.first().copied();
        for (seq, span) in &spans {
            for c in 0..span.n_pos.div_ceil(CHUNK) {
                let at = span.first + c;
                addresses[at] = layer.map_or(0, |il| cache.address(*seq, il, c));
                if let Some((base, stride)) = stride {
                    addresses[self.max_chunks + at] = base + (at * stride) as u64;
                }
            }
        }
        self.batch.host.send(Stream::Compute, 0..self.batch.device.len(), self.batch.device.at())
    }

    /// The sequences of a batch with their positions, in the order of their first rows.
    fn sequences(&self, batch: &[Row], cache: &Cache) -> Vec<(u32, Span)> {
        let has_layers = cache.n_layers() > 0;
        let mut spans: Vec<(u32, Span)> = vec![];
        for r in batch.iter().filter(|_| has_layers) {
            let n_pos = r.pos as usize + 1;
            match spans.iter_mut().find(|s| s.0 == r.seq) {
                Some(s) => s.1.n_pos = s.1.n_pos.max(n_pos),
                None => spans.push((r.seq, Span { table: 0, first: 0, n_pos })),
            }
        }
        let mut first = 0;
        for (_, s) in &mut spans {
            (s.table, s.first) = (first as u32, first);
            first += s.n_pos.div_ceil(CHUNK);
        }
        spans
    }

    /// Room for keys and values of the naive form: its address and the bytes from one chunk to the next.
    fn make_scratch(
        &mut self,
        [k_dim, v_dim, n_head]: [usize; 3],
        spans: &[(u32, Span)],
        n_chunks: usize,
    ) -> Result<Option<(DevicePtr, usize)>> {
        let stride = naive::stride(k_dim, v_dim, n_head, n_chunks);
        let need = stride * n_chunks;
        let memory = match self.scratch.take() {
            Some(s) if s.memory.len() >= need => s.memory,
            old => {
                drop(old);
                self.device.alloc("keys and values of latents", need)?
            }
        };
        let at = memory.at();
        self.scratch = Some(Scratch {
            memory,
            spans: spans.iter().map(|s| s.1).collect(),
            table: self.batch.list(4),
            chunks: self.batch.addresses(1),
            stride,
        });
        Ok(Some((at, stride)))
    }

    /// Puts the steps of a part into the stream: a recording of them if there is one, and makes one where that is worth it.
    fn launch(&mut self, part: usize) -> Result<()> {
        if !self.plan.capturable || self.n_rows.0 > FEW {
            return self.steps(part);
        }
        let key = Key { part, n_rows: self.n_rows, n_spans: self.n_spans };
        if !self.recorded.contains_key(&key) {
            if self.recorded.len() >= MAX_RECORDED * self.plan.parts.len() {
                self.recorded.clear();
            }
            let recording = self.record(part)?;
            self.recorded.insert(key, recording);
        }
        let Some(r) = self.recorded.get(&key) else { return Ok(()) };
        let d = &self.device;
        // SAFETY: the recording names memory that is where it was: whatever moves it drops all recordings.
        d.check("starting a step", unsafe { (d.driver().call.graph_launch)(r.exec, d.stream()) })
    }

    fn steps(&self, part: usize) -> Result<()> {
        let launcher = Launcher {
            regions: &self.plan.regions,
            places: &self.places,
            capacity: (self.tokens.rows, self.outputs.rows),
            n_rows: self.n_rows,
            n_spans: self.n_spans,
            batch: args::Batch {
                token: self.batch.list(0),
                pos: self.batch.list(1),
                table: self.batch.list(2),
                output: self.batch.list(3),
                chunks: self.batch.addresses(0),
            },
            layers: &self.layers,
            naive: self.scratch.as_ref(),
        };
        self.plan.steps[self.plan.parts[part].clone()].iter().try_for_each(|step| step(&launcher))
    }

    fn record(&self, part: usize) -> Result<Recording> {
        const THREAD_LOCAL: u32 = 1;
        let d = &self.device;
        let call = &d.driver().call;
        // SAFETY: the stream is the device's own, and nothing else is put into it meanwhile.
        d.check("recording a step", unsafe { (call.capture_begin)(d.stream(), THREAD_LOCAL) })?;
        let launched = self.steps(part);
        let mut graph = ptr::null_mut();
        // SAFETY: writes one handle; the capture began above, and must end whatever happened.
        let ended = unsafe { (call.capture_end)(d.stream(), &mut graph) };
        let mut exec = ptr::null_mut();
        let made = launched.and_then(|()| d.check("recording a step", ended)).and_then(|()| {
            // SAFETY: writes one handle; the graph is alive.
            d.check("recording a step", unsafe { (call.graph_instantiate)(&mut exec, graph, 0) })
        });
        if !graph.is_null() {
            // SAFETY: the graph is this function's own, and what was made of it does not need it.
            unsafe { (call.graph_destroy)(graph) };
        }
        made?;
        Ok(Recording { device: d.clone(), exec })
    }

    /// Address and floats of a buffer's rows of the latest run.
    fn buffer(&self, buf: BufId) -> Result<(&Memory, usize, usize)> {
        let i = buf.0 as usize;
        let b = self.graph.bufs.get(i).ok_or_else(|| Error::Batch("no such buffer".into()))?;
        let (arena, rows) = match b.rows {
            Rows::Tokens => (&self.tokens, self.n_rows.0),
            Rows::Outputs => (&self.outputs, self.n_rows.1),
        };
        let memory = arena.memory.as_ref().ok_or_else(|| Error::Batch("no memory for activations".into()))?;
        Ok((memory, (self.places[i] - memory.at()) as usize, rows * b.width))
    }
}

/// Spans that a row with so many keys is divided into, as kernels do it.
fn n_spans(n: u32) -> u32 {
    let span = n.div_ceil(args::MAX_SPANS).next_multiple_of(args::MIN_SPAN);
    n.div_ceil(span)
}

/// The layer of the cache that an operation works on.
fn layer_of(op: &Op) -> Option<usize> {
    match op {
        Op::StoreKv(o) => Some(o.layer),
        Op::Attention(o) => Some(o.layer),
        Op::MlaNaive(o) => Some(o.layer),
        _ => None,
    }
}

/// Where the rows of each layer lie, as kernels take it.
fn cache_rows(cache: &Cache) -> Vec<(args::CacheRows, args::CacheRows)> {
    let rows = |il: usize| {
        let (layer, (k, v)) = (cache.layer(il), cache.rows_in(il));
        let one = |r: crate::cache::RowsIn, ty, dim: usize| args::CacheRows {
            offset: r.offset as u64,
            row: r.row as u64,
            ty: super::compile::cache_type(ty).unwrap_or(0),
            dim: dim as u32,
        };
        (one(k, layer.k_ty, layer.k_dim), one(v, layer.v_ty(), layer.v_dim()))
    };
    (0..cache.n_layers()).map(rows).collect()
}

impl Program for CudaProgram {
    fn begin(&mut self, batch: &[Row], cache: &Cache) -> Result<()> {
        check_rows(batch.len(), self.max_rows)?;
        check_tokens(&self.graph, batch)?;
        if let Some(il) = self.cache_layers.iter().find(|il| cache.memory_of(**il).is_none()) {
            return Err(Error::Unsupported(format!("layer {il} of the cache is not on the device")));
        }
        self.device.enter()?;
        let outputs = batch.iter().filter(|r| r.output).count();
        self.n_rows = (batch.len(), outputs);
        self.n_spans = n_spans(batch.iter().map(|r| r.pos + 1).max().unwrap_or(1));
        if outputs > self.outputs.rows {
            self.make_room(outputs.next_power_of_two().min(self.max_rows))?;
        }
        let layers = cache_rows(cache);
        if self.layers != layers {
            self.recorded.clear();
            self.layers = layers;
        }
        self.send(batch, cache)
    }

    fn write(&mut self, buf: BufId, values: &[f32]) -> Result<()> {
        let (memory, at, len) = self.buffer(buf)?;
        check_values(values.len(), len)?;
        memory.write(at, bytemuck::cast_slice(values))
    }

    fn n_parts(&self) -> usize {
        self.plan.parts.len()
    }

    fn run_part(&mut self, part: usize, _cache: &mut Cache) -> Result<()> {
        self.device.enter()?;
        self.launch(part)
    }

    fn choose(&mut self, sel: SelId, chosen: &[(u32, f32)]) -> Result<()> {
        let n_used = self.graph.n_used(sel);
        check_values(chosen.len(), self.n_rows.0 * n_used)?;
        let weight = |c: &(u32, f32)| if c.0 == SKIPPED { 0.0 } else { c.1 };
        let words = chosen.iter().map(|c| c.0).chain(chosen.iter().map(|c| weight(c).to_bits()));
        let at = self.places[self.plan.sels[sel.0 as usize].region.0];
        self.device.enter()?;
        if self.n_rows.0 > FEW {
            let words: Vec<u32> = words.collect();
            let memory = self.tokens.memory.as_ref().ok_or_else(|| Error::Batch("no memory".into()))?;
            return memory.write((at - memory.at()) as usize, bytemuck::cast_slice(&words));
        }
        // The device has read what was here for the batch before: `send` waited for that.
        let first: usize = self.graph.sels[..sel.0 as usize].iter().map(|n| 2 * n * FEW).sum();
        let bytes = 4 * first..4 * (first + 2 * chosen.len());
        let host: &mut [u32] = bytemuck::cast_slice_mut(self.choices.part_mut(bytes.clone()));
        host.iter_mut().zip(words).for_each(|(to, word)| *to = word);
        self.choices.send(Stream::Compute, bytes, at)
    }

    fn read(&self, buf: BufId) -> Result<Vec<f32>> {
        let (memory, at, len) = self.buffer(buf)?;
        let mut values = vec![0f32; len];
        memory.read(at, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    fn tally(&self, tally: TallyId) -> Result<Tally> {
        let none = || Error::Batch("no such tally".into());
        let (sums, counts) = self.plan.tallies.get(tally.0 as usize).ok_or_else(none)?;
        let mut tally = Tally::new(self.graph.tally_shape(tally));
        sums.read(0, bytemuck::cast_slice_mut(&mut tally.sums))?;
        counts.read(0, bytemuck::cast_slice_mut(&mut tally.counts))?;
        Ok(tally)
    }
}
