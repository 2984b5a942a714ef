//! Standard output: data only, flushed piece by piece; a reader that has gone is no error.

use std::io::{self, ErrorKind, Write};

use crate::failure::{Failure, Result};

/// Makes of an error of standard output what it means for the command.
pub fn written(result: io::Result<()>) -> Result<()> {
    result.map_err(|e| match e.kind() {
        ErrorKind::BrokenPipe => Failure::closed_pipe(),
        _ => Failure::new(format!("cannot write to standard output: {e}"))
            .or_hint("check what standard output is directed to"),
    })
}

/// Writes a whole text to standard output.
///
/// # Errors
/// If it is closed or full.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    written(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// Text for a terminal: control characters, which could move the cursor or worse, are replaced.
pub fn harmless(text: &str) -> String {
    let replace = |c: char| match c {
        '\n' | '\t' => c,
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    // A terminal needs no carriage return.
    text.chars().filter(|c| *c != '\r').map(replace).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_has_gone_is_no_failure_and_a_full_disk_is() {
        let gone = written(Err(ErrorKind::BrokenPipe.into())).unwrap_err();
        assert_eq!(gone.message(), None);
        let full = written(Err(ErrorKind::StorageFull.into())).unwrap_err();
        assert!(full.message().is_some() && full.hint().is_some());
    }

    #[test]
    fn what_a_model_writes_does_not_steer_the_terminal() {
        assert_eq!(harmless("a\x1b[2J\u{9b}b\n\tc\r\n模"), "a\u{fffd}[2J\u{fffd}b\n\tc\n模");
    }
}
