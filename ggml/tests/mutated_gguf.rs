//! A good file, changed in thousands of ways: it opens and can be used, or ends in one clean line.

use std::sync::Arc;

use ggml_sys::gguf::{StringArray, Writer};
use ggml_sys::{GgmlType, Shape};

#[path = "common/exercise.rs"]
mod exercise;

/// A file with every type of metadata and tensors in plain and block formats.
fn good() -> Vec<u8> {
    let mut w = Writer::new("good.gguf");
    w.set("general.architecture", "llama");
    w.set("u8", 1u8);
    w.set("i8", -1i8);
    w.set("u16", 2u16);
    w.set("i16", -2i16);
    w.set("u32", 3u32);
    w.set("i32", -3i32);
    w.set("u64", 4u64);
    w.set("i64", -4i64);
    w.set("f32", 0.5f32);
    w.set("f64", 0.25f64);
    w.set("bool", true);
    w.set("general.alignment", 64u32);
    w.set("strings", StringArray::from_strings(["", "a", "\u{120}the", "<0x0A>"]).unwrap());
    w.set("numbers", &[1i32, 2, 3][..]);
    w.set("floats", &[1f32, -2.0][..]);
    w.set("bools", &[true, false][..]);
    w.set("no strings", StringArray::from_strings([""; 0]).unwrap());
    let tensors = [
        ("output_norm.weight", GgmlType::F32, Shape([5, 1, 1, 1])),
        ("token_embd.weight", GgmlType::F16, Shape([8, 3, 1, 1])),
        ("blk.0.ffn_up_exps.weight", GgmlType::Q8_0, Shape([32, 2, 2, 1])),
    ];
    for (name, ty, shape) in tensors {
        w.tensor(name, ty, shape).unwrap();
    }
    let mut data = w.begin(Vec::new()).unwrap();
    for (i, (_, ty, shape)) in tensors.into_iter().enumerate() {
        let n = ty.row_bytes(shape.row_len()).unwrap() * shape.n_rows();
        data.write(&vec![i as u8; n]).unwrap();
    }
    data.finish().unwrap()
}

/// A small generator (SplitMix64), so that every run makes the same changes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

#[test]
fn the_good_file_is_good() {
    let file = exercise::open_and_use(good()).unwrap();
    assert_eq!((file.metadata().len(), file.tensors().len()), (18, 3));
}

#[test]
fn every_prefix() {
    let good = good();
    // Behind the last tensor's last byte there is only padding, which may be missing.
    let last = ggml_sys::gguf::Gguf::from_bytes(Arc::new(good.clone()), "good.gguf").unwrap();
    let needed = last.tensors().iter().map(|t| t.shared_bytes().parts().1.end).max().unwrap();
    for n in 0..good.len() {
        let opened = exercise::open_and_use(good[..n].to_vec());
        assert_eq!(opened.is_ok(), n >= needed, "{n} of {needed}");
    }
}

#[test]
fn every_field_replaced() {
    const VALUES: [u64; 15] = [
        0,
        1,
        2,
        5,
        7,
        9,
        31,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        1 << 32,
        1 << 61,
        i64::MAX as u64,
        1 << 63,
        u64::MAX,
    ];
    let good = good();
    let mut opened = 0;
    for at in 4..good.len() {
        for value in VALUES {
            for width in [4, 8] {
                let mut bytes = good.clone();
                let end = (at + width).min(bytes.len());
                bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
                opened += usize::from(exercise::open_and_use(bytes).is_ok());
            }
        }
    }
    assert!(opened > 1000, "only {opened} of the changed files could be used");
}

#[test]
fn random_changes() {
    let good = good();
    let mut random = Random(1);
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..=random.below(6) {
            let (a, b) = (random.below(bytes.len()), random.below(bytes.len()));
            match random.below(6) {
                0 => bytes[a] = random.next() as u8,
                1 => bytes[a] ^= 1 << random.below(8),
                2 => bytes.truncate(a.max(24)),
                3 => _ = bytes.drain(a.min(b)..a.max(b).min(a.min(b) + 9)),
                4 => {
                    let piece = bytes[a.min(b)..a.max(b).min(a.min(b) + 24)].to_vec();
                    bytes.splice(a..a, piece);
                }
                _ => {
                    let n = 8.min(bytes.len() - a.max(b));
                    let (from, to) = (a.min(b), a.max(b));
                    bytes.copy_within(from..from + n, to);
                }
            }
        }
        _ = exercise::open_and_use(bytes);
    }
}
