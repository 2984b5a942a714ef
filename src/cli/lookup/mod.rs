//! From the name of a model to its file: a path, else a name in the places where models lie.

mod folder;
mod hub;
mod ollama;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::config::{Config, Env, Origin, folder as config_folder, table};
use super::settings::Source;
use crate::failure::{Failure, Result};

/// The variable that holds the folders with models, separated as in `PATH`.
pub const FOLDERS: &str = "FATHOM_MODELS";
/// The name of the model in the binary.
pub const BUNDLED: &str = "tiny-r1";

/// Where models lie, and which to use where none is named.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    places: Vec<Place>,
    /// The setting `model`, and who set it.
    pub unnamed: Option<(OsString, Origin)>,
    /// Commands that a first word which is no model may have been meant for; empty where one is named.
    pub commands: Vec<String>,
}

/// A place where models lie, in the order in which they are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A folder that somebody has named.
    Folder(PathBuf),
    /// A folder of fathom's own, which need not be there.
    Own(PathBuf),
    /// Hugging Face's cache.
    Hub(PathBuf),
    /// ollama's store.
    Ollama(PathBuf),
}

/// A model by its name there, and its file or what is wrong with it.
#[derive(Debug)]
pub struct Entry {
    pub name: String,
    pub file: Result<PathBuf, String>,
}

/// What was found under a name.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    One(PathBuf),
    /// Their names, each of which is that of one.
    Several(Vec<String>),
    Nothing,
}

impl Place {
    fn path(&self) -> &Path {
        match self {
            Place::Folder(path) | Place::Own(path) | Place::Hub(path) | Place::Ollama(path) => path,
        }
    }

    /// What to call it.
    pub fn label(&self) -> String {
        match self {
            Place::Folder(path) | Place::Own(path) => config_folder::shown(path),
            Place::Hub(_) => "Hugging Face".into(),
            Place::Ollama(_) => "ollama".into(),
        }
    }

    fn find(&self, name: &OsStr) -> Result<Found> {
        // Names in the hub and in ollama are of few characters: most prompts need no look there.
        let plain = name.to_str().filter(|name| {
            name.len() <= 300 && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-:/".contains(c))
        });
        Ok(match (self, plain) {
            (Place::Folder(folder) | Place::Own(folder), _) => folder::at_name(&folder.join(name)),
            (Place::Hub(cache), Some(name)) => hub::find(cache, name),
            (Place::Ollama(store), Some(name)) => ollama::find(store, name)?,
            _ => Found::Nothing,
        })
    }

    /// Every model there.
    pub fn entries(&self) -> Vec<Entry> {
        let in_folder = |folder: &Path, models: Vec<PathBuf>| -> Vec<Entry> {
            let gone = |p: &Path| (!p.is_file()).then(|| "the file that it links to is gone".to_owned());
            let entry =
                |p: PathBuf| Entry { name: folder::name_in(folder, &p), file: gone(&p).map_or(Ok(p), Err) };
            models.into_iter().map(entry).collect()
        };
        match self {
            Place::Folder(path) => in_folder(path, folder::models_deep(path)),
            Place::Own(path) => in_folder(path, folder::models_below(path, 0)),
            Place::Hub(cache) => hub::entries(cache),
            Place::Ollama(store) => ollama::entries(store),
        }
    }
}

