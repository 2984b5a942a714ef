//! Reading little-endian fields with every length checked against what is left.

/// A position in the bytes of a file.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// More bytes were asked for than are left.
#[derive(Debug)]
pub(super) struct Cut {
    pub offset: u64,
    pub need: u64,
    pub have: u64,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, at: 0 }
    }

    /// Offset of the next byte in the file.
    pub fn at(&self) -> usize {
        self.at
    }

    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Steps over `n` bytes without touching them.
    pub fn skip(&mut self, n: u64) -> Result<(), Cut> {
        match usize::try_from(n) {
            Ok(n) if n <= self.left() => {
                self.at += n;
                Ok(())
            }
            _ => Err(Cut { offset: self.at as u64, need: n, have: self.left() as u64 }),
        }
    }

    pub fn take(&mut self, n: u64) -> Result<&'a [u8], Cut> {
        let start = self.at;
        self.skip(n)?;
        Ok(&self.bytes[start..self.at])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Cut> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64)?);
        Ok(out)
    }

    pub fn u32(&mut self) -> Result<u32, Cut> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Cut> {
        self.array().map(u64::from_le_bytes)
    }

    /// A string: 64-bit length, then that many bytes.
    pub fn string(&mut self) -> Result<&'a [u8], Cut> {
        let len = self.u64()?;
        self.take(len)
    }
}
