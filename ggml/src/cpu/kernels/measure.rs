//! What the machine does at best, to hold the engine against: reading memory, and multiplying bytes.

use super::scalar::Scalar;
use super::simd::{Decode, Kernel, Simd};

/// Places at which the bytes are read side by side: a processor's prefetchers follow several streams at once and bring in
/// more that way than from one.
const STREAMS: usize = 4;
/// Bytes that are read at a place before the next one's turn comes.
const STEP: usize = 512;
/// Distance at which lines are asked for ahead of their use.
const AHEAD: usize = 1024;

/// What a sum of bytes needs, on every instruction set.
pub(super) trait Add: Simd {
    /// `a + b` for every byte.
    fn add(self, a: Self::Q, b: Self::Q) -> Self::Q;
}

impl<S: Decode> Add for S {
    #[inline(always)]
    fn add(self, a: Self::Q, b: Self::Q) -> Self::Q {
        self.add_bytes(a, b)
    }
}

impl Add for Scalar {
    #[inline(always)]
    fn add(self, a: Self::Q, b: Self::Q) -> Self::Q {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
}

/// Sums bytes modulo 256, as fast as they can be loaded.
pub(super) struct Sum<'a> {
    pub bytes: &'a [u8],
    pub sum: &'a mut u8,
}

impl<S: Add> Kernel<S> for Sum<'_> {
    #[inline(always)]
    fn run(self, s: S) {
        let stream = self.bytes.len() / STREAMS / STEP * STEP;
        let mut acc = [s.zero_q(); 4];
        for at in (0..stream).step_by(STEP) {
            for k in 0..STREAMS {
                // SAFETY: the streams lie within the bytes, and at + STEP within a stream; any address may be
                // asked for.
                unsafe {
                    let p = self.bytes.as_ptr().add(k * stream + at);
                    for line in 0..STEP / 64 {
                        s.prefetch(p.wrapping_add(AHEAD + 64 * line));
                        acc[line % 4] = Add::add(s, acc[line % 4], s.load_q(p.add(64 * line)));
                    }
                }
            }
        }
        let mut lanes = [0u8; 64];
        let [a, b, c, d] = acc;
        let all = Add::add(s, Add::add(s, a, b), Add::add(s, c, d));
        // SAFETY: 64 bytes.
        unsafe { s.store_q(lanes.as_mut_ptr(), all) };
        let tail = &self.bytes[STREAMS * stream..];
        *self.sum = lanes.iter().chain(tail).fold(0, |sum: u8, b| sum.wrapping_add(*b));
    }
}

/// Registers of weights that take turns.
const WEIGHTS: usize = 16;
/// Most accumulators.
const MOST: usize = 12;

/// Operands of [`Dots`]: weights within 0..=127, and activations whose products with them cancel out, so that
/// sums stay where they begin.
#[repr(align(64))]
struct Operands {
    w: [[u8; 64]; WEIGHTS],
    x: [[i8; 64]; MOST],
    start: [i32; MOST],
}

static OPERANDS: Operands = {
    let mut o = Operands { w: [[0; 64]; WEIGHTS], x: [[0; 64]; MOST], start: [0; MOST] };
    let mut b = 0;
    while b < 64 {
        let mut i = 0;
        while i < WEIGHTS {
            // The same in all four bytes of a lane.
            o.w[i][b] = ((b / 4) * WEIGHTS + i) as u8 % 128;
            i += 1;
        }
        let mut j = 0;
        while j < MOST {
            let x = (j * 10 + 7) as i8;
            o.x[j][b] = if b % 2 == 0 { x } else { -x };
            o.start[j] = j as i32;
            j += 1;
        }
        b += 1;
    }
    o
};

/// Independent dot products of bytes in registers: `rounds` of as many accumulators as there are.
pub(super) struct Dots<'a> {
    pub rounds: usize,
    /// Whether one instruction multiplies and accumulates. Otherwise each accumulator has activations of its own, or
    /// the compiler would share the products among them.
    pub fused: bool,
    /// Multiplications done.
    pub macs: &'a mut u64,
    /// Sum of the accumulators, which the compiler cannot know.
    pub sum: &'a mut i32,
}

impl<S: Simd> Kernel<S> for Dots<'_> {
    #[inline(always)]
    fn run(self, s: S) {
        // Latency times throughput of the dot instructions asks for ten chains. AVX2's 16 registers hold five
        // virtual ones of two and what feeds them, NEON's 32 five of four.
        match (S::WIDE, self.fused) {
            (true, true) => dots::<S, MOST, 1>(s, self),
            (true, false) => dots::<S, MOST, MOST>(s, self),
            (false, true) => dots::<S, 5, 1>(s, self),
            (false, false) => dots::<S, 5, 5>(s, self),
        }
    }
}

#[inline(always)]
fn dots<S: Simd, const N: usize, const X: usize>(s: S, args: Dots<'_>) {
    let operands = std::hint::black_box(&OPERANDS);
    let mut acc = [s.zero_i(); N];
    let mut x = [s.zero_q(); X];
    // SAFETY: whole registers of the operands; N and X are at most MOST.
    unsafe {
        for j in 0..N {
            acc[j] = s.splat_i(&operands.start[j]);
        }
        for j in 0..X {
            x[j] = s.load_q(operands.x[j].as_ptr().cast());
        }
        for i in 0..args.rounds {
            // From the first-level cache: other weights in each round, or the products would move out of the loop.
            let w = s.load_q(operands.w[i % WEIGHTS].as_ptr());
            for j in 0..N {
                acc[j] = s.mac_unsigned(acc[j], w, x[j % X]);
            }
        }
    }
    let mut lanes = [0i32; 16];
    *args.sum = 0;
    for a in acc {
        // SAFETY: 16 numbers.
        unsafe { s.store_i(lanes.as_mut_ptr(), a) };
        *args.sum = lanes.iter().fold(*args.sum, |sum, l| sum.wrapping_add(*l));
    }
    *args.macs = args.rounds as u64 * N as u64 * 64;
}
