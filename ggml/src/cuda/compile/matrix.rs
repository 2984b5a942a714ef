//! Products with weight matrices.

use super::{Compiler, FEW, Launcher, NO_Q8, RegionId, Slot};
use crate::act::ActFormat;
use crate::cuda::args::{
    self, MATMUL_GATE_UP_OUT, MATMUL_OUT, MATMUL_ROWS, MATMUL_THREADS, MATVEC_OUT, MATVEC_THREADS,
    MatmulArgs, MatvecArgs, SiluMulArgs,
};
use crate::cuda::driver::DevicePtr;
use crate::cuda::modules::{Geometry, Kernel};
use crate::error::Result;
use crate::format::GgmlType;
use crate::graph::{Heads, Rows, Stack, View, WeightId};
use crate::ops::{GateUp, HeadLinear, Linear};

/// Matrices of a tensor on the device.
#[derive(Clone, Copy)]
pub(super) struct Matrices {
    /// The first row of the first matrix.
    pub at: DevicePtr,
    pub ty: GgmlType,
    /// Bytes of a row.
    pub row: u64,
    /// Bytes from one matrix to the next.
    pub bytes: u64,
    pub k: usize,
    pub n_out: usize,
}

/// The activations of a product.
#[derive(Clone, Copy)]
pub(super) enum Input {
    Floats(Heads),
    Q8(Slot),
}

/// Kernels of a format for any number of rows.
pub(super) struct Products {
    /// For up to 1, 2, 4 and 8 rows.
    few: [Kernel<MatvecArgs>; 4],
    many: Kernel<MatmulArgs>,
    /// Output columns of a tile of `many`.
    tile_out: u32,
}

/// How the pairs of rows and experts are sorted.
#[derive(Clone, Copy)]
pub(super) struct Grouping {
    pub order: RegionId,
    pub tiles: RegionId,
    pub n_tiles: RegionId,
    pub n_expert: usize,
}

/// The name of a format in the names of kernels.
pub(super) fn lower(ty: GgmlType) -> String {
    ty.name().to_ascii_lowercase()
}

impl Products {
    /// Puts a product into the stream.
    ///
    /// # Safety
    /// `m` names memory as kernels take it, for these rows and groups.
    pub unsafe fn launch(&self, m: MatvecArgs, groups: u32) -> Result<()> {
        if m.n_rows as usize <= FEW {
            // SAFETY: as the caller says; the kernel takes as many rows as there are.
            return unsafe { self.launch_few(m, groups) };
        }
        let grid = [m.n_out.div_ceil(self.tile_out), m.n_rows.div_ceil(MATMUL_ROWS), groups];
        let args = MatmulArgs { m, tile_list: 0, n_tiles: 0, order: 0 };
        // SAFETY: as the caller says.
        unsafe { self.many.launch(Geometry::new(grid, MATMUL_THREADS), &args) }
    }

    /// The same for few rows of any number of groups.
    ///
    /// # Safety
    /// As above.
    pub unsafe fn launch_few(&self, m: MatvecArgs, groups: u32) -> Result<()> {
        let kernel = &self.few[m.n_rows.max(1).next_power_of_two().trailing_zeros().min(3) as usize];
        let grid = if m.n_rows == 0 { [0; 3] } else { [m.n_out.div_ceil(MATVEC_OUT), groups, 1] };
        // SAFETY: as the caller says.
        unsafe { kernel.launch(Geometry::new(grid, MATVEC_THREADS), &m) }
    }

    /// A product of pairs, tile by tile.
    ///
    /// # Safety
    /// As above; the grouping has been made for these pairs.
    pub unsafe fn launch_grouped(
        &self,
        l: &Launcher<'_>,
        m: MatvecArgs,
        g: Grouping,
        n_pairs: u32,
    ) -> Result<()> {
        let (order, tile_list, n_tiles) = (l.at(g.order), l.at(g.tiles), l.at(g.n_tiles));
        let grid = [m.n_out.div_ceil(self.tile_out), tiles(n_pairs as usize, g.n_expert) as u32, 1];
        let args = MatmulArgs { m, tile_list, n_tiles, order };
        // SAFETY: as the caller says.
        unsafe { self.many.launch(Geometry::new(grid, MATMUL_THREADS), &args) }
    }
}

/// Tiles that so many pairs of so many experts are cut into at the most.
pub(super) fn tiles(n_pairs: usize, n_expert: usize) -> usize {
    n_pairs / MATMUL_ROWS as usize + n_expert.min(n_pairs)
}

impl Input {
    /// Fills in what a kernel reads: the 8-bit rows, or the floats.
    pub fn fill(self, l: &Launcher<'_>, m: &mut MatvecArgs) {
        match self {
            Input::Floats(h) => m.x = l.heads(h),
            Input::Q8(s) => m.q = l.q8(s),
        }
    }
}

impl Matrices {
    /// What kernels take for products with these, but for activations, outputs and rows.
    pub fn args(&self) -> MatvecArgs {
        let none = args::Heads { at: 0, stride: 0, head: 0 };
        MatvecArgs {
            w: self.at,
            w_up: 0,
            row_bytes: self.row,
            matrix_bytes: self.bytes,
            matrix_bytes_up: 0,
            ids: 0,
            q: NO_Q8,
            x: none,
            y: none,
            bias: 0,
            k: self.k as u32,
            n_out: self.n_out as u32,
            n_rows: 0,
            x_groups: 1,
            x_div: 1,
            add: 0,
        }
    }
}

