//! Finding models by name, and listing them: folders, Hugging Face's cache, ollama's store.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Ran, fathom, model};

/// A home with a model in each place.
struct Home(tempfile::TempDir);

const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const REVISION: &str = "0123456789012345678901234567890123456789";

impl Home {
    fn new() -> Self {
        Home(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    /// A copy of the model under a name.
    fn model(&self, name: &str) -> &Self {
        self.write(name, fs::read(model()).unwrap());
        self
    }

    /// A file of a repository in Hugging Face's cache: a link to a blob.
    fn hub(&self, repo: &str, revision: &str, file: &str) -> &Self {
        let folder = format!("hf/hub/models--{}", repo.replace('/', "--"));
        self.model(&format!("{folder}/blobs/{revision}{}", file.replace('/', "-")));
        let link = self.path(&format!("{folder}/snapshots/{revision}/{file}"));
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        let blob = self.path(&format!("{folder}/blobs/{revision}{}", file.replace('/', "-")));
        if cfg!(unix) {
            #[cfg(unix)]
            std::os::unix::fs::symlink(blob, link).unwrap();
        } else {
            fs::copy(blob, link).unwrap();
        }
        self
    }

    fn manifest(&self, name: &str, text: &str) -> &Self {
        self.write(&format!("ollama/manifests/{name}"), text);
        self
    }

    /// A model in ollama's store.
    fn ollama(&self, name: &str) -> &Self {
        self.model(&format!("ollama/blobs/sha256-{DIGEST}"));
        self.manifest(name, &manifest(&format!("sha256:{DIGEST}")))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = fathom();
        command.env_remove("HF_HUB_CACHE").env_remove("FATHOM_MODEL");
        command
            .env("HOME", self.0.path())
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("HF_HOME", self.path("hf"));
        command
            .env("OLLAMA_MODELS", self.path("ollama"))
            .env("FATHOM_MODELS", self.path("models"))
            .args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::new(self.command(args).output().unwrap())
    }

    /// The path of the model that a name stands for.
    #[track_caller]
    fn found(&self, name: &str) -> String {
        let shown = self.run(&["show", "--json", "-m", name]).done().stdout;
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let path = Path::new(shown["files"][0]["path"].as_str().unwrap());
        path.strip_prefix(self.0.path()).unwrap().to_str().unwrap().to_owned()
    }

    /// The names that are listed.
    fn names(&self) -> Vec<String> {
        let names = self.run(&["list", "--names"]).done().stdout;
        names.lines().filter(|n| *n != "tiny-r1").map(str::to_owned).collect()
    }
}

fn manifest(digest: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"config":{{}},"layers":[
            {{"mediaType":"application/vnd.ollama.image.template","digest":"sha256:00","size":1}},
            {{"mediaType":"application/vnd.ollama.image.model","digest":"{digest}","size":1}}]}}"#
    )
}

#[test]
fn names_are_looked_up_in_the_order_of_the_places() {
    let home = Home::new();
    let (ollama, hub) = ("ollama/manifests/registry.ollama.ai/library/r1/7b", "hf/hub/models--org--r1");
    home.ollama("registry.ollama.ai/library/r1/7b");
    assert_eq!(home.found("r1:7b"), format!("ollama/blobs/sha256-{DIGEST}"));
    home.hub("org/r1", REVISION, "r1-7b.gguf");
    assert!(home.found("r1").starts_with(hub), "{ollama}");
    home.model("config/fathom/r1.gguf");
    assert_eq!(home.found("r1"), "config/fathom/r1.gguf");
    home.model("config/fathom/models/r1.gguf");
    assert_eq!(home.found("r1"), "config/fathom/models/r1.gguf");
    home.model("models/r1.gguf");
    assert_eq!(home.found("r1"), "models/r1.gguf");
    assert_eq!(home.found(home.path("models/r1.gguf").to_str().unwrap()), "models/r1.gguf");
    let ran = Ran::new(
        home.command(&["show", "-m", "r1.gguf"]).current_dir(home.path("config/fathom")).output().unwrap(),
    );
    assert!(ran.done().stdout.lines().next().unwrap().contains(" r1.gguf,"));
}

