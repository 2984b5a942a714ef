//! A session's cache in a file, so that a conversation goes on where it was without its tokens being processed again.
//!
//! All numbers are little-endian:
//!
//! | bytes | |
//! |---|---|
//! | 8 | `fathomkv` |
//! | 4 | version, 1 |
//! | 8 | the model: [`identity`] |
//! | 8 | formats and sizes of the rows |
//! | 8 | n, the number of tokens |
//! | 4 n | tokens |
//! | | rows, in the order of [`Cache::export`](ggml_sys::cache::Cache::export) |
//! | 8 | checksum of tokens and rows |
//!
//! What a file says is believed only if it fits the model and the context at hand; then its size is known, and the checksum
//! tells whether it is whole. Checksums find accidents: who writes a file on purpose can make a model talk nonsense, and
//! nothing worse.

use std::io::{self, Read, Write};

use ggml_sys::cache::{LayerCache, ValueRows};

use crate::model::Model;
use crate::session::{SEQ, Session};

const MAGIC: &[u8; 8] = b"fathomkv";
const VERSION: u32 = 1;
/// Bytes of a tensor, at its beginning and in its middle, that count for the identity of a model.
const SAMPLE: usize = 64;

/// Why a cache cannot be taken over. All texts are one line and say what the file is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It cannot be read, or ends too soon.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("it is no cache of fathom")]
    Unknown,
    /// A later fathom wrote it.
    #[error("its version is {0}, and this fathom reads {VERSION}")]
    Version(u32),
    /// It belongs to another model.
    #[error("it is of another model")]
    Model,
    /// Keys and values are in other formats.
    #[error("its keys and values have other types (-ctk, -ctv)")]
    Types,
    /// It is longer than the context.
    #[error("it has {tokens} tokens and the context {n_ctx}")]
    TooLong {
        /// Tokens of the file.
        tokens: u64,
        /// Tokens that fit.
        n_ctx: usize,
    },
    /// Its bytes are not those that were written.
    #[error("it is damaged")]
    Damaged,
    /// There is no memory for it.
    #[error(transparent)]
    Compute(#[from] ggml_sys::Error),
}

impl Session {
    /// Writes the tokens and the cache.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn save(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(MAGIC)?;
        to.write_all(&VERSION.to_le_bytes())?;
        to.write_all(&identity(self.engine.model()).to_le_bytes())?;
        to.write_all(&self.layout().to_le_bytes())?;
        to.write_all(&(self.tokens.len() as u64).to_le_bytes())?;
        let mut sum = Checksum::default();
        let tokens: Vec<u8> = self.tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
        sum.add(&tokens);
        to.write_all(&tokens)?;
        self.engine.cache().export(SEQ, &mut |rows| {
            sum.add(rows);
            to.write_all(rows)
        })?;
        to.write_all(&sum.0.to_le_bytes())
    }

    /// Takes over the tokens and the cache that [`Session::save`] wrote.
    ///
    /// # Errors
    /// If they are not for this model, its types of rows, or this context, or the file is damaged. The session is empty then.
    pub fn load(&mut self, from: &mut dyn Read) -> Result<(), Error> {
        self.truncate(0);
        self.tokens.clear();
        let n = self.header(from)?;
        let mut sum = Checksum::default();
        let mut bytes = vec![0; 4 * n];
        from.read_exact(&mut bytes)?;
        sum.add(&bytes);
        let tokens: Vec<u32> =
            bytes.chunks_exact(4).map(|b| b.iter().rev().fold(0, |n, &b| n << 8 | u32::from(b))).collect();
        let n_vocab = self.engine.model().base().n_vocab;
        if tokens.iter().any(|&t| t as usize >= n_vocab) {
            return Err(Error::Damaged);
        }
        let cache = self.engine.cache_mut();
        cache.import::<Error>(SEQ, n, &mut |rows| {
            from.read_exact(rows)?;
            sum.add(rows);
            Ok(())
        })?;
        match u64::from_le_bytes(array(from).inspect_err(|_| cache.truncate(SEQ, 0))?) == sum.0 {
            true => self.tokens = tokens,
            false => {
                cache.truncate(SEQ, 0);
                return Err(Error::Damaged);
            }
        }
        Ok(())
    }

    /// Reads what stands before the tokens, and gives their number, which fits the context.
    fn header(&self, from: &mut dyn Read) -> Result<usize, Error> {
        if &array::<8>(from)? != MAGIC {
            return Err(Error::Unknown);
        }
        let version = u32::from_le_bytes(array(from)?);
        if version != VERSION {
            return Err(Error::Version(version));
        }
        if u64::from_le_bytes(array(from)?) != identity(self.engine.model()) {
            return Err(Error::Model);
        }
        if u64::from_le_bytes(array(from)?) != self.layout() {
            return Err(Error::Types);
        }
        let tokens = u64::from_le_bytes(array(from)?);
        let n_ctx = self.n_ctx();
        let n = usize::try_from(tokens).ok().filter(|n| *n <= n_ctx);
        n.ok_or(Error::TooLong { tokens, n_ctx })
    }

    /// A number for the formats and sizes of the cache's rows.
    fn layout(&self) -> u64 {
        let cache = self.engine.cache();
        let mut sum = Checksum::default();
        for LayerCache { n_head_kv, k_dim, k_ty, v } in (0..cache.n_layers()).map(|il| cache.layer(il)) {
            let (dim, ty) = match v {
                ValueRows::Own { dim, ty } => (dim, ty.name()),
                ValueRows::KeyPrefix { dim } => (dim, "prefix"),
            };
            sum.add(k_ty.name().as_bytes());
            sum.add(ty.as_bytes());
            [n_head_kv, k_dim, dim].iter().for_each(|n| sum.add(&(**n as u64).to_le_bytes()));
        }
        sum.0
    }
}

