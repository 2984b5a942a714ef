//! What this machine can do at best with the threads of a backend: what its speed is a share of.
//!
//! Generation streams the weights once a token, so the bandwidth of memory bounds it; a prompt is products of bytes, so
//! the throughput of their instruction does. Both are measured here with the same threads that the engine uses, and
//! nothing else around them. The instructions are the widest loads and the vector products of the instruction set: where
//! prompts are multiplied in tiles of AMX, they can pass that peak.

use std::time::{Duration, Instant};

use super::Cpu;

/// Measurements of which the best counts: others on the machine only slow them down.
const REPEATS: usize = 5;
/// Bytes that a thread takes at a time.
const PIECE: usize = 1 << 20;
/// Rounds of dot products that a thread takes at a time: well below a millisecond where there are instructions for them.
const ROUNDS: usize = 1 << 13;
/// About how long all threads multiply for a measurement of the peak.
const TIME: Duration = Duration::from_millis(20);

impl Cpu {
    /// Bytes a second that the threads read together, summing the first `most` bytes of `data`, the best of five times.
    ///
    /// What is to tell of memory should be larger than the last cache. It is read once before, so that pages of a file are
    /// there.
    pub fn read_bandwidth<'a>(&self, data: impl IntoIterator<Item = &'a [u8]>, most: usize) -> f64 {
        let mut left = most;
        let mut pieces: Vec<&[u8]> = Vec::new();
        for bytes in data {
            let bytes = &bytes[..bytes.len().min(left)];
            left -= bytes.len();
            pieces.extend(bytes.chunks(PIECE));
        }
        let bytes = (most - left) as f64;
        let read = |i: usize| {
            std::hint::black_box(self.kernels.sum(pieces[i]));
        };
        bytes / self.best(pieces.len(), read)
    }

    /// Multiplications and additions of bytes a second that the threads do together in vector registers, the best of five
    /// times. AMX's tiles are not counted in.
    pub fn int8_peak(&self) -> f64 {
        let start = Instant::now();
        let macs_of_one = self.kernels.dots(ROUNDS);
        let turns = TIME.as_nanos() / start.elapsed().as_nanos().max(1);
        // Whatever the clock says, no more than takes a second or two at a thousandth of the usual speed.
        let n = turns.clamp(1, 1 << 12) as usize * self.pool.n_threads();
        let macs = macs_of_one * n as u64;
        macs as f64 / self.best(n, |_| _ = self.kernels.dots(ROUNDS))
    }

    /// Seconds that `n` items take all threads, after they have been done once.
    fn best(&self, n: usize, item: impl Fn(usize) + Sync) -> f64 {
        let mut best = f64::INFINITY;
        for repeat in 0..=REPEATS {
            let start = Instant::now();
            self.pool.run(&|worker| worker.for_each(n, &item));
            if repeat > 0 {
                best = best.min(start.elapsed().as_secs_f64());
            }
        }
        // Of nothing, in no time: not a division by zero.
        best.max(1e-9)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use crate::cpu::{Cpu, kernels};

    #[test]
    fn sums_are_right_on_every_instruction_set_for_every_length() {
        let bytes: Vec<u8> = (0..7000u32).map(|i| ((i * i) >> 3) as u8).collect();
        for k in kernels::available() {
            for range in [0..0, 0..1, 3..515, 1..2049, 7..6999] {
                let want = bytes[range.clone()].iter().fold(0u8, |s, b| s.wrapping_add(*b));
                assert_eq!(k.sum(&bytes[range.clone()]), want, "{k:?} {range:?}");
            }
        }
    }

    #[test]
    fn there_is_something_to_measure_on_every_instruction_set() {
        let data = vec![1u8; 3 << 20];
        for k in kernels::available() {
            let cpu = Cpu::with_kernels(NonZeroUsize::new(2).unwrap(), k).unwrap();
            assert!(k.dots(10) >= 10 * 5 * 64, "{k:?}");
            assert!(cpu.read_bandwidth([&data[..], &[]], 5 << 19) > 0.0, "{k:?}");
        }
    }
}
