//! Rotations and the stores that follow them, in one launch.

use super::{Compiler, Launcher};
use crate::cuda::args::{RopeArgs, RopeStoreArgs, StoreArgs};
use crate::cuda::modules::{Geometry, Kernel};
use crate::error::Result;
use crate::graph::{Heads, Rows};
use crate::ops::{Op, Pairing, Rope, StoreKv};

/// A rotation as kernels take it.
pub(super) fn rope_args(l: &Launcher<'_>, o: &Rope) -> RopeArgs {
    RopeArgs {
        x: l.heads(o.x),
        y: l.heads(o.y),
        table: l.view(o.table),
        pairs: (o.table.width / 2) as u32,
        width: o.x.width as u32,
        halves: u32::from(o.pairing == Pairing::Halves),
    }
}

/// A store of keys, or of values, as kernels take it.
pub(super) fn store_args(l: &Launcher<'_>, layer: usize, x: Heads, values: bool) -> StoreArgs {
    let (k, v) = l.layers[layer];
    StoreArgs { x: l.heads(x), to: if values { v } else { k }, batch: l.batch }
}

/// Whether a launch can rotate `q`, rotate `k` and store, without one block waiting for another.
fn independent(q: Option<&Rope>, k: &Rope, store: &StoreKv) -> bool {
    let (y, s) = (k.y, store.k);
    let in_place = k.x == y;
    let within = (y.buf, y.n) == (s.buf, s.n)
        && (y.n == 1 || y.stride == s.stride)
        && s.col <= y.col
        && y.col + y.width <= s.col + s.width;
    let others = q.into_iter().flat_map(|q| [q.x, q.y]).chain(store.v);
    let mut apart = others.map(|h| !h.span().overlaps(s.span()));
    let values_kept = q.is_none_or(|q| store.v.is_none_or(|v| !v.span().overlaps(q.y.span())));
    in_place && within && values_kept && apart.all(|a| a)
}

impl Compiler<'_> {
    /// The rotation at hand with what follows it, if that is the rotation and storing of keys.
    fn rope_and_store(&self) -> Option<(Option<Rope>, Rope, StoreKv)> {
        let (part, at) = self.part;
        let op = |n: usize| Some(&self.graph.ops()[*self.share.parts[part].get(at + n)?]);
        let (q, k, store) = match (op(0)?, op(1)?, op(2)) {
            (Op::Rope(k), Op::StoreKv(s), _) => (None, k, s),
            (Op::Rope(q), Op::Rope(k), Some(Op::StoreKv(s))) => (Some(q), k, s),
            _ => return None,
        };
        independent(q, k, store).then(|| (q.cloned(), k.clone(), store.clone()))
    }

    /// Compiles the rotation at hand together with what follows it, if it can.
    pub(super) fn rope_store(&mut self) -> Result<bool> {
        let Some((q, k, store)) = self.rope_and_store() else { return Ok(false) };
        let (n_q, n_k) = (q.as_ref().map_or(0, |q| q.x.n as u32), k.x.n as u32);
        // What the later ones use is used now.
        self.ahead = if n_q > 0 { 2 } else { 1 };
        self.uses(&Op::Rope(k.clone()));
        self.uses(&Op::StoreKv(store.clone()));
        let kernel: Kernel<RopeStoreArgs> = self.kernel("rope_store")?;
        self.steps.push(Box::new(move |l| {
            let store_k = store_args(l, store.layer, store.k, false);
            let args = RopeStoreArgs {
                q: rope_args(l, q.as_ref().unwrap_or(&k)),
                k: rope_args(l, &k),
                store_k,
                store_v: store.v.map_or(store_k, |v| store_args(l, store.layer, v, true)),
                n_q,
                n_k,
            };
            let heads = n_q + n_k + if store.v.is_some() { n_k } else { 0 };
            // SAFETY: as for rotations and stores alone; the heads of keys and values are as many.
            unsafe { kernel.launch(Geometry::new([l.n(Rows::Tokens), heads, 1], 64), &args) }
        }));
        Ok(true)
    }
}
