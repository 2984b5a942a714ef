//! Scale searches that the encoders share.
//!
//! An encoder looks for scales (and minimums) of some 16 or 32 values x such that the weighted error
//! Σ w (x − decoded)² is least, each value having the code that is nearest. w is the importance of a value, one where
//! none is given. Given the codes, the best scales are a linear least-squares fit; given the scales, the best codes are
//! the nearest ones; neither step can make the error larger, and a search starts from a handful of scales, alternates
//! the two and keeps the best.
//!
//! | module | value |
//! |---|---|
//! | [`signed`] | δ·q, levels q on both sides of zero |
//! | [`affine`] | δ·q + μ, integers q from zero on |
//! | [`grid`] | δ·g, points g of a grid |
//! | [`lanes`] | how sixteen sub-blocks are searched at once |

pub mod affine;
pub mod grid;
pub mod lanes;
pub mod signed;

use bytemuck::{Pod, cast_slice_mut};

use lanes::{Batch, Instructions, LANES, Task};

/// A block of `B` sub-blocks of `N` values each: how a batch of sub-blocks becomes blocks.
pub trait Coder<const N: usize, const B: usize>: Pod {
    /// Encodes a batch. Sub-blocks from `B * out.len()` on do not exist. Is to be `#[inline(always)]`.
    fn encode(batch: &Batch<N>, out: &mut [Self]);
}

/// Encodes whole blocks.
pub fn encode<T: Coder<N, B>, const N: usize, const B: usize>(
    on: Instructions,
    src: &[f32],
    weights: Option<&[f32]>,
    dst: &mut [u8],
) {
    lanes::run(on, Blocks::<T, N, B> { src, weights, dst: cast_slice_mut(dst) });
}

struct Blocks<'a, T, const N: usize, const B: usize> {
    src: &'a [f32],
    weights: Option<&'a [f32]>,
    dst: &'a mut [T],
}

impl<T: Coder<N, B>, const N: usize, const B: usize> Task for Blocks<'_, T, N, B> {
    #[inline(always)]
    fn run(self) {
        let batch = LANES * N;
        for (i, (src, dst)) in self.src.chunks(batch).zip(self.dst.chunks_mut(LANES / B)).enumerate() {
            let weights = self.weights.map(|w| &w[i * batch..][..src.len()]);
            T::encode(&Batch::load::<B>(src, weights), dst);
        }
    }
}
