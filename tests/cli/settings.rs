//! Settings from a file, profiles, and `fathom config`.

use std::path::Path;
use std::process::Command;

use super::{Ran, SUM, fathom, model, write};

/// A home of its own, with a file of settings.
struct Home(tempfile::TempDir);

impl Home {
    fn new(settings: &str) -> Self {
        let home = Home(tempfile::tempdir().unwrap());
        let folder = home.0.path().join("fathom");
        std::fs::create_dir(&folder).unwrap();
        write(&folder, "config.toml", settings);
        home
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self) -> String {
        std::fs::read_to_string(self.path().join("fathom/config.toml")).unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = fathom();
        command
            .env_remove("FATHOM_NO_CONFIG")
            .env("XDG_CONFIG_HOME", self.path())
            .env("HOME", self.path())
            .args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::new(self.command(args).output().unwrap())
    }
}

#[test]
fn an_answer_follows_the_file_and_a_flag_takes_it_back() {
    let home =
        Home::new("temp = 0\nstats = true\nn-predict = 3\n[profile.whole]\nn-predict = -1\nstats = false\n");
    let ran = home.run(&["What is 47 + 85?"]);
    assert!(ran.stderr.contains("3 tokens (-n)") && ran.stderr.contains("tokens/s"), "{}", ran.stderr);
    let ran = home.run(&["--no-stats", "-n", "-1", "What is 47 + 85?"]).done();
    assert_eq!(ran.stdout, "47 + 85 = 132\n");
    assert!(!ran.stderr.contains("tokens/s"), "{}", ran.stderr);
    let ran = home.run(&["--profile", "whole", "What is 47 + 85?"]).done();
    assert_eq!(ran.stdout, "47 + 85 = 132\n");
    assert!(!ran.stderr.contains("tokens/s"), "{}", ran.stderr);
    let ran = home.run(&["--no-config", SUM[0], SUM[1], SUM[2]]).done();
    assert_eq!(ran.stdout, "47 + 85 = 132\n");
}

#[test]
fn a_model_of_the_file_is_used_and_said() {
    let home = Home::new(&format!("[profile.big]\nmodel = '{}'\n[profile.gone]\nmodel = 'gone'\n", model()));
    let run = |profile: &str| home.run(&[&["--profile", profile][..], &SUM].concat());
    let ran = run("big").done();
    assert_eq!(ran.stdout, "47 + 85 = 132\n");
    assert!(
        ran.stderr.contains(model())
            && ran.stderr.contains("profile big, ")
            && ran.stderr.contains("config.toml:2"),
        "{}",
        ran.stderr
    );
    let mut command = home.command(&[&["--profile", "gone"][..], &SUM].concat());
    let ran = Ran::new(command.env("FATHOM_MODEL", model()).output().unwrap()).done();
    assert!(ran.stderr.contains("FATHOM_MODEL counts before model of the profile gone"), "{}", ran.stderr);
    let ran = run("gone").failed(1, "there is no model 'gone'");
    assert!(ran.stderr.contains("profile gone") && ran.stderr.contains("config.toml:4"), "{}", ran.stderr);
    let ran = run("bug").failed(2, "there is no profile 'bug'");
    assert!(ran.stderr.contains("nearest is big") && ran.stderr.contains("gone"), "{}", ran.stderr);
}

#[test]
fn a_wrong_file_is_named_with_its_line_and_does_not_keep_one_from_mending_it() {
    let home = Home::new("temp = 0\ntmep = 1\n");
    let ran = home.run(&SUM).failed(2, "config.toml:2: there is no setting 'tmep'");
    assert!(ran.stderr.contains("nearest is temp"), "{}", ran.stderr);
    home.run(&["show"]).failed(2, "config.toml:2");
    home.run(&["config"]).failed(2, "config.toml:2");
    home.run(&[&["--no-config"][..], &SUM].concat()).done();
    home.run(&["completions", "bash"]).done();
    assert!(home.run(&["config", "path"]).done().stdout.ends_with("fathom/config.toml\n"));
    home.run(&["config", "unset", "tmep"]).done();
    home.run(&SUM).done();
    assert_eq!(home.file(), "temp = 0\n");
}

