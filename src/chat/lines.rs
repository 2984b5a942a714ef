//! What the user says, from an editor on a terminal or line by line from elsewhere.

use std::io::{BufRead, IsTerminal, Write};

use super::editor::LineEditor;
use crate::chat::slash;
use crate::failure::Result;
use crate::input::unreadable;

const PROMPT: &str = ">>> ";
/// Where a block goes on.
const MORE: &str = "... ";
/// Begins and ends a block of several lines.
const QUOTES: &str = "\"\"\"";

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// Something to say, or a command.
    Text(String),
    /// What stood between triple quotes: something to say whatever it begins with.
    Block(String),
    /// Ctrl-C: whatever was typed is dropped.
    Dropped,
    End,
}

/// A source of input.
pub enum Lines {
    Editor(Box<LineEditor>),
    /// Standard input as it comes. The prompt is shown if somebody types there.
    Plain {
        prompt: bool,
        from: Box<dyn BufRead>,
    },
}

impl Lines {
    /// An editor if both ends are a terminal.
    ///
    /// # Errors
    /// If the terminal cannot be used.
    pub fn new(keep_history: bool) -> Result<Self> {
        let stdin_is_terminal = std::io::stdin().is_terminal();
        if !(stdin_is_terminal && std::io::stdout().is_terminal()) {
            let prompt = stdin_is_terminal && std::io::stderr().is_terminal();
            return Ok(Lines::Plain { prompt, from: Box::new(std::io::stdin().lock()) });
        }
        Ok(Lines::Editor(Box::new(LineEditor::new(keep_history)?)))
    }

    /// The next input: a line, several that came as one, or a block between triple quotes.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn next(&mut self) -> Result<Input> {
        let mut text = match self.read(PROMPT)? {
            Input::Text(line) => line,
            other => return Ok(other),
        };
        let Some(start) = block(&text) else {
            self.remember(&text);
            return Ok(Input::Text(text));
        };
        while !text[start..].trim_end().ends_with(QUOTES) {
            match self.read(MORE)? {
                Input::Text(line) => text = text + "\n" + &line,
                // The block ends with the input; the next reading will say so again.
                Input::End => text += QUOTES,
                other => return Ok(other),
            }
        }
        self.remember(&text);
        Ok(match text.trim_start().starts_with('/') {
            true => Input::Text(text),
            false => {
                Input::Block(text[start..].trim_end().trim_end_matches(QUOTES).trim_matches('\n').to_owned())
            }
        })
    }

    fn read(&mut self, prompt: &str) -> Result<Input> {
        match self {
            Lines::Editor(editor) => editor.read(prompt),
            Lines::Plain { prompt: shown, from } => {
                if *shown {
                    let _ = std::io::stderr().write_all(prompt.as_bytes());
                }
                let mut line = String::new();
                let n = from.read_line(&mut line);
                let n = n.map_err(|e| unreadable(&e))?;
                let line = line.strip_suffix('\n').unwrap_or(&line);
                let line = line.strip_suffix('\r').unwrap_or(line);
                Ok(if n == 0 { Input::End } else { Input::Text(line.into()) })
            }
        }
    }

    fn remember(&mut self, text: &str) {
        if let Lines::Editor(editor) = self {
            editor.remember(text);
        }
    }
}

/// Where the text of a block begins, if the line opens one: at its start, or as a system prompt.
fn block(line: &str) -> Option<usize> {
    let system = || {
        let (name, rest) = line.trim_start().strip_prefix('/')?.split_once(char::is_whitespace)?;
        slash::entry(name).filter(|e| e.takes == slash::Takes::Setting)?;
        rest.trim_start().strip_prefix("system").map(str::trim_start)
    };
    let from = [Some(line.trim_start()), system()].into_iter().flatten();
    from.filter_map(|text| text.strip_prefix(QUOTES)).map(|rest| line.len() - rest.len()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_begin_a_line_or_a_system_prompt() {
        assert_eq!(block("\"\"\"a"), Some(3));
        assert_eq!(block("  \"\"\""), Some(5));
        assert_eq!(block("/set system \"\"\"You"), Some(15));
        assert_eq!(block("/set temp \"\"\"1"), None);
        assert_eq!(block("say \"\"\"a"), None);
        assert_eq!(block("/show \"\"\""), None);
    }
}
