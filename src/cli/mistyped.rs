//! A first word that is no model and nearly a command: `fathom quantise model.gguf Q4_K_M` is no prompt.

use super::habits;
use super::lookup::distance;
use crate::failure::{Failure, Result};

/// Letters of a command that few words of a language resemble.
const LONG: usize = 6;

/// Refuses the first word of a prompt if a command was meant.
///
/// Among several words only the long names count, so that "what is" does not become `chat is`; a word by itself is a prompt seldom
/// enough that two letters in each other's place, or one too many or too few, make it a command.
///
/// # Errors
/// With the command that is meant.
pub fn check<'a>(words: &[String], commands: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let Some(word) = words.first().filter(|word| word.bytes().all(|b| b.is_ascii_lowercase())) else {
        return Ok(());
    };
    let mut commands = commands.into_iter().peekable();
    if let Some(instead) = commands.peek().and_then(|_| habits::instead_of_command(words)) {
        return Err(Failure::usage(format!("there is no command '{word}'"), instead));
    }
    match commands.find(|command| meant(word, command, words.len() == 1)) {
        Some(command) => Err(Failure::usage(
            format!("there is no command '{word}'"),
            format!("nearest is '{command}'; if it is a prompt, put -p before it"),
        )),
        None => Ok(()),
    }
}

fn meant(word: &str, command: &str, alone: bool) -> bool {
    let edits = distance(word, command);
    match command.len() {
        LONG.. => edits <= 1 + usize::from(command.len() > LONG + 1),
        4.. => alone && edits == 1 && (word.len() > command.len() || letters(word) == letters(command)),
        _ => false,
    }
}

fn letters(word: &str) -> Vec<u8> {
    let mut letters = word.as_bytes().to_vec();
    letters.sort_unstable();
    letters
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMANDS: [&str; 8] = ["run", "chat", "quantize", "show", "list", "ls", "config", "man"];

    fn nearest(prompt: &str) -> Option<String> {
        let words: Vec<String> = prompt.split(' ').map(str::to_owned).collect();
        check(&words, COMMANDS).err().map(|failure| failure.hint().unwrap().to_owned())
    }

    #[test]
    fn nearly_a_command_is_no_prompt() {
        for (typed, command) in [
            ("quantise model.gguf q4_k_m", "quantize"),
            ("qantize a b", "quantize"),
            ("confg get temp", "config"),
            ("lsit", "list"),
            ("shwo", "show"),
            ("chatt", "chat"),
        ] {
            assert!(nearest(typed).is_some_and(|hint| hint.contains(&format!("'{command}'"))), "{typed}");
        }
    }

    #[test]
    fn words_of_a_prompt_stay_words() {
        for prompt in [
            "what is love",
            "what",
            "last",
            "show me",
            "lists of kings",
            "rum",
            "May",
            "hello",
            "",
            "slow",
            "42",
        ] {
            assert_eq!(nearest(prompt), None, "{prompt}");
        }
    }
}
