//! The table of block formats.
//!
//! A format is one file of this folder (layout, unpacking, encoding) and one line in [`FORMATS`];
//! everything that enumerates formats, the tests included, reads this table.
//!
//! Every quantized format of GGML is the same thing in different clothes: small integers, a scale
//! per sub-block of 16 or 32, sometimes a minimum. [`Format::unpack`](Blocks::unpack) takes the
//! clothes off one block; decoding to F32, the scalar dot product and the int8 panels of the
//! prompt kernels are all built on it.

mod bits;
#[cfg(test)]
mod cuda_tables;
mod dot;
mod e2m1;
mod float;
mod grids;
mod iq1_m;
mod iq1_s;
mod iq2_s;
mod iq2_xs;
mod iq2_xxs;
mod iq3_s;
mod iq3_xxs;
mod iq4_nl;
mod iq4_xs;
mod mxfp4;
mod nvfp4;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
#[doc(hidden)]
pub mod random;
mod search;
mod squares;
mod tq1_0;
mod tq2_0;

use std::fmt;

use crate::act::ActFormat;

pub use dot::{dot_f32, dot_q8};
pub(crate) use grids::{IQ1S, IQ2S, IQ2XS, IQ2XXS, IQ3S, IQ3XXS, IQ4_VALUES};
use search::lanes;
pub use search::lanes::Instructions;
pub use squares::squares;

/// Largest number of elements in a block of any format.
pub const MAX_BLOCK: usize = 256;

/// Type of a tensor as numbered in GGUF files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types)] // the field's names, as people write them on the command line
#[allow(missing_docs)]
#[repr(u32)]
pub enum GgmlType {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    IQ2_XXS = 16,
    IQ2_XS = 17,
    IQ3_XXS = 18,
    IQ1_S = 19,
    IQ4_NL = 20,
    IQ3_S = 21,
    IQ2_S = 22,
    IQ4_XS = 23,
    IQ1_M = 29,
    BF16 = 30,
    TQ1_0 = 34,
    TQ2_0 = 35,
    MXFP4 = 39,
    NVFP4 = 40,
}

/// The table: one line a format.
pub static FORMATS: &[Format] = &[
    float::F32,
    float::F16,
    float::BF16,
    q4_0::Q4_0,
    q4_1::Q4_1,
    q5_0::Q5_0,
    q5_1::Q5_1,
    q8_0::Q8_0,
    q2_k::Q2_K,
    q3_k::Q3_K,
    q4_k::Q4_K,
    q5_k::Q5_K,
    q6_k::Q6_K,
    iq1_s::IQ1_S,
    iq1_m::IQ1_M,
    iq2_xxs::IQ2_XXS,
    iq2_xs::IQ2_XS,
    iq2_s::IQ2_S,
    iq3_xxs::IQ3_XXS,
    iq3_s::IQ3_S,
    iq4_nl::IQ4_NL,
    iq4_xs::IQ4_XS,
    tq1_0::TQ1_0,
    tq2_0::TQ2_0,
    mxfp4::MXFP4,
    nvfp4::NVFP4,
];

/// Line of each type number in [`FORMATS`]; [`NO_LINE`] for numbers without one.
static LINES: [u8; 64] = {
    let mut lines = [NO_LINE; 64];
    let mut i = 0;
    while i < FORMATS.len() {
        let code = FORMATS[i].ty as usize;
        assert!(lines[code] == NO_LINE, "two lines for one type");
        lines[code] = i as u8;
        i += 1;
    }
    lines
};
const NO_LINE: u8 = u8::MAX;

/// A block format: how many elements a block has, how many bytes, and what can be done with them.
pub struct Format {
    /// Its number in files.
    pub ty: GgmlType,
    /// Its name as people write it: `Q4_K`.
    pub name: &'static str,
    /// Elements of a block; rows are whole blocks.
    pub block: usize,
    /// Bytes of a block.
    pub bytes: usize,
    /// Plain numbers or blocks of small integers.
    pub kind: Kind,
}

/// The two families of formats.
pub enum Kind {
    /// Plain floating-point numbers, one a "block". Activations stay F32.
    Float {
        /// Decodes `dst.len()` numbers.
        decode: fn(src: &[u8], dst: &mut [f32]),
        /// Encodes `src.len()` numbers, rounding to nearest even.
        encode: fn(src: &[f32], dst: &mut [u8]),
    },
    /// Blocks of small integers with scales. Activations are quantized to 8 bits.
    Blocks(Blocks),
}

/// Encodes whole blocks with given instructions. The weights, if any, are as many as the values.
pub type Encode = fn(on: Instructions, src: &[f32], weights: Option<&[f32]>, dst: &mut [u8]);

/// What is particular to a format of small integers.
pub struct Blocks {
    /// Elements that share a scale: 16 or 32.
    pub sub: usize,
    /// Whether sub-blocks have a minimum: value = scale·q + min.
    pub has_min: bool,
    /// The activation format that its dot product takes.
    pub act: ActFormat,
    /// Unpacks one block. `src` is exactly one block; of `dst` only what the block has is written.
    /// Never panics, whatever the bytes are.
    pub unpack: fn(src: &[u8], dst: &mut Unpacked),
    /// Encodes blocks; `None` while nobody has written it.
    pub encode: Option<Encode>,
}

/// One unpacked block: value `i` is `scale[i / sub] * qs[i] + min[i / sub]`.
///
/// The product (and sum) in F32 gives the format's value to the last bit.
#[derive(Clone)]
#[repr(align(64))]
pub struct Unpacked {
    /// The integers, within ±127; only Q8_0 can express −128, though no encoder writes it.
    pub qs: [i8; MAX_BLOCK],
    /// A scale per sub-block.
    pub scale: [f32; 16],
    /// A minimum per sub-block, to be added; meaningless unless [`Blocks::has_min`].
    pub min: [f32; 16],
}

