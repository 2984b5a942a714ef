//! Storing keys and values, and attention over them.

use super::rope_store::store_args;
use super::{Compiler, FEW, Launcher, RegionId};
use crate::cache::ValueRows;
use crate::cuda::args::{
    self, ATTEND_ANY_ROWS, ATTEND_DIM, ATTEND_HEADS, ATTEND_LATENT_HEADS, ATTEND_LATENT_SHARED, ATTEND_ROWS,
    ATTEND_THREADS, AttendArgs, MAX_SPANS, StoreArgs,
};
use crate::cuda::driver::DevicePtr;
use crate::cuda::modules::{Geometry, Kernel};
use crate::cuda::naive::Naive;
use crate::error::{Error, Result};
use crate::format::GgmlType;
use crate::graph::{Heads, Rows, Stack};
use crate::ops::{Attention, KeyUp, MlaNaive, StoreKv};

/// The number of a type of cache rows in kernels.
pub(crate) fn cache_type(ty: GgmlType) -> Option<u32> {
    match ty {
        GgmlType::F32 => Some(0),
        GgmlType::F16 => Some(1),
        GgmlType::Q8_0 => Some(2),
        _ => None,
    }
}

/// What a head's rows are: the kernels are made for the usual ones.
#[derive(Clone, Copy)]
struct Shape {
    k_dim: usize,
    v_dim: usize,
    types: (GgmlType, GgmlType),
    prefix: bool,
}

impl Shape {
    fn dims_within(&self, k: usize, v: usize) -> bool {
        self.k_dim <= k && self.v_dim <= v
    }

    fn is_f16(&self) -> bool {
        self.types == (GgmlType::F16, GgmlType::F16)
    }

    fn is_q8_0(&self) -> bool {
        self.types == (GgmlType::Q8_0, GgmlType::Q8_0)
    }

    /// Rows of MLA's absorbed form.
    fn is_latent(&self) -> bool {
        self.prefix && (self.k_dim, self.v_dim) == (576, 512)
    }

    /// The kernel for few rows.
    fn few(&self) -> Variant {
        let eights = self.k_dim.is_multiple_of(8) && self.v_dim.is_multiple_of(8);
        match self {
            s if s.is_latent() && s.is_f16() => Variant::latent("attend_few_latent_f16"),
            s if s.is_latent() => Variant::latent("attend_few_latent_wide"),
            s if s.is_f16() && eights && s.dims_within(64, 64) => Variant::few("attend_few_f16_64"),
            s if s.is_f16() && eights && s.dims_within(128, 128) => Variant::few("attend_few_f16_128"),
            s if s.is_q8_0() && s.dims_within(64, 64) => Variant::few("attend_few_q8_0_64"),
            s if s.is_q8_0() && s.dims_within(128, 128) => Variant::few("attend_few_q8_0_128"),
            _ => Variant::few("attend_few_any"),
        }
    }

    /// The kernel for prompts.
    fn many(&self) -> Variant {
        match self {
            s if s.is_latent() && s.is_f16() => Variant::latent("attend_many_latent_f16"),
            s if s.is_latent() => Variant::latent("attend_many_latent_wide"),
            s if s.is_f16() && s.dims_within(64, 64) => Variant::many("attend_many_f16_64", ATTEND_ROWS),
            s if s.is_f16() && s.dims_within(128, 128) => Variant::many("attend_many_f16_128", ATTEND_ROWS),
            s if s.dims_within(64, 64) => Variant::many("attend_many_wide_64", ATTEND_ROWS),
            s if s.dims_within(128, 128) => Variant::many("attend_many_wide_128", ATTEND_ROWS),
            s if s.dims_within(192, 128) => Variant::many("attend_many_wide_192", ATTEND_ROWS),
            _ => Variant::many("attend_many_any", ATTEND_ANY_ROWS),
        }
    }
}

/// A kernel of attention, the rows and heads of its blocks, and their dynamic shared memory.
#[derive(Clone, Copy)]
struct Variant {
    name: &'static str,
    rows: u32,
    heads: u32,
    shared: u32,
}

impl Variant {
    fn few(name: &'static str) -> Self {
        Variant { name, rows: 1, heads: ATTEND_HEADS, shared: 0 }
    }

    fn many(name: &'static str, rows: u32) -> Self {
        Variant { name, rows, heads: 1, shared: 0 }
    }

    fn latent(name: &'static str) -> Self {
        Variant { name, rows: 1, heads: ATTEND_LATENT_HEADS, shared: ATTEND_LATENT_SHARED }
    }

