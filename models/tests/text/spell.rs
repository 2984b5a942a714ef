//! Bytes as vocabularies write them.

use std::sync::LazyLock;

/// How byte-level vocabularies spell bytes, by another way than the crate's: the bytes that are no
/// visible character of Latin-1, in order, take the characters from U+0100 on.
pub fn spell(bytes: &[u8]) -> String {
    static CHARS: LazyLock<Vec<char>> = LazyLock::new(|| {
        let visible = |b: &u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let mut hidden = '\u{100}'..;
        let mut char = |b: u8| if visible(&b) { Some(b.into()) } else { hidden.next() };
        (0..=255).map_while(&mut char).collect()
    });
    bytes.iter().map(|&b| CHARS[usize::from(b)]).collect()
}
