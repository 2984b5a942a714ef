//! The files that a model is written to: one, or shards.

use std::ops::Range;
use std::path::{Path, PathBuf};

use ggml_sys::gguf::shard_path;

use crate::error::{Error, Result};
use crate::plan::Plan;

/// How many files a model becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Split {
    /// One.
    #[default]
    Whole,
    /// As many as it takes for none to have more bytes of tensors than this, unless a single tensor has.
    BySize(u64),
    /// As many as the source has, with the same tensors.
    AsSource,
}

/// A file to be written.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Its tensors, by lines of the plan.
    pub lines: Range<usize>,
    /// Everything up to their data.
    pub header: Vec<u8>,
    /// Where the data of each lie. What is between them is zero.
    pub tensors: Vec<Range<u64>>,
    /// Bytes of the file.
    pub size: u64,
}

/// The tensors of each file.
pub(crate) fn groups(plan: &Plan, split: Split) -> Result<Vec<Range<usize>>> {
    let n = plan.lines().len();
    let groups = match split {
        Split::Whole => std::iter::once(0..n).collect(),
        Split::BySize(max) => by_size(&plan.lines().iter().map(|l| l.new_bytes).collect::<Vec<_>>(), max),
        Split::AsSource => {
            let file = |i: &usize| plan.source().tensors()[*i].file;
            let lines: Vec<usize> = (0..n).collect();
            let mut groups: Vec<_> = lines.chunk_by(|a, b| file(a) == file(b)).collect();
            groups.retain(|g| !g.is_empty());
            if groups.len() != plan.source().files().len() {
                return Err(Error::Split("the model's tensors do not lie file by file".into()));
            }
            groups.iter().map(|g| g[0]..g[0] + g.len()).collect()
        }
    };
    if groups.len() > usize::from(u16::MAX) {
        return Err(Error::Split(format!("{} files are more than a split model can have", groups.len())));
    }
    Ok(groups)
}

fn by_size(bytes: &[u64], max: u64) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = vec![];
    let mut size = 0u64;
    for (i, &bytes) in bytes.iter().enumerate() {
        match groups.last_mut() {
            Some(group) if size.checked_add(bytes).is_some_and(|sum| sum <= max) => {
                group.end = i + 1;
                size += bytes;
            }
            _ => {
                groups.push(i..i + 1);
                size = bytes;
            }
        }
    }
    if groups.is_empty() { std::iter::once(0..0).collect() } else { groups }
}

/// The path of each file of a model that is to be `out`.
pub(crate) fn paths(out: &Path, n: usize) -> Vec<PathBuf> {
    if n == 1 { vec![out.into()] } else { (0..n).map(|no| shard_path(out, no, n)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_filled_up_to_their_size() {
        assert_eq!(by_size(&[3, 3, 3, 10, 1, 6], 7), [0..2, 2..3, 3..4, 4..6]);
        assert_eq!(by_size(&[1, 1], u64::MAX), vec![0..2]);
        assert_eq!(by_size(&[], 5), vec![0..0]);
        assert_eq!(by_size(&[u64::MAX, u64::MAX], u64::MAX), [0..1, 1..2]);
    }

    #[test]
    fn shards_have_numbers() {
        let path = |out: &str, n| paths(Path::new(out), n)[n - 1].display().to_string();
        assert_eq!(path("a/m.gguf", 1), "a/m.gguf");
        assert_eq!(path("a/m.gguf", 12), "a/m-00012-of-00012.gguf");
        assert_eq!(path("m.Q4_K", 2), "m.Q4_K-00002-of-00002.gguf");
    }
}
