//! `fathom tokenize`: the tokens of a text.

use std::fmt::Write;

use models::tokenizer::{Encode, Tokenizer};
use serde::Serialize;

use crate::cli::args::TokenizeArgs;
use crate::cli::lookup::Lookup;
use crate::failure::{Outcome, Result};
use crate::{model, streams};

/// What a token stands for. Not every token is whole characters; those that are not come as bytes.
#[derive(Debug, PartialEq, Serialize)]
#[serde(untagged)]
enum Piece<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
}

#[derive(Serialize)]
struct Tokens<'a> {
    ids: &'a [u32],
    pieces: Vec<Piece<'a>>,
}

impl<'a> Piece<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        std::str::from_utf8(bytes).map_or(Piece::Bytes(bytes), Piece::Text)
    }
}

/// Prints the tokens of a text, one a line with what it stands for as JSON, or all as JSON.
///
/// # Errors
/// If the text cannot be read or the tokenizer is of an unknown kind.
pub fn tokenize(args: &TokenizeArgs, lookup: &Lookup) -> Result<Outcome> {
    let (source, text) = super::text(&args.text, lookup)?;
    model::announce(&source);
    let tokenizer = Tokenizer::from_gguf(model::open(&source)?.metadata())?;
    let how = Encode { add_special: args.add_special, parse_special: args.text.parse_special };
    let ids = tokenizer.encode(&text, how);
    let pieces = ids.iter().map(|&id| Piece::new(tokenizer.piece(id)));
    let printed = if args.json {
        let tokens = Tokens { ids: &ids, pieces: pieces.collect() };
        serde_json::to_string(&tokens)? + "\n"
    } else {
        let mut lines = String::new();
        for (id, piece) in ids.iter().zip(pieces) {
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "{id}\t{}", serde_json::to_string(&piece)?);
        }
        lines
    };
    streams::print(&printed)?;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_that_are_no_characters_come_as_bytes() {
        let json = |bytes| serde_json::to_string(&Piece::new(bytes)).unwrap();
        assert_eq!(json(b" the"), "\" the\"");
        assert_eq!(json(b"\xe6\xa8"), "[230,168]");
        assert_eq!(json(b"\t\""), "\"\\t\\\"\"");
    }
}
