//! The two formats of importance matrices.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs};

use ggml_sys::gguf::{Gguf, StringArray, Writer};
use ggml_sys::{GgmlType, Shape, Tensor};

use super::{CHUNK, Entry, ImportanceMatrix, bad};
use crate::error::{Error, Result};

const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";
const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";

/// A file whose entries are read when they are asked for: those of a large model take a gigabyte. Cheap to clone.
#[derive(Clone)]
pub struct ImportanceFile(Arc<Inner>);

struct Inner {
    path: PathBuf,
    /// Everything but the entries.
    head: ImportanceMatrix,
    entries: Entries,
}

enum Entries {
    /// Tensors of a file, by the name of what they are about.
    Gguf(BTreeMap<String, (Tensor, Tensor)>),
    Read(BTreeMap<String, Entry>),
}

impl ImportanceFile {
    /// Opens a file of either format.
    ///
    /// # Errors
    /// If it cannot be read, or is none.
    pub fn open(path: &Path) -> Result<Self> {
        let mut magic = [0; 4];
        let file = fs::File::open(path).map_err(|e| Error::io(path, "open", e))?;
        let is_gguf = (&file).read_exact(&mut magic).is_ok() && &magic == b"GGUF";
        let (head, entries) = if is_gguf { gguf(path)? } else { legacy(path)? };
        let file = ImportanceFile(Arc::new(Inner { path: path.into(), head, entries }));
        if file.is_empty() {
            return Err(bad(path, "holds no importance matrix"));
        }
        Ok(file)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Names of the texts.
    pub fn datasets(&self) -> &[String] {
        &self.0.head.datasets
    }

    /// Chunks of text.
    pub fn chunks(&self) -> u32 {
        self.0.head.chunks
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        match &self.0.entries {
            Entries::Gguf(all) => all.len(),
            Entries::Read(all) => all.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether something is known of a tensor of `n` matrices of `n_in` columns. Reads nothing.
    ///
    /// # Errors
    /// If that is of another size.
    pub fn has(&self, name: &str, n_in: usize, n: usize) -> Result<bool> {
        let found = match &self.0.entries {
            Entries::Gguf(all) => all.get(name).map(|(sums, _)| sums.shape().n_elements()),
            Entries::Read(all) => all.get(name).map(|entry| entry.sums.len()),
        };
        match found {
            None => Ok(false),
            Some(found) if Some(found) == n_in.checked_mul(n) => Ok(true),
            Some(found) => Err(bad(
                self.path(),
                format!("'{name}' has {found} columns, the model's {n_in} in each of {n} matrices"),
            )),
        }
    }

    /// The weight of each column of a tensor of `n` matrices of `n_in` columns: `[n, n_in]`; `None` if nothing is known of
    /// it.
    ///
    /// # Errors
    /// As of [`ImportanceFile::has`]; if a number is no sum of squares.
    pub fn weights(&self, name: &str, n_in: usize, n: usize) -> Result<Option<Vec<f32>>> {
        if !self.has(name, n_in, n)? {
            return Ok(None);
        }
        let entry = match &self.0.entries {
            Entries::Gguf(all) => all.get(name).map(|pair| entry(self.path(), name, pair)).transpose()?,
            Entries::Read(all) => all.get(name).cloned(),
        };
        Ok(entry.map(|e| e.means()))
    }

    /// All of it.
    ///
    /// # Errors
    /// If a number is no sum of squares.
    pub fn load(&self) -> Result<ImportanceMatrix> {
        let entries = match &self.0.entries {
            Entries::Gguf(all) => all
                .iter()
                .map(|(name, pair)| Ok((name.clone(), entry(self.path(), name, pair)?)))
                .collect::<Result<_>>()?,
            Entries::Read(all) => all.clone(),
        };
        Ok(ImportanceMatrix { entries, ..self.0.head.clone() })
    }
}

impl fmt::Debug for ImportanceFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} tensors", self.path().display(), self.len())
    }
}

fn gguf(path: &Path) -> Result<(ImportanceMatrix, Entries)> {
    let file = Gguf::open(path)?;
    let md = file.metadata();
    let datasets =
        md.strings(DATASETS)?.map(|all| all.iter().map(|d| String::from_utf8_lossy(d).into_owned()));
    let head = ImportanceMatrix {
        datasets: datasets.map(Iterator::collect).unwrap_or_default(),
        chunks: md.u32(CHUNK_COUNT)?.unwrap_or(0),
        chunk_size: md.u32(CHUNK_SIZE)?.filter(|n| *n > 0).unwrap_or(CHUNK),
        ..ImportanceMatrix::default()
    };
    let mut entries = BTreeMap::new();
    for sums in file.tensors() {
        let Some(name) = sums.name().strip_suffix(SUMS) else { continue };
        let counts = file.tensor(&format!("{name}{COUNTS}"));
        let counts = counts.ok_or_else(|| bad(path, format!("'{name}' has sums and no counts")))?;
        if let Some(t) = [sums, counts].into_iter().find(|t| t.ty() != GgmlType::F32) {
            return Err(bad(path, format!("'{}' is {}, not F32", t.name(), t.ty())));
        }
        let [n_sums, n_counts] = [sums, counts].map(|t| t.shape().n_elements());
        if n_counts == 0 || n_sums == 0 || !n_sums.is_multiple_of(n_counts) {
            return Err(bad(path, format!("'{name}' has {n_sums} sums for {n_counts} counts")));
        }
        entries.insert(name.into(), (sums.clone(), counts.clone()));
    }
    Ok((head, Entries::Gguf(entries)))
}

