//! The mode rule: whether to answer once or to chat, decided before anything is read or loaded.
//!
//! A prompt exists (an argument, or standard input that is not a terminal): one turn, then exit. No
//! prompt and both ends a terminal: chat. Anything else is an error, so that fathom never waits
//! silently on a stream that will not come.

use crate::failure::{Failure, Result};

/// Everything the rule looks at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given {
    /// A prompt stands in the arguments or in a file.
    pub prompt: bool,
    /// The prompt is the whole conversation (`--messages`, `--tokens`): nothing goes before it.
    pub complete: bool,
    /// `-`: standard input is the prompt, or a part of it.
    pub force_stdin: bool,
    /// `--no-stdin`.
    pub no_stdin: bool,
    /// `fathom chat`.
    pub chat: bool,
    /// `-st`.
    pub single_turn: bool,
    /// `--format json` or `jsonl`.
    pub machine_readable: bool,
    /// Standard input is a terminal.
    pub stdin_is_terminal: bool,
    /// Standard output is a terminal.
    pub stdout_is_terminal: bool,
}

/// What to do about standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdin {
    /// Read it to its end; it is a part of the prompt.
    Read,
    /// Leave it alone, or to the chat.
    Leave,
}

/// How to go on once the prompt is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Answer once and exit.
    OneShot,
    /// Chat, for one turn only if `single`.
    Chat {
        /// Exit after the first answer.
        single: bool,
    },
}

/// Whether standard input is to be read for the prompt.
///
/// # Errors
/// If the options contradict each other.
pub fn stdin(given: Given) -> Result<Stdin> {
    if given.force_stdin && given.no_stdin {
        return Err(Failure::usage(
            "'-' reads standard input and --no-stdin leaves it alone",
            "leave one of them out",
        ));
    }
    if given.force_stdin && given.chat {
        return Err(Failure::usage(
            "a chat reads its turns from standard input, so '-' cannot be its prompt",
            "use 'fathom run -' to answer once",
        ));
    }
    let read =
        given.force_stdin || !(given.no_stdin || given.complete || given.chat || given.stdin_is_terminal);
    Ok(if read { Stdin::Read } else { Stdin::Leave })
}

/// The mode, once it is known whether standard input, if it was to be read, had anything in it.
///
/// # Errors
/// If there is nothing to answer and nobody to ask.
pub fn mode(given: Given, stdin_had_text: bool) -> Result<Mode> {
    let has_prompt = given.prompt || stdin_had_text;
    if given.chat {
        if given.machine_readable {
            return Err(Failure::usage(
                "a chat has no JSON output",
                "use 'fathom run --format json' with a prompt",
            ));
        }
        if given.no_stdin {
            return Err(Failure::usage(
                "a chat reads its turns from standard input, which --no-stdin leaves alone",
                "leave --no-stdin out, or use 'fathom run'",
            ));
        }
        return Ok(Mode::Chat { single: given.single_turn });
    }
    if has_prompt {
        return Ok(Mode::OneShot);
    }
    let somebody_there = given.stdin_is_terminal && given.stdout_is_terminal && !given.no_stdin;
    if somebody_there && !given.force_stdin && !given.machine_readable {
        return Ok(Mode::Chat { single: given.single_turn });
    }
    Err(Failure::usage(
        "there is no prompt",
        if given.stdin_is_terminal || given.no_stdin {
            "give one as an argument: fathom run \"Why is the sky blue?\""
        } else {
            "standard input is empty; give a prompt there or as an argument"
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All 2^9 states of the rule's inputs.
    fn all() -> impl Iterator<Item = Given> {
        (0..512).map(|bits| {
            let bit = |i: u32| bits >> i & 1 == 1;
            Given {
                prompt: bit(0),
                complete: bit(1) && bit(0),
                force_stdin: bit(2),
                no_stdin: bit(3),
                chat: bit(4),
                single_turn: bit(5),
                machine_readable: bit(6),
                stdin_is_terminal: bit(7),
                stdout_is_terminal: bit(8),
            }
        })
    }

    #[test]
    fn a_terminal_is_read_only_when_forced_and_no_stdin_never() {
        for g in all() {
            let Ok(stdin) = stdin(g) else {
                assert!(g.force_stdin && (g.no_stdin || g.chat));
                continue;
            };
            if stdin == Stdin::Read {
                assert!(!g.no_stdin && !g.chat, "{g:?}");
                assert!(g.force_stdin || !g.stdin_is_terminal && !g.complete, "{g:?}");
            } else {
                assert!(!g.force_stdin, "{g:?}");
                assert!(g.no_stdin || g.chat || g.complete || g.stdin_is_terminal, "{g:?}");
            }
        }
    }

    #[test]
    fn run_with_a_prompt_answers_once() {
        for g in all().filter(|g| !g.chat) {
            for text in [false, true] {
                if g.prompt || text {
                    assert_eq!(mode(g, text).unwrap(), Mode::OneShot, "{g:?}");
                }
            }
        }
    }

    #[test]
    fn run_without_a_prompt_chats_only_with_both_ends_a_terminal() {
        for g in all().filter(|g| !g.chat && !g.prompt) {
            let chats = g.stdin_is_terminal
                && g.stdout_is_terminal
                && !(g.force_stdin || g.no_stdin || g.machine_readable);
            match mode(g, false) {
                Ok(m) => assert!(chats && m == Mode::Chat { single: g.single_turn }, "{g:?}"),
                Err(e) => assert!(!chats && format!("{:?}", e.code()).contains('2'), "{g:?}"),
            }
        }
    }

    #[test]
    fn chat_always_chats() {
        for g in all().filter(|g| g.chat) {
            match mode(g, false) {
                Ok(m) => assert_eq!(m, Mode::Chat { single: g.single_turn }),
                Err(_) => assert!(g.machine_readable || g.no_stdin),
            }
        }
    }
}
