//! Slots: memory left on a device, each holding one expert of the host's, those that are used most.
//!
//! **Which.** Every use of an expert counts one, and counts halve within [`HALF_LIFE`] tokens. Among slots of one size the expert with the
//! least count goes. Plain recency would bring an expert for every miss: where a layer has 256 experts and a token uses 8, most misses are
//! never met again before their slot is wanted. Bringing an expert reads it from the host's memory once, as using it there does; so one
//! comes only if it is ahead of what goes by a use.
//!
//! **When.** After a step, the experts that it missed are candidates. A device brings them beside its kernels and the host's threads
//! ([`SlotMemory`]); they are found from the first step on that begins after they have come. What is on its way is at most an eighth of
//! what the step read on the host, and one expert in any case, so that neither the bus nor memory is what a step waits for.
//!
//! Where an expert is computed changes last bits of the results, as between any two backends.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Slotting;
use super::schedule::Mixture;
use crate::backend::{Arrival, Piece, SlotMemory, SlotStack, SlotUse};
use crate::error::Result;
use crate::format::GgmlType;
use crate::graph::{Graph, SKIPPED, Stack, WeightId};
use crate::tensor::Tensor;

/// Tokens in which a count halves: long enough to tell experts that a token in thirty uses, short enough to follow a change of subject.
const HALF_LIFE: f32 = 256.0;

/// Counts are divided before what a use adds, which grows instead of all others shrinking, is larger than this.
const LARGEST: f32 = 1e18;

/// Of the bytes that a step read on the host, the part that may be on its way to slots.
const PART: usize = 8;

/// What addresses of matrices are multiples of.
const ALIGN: usize = 256;

/// What experts in slots of one pool have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kind {
    device: usize,
    /// Format, rows and bytes of a row, of gate, up and down.
    matrices: [(GgmlType, usize, usize); 3],
}

impl Kind {
    fn of(graph: &Graph, m: &Mixture) -> Kind {
        let matrix = |s: Stack| (graph.weight(s.w).ty(), s.rows, graph.weight(s.w).row_bytes());
        Kind { device: m.device, matrices: m.stacks.map(matrix) }
    }

    /// Where the matrices begin in a slot, and its bytes.
    fn layout(&self) -> ([usize; 3], usize) {
        let mut at = 0;
        let starts = self.matrices.map(|(_, rows, row)| {
            let start = at;
            at += (rows * row).next_multiple_of(ALIGN);
            start
        });
        (starts, at)
    }
}

/// Slots of one kind.
struct Pool {
    kind: Kind,
    memory: Arc<dyn SlotMemory>,
    /// Where the first slot begins in it.
    first: usize,
    owners: Vec<Owner>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Nobody,
    /// Expert of a mixture.
    Expert(usize, usize),
    /// One that has not come.
    Coming,
}

/// The experts of a layer.
struct Experts {
    pool: usize,
    stacks: [(Tensor, Stack); 3],
    /// The slot of each, or [`SKIPPED`].
    slots: Vec<u32>,
    /// Whether each is on its way.
    coming: Vec<bool>,
    uses: Vec<f32>,
}

struct Coming {
    /// Pool and slot, mixture and expert.
    slot: (usize, usize),
    expert: (usize, usize),
    arrival: Box<dyn Arrival>,
}

/// Choices of the rows of a batch: for the host, and for the device as numbers of slots.
pub(super) struct Split {
    pub host: Vec<(u32, f32)>,
    pub device: Vec<(u32, f32)>,
}

/// All slots of all devices.
pub(super) struct Slots {
    pools: Vec<Pool>,
    experts: Vec<Experts>,
    /// Mixtures by their gates.
    by_gate: HashMap<WeightId, usize>,
    coming: Vec<Coming>,
    /// Mixtures and experts that this step computed on the host.
    missed: HashSet<(usize, usize)>,
    /// What a use adds now.
    one: f32,
    /// Tokens of this step.
    rows: usize,
    /// Whether experts are brought: not after a failure.
    bringing: bool,
    so_far: SlotUse,
}

impl Slots {
    /// Slots for these mixtures, given what of each backend's memory is for them, and how to have it.
    ///
    /// # Errors
    /// If there is no room after all.
    pub fn new(
        graph: &Graph,
        mixtures: &[Mixture],
        room: &[Slotting],
        memory: impl Fn(usize, usize) -> Result<Option<Arc<dyn SlotMemory>>>,
    ) -> Result<Slots> {
        let mut slots = Slots {
            pools: vec![],
            experts: vec![],
            by_gate: HashMap::new(),
            coming: vec![],
            missed: HashSet::new(),
            one: 1.0,
            rows: 0,
            bringing: true,
            so_far: SlotUse::default(),
        };
        for (device, room) in room.iter().enumerate() {
            slots.add_device(graph, mixtures, (device, room), &memory)?;
        }
        Ok(slots)
    }

