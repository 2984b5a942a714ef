//! The binary from outside: streams, modes, exit codes, commands, terminals.

mod bench;
mod commands;
mod completion;
mod devices;
mod errors;
mod forms;
mod loading;
mod models;
mod modes;
mod quantize;
mod saved;
mod settings;
mod snapshots;
mod streams;
#[cfg(unix)]
mod terminal;

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::OnceLock;

use fathom_testing::fixtures;

/// The binary with a model for those who name none, without what the environment of the tests might tell it.
fn fathom() -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fathom"));
    let ours = |name: &str| name.starts_with("FATHOM_") && name != "FATHOM_CPU";
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(ours)) {
        command.env_remove(name);
    }
    for name in ["NO_COLOR", "CLICOLOR_FORCE", "HF_HOME", "HUGGINGFACE_HUB_CACHE"] {
        command.env_remove(name);
    }
    command.env("FATHOM_NO_CONFIG", "1");
    for name in ["XDG_CONFIG_HOME", "HF_HUB_CACHE", "OLLAMA_MODELS"] {
        command.env(name, "/nonexistent");
    }
    if !cfg!(feature = "bundled") {
        command.env("FATHOM_MODEL", model());
    }
    command.stdin(Stdio::null());
    command
}

/// What came of running the binary.
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn new(output: Output) -> Self {
        Ran {
            code: output.status.code(),
            // Output is whole UTF-8 whatever happens.
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Checks that it did what it should.
    #[track_caller]
    fn done(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// Checks that it failed with one line that holds `what` and one of advice, and no output.
    #[track_caller]
    fn failed(self, code: i32, what: &str) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        let errors: Vec<&str> = self.stderr.lines().filter(|l| l.starts_with("error: ")).collect();
        assert!(errors.len() == 1 && errors[0].contains(what), "{}", self.stderr);
        assert_eq!(self.stderr.lines().filter(|l| l.starts_with("hint: ")).count(), 1, "{}", self.stderr);
        for noise in ["panicked", "Usage", "RUST_BACKTRACE"] {
            assert!(!self.stderr.contains(noise), "{}", self.stderr);
        }
        assert_eq!(self.stdout, "");
        self
    }
}

fn run(args: &[&str]) -> Ran {
    Ran::new(fathom().args(args).output().unwrap())
}

/// With text on standard input.
fn run_with(args: &[&str], stdin: &str) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "stdin", stdin);
    let file = std::fs::File::open(path).unwrap();
    Ran::new(fathom().args(args).stdin(file).output().unwrap())
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// The path of tiny-r1 in F16.
fn model() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| fixtures::tiny_r1().f16.into_os_string().into_string().unwrap())
}

/// A sum that tiny-r1 can do, always answered the same.
const SUM: [&str; 3] = ["--temp", "0", "What is 47 + 85?"];
