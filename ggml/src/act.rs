//! Activations quantized to signed 8-bit blocks, the other half of every quantized dot product.
//!
//! Weights whose blocks have 32 (or 64) elements meet activations with a scale per 32; weights in
//! super-blocks of 256 meet a scale per 256. Both keep the sums of every 16 integers, which minimums and
//! unsigned dot instructions need. Integers and scales lie in separate arrays.

/// How a row of activations is handed to a dot product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActFormat {
    /// Unchanged.
    F32,
    /// 8-bit integers, a scale per 32.
    Q8x32,
    /// 8-bit integers, a scale per 256.
    Q8x256,
}

/// Integers whose sum is kept in one number.
pub const SUM: usize = 16;

impl ActFormat {
    /// Elements that share a scale; 0 for F32.
    pub fn block(self) -> usize {
        match self {
            ActFormat::F32 => 0,
            ActFormat::Q8x32 => 32,
            ActFormat::Q8x256 => 256,
        }
    }
}

/// Rows of quantized activations, borrowed: `rows` rows of `k` elements, each array row-major.
#[derive(Clone, Copy)]
pub struct Q8Rows<'a> {
    /// Elements of a row.
    pub k: usize,
    /// Rows.
    pub rows: usize,
    /// Elements that share a scale: 32 or 256.
    pub block: usize,
    /// The integers, within ±127: `[rows, k]`.
    pub qs: &'a [i8],
    /// The scales: `[rows, k / block]`.
    pub d: &'a [f32],
    /// Sums of 16 integers each: `[rows, k / 16]`.
    pub sums: &'a [i16],
}

impl<'a> Q8Rows<'a> {
    /// Panics unless rows are whole blocks and the arrays hold all rows: what kernels rely on.
    pub fn check(&self) {
        let Q8Rows { k, rows, block, .. } = *self;
        assert!(block == 32 || block == 256, "blocks of {block}");
        assert!(k.is_multiple_of(block), "rows of {k} in blocks of {block}");
        let n = rows.checked_mul(k).expect("elements overflow");
        assert!(self.qs.len() >= n && self.d.len() >= n / block && self.sums.len() >= n / SUM, "arrays");
    }

    /// The single row `i`.
    pub fn row(&self, i: usize) -> Q8Rows<'a> {
        self.slice(i, 1)
    }

    /// `n` rows from row `i` on.
    pub fn slice(&self, i: usize, n: usize) -> Q8Rows<'a> {
        fn part<T>(all: &[T], i: usize, n: usize, width: usize) -> &[T] {
            &all[i * width..(i + n) * width]
        }
        Q8Rows {
            rows: n,
            qs: part(self.qs, i, n, self.k),
            d: part(self.d, i, n, self.k / self.block),
            sums: part(self.sums, i, n, self.k / SUM),
            ..*self
        }
    }
}

/// Quantizes one row: per block scale = max|x| / 127 and nearest integers, halves to even.
///
/// `qs`, `d` and `sums` take `x.len()`, `x.len() / block` and `x.len() / 16` numbers. This is the
/// scalar reference; the kernels give the same bits. A block whose largest magnitude is zero,
/// subnormal beyond inversion or not finite becomes zeros with scale zero or that non-finite
/// maximum, so that a NaN is seen in the result.
pub fn quantize_row(x: &[f32], block: usize, qs: &mut [i8], d: &mut [f32], sums: &mut [i16]) {
    for (b, x) in x.chunks_exact(block).enumerate() {
        let amax = x.iter().fold(0f32, |m, v| if v.abs() > m || v.is_nan() { v.abs() } else { m });
        let scale = amax / 127.0;
        let inverse = 127.0 / amax;
        let usable = inverse.is_finite() && scale.is_finite() && scale > 0.0;
        d[b] = if usable || !amax.is_finite() { scale } else { 0.0 };
        let qs = &mut qs[b * block..][..block];
        for (q, v) in qs.iter_mut().zip(x) {
            *q = if usable { (v * inverse).round_ties_even() as i8 } else { i8::from(!amax.is_finite()) };
        }
        for (s, q) in sums[b * block / SUM..][..block / SUM].iter_mut().zip(qs.chunks_exact(SUM)) {
            *s = q.iter().map(|&q| i16::from(q)).sum();
        }
    }
}
