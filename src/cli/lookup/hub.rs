//! Hugging Face's hub cache: `models--ORG--NAME/snapshots/REVISION/FILE`, where files are links to blobs. It is only read.

use std::fs;
use std::path::{Path, PathBuf};

use super::folder::{file_name, models_below, name_in, without_ending};
use super::{Entry, Found};

/// Folders in a snapshot: people sort their files by type.
const DEPTH: usize = 2;

/// A file of a repository.
#[derive(Debug)]
struct File {
    /// `ORG/NAME`.
    repo: String,
    /// Its path in the repository, without its ending.
    name: String,
    path: PathBuf,
}

/// The model of a name: `ORG/NAME`, `NAME`, either with the type of its weights behind a colon, or a file's.
pub fn find(cache: &Path, name: &str) -> Found {
    let name = ["hf.co/", "huggingface.co/"].iter().find_map(|host| name.strip_prefix(host)).unwrap_or(name);
    let (repo, tag) = match name.rsplit_once(':') {
        Some((repo, tag)) => (repo, Some(tag)),
        None => (name, None),
    };
    let files = files(cache, |candidate| {
        // Names of files may be those of any repository.
        tag.is_none() || is_called(candidate, repo)
    });
    let by_repo = |f: &&File| is_called(&f.repo, repo) && tag.is_none_or(|tag| has_tag(&f.name, tag));
    let by_file = |f: &&File| {
        let wanted = without_ending(name);
        let last = f.name.rsplit('/').next().unwrap_or_default();
        tag.is_none()
            && (last.eq_ignore_ascii_case(wanted)
                || format!("{}/{}", f.repo, f.name).eq_ignore_ascii_case(wanted))
    };
    for filter in [&by_repo as &dyn Fn(&&File) -> bool, &by_file] {
        let found: Vec<&File> = files.iter().filter(|f| f.path.is_file()).filter(filter).collect();
        match found[..] {
            [] => {}
            [one] => return Found::One(one.path.clone()),
            _ => return Found::Several(found.iter().map(|f| f.called(&files)).collect()),
        }
    }
    Found::Nothing
}

/// All models.
pub fn entries(cache: &Path) -> Vec<Entry> {
    let files = files(cache, |_| true);
    let gone = |path: &Path| (!path.is_file()).then(|| "the file that it links to is gone".to_owned());
    let entry =
        |f: &File| Entry { name: f.called(&files), file: gone(&f.path).map_or(Ok(f.path.clone()), Err) };
    files.iter().map(entry).collect()
}

/// Whether a repository is meant by a name, with its organization or without.
fn is_called(repo: &str, name: &str) -> bool {
    let short = repo.rsplit('/').next().unwrap_or(repo);
    repo.eq_ignore_ascii_case(name) || short.eq_ignore_ascii_case(name)
}

impl File {
    /// The shortest name that is its own: the repository with the type of the weights, else with the file.
    fn called(&self, files: &[File]) -> String {
        let Some(tag) = tag(&self.name) else { return format!("{}/{}", self.repo, self.name) };
        let same = files.iter().filter(|f| f.repo == self.repo && has_tag(&f.name, tag)).count();
        if same == 1 { format!("{}:{tag}", self.repo) } else { format!("{}/{}", self.repo, self.name) }
    }
}

/// The files of the repositories that are `wanted`. Of one that several revisions have, that of `refs/main` counts, else
/// of the latest.
fn files(cache: &Path, wanted: impl Fn(&str) -> bool) -> Vec<File> {
    let Ok(folders) = fs::read_dir(cache) else { return vec![] };
    let mut folders: Vec<PathBuf> = folders.flatten().map(|e| e.path()).collect();
    folders.sort();
    let mut files: Vec<File> = Vec::new();
    for folder in folders {
        let Some(repo) = file_name(&folder).strip_prefix("models--").map(|name| name.replacen("--", "/", 1))
        else {
            continue;
        };
        if !wanted(&repo) {
            continue;
        }
        let first = files.len();
        for snapshot in snapshots(&folder) {
            for path in models_below(&snapshot, DEPTH) {
                let name = name_in(&snapshot, &path);
                if files[first..].iter().all(|f| f.name != name) {
                    files.push(File { repo: repo.clone(), name, path });
                }
            }
        }
    }
    files
}

/// The folders of the revisions, that of `refs/main` first, then the latest.
fn snapshots(repo: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(repo.join("snapshots")) else { return vec![] };
    let mut all: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    // A name of forty digits. Whatever else it holds names no folder here.
    let main = fs::File::open(repo.join("refs/main")).ok().and_then(|file| {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::io::Read::take(file, 100), &mut text).ok()?;
        Some(text.trim().to_owned())
    });
    let time = |path: &PathBuf| fs::metadata(path).and_then(|m| m.modified()).ok();
    all.sort_by_key(|path| (main.as_deref() == Some(file_name(path)), time(path)));
    all.reverse();
    all
}

/// The type of the weights in the name of a file: `Q4_K_M`.
fn tag(name: &str) -> Option<&str> {
    let is_tag = |part: &&str| {
        let lower = part.to_ascii_lowercase();
        let bits = ["iq", "tq", "q"].iter().find_map(|kind| lower.strip_prefix(kind));
        bits.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            || ["f32", "f16", "bf16", "fp16", "mxfp4", "nvfp4"].contains(&&*lower)
    };
    name.rsplit(['/', '-', '.']).find(is_tag)
}

/// Whether a type stands in the name of a file, by itself: `Q4_K` is not in `x-Q4_K_M`.
fn has_tag(name: &str, tag: &str) -> bool {
    let (name, tag) = (name.to_ascii_lowercase(), tag.to_ascii_lowercase());
    let within = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    !tag.is_empty()
        && name.match_indices(&tag).any(|(at, _)| {
            !within(name[..at].chars().next_back()) && !within(name[at + tag.len()..].chars().next())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_is_read_from_the_name_of_a_file() {
        for (name, found) in [
            ("DeepSeek-R1-Distill-Qwen-7B-Q4_K_M", Some("Q4_K_M")),
            ("UD-IQ2_XXS/DeepSeek-R1-UD-IQ2_XXS", Some("IQ2_XXS")),
            ("model.f16", Some("f16")),
            ("Q8_0/model", Some("Q8_0")),
            ("model", None),
            ("quiet-queen", None),
        ] {
            assert_eq!(tag(name), found, "{name}");
        }
        assert!(has_tag("x-Q4_K_M", "q4_k_m") && has_tag("Q4_K_M/x", "Q4_K_M") && has_tag("x.Q8_0", "Q8_0"));
        assert!(!has_tag("x-Q4_K_M", "Q4_K") && !has_tag("x-IQ4_XS", "Q4_XS") && !has_tag("x", ""));
    }
}
