//! From the name of a model to its file: a path, else a name in the folders of `$FATHOM_MODELS`.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// The variable that holds the folders with models, separated as in `PATH`.
pub const FOLDERS: &str = "FATHOM_MODELS";

/// Where models lie.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    folders: Vec<PathBuf>,
}

/// What was found under a name.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    One(PathBuf),
    Several(Vec<PathBuf>),
    Nothing,
}

impl Lookup {
    /// Looks in the folders that the value of [`FOLDERS`] lists.
    pub fn new(folders: Option<&OsStr>) -> Self {
        let folders = folders.map(|list| std::env::split_paths(list).filter(|p| !p.as_os_str().is_empty()));
        Lookup { folders: folders.map(Iterator::collect).unwrap_or_default() }
    }

    /// The file of the model called `name`.
    ///
    /// # Errors
    /// If there is none, with the nearest names and where it looked, or if there are several.
    pub fn model(&self, name: &OsStr) -> Result<PathBuf> {
        match self.find(name) {
            Found::One(path) => Ok(path),
            Found::Several(paths) => Err(Failure::usage(
                format!("'{}' is the name of {} models", name.display(), paths.len()),
                format!("name one of them: {}", list(&paths)),
            )),
            Found::Nothing => Err(self.nothing(name)),
        }
    }

    /// The file of the model called `name`, or the Hugging Face folder at that path.
    ///
    /// # Errors
    /// As [`Self::model`].
    pub fn model_or_folder(&self, name: &OsStr) -> Result<PathBuf> {
        if is_hugging_face(Path::new(name)) { Ok(name.into()) } else { self.model(name) }
    }

    /// Whether the first word on the command line is a model; `None` if it is the prompt.
    ///
    /// A file counts as one if it is GGUF or is named like one, so that the prompt "README" stays a
    /// prompt in a folder with a file of that name.
    ///
    /// # Errors
    /// If the word looks like the name of a model that is not there.
    pub fn first_word(&self, word: &OsStr) -> Result<Option<PathBuf>> {
        let reference = looks_like_reference(word);
        match self.find(word) {
            Found::One(path) if reference || is_gguf(&path) => Ok(Some(path)),
            Found::Several(_) => self.model(word).map(Some),
            _ if reference => Err(self.nothing(word).and_hint("if it is a prompt, put -p before it")),
            _ => Ok(None),
        }
    }

    fn find(&self, name: &OsStr) -> Found {
        if name.is_empty() {
            return Found::Nothing;
        }
        let places =
            std::iter::once(PathBuf::from(name)).chain(self.folders.iter().map(|folder| folder.join(name)));
        for (i, place) in places.enumerate() {
            // A path is meant as it is; names in the folders come without their ending.
            let found = if i == 0 { at(&place) } else { at_name(&place) };
            if found != Found::Nothing {
                return found;
            }
        }
        Found::Nothing
    }

    fn nothing(&self, name: &OsStr) -> Failure {
        let path = Path::new(name);
        if is_hugging_face(path) {
            let what = format!("{} is a Hugging Face folder, not a GGUF file", path.display());
            return Failure::new(what).or_hint("'fathom quantize FOLDER Q8_0' makes a GGUF file of it");
        }
        if path.is_dir() {
            let what = format!("{} is a folder without a GGUF file", path.display());
            return Failure::new(what).or_hint("fathom runs GGUF files, as llama.cpp and ollama do");
        }
        let mut what = format!("there is no model '{}'", name.display());
        if path.is_relative() {
            let folders = self.folders.iter().map(|f| f.display().to_string());
            let looked: Vec<String> = std::iter::once("the current folder".into()).chain(folders).collect();
            what = format!("{what} in {}", looked.join(" or "));
        }
        let near = self.nearest(name);
        if near.is_empty() {
            let hint = format!("give the path of a GGUF file, or set {FOLDERS} to the folder it is in");
            Failure::new(what).or_hint(hint)
        } else {
            Failure::new(what).or_hint(format!("near are {}", near.join(", ")))
        }
    }

    /// Up to three names of models that resemble `name`.
    fn nearest(&self, name: &OsStr) -> Vec<String> {
        let path = Path::new(name);
        let wanted = path.file_name().unwrap_or(name).to_string_lossy().to_lowercase();
        let beside = path.parent().filter(|p| !p.as_os_str().is_empty());
        let folders = self.folders.iter().map(PathBuf::as_path).chain([beside.unwrap_or(Path::new("."))]);
        let mut scored: Vec<(usize, String)> = folders
            .flat_map(models_in)
            .filter_map(|path| {
                let stem = path.file_stem()?.to_string_lossy().to_lowercase();
                let distance = distance(&stem, wanted.trim_end_matches(".gguf"));
                let near = distance * 3 <= stem.len() || stem.contains(&wanted);
                near.then(|| (distance, path.display().to_string()))
            })
            .collect();
        scored.sort();
        scored.into_iter().take(3).map(|(_, name)| name).collect()
    }
}