impl Compiler<'_> {
    /// The kernels of a format; `gated` are those with a gate.
    pub(super) fn products(&self, ty: GgmlType, gated: bool) -> Result<Products> {
        let few = if gated { "gate_up" } else { "matvec" };
        let ty = lower(ty);
        let of = |n| self.kernel(&format!("{few}_{ty}_{n}"));
        Ok(Products {
            few: [of(1)?, of(2)?, of(4)?, of(8)?],
            many: self.kernel(&format!("matmul_{ty}"))?,
            tile_out: if gated { MATMUL_GATE_UP_OUT } else { MATMUL_OUT },
        })
    }

    pub(super) fn whole(&mut self, w: WeightId) -> Result<Matrices> {
        let stack = Stack::whole(w, self.graph.weight(w));
        self.matrices(stack)
    }

    /// Activations as products with `w` take them.
    pub(super) fn input(&mut self, x: Heads, w: WeightId) -> Result<Input> {
        match self.act(w) {
            ActFormat::F32 => Ok(Input::Floats(x)),
            format => Ok(Input::Q8(self.quantized(x, format)?)),
        }
    }

    pub(super) fn linear(&mut self, o: &Linear) -> Result<()> {
        let rows = self.rows_of(o.x.buf);
        for p in &o.parts {
            let input = self.input(o.x.heads(1), p.w)?;
            let (m, products) = (self.whole(p.w)?, self.products(self.graph.weight(p.w).ty(), false)?);
            let bias = p.bias.map(|b| self.floats(b)).transpose()?.unwrap_or(0);
            let (y, add) = (p.y.heads(1), u32::from(o.add));
            self.steps.push(Box::new(move |l| {
                let mut args = MatvecArgs { y: l.heads(y), bias, n_rows: l.n(rows), add, ..m.args() };
                input.fill(l, &mut args);
                // SAFETY: the operation has been checked to have these shapes, and regions hold all rows of a batch.
                unsafe { products.launch(args, 1) }
            }));
        }
        Ok(())
    }

    pub(super) fn head_linear(&mut self, o: &HeadLinear) -> Result<()> {
        let (rows, input) = (self.rows_of(o.x.buf), self.input(o.x, o.w.w)?);
        let (m, products) = (self.matrices(o.w)?, self.products(self.graph.weight(o.w.w).ty(), false)?);
        let (y, n) = (o.y, o.x.n as u32);
        self.steps.push(Box::new(move |l| {
            let mut args = MatvecArgs { y: l.heads(y), n_rows: l.n(rows), x_groups: n, ..m.args() };
            input.fill(l, &mut args);
            // SAFETY: as for a linear, with a matrix for each head.
            unsafe { products.launch(args, n) }
        }));
        Ok(())
    }

    pub(super) fn gate_up(&mut self, o: &GateUp) -> Result<()> {
        let (gate, up) = (self.whole(o.gate)?, self.whole(o.up)?);
        if gate.ty != up.ty {
            return self.gate_up_apart(o, gate, up);
        }
        let (rows, input) = (self.rows_of(o.x.buf), self.input(o.x.heads(1), o.gate)?);
        let (products, y) = (self.products(gate.ty, true)?, o.y.heads(1));
        self.steps.push(Box::new(move |l| {
            let mut args = MatvecArgs { w_up: up.at, y: l.heads(y), n_rows: l.n(rows), ..gate.args() };
            input.fill(l, &mut args);
            // SAFETY: as for a linear; both matrices have the same shape.
            unsafe { products.launch(args, 1) }
        }));
        Ok(())
    }

    /// Gate and up in formats of their own.
    fn gate_up_apart(&mut self, o: &GateUp, gate: Matrices, up: Matrices) -> Result<()> {
        let (rows, width) = (self.rows_of(o.x.buf), o.y.width);
        let mut halves = vec![];
        for (w, m) in [(o.gate, gate), (o.up, up)] {
            let input = self.input(o.x.heads(1), w)?;
            let region = self.region(rows, width, 0);
            self.touch(region);
            let products = self.products(m.ty, false)?;
            self.steps.push(Box::new(move |l| {
                let y = args::Heads { at: l.at(region), stride: width as u64, head: 0 };
                let mut args = MatvecArgs { y, n_rows: l.n(rows), ..m.args() };
                input.fill(l, &mut args);
                // SAFETY: as for a linear.
                unsafe { products.launch(args, 1) }
            }));
            halves.push(region);
        }
        self.silu_mul(halves[0], halves[1], o.y, rows)
    }

    fn silu_mul(&mut self, gate: RegionId, up: RegionId, y: View, rows: Rows) -> Result<()> {
        let kernel: Kernel<SiluMulArgs> = self.kernel("silu_mul")?;
        self.steps.push(Box::new(move |l| {
            let n = y.width as u32;
            let args = SiluMulArgs { gate: l.rows(gate, y.width), up: l.rows(up, y.width), y: l.view(y), n };
            // SAFETY: all three have rows of this width.
            unsafe { kernel.launch(Geometry::new([n.div_ceil(256), l.n(rows), 1], 256), &args) }
        }));
        Ok(())
    }
}
