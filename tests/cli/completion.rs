//! What shells complete, with the real scripts.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Ran, fathom, model, write};

/// A home with models whose names hold a colon and a space, and with profiles.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let (store, digest) = (home.path().join("ollama"), "0".repeat(64));
    let manifests = store.join("manifests/registry.ollama.ai/library/deepseek-r1");
    for folder in [&manifests, &store.join("blobs"), &home.path().join("fathom"), &home.path().join("models")]
    {
        fs::create_dir_all(folder).unwrap();
    }
    fs::copy(model(), store.join(format!("blobs/sha256-{digest}"))).unwrap();
    let layer = r#"{"mediaType":"application/vnd.ollama.image.model","digest":"sha256:DIGEST"}"#
        .replace("DIGEST", &digest);
    for tag in ["7b", "14b"] {
        write(&manifests, tag, &format!(r#"{{"layers":[{layer}]}}"#));
    }
    write(&home.path().join("models"), "my model.gguf", "");
    write(&home.path().join("fathom"), "config.toml", "[profile.coder]\n[profile.script]\n");
    home
}

fn with_home(command: &mut Command, home: &Path) {
    command
        .env_remove("FATHOM_NO_CONFIG")
        .env("XDG_CONFIG_HOME", home)
        .env("OLLAMA_MODELS", home.join("ollama"));
    command.env("FATHOM_MODELS", home.join("models")).current_dir(home);
}

#[test]
fn names_of_models_and_profiles_are_offered() {
    let home = home();
    let offered = |words: &[&str]| {
        let mut command = fathom();
        with_home(&mut command, home.path());
        let ran = Ran::new(command.args([&["__complete", "--"], words].concat()).output().unwrap()).done();
        assert_eq!(ran.stderr, "");
        ran.stdout
    };
    assert_eq!(offered(&["-m", "deep"]), "deepseek-r1:14b\tollama\ndeepseek-r1:7b\tollama\n");
    assert_eq!(offered(&["show", "my"]).split('\t').next(), Some("my model"));
    assert_eq!(offered(&["--profile=c"]), "--profile=coder\tprofile\n");
    assert_eq!(offered(&["-f", ""]), "\tfiles\n");
    assert_eq!(offered(&["--nonsense", "-fa", "\u{1b}"]), "");
    // A file that is wrong is no reason to complete nothing.
    write(&home.path().join("fathom"), "config.toml", "tmep = 1");
    assert!(offered(&["-m", "deep"]).starts_with("deepseek-r1:14b"));
}

/// What bash offers behind a line, as it parts it into words.
#[cfg(unix)]
fn in_bash(home: &Path, line: &str, words: &[&str]) -> Option<Vec<String>> {
    let folder = Path::new(env!("CARGO_BIN_EXE_fathom")).parent().unwrap().to_str().unwrap();
    let script = r#"
        PATH=$1:$PATH; COMP_LINE=$2; shift 2
        COMP_POINT=${#COMP_LINE}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_WORDBREAKS=$' \t\n"'\''><=;|&(:'
        eval "$(fathom completions bash)"
        _fathom
        printf '%s\n' "${COMPREPLY[@]}""#;
    // For its environment.
    let ours = fathom();
    let mut command = Command::new("bash");
    for (name, value) in ours.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    with_home(&mut command, home);
    let output = command.args(["--norc", "-c", script, "bash", folder, line]).args(words).output().ok()?;
    Some(
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .filter(|l| !l.is_empty())
            .map(str::to_owned)
            .collect(),
    )
}

#[test]
#[cfg(unix)]
fn the_script_for_bash_completes_names_with_colons_spaces_and_equals_signs() {
    let home = home();
    // What stands before a colon or an equals sign is a word of its own to bash, and is not offered again.
    for (line, words, offered) in [
        ("fathom -m deep", &["fathom", "-m", "deep"][..], &["deepseek-r1:14b", "deepseek-r1:7b"][..]),
        ("fathom -m deepseek-r1:", &["fathom", "-m", "deepseek-r1", ":"], &["14b", "7b"]),
        ("fathom -m deepseek-r1:1", &["fathom", "-m", "deepseek-r1", ":", "1"], &["14b"]),
        ("fathom --model=deepseek-r1:1", &["fathom", "--model", "=", "deepseek-r1", ":", "1"], &["14b"]),
        ("fathom  --model=deep", &["fathom", "--model", "=", "deep"], &["deepseek-r1:14b", "deepseek-r1:7b"]),
        ("fathom show my", &["fathom", "show", "my"], &["my\\ model"]),
        ("fathom show my\\ m", &["fathom", "show", "my\\ m"], &["my\\ model"]),
        ("fathom show \"my", &["fathom", "show", "\"my"], &["my model"]),
        ("fathom --profile ", &["fathom", "--profile", ""], &["coder", "script", "none"]),
        ("fathom -f models/", &["fathom", "-f", "models/"], &["models/my model.gguf"]),
        ("fathom --temp ", &["fathom", "--temp", ""], &[]),
    ] {
        match in_bash(home.path(), line, words) {
            Some(found) => assert_eq!(found, offered, "{line}"),
            None => eprintln!("there is no bash"),
        }
    }
}

#[test]
#[cfg(unix)]
fn the_scripts_for_zsh_and_fish_are_read_by_them() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["zsh", "fish"] {
        let ran = Ran::new(fathom().args(["completions", shell]).output().unwrap()).done();
        assert!(ran.stdout.contains("__complete"), "{}", ran.stdout);
        let script = write(dir.path(), shell, &ran.stdout);
        // Where there is such a shell.
        if let Ok(output) = Command::new(shell).arg("-n").arg(script).output() {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
