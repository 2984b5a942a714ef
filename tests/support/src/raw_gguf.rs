//! GGUF files field by field, wrong in whatever way a test wants.
//!
//! Nothing is checked or completed: counts, lengths and offsets are what the caller says.

/// Number of a metadata type in files.
#[allow(missing_docs)]
pub mod ty {
    pub const U8: u32 = 0;
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
    pub const U64: u32 = 10;
}

/// The bytes of a file so far.
#[derive(Clone, Default)]
pub struct Raw(pub Vec<u8>);

impl Raw {
    /// Magic number, version 3 and the two counts.
    pub fn new(n_tensors: u64, n_keys: u64) -> Self {
        Raw::version(3, n_tensors, n_keys)
    }

    /// Magic number, version and the two counts.
    pub fn version(version: u32, n_tensors: u64, n_keys: u64) -> Self {
        Raw(b"GGUF".to_vec()).u32(version).u64(n_tensors).u64(n_keys)
    }

    /// Bytes as they are.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// A 32-bit field.
    pub fn u32(self, v: u32) -> Self {
        self.bytes(&v.to_le_bytes())
    }

    /// A 64-bit field.
    pub fn u64(self, v: u64) -> Self {
        self.bytes(&v.to_le_bytes())
    }

    /// Length and bytes.
    pub fn string(self, s: impl AsRef<[u8]>) -> Self {
        self.u64(s.as_ref().len() as u64).bytes(s.as_ref())
    }

    /// A key and the number of its type; the value is to follow.
    pub fn key(self, key: &str, ty: u32) -> Self {
        self.string(key).u32(ty)
    }

    /// A key of type U32.
    pub fn key_u32(self, key: &str, v: u32) -> Self {
        self.key(key, ty::U32).u32(v)
    }

    /// A key of type string.
    pub fn key_str(self, key: &str, v: &str) -> Self {
        self.key(key, ty::STRING).string(v)
    }

    /// A key whose value is an array, of which type and length are given; the elements are to follow.
    pub fn key_array(self, key: &str, ty: u32, n: u64) -> Self {
        self.key(key, self::ty::ARRAY).u32(ty).u64(n)
    }

    /// A line of the tensor table.
    pub fn tensor(self, name: &str, dims: &[u64], ty: u32, offset: u64) -> Self {
        let named = self.string(name).u32(dims.len() as u32);
        dims.iter().fold(named, |raw, &d| raw.u64(d)).u32(ty).u64(offset)
    }

    /// Zeros up to a multiple of `n`.
    pub fn pad(mut self, n: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(n), 0);
        self
    }

    /// `n` zeros.
    pub fn zeros(mut self, n: usize) -> Self {
        self.0.resize(self.0.len() + n, 0);
        self
    }
}