#[test]
fn files_that_cannot_be_used_are_usage_errors() {
    let home = Home::new("");
    let file = home.path().join("fathom/config.toml");
    std::fs::write(&file, b"\n\xff").unwrap();
    home.run(&SUM).failed(2, "config.toml:2: this is no UTF-8");
    std::fs::write(&file, vec![b'\n'; 2 << 20]).unwrap();
    home.run(&SUM).failed(2, "larger than 1 MiB");
    std::fs::write(&file, "temp = \n").unwrap();
    home.run(&SUM).failed(2, "config.toml:1");
    std::fs::remove_file(&file).unwrap();
    home.run(&SUM).done();
    home.run(&[&["--profile", "x"][..], &SUM].concat()).failed(2, "no profile 'x'");
    std::fs::create_dir(&file).unwrap();
    home.run(&SUM).failed(2, "cannot read the settings");
    home.run(&[&["--config", "/nonexistent/c.toml"][..], &SUM].concat()).failed(2, "/nonexistent/c.toml");
    if cfg!(unix) {
        home.run(&[&["--config", "/dev/zero"][..], &SUM].concat()).failed(2, "larger than 1 MiB");
    }
}

#[test]
fn config_says_who_sets_what() {
    let home = Home::new("temp = 0.1\ntop-p = 0.2\n[profile.a]\ntop-p = 0.3\nthink-budget = 9\n");
    let mut command = home.command(&["config", "--profile", "a", "--top-k", "7", "--json"]);
    command.env("FATHOM_MIN_P", "0.25").env_remove("FATHOM_MODEL");
    let json: serde_json::Value =
        serde_json::from_str(&Ran::new(command.output().unwrap()).done().stdout).unwrap();
    let said = |name: &str| {
        let all = json["settings"].as_array().unwrap();
        let one = all.iter().find(|s| s["name"] == name).unwrap();
        (
            one["value"].clone(),
            one["from"].as_str().unwrap().to_owned(),
            one["by"].clone(),
            one["line"].clone(),
        )
    };
    let null = || serde_json::Value::Null;
    assert_eq!(said("temp"), (0.1.into(), "file".into(), null(), 1.into()));
    assert_eq!(said("top-p"), (0.3.into(), "profile".into(), "a".into(), 4.into()));
    assert_eq!(said("think-budget"), (9.into(), "profile".into(), "a".into(), 5.into()));
    assert_eq!(said("top-k"), (7.into(), "flag".into(), "--top-k".into(), null()));
    assert_eq!(said("min-p"), (0.25.into(), "environment".into(), "FATHOM_MIN_P".into(), null()));
    assert_eq!(said("history"), (true.into(), "default".into(), null(), null()));
    assert_eq!(json["profile"], "a");
    assert!(json["file"].as_str().unwrap().ends_with("config.toml"));
    let text = home.run(&["config"]).done().stdout;
    let line = |name: &str| {
        text.lines().find(|l| l.starts_with(name)).unwrap().split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(line("temp"), ["temp", "0.1", "config.toml:1"]);
    assert_eq!(line("repeat-last-n"), ["repeat-last-n", "64", "default"]);
    assert!(!text.contains('\x1b'), "{text}");
    assert_eq!(home.run(&["config", "get", "top_p"]).done().stdout, "0.2\n");
    assert_eq!(home.run(&["config", "--profile", "a", "get", "top_p"]).done().stdout, "0.3\n");
}

#[test]
#[cfg(feature = "bundled")]
fn config_knows_what_the_model_suggests() {
    let home = Home::new("");
    let text = home.run(&["config"]).done().stdout;
    assert!(text.lines().any(|l| l.starts_with("temp ") && l.ends_with("the model's file")), "{text}");
    let ran = home.run(&["config", "-m", "missing.gguf"]).done();
    assert!(ran.stdout.lines().any(|l| l.starts_with("temp ") && l.ends_with("default")), "{}", ran.stdout);
    assert!(ran.stderr.contains("missing.gguf"), "{}", ran.stderr);
}

#[test]
fn config_changes_the_file_and_says_what_is_in_the_way() {
    let home = Home::new("# my settings\ntemp = 0.5 # warm\n");
    home.run(&["config", "set", "temp", "0"]).done();
    home.run(&["config", "set", "profile.coder.system", "Be terse."]).done();
    home.run(&["config", "set", "--profile", "coder", "think", "hide"]).done();
    let expected = "# my settings\ntemp = 0 # warm\n\n[profile.coder]\nsystem-prompt = \"Be terse.\"\nthink = \"hide\"\n";
    assert_eq!(home.file(), expected);
    for (args, what) in [
        (&["config", "set", "tmep", "1"][..], "there is no setting 'tmep'"),
        (&["config", "set", "temp", "200"], "temp is 200"),
        (&["config", "set", "think", "loud"], "think is 'loud'"),
        (&["config", "set", "temp", "1", "2"], "temp is '1 2'"),
        (&["config", "set", "default-profile", "codr"], "no profile 'codr'"),
        (&["config", "unset", "--profile", "x", "temp"], "no profile 'x'"),
        (&["config", "set", "temp"], "VALUE"),
        (&["config", "get", "x"], "there is no setting 'x'"),
        (&["config", "sett"], "sett"),
    ] {
        home.run(args).failed(2, what);
    }
    assert_eq!(home.file(), expected);
    let ran =
        Ran::new(home.command(&["config", "set", "temp", "1"]).env("FATHOM_TEMP", "0").output().unwrap())
            .done();
    assert!(ran.stderr.contains("FATHOM_TEMP is set in the environment"), "{}", ran.stderr);
    // Paths are those of the current folder; names of models stay as they are.
    let mut set = home.command(&["config", "set", "models", "here", "~/there"]);
    Ran::new(set.current_dir(home.path()).output().unwrap()).done();
    home.run(&["config", "set", "model", "deepseek-r1:7b"]).done();
    let said = home.run(&["config", "get", "models"]).done().stdout;
    assert_eq!(said, format!("{0}/here\n{0}/there\n", home.path().display()));
    assert!(home.file().contains("model = \"deepseek-r1:7b\""), "{}", home.file());
    home.run(&["config", "unset", "model"]).done();
    home.run(&["config", "unset", "models"]).done();
    // Options may stand behind the value, and a number may be below zero.
    home.run(&["config", "set", "seed", "-1", "--profile", "coder"]).done();
    assert!(home.file().ends_with("think = \"hide\"\nseed = -1\n"), "{}", home.file());
    home.run(&["config", "unset", "temp"]).done();
    assert!(!home.file().contains("temp"));
    let ran = Ran::new(home.command(&["config"]).env("FATHOM_TMEP", "1").output().unwrap()).done();
    assert!(ran.stderr.contains("FATHOM_TMEP sets nothing; nearest is FATHOM_TEMP"), "{}", ran.stderr);
}

#[test]
#[cfg(unix)]
fn config_edit_begins_a_file_that_lists_everything_and_checks_it() {
    let home = Home::new("");
    std::fs::remove_file(home.path().join("fathom/config.toml")).unwrap();
    let edit =
        |editor: &str| Ran::new(home.command(&["config", "edit"]).env("VISUAL", editor).output().unwrap());
    edit("true").done();
    assert!(home.file().contains("# temp = 0.6 "), "{}", home.file());
    home.run(&SUM).done();
    edit("sh -c 'echo tmep = 1 > \"$0\"'").failed(2, "config.toml:1: there is no setting 'tmep'");
    edit("false").failed(1, "the editor 'false'");
}

#[test]
fn a_chat_follows_the_file() {
    let home = Home::new("temp = 0\nsystem = 'x'\nformat = 'json'\n");
    let stdin = write(home.path(), "stdin", "What is 2 + 2?\n");
    let mut command = home.command(&["chat"]);
    let ran = Ran::new(command.stdin(std::fs::File::open(stdin).unwrap()).output().unwrap()).done();
    assert!(ran.stdout.contains('4'), "{}", ran.stdout);
    // What is typed is the whole prompt: the file's system prompt is none of it.
    home.run(&["--raw", "--format", "text", "2 + 2"]).done();
}