/// Reads an entry.
fn entry(path: &Path, name: &str, (sums, counts): &(Tensor, Tensor)) -> Result<Entry> {
    let values = |t: &Tensor, what: &str| {
        let values = t.to_f32();
        let ok = values.iter().all(|v| v.is_finite() && *v >= 0.0);
        if ok { Ok(values) } else { Err(bad(path, format!("'{name}' has a number that is no {what}"))) }
    };
    Ok(Entry {
        sums: values(sums, "sum of squares")?.into_iter().map(f64::from).collect(),
        counts: values(counts, "count")?.into_iter().map(|c| c.round() as u64).collect(),
    })
}

/// llama.cpp's format of before 2025: means times a number of calls, which stands for chunks.
fn legacy(path: &Path) -> Result<(ImportanceMatrix, Entries)> {
    let bytes = fs::read(path).map_err(|e| Error::io(path, "read", e))?;
    let mut at = Cursor { bytes: &bytes };
    let read = parse_legacy(&mut at);
    let mut matrix = read.ok_or_else(|| bad(path, "is no importance matrix, or one cut short"))?;
    let entries = std::mem::take(&mut matrix.entries);
    for (name, entry) in &entries {
        if !entry.sums.iter().all(|s| s.is_finite() && *s >= 0.0) {
            return Err(bad(path, format!("'{name}' has a number that is no sum of squares")));
        }
    }
    Ok((matrix, Entries::Read(entries)))
}

fn parse_legacy(at: &mut Cursor<'_>) -> Option<ImportanceMatrix> {
    let mut matrix = ImportanceMatrix { chunk_size: CHUNK, ..ImportanceMatrix::default() };
    for _ in 0..at.count()? {
        let name = at.text()?;
        let calls = at.count()? as u64;
        let n = at.count()?;
        let values = at.take(n.checked_mul(4)?)?;
        // A call was a chunk, as far as can be known.
        let tokens = calls.max(1).checked_mul(u64::from(CHUNK))?;
        let sum = |v: &[u8; 4]| f64::from(f32::from_le_bytes(*v)) / calls.max(1) as f64 * tokens as f64;
        let sums: Vec<f64> = values.as_chunks().0.iter().map(sum).collect();
        if sums.is_empty() {
            return None;
        }
        matrix.entries.insert(name, Entry { sums, counts: vec![tokens] });
    }
    // What follows came later, and may be missing.
    if let Some(chunks) = at.count() {
        matrix.chunks = u32::try_from(chunks).ok()?;
        matrix.datasets.extend(at.text().filter(|name| !name.is_empty()));
    }
    Some(matrix)
}

/// What is left of the bytes.
struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(n)?;
        self.bytes = rest;
        Some(taken)
    }

    /// A number that is not negative.
    fn count(&mut self) -> Option<usize> {
        let bytes = self.take(4)?.try_into().ok()?;
        usize::try_from(i32::from_le_bytes(bytes)).ok()
    }

    fn text(&mut self) -> Option<String> {
        let n = self.count()?;
        self.take(n).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }
}

