//! Shapes and tensors. A tensor never owns more than a handle on its bytes: most are views of the
//! memory map of a file.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::format::GgmlType;

/// Dimensions of a tensor, the fastest first as in GGUF: `[row length, rows, matrices, 1]`.
///
/// Unused dimensions are 1, so the number of elements is always the product of all four.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape(pub [usize; 4]);

impl Shape {
    /// A shape from at most four dimensions, the fastest first; the rest become 1.
    /// `None` if there are more than four, one is zero, or their product overflows.
    pub fn new(dims: &[usize]) -> Option<Self> {
        if dims.len() > 4 || dims.contains(&0) {
            return None;
        }
        dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        let mut shape = [1; 4];
        shape[..dims.len()].copy_from_slice(dims);
        Some(Shape(shape))
    }

    /// Elements of a row: the dimension along which blocks lie.
    pub fn row_len(&self) -> usize {
        self.0[0]
    }

    /// Rows of all matrices together.
    pub fn n_rows(&self) -> usize {
        self.0[1] * self.0[2] * self.0[3]
    }

    /// The dimensions up to the last one that is not 1; at least one.
    pub fn used(&self) -> &[usize] {
        let n = self.0.iter().rposition(|&d| d != 1).map_or(1, |i| i + 1);
        &self.0[..n]
    }

    /// All elements.
    pub fn n_elements(&self) -> usize {
        self.0.iter().product()
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As people write it: `[256, 1280]`, trailing ones left out.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.used()).finish()
    }
}

/// What can own bytes: a memory map, memory of its own, a vector.
pub trait Backing: AsRef<[u8]> + Send + Sync {
    /// These bytes will be read in a moment: a map may have them fetched meanwhile.
    fn will_need(&self, _range: Range<usize>) {}

    /// These bytes will not be read soon: a map may let go of them until they are.
    fn release(&self, _range: Range<usize>) {}

    /// Keeps the bytes of a map from leaving memory. Those on the heap are left as they are: its pages are shared with
    /// others, and small.
    ///
    /// # Errors
    /// If the process may not lock that much, or the system cannot.
    fn lock(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Backing for Vec<u8> {}
impl<const N: usize> Backing for [u8; N] {}

/// Whatever owns bytes.
pub type Owner = Arc<dyn Backing>;

/// Immutable bytes shared by reference count: a range of an [`Owner`].
#[derive(Clone)]
pub struct Bytes {
    owner: Owner,
    range: Range<usize>,
}

impl Bytes {
    /// The given range of `owner`; `None` if it reaches beyond the end.
    pub fn new(owner: Owner, range: Range<usize>) -> Option<Self> {
        (*owner).as_ref().get(range.clone())?;
        Some(Bytes { owner, range })
    }

    /// Bytes of their own.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Bytes { owner: Arc::new(bytes), range }
    }

    /// Tells the owner that these bytes, counted from the first of `self`, will be read in a moment.
    ///
    /// # Panics
    /// If there are no such bytes.
    pub fn will_need(&self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len(), "bytes beyond the end");
        self.owner.will_need(self.range.start + range.start..self.range.start + range.end);
    }

    /// Tells the owner that these bytes, counted from the first of `self`, will not be read soon.
    ///
    /// # Panics
    /// If there are no such bytes.
    pub fn release(&self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len(), "bytes beyond the end");
        self.owner.release(self.range.start + range.start..self.range.start + range.end);
    }

    /// The owner that keeps these bytes alive, and where in it they lie.
    pub fn parts(&self) -> (&Owner, Range<usize>) {
        (&self.owner, self.range.clone())
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

/// A named, immutable, row-major tensor in one of GGML's formats.
#[derive(Clone)]
pub struct Tensor {
    name: Arc<str>,
    ty: GgmlType,
    shape: Shape,
    bytes: Bytes,
}

impl Tensor {
    /// A tensor over `bytes`, which must hold exactly the rows of `shape` in format `ty`.
    /// `None` if a row is no whole number of blocks or the length is another.
    pub fn new(name: impl Into<Arc<str>>, ty: GgmlType, shape: Shape, bytes: Bytes) -> Option<Self> {
        let need = ty.row_bytes(shape.row_len())?.checked_mul(shape.n_rows())?;
        (bytes.len() == need).then(|| Tensor { name: name.into(), ty, shape, bytes })
    }

    /// An F32 tensor of its own from values in row-major order.
    ///
    /// `None` if the number of values is not that of the shape.
    pub fn from_f32(name: impl Into<Arc<str>>, shape: Shape, values: &[f32]) -> Option<Self> {
        let bytes = bytemuck::cast_slice(values).to_vec();
        Tensor::new(name, GgmlType::F32, shape, Bytes::from_vec(bytes))
    }

    /// Name in the file, such as `blk.0.attn_q.weight`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The handle on the name.
    pub fn shared_name(&self) -> &Arc<str> {
        &self.name
    }

    /// Format of the rows.
    pub fn ty(&self) -> GgmlType {
        self.ty
    }

    /// Dimensions, the fastest first.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The encoded rows, one after another.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The handle on the encoded rows.
    pub fn shared_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Bytes of one encoded row.
    pub fn row_bytes(&self) -> usize {
        self.bytes.len() / self.shape.n_rows()
    }

    /// One encoded row, counted over all matrices.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, i: usize) -> &[u8] {
        let n = self.row_bytes();
        &self.bytes()[i * n..(i + 1) * n]
    }

    /// Tells the system that rows `rows`, counted over all matrices, will be read in a moment, so that it can fetch them
    /// meanwhile if they are on a disk. Does nothing unless [`crate::gguf::Gguf::announce_reads`] asked for it.
    ///
    /// # Panics
    /// If there are no such rows.
    pub fn will_need(&self, rows: Range<usize>) {
        let n = self.row_bytes();
        assert!(rows.end <= self.shape.n_rows(), "rows beyond the tensor");
        self.bytes.will_need(rows.start * n..rows.end * n);
    }

    /// All values as F32, row-major. For small tensors (norms, biases) and tests.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.shape.n_elements()];
        self.ty.format().decode(self.bytes(), &mut out);
        out
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.name, self.ty, self.shape)
    }
}
