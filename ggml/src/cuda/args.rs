//! What the host hands to kernels: the structs of `cuda/kernels/args.h`, field by field. What they mean is said there.

use super::driver::DevicePtr;

/// Structs that kernels take by value.
pub(super) trait Args: Copy {}

macro_rules! args {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub(super) struct $name { $(pub $field: $ty),* }

        impl Args for $name {}
    )*};
}

args! {
    /// Rows of floats.
    View { at: DevicePtr, stride: u64 }
    /// Heads of rows of floats.
    Heads { at: DevicePtr, stride: u64, head: u64 }
    /// Rows of 8-bit activations.
    Q8 { qs: DevicePtr, d: DevicePtr, sums: DevicePtr }
    /// The batch.
    Batch { token: DevicePtr, pos: DevicePtr, table: DevicePtr, output: DevicePtr, chunks: DevicePtr }
    /// Where in a chunk a layer's rows lie.
    CacheRows { offset: u64, row: u64, ty: u32, dim: u32 }
    EmbedArgs { w: DevicePtr, row_bytes: u64, token: DevicePtr, y: View, k: u32 }
    SelectArgs { x: View, y: View, output: DevicePtr, width: u32 }
    NormArgs { x: View, y: View, weight: DevicePtr, q32: Q8, q256: Q8, n: u32, eps: f32 }
    QuantizeArgs { x: Heads, q: Q8, k: u32, block: u32, heads: u32 }
    RopeTableArgs { pos: DevicePtr, freqs: DevicePtr, y: View, pairs: u32, scale: f32 }
    RopeArgs { x: Heads, y: Heads, table: View, pairs: u32, width: u32, halves: u32 }
    StoreArgs { x: Heads, to: CacheRows, batch: Batch }
    RopeStoreArgs { q: RopeArgs, k: RopeArgs, store_k: StoreArgs, store_v: StoreArgs, n_q: u32, n_k: u32 }
    AddArgs { x: View, y: View, n: u32 }
    SiluMulArgs { gate: View, up: View, y: View, n: u32 }
    MatvecArgs {
        w: DevicePtr,
        w_up: DevicePtr,
        row_bytes: u64,
        matrix_bytes: u64,
        matrix_bytes_up: u64,
        ids: DevicePtr,
        q: Q8,
        x: Heads,
        y: Heads,
        bias: DevicePtr,
        k: u32,
        n_out: u32,
        n_rows: u32,
        x_groups: u32,
        x_div: u32,
        add: u32,
    }
    MatmulArgs { m: MatvecArgs, tile_list: DevicePtr, n_tiles: DevicePtr, order: DevicePtr }
    RouterArgs {
        logits: View,
        bias: DevicePtr,
        ids: DevicePtr,
        weights: DevicePtr,
        n_expert: u32,
        n_used: u32,
        sigmoid: u32,
        n_groups: u32,
        used_groups: u32,
        top2: u32,
        normalize: u32,
        scale: f32,
    }
    GroupArgs {
        ids: DevicePtr,
        order: DevicePtr,
        tile_list: DevicePtr,
        n_tiles: DevicePtr,
        n_pairs: u32,
        n_expert: u32,
    }
    CutArgs {
        tile_list: DevicePtr,
        n_tiles: DevicePtr,
        to: DevicePtr,
        n_to: DevicePtr,
        first: u32,
        n: u32,
    }
    CombineArgs { out: DevicePtr, weights: DevicePtr, y: View, n: u32, n_used: u32 }
    AttendArgs {
        q: Heads,
        y: Heads,
        k: CacheRows,
        v: CacheRows,
        batch: Batch,
        partial: DevicePtr,
        arrived: DevicePtr,
        n_spans: u32,
        n_rows: u32,
        n_head: u32,
        n_head_kv: u32,
        scale: f32,
    }
    MlaExpandArgs {
        latent: CacheRows,
        chunks: DevicePtr,
        k_up: DevicePtr,
        v_up: DevicePtr,
        out: DevicePtr,
        out_chunk: u64,
        out_v: u64,
        table0: u32,
        n_pos: u32,
        first_head: u32,
        n_heads: u32,
        rank: u32,
        n_nope: u32,
        n_rope: u32,
        n_v: u32,
    }
    MeasureReadArgs { at: DevicePtr, out: DevicePtr, n: u64, never: u32 }
    MeasureMmaArgs { out: DevicePtr, rounds: u32, never: u32 }
    SumSquaresArgs {
        x: Heads,
        ids: DevicePtr,
        sums: DevicePtr,
        counts: DevicePtr,
        width: u32,
        heads: u32,
        n_used: u32,
        n_rows: u32,
    }
}

/// Bytes of a tile of pairs: matrix, first, n.
pub(super) const TILE_BYTES: usize = 12;
/// Output columns of a block of `matvec`.
pub(super) const MATVEC_OUT: u32 = 4;
/// Threads of a block of `matvec`.
pub(super) const MATVEC_THREADS: u32 = 128;
/// Output columns of a tile of `matmul`.
pub(super) const MATMUL_OUT: u32 = 128;
/// Output columns of a tile of `matmul_gate_up`.
pub(super) const MATMUL_GATE_UP_OUT: u32 = 64;
/// Rows of a tile of `matmul`.
pub(super) const MATMUL_ROWS: u32 = 64;
/// Threads of a block of `matmul`.
pub(super) const MATMUL_THREADS: u32 = 256;
/// Spans of the keys of a row at the most.
pub(super) const MAX_SPANS: u32 = 64;
/// Keys of a span at the least.
pub(super) const MIN_SPAN: u32 = 64;
/// Heads of a block of `attend_few`, and of its form for latents, with the shared memory that that asks for.
pub(super) const ATTEND_HEADS: u32 = 8;
pub(super) const ATTEND_LATENT_HEADS: u32 = 16;
pub(super) const ATTEND_LATENT_SHARED: u32 = 84_992;
/// Rows of a tile of `attend_many`, and of its form for any dimensions.
pub(super) const ATTEND_ROWS: u32 = 64;
pub(super) const ATTEND_ANY_ROWS: u32 = 8;
/// Threads of a block of attention.
pub(super) const ATTEND_THREADS: u32 = 128;
/// Elements of a head at the most.
pub(super) const ATTEND_DIM: usize = 640;
