//! The Plan: which part of a model lies on which device.
//!
//! Parts go to devices by what they cost each token there and here: everything if it fits; of a mixture too large, all that every
//! token meets (attention, shared experts, router, cache), and the routed experts of as many of the last layers as there is room
//! for; of anything else the last layers. The embedding, of which a token reads one row, goes to a device only if everything
//! does, or if it is the output matrix too.
//!
//! Where experts stay behind, the device gets two buffers, if there is room, through which they are sent to it for long batches. All
//! that is left then, but for what logits of a whole batch may take later, is slots for the experts that are used most.

use ggml_sys::cache::LayerCache;
use ggml_sys::hybrid::{Placement, Slotting, Streaming};

use crate::model::Model;

/// Bytes that a device needs besides what is counted: its context, modules, recorded steps.
const RESERVE: u64 = 384 << 20;

/// Bytes of each of the buffers through which experts are sent: some milliseconds of a bus, and work for all of a device.
const BUFFER: u64 = 128 << 20;

/// The host, as a number of a device.
pub const HOST: usize = 0;

/// What the parts of a model take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// The embedding, if it is not the output matrix.
    pub embedding: u64,
    /// The norm behind the layers, and the output matrix.
    pub head: u64,
    /// The layers.
    pub layers: Vec<LayerSizes>,
    /// Activations of a batch, on each device that takes part.
    pub activations: u64,
    /// Sending experts to devices for long batches, if that is of use.
    pub streaming: Option<StreamingSizes>,
    /// What the outputs of a batch take if all of them are wanted, which is known later.
    pub outputs: u64,
}

/// What it takes to send experts to a device for long batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamingSizes {
    /// Rows of such a batch at least.
    pub min_rows: usize,
    /// Bytes of each of two buffers.
    pub buffer: u64,
    /// Activations of shorter batches, which have a place of their own.
    pub activations: u64,
}

impl StreamingSizes {
    fn bytes(&self) -> u64 {
        2 * self.buffer + self.activations
    }
}

/// What a layer takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerSizes {
    /// Weights that every token meets.
    pub dense: u64,
    /// Routed experts.
    pub experts: u64,
    /// Its rows of a full context.
    pub cache: u64,
}

/// What the user decided, as far as that is the case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// So many of the last layers go to devices; more than there are layers means the output matrix too.
    pub gpu_layers: Option<usize>,
    /// The experts of so many of the first layers stay in host memory.
    pub host_experts: Option<usize>,
    /// So many slots for experts on a device at the most.
    pub slots: Option<usize>,
}

/// A place for each part: [`HOST`], or 1 for the first device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Of the embedding.
    pub embedding: usize,
    /// Of the output matrix.
    pub head: usize,
    /// Of each layer: weights that every token meets, and its cache.
    pub layers: Vec<usize>,
    /// Of each layer's experts.
    pub experts: Vec<usize>,
    /// Whether experts on the host are sent to the device of their layer for long batches.
    pub streaming: Option<StreamingSizes>,
    /// Bytes on each device, the first device first, without slots.
    pub used: Vec<u64>,
    /// Bytes of each device for slots.
    pub slots: Vec<u64>,
    /// Slots on a device at the most.
    pub most_slots: usize,
}

/// Why a wish cannot be granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} needs {needed} bytes of device memory, and {free} are free")]
pub struct TooLarge {
    /// What was asked for.
    pub what: String,
    /// Bytes that it takes.
    pub needed: u64,
    /// Bytes that there are.
    pub free: u64,
    /// Layers that would fit.
    pub fitting: usize,
}

impl Sizes {
    /// Of a model with such layers of the cache, `n_ctx` positions of it, and batches of `n_batch` rows.
    pub fn new(model: &Model, layers: &[LayerCache], n_ctx: usize, n_batch: usize) -> Sizes {
        let positions = n_ctx.next_multiple_of(ggml_sys::cache::CHUNK) as u64;
        let cache = |l: &LayerCache| LayerSizes {
            cache: positions * l.bytes_per_position().unwrap_or(0) as u64,
            ..LayerSizes::default()
        };
        let mut sizes = Sizes {
            layers: layers.iter().map(cache).collect(),
            activations: activations(model, layers, n_batch),
            outputs: 4 * (model.base().n_vocab + model.base().n_embd) as u64 * n_batch as u64,
            ..Sizes::default()
        };
        for (id, t) in model.weights().iter() {
            let bytes = t.bytes().len() as u64;
            match part(t.name()) {
                Part::Layer(il) if il < layers.len() => sizes.layers[il].dense += bytes,
                Part::Experts(il) if il < layers.len() => sizes.layers[il].experts += bytes,
                _ if id == model.base().token_embd && id != model.base().output => sizes.embedding += bytes,
                _ => sizes.head += bytes,
            }
        }
        sizes
    }