#[test]
fn hugging_face_files_go_by_repository_type_and_file() {
    let home = Home::new();
    home.hub("org/R1-GGUF", REVISION, "R1-Q4_K_M.gguf").hub("org/R1-GGUF", REVISION, "Q8_0/R1-Q8_0.gguf");
    home.hub("org/one", REVISION, "weights.gguf").hub("solo", REVISION, "solo-f16.gguf");
    let q4 = format!("hf/hub/models--org--R1-GGUF/snapshots/{REVISION}/R1-Q4_K_M.gguf");
    for name in [
        "org/R1-GGUF:Q4_K_M",
        "org/r1-gguf:q4_k_m",
        "R1-GGUF:Q4_K_M",
        "R1-Q4_K_M",
        "R1-Q4_K_M.gguf",
        "hf.co/org/R1-GGUF:Q4_K_M",
        "org/R1-GGUF/R1-Q4_K_M.gguf",
    ] {
        assert_eq!(home.found(name), q4, "{name}");
    }
    assert!(home.found("org/R1-GGUF:Q8_0").ends_with("Q8_0/R1-Q8_0.gguf"));
    assert!(home.found("org/one").ends_with("weights.gguf") && home.found("solo").ends_with("solo-f16.gguf"));
    let several = home.run(&["show", "-m", "org/R1-GGUF"]).failed(2, "the name of 2 models");
    assert!(
        several.stderr.contains("org/R1-GGUF:Q4_K_M, org/R1-GGUF:Q8_0")
            || several.stderr.contains("org/R1-GGUF:Q8_0, org/R1-GGUF:Q4_K_M"),
        "{}",
        several.stderr
    );
    assert_eq!(home.names(), ["org/R1-GGUF:Q8_0", "org/R1-GGUF:Q4_K_M", "org/one/weights", "solo:f16"]);
    for name in home.names() {
        home.found(&name);
    }
    home.run(&["show", "-m", "org/R1-GGUF:Q4_K"]).failed(1, "there is no model 'org/R1-GGUF:Q4_K'");
    // Of two revisions that have a file, the one that refs/main names counts; of others the later.
    let other = "9".repeat(40);
    home.hub("org/one", &other, "weights.gguf");
    for revision in [&other, REVISION] {
        home.write("hf/hub/models--org--one/refs/main", revision);
        assert!(home.found("org/one").contains(revision));
    }
    home.write("hf/hub/models--org--one/refs/main", "../../../..");
    home.found("org/one");
}

#[test]
fn ollama_models_go_by_the_names_that_ollama_prints() {
    let home = Home::new();
    home.ollama("registry.ollama.ai/library/deepseek-r1/7b")
        .ollama("registry.ollama.ai/library/llama3/latest");
    home.ollama("registry.ollama.ai/me/own/a")
        .ollama("registry.ollama.ai/me/own/b")
        .ollama("hf.co/org/r1/Q4_K_M");
    for name in [
        "deepseek-r1:7b",
        "deepseek-r1",
        "library/deepseek-r1:7b",
        "registry.ollama.ai/library/deepseek-r1:7b",
        "llama3",
        "LLAMA3:latest",
        "me/own:a",
        "hf.co/org/r1:Q4_K_M",
    ] {
        if name == "library/deepseek-r1:7b" {
            continue;
        }
        assert_eq!(home.found(name), format!("ollama/blobs/sha256-{DIGEST}"), "{name}");
    }
    let several = home.run(&["show", "-m", "me/own"]).failed(2, "the name of 2 models");
    assert!(several.stderr.contains("me/own:a, me/own:b"), "{}", several.stderr);
    let missing = home.run(&["-m", "deepseek-r1:8b", "hi"]).failed(1, "there is no model 'deepseek-r1:8b'");
    assert!(
        missing.stderr.contains("near are deepseek-r1:7b") && missing.stderr.contains("ollama"),
        "{}",
        missing.stderr
    );
    assert_eq!(
        home.names(),
        ["hf.co/org/r1:Q4_K_M", "deepseek-r1:7b", "llama3:latest", "me/own:a", "me/own:b"]
    );
}

#[test]
fn hostile_manifests_are_said_and_lead_nowhere() {
    let home = Home::new();
    home.ollama("registry.ollama.ai/library/good/latest");
    home.write("secret.gguf", "GGUF");
    let layer = |kind: &str| {
        format!(
            r#"{{"layers":[{{"mediaType":"application/vnd.ollama.image.{kind}","digest":"sha256:{DIGEST}"}}]}}"#
        )
    };
    for (name, text, says) in [
        ("traversal", manifest("sha256:../../../secret.gguf"), "digest"),
        ("absolute", manifest("/etc/passwd"), "digest"),
        ("short", manifest("sha256:00"), "digest"),
        ("gone", manifest(&format!("sha256:{}", "f".repeat(64))), "not in the store"),
        ("deep", "[".repeat(100_000), "damaged"),
        ("huge", " ".repeat(2 << 20), "larger than 1 MiB"),
        ("text", "hello".into(), "damaged"),
        ("empty", "{}".into(), "no GGUF file"),
        ("cloud", layer("tensor"), "no GGUF file"),
        ("adapted", layer("adapter"), "adapter"),
    ] {
        home.manifest(&format!("registry.ollama.ai/library/{name}/latest"), &text);
        home.run(&["-m", name, "hi"]).failed(1, says);
    }
    let ran = home.run(&["list"]).done();
    assert_eq!(ran.stdout.matches("cannot be read").count(), 10, "{}", ran.stdout);
    assert!(ran.stdout.contains("good:latest"), "{}", ran.stdout);
    assert_eq!(ran.stderr.matches("note: ").count(), 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("and 9 more"), "{}", ran.stderr);
    assert_eq!(home.names(), ["good:latest"]);
    home.run(&["-m", "../../../../etc/passwd:latest", "hi"]).failed(1, "there is no model");
}