    /// Parts of the keys of a prompt: several where a device would be half idle otherwise and each is long enough to be worth it, and
    /// no more than there is room for.
    fn spans(&self, args: &AttendArgs, blocks: u32) -> u32 {
        const BLOCKS: u32 = 256;
        const SHORTEST: u32 = 4;
        if self.rows == ATTEND_ANY_ROWS || blocks > FEW as u32 * args.n_head {
            return 1;
        }
        let room = FEW as u32 * MAX_SPANS / args.n_rows;
        (BLOCKS / blocks).min(args.n_spans / SHORTEST).min(room).max(1)
    }

    /// Blocks for all heads.
    fn blocks(&self, args: &AttendArgs) -> u32 {
        (args.n_head / args.n_head_kv).div_ceil(self.heads) * args.n_head_kv
    }
}

/// Where the spans of few rows leave their sums, and where they are counted.
#[derive(Clone, Copy)]
struct Partial {
    sums: RegionId,
    arrived: DevicePtr,
}

/// The kernels of attention over rows of one shape.
struct Attend {
    few: Kernel<AttendArgs>,
    /// Where `few` leaves spans to be put together.
    merge: Option<Kernel<AttendArgs>>,
    many: Kernel<AttendArgs>,
    shape: Shape,
}

impl Attend {
    /// Puts attention into the stream.
    ///
    /// # Safety
    /// `args` names memory as kernels take it; the partial sums have room for [`MAX_SPANS`] of [`FEW`] rows.
    unsafe fn launch(&self, l: &Launcher<'_>, args: AttendArgs) -> Result<()> {
        let (rows, n_head) = (args.n_rows, args.n_head);
        if l.n_rows.0 > FEW {
            let many = self.shape.many();
            let (tiles, blocks) = (rows.div_ceil(many.rows), many.blocks(&args));
            let args = AttendArgs { n_spans: many.spans(&args, tiles * blocks), ..args };
            let geometry = Geometry {
                grid: [tiles, blocks, args.n_spans],
                threads: ATTEND_THREADS,
                shared: many.shared,
            };
            // SAFETY: as the caller says.
            return unsafe { self.many.launch(geometry, &args) };
        }
        let few = self.shape.few();
        let grid = [args.n_spans, few.blocks(&args), rows];
        let geometry = Geometry { grid, threads: ATTEND_THREADS, shared: few.shared };
        // SAFETY: as the caller says.
        unsafe { self.few.launch(geometry, &args)? };
        let Some(merge) = &self.merge else { return Ok(()) };
        // SAFETY: as the caller says.
        unsafe { merge.launch(Geometry::new([n_head, rows, 1], 128), &args) }
    }
}

