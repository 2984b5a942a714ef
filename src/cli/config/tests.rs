use std::fs;

use clap::Parser;

use super::*;
use crate::cli::parse;

fn file(text: &str) -> Result<File> {
    file::parse("c.toml".as_ref(), text, &Table::new(), Some("/h".as_ref()))
}

#[track_caller]
fn refused(text: &str) -> String {
    let failure = file(text).unwrap_err();
    assert_eq!(format!("{:?}", failure.code()), format!("{:?}", std::process::ExitCode::from(2)));
    format!("{}; {}", failure.message().unwrap(), failure.hint().unwrap())
}

#[test]
fn a_file_has_settings_and_profiles() {
    let file = super::file::parse(
        "/c/c.toml".as_ref(),
        "model = '~/m.gguf'\ntemp = 1\ntop_p = 0.5\nhistory = false\nmodels = ['~/a', 'b']\n\
         default-profile = 'coder'\nprofile.x.ctx = 4096\nprofile.coder = { system = \"be\\nterse\", stats = true }\n",
        &Table::new(),
        Some("/h".as_ref()),
    )
    .unwrap();
    let words = |entries: &[Entry]| {
        entries.iter().map(|e| format!("{} {}:{}", e.line, e.key, e.words.join("|"))).collect::<Vec<_>>()
    };
    assert_eq!(
        words(&file.entries),
        ["1 model:/h/m.gguf", "2 temp:1", "3 top-p:0.5", "4 history:false", "5 models:/h/a|/c/b"]
    );
    assert_eq!(file.default_profile, Some(("coder".into(), 6)));
    assert_eq!(words(&file.profile("x").unwrap().entries), ["7 ctx-size:4096"]);
    assert_eq!(words(&file.profile("coder").unwrap().entries), ["8 system-prompt:be\nterse", "8 stats:true"]);
}

#[test]
fn what_is_wrong_in_a_file_is_said_with_its_line() {
    for (text, says) in [
        ("\n\ntmep = 1", "c.toml:3: there is no setting 'tmep'; nearest is temp"),
        ("[profile.a]\ntmep = 1", "c.toml:2: there is no setting 'tmep'; nearest is temp"),
        ("a.b = 1", "c.toml:1: there is no setting 'a'"),
        ("temp = 200", "c.toml:1: temp is 200; it can be 0 to 100"),
        ("temp = 'warm'", "c.toml:1: temp is 'warm'; it takes a number"),
        ("temp = true", "c.toml:1: temp is true; it is a number"),
        ("temp = nan", "c.toml:1: temp is NaN; it can be 0 to 100"),
        ("temp = 1979-05-27", "c.toml:1: temp is a date"),
        ("temp = [1]", "c.toml:1: temp is a list"),
        ("[temp]", "c.toml:1: temp is a table"),
        ("top-k = 1.5", "c.toml:1: top-k is '1.5'; it takes a number"),
        ("stats = 'yes'", "c.toml:1: stats is a text; it can be true or false"),
        ("verbose = 7", "c.toml:1: verbose is a whole number; it can be 0 to 3"),
        ("think = 'loud'", "c.toml:1: think is 'loud'; it can be show, hide or raw"),
        ("models = [1]", "c.toml:1: models is a list; it is a list of folders"),
        ("model = ''", "c.toml:1: model is a text; it is the name of a model"),
        ("top-p = 1\n\ntop_p = 1", "c.toml:3: top-p is set a second time, after line 1"),
        ("temp = 1\ntemp = 2", "c.toml:2: duplicate key"),
        ("temp 1", "c.toml:1: "),
        ("temp = 1 # \u{0}", "c.toml:1: "),
        ("profile = 'coder'", "c.toml:1: profile is no table of profiles; [profile.NAME] begins one"),
        ("profile = 'a'\n[profile.a]", "default-profile = \"NAME\" is the profile to use"),
        ("[profile.none]", "c.toml:1: no profile can be called 'none'"),
        ("[profile]\na = 1", "c.toml:2: the profile a is no table"),
        ("default-profile = 1", "c.toml:1: default-profile is no text"),
        (
            "default-profile = 'codr'\n[profile.coder]",
            "c.toml:1: there is no profile 'codr'; c.toml has coder",
        ),
    ] {
        let said = refused(text);
        assert!(said.contains(says), "{text:?}: {said}");
        assert!(!said.contains('\n'), "{said}");
    }
    assert!(refused(&format!("a = {}1{}", "[".repeat(5000), "]".repeat(5000))).starts_with("c.toml:1: "));
}

