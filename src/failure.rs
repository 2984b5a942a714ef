//! How a command ends, and how it says what went wrong: one line for what it is, one for what to do.

use std::error::Error;
use std::process::ExitCode;

use ggml_sys::gguf;

/// How a command that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what was asked for.
    Done,
    /// It ran to its end without a result, and has said why.
    Fruitless,
    /// Ctrl-C stopped it; what there was has been written.
    Interrupted,
}

/// Why a command ends without having done its work.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Failed,
    Usage,
    /// Whoever read the output has gone. Nothing is wrong, there is only nothing left to do.
    ClosedPipe,
}

/// Result of everything in the binary.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// Something went wrong that could have gone well: exit code 1.
    pub fn new(message: impl Into<String>) -> Self {
        Failure { kind: Kind::Failed, message: message.into(), hint: None }
    }

    /// What was asked for makes no sense: exit code 2.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Failure { kind: Kind::Usage, message: message.into(), hint: Some(hint.into()) }
    }

    /// The reader of the output has closed it: exit code 0, nothing is said.
    pub fn closed_pipe() -> Self {
        Failure { kind: Kind::ClosedPipe, message: String::new(), hint: None }
    }

    /// Adds what to do about it, unless that is said already.
    pub fn or_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Adds more advice to what is there.
    pub fn and_hint(mut self, more: &str) -> Self {
        self.hint = Some(match self.hint {
            Some(hint) => format!("{hint}; {more}"),
            None => more.into(),
        });
        self
    }

    /// Says before it where it is.
    pub fn before(mut self, place: &str) -> Self {
        self.message.insert_str(0, place);
        self
    }

    /// The same, but because of what was typed: exit code 2.
    pub fn into_usage(mut self) -> Self {
        self.kind = Kind::Usage;
        self
    }

    /// What the shell gets to know.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            Kind::ClosedPipe => 0,
            Kind::Failed => 1,
            Kind::Usage => 2,
        })
    }

    /// The line for what went wrong; `None` if there is nothing to say.
    pub fn message(&self) -> Option<&str> {
        (self.kind != Kind::ClosedPipe).then_some(&self.message)
    }

    /// The line for what to do.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

/// The error and what caused it, on one line.
impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut failure = Failure::new(error.to_string());
        let mut advice = hint(&error);
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Most errors of ours quote their cause.
            if !failure.message.contains(&text) {
                failure.message = format!("{}: {text}", failure.message);
            }
            advice = advice.or_else(|| hint(cause));
            source = cause.source();
        }
        failure.hint = advice.map(str::to_owned);
        failure
    }
}

/// What to do about a model that cannot be used.
fn hint(error: &(dyn Error + 'static)) -> Option<&'static str> {
    if let Some(error) = error.downcast_ref::<gguf::Error>() {
        return Some(file_hint(error));
    }
    if let Some(error) = error.downcast_ref::<quantize::Error>() {
        return Some(output_hint(error));
    }
    // The file's errors are transparent in these two: they do not turn up among the causes.
    Some(match error.downcast_ref::<models::Error>()? {
        models::Error::File(error) => file_hint(error),
        models::Error::Architecture { .. } => "choose a model of one of these architectures",
        models::Error::MissingTensor { .. }
        | models::Error::TensorShape { .. }
        | models::Error::Config { .. } => DAMAGED,
        models::Error::ContextFull { .. } => "ask for more context with -c",
        models::Error::Grammar(_) | models::Error::Constraint(_) => {
            "make it simpler; docs/grammars.md has examples"
        }
        models::Error::Threads(_) => "use fewer threads with -t",
        _ => "a smaller -c or -ub takes less memory; other cache types are given by -ctk and -ctv",
    })
}

/// What to do about a file that cannot be written.
fn output_hint(error: &quantize::Error) -> &'static str {
    use quantize::Error as E;
    match error {
        E::File(error) => file_hint(error),
        E::Folder(_) => "see that the folder is complete; llama.cpp's converter reads models of other kinds",
        E::UnknownType { .. } | E::UnknownMix { .. } | E::NoEncoder { .. } => "choose one of them",
        E::NeedsImportance { .. } => {
            "give one with --imatrix ('fathom imatrix' makes it), or the tensor another type with --tensor-type"
        }
        E::Pattern { .. } => "'fathom show --tensors' lists the names",
        E::Importance { .. } => "make one of this model with 'fathom imatrix'",
        E::Exists(_) => "--force replaces it",
        E::NotAFile(_) | E::Input(_) => "name another file to write",
        E::Busy(_) => "wait for it, or name another file",
        E::NoSpace { .. } => "make room, or name a file on another disk",
        E::Threads { .. } => "use fewer with -t",
        _ => "try again",
    }
}

const DAMAGED: &str = "the file is damaged or made by a faulty converter: fetch it again";

fn file_hint(error: &gguf::Error) -> &'static str {
    use gguf::ErrorKind as K;
    match error.kind() {
        K::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => "check the path",
        K::Io { .. } => "check the path, its permissions and the space on its disk",
        K::NotGguf(_) => "fathom runs GGUF files, as llama.cpp and ollama do",
        K::CutShort { .. } => "the download is not complete: fetch the file again",
        K::Shards(_) => "put all shards of the model into one folder and name the first",
        K::Version(_) | K::MissingKey { .. } => "the file comes from a converter that fathom does not know",
        _ => DAMAGED,
    }
}

impl Outcome {
    /// What the shell gets to know.
    pub fn code(self) -> ExitCode {
        ExitCode::from(match self {
            Outcome::Done => 0,
            Outcome::Fruitless => 1,
            Outcome::Interrupted => 130,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[test]
    fn causes_are_told_once_and_on_one_line() {
        #[derive(Debug)]
        struct Outer(std::io::Error);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("cannot read it")
            }
        }
        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let failure = Failure::from(Outer(std::io::Error::other("disk on fire")));
        assert_eq!(failure.message(), Some("cannot read it: disk on fire"));
        assert_eq!(failure.hint(), None);
    }

    #[test]
    fn a_closed_pipe_is_no_failure_to_talk_about() {
        assert_eq!(Failure::closed_pipe().message(), None);
        assert_eq!(format!("{:?}", Failure::closed_pipe().code()), format!("{:?}", ExitCode::from(0)));
    }

    #[test]
    fn files_that_cannot_be_used_come_with_advice() {
        let missing = gguf::Gguf::open("no such file.gguf".as_ref()).map(drop).map_err(Failure::from);
        let failure = missing.unwrap_err();
        assert!(failure.message().is_some_and(|m| m.contains("no such file.gguf")));
        assert!(failure.hint().is_some_and(|h| h.contains("path")));
    }
}