impl Compiler<'_> {
    pub(super) fn store(&mut self, o: &StoreKv) -> Result<()> {
        let layer = o.layer;
        for (x, values) in [(Some(o.k), false), (o.v, true)] {
            let Some(x) = x else { continue };
            let kernel: Kernel<StoreArgs> = self.kernel("store")?;
            self.steps.push(Box::new(move |l| {
                let args = store_args(l, layer, x, values);
                // SAFETY: the cache has room for the rows of the batch, and its rows are as wide as these heads.
                unsafe { kernel.launch(Geometry::new([l.n(Rows::Tokens), x.n as u32, 1], 64), &args) }
            }));
        }
        Ok(())
    }

    pub(super) fn attention(&mut self, o: &Attention) -> Result<()> {
        let layer = self.layers[o.layer];
        let prefix = matches!(layer.v, ValueRows::KeyPrefix { .. });
        let types = (layer.k_ty, layer.v_ty());
        let attend = self.attend(Shape { k_dim: layer.k_dim, v_dim: layer.v_dim(), types, prefix })?;
        let partial = self.partial(o.q.n, layer.v_dim())?;
        let o = o.clone();
        self.steps.push(Box::new(move |l| {
            let (k, v) = l.layers[o.layer];
            let args = attend_args(l, (o.q, o.y), (k, v), l.batch, partial, (o.n_head_kv, o.scale));
            // SAFETY: the cache holds all positions of the rows, and its rows are as wide as the heads.
            unsafe { attend.launch(l, args) }
        }));
        Ok(())
    }

    fn attend(&self, shape: Shape) -> Result<Attend> {
        let Shape { k_dim, v_dim, .. } = shape;
        if k_dim.max(v_dim) > ATTEND_DIM {
            return Err(Error::Unsupported(format!(
                "heads of {k_dim} and {v_dim} elements; CUDA attends to up to {ATTEND_DIM}"
            )));
        }
        let kernel = |v: Variant| -> Result<Kernel<AttendArgs>> {
            let kernel = self.kernel(v.name)?;
            kernel.allow_shared(v.shared)?;
            Ok(kernel)
        };
        let (few, many) = (kernel(shape.few())?, kernel(shape.many())?);
        let merge = if shape.is_latent() { Some(self.kernel("attend_merge")?) } else { None };
        Ok(Attend { few, merge, many, shape })
    }

    /// Room for the partial sums of few rows, and of prompts whose keys are divided.
    fn partial(&mut self, n_head: usize, v_dim: usize) -> Result<Partial> {
        let sums = self.region(Rows::Tokens, 0, FEW * MAX_SPANS as usize * n_head * (v_dim + 2));
        self.touch(sums);
        // Kernels leave the zeros as they find them.
        Ok(Partial { sums, arrived: self.constant(&vec![0.0; FEW * n_head])? })
    }

    /// Keys and values of all heads are made in memory of their own, laid out like a cache with a head for each, and attended
    /// to as usual: as many heads at a time as that memory holds.
    pub(super) fn mla_naive(&mut self, o: &MlaNaive) -> Result<()> {
        let layer = self.layers[o.layer];
        let (n_nope, rank, n_v) = (o.n_nope, o.kv_lora_rank, o.y.width);
        let n_rope = layer.k_dim - rank;
        if !matches!(layer.v, ValueRows::KeyPrefix { .. }) {
            return Err(Error::Unsupported("latent attention over a cache without latents".into()));
        }
        let (k_up, v_up) = (self.key_matrices(o), self.stack_floats(o.v_up));
        let naive = Naive {
            expand: self.kernel("mla_expand")?,
            k_up: self.constant(&k_up)?,
            v_up: self.constant(&v_up)?,
            dims: [rank, n_nope, n_rope, n_v],
            layer: o.layer,
        };
        let (k_dim, v_dim) = (n_nope + n_rope, n_v);
        let types = (GgmlType::F32, GgmlType::F32);
        let attend = self.attend(Shape { k_dim, v_dim, types, prefix: false })?;
        let partial = self.partial(o.q.n, v_dim)?;
        // How much has to be expanded depends on the batch.
        self.capturable = false;
        let o = o.clone();
        self.steps.push(Box::new(move |l| {
            let scratch = l.naive.ok_or_else(|| Error::Batch("no memory for keys and values".into()))?;
            let at_once = scratch.heads_at_once(k_dim, v_dim, o.q.n);
            for first in (0..o.q.n).step_by(at_once) {
                let n = at_once.min(o.q.n - first);
                let cache = naive.expand(l, scratch, first, n)?;
                let some = |h: Heads| Heads { col: h.col + first * h.stride, n, ..h };
                let batch = scratch.batch(l.batch);
                let args = attend_args(l, (some(o.q), some(o.y)), cache, batch, partial, (n, o.scale));
                // SAFETY: the scratch holds keys and values of these heads at all positions of the rows.
                unsafe { attend.launch(l, args)? };
            }
            Ok(())
        }));
        Ok(())
    }

    /// The key matrices of all heads, `[n_head, n_nope, rank]`.
    fn key_matrices(&self, o: &MlaNaive) -> Vec<f32> {
        let values = self.stack_floats(o.k_up.stack());
        let KeyUp::Transposed(_) = o.k_up else { return values };
        let (rank, n_nope) = (o.kv_lora_rank, o.n_nope);
        let mut keys = Vec::with_capacity(values.len());
        for head in values.chunks_exact(rank * n_nope) {
            keys.extend((0..n_nope).flat_map(|d| (0..rank).map(move |c| head[c * n_nope + d])));
        }
        keys
    }

    /// The rows of the matrices of a stack, decoded, without what lies between them.
    fn stack_floats(&self, s: Stack) -> Vec<f32> {
        let t = self.graph.weight(s.w);
        let k = t.shape().row_len();
        let mut out = vec![0.0; s.n * s.rows * k];
        for (i, row) in out.chunks_exact_mut(k).enumerate() {
            t.ty().format().decode(t.row(s.row(i / s.rows, i % s.rows)), row);
        }
        out
    }
}

fn attend_args(
    l: &Launcher<'_>,
    (q, y): (Heads, Heads),
    (k, v): (args::CacheRows, args::CacheRows),
    batch: args::Batch,
    partial: Partial,
    (n_head_kv, scale): (usize, f32),
) -> AttendArgs {
    AttendArgs {
        q: l.heads(q),
        y: l.heads(y),
        k,
        v,
        batch,
        partial: l.at(partial.sums),
        arrived: partial.arrived,
        n_spans: l.n_spans,
        n_rows: l.n(Rows::Tokens),
        n_head: q.n as u32,
        n_head_kv: n_head_kv as u32,
        scale,
    }
}
