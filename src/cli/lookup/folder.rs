//! Models as files in folders: single, sharded, in folders of their own.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::Found;

/// Folders within folders that are looked through.
const DEPTH: usize = 3;
/// Entries of folders that are looked at, so that a name for the root of a disk ends.
const MOST: usize = 20_000;

/// The model at a path: a file, or the only model in a folder.
pub fn at(path: &Path) -> Found {
    if path.is_file() {
        return Found::One(path.into());
    }
    found(models_in(path))
}

fn found(mut models: Vec<PathBuf>) -> Found {
    match models.len() {
        0 => Found::Nothing,
        1 => Found::One(models.remove(0)),
        _ => Found::Several(models.iter().map(|m| m.display().to_string()).collect()),
    }
}

/// The model at a path, also without `.gguf` or the number of its first shard.
pub fn at_name(path: &Path) -> Found {
    let mut file = path.as_os_str().to_owned();
    file.push(".gguf");
    let found = at(path);
    if found != Found::Nothing {
        return found;
    }
    let found = at(Path::new(&file));
    if found != Found::Nothing {
        return found;
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else {
        return Found::Nothing;
    };
    let mut shards = models_in(folder);
    shards.retain(|p| file_name(p).strip_prefix(name).is_some_and(|rest| rest.starts_with("-00001-of-")));
    self::found(shards)
}

/// The models in a folder, sorted; of a sharded one the first file.
pub fn models_in(folder: &Path) -> Vec<PathBuf> {
    let mut models = models_below(folder, 0);
    models.retain(|path| path.is_file());
    models
}

/// The models in a folder and those within, to a depth: of a sharded one the first file. Those that are links to nothing
/// are among them.
pub fn models_below(folder: &Path, depth: usize) -> Vec<PathBuf> {
    let (mut models, mut left) = (Vec::new(), MOST);
    walk(folder, depth, &mut left, &mut models);
    models.sort();
    models
}

/// As many as are looked for by name.
pub fn models_deep(folder: &Path) -> Vec<PathBuf> {
    models_below(folder, DEPTH)
}

fn walk(folder: &Path, depth: usize, left: &mut usize, models: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if *left == 0 {
            return;
        }
        *left -= 1;
        let path = entry.path();
        let name = file_name(&path);
        let is_model = path.extension() == Some("gguf".as_ref()) && !is_later_shard(name);
        if path.is_dir() {
            if depth > 0 && !name.starts_with('.') {
                walk(&path, depth - 1, left, models);
            }
        } else if is_model {
            models.push(path);
        }
    }
}

/// The name of a model within a folder: its path there, without `.gguf` and the number of a shard.
pub fn name_in(folder: &Path, model: &Path) -> String {
    let path = model.strip_prefix(folder).unwrap_or(model).to_string_lossy();
    without_ending(&path).replace(std::path::MAIN_SEPARATOR, "/")
}

/// The path of a file without `.gguf` and the number of a shard.
pub fn without_ending(path: &str) -> &str {
    let stem = path.strip_suffix(".gguf").unwrap_or(path);
    if shard_no(stem).is_some() { &stem[..stem.len() - "-00001-of-00001".len()] } else { stem }
}

pub fn file_name(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).unwrap_or_default()
}

/// Whether a file is shard 2 or later: `name-00002-of-00003.gguf`.
fn is_later_shard(name: &str) -> bool {
    shard_no(name.trim_end_matches(".gguf")).is_some_and(|no| no != "00001")
}

/// The number in `name-00002-of-00003`.
fn shard_no(stem: &str) -> Option<&str> {
    let mut parts = stem.rsplitn(4, '-');
    let (count, of, no) = (parts.next()?, parts.next()?, parts.next()?);
    parts.next()?;
    let number = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
    (of == "of" && number(count) && number(no)).then_some(no)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_endings_and_no_numbers_of_shards() {
        assert_eq!(without_ending("a/b-00001-of-00003.gguf"), "a/b");
        assert_eq!(without_ending("b-1-of-3.gguf"), "b-1-of-3");
        assert_eq!(without_ending("-00001-of-00003.gguf"), "");
        assert_eq!(without_ending("00001-of-00003.gguf"), "00001-of-00003");
        assert_eq!(without_ending("b"), "b");
        assert!(is_later_shard("b-00002-of-00003.gguf") && !is_later_shard("b-00001-of-00003.gguf"));
        assert!(!is_later_shard("b-2-of-3.gguf"));
    }
}
