//! Hash tables for vocabularies: keys stay where they lie in the file.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A keyed hash that reads eight bytes at a time. The key is drawn when the process starts, so that
/// a file cannot be made whose tokens all collide.
///
/// Each step is a 64×64 bit product folded to 64 bits, as in wyhash and its kin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed(u64);

/// Digits of π's fraction: any odd constant with no pattern does.
const K: u64 = 0x243f_6a88_85a3_08d3;

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

impl Seed {
    pub fn random() -> Self {
        Seed(RandomState::new().build_hasher().finish())
    }

    pub fn bytes(self, bytes: &[u8]) -> u64 {
        let mut h = self.0 ^ bytes.len() as u64;
        let (words, tail) = bytes.as_chunks::<8>();
        for word in words {
            h = fold(h ^ u64::from_le_bytes(*word), K ^ self.0);
        }
        let mut last = [0; 8];
        last[..tail.len()].copy_from_slice(tail);
        fold(h ^ u64::from_le_bytes(last), K ^ self.0)
    }
}

/// For `HashMap`s with `u64` keys.
impl BuildHasher for Seed {
    type Hasher = PairHasher;

    fn build_hasher(&self) -> PairHasher {
        PairHasher(self.0)
    }
}

/// Hasher of one `u64`.
pub(super) struct PairHasher(u64);

impl Hasher for PairHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = Seed(self.0).bytes(bytes);
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = fold(self.0 ^ n, K ^ self.0.rotate_left(32));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Text to id, where the text of an id lies elsewhere. Open addressing, at most three quarters full.
pub(super) struct TextTable {
    seed: Seed,
    /// A power of two of slots: half of the hash to compare first, and an id; [`EMPTY`] if free.
    slots: Vec<(u32, u32)>,
}

const EMPTY: u32 = u32::MAX;

impl TextTable {
    /// Space for the ids `0..n`, none of them in the table yet.
    pub fn with_capacity(n: usize) -> Self {
        let size = (n + n / 3 + 1).next_power_of_two();
        TextTable { seed: Seed::random(), slots: vec![(0, EMPTY); size] }
    }

    /// The slot where `text`, whose hash is `hash`, is or would be, and the half to compare.
    fn slot<'a>(&self, hash: u64, text: &[u8], text_of: impl Fn(u32) -> &'a [u8]) -> (usize, u32) {
        let (mut at, tag) = (hash as usize, (hash >> 32) as u32);
        loop {
            at &= self.slots.len() - 1;
            let (t, id) = self.slots[at];
            if id == EMPTY || (t == tag && text_of(id) == text) {
                return (at, tag);
            }
            at += 1;
        }
    }

    /// Adds `id`, whose text is `text`, unless another id has the same text.
    pub fn insert<'a>(&mut self, text: &[u8], id: u32, text_of: impl Fn(u32) -> &'a [u8]) -> bool {
        let (at, tag) = self.slot(self.seed.bytes(text), text, text_of);
        let free = self.slots[at].1 == EMPTY;
        if free {
            self.slots[at] = (tag, id);
        }
        free
    }

    /// The id of `text`.
    pub fn get<'a>(&self, text: &[u8], text_of: impl Fn(u32) -> &'a [u8]) -> Option<u32> {
        self.find(self.seed.bytes(text), text, text_of)
    }

    fn find<'a>(&self, hash: u64, text: &[u8], text_of: impl Fn(u32) -> &'a [u8]) -> Option<u32> {
        let (at, _) = self.slot(hash, text, text_of);
        Some(self.slots[at].1).filter(|&id| id != EMPTY)
    }

    /// The ids of `N` texts.
    ///
    /// A lookup waits for memory twice, for the slot and for the text to compare. Touching the one
    /// for all texts first and then the other, the waits overlap: several times faster where the
    /// table is larger than the cache.
    pub fn get_all<'a, const N: usize>(
        &self,
        texts: &[&[u8]; N],
        text_of: impl Fn(u32) -> &'a [u8] + Copy,
    ) -> [Option<u32>; N] {
        let hashes = texts.map(|text| self.seed.bytes(text));
        let likely = hashes.map(|hash| self.slots[hash as usize & (self.slots.len() - 1)].1);
        for id in likely.into_iter().filter(|&id| id != EMPTY) {
            std::hint::black_box(text_of(id).first().copied());
        }
        std::array::from_fn(|i| self.find(hashes[i], texts[i], text_of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_table_finds_what_was_put_in() {
        let texts: Vec<String> = (0..1000).map(|i| format!("{i:x}").repeat(i % 7 + 1)).collect();
        let of = |id: u32| texts[id as usize].as_bytes();
        let mut table = TextTable::with_capacity(texts.len());
        for id in 0..1000 {
            table.insert(of(id), id, of);
        }
        let first = |text: &String| texts.iter().position(|t| t == text).map(|i| i as u32);
        for id in 0..1000 {
            assert_eq!(table.get(of(id), of), first(&texts[id as usize]));
        }
        let three = table.get_all(&[of(7), b"absent", of(999)], of);
        assert_eq!(three, [first(&texts[7]), None, first(&texts[999])]);
        assert_eq!(table.get(b"absent", of), None);
        assert_eq!(table.get(b"", of), None);
    }

    #[test]
    fn hashes_differ_in_length_and_in_every_byte() {
        let seed = Seed::random();
        let text = [0u8; 40];
        let mut seen: Vec<u64> = (0..=40).map(|n| seed.bytes(&text[..n])).collect();
        for i in 0..40 {
            let mut t = text;
            t[i] = 1;
            seen.push(seed.bytes(&t));
        }
        let n = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), n);
    }
}
