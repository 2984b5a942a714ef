//! The F32 file of a reference model from its F16 file.
//!
//! All weights are exact in half precision, so this is the file that llama.cpp's converter writes
//! when asked for F32, to the byte. It knows just enough GGUF for files it trusts, and on purpose
//! shares no code with the reader that the tests are about.

use std::ops::Range;

use half::f16;

struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        self.at += n;
        &self.bytes[self.at - n..self.at]
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().expect("four bytes"))
    }

    fn u64(&mut self) -> usize {
        u64::from_le_bytes(self.take(8).try_into().expect("eight bytes")) as usize
    }

    fn string(&mut self) -> &'a [u8] {
        let n = self.u64();
        self.take(n)
    }

    fn value(&mut self, ty: u32) {
        match ty {
            0 | 1 | 7 => drop(self.take(1)),
            2 | 3 => drop(self.take(2)),
            4..=6 => drop(self.take(4)),
            8 => drop(self.string()),
            9 => {
                let (ty, n) = (self.u32(), self.u64());
                (0..n).for_each(|_| self.value(ty));
            }
            10..=12 => drop(self.take(8)),
            _ => panic!("metadata type {ty}"),
        }
    }
}

/// F16 tensors become F32, `general.file_type` 1 becomes 0, all else stays.
pub fn f16_to_f32(src: &[u8]) -> Vec<u8> {
    const ALIGNMENT: usize = 32;
    let mut f = Fields { bytes: src, at: 8 };
    assert!(src.starts_with(b"GGUF\x03\0\0\0"), "not GGUF 3");
    let (n_tensors, n_keys) = (f.u64(), f.u64());
    let mut out = src[..f.at].to_vec();
    for _ in 0..n_keys {
        let start = f.at;
        let (key, ty) = (f.string(), f.u32());
        assert_ne!(key, b"general.alignment", "fixtures have none");
        f.value(ty);
        out.extend(&src[start..f.at]);
        if key == b"general.file_type" {
            let at = out.len() - 4;
            out[at..].copy_from_slice(&0u32.to_le_bytes());
        }
    }
    // Of each tensor: elements, whether F16, and its offset in the old file.
    let mut tensors = Vec::new();
    let mut offset = 0;
    for _ in 0..n_tensors {
        let start = f.at;
        f.string();
        let n: usize = (0..f.u32()).map(|_| f.u64()).product();
        out.extend(&src[start..f.at]);
        let is_f16 = match f.u32() {
            0 => false,
            1 => true,
            other => panic!("tensor type {other}"),
        };
        tensors.push((n, is_f16, f.u64()));
        out.extend(0u32.to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        offset += (4 * n).next_multiple_of(ALIGNMENT);
    }
    let data = f.at.next_multiple_of(ALIGNMENT);
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    for (n, is_f16, at) in tensors {
        let raw = |size: usize| -> &[u8] {
            let range: Range<usize> = data + at..data + at + n * size;
            &src[range]
        };
        if is_f16 {
            let halves = raw(2).chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32());
            out.extend(halves.flat_map(f32::to_le_bytes));
        } else {
            out.extend(raw(4));
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    }
    out
}