#[test]
fn every_beginning_of_a_file_is_read_or_refused() {
    let text = "model = '模型'\nstop = [\"é\\n\", 'b']\nprofile.x = { ctx = 4_096, temp = 1e-1 } # ü\n\
                [profile.\"ä b\"]\nsystem = \"\"\"\n日本\n\"\"\"\ndefault-profile = 1979-05-27T07:32:00Z\n";
    let dir = tempfile::tempdir().unwrap();
    let (path, table) = (dir.path().join("c.toml"), Table::new());
    let mut read = 0;
    for end in (0..=text.len()).filter(|at| text.is_char_boundary(*at)) {
        let parsed = file(&text[..end]);
        read += usize::from(parsed.is_ok());
        if let Err(failure) = parsed {
            assert!(
                failure.message().unwrap().starts_with("c.toml:") && failure.hint().is_some(),
                "{failure:?}"
            );
        }
        if end % 4 != 0 {
            continue;
        }
        fs::write(&path, &text[..end]).unwrap();
        if let Ok(mut edit) = edit::Edit::open(&path, &table) {
            // Of what is TOML, each change is TOML again.
            let _ = edit.set(Some("x"), "temp", &["0.5".into()]);
            let _ = edit.unset(None, "model");
            edit.save().unwrap();
            edit::Edit::open(&path, &table).map(drop).unwrap();
        }
    }
    assert!(read > 5, "{read}");
}

#[test]
fn files_that_cannot_be_read_are_usage_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("latin"), b"temp = 1\nsystem = 'caf\xe9'").unwrap();
    fs::write(path("huge"), vec![b'#'; (1 << 20) + 1]).unwrap();
    for (name, says) in
        [("latin", "latin:2: this is no UTF-8"), ("huge", "larger than 1 MiB"), ("", "cannot read")]
    {
        let failure = file::read(&path(name)).unwrap_err();
        assert!(failure.message().unwrap().contains(says), "{failure:?}");
        assert!(failure.hint().is_some());
    }
    assert_eq!(file::read(&path("missing")).unwrap(), None);
}

/// The settings of a command line with an environment and a file.
fn config(args: &[&str], env: &[(&str, &str)], text: &str) -> Config {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap();
    let args = args.iter().map(|a| OsString::from(a.replace("FILE", path)));
    let env = |name: &str| match name {
        "FATHOM_CONFIG" => Some(path.into()),
        _ => env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()),
    };
    match parse::parse(args, env).unwrap() {
        parse::Parsed::Run(asked) => asked.config,
        parse::Parsed::Print(_) => panic!(),
    }
}

#[test]
fn an_option_counts_before_the_environment_the_profile_and_the_file() {
    let text =
        "temp = 0.1\ntop-k = 1\ntop-p = 0.1\nmin-p = 0.1\n[profile.a]\ntemp = 0.2\ntop-k = 2\ntop-p = 0.2\n";
    let config = config(
        &["run", "--profile", "a", "--temp", "0.4", "hi"],
        &[("FATHOM_TEMP", "0.3"), ("FATHOM_TOP_K", "3")],
        text,
    );
    let said = |key: &str| {
        let value = config.get(key).unwrap();
        let from = match &value.origin {
            Origin::Flag(name) | Origin::Variable(name) => name.clone(),
            Origin::Line { line, profile, .. } => format!("{profile:?} {line}"),
        };
        (value.words.join(" "), from)
    };
    assert_eq!(said("temp"), ("0.4".into(), "--temp".into()));
    assert_eq!(said("top-k"), ("3".into(), "FATHOM_TOP_K".into()));
    assert_eq!(said("top-p"), ("0.2".into(), "Some(\"a\") 8".into()));
    assert_eq!(said("min-p"), ("0.1".into(), "None 4".into()));
}