    fn add_device(
        &mut self,
        graph: &Graph,
        mixtures: &[Mixture],
        (device, room): (usize, &Slotting),
        memory: &impl Fn(usize, usize) -> Result<Option<Arc<dyn SlotMemory>>>,
    ) -> Result<()> {
        let here = || mixtures.iter().filter(|m| m.device == device);
        let mut kinds: Vec<(Kind, usize)> = vec![];
        for m in here() {
            let (kind, n) = (Kind::of(graph, m), m.stacks[0].n);
            match kinds.iter_mut().find(|k| k.0 == kind) {
                Some(k) => k.1 += n,
                None => kinds.push((kind, n)),
            }
        }
        let sizes: Vec<(usize, usize)> = kinds.iter().map(|(k, n)| (k.layout().1, *n)).collect();
        let counts = divide(room, &sizes);
        let bytes = counts.iter().zip(&sizes).map(|(n, (bytes, _))| n * bytes).sum();
        if bytes == 0 {
            return Ok(());
        }
        let Some(memory) = memory(device, bytes)? else { return Ok(()) };
        let (mut first, first_pool) = (0, self.pools.len());
        for ((kind, _), n) in kinds.into_iter().zip(counts) {
            let owners = vec![Owner::Nobody; n];
            self.pools.push(Pool { kind, memory: memory.clone(), first, owners });
            first += n * kind.layout().1;
            self.so_far.slots += n;
        }
        self.so_far.bytes += bytes as u64;
        for m in here() {
            let kind = Kind::of(graph, m);
            let pool = (first_pool..self.pools.len()).find(|p| self.pools[*p].kind == kind);
            let Some(pool) = pool.filter(|p| !self.pools[*p].owners.is_empty()) else { continue };
            let n = m.stacks[0].n;
            let stacks = m.stacks.map(|s| (graph.weight(s.w).clone(), s));
            self.by_gate.insert(m.gate(), self.experts.len());
            let (slots, coming, uses) = (vec![SKIPPED; n], vec![false; n], vec![0.0; n]);
            self.experts.push(Experts { pool, stacks, slots, coming, uses });
        }
        Ok(())
    }

    /// Where a mixture's experts are looked for on its device, if it has slots.
    pub fn stack(&self, gate: WeightId) -> Option<SlotStack> {
        let pool = &self.pools[self.experts[*self.by_gate.get(&gate)?].pool];
        let (starts, stride) = pool.kind.layout();
        let matrices = starts.map(|start| pool.first + start);
        Some(SlotStack { memory: pool.memory.clone(), matrices, stride })
    }

    /// What has become of them so far.
    pub fn so_far(&self) -> SlotUse {
        self.so_far
    }

    /// Begins a step of so many tokens: what has come is found from now on.
    pub fn begin(&mut self, rows: usize) {
        self.rows = rows;
        self.missed.clear();
        for c in std::mem::take(&mut self.coming) {
            let (mixture, expert) = c.expert;
            match c.arrival.has_come() {
                Ok(false) => self.coming.push(c),
                Ok(true) => {
                    self.pools[c.slot.0].owners[c.slot.1] = Owner::Expert(mixture, expert);
                    let e = &mut self.experts[mixture];
                    e.slots[expert] = c.slot.1 as u32;
                    e.coming[expert] = false;
                    self.so_far.brought += 1;
                }
                Err(e) => self.stop(&e),
            }
        }
    }

    /// No more experts are brought; those that are there can be used.
    fn stop(&mut self, why: &crate::error::Error) {
        if self.bringing {
            log::info!("{why}: experts in slots stay as they are");
        }
        self.bringing = false;
    }

    /// Divides the choices of a batch, if slots are asked for such; otherwise all are the host's.
    pub fn split(&mut self, gate: WeightId, chosen: &[(u32, f32)], asked: bool) -> Option<Split> {
        let mixture = *self.by_gate.get(&gate)?;
        let e = &mut self.experts[mixture];
        let mut split = Split { host: chosen.to_vec(), device: vec![(SKIPPED, 0.0); chosen.len()] };
        for (i, &(expert, weight)) in chosen.iter().enumerate() {
            let at = expert as usize;
            let Some(&slot) = e.slots.get(at) else { continue };
            e.uses[at] += self.one;
            if asked && slot != SKIPPED {
                split.host[i] = (SKIPPED, 0.0);
                split.device[i] = (slot, weight);
                self.so_far.hits += 1;
                continue;
            }
            self.so_far.misses += u64::from(asked);
            if slot == SKIPPED {
                self.missed.insert((mixture, at));
            }
        }
        asked.then_some(split)
    }

    /// Ends a step: begins to bring what it missed most, as far as that is worth it.
    pub fn end(&mut self) {
        if self.bringing {
            let devices: HashSet<usize> = self.pools.iter().map(|p| p.kind.device).collect();
            devices.into_iter().for_each(|device| self.bring_to(device));
        }
        self.one *= 2f32.powf(self.rows as f32 / HALF_LIFE);
        if self.one > LARGEST {
            let one = std::mem::replace(&mut self.one, 1.0);
            self.experts.iter_mut().flat_map(|e| &mut e.uses).for_each(|uses| *uses /= one);
        }
    }