/// The places that the environment and the settings say, in the order of [`Place`]; none twice.
fn places(env: Env<'_>, config: &Config) -> Vec<Place> {
    let var = |name: &str| env(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let mut places: Vec<Place> = match config.get(table::FOLDERS).map(|v| (&v.origin, &v.words)) {
        // From the environment as it is: paths may be of any bytes.
        Some((Origin::Variable(name), _)) => {
            let list = env(name).unwrap_or_default();
            let folders = std::env::split_paths(&list).filter(|p| !p.as_os_str().is_empty());
            folders.map(Place::Folder).collect()
        }
        Some((_, words)) => words.iter().map(|w| Place::Folder(w.into())).collect(),
        None => vec![],
    };
    if let Some(folder) = config_folder::folder(env) {
        places.extend([Place::Folder(folder.join("models")), Place::Own(folder)]);
    }
    let home = config_folder::home(env);
    let within_home = |path: &str| home.as_ref().map(|home| home.join(path));
    let hugging_face = || {
        let cache = var("XDG_CACHE_HOME").or_else(|| within_home(".cache"))?;
        Some(cache.join("huggingface"))
    };
    let hub = var("HF_HUB_CACHE").or_else(|| var("HUGGINGFACE_HUB_CACHE"));
    let hub = hub.or_else(|| Some(var("HF_HOME").or_else(hugging_face)?.join("hub")));
    places.extend(hub.map(Place::Hub));
    match var("OLLAMA_MODELS") {
        Some(store) => places.push(Place::Ollama(store)),
        None => {
            places.extend(within_home(".ollama/models").map(Place::Ollama));
            if cfg!(target_os = "linux") {
                // Where its service keeps them, as its installer sets it up.
                places.push(Place::Ollama("/usr/share/ollama/.ollama/models".into()));
            }
        }
    }
    let mut seen = Vec::new();
    places.retain(|place| {
        let path = fs::canonicalize(place.path()).unwrap_or_else(|_| place.path().into());
        let new = !seen.contains(&path);
        seen.push(path);
        new
    });
    places
}

impl Lookup {
    /// Looks where the environment and the settings say.
    pub fn new(env: Env<'_>, config: &Config) -> Self {
        let unnamed = config.get("model").filter(|v| !matches!(v.origin, Origin::Flag(_))).and_then(|v| {
            let name = match &v.origin {
                Origin::Variable(name) => env(name)?,
                _ => v.words.first()?.into(),
            };
            Some((name, v.origin.clone()))
        });
        Lookup { places: places(env, config), unnamed, commands: Vec::new() }
    }

    /// The places that there are.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(|place| place.path().is_dir())
    }

    /// The model to use where none is named: that of the setting `model`, else the one in the binary.
    ///
    /// # Errors
    /// If there is none of the setting's name.
    pub fn default_model(&self) -> Result<Source> {
        let Some((name, origin)) = &self.unnamed else { return Ok(Source::Bundled { named: false }) };
        match self.source(name).map_err(|e| e.and_hint(&format!("the name comes from {origin}")))? {
            Source::Named(path) => Ok(Source::Setting(path, origin.clone())),
            other => Ok(other),
        }
    }

    /// The model called `name`: a file, or the one in the binary.
    ///
    /// # Errors
    /// As [`Self::model`].
    pub fn source(&self, name: &OsStr) -> Result<Source> {
        match self.find(name)? {
            Found::Nothing if is_bundled(name) => Ok(Source::Bundled { named: true }),
            found => self.one(name, found).map(Source::Named),
        }
    }

    /// The file of the model called `name`.
    ///
    /// # Errors
    /// If there is none, with the nearest names and where it looked, or if there are several.
    pub fn model(&self, name: &OsStr) -> Result<PathBuf> {
        self.one(name, self.find(name)?)
    }

    fn one(&self, name: &OsStr, found: Found) -> Result<PathBuf> {
        match found {
            Found::One(path) => Ok(path),
            Found::Several(names) => Err(Failure::usage(
                format!("'{}' is the name of {} models", name.display(), names.len()),
                format!("name one of them: {}", names.join(", ")),
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
    pub fn first_word(&self, word: &OsStr) -> Result<Option<Source>> {
        let reference = looks_like_reference(word);
        match self.find(word)? {
            Found::One(path) if reference || is_gguf(&path) => Ok(Some(Source::Named(path))),
            found @ Found::Several(_) => self.one(word, found).map(|path| Some(Source::Named(path))),
            _ if is_bundled(word) => Ok(Some(Source::Bundled { named: true })),
            _ if reference => Err(self.nothing(word).and_hint("if it is a prompt, put -p before it")),
            _ => Ok(None),
        }
    }

    fn find(&self, name: &OsStr) -> Result<Found> {
        if name.is_empty() {
            return Ok(Found::Nothing);
        }
        // A path is meant as it is; names in the places come without their ending.
        let found = folder::at(Path::new(name));
        if found != Found::Nothing {
            return Ok(found);
        }
        for place in &self.places {
            let found = place.find(name)?;
            if found != Found::Nothing {
                return Ok(found);
            }
        }
        Ok(Found::Nothing)
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
            // What somebody has named is worth a word even if it is not there.
            let shown = |p: &&Place| {
                matches!(p, Place::Folder(_)) && !p.path().ends_with("fathom/models") || p.path().is_dir()
            };
            let places = self.places.iter().filter(shown).map(Place::label);
            let looked: Vec<String> = std::iter::once("the current folder".into()).chain(places).collect();
            what = format!("{what} in {}", looked.join(" or "));
        }
        let near = self.nearest(name);
        Failure::new(what).or_hint(if near.is_empty() {
            format!("give the path of a GGUF file, or set {FOLDERS} to the folder it is in; 'fathom list' lists all")
        } else {
            format!("near are {}; 'fathom list' lists all", near.join(", "))
        })
    }

    /// Up to three names of models that resemble `name`.
    fn nearest(&self, name: &OsStr) -> Vec<String> {
        let path = Path::new(name);
        let wanted = path.file_name().unwrap_or(name).to_string_lossy().to_lowercase();
        let wanted = folder::without_ending(&wanted);
        let beside = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let files = folder::models_in(beside).into_iter().map(|p| p.display().to_string());
        let names = self.places().flat_map(Place::entries).map(|e| e.name);
        let mut scored: Vec<(usize, String)> = files
            .chain(names)
            .filter_map(|name| {
                let last = name.rsplit(['/', std::path::MAIN_SEPARATOR]).next().unwrap_or(&name);
                let last = folder::without_ending(last).to_lowercase();
                // Of ollama's names people leave the tag out.
                let whole = distance(&last, wanted);
                let distance = whole.min(distance(last.split(':').next().unwrap_or(&last), wanted));
                let near = distance <= (last.chars().count() / 3).max(1) || last.contains(wanted);
                near.then_some((distance, name))
            })
            .collect();
        scored.sort();
        scored.dedup();
        scored.into_iter().take(3).map(|(_, name)| name).collect()
    }
}

fn is_bundled(name: &OsStr) -> bool {
    cfg!(feature = "bundled") && name == BUNDLED
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

fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    fs::File::open(path).and_then(|mut f| f.read_exact(&mut magic)).is_ok() && magic == *b"GGUF"
}

/// Edits that lead from one name to the other, two letters in each other's place counting as one.
pub use strsim::osa_distance as distance;

/// The one of `names` that `typed` is nearest to, if half of its letters are right.
pub fn meant<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = names.into_iter().map(|name| (distance(typed, name), name)).min_by_key(|(edits, _)| *edits);
    scored.filter(|(edits, _)| 2 * edits <= typed.chars().count()).map(|(_, name)| name)
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
        let lookup = Lookup { places: vec![Place::Folder(dir.path().into())], ..Lookup::default() };
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
        assert!(missing.hint().unwrap().contains("deepseek-r1-8b"));
        assert!(!missing.hint().unwrap().contains("llama"));
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
    fn what_is_meant_has_half_of_its_letters_right() {
        assert_eq!(meant("hlep", ["undo", "help", "forget"]), Some("help"));
        assert_eq!(meant("foo", ["stop", "temp"]), None);
        assert_eq!(meant("", ["stop"]), None);
        assert_eq!(meant("stop", []), None);
    }
}
