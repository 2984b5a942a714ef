//! Unpacking fixtures once, although many test binaries may ask at the same time.
//!
//! A fixture is unpacked under a name of its own and renamed into place when it is complete, so
//! whoever sees it sees all of it. A file lock keeps two processes from doing the work twice. The
//! place has a hash of the archive in its name: another archive goes elsewhere.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use liblzma::read::XzDecoder;

use crate::{sha256, widen};

/// The path of `fixtures/path`, or of what `fixtures/path.xz` unpacks to.
pub fn file(fixtures: &Path, path: &str) -> PathBuf {
    let plain = fixtures.join(path);
    if plain.exists() {
        return plain;
    }
    let name = plain.file_name().expect("a file name");
    let archive = fixtures.join(format!("{path}.xz"));
    once(&archive, &path.replace('/', "-"), |dir| {
        let mut out = File::create(dir.join(name))?;
        std::io::copy(&mut XzDecoder::new(File::open(&archive)?), &mut out)?;
        Ok(())
    })
    .join(name)
}

/// The folder of a reference model: `hf/`, `NAME-f16.gguf`, `NAME-f32.gguf`.
pub fn model(fixtures: &Path, name: &str) -> PathBuf {
    let models = fixtures.join("models");
    let archive = models.join(format!("{name}.tar.xz"));
    once(&archive, name, |dir| {
        tar::Archive::new(XzDecoder::new(File::open(&archive)?)).unpack(dir)?;
        let dir = dir.join(name);
        let f16 = dir.join(format!("{name}-f16.gguf"));
        if f16.exists() {
            fs::write(dir.join(format!("{name}-f32.gguf")), widen::f16_to_f32(&fs::read(f16)?))?;
        }
        let sums: HashMap<String, HashMap<String, String>> =
            serde_json::from_slice(&fs::read(models.join("sha256.json"))?)?;
        for (file, want) in &sums[name] {
            assert_eq!(&sha256::hex(&fs::read(dir.join(file))?), want, "SHA-256 of {name}/{file}");
        }
        Ok(())
    })
    .join(name)
}

/// The folder `name` of a tar archive.
pub fn folder(archive: &Path, name: &str) -> PathBuf {
    once(archive, &format!("{name}-folder"), |dir| {
        tar::Archive::new(XzDecoder::new(File::open(archive)?)).unpack(dir)
    })
    .join(name)
}

/// The folder into which `fill` unpacked `archive`, now or earlier.
fn once(archive: &Path, name: &str, fill: impl Fn(&Path) -> std::io::Result<()>) -> PathBuf {
    let try_once = || {
        let mut hash = DefaultHasher::new();
        fs::read(archive)?.hash(&mut hash);
        let root = target_dir().join("fixtures");
        let done = root.join(format!("{name}.{:016x}", hash.finish()));
        if done.exists() {
            return Ok(done);
        }
        fs::create_dir_all(&root)?;
        let lock = File::create(root.join(format!("{name}.lock")))?;
        lock.lock()?;
        if !done.exists() {
            let partial = root.join(format!("{name}.unpacking"));
            // What an interrupted run has left; the lock says that nobody works there now.
            if partial.exists() {
                fs::remove_dir_all(&partial)?;
            }
            fs::create_dir(&partial)?;
            fill(&partial)?;
            fs::rename(&partial, &done)?;
        }
        Ok::<_, std::io::Error>(done)
    };
    try_once().unwrap_or_else(|e| panic!("unpacking {}: {e}", archive.display()))
}

pub fn target_dir() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root.join(dir),
        None => root.join("target"),
    }
}
