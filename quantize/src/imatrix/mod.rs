//! Importance matrices: how much each column of a weight matters, by the inputs that it meets.
//!
//! What is kept of a tensor is the sum of squares of each input column over some text, and the number of rows that were
//! added, for each expert where only some rows meet it. Their quotient is the weight of a column's rounding error when a
//! matrix is quantized. The file is llama.cpp's: GGUF with `NAME.in_sum2` and `NAME.counts`; files of its older format
//! (`.dat`) are read, too.

mod file;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use file::ImportanceFile;

use crate::error::{Error, Result};

/// Tokens of a chunk where a file does not say: llama.cpp's default.
pub const CHUNK: u32 = 512;

/// What met one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Sums of squares of the input columns: `[matrices, n_in]`.
    pub sums: Vec<f64>,
    /// Rows that were added: a number for each matrix, or one for all.
    pub counts: Vec<u64>,
}

/// What met the tensors of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportanceMatrix {
    /// By name of the tensor.
    pub entries: BTreeMap<String, Entry>,
    /// Names of the texts.
    pub datasets: Vec<String>,
    /// Chunks of text.
    pub chunks: u32,
    /// Tokens of a chunk.
    pub chunk_size: u32,
}

impl Entry {
    /// Columns for each count.
    fn width(&self) -> usize {
        self.sums.len() / self.counts.len().max(1)
    }

    /// Mean squares, all ones where nothing was added: `[matrices, n_in]`.
    pub fn means(&self) -> Vec<f32> {
        let rows = self.sums.chunks(self.width().max(1)).zip(&self.counts);
        let mean = |sum: &f64, count: u64| if count == 0 { 1.0 } else { (sum / count as f64) as f32 };
        rows.flat_map(|(sums, &count)| sums.iter().map(move |sum| mean(sum, count))).collect()
    }

    /// Matrices that met no row.
    pub fn unseen(&self) -> usize {
        self.counts.iter().filter(|c| **c == 0).count()
    }

    /// Adds what another file has of the same tensor. One count for all matrices stands for each of them.
    fn add(&mut self, other: &Entry) -> Option<()> {
        let (n, m) = (self.counts.len(), other.counts.len());
        let fits = self.sums.len() == other.sums.len() && (n == m || n == 1 || m == 1);
        if !fits {
            return None;
        }
        if n == 1 {
            self.counts = vec![self.counts[0]; m];
        }
        let counts = other.counts.iter().cycle();
        self.counts.iter_mut().zip(counts).for_each(|(a, b)| *a = a.saturating_add(*b));
        self.sums.iter_mut().zip(&other.sums).for_each(|(a, b)| *a += b);
        Some(())
    }
}

impl ImportanceMatrix {
    /// Reads a whole file of either format.
    ///
    /// # Errors
    /// If it cannot be read, is none, or holds numbers that cannot be sums of squares.
    pub fn open(path: &Path) -> Result<Self> {
        ImportanceFile::open(path)?.load()
    }

    /// Adds what another file has, as if both texts were one.
    ///
    /// # Errors
    /// If the two are of models of other sizes; `path` is that of the other file.
    pub fn merge(&mut self, other: ImportanceMatrix, path: &Path) -> Result<()> {
        for (name, entry) in other.entries {
            match self.entries.get_mut(&name) {
                None => drop(self.entries.insert(name, entry)),
                Some(own) => own.add(&entry).ok_or_else(|| {
                    let (a, b) = (entry.sums.len(), own.sums.len());
                    bad(
                        path,
                        format!("'{name}' has {a} sums where the others have {b}: it is of another model"),
                    )
                })?,
            }
        }
        if self.chunk_size == 0 {
            self.chunk_size = other.chunk_size;
        }
        self.datasets.extend(other.datasets);
        // Chunks of other sizes count as so many of this one's.
        let tokens = self.entries.values().flat_map(|e| &e.counts).max().copied().unwrap_or(0);
        self.chunks = u32::try_from(tokens / u64::from(self.chunk_size.max(1))).unwrap_or(u32::MAX);
        Ok(())
    }
}

fn bad(path: &Path, what: impl Into<String>) -> Error {
    Error::Importance { path: PathBuf::from(path), what: what.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(name: &str, sums: &[f64], counts: &[u64]) -> ImportanceMatrix {
        let entry = Entry { sums: sums.into(), counts: counts.into() };
        ImportanceMatrix {
            entries: [(name.into(), entry)].into(),
            datasets: vec![format!("{name}.txt")],
            chunks: 1,
            chunk_size: 2,
        }
    }

    #[test]
    fn means_are_taken_for_each_expert() {
        let entry = Entry { sums: vec![2.0, 4.0, 7.0, 9.0, 0.0, 0.0], counts: vec![2, 1, 0] };
        assert_eq!(entry.means(), [1.0, 2.0, 7.0, 9.0, 1.0, 1.0]);
        assert_eq!(entry.unseen(), 1);
        let dense = Entry { sums: vec![2.0, 4.0, 6.0, 8.0], counts: vec![2] };
        assert_eq!(dense.means(), [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn files_add_up() {
        let mut a = matrix("x", &[1.0, 2.0, 3.0, 4.0], &[4]);
        a.merge(matrix("x", &[1.0; 4], &[2, 4]), "b".as_ref()).unwrap();
        a.merge(matrix("y", &[5.0], &[1]), "c".as_ref()).unwrap();
        assert_eq!(a.entries["x"], Entry { sums: vec![2.0, 3.0, 4.0, 5.0], counts: vec![6, 8] });
        assert_eq!(a.entries["y"].counts, [1]);
        assert_eq!((a.chunks, a.chunk_size), (4, 2));
        assert_eq!(a.datasets, ["x.txt", "x.txt", "y.txt"]);
        let e = a.merge(matrix("x", &[1.0; 3], &[1]), "d.gguf".as_ref()).unwrap_err().to_string();
        assert!(e.contains("d.gguf") && e.contains("'x' has 3 sums where the others have 4"), "{e}");
    }
}
