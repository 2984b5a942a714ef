//! Options and commands that people know from llama.cpp and ollama, that fathom does not have, and what to do instead.

/// Names, and what to do. Those of several letters behind one dash are `rewrite`'s to refuse, the others clap's.
const OPTIONS: &[(&[&str], &str)] = &[
    (&["-fa", "--flash-attn"], "attention never needs more memory than a tile: leave it out"),
    (&["--jinja", "--chat-template", "--chat-template-file"], TEMPLATE),
    (&["-cnv", "--conversation", "-i", "--interactive", "-if", "--interactive-first"], CHAT),
    (&["-hf", "-hfr", "--hf-repo", "-hff", "--hf-file", "-mu", "--model-url"], DOWNLOAD),
    (&["--warmup", "--no-warmup"], "there is no run to warm up: leave it out"),
    (
        &["-e", "--escape", "--no-escape"],
        "a prompt is taken as it is: the shell's $'a\\nb' makes two lines of it",
    ),
    (&["--no-display-prompt"], "a prompt is never repeated: leave it out"),
    (&["--log-disable", "--log-verbosity"], "--quiet says nothing but errors, --verbose more"),
    (&["-ot", "--override-tensor"], "--cpu-moe and --n-cpu-moe keep experts in host memory"),
    (&["-sm", "--split-mode", "-ts", "--tensor-split", "-mg", "--main-gpu"], SPLIT),
    (&["-nkvo", "--no-kv-offload"], "the cache is where its layer is: -ngl says how many layers GPUs take"),
    (&["--rope-scaling", "--rope-freq-base", "--rope-freq-scale", "--yarn-orig-ctx"], ROPE),
    (
        &["--keep", "--context-shift", "--no-context-shift"],
        "text is never dropped unasked: /forget in a chat makes room",
    ),
    (
        &["-rtr", "-fmoe", "-mla", "--run-time-repack", "--fused-moe"],
        "fathom decides that by itself: leave it out",
    ),
    (
        &["--numa", "--prio", "--poll", "-C", "--cpu-mask"],
        "'taskset' and 'numactl' place threads; -t says how many",
    ),
];

const TEMPLATE: &str = "the file's own template is always rendered: leave it out, or --raw takes none";
const CHAT: &str = "'fathom chat' chats, as does fathom without a prompt in a terminal";
const DOWNLOAD: &str = "fathom downloads nothing: give -m a file, or a name that 'fathom list' has";
const SPLIT: &str = "layers are shared out by free memory: --device names the GPUs to use";
const ROPE: &str = "positions are scaled as the file says: leave it out";

/// What to do instead of an option.
pub fn instead_of_option(option: &str) -> Option<&'static str> {
    let name = option.split('=').next().unwrap_or(option);
    OPTIONS.iter().find(|(names, _)| names.contains(&name)).map(|(_, instead)| *instead)
}

/// What to do instead of a command of ollama's; `words` are the command and what follows.
pub fn instead_of_command(words: &[String]) -> Option<&'static str> {
    match words {
        [command] if command == "serve" => {
            Some("fathom has no server: 'fathom run' and 'fathom chat' answer")
        }
        [command, _name] if command == "pull" => Some(DOWNLOAD),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse;

    #[test]
    fn what_is_advised_against_is_no_option() {
        let definition = parse::definition();
        let known: Vec<String> = definition
            .get_subcommands()
            .flat_map(|c| c.get_arguments())
            .flat_map(|a| {
                let long = a
                    .get_long_and_visible_aliases()
                    .unwrap_or_default()
                    .into_iter()
                    .map(|l| format!("--{l}"));
                let hidden = a.get_all_aliases().unwrap_or_default().into_iter().map(|l| format!("--{l}"));
                long.chain(hidden).chain(a.get_short().map(|s| format!("-{s}"))).collect::<Vec<_>>()
            })
            .collect();
        for (names, instead) in OPTIONS {
            assert!(names.iter().all(|name| !known.iter().any(|k| k == name)), "{names:?}");
            assert_eq!(instead_of_option(&format!("{}=1", names[0])), Some(*instead));
        }
        assert_eq!(instead_of_option("--temp"), None);
    }

    #[test]
    fn commands_of_ollama_are_no_prompts() {
        let instead =
            |prompt: &str| instead_of_command(&prompt.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert!(instead("pull deepseek-r1:7b").is_some() && instead("serve").is_some());
        assert!(instead("serve tea").is_none() && instead("pull").is_none());
    }
}
