//! Random but sane blocks of every format, for conformance tests and benches.
//!
//! All integer fields, sub-block scales included, are uniformly random, so that every code of a format occurs;
//! the block's own scale is then set so that its values have the magnitude asked for.

use super::bits::F16;
use super::{Format, GgmlType, nvfp4};

/// Where a block has its scale.
enum Scale {
    /// An F16 at this byte.
    F16(usize),
    /// F16 numbers at these bytes; the second scales minimums and is `ratio` times the first, which centers the
    /// values at zero.
    F16WithMin { d: usize, min: usize, ratio: f32 },
    /// The nibbles of an F16, least significant first, in the high nibbles of these bytes.
    F16InNibbles([usize; 4]),
    /// An exponent at this byte.
    E8M0(usize),
    /// Small floating-point numbers at these bytes.
    Ue4m3([usize; 4]),
}

/// Where `ty` has its scale; `None` for plain numbers.
fn scale_of(ty: GgmlType) -> Option<Scale> {
    use GgmlType as T;
    Some(match ty {
        T::F32 | T::F16 | T::BF16 => return None,
        T::Q4_0 | T::Q5_0 | T::Q8_0 => Scale::F16(0),
        T::Q4_1 => Scale::F16WithMin { d: 0, min: 2, ratio: -7.5 },
        T::Q5_1 => Scale::F16WithMin { d: 0, min: 2, ratio: -15.5 },
        T::Q2_K => Scale::F16WithMin { d: 80, min: 82, ratio: 1.5 },
        T::Q3_K => Scale::F16(108),
        T::Q4_K => Scale::F16WithMin { d: 0, min: 2, ratio: 7.5 },
        T::Q5_K => Scale::F16WithMin { d: 0, min: 2, ratio: 15.5 },
        T::Q6_K => Scale::F16(208),
        T::IQ2_XXS | T::IQ2_XS | T::IQ2_S | T::IQ3_XXS | T::IQ3_S | T::IQ1_S | T::IQ4_NL | T::IQ4_XS => {
            Scale::F16(0)
        }
        T::IQ1_M => Scale::F16InNibbles([49, 51, 53, 55]),
        T::TQ1_0 => Scale::F16(52),
        T::TQ2_0 => Scale::F16(64),
        T::MXFP4 => Scale::E8M0(0),
        T::NVFP4 => Scale::Ue4m3([0, 1, 2, 3]),
    })
}

impl Scale {
    /// Writes scale `x` into a block.
    fn set(&self, block: &mut [u8], x: f32) {
        let mut f16 = |at: usize, x: f32| block[at..at + 2].copy_from_slice(bytemuck::bytes_of(&F16::new(x)));
        match *self {
            Scale::F16(at) => f16(at, x),
            Scale::F16WithMin { d, min, ratio } => {
                f16(d, x);
                f16(min, ratio * x);
            }
            Scale::F16InNibbles(at) => {
                let bits = half::f16::from_f32(x).to_bits();
                for (i, at) in at.into_iter().enumerate() {
                    block[at] = block[at] & 15 | ((bits >> (4 * i)) as u8 & 15) << 4;
                }
            }
            Scale::E8M0(at) => block[at] = (x.log2().round() + 127.0) as u8,
            Scale::Ue4m3(at) => at.into_iter().for_each(|at| block[at] = nvfp4::nearest_ue4m3(x)),
        }
    }
}

/// `n_blocks` random blocks of type `ty`, reproducible from `seed`, whose decoded values have mean zero and a
/// standard deviation near `scale` (each block's between ½ and 1½ of it). For plain numbers a block is one number.
///
/// `scale` has to lie within what the format can express; 0.01 to 100 does for all.
pub fn random_blocks(ty: GgmlType, n_blocks: usize, scale: f32, seed: u64) -> Vec<u8> {
    let format = ty.format();
    let mut random = Random(seed);
    let mut out = vec![0; n_blocks * format.bytes];
    let Some(field) = scale_of(ty) else {
        let xs: Vec<f32> = (0..n_blocks).map(|_| scale * random.gaussian()).collect();
        let encoded = format.encode(&xs, None, &mut out);
        debug_assert!(encoded.is_some(), "plain numbers always encode");
        return out;
    };
    for block in out.chunks_exact_mut(format.bytes) {
        for b in block.iter_mut() {
            *b = random.next() as u8;
        }
        field.set(block, 1.0);
        let rms = rms(format, block);
        let jitter = 0.5 + random.uniform();
        field.set(block, if rms > 0.0 { jitter * scale / rms } else { scale });
    }
    out
}

/// Root mean square of the values of `blocks`.
fn rms(format: &Format, blocks: &[u8]) -> f32 {
    let mut values = vec![0f32; blocks.len() / format.bytes * format.block];
    format.decode(blocks, &mut values);
    (values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32).sqrt()
}

/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    #[allow(clippy::should_implement_trait)] // endless: an Option would be noise
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }

    /// Approximately normal, mean 0 and standard deviation 1: the sum of twelve uniform numbers less six.
    pub fn gaussian(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::FORMATS;
    use super::*;

    #[test]
    fn magnitude_is_as_asked_for_every_format() {
        for f in FORMATS {
            for scale in [0.01, 1.0, 100.0] {
                let n_blocks = 256 * 64 / f.block;
                let blocks = random_blocks(f.ty, n_blocks, scale, 7);
                let rms = rms(f, &blocks[..]);
                assert!((0.7 * scale..1.4 * scale).contains(&rms), "{}: {rms} for {scale}", f.name);
            }
        }
    }
}
