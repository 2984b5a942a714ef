//! The byte-level alphabet: how vocabularies spell bytes as characters.
//!
//! GPT-2 wrote its vocabulary as text files, so every byte needed a character that is neither
//! space nor control. Printable bytes of Latin-1 stand for themselves; the other 68 take the
//! characters from U+0100 on, in order: a space is `Ġ` (U+0120), a newline `Ċ` (U+010A).
//! Source: `bytes_to_unicode` in OpenAI's GPT-2 encoder.

/// Characters beyond the last one of the alphabet.
const END: usize = 0x100 + 68;

/// The character of each byte; all are below U+0144, so 16 bits do.
const CHARS: [u16; 256] = {
    let mut chars = [0; 256];
    let mut next = 0x100;
    let mut byte = 0;
    while byte < 256 {
        chars[byte] = match byte {
            0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => byte as u16,
            _ => {
                next += 1;
                next - 1
            }
        };
        byte += 1;
    }
    chars
};

/// No byte has this character.
const NONE: u16 = u16::MAX;

/// The byte of each character below [`END`], or [`NONE`].
const BYTES: [u16; END] = {
    let mut bytes = [NONE; END];
    let mut byte = 0;
    while byte < 256 {
        bytes[CHARS[byte] as usize] = byte as u16;
        byte += 1;
    }
    bytes
};

/// Appends the characters, as UTF-8, that stand for `bytes`.
pub(super) fn spell(bytes: &[u8], out: &mut Vec<u8>) {
    for &byte in bytes {
        match CHARS[usize::from(byte)] {
            c @ 0..=0x7f => out.push(c as u8),
            c => out.extend([0xc0 | (c >> 6) as u8, 0x80 | (c & 0x3f) as u8]),
        }
    }
}

/// Appends the bytes that `text` spells. Answers `false`, with `out` as it was, if a character of
/// `text` is not of the alphabet.
pub(super) fn unspell(text: &[u8], out: &mut Vec<u8>) -> bool {
    let before = out.len();
    let mut rest = text;
    loop {
        let (char, len) = match *rest {
            [] => return true,
            [c @ 0..=0x7f, ..] => (usize::from(c), 1),
            [a @ 0xc2..=0xc5, b @ 0x80..=0xbf, ..] => (usize::from(a & 0x1f) << 6 | usize::from(b & 0x3f), 2),
            _ => (END, 1),
        };
        match BYTES.get(char) {
            Some(&byte) if byte != NONE => out.push(byte as u8),
            _ => {
                out.truncate(before);
                return false;
            }
        }
        rest = &rest[len..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives() {
        let all: Vec<u8> = (0..=255).collect();
        let (mut spelled, mut back) = (Vec::new(), Vec::new());
        spell(&all, &mut spelled);
        let text = std::str::from_utf8(&spelled).unwrap();
        assert_eq!(text.chars().count(), 256);
        assert!(!text.chars().any(|c| c.is_whitespace() || c.is_control()));
        assert!(unspell(&spelled, &mut back));
        assert_eq!(back, all);
    }

    #[test]
    fn known_characters() {
        let mut out = Vec::new();
        spell(b"a b\n", &mut out);
        assert_eq!(out, "aĠbĊ".as_bytes());
    }

    #[test]
    fn foreign_text_is_left_alone() {
        for text in ["a b", "▁a", "日", "\u{144}", "a\u{ad}"] {
            let mut out = b"x".to_vec();
            assert!(!unspell(text.as_bytes(), &mut out), "{text:?}");
            assert_eq!(out, b"x");
        }
        let mut out = Vec::new();
        assert!(!unspell(b"\xc4", &mut out), "half a character");
    }
}
