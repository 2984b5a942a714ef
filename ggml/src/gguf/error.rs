//! What can be wrong with a file, in one line that says where.

use std::fmt;
use std::io;

/// An error about one file. Its text is one line: the file, the place in it, what is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{}: {kind}", OneLine(.file))]
pub struct Error {
    file: Box<str>,
    #[source]
    kind: Box<ErrorKind>,
}

/// Result of reading or writing GGUF.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error about the file called `file`.
    pub fn new(file: &str, kind: ErrorKind) -> Self {
        Error { file: file.into(), kind: Box::new(kind) }
    }

    /// The file as it was named when opened.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// What is wrong, for those who act on it.
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }
}

/// The kinds of [`Error`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was tried: "open", "map", …
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Another kind of file.
    #[error("not a GGUF file: {0}")]
    NotGguf(&'static str),
    /// A version of GGUF that is not read.
    #[error("{0}")]
    Version(String),
    /// The file ends before what it announces.
    #[error("cut short: {what} needs {need} bytes at byte {offset}, {have} are left")]
    CutShort {
        /// What was being read: "key 'general.name'", "the header", …
        what: String,
        /// Offset in the file at which it starts.
        offset: u64,
        /// Bytes it needs.
        need: u64,
        /// Bytes there are from `offset` on.
        have: u64,
    },
    /// Something about the file as a whole, such as a count.
    #[error("{0}")]
    Header(String),
    /// A metadata key whose value cannot be used.
    #[error("key {key}: {what}", key = Quoted(.key.as_bytes()))]
    Key {
        /// The key.
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// A key that is needed is not there.
    #[error("key {key} is missing ({expected} is needed)", key = Quoted(.key.as_bytes()))]
    MissingKey {
        /// The key.
        key: String,
        /// The type it should have.
        expected: &'static str,
    },
    /// A tensor whose description or data cannot be used.
    #[error("tensor {name}: {what}", name = Quoted(.name.as_bytes()))]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// The files of a split model do not fit together.
    #[error("{0}")]
    Shards(String),
}

impl ErrorKind {
    pub(super) fn key(key: &str, what: impl Into<String>) -> Self {
        ErrorKind::Key { key: key.into(), what: what.into() }
    }

    pub(super) fn tensor(name: &str, what: impl Into<String>) -> Self {
        ErrorKind::Tensor { name: name.into(), what: what.into() }
    }
}

/// Text from a file between quotes: control characters escaped, long text abbreviated.
pub struct Quoted<'a>(pub &'a [u8]);

impl Quoted<'_> {
    /// Characters that are shown at most, escapes counted as what they are written with.
    const MOST: usize = 96;
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Bytes enough for one character more than fit, whatever their length.
        let shown = &self.0[..self.0.len().min(4 * (Self::MOST + 1))];
        f.write_str("'")?;
        let mut left = Self::MOST;
        for c in String::from_utf8_lossy(shown).chars() {
            let c = Escaped(c);
            let Some(rest) = left.checked_sub(c.width()) else {
                return f.write_str("…'");
            };
            left = rest;
            write!(f, "{c}")?;
        }
        f.write_str("'")
    }
}

/// Text that stays on one line: control characters escaped, the rest as it is.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| write!(f, "{}", Escaped(c)))
    }
}

/// A character, escaped if it would break or reorder the line.
struct Escaped(char);

impl Escaped {
    fn is_harmful(&self) -> bool {
        // U+2028 and U+2029 break lines too, and the bidirectional controls reorder what is around them.
        self.0.is_control() || matches!(self.0, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    }

    /// Characters that it is written with.
    fn width(&self) -> usize {
        if self.is_harmful() { self.0.escape_default().count() } else { 1 }
    }
}

impl fmt::Display for Escaped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_harmful() { write!(f, "{}", self.0.escape_default()) } else { write!(f, "{}", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_short_and_on_one_line() {
        let quoted = |s: &str| Quoted(s.as_bytes()).to_string();
        assert_eq!(quoted("blk.0.attn_q.weight"), "'blk.0.attn_q.weight'");
        assert_eq!(quoted("a\n\u{202e}b"), "'a\\n\\u{202e}b'");
        assert_eq!(Quoted(b"\xff").to_string(), "'\u{fffd}'");
        for long in ["a".repeat(97), "\u{1}".repeat(1000), "\u{1f600}".repeat(200)] {
            let text = quoted(&long);
            assert!(text.ends_with("…'") && text.chars().count() <= 96 + 3, "{text}");
        }
        assert_eq!(quoted(&"a".repeat(96)).len(), 96 + 2);
        assert_eq!(quoted(&"\u{1f600}".repeat(96)).chars().count(), 96 + 2);
        let e = Error::new("a\nb.gguf", ErrorKind::MissingKey { key: "k\r".into(), expected: "a string" });
        assert_eq!(e.to_string(), "a\\nb.gguf: key 'k\\r' is missing (a string is needed)");
    }
}