    fn pool_of(&self, mixture: usize) -> &Pool {
        &self.pools[self.experts[mixture].pool]
    }

    fn bytes_of(&self, mixture: usize) -> usize {
        self.pool_of(mixture).kind.layout().1
    }

    fn bring_to(&mut self, device: usize) {
        let here = |s: &Self, mixture| s.pool_of(mixture).kind.device == device;
        let missed = || self.missed.iter().copied().filter(|(m, _)| here(self, *m));
        let read: usize = missed().map(|(m, _)| self.bytes_of(m)).sum();
        let on_its_way = |s: &Self| -> usize {
            let coming = s.coming.iter().map(|c| c.expert.0).filter(|m| here(s, *m));
            coming.map(|m| s.bytes_of(m)).sum()
        };
        let mut candidates: Vec<(usize, usize)> = missed().collect();
        candidates.retain(|(m, e)| !self.experts[*m].coming[*e]);
        let uses = |s: &Self, (m, e): (usize, usize)| s.experts[m].uses[e];
        // Those that are equal in a fixed order.
        candidates.sort_by(|a, b| uses(self, *b).total_cmp(&uses(self, *a)).then(a.cmp(b)));
        // Pools whose best candidate is not worth it.
        let mut done: Vec<usize> = vec![];
        for candidate in candidates {
            let (mixture, pool) = (candidate.0, self.experts[candidate.0].pool);
            let coming = on_its_way(self);
            if !self.bringing || coming > 0 && coming + self.bytes_of(mixture) > read / PART {
                return;
            }
            if done.contains(&pool) {
                continue;
            }
            match self.free_slot(pool, uses(self, candidate)) {
                Some(slot) => self.bring(candidate, (pool, slot)),
                None => done.push(pool),
            }
        }
    }

    /// A slot for an expert of so many uses: one that nobody has, or that of the expert with the fewest if those are fewer by one.
    fn free_slot(&mut self, pool: usize, uses: f32) -> Option<usize> {
        let owners = &self.pools[pool].owners;
        if let Some(slot) = owners.iter().position(|o| *o == Owner::Nobody) {
            return Some(slot);
        }
        let used = |(slot, o): (usize, &Owner)| match *o {
            Owner::Expert(m, e) => Some((self.experts[m].uses[e], slot, m, e)),
            _ => None,
        };
        let least = owners.iter().enumerate().filter_map(used).min_by(|a, b| a.0.total_cmp(&b.0));
        let (_, slot, m, e) = least.filter(|l| l.0 + self.one < uses)?;
        self.experts[m].slots[e] = SKIPPED;
        Some(slot)
    }

    fn bring(&mut self, (mixture, expert): (usize, usize), (pool, slot): (usize, usize)) {
        let (p, e) = (&mut self.pools[pool], &mut self.experts[mixture]);
        let (starts, stride) = p.kind.layout();
        let piece = |((tensor, stack), start): (&(Tensor, Stack), usize)| {
            let (row, first) = (tensor.row_bytes(), stack.row(expert, 0));
            let bytes = first * row..(first + stack.rows) * row;
            Piece { tensor: tensor.clone(), bytes, to: p.first + slot * stride + start }
        };
        let pieces = e.stacks.iter().zip(starts).map(piece).collect();
        p.owners[slot] = Owner::Coming;
        match p.memory.bring(pieces) {
            Ok(arrival) => {
                e.coming[expert] = true;
                self.coming.push(Coming { slot: (pool, slot), expert: (mixture, expert), arrival });
            }
            Err(e) => self.stop(&e),
        }
    }
}

/// Slots of each size, given bytes and number of those that could be filled: the same part of each, and what is left over one by one.
fn divide(room: &Slotting, sizes: &[(usize, usize)]) -> Vec<usize> {
    let bytes: f64 = sizes.iter().map(|(bytes, n)| *bytes as f64 * *n as f64).sum();
    let all: usize = sizes.iter().map(|s| s.1).sum();
    let part = (room.bytes as f64 / bytes.max(1.0)).min(room.most as f64 / all.max(1) as f64).min(1.0);
    let mut counts: Vec<usize> = sizes.iter().map(|(_, n)| (part * *n as f64) as usize).collect();
    loop {
        let before = counts.clone();
        for (i, (size, n)) in sizes.iter().enumerate() {
            let used: usize = counts.iter().zip(sizes).map(|(c, s)| c * s.0).sum();
            let more = counts.iter().sum::<usize>() < room.most && used + size <= room.bytes;
            counts[i] += usize::from(more && counts[i] < *n);
        }
        if counts == before {
            return counts;
        }
    }
}

#[cfg(test)]
mod tests;