#[test]
fn profiles_are_chosen_by_the_option_the_environment_or_the_file() {
    let text = "default-profile = 'a'\n[profile.a]\n[profile.b]\n[profile.c]\n";
    let name = |args: &[&str], env: &[(&str, &str)]| config(args, env, text).profile.map(|(name, _)| name);
    assert_eq!(name(&["x"], &[]).as_deref(), Some("a"));
    assert_eq!(name(&["x"], &[("FATHOM_PROFILE", "b")]).as_deref(), Some("b"));
    assert_eq!(name(&["--profile", "c", "run", "x"], &[("FATHOM_PROFILE", "b")]).as_deref(), Some("c"));
    assert_eq!(name(&["--profile", "none", "x"], &[("FATHOM_PROFILE", "b")]), None);
    assert_eq!(name(&["x"], &[("FATHOM_PROFILE", "none")]), None);
}

#[test]
fn a_flag_of_the_file_can_be_taken_back() {
    let text = "stats = true\nhistory = false\n";
    let run = |args: &[&str], env: &[(&str, &str)]| {
        let config = config(args, env, text);
        ["stats", "history"].map(|key| config.get(key).unwrap().words[0] == "true")
    };
    assert_eq!(run(&["x"], &[]), [true, false]);
    assert_eq!(run(&["--no-stats", "--history", "x"], &[]), [false, true]);
    assert_eq!(run(&["x"], &[("FATHOM_STATS", "0"), ("FATHOM_NO_HISTORY", "0")]), [false, true]);
}

#[test]
fn a_measurement_takes_nothing_from_the_file_that_changes_it() {
    let text = "ctx-size = 4096\nthreads = 2\n";
    let taken = |args: &[&str]| {
        let config = config(args, &[], text);
        ["ctx-size", "threads"].map(|key| config.get(key).is_some())
    };
    assert_eq!(taken(&["show"]), [true, true]);
    assert_eq!(taken(&["perplexity", "x"]), [false, true]);
    assert_eq!(taken(&["bench"]), [false, true]);
}

#[test]
fn what_is_typed_is_not_contradicted_by_the_file() {
    let additions = |args: &[&str]| {
        let args = [&["fathom"], args].concat();
        let matches = parse::definition().try_get_matches_from(args).unwrap();
        let (command, given) = matches.subcommand().unwrap();
        let global = crate::cli::args::Cli::parse_from(["fathom", "man"]).global;
        let sources = Sources { command, given, env: &|_| None, global: &global };
        let values = [("system-prompt", "be terse"), ("format", "json")].map(|(key, word)| Value {
            key: key.into(),
            words: vec![word.into()],
            origin: Origin::Variable(key.into()),
        });
        let config = Config { values: values.into(), ..Config::default() };
        config.additions(&Table::new(), &sources)
    };
    assert_eq!(additions(&["run", "x"]), ["--system-prompt=be terse", "--format=json"]);
    assert_eq!(additions(&["run", "--raw", "x"]), ["--format=json"]);
    assert_eq!(additions(&["run", "--messages", "x"]), ["--format=json"]);
    assert_eq!(additions(&["chat"]), ["--system-prompt=be terse"]);
    assert_eq!(additions(&["show"]), [""; 0]);
}

#[test]
fn rules_for_answers_are_files_beside_the_settings_and_the_first_rules_count() {
    let text = "json-schema = 'a.json'\nignore-eos = true\n[profile.a]\ngrammar = 'start: \"x\"'\n";
    let file = super::file::parse("/c/c.toml".as_ref(), text, &Table::new(), None).unwrap();
    assert_eq!(file.entries[0].words, ["/c/a.json"]);
    assert_eq!(file.profiles[0].entries[0].words, ["start: \"x\""]);
    let taken = |args: &[&str]| {
        let config = config(args, &[], text);
        let all = config.values.iter().filter(|v| RIVALS.contains(&v.key.as_str()) && !config.has_rival(v));
        all.map(|v| v.key.clone()).collect::<Vec<_>>()
    };
    assert_eq!(taken(&["config", "--profile", "a"]), ["grammar"]);
    assert_eq!(taken(&["config", "--profile", "a", "--ignore-eos"]), ["ignore-eos"]);
    assert_eq!(
        taken(&["config", "--profile", "a", "--json-schema", "{}", "--no-ignore-eos"]),
        ["json-schema", "ignore-eos"]
    );
}

