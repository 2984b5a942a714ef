//! What the answer is to be like: a grammar or a JSON schema, from a file or as it is typed.

use std::path::Path;

use models::grammar::{Grammar, Rules};
use models::tokenizer::Tokenizer;

use super::args::GenerationArgs;
use crate::failure::{Failure, Result};
use crate::input;

/// The option that the rules come from, and what they are.
#[derive(Clone, Debug)]
pub struct Form {
    option: &'static str,
    rules: Rules,
}

impl Form {
    /// The grammar or the schema that is asked for, checked as far as that goes without a model.
    ///
    /// # Errors
    /// If it cannot be read or is not sound, or contradicts other options.
    pub fn new(args: &GenerationArgs) -> Result<Option<Self>> {
        let (option, value) = match (&args.json_schema, &args.grammar) {
            (Some(value), _) => ("--json-schema", value),
            (None, Some(value)) => ("--grammar", value),
            (None, None) => return Ok(None),
        };
        let schema = option == "--json-schema";
        if args.ignore_eos {
            let what = format!("{option} says where the answer ends, and --ignore-eos that it does not");
            return Err(Failure::usage(what, "leave one of them out"));
        }
        let text = match is_text(value, schema) {
            true => value.clone(),
            false => input::file(Path::new(value)).map_err(Failure::into_usage)?,
        };
        let form =
            Form { option, rules: if schema { Rules::JsonSchema(text) } else { Rules::Grammar(text) } };
        form.rules.check().map_err(|e| form.unsound(&e))?;
        Ok(Some(form))
    }

    /// The rules for a vocabulary.
    ///
    /// # Errors
    /// If they are not sound for it.
    pub fn compile(&self, tokenizer: &Tokenizer) -> Result<Grammar> {
        self.rules.compile(tokenizer).map_err(|e| self.unsound(&e))
    }

    fn unsound(&self, error: &models::Error) -> Failure {
        let hint = match self.rules {
            Rules::JsonSchema(_) => {
                "https://json-schema.org has the language; docs/grammars.md says what is taken of it"
            }
            Rules::Grammar(_) => "docs/grammars.md has the languages, Lark and GBNF, with examples",
        };
        Failure::usage(format!("{}: {error}", self.option), hint)
    }
}

/// Whether the value is the text itself and not the name of a file: a schema begins with a brace, a grammar has a rule.
pub fn is_text(value: &str, schema: bool) -> bool {
    let start = value.trim_start();
    match schema {
        true => start.is_empty() || start.starts_with('{') || matches!(start.trim_end(), "true" | "false"),
        // A colon may be in the name of a file, too.
        false => {
            start.is_empty() || value.contains('\n') || value.contains(':') && !Path::new(value).exists()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_told_from_names_of_files() {
        for (value, schema, text) in [
            ("{\"type\": \"object\"}", true, true),
            (" {}", true, true),
            ("true", true, true),
            ("person.json", true, false),
            ("schemas/{a}.json", true, false),
            ("start: \"a\"", false, true),
            ("root ::= \"a\"", false, true),
            ("json.gbnf", false, false),
            ("-", false, false),
        ] {
            assert_eq!(is_text(value, schema), text, "{value}");
        }
    }
}
