//! ollama's store: `manifests/HOST/NAMESPACE/MODEL/TAG` name the layers of a model, `blobs/sha256-…` hold them. It is only read.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::folder::file_name;
use super::{Entry, Found};
use crate::failure::{Failure, Result};

/// What a short name leaves out.
const HOST: &str = "registry.ollama.ai";
const NAMESPACE: &str = "library";
const TAG: &str = "latest";
/// Bytes of a manifest at most; they have a thousand.
const LARGEST: u64 = 1 << 20;
/// Manifests that are looked at.
const MOST: usize = 10_000;

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
}

/// A model of the store.
struct Tagged {
    /// Its name as ollama prints it, without the tag.
    model: String,
    /// With host and namespace.
    full: String,
    tag: String,
    manifest: PathBuf,
}

/// The model of a name: `MODEL:TAG`, with or without namespace and host. Without a tag it is `latest`, or the only one.
///
/// # Errors
/// If its manifest or its weights cannot be used.
pub fn find(store: &Path, name: &str) -> Result<Found> {
    let (model, tag) = match name.rsplit_once(':') {
        Some((model, tag)) if !tag.contains('/') => (model, Some(tag)),
        _ => (name, None),
    };
    let same = |t: &Tagged| t.model.eq_ignore_ascii_case(model) || t.full.eq_ignore_ascii_case(model);
    let mut all = tagged(store);
    all.retain(same);
    let wanted = tag.unwrap_or(TAG);
    match (all.iter().find(|t| t.tag.eq_ignore_ascii_case(wanted)), &all[..]) {
        (Some(one), _) => Ok(Found::One(weights(store, &one.manifest).map_err(|e| one.cannot_be_used(&e))?)),
        (None, [one]) if tag.is_none() => {
            Ok(Found::One(weights(store, &one.manifest).map_err(|e| one.cannot_be_used(&e))?))
        }
        (None, [_, ..]) if tag.is_none() => Ok(Found::Several(all.iter().map(Tagged::name).collect())),
        _ => Ok(Found::Nothing),
    }
}

/// All models.
pub fn entries(store: &Path) -> Vec<Entry> {
    let entry = |t: &Tagged| Entry { name: t.name(), file: weights(store, &t.manifest) };
    tagged(store).iter().map(entry).collect()
}

impl Tagged {
    fn name(&self) -> String {
        format!("{}:{}", self.model, self.tag)
    }

    fn cannot_be_used(&self, why: &str) -> Failure {
        let what = format!("ollama's model {} cannot be used: {why}", self.name());
        Failure::new(what)
            .or_hint(format!("'ollama pull {}' fetches it again; a GGUF file does as well", self.name()))
    }
}

/// All names that have a manifest. Names are those of folders: none leads out of the store.
fn tagged(store: &Path) -> Vec<Tagged> {
    let (mut all, mut left) = (Vec::new(), MOST);
    let mut within = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
        let mut names: Vec<PathBuf> = entries
            .filter(|p| !file_name(p).is_empty() && !file_name(p).starts_with('.'))
            .take(left)
            .collect();
        left -= names.len();
        names.sort();
        names
    };
    for host in within(&store.join("manifests")) {
        for namespace in within(&host) {
            for model in within(&namespace) {
                for manifest in within(&model).into_iter().filter(|m| m.is_file()) {
                    let [host, namespace, model, tag] =
                        [&host, &namespace, &model, &manifest].map(|p| file_name(p));
                    let short = match (host, namespace) {
                        (HOST, NAMESPACE) => model.to_owned(),
                        (HOST, _) => format!("{namespace}/{model}"),
                        _ => format!("{host}/{namespace}/{model}"),
                    };
                    let full = format!("{host}/{namespace}/{model}");
                    all.push(Tagged { model: short, full, tag: tag.to_owned(), manifest: manifest.clone() });
                }
            }
        }
    }
    all
}

/// The file of the weights that a manifest names, or why there is none.
fn weights(store: &Path, manifest: &Path) -> Result<PathBuf, String> {
    let mut text = Vec::new();
    let read = fs::File::open(manifest).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut text));
    read.map_err(|e| format!("its manifest cannot be read: {e}"))?;
    if text.len() as u64 > LARGEST {
        return Err("its manifest is larger than 1 MiB".into());
    }
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|e| format!("its manifest is damaged: {e}"))?;
    let layers = |kind: &str| {
        let kind = format!("application/vnd.ollama.image.{kind}");
        manifest.layers.iter().filter(move |layer| layer.media_type == kind)
    };
    if layers("adapter").next().is_some() {
        return Err("it is a model with an adapter, which fathom does not apply".into());
    }
    let mut models = layers("model");
    let (Some(model), None) = (models.next(), models.next()) else {
        return Err("it has no GGUF file of its own".into());
    };
    let digest = model.digest.strip_prefix("sha256:").filter(|d| d.len() == 64);
    let digest = digest.filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
    let digest = digest.ok_or("the digest in its manifest is none")?;
    // Older versions have a colon there.
    let blobs = ['-', ':'].map(|separator| store.join("blobs").join(format!("sha256{separator}{digest}")));
    blobs.into_iter().find(|blob| blob.is_file()).ok_or_else(|| "its weights are not in the store".into())
}
