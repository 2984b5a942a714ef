//! The file that `fathom config edit` begins with: everything that can be set, commented out.

use std::fmt::Write;

use super::table::{Kind, Setting, Table};

const HEAD: &str = "\
# Settings of fathom. Every option of 'fathom help run' that says how to answer can stand here.
# An option on the command line and a variable FATHOM_… count before this file. 'fathom config' shows what counts.

";

const TAIL: &str = "
# A profile is a set of settings with a name: 'fathom --profile coder'.
# default-profile = \"coder\"   # the one to use without --profile; above the first [ ]
#
# [profile.coder]
# model = \"~/models/DeepSeek-R1-Distill-Qwen-7B-Q4_K_M.gguf\"
# temp = 0.5
# system-prompt = \"You are a careful programmer.\"
";

/// The text of a new file.
pub fn text(table: &Table) -> String {
    let mut out = HEAD.to_owned();
    for setting in table.iter().filter(|s| !s.hidden) {
        let example = format!("# {} = {}", setting.key, example(setting));
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{example:<34} # {}", setting.help);
    }
    out + TAIL
}

/// Values of those settings of which no value is better known than another.
const EXAMPLES: [(&str, &str); 26] = [
    ("system-prompt", "\"You are terse.\""),
    ("n-predict", "2000"),
    ("think-budget", "1000"),
    ("seed", "42"),
    ("temp", "0.6"),
    ("top-k", "40"),
    ("top-p", "0.95"),
    ("min-p", "0.05"),
    ("repeat-penalty", "1.1"),
    ("repeat-last-n", "64"),
    ("presence-penalty", "0.5"),
    ("frequency-penalty", "0.5"),
    ("ctx-size", "8192"),
    ("threads", "4"),
    ("threads-batch", "4"),
    ("batch-size", "2048"),
    ("cache-type-k", "\"q8_0\""),
    ("cache-type-v", "\"q8_0\""),
    ("device", "\"cuda0\""),
    ("gpu-layers", "\"all\""),
    ("n-cpu-moe", "20"),
    ("stream-experts", "\"512\""),
    ("expert-slots", "\"256\""),
    ("stop", "[\"User:\"]"),
    ("json-schema", "\"answer.json\""),
    ("grammar", "\"answer.lark\""),
];

/// A value that the setting can have; of a flag that which its help is about.
fn example(setting: &Setting) -> String {
    if let Some((_, value)) = EXAMPLES.iter().find(|(key, _)| *key == setting.key) {
        return (*value).into();
    }
    match setting.kind {
        Kind::Flag { negated } => (!negated).to_string(),
        Kind::Folders => "[\"~/models\"]".into(),
        Kind::Model => "\"deepseek-r1:7b\"".into(),
        Kind::Many => "[\"…\"]".into(),
        Kind::One if setting.is_text => "\"…\"".into(),
        Kind::One | Kind::Count => setting.values.last().map_or("1".into(), |v| format!("\"{v}\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::config::file;

    #[test]
    fn a_new_file_says_nothing_and_every_line_of_it_could() {
        let table = Table::new();
        let text = text(&table);
        let parse = |text: &str| file::parse("config.toml".as_ref(), text, &table, None);
        assert!(parse(&text).unwrap().entries.is_empty());
        let all: String =
            text.lines().skip(3).map(|l| l.strip_prefix("# ").unwrap_or("").to_owned() + "\n").collect();
        // The profile's own lines and what explains it are no settings.
        let settings = &all[..all.find("A profile is").unwrap()];
        let file = parse(settings).unwrap();
        assert_eq!(file.entries.len(), table.iter().filter(|s| !s.hidden).count());
        assert!(text.lines().all(|l| l.chars().count() <= 130), "{text}");
    }
}