/// A number that two models share only if they are the same: of the numbers in the metadata and of the names, shapes, types and a
/// few bytes of all tensors. Where the file lies and what it is called does not count.
pub fn identity(model: &Model) -> u64 {
    let mut sum = Checksum::default();
    sum.add(model.arch().as_bytes());
    for (key, value) in model.gguf().metadata().iter() {
        let number = value.float().map(|v| u64::from(v.to_bits())).or(value.integer().map(|v| v as u64));
        // Names, licenses and templates are not what is computed.
        if let Some(number) = number.filter(|_| key.starts_with(model.arch())) {
            sum.add(key.as_bytes());
            sum.add(&number.to_le_bytes());
        }
    }
    for tensor in model.gguf().tensors() {
        sum.add(tensor.name().as_bytes());
        sum.add(tensor.ty().name().as_bytes());
        tensor.shape().used().iter().for_each(|d| sum.add(&(*d as u64).to_le_bytes()));
        let bytes = tensor.bytes();
        for at in [0, bytes.len() / 2] {
            sum.add(&bytes[at..(at + SAMPLE).min(bytes.len())]);
        }
    }
    sum.0
}

fn array<const N: usize>(from: &mut dyn Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A checksum of pieces, by multiplication and rotation of eight bytes at a time, four chains of them side by side.
#[derive(Default)]
struct Checksum(u64);

impl Checksum {
    /// Odd, with about as many ones as zeros: the fraction of the golden ratio.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

    fn add(&mut self, piece: &[u8]) {
        let mix = |sum: u64, word: u64| (sum ^ word).wrapping_mul(Self::FACTOR).rotate_left(29);
        let word = |b: &[u8]| b.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
        let mut lanes = [1u64, 2, 3, 4];
        let (blocks, rest) = piece.as_chunks::<32>();
        for block in blocks {
            let (words, _) = block.as_chunks::<8>();
            lanes.iter_mut().zip(words).for_each(|(lane, w)| *lane = mix(*lane, u64::from_le_bytes(*w)));
        }
        let start = mix(self.0, piece.len() as u64);
        let whole = lanes.iter().fold(start, |sum, &lane| mix(sum, lane));
        self.0 = rest.chunks(8).fold(whole, |sum, b| mix(sum, word(b)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_sees_every_byte_the_order_and_the_cuts() {
        let sum = |pieces: &[&[u8]]| {
            let mut sum = Checksum::default();
            pieces.iter().for_each(|p| sum.add(p));
            sum.0
        };
        let text: Vec<u8> = (0..77).collect();
        let whole = sum(&[&text]);
        for i in 0..text.len() {
            let mut other = text.clone();
            other[i] ^= 0x10;
            assert_ne!(sum(&[&other]), whole, "{i}");
        }
        assert_ne!(sum(&[&text[..40], &text[40..]]), whole);
        assert_ne!(sum(&[b"a", b"b"]), sum(&[b"b", b"a"]));
        assert_ne!(sum(&[&[0; 8]]), sum(&[&[0; 9]]));
    }
}