    /// The same with experts that are sent to devices for batches of `min_rows` rows and more, if there are such.
    pub fn with_streaming(
        self,
        model: &Model,
        layers: &[LayerCache],
        n_batch: usize,
        min_rows: usize,
    ) -> Sizes {
        let largest = self.layers.iter().map(|l| l.experts).max().unwrap_or(0);
        let (Some((n_expert, _)), true) = (model.network().experts(), (2..=n_batch).contains(&min_rows))
        else {
            return self;
        };
        // One expert fits in any case, with what its matrices are aligned to.
        let one = largest.div_ceil(n_expert.max(1) as u64) + 4096;
        let buffer = BUFFER.min(largest).max(one);
        let activations = activations(model, layers, min_rows - 1);
        Sizes { streaming: Some(StreamingSizes { min_rows, buffer, activations }), ..self }
    }

    /// Bytes of some of the last layers (one more than there are: the head too), with the experts of all but the first `host`.
    fn of_last(&self, last: usize, host: usize) -> u64 {
        let n = self.layers.len();
        let layer = |(il, l): (usize, &LayerSizes)| l.dense + l.cache + if il < host { 0 } else { l.experts };
        let head = if last > n { self.head } else { 0 };
        head + self.layers.iter().enumerate().skip(n.saturating_sub(last)).map(layer).sum::<u64>()
    }
}

/// Bytes of activations, from above: the buffers of two layers live together, and there are 8-bit copies of some.
fn activations(model: &Model, layers: &[LayerCache], n_batch: usize) -> u64 {
    let n_layer = layers.len().max(1) as u64;
    let Ok(step) = model.record(crate::MlaForm::Absorbed) else { return 0 };
    let widths: u64 = step.graph.widths().map(|w| w as u64).sum();
    let experts = model.network().experts().map_or(0, |(_, n_used)| n_used as u64 + 1);
    let per_row = 3 * widths / n_layer + experts * 4 * model.base().n_embd as u64;
    let logits = 8 * model.base().n_vocab as u64;
    4 * (per_row * n_batch as u64 + logits)
}

/// What a tensor belongs to, by its name.
enum Part {
    Layer(usize),
    Experts(usize),
    Other,
}

fn part(name: &str) -> Part {
    let layer = || name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok();
    match layer() {
        Some(il) if name.contains("_exps.") => Part::Experts(il),
        Some(il) => Part::Layer(il),
        None => Part::Other,
    }
}

/// Finds a place for every part, given the free bytes of each device.
///
/// # Errors
/// If what is wished for does not fit.
pub fn assign(sizes: &Sizes, free: &[u64], wishes: Wishes) -> Result<Assignment, TooLarge> {
    let n = sizes.layers.len();
    let all = n + 1;
    let has_experts = sizes.layers.iter().any(|l| l.experts > 0);
    let hosts = |last: usize| match wishes.host_experts {
        Some(host) => host.min(n)..=host.min(n),
        // Where not all layers fit, none of their experts does; without experts there is nothing to choose.
        None if last < all && wishes.gpu_layers.is_none() && has_experts => n..=n,
        None if has_experts => 0..=n,
        None => 0..=0,
    };
    let counts: Vec<usize> = match wishes.gpu_layers {
        Some(last) => vec![last.min(all)],
        None => (0..=all).rev().collect(),
    };
    for &last in &counts {
        // Rather the experts of fewer layers on a device than all others computed here for every prompt.
        for streaming in [sizes.streaming, None] {
            for host in hosts(last) {
                if let Some(assignment) = fill(sizes, free, last, host, streaming) {
                    return Ok(assignment);
                }
            }
        }
    }
    let last = wishes.gpu_layers.unwrap_or(0).min(all);
    let host = *hosts(last).end();
    let fits = |k: &usize| fill(sizes, free, *k, host, None).is_some();
    let what = match (wishes.gpu_layers, wishes.host_experts) {
        (Some(k), _) if k > n => "the whole model".to_owned(),
        (Some(k), _) => format!("{k} of {n} layers"),
        (None, _) => "the model".to_owned(),
    };
    let needed = sizes.of_last(last, host) + overhead(sizes);
    Err(TooLarge { what, needed, free: free.iter().sum(), fitting: (0..=all).rev().find(fits).unwrap_or(0) })
}