/// Whether a word is meant as the name of a model rather than as a prompt: `x.gguf`, a path, or
/// `name:tag` as ollama has them. A path that does not end in `.gguf` has no spaces, because a
/// prompt may well have a slash.
fn looks_like_reference(word: &OsStr) -> bool {
    let Some(word) = word.to_str() else {
        return true;
    };
    let tagged = || {
        let plain =
            |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        word.split_once(':').is_some_and(|(name, tag)| plain(name) && plain(tag))
    };
    let path = |c| c == '/' || c == std::path::MAIN_SEPARATOR;
    word.ends_with(".gguf") || (!word.contains(char::is_whitespace) && (word.contains(path) || tagged()))
}

/// Whether a path leads to a folder with a model as Hugging Face's hub has it.
fn is_hugging_face(path: &Path) -> bool {
    path.join("config.json").is_file()
}

/// The model at a path: a file, or the only model in a folder.
fn at(path: &Path) -> Found {
    if path.is_file() {
        return Found::One(path.into());
    }
    let mut models = models_in(path);
    match models.len() {
        0 => Found::Nothing,
        1 => Found::One(models.remove(0)),
        _ => Found::Several(models),
    }
}

/// The model at a path, also without `.gguf` or the number of its first shard.
fn at_name(path: &Path) -> Found {
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
    match shards.len() {
        0 => Found::Nothing,
        1 => Found::One(shards.remove(0)),
        _ => Found::Several(shards),
    }
}

/// The models in a folder, sorted; of a sharded one the first file.
fn models_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut models: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension() == Some("gguf".as_ref()) && path.is_file())
        .filter(|path| !is_later_shard(file_name(path)))
        .collect();
    models.sort();
    models
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).unwrap_or_default()
}

/// Whether a file is shard 2 or later: `name-00002-of-00003.gguf`.
fn is_later_shard(name: &str) -> bool {
    let mut parts = name.trim_end_matches(".gguf").rsplitn(4, '-');
    let (Some(count), Some("of"), Some(no), Some(_)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let number = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
    number(count) && number(no) && no != "00001"
}

fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    fs::File::open(path).and_then(|mut f| f.read_exact(&mut magic)).is_ok() && magic == *b"GGUF"
}

fn list(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    names.join(", ")
}

/// Levenshtein distance in characters.
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> (tempfile::TempDir, Lookup) {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"GGUF").unwrap();
        }
        let lookup = Lookup::new(Some(dir.path().as_os_str()));
        (dir, lookup)
    }

    #[test]
    fn names_are_found_in_the_folders() {
        let (dir, lookup) = folder(&[
            "a.gguf",
            "b-00001-of-00002.gguf",
            "b-00002-of-00002.gguf",
            "c/only.gguf",
            "d/1.gguf",
            "d/2.gguf",
        ]);
        let found = |name: &str| lookup.model(name.as_ref());
        assert_eq!(found("a").unwrap(), dir.path().join("a.gguf"));
        assert_eq!(found("a.gguf").unwrap(), dir.path().join("a.gguf"));
        assert_eq!(found("b").unwrap(), dir.path().join("b-00001-of-00002.gguf"));
        assert_eq!(found("c").unwrap(), dir.path().join("c/only.gguf"));
        let several = found("d").unwrap_err();
        assert!(several.hint().unwrap().contains("2.gguf"), "{several:?}");
    }

    #[test]
    fn what_is_missing_is_said_with_the_nearest_names_and_where_it_looked() {
        let (dir, lookup) = folder(&["deepseek-r1-8b.gguf", "llama.gguf"]);
        let missing = lookup.model("deepseek-r1-7b".as_ref()).unwrap_err();
        assert!(missing.message().unwrap().contains(dir.path().to_str().unwrap()));
        assert!(missing.hint().unwrap().contains("deepseek-r1-8b.gguf"));
        assert!(!missing.hint().unwrap().contains("llama.gguf"));
    }

    #[test]
    fn the_first_word_is_a_model_a_mistake_or_the_prompt() {
        let (dir, lookup) = folder(&["a.gguf"]);
        assert!(lookup.first_word("a".as_ref()).unwrap().is_some());
        for prompt in ["hello", "What is 1/2?", "at 10:30", "why: because", "Cargo.toml", ""] {
            assert_eq!(lookup.first_word(prompt.as_ref()).unwrap(), None, "{prompt}");
        }
        for missing in ["b.gguf", "my models/b.gguf", "x/b", "./b", "r1:7b", "deepseek/r1"] {
            let failure = lookup.first_word(missing.as_ref()).unwrap_err();
            assert!(failure.hint().unwrap().contains("-p"), "{failure:?}");
        }
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        let failure = lookup.first_word(empty.as_os_str()).unwrap_err();
        assert!(failure.message().unwrap().contains("folder without"), "{failure:?}");
        let failure = lookup.model(dir.path().join("b.gguf").as_os_str()).unwrap_err();
        assert!(!failure.message().unwrap().contains("current folder"), "{failure:?}");
        let text = dir.path().join("notes.txt");
        fs::write(&text, "hello").unwrap();
        // Named by its path it is meant as the model, whatever it holds; the reader will say.
        assert!(lookup.first_word(text.as_os_str()).unwrap().is_some());
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }
}
