//! Kernels on memory of their own, as benches call them. No part of the interface.

use super::{Kernels, NOTHING_AHEAD};
use crate::act::{Q8Rows, SUM, quantize_row};
use crate::cpu::kernels::panel_bytes;
use crate::format::GgmlType;
use crate::format::random::{Random, random_blocks};

/// `n` random numbers.
fn numbers(n: usize) -> Vec<f32> {
    let mut random = Random(7);
    (0..n).map(|_| random.gaussian()).collect()
}

/// Rows of activations in 8-bit blocks, of benches and tests.
pub(super) struct Activations {
    k: usize,
    rows: usize,
    block: usize,
    qs: Vec<i8>,
    d: Vec<f32>,
    sums: Vec<i16>,
}

impl Activations {
    /// Quantizes rows of `k` numbers.
    pub(super) fn new(x: &[f32], k: usize, block: usize) -> Self {
        let (n, rows) = (x.len(), x.len() / k);
        let (mut qs, mut d, mut sums) = (vec![0; n], vec![0.0; n / block], vec![0; n / SUM]);
        quantize_row(x, block, &mut qs, &mut d, &mut sums);
        Activations { k, rows, block, qs, d, sums }
    }

    pub(super) fn view(&self) -> Q8Rows<'_> {
        let Activations { k, rows, block, .. } = *self;
        Q8Rows { k, rows, block, qs: &self.qs, d: &self.d, sums: &self.sums }
    }
}

/// Rows of weights and rows of activations of the same length.
pub struct Product {
    ty: GgmlType,
    k: usize,
    n_w: usize,
    w: Vec<u8>,
    x: Vec<f32>,
    /// Of formats that take them.
    quantized: Option<Activations>,
    y: Vec<f32>,
}

impl Product {
    /// `n_w` rows of weights with `rows` rows of activations, `k` elements each.
    ///
    /// # Panics
    /// If `k` is no whole number of blocks.
    pub fn new(ty: GgmlType, k: usize, n_w: usize, rows: usize) -> Self {
        let format = ty.format();
        assert!(k.is_multiple_of(format.block), "whole blocks");
        let x = numbers(k * rows);
        let block = format.act().block();
        Product {
            ty,
            k,
            n_w,
            w: random_blocks(ty, n_w * k / format.block, 1.0, 1),
            quantized: (block > 0).then(|| Activations::new(&x, k, block)),
            x,
            y: vec![0.0; n_w * rows],
        }
    }

    /// Bytes of the weights.
    pub fn bytes(&self) -> u64 {
        self.w.len() as u64
    }

    /// Multiplications.
    pub fn macs(&self) -> u64 {
        self.k as u64 * self.y.len() as u64
    }

    /// The kernel for few rows, or for `many`.
    pub fn run(&mut self, kernels: &Kernels, many: bool) -> &[f32] {
        let (row_bytes, y) = (self.w.len() / self.n_w, self.y.as_mut_ptr());
        // SAFETY: `y` has room for the products of all rows, and is borrowed for the call.
        unsafe {
            match &self.quantized {
                Some(x) if many => {
                    kernels.gemm_q8(self.ty, &self.w, row_bytes, self.n_w, x.view(), y, self.n_w)
                }
                Some(x) => kernels.matvec_q8(self.ty, &self.w, row_bytes, self.n_w, x.view(), y, self.n_w),
                None => {
                    let rows = self.x.len() / self.k;
                    kernels.matvec_f32(
                        self.ty, self.k, &self.w, row_bytes, self.n_w, &self.x, rows, self.k, y, self.n_w,
                    );
                }
            }
        }
        &self.y
    }
}

/// Rows of a cache, and queries that attend to them.
pub struct Attention {
    ty: GgmlType,
    width: usize,
    n: usize,
    rows: Vec<u8>,
    wide: Vec<f32>,
    queries: Vec<f32>,
    n_queries: usize,
    panels: Vec<f32>,
    out: Vec<f32>,
}

impl Attention {
    /// `n_queries` queries over `n` rows of `width` elements in F32, F16 or Q8_0.
    ///
    /// # Panics
    /// If `width` is no multiple of 32.
    pub fn new(ty: GgmlType, width: usize, n: usize, n_queries: usize) -> Self {
        assert!(width.is_multiple_of(32), "whole blocks and registers");
        let queries = numbers(n_queries * width);
        Attention {
            ty,
            width,
            n,
            rows: random_blocks(ty, n * width / ty.format().block, 1.0, 1),
            wide: vec![0.0; n * width],
            n_queries,
            panels: vec![0.0; panel_bytes(n_queries, width).div_ceil(4)],
            queries,
            out: vec![0.0; n_queries * n.max(width)],
        }
    }

    /// Bytes of the rows.
    pub fn bytes(&self) -> u64 {
        self.rows.len() as u64
    }

    /// Multiplications of scores, and as many of values.
    pub fn macs(&self) -> u64 {
        (self.n * self.width * self.n_queries) as u64
    }

    /// Rows as numbers.
    pub fn widen(&mut self, kernels: &Kernels) -> &[f32] {
        let (from, to) =
            ((self.rows.as_ptr(), self.rows.len() / self.n), (self.wide.as_mut_ptr(), self.width));
        // SAFETY: both have `n` rows of `width` elements, those of numbers in multiples of 16.
        unsafe { kernels.widen(self.ty, from, self.n, self.width, to, false, std::ptr::null()) };
        &self.wide
    }

    /// Products of the queries with rows as numbers.
    pub fn scores(&mut self, kernels: &Kernels) -> &[f32] {
        let keys = (self.wide.as_ptr().cast(), 4 * self.width, std::ptr::null());
        let q = (&self.queries[..], self.width);
        // SAFETY: `n` rows of `width` numbers, and room for `n` scores of each query.
        unsafe { kernels.attn_scores(GgmlType::F32, q, keys, self.n, (self.out.as_mut_ptr(), self.n)) };
        &self.out
    }

    /// Products of quantized queries with rows in Q8_0.
    ///
    /// # Panics
    /// If the rows are in another format.
    pub fn scores_q8(&mut self, kernels: &Kernels) -> &[f32] {
        assert_eq!(self.ty, GgmlType::Q8_0, "rows in Q8_0");
        let queries = Activations::new(&self.queries, self.width, 32);
        let panels = bytemuck::cast_slice_mut(&mut self.panels);
        kernels.arrange_q8(queries.view(), panels);
        let (q, keys) = (
            (&*panels, self.n_queries, self.width),
            (self.rows.as_ptr(), self.rows.len() / self.n, std::ptr::null()),
        );
        // SAFETY: `n` rows of `width` elements, and room for `n` scores of each query.
        unsafe { kernels.attn_scores_q8(q, keys, self.n, (self.out.as_mut_ptr(), self.n)) };
        &self.out
    }

    /// Weighted sums of rows as numbers; the queries' numbers serve as weights.
    pub fn values(&mut self, kernels: &Kernels) -> &[f32] {
        let weights = (self.queries.as_ptr(), self.width, self.n_queries);
        let (rows, out) = ((self.wide.as_ptr(), self.width, self.width), (self.out.as_mut_ptr(), self.width));
        // SAFETY: a weight for each of the rows that are taken, and room for `width` numbers of each query.
        unsafe { kernels.gemm_f32(weights, self.n.min(self.width), rows, out, None, NOTHING_AHEAD) };
        &self.out
    }
}