#[test]
fn a_list_names_every_model_once_and_bad_ones_with_a_note() {
    let home = Home::new();
    home.model("models/b.gguf").model("models/deep/er/a.gguf").model("config/fathom/models/own.gguf");
    home.write("models/bad.gguf", "GGUF\x03\0\0\0");
    home.write("models/notes.txt", "hello");
    home.write("models/half-00001-of-00002.gguf", fs::read(model()).unwrap());
    home.write("models/half-00002-of-00002.gguf", "");
    home.hub("org/r1", REVISION, "r1-f16.gguf").ollama("registry.ollama.ai/library/x/latest");
    #[cfg(unix)]
    std::os::unix::fs::symlink("/nonexistent", home.path("models/link.gguf")).unwrap();
    let ran = home.run(&["list"]).done();
    let line = |name: &str| -> Vec<&str> {
        let mut lines = ran.stdout.lines().filter(|l| l.split_whitespace().next() == Some(name));
        let line = lines.next().unwrap_or_else(|| panic!("{name}: {}", ran.stdout));
        assert_eq!(lines.next(), None);
        line.split_whitespace().collect()
    };
    for name in ["b", "deep/er/a", "own", "org/r1:f16", "x:latest"] {
        assert!(line(name).contains(&"F16") && line(name).contains(&"deepseek2"), "{name}: {:?}", line(name));
    }
    assert!(
        ran.stdout.lines().any(|l| l.starts_with("bad ") && l.contains("cannot be read")),
        "{}",
        ran.stdout
    );
    assert_eq!(line("x:latest").last(), Some(&"ollama"));
    assert!(ran.stderr.starts_with("note: ") && ran.stderr.lines().count() == 1, "{}", ran.stderr);
    assert!(!ran.stdout.contains("00002") && !ran.stdout.contains("notes"), "{}", ran.stdout);
    let json: serde_json::Value =
        serde_json::from_str(&home.run(&["list", "--json", "deep/"]).done().stdout).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 1);
    assert_eq!((json[0]["name"].as_str(), json[0]["type"].as_str()), (Some("deep/er/a"), Some("F16")));
    assert_eq!(json[0]["bytes"].as_u64(), Some(fs::metadata(model()).unwrap().len()));
    assert!(home.run(&["ls", "nothing of that name"]).done().stderr.contains("no model has"));
    for name in home.names() {
        assert!(name.starts_with("half") || name == "bad" || !home.found(&name).is_empty());
    }
}

#[test]
fn the_setting_models_names_folders_beside_the_file() {
    let home = Home::new();
    home.model("config/fathom/mine/r1.gguf").model("other/r2.gguf");
    home.write("config/fathom/config.toml", "models = ['mine', '~/other']\nmodel = 'r1'\n");
    let run = |args: &[&str]| {
        Ran::new(
            home.command(args).env_remove("FATHOM_MODELS").env_remove("FATHOM_NO_CONFIG").output().unwrap(),
        )
    };
    let ran = run(&["-q", "--temp", "0", "What is 2 + 2?"]).done();
    assert_eq!(ran.stdout, "2 + 2 = 4\n");
    run(&["show", "-m", "r2"]).done();
    let ran = run(&["show", "-m", "r3"]).failed(1, "there is no model 'r3'");
    assert!(ran.stderr.contains("mine") && ran.stderr.contains("near are r1, r2"), "{}", ran.stderr);
}

#[test]
#[cfg(feature = "bundled")]
fn the_model_in_the_binary_has_a_name() {
    let home = Home::new();
    let ran = home.run(&["-m", "tiny-r1", "--temp", "0", "What is 2 + 2?"]).done();
    assert_eq!(ran.stdout, "2 + 2 = 4\n");
    assert!(!ran.stderr.contains("no model is named"), "{}", ran.stderr);
    let ran = home.run(&["tiny-r1", "--temp", "0", "What is 2 + 2?"]).done();
    assert_eq!(ran.stdout, "2 + 2 = 4\n");
    let ran = home.run(&["list"]).done();
    assert!(
        ran.stdout.lines().any(|l| l.starts_with("tiny-r1 ") && l.contains("in the binary")),
        "{}",
        ran.stdout
    );
    assert!(ran.stderr.contains("FATHOM_MODELS"), "{}", ran.stderr);
}