/// What a device needs that takes part at all.
fn overhead(sizes: &Sizes) -> u64 {
    RESERVE + sizes.activations
}

/// Puts some of the last layers on devices, in order, with the experts of all but the first `host`; `None` if they do not fit.
fn fill(
    sizes: &Sizes,
    free: &[u64],
    last: usize,
    host: usize,
    streaming: Option<StreamingSizes>,
) -> Option<Assignment> {
    let n = sizes.layers.len();
    let mut used = vec![0u64; free.len()];
    // Devices that have the buffers for experts.
    let mut buffered = vec![false; free.len()];
    let mut at = 0;
    // The first device from the one at hand on that has room.
    let mut put = |bytes: u64, through_buffers: bool| {
        while at < free.len() {
            let device = &mut used[at];
            let begun = if *device == 0 { overhead(sizes) } else { *device };
            let buffers = streaming.filter(|_| through_buffers && !buffered[at]).map_or(0, |s| s.bytes());
            if begun + bytes + buffers <= free[at] {
                *device = begun + bytes + buffers;
                buffered[at] |= through_buffers;
                return Some(at + 1);
            }
            at += 1;
        }
        None
    };
    let (mut layers, mut experts) = (vec![HOST; n], vec![HOST; n]);
    for il in n.saturating_sub(last)..n {
        let l = sizes.layers[il];
        let here = il >= host && l.experts > 0;
        let device = put(l.dense + l.cache + if here { l.experts } else { 0 }, !here && l.experts > 0)?;
        layers[il] = device;
        experts[il] = if here { device } else { HOST };
    }
    let head = if last > n { put(sizes.head, false)? } else { HOST };
    let embedding = match head {
        HOST => HOST,
        // A token reads one row of an embedding of its own: it is the last that is worth a device's memory.
        _ if experts.iter().zip(&sizes.layers).any(|(d, l)| *d == HOST && l.experts > 0) => HOST,
        _ => put(sizes.embedding, false).unwrap_or(HOST),
    };
    let embedding = if sizes.embedding == 0 { head } else { embedding };
    let streaming = streaming.filter(|_| buffered.contains(&true));
    let (slots, most_slots) = (vec![0; free.len()], usize::MAX);
    Some(Assignment { embedding, head, layers, experts, streaming, used, slots, most_slots })
}

impl Assignment {
    /// The same with slots in what is left of each device for experts that stay behind: as many as there are of its layers at
    /// the most, and no more than wished for.
    pub fn with_slots(mut self, sizes: &Sizes, free: &[u64], wishes: Wishes) -> Assignment {
        self.most_slots = wishes.slots.unwrap_or(usize::MAX);
        for (i, (free, used)) in free.iter().zip(&self.used).enumerate() {
            let behind =
                (0..self.layers.len()).filter(|il| self.layers[*il] == i + 1 && self.experts[*il] == HOST);
            let all: u64 = behind.map(|il| sizes.layers[il].experts).sum();
            let left = free.saturating_sub(*used).saturating_sub(sizes.outputs);
            // Matrices are aligned, which takes a little more than they have.
            self.slots[i] = if self.most_slots == 0 { 0 } else { left.min(all + all / 64) };
        }
        self
    }

    /// The devices of a model's weights and of its cache.
    pub fn placement(&self, model: &Model) -> Placement {
        let of = |places: &[usize], il: usize| places.get(il).copied().unwrap_or(HOST);
        let device = |(id, t): (ggml_sys::graph::WeightId, &ggml_sys::Tensor)| match part(t.name()) {
            Part::Layer(il) => of(&self.layers, il),
            Part::Experts(il) => of(&self.experts, il),
            Part::Other if id == model.base().token_embd => self.embedding,
            Part::Other => self.head,
        };
        let weights: Vec<usize> = model.weights().iter().map(device).collect();
        let streaming = self.streaming.map(|s| {
            // Experts on the host follow their layer.
            let device = |(at, (_, t)): (&usize, (_, &ggml_sys::Tensor))| match part(t.name()) {
                Part::Experts(il) if *at == HOST => of(&self.layers, il),
                _ => *at,
            };
            Streaming {
                min_rows: s.min_rows,
                weights: weights.iter().zip(model.weights().iter()).map(device).collect(),
                buffer: usize::try_from(s.buffer).unwrap_or(usize::MAX),
            }
        });
        let slots = self.placement_of_slots();
        Placement { weights, layers: self.layers.clone(), streaming, slots }
    }