impl Default for Unpacked {
    fn default() -> Self {
        Unpacked { qs: [0; MAX_BLOCK], scale: [0.0; 16], min: [0.0; 16] }
    }
}

impl Unpacked {
    /// The `i`-th piece of `N` integers.
    fn sub_mut<const N: usize>(&mut self, i: usize) -> &mut [i8; N] {
        &mut self.qs.as_chunks_mut().0[i]
    }

    /// The eight scales and minimums of Q4_K and Q5_K.
    fn set_scales_and_mins(&mut self, d: f32, dmin: f32, (scales, mins): ([u8; 8], [u8; 8])) {
        for i in 0..8 {
            self.scale[i] = d * f32::from(scales[i]);
            self.min[i] = -(dmin * f32::from(mins[i]));
        }
    }
}

impl Format {
    /// Decodes whole blocks: `dst.len()` elements from `src`.
    ///
    /// # Panics
    /// If `src` does not hold exactly `dst.len()` elements.
    pub fn decode(&self, src: &[u8], dst: &mut [f32]) {
        assert_eq!(src.len() / self.bytes * self.block, dst.len(), "{}: lengths differ", self.name);
        match &self.kind {
            Kind::Float { decode, .. } => decode(src, dst),
            Kind::Blocks(blocks) => {
                lanes::run(Instructions::best(), Decode { format: self, blocks, src, dst });
            }
        }
    }

    /// Encodes whole blocks, `None` if the format has no encoder yet.
    ///
    /// With `importance`, a number that is not negative for each value, what is kept small is the error weighted by
    /// it, Σ importance·(value − decoded)²; without, every value matters the same.
    ///
    /// # Panics
    /// If `src` is no whole number of blocks, `dst` has another length than they take, or `importance` another one
    /// than `src`.
    pub fn encode(&self, src: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) -> Option<()> {
        assert_eq!(dst.len() / self.bytes * self.block, src.len(), "{}: lengths differ", self.name);
        assert!(importance.is_none_or(|w| w.len() == src.len()), "{}: a weight for each value", self.name);
        match &self.kind {
            Kind::Float { encode, .. } => encode(src, dst),
            Kind::Blocks(b) => {
                (b.encode?)(Instructions::best(), src, importance, dst);
            }
        }
        Some(())
    }

    /// The activation format that dot products with rows of this format take.
    pub fn act(&self) -> ActFormat {
        match &self.kind {
            Kind::Float { .. } => ActFormat::F32,
            Kind::Blocks(b) => b.act,
        }
    }
}

/// Blocks to be decoded.
struct Decode<'a> {
    format: &'a Format,
    blocks: &'a Blocks,
    src: &'a [u8],
    dst: &'a mut [f32],
}

impl lanes::Task for Decode<'_> {
    #[inline(always)]
    fn run(self) {
        let Format { block, bytes, .. } = *self.format;
        let mut u = Unpacked::default();
        for (src, dst) in self.src.chunks_exact(bytes).zip(self.dst.chunks_exact_mut(block)) {
            (self.blocks.unpack)(src, &mut u);
            self.blocks.values(&u, dst);
        }
    }
}

impl Blocks {
    #[inline(always)]
    fn values(&self, u: &Unpacked, dst: &mut [f32]) {
        for (i, (dst, q)) in dst.chunks_exact_mut(self.sub).zip(u.qs.chunks_exact(self.sub)).enumerate() {
            for (y, &q) in dst.iter_mut().zip(q) {
                // Without a minimum nothing is added, not even zero: -0.0 + 0.0 would lose the sign.
                *y = u.scale[i] * f32::from(q);
                if self.has_min {
                    *y += u.min[i];
                }
            }
        }
    }
}

impl GgmlType {
    /// The type with this number, if fathom knows it.
    pub fn from_code(code: u32) -> Option<Self> {
        let line = *LINES.get(usize::try_from(code).ok()?)?;
        Some(FORMATS.get(usize::from(line))?.ty)
    }

    /// The type with this name, in either case.
    pub fn from_name(name: &str) -> Option<Self> {
        FORMATS.iter().find(|f| f.name.eq_ignore_ascii_case(name)).map(|f| f.ty)
    }

    /// Its line in the table.
    pub fn format(self) -> &'static Format {
        &FORMATS[usize::from(LINES[self as usize])]
    }

    /// Its name: `Q4_K`.
    pub fn name(self) -> &'static str {
        self.format().name
    }

    /// Bytes of a row of `n` elements; `None` if that is no whole number of blocks or overflows.
    pub fn row_bytes(self, n: usize) -> Option<usize> {
        let f = self.format();
        n.is_multiple_of(f.block).then(|| (n / f.block).checked_mul(f.bytes))?
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_consistent() {
        for f in FORMATS {
            assert_eq!(GgmlType::from_code(f.ty as u32), Some(f.ty));
            assert!(std::ptr::eq(f.ty.format(), f), "{}", f.name);
            assert_eq!(GgmlType::from_name(&f.name.to_lowercase()), Some(f.ty));
            assert!(f.block <= MAX_BLOCK);
            if let Kind::Blocks(b) = &f.kind {
                assert!(b.sub == 16 || b.sub == 32, "{}", f.name);
                assert_eq!(f.block % b.sub, 0, "{}", f.name);
            }
        }
    }
}
