//! Models split over several files, `NAME-00001-of-0000N.gguf`.
//!
//! Each shard is a whole GGUF file and says in `split.no` and `split.count` which it is of how
//! many; the first one holds the metadata of the model, the others hardly more than these keys.

use std::path::{Path, PathBuf};

use super::error::{Error, ErrorKind, Result};
use super::metadata::Metadata;
use super::parse::Parsed;

const NO: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// Which shard a file is, by its own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// Counted from 0.
    pub no: usize,
    /// Shards there are; more than one.
    pub count: usize,
    /// Tensors of all shards.
    pub n_tensors: Option<usize>,
}

impl Split {
    /// What `metadata` say; `None` for a file that stands alone.
    pub fn of(metadata: &Metadata) -> Result<Option<Self>> {
        let count = metadata.usize(COUNT)?.unwrap_or(0);
        if count < 2 {
            return Ok(None);
        }
        // The names of files have five digits.
        if count > 99_999 {
            return Err(metadata.invalid(COUNT, format!("{count} shards are not supported")));
        }
        let no = metadata.require_usize(NO)?;
        if no >= count {
            return Err(metadata.invalid(NO, format!("is {no}, but there are {count} shards counted from 0")));
        }
        Ok(Some(Split { no, count, n_tensors: metadata.usize(TENSORS)? }))
    }

    fn describe(self) -> String {
        let tensors = self.n_tensors.map_or(String::new(), |n| format!(" with {n} tensors in all"));
        format!("shard {} of {}{tensors}", self.no + 1, self.count)
    }
}

/// The name of the model's files without `-00001-of-0000N.gguf`, given the path of shard `split.no`.
pub(super) fn stem(path: &Path, split: Split) -> Result<&str> {
    let suffix = suffix(split.no, split.count);
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    name.strip_suffix(&suffix).ok_or_else(|| {
        let what = format!(
            "is shard {} of {} of a split model, but its name does not end in '{suffix}', so the others cannot be found",
            split.no + 1,
            split.count
        );
        Error::new(&path.display().to_string(), ErrorKind::Shards(what))
    })
}

/// The path of shard `no`, counted from 0, of a model that would be `whole` if it were one file: `m-00001-of-00003.gguf` for
/// `m.gguf`.
pub fn shard_path(whole: &Path, no: usize, count: usize) -> PathBuf {
    let name = whole.file_name().unwrap_or_default();
    let is_gguf = whole.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    let mut name = if is_gguf { whole.file_stem().unwrap_or_default() } else { name }.to_owned();
    name.push(suffix(no, count));
    whole.with_file_name(name)
}

/// The path of shard `no` beside `path`.
pub(super) fn path(path: &Path, stem: &str, no: usize, count: usize) -> PathBuf {
    path.with_file_name(format!("{stem}{}", suffix(no, count)))
}

fn suffix(no: usize, count: usize) -> String {
    format!("-{:05}-of-{count:05}.gguf", no + 1)
}

/// Refuses files that are not the shards, in order, of one model.
pub(super) fn check<'a>(
    mut files: impl Iterator<Item = (&'a Path, &'a Parsed)> + Clone,
    split: Split,
) -> Result<()> {
    let n_tensors: usize = files.clone().map(|(_, p)| p.tensors.len()).sum();
    let Some((first_path, first)) = files.next() else {
        return Ok(());
    };
    // The shard the user named need not be the first; all are held against the first.
    check_member(first, first_path, Split { no: 0, ..split }, first)?;
    for (no, (_, shard)) in files.enumerate() {
        check_member(first, first_path, Split { no: no + 1, ..split }, shard)?;
    }
    match split.n_tensors {
        Some(n) if n != n_tensors => {
            let what = format!("announces {n} tensors, but the {} shards hold {n_tensors}", split.count);
            Err(first.metadata.invalid(TENSORS, what))
        }
        _ => Ok(()),
    }
}

/// Refuses a shard that does not belong to the model whose first shard is `first`.
fn check_member(first: &Parsed, first_path: &Path, split: Split, shard: &Parsed) -> Result<()> {
    let found = Split::of(&shard.metadata)?;
    if found != Some(split) {
        let found = found.map_or("no shard".into(), Split::describe);
        let what = format!("is {found}, but {} is needed here", split.describe());
        return Err(shard.metadata.error(ErrorKind::Shards(what)));
    }
    // What a later shard repeats of the model's metadata must be the same.
    for (key, value) in shard.metadata.iter().filter(|(key, _)| *key != NO) {
        if first.metadata.get(key).is_some_and(|v| v != value) {
            let what = format!("differs from that in {}: a shard of another model", first_path.display());
            return Err(shard.metadata.invalid(key, what));
        }
    }
    Ok(())
}