impl ImportanceMatrix {
    /// Writes the GGUF that llama.cpp reads; `name` is what errors call it.
    ///
    /// # Errors
    /// If writing fails, or a sum is more than F32 can express.
    pub fn write<W: Write>(&self, out: W, name: &str) -> Result<W> {
        let mut writer = Writer::new(name);
        writer.set("general.type", "imatrix");
        if let Some(datasets) = StringArray::from_strings(&self.datasets) {
            writer.set(DATASETS, datasets);
        }
        writer.set(CHUNK_COUNT, self.chunks);
        writer.set(CHUNK_SIZE, self.chunk_size);
        let mut tensors = Vec::new();
        for (tensor, entry) in &self.entries {
            let sums: Vec<f32> = entry.sums.iter().map(|s| *s as f32).collect();
            let counts: Vec<f32> = entry.counts.iter().map(|c| *c as f32).collect();
            if !sums.iter().all(|s| s.is_finite()) {
                return Err(bad(name.as_ref(), format!("the sums of '{tensor}' overflow")));
            }
            for (suffix, values, width) in [(SUMS, sums, entry.width()), (COUNTS, counts, 1)] {
                let shape = Shape::new(&[width, entry.counts.len()]);
                let shape = shape.ok_or_else(|| bad(name.as_ref(), format!("'{tensor}' is empty")))?;
                writer.tensor(&format!("{tensor}{suffix}"), GgmlType::F32, shape)?;
                tensors.push(values);
            }
        }
        let mut data = writer.begin(out)?;
        for values in tensors {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            data.write(&bytes)?;
        }
        Ok(data.finish()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ImportanceMatrix {
        let entry = |sums: &[f64], counts: &[u64]| Entry { sums: sums.into(), counts: counts.into() };
        ImportanceMatrix {
            entries: [
                ("blk.0.ffn_down_exps.weight".into(), entry(&[1.5, 2.0, 0.0, 0.0], &[512, 0])),
                ("blk.0.attn_q.weight".into(), entry(&[3.0, 4.0, 5.0], &[1024])),
            ]
            .into(),
            datasets: vec!["wiki.txt".into(), "-".into()],
            chunks: 2,
            chunk_size: 512,
        }
    }

    fn reread(bytes: &[u8]) -> Result<ImportanceMatrix> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("imatrix");
        fs::write(&path, bytes).unwrap();
        ImportanceMatrix::open(&path)
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = sample().write(Vec::new(), "x").unwrap();
        assert_eq!(reread(&bytes).unwrap(), sample());
        // As llama.cpp has it: rows of columns, a count for each.
        let file = Gguf::from_bytes(std::sync::Arc::new(bytes), "x").unwrap();
        let shape = |name: &str| file.tensor(name).unwrap().shape().used().to_vec();
        assert_eq!(file.metadata().str("general.type").unwrap(), Some("imatrix"));
        assert_eq!(shape("blk.0.ffn_down_exps.weight.in_sum2"), [2, 2]);
        assert_eq!(shape("blk.0.ffn_down_exps.weight.counts"), [1, 2]);
        assert_eq!(shape("blk.0.attn_q.weight.in_sum2"), [3]);
    }

    /// A file of the older format: number of entries; name, calls, values; chunks, dataset.
    fn old() -> Vec<u8> {
        let text = |t: &str| [&(t.len() as i32).to_le_bytes(), t.as_bytes()].concat();
        let mut bytes = 1i32.to_le_bytes().to_vec();
        bytes.extend(text("blk.0.attn_q.weight"));
        bytes.extend([3i32, 2].iter().flat_map(|n| n.to_le_bytes()));
        bytes.extend([6.0f32, 1.5].iter().flat_map(|n| n.to_le_bytes()));
        bytes.extend(7i32.to_le_bytes());
        bytes.extend(text("wiki.txt"));
        bytes
    }

    #[test]
    fn the_older_format_is_read() {
        let matrix = reread(&old()).unwrap();
        assert_eq!((matrix.chunks, &*matrix.datasets), (7, &["wiki.txt".to_owned()][..]));
        assert_eq!(matrix.entries["blk.0.attn_q.weight"].means(), [2.0, 0.5]);
        assert_eq!(matrix.entries["blk.0.attn_q.weight"].counts, [3 * 512]);
    }

    #[test]
    fn weights_must_fit_the_tensor() {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in [("new.gguf", sample().write(Vec::new(), "x").unwrap()), ("old.dat", old())] {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            let file = ImportanceFile::open(&path).unwrap();
            assert!(!file.has("blk.7.attn_q.weight", 2, 1).unwrap());
            assert!(file.weights("blk.7.attn_q.weight", 2, 1).unwrap().is_none());
            let e = file.weights("blk.0.attn_q.weight", 5, 2).unwrap_err().to_string();
            assert!(e.contains(name) && e.contains("columns, the model's 5 in each of 2 matrices"), "{e}");
        }
        let file = ImportanceFile::open(&dir.path().join("new.gguf")).unwrap();
        let weights = file.weights("blk.0.ffn_down_exps.weight", 2, 2).unwrap().unwrap();
        assert_eq!(weights, [1.5 / 512.0, 2.0 / 512.0, 1.0, 1.0]);
        assert_eq!((file.len(), file.chunks(), file.datasets().len()), (2, 2, 2));
    }

    #[test]
    fn what_is_no_matrix_is_refused() {
        for n in 0..old().len() {
            // Chunks and dataset may be missing.
            let complete = n >= old().len() - 16;
            assert_eq!(reread(&old()[..n]).is_ok(), complete, "cut to {n}");
        }
        let mut bytes = sample();
        bytes.entries.values_mut().for_each(|e| e.sums[0] = -1.0);
        let e = reread(&bytes.write(Vec::new(), "x").unwrap()).unwrap_err().to_string();
        assert!(e.contains("is no sum of squares"), "{e}");
        let e = reread(&Writer::new("x").begin(Vec::new()).unwrap().finish().unwrap()).unwrap_err();
        assert!(e.to_string().contains("holds no importance matrix"), "{e}");
        assert!(reread(b"GGUF").is_err() && reread(&[255; 64]).is_err());
    }
}