    /// What of each backend's memory is for slots, the host first.
    fn placement_of_slots(&self) -> Vec<Slotting> {
        let slotting = |bytes: &u64| {
            let bytes = usize::try_from(*bytes).unwrap_or(usize::MAX);
            Slotting { bytes, most: self.most_slots }
        };
        [Slotting::default()].into_iter().chain(self.slots.iter().map(slotting)).collect()
    }

    /// Whether there are experts on the host whose layer is on a device.
    pub fn leaves_experts(&self, sizes: &Sizes) -> bool {
        let places = self.layers.iter().zip(&self.experts);
        places
            .zip(&sizes.layers)
            .any(|((layer, experts), l)| *layer != HOST && *experts == HOST && l.experts > 0)
    }

    /// Layers on devices, and those whose experts are there too.
    pub fn on_devices(&self) -> (usize, usize) {
        let count = |places: &[usize]| places.iter().filter(|d| **d != HOST).count();
        (count(&self.layers), count(&self.experts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// Ten layers of 1 GiB with half a GiB of cache, and `experts` GiB of experts each.
    fn sizes(experts: u64) -> Sizes {
        let layer = LayerSizes { dense: GIB, experts: experts * GIB, cache: GIB / 2 };
        let layers = vec![layer; 10];
        Sizes { embedding: GIB, head: GIB, layers, activations: GIB / 4, outputs: GIB / 2, streaming: None }
    }

    fn last(n: usize) -> Vec<usize> {
        (0..10).map(|il| usize::from(il >= 10 - n)).collect()
    }

    #[test]
    fn everything_goes_to_a_device_that_has_room_the_embedding_last() {
        let a = assign(&sizes(0), &[24 * GIB], Wishes::default()).unwrap();
        assert_eq!((a.embedding, a.head, a.layers), (1, 1, last(10)));
        assert_eq!(a.used, [17 * GIB + GIB / 4 + RESERVE]);
        let a = assign(&sizes(0), &[17 * GIB], Wishes::default()).unwrap();
        assert_eq!((a.embedding, a.head, a.layers), (HOST, 1, last(10)));
        // The embedding is the output matrix.
        let a = assign(&Sizes { embedding: 0, ..sizes(0) }, &[24 * GIB], Wishes::default()).unwrap();
        assert_eq!(a.embedding, 1);
    }

    #[test]
    fn of_a_dense_model_too_large_the_last_layers_go() {
        let a = assign(&sizes(0), &[8 * GIB], Wishes::default()).unwrap();
        assert_eq!((a.head, a.layers), (HOST, last(4)));
        let a = assign(&sizes(0), &[GIB], Wishes::default()).unwrap();
        assert_eq!((a.layers, a.used), (last(0), vec![0]));
    }

    #[test]
    fn of_a_mixture_too_large_experts_stay_first() {
        let a = assign(&sizes(10), &[40 * GIB], Wishes::default()).unwrap();
        // 16 GiB for what every token meets, then two layers' experts.
        assert_eq!((a.head, a.layers, a.experts), (1, last(10), last(2)));
        // Not even that fits: some layers, no experts.
        let a = assign(&sizes(10), &[8 * GIB], Wishes::default()).unwrap();
        assert_eq!((a.layers, a.experts), (last(4), last(0)));
    }

    #[test]
    fn buffers_for_experts_are_counted_on_every_device_that_they_pass_through_or_left_out() {
        let streaming = Some(StreamingSizes { min_rows: 100, buffer: GIB / 4, activations: GIB / 8 });
        let sizes = |experts| Sizes { streaming, ..sizes(experts) };
        let assign = |sizes: &Sizes, free: &[u64]| assign(sizes, free, Wishes::default()).unwrap();
        // Of 40 GiB the experts of two layers and all else take 36.6.
        let a = assign(&sizes(10), &[40 * GIB]);
        let without = 16 * GIB + GIB / 4 + RESERVE;
        assert_eq!(
            (a.experts, a.streaming, a.used),
            (last(2), streaming, vec![without + 20 * GIB + 5 * GIB / 8])
        );
        // They come before the experts of a layer.
        let a = assign(&sizes(10), &[without + 20 * GIB]);
        assert_eq!((a.experts, a.streaming), (last(1), streaming));
        // What every token meets comes before them.
        let a = assign(&sizes(10), &[without]);
        assert_eq!((a.layers, a.experts, a.streaming, a.used), (last(10), last(0), None, vec![without]));
        // Nothing is sent where everything is there, or nothing can be.
        assert_eq!(assign(&sizes(1), &[40 * GIB]).streaming, None);
        assert_eq!(assign(&sizes(0), &[8 * GIB]).streaming, None);
        assert_eq!(assign(&sizes(10), &[GIB]).streaming, None);
        // Two devices, five layers each and then the head.
        let a = assign(&sizes(100), &[10 * GIB, 12 * GIB]);
        let overhead = GIB / 4 + RESERVE + 5 * GIB / 8;
        assert_eq!(a.layers, vec![1, 1, 1, 1, 1, 2, 2, 2, 2, 2]);
        assert_eq!(a.used, vec![overhead + 15 * GIB / 2, overhead + 17 * GIB / 2]);
    }

    #[test]
    fn what_is_left_is_slots_for_experts_that_stay_behind() {
        let slots = |experts, free: &[u64], slots| {
            let (sizes, wishes) = (sizes(experts), Wishes { slots, ..Wishes::default() });
            let a = assign(&sizes, free, wishes).unwrap().with_slots(&sizes, free, wishes);
            (a.slots, a.used, a.most_slots)
        };
        let (left, used, most) = slots(10, &[40 * GIB], None);
        assert_eq!((left, most), (vec![40 * GIB - used[0] - GIB / 2], usize::MAX));
        assert_eq!(slots(10, &[40 * GIB], Some(0)).0, [0]);
        assert_eq!(slots(10, &[40 * GIB], Some(7)).2, 7);
        // All experts are on the device, or there is no device that a layer is on.
        assert_eq!((slots(1, &[40 * GIB], None).0, slots(10, &[GIB], None).0), (vec![0], vec![0]));
        // No more than the layers of a device have experts.
        let sizes = sizes(1);
        let wishes = Wishes { host_experts: Some(3), ..Wishes::default() };
        let free = [10 * GIB, 200 * GIB];
        let a = assign(&sizes, &free, wishes).unwrap().with_slots(&sizes, &free, wishes);
        assert_eq!((&a.layers[..5], &a.experts[..5]), (&[1, 1, 1, 1, 2][..], &[0, 0, 0, 1, 2][..]));
        assert_eq!(a.slots, [free[0] - a.used[0] - GIB / 2, 0]);
        let placed = a.placement_of_slots();
        assert_eq!((placed[0], placed[1].bytes as u64), (Slotting::default(), a.slots[0]));
    }

    #[test]
    fn layers_are_split_over_devices_in_order() {
        let a = assign(&sizes(0), &[10 * GIB, 10 * GIB], Wishes::default()).unwrap();
        assert_eq!((a.layers, a.head), (vec![1, 1, 1, 1, 1, 1, 2, 2, 2, 2], 2));
    }

    #[test]
    fn wishes_are_granted_or_refused_with_numbers() {
        let wish = |gpu_layers, host_experts| Wishes { gpu_layers, host_experts, slots: None };
        let a = assign(&sizes(1), &[24 * GIB], wish(Some(3), None)).unwrap();
        assert_eq!((a.head, a.layers, a.experts), (HOST, last(3), last(3)));
        let a = assign(&sizes(1), &[80 * GIB], wish(None, Some(usize::MAX))).unwrap();
        assert_eq!((a.layers, a.experts), (last(10), last(0)));
        let a = assign(&sizes(1), &[80 * GIB], wish(None, Some(4))).unwrap();
        assert_eq!(a.experts, last(6));
        assert_eq!(assign(&sizes(0), &[], wish(Some(0), None)).unwrap().layers, last(0));
        let e = assign(&sizes(0), &[8 * GIB], wish(Some(99), None)).unwrap_err();
        assert_eq!((e.what.as_str(), e.free, e.fitting), ("the whole model", 8 * GIB, 4));
        assert_eq!(e.needed, 16 * GIB + GIB / 4 + RESERVE);
    }
}
