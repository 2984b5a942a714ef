//! SHA-256 (FIPS 180-4), so that fixtures and blocks can be held against the sums of their makers.

/// The digest of `data` in hexadecimal.
pub fn hex(data: &[u8]) -> String {
    digest(data).iter().map(|b| format!("{b:02x}")).collect()
}

/// The digest of `data`.
pub fn digest(data: &[u8]) -> [u8; 32] {
    let mut state = fractions::<8>(2);
    let k = fractions::<64>(3);
    let chunks = data.chunks_exact(64);
    // The end is padded with a one, zeros, and the length in bits.
    let mut end = chunks.remainder().to_vec();
    end.push(0x80);
    while end.len() % 64 != 56 {
        end.push(0);
    }
    end.extend((data.len() as u64 * 8).to_be_bytes());
    for chunk in chunks.chain(end.chunks_exact(64)) {
        compress(&mut state, &k, chunk);
    }
    let mut out = [0; 32];
    for (out, word) in out.chunks_exact_mut(4).zip(state) {
        out.copy_from_slice(&word.to_be_bytes());
    }
    out
}

/// The first 32 bits of the fractional parts of the square (2) or cube (3) roots of the first primes.
fn fractions<const N: usize>(root: u32) -> [u32; N] {
    let mut primes = (2u128..).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0));
    std::array::from_fn(|_| {
        // The integer root of p · 2^(32·root) has 32 fractional bits.
        let target = primes.next().expect("primes do not end") << (32 * root);
        let mut r = 0u128;
        for bit in (0..40).rev() {
            let next = r | 1 << bit;
            if next.pow(root) <= target {
                r = next;
            }
        }
        r as u32
    })
}

fn compress(state: &mut [u32; 8], k: &[u32; 64], chunk: &[u8]) {
    let mut w = [0u32; 64];
    for (w, b) in w.iter_mut().zip(chunk.chunks_exact(4)) {
        *w = u32::from_be_bytes(b.try_into().expect("four bytes"));
    }
    for i in 16..64 {
        let (a, b) = (w[i - 15], w[i - 2]);
        let s0 = a.rotate_right(7) ^ a.rotate_right(18) ^ (a >> 3);
        let s1 = b.rotate_right(17) ^ b.rotate_right(19) ^ (b >> 10);
        w[i] = w[i - 16].wrapping_add(s0).wrapping_add(w[i - 7]).wrapping_add(s1);
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for i in 0..64 {
        let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let choice = (e & f) ^ (!e & g);
        let t1 = h.wrapping_add(s1).wrapping_add(choice).wrapping_add(k[i]).wrapping_add(w[i]);
        let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let majority = (a & b) ^ (a & c) ^ (b & c);
        let t2 = s0.wrapping_add(majority);
        (h, g, f, e, d, c, b, a) = (g, f, e, d.wrapping_add(t1), c, b, a, t1.wrapping_add(t2));
    }
    for (s, v) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *s = s.wrapping_add(v);
    }
}

#[cfg(test)]
mod tests {
    use super::hex;

    #[test]
    fn examples_of_the_standard() {
        let cases = [
            (&b""[..], "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            ),
        ];
        for (data, want) in cases {
            assert_eq!(hex(data), want);
        }
        let million = vec![b'a'; 1_000_000];
        assert_eq!(hex(&million), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    }
}