#[test]
fn variables_that_set_nothing_are_found() {
    let names = ["FATHOM_TMEP", "FATHOM_TEMP", "FATHOM_CPU", "FATHOM_SYSTEM", "FATHOM_STYLE", "HOME"];
    let unknown = unknown_variables(&Table::new(), names.iter().map(|n| (*n).to_owned()));
    assert_eq!(unknown, [("FATHOM_TMEP".to_owned(), "FATHOM_TEMP".to_owned())]);
}

#[test]
fn a_change_leaves_the_rest_of_the_file_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/config.toml");
    let table = Table::new();
    let change = |profile: Option<&str>, key: &str, words: &[&str]| {
        let mut edit = edit::Edit::open(&path, &table).unwrap();
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        if words.is_empty() {
            assert!(edit.unset(profile, key).unwrap());
        } else {
            edit.set(profile, key, &words).unwrap();
        }
        edit.save().unwrap();
        fs::read_to_string(&path).unwrap()
    };
    assert_eq!(change(None, "temp", &["0.5"]), "temp = 0.5\n");
    fs::write(&path, "# mine\ntop_p = 0.9  # high\n\n[profile.a] # first\nno-stats = true\nsystem = 'x'\n")
        .unwrap();
    assert_eq!(
        change(None, "top-p", &["1"]),
        "# mine\ntop_p = 1  # high\n\n[profile.a] # first\nno-stats = true\nsystem = 'x'\n"
    );
    assert_eq!(
        change(Some("a"), "stats", &["on"]),
        "# mine\ntop_p = 1  # high\n\n[profile.a] # first\nsystem = 'x'\nstats = true\n"
    );
    assert_eq!(
        change(Some("b"), "system", &["say \"hi\"\n"]),
        "# mine\ntop_p = 1  # high\n\n[profile.a] # first\nsystem = 'x'\nstats = true\n\n[profile.b]\n\
         system-prompt = \"\"\"\nsay \"hi\"\n\"\"\"\n"
    );
    change(None, "default_profile", &["b"]);
    change(None, "models", &["/a", "/b"]);
    change(Some("a"), "system-prompt", &[]);
    let text = change(Some("a"), "stats", &[]);
    let file = file::parse(&path, &text, &table, None).unwrap();
    assert_eq!(file.default_profile.unwrap().0, "b");
    assert_eq!(file.entries[1].words, ["/a", "/b"]);
    assert_eq!(file.profiles[1].entries[0].words, ["say \"hi\"\n"]);
    assert!(file.profiles[0].entries.is_empty());
    assert!(text.starts_with("# mine\ntop_p = 1  # high\n"), "{text}");
    let mut edit = edit::Edit::open(&path, &table).unwrap();
    for (profile, key, words) in [
        (None, "tmep", vec!["1".to_owned()]),
        (None, "temp", vec!["warm".to_owned()]),
        (None, "temp", vec!["1".to_owned(), "2".to_owned()]),
        (None, "default-profile", vec!["c".to_owned()]),
        (Some("none"), "temp", vec!["1".to_owned()]),
    ] {
        assert!(edit.set(profile, key, &words).is_err(), "{key}");
    }
    assert!(edit.unset(Some("c"), "temp").is_err() && edit.unset(None, "nonsense").is_err());
    assert!(!edit.unset(None, "temp").unwrap());
}

#[test]
#[cfg(unix)]
fn a_change_follows_a_link_and_keeps_the_permissions() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let dir = tempfile::tempdir().unwrap();
    let (real, link) = (dir.path().join("real"), dir.path().join("config.toml"));
    fs::write(&real, "").unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o600)).unwrap();
    symlink(&real, &link).unwrap();
    let table = Table::new();
    let mut edit = edit::Edit::open(&link, &table).unwrap();
    edit.set(None, "temp", &["1".into()]).unwrap();
    edit.save().unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&real).unwrap(), "temp = 1\n");
    assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}
