//! What is done, noted beside the partial files, so that a run that was killed need not begin again.
//!
//! `OUT.journal` is text. Its first line says what is being done: a hash of everything that the output depends on (the
//! sources by name, size and time, the headers of the new files with all keys, names, types and shapes, the importance
//! matrix, the program). A line follows for each tensor that is complete and on the disk. A last line cut short by a crash
//! counts as none; a first line of other work makes the whole worthless.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::deviation::Deviation;
use crate::error::{Error, Result};

const TITLE: &str = "fathom quantize 1";
const COMPLETE: &str = "complete";

/// A journal that is being kept.
pub(crate) struct Journal {
    path: PathBuf,
    file: Option<File>,
    title: String,
}

/// What a journal says.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Done {
    /// What encoding has cost, for each tensor that is complete.
    pub tensors: Vec<Deviation>,
    /// Whether all are, and the files too.
    pub complete: bool,
}

impl Journal {
    /// The journal of `out` for work of this identity. Nothing is read or written yet.
    pub fn new(out: &Path, identity: u64) -> Journal {
        let mut path = out.as_os_str().to_owned();
        path.push(".journal");
        Journal { path: path.into(), file: None, title: format!("{TITLE} {identity:016x}") }
    }

    /// What it says, if it is about the same work.
    pub fn read(&self) -> Done {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let mut done = Done::default();
        let mut lines = text.split_inclusive('\n').filter_map(|l| l.strip_suffix('\n'));
        if lines.next() != Some(&self.title) {
            return done;
        }
        for line in lines {
            if line == COMPLETE {
                done.complete = true;
            } else if let Some(deviation) = parse(line, done.tensors.len()) {
                done.tensors.push(deviation);
            } else {
                break;
            }
        }
        done
    }

    /// Begins it anew with what is done already.
    pub fn begin(&mut self, done: &[Deviation]) -> Result<()> {
        let file = File::create(&self.path).map_err(|e| self.failed("create", e))?;
        self.file = Some(file);
        let lines = done.iter().enumerate().map(|(i, d)| line(i, d));
        let text = [format!("{}\n", self.title)].into_iter().chain(lines).collect::<String>();
        self.append(&text)
    }

    /// Notes tensors that are on the disk, from number `first` on.
    pub fn add(&mut self, first: usize, tensors: &[Deviation]) -> Result<()> {
        let lines: String = tensors.iter().enumerate().map(|(i, d)| line(first + i, d)).collect();
        self.append(&lines)
    }

    /// Notes that everything is on the disk, and only names are missing.
    pub fn complete(&mut self) -> Result<()> {
        self.append(&format!("{COMPLETE}\n"))
    }

    fn append(&mut self, text: &str) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
        written.map_err(|e| self.failed("write", e))
    }

    /// Removes it, if there is one.
    pub fn remove(&mut self) {
        self.file = None;
        // What is left of it is in nobody's way.
        let _ = fs::remove_file(&self.path);
    }

    fn failed(&self, doing: &'static str, e: std::io::Error) -> Error {
        Error::io(&self.path, doing, e)
    }
}

/// `tensor 7` and the four sums, bit by bit.
fn line(i: usize, d: &Deviation) -> String {
    let sums =
        [d.error, d.power, d.weighted_error, d.weighted_power].map(|s| format!("{:016x}", s.to_bits()));
    format!("tensor {i} {}\n", sums.join(" "))
}

fn parse(line: &str, i: usize) -> Option<Deviation> {
    let sums = line.strip_prefix(&format!("tensor {i} "))?;
    let mut sums = sums.split(' ').map(|s| u64::from_str_radix(s, 16).ok().map(f64::from_bits));
    let mut next = || sums.next().flatten();
    let d = Deviation { error: next()?, power: next()?, weighted_error: next()?, weighted_power: next()? };
    sums.next().is_none().then_some(d)
}

/// A hash of what work is: [FNV-1a](http://www.isthe.com/chongo/tech/comp/fnv/), 64 bits. It tells one's own work from other
/// work, and is no protection from malice.
pub(crate) struct Identity(u64);

impl Identity {
    /// This program.
    pub fn new() -> Identity {
        let mut identity = Identity(0xcbf2_9ce4_8422_2325);
        identity.add(env!("CARGO_PKG_VERSION").as_bytes());
        // Another build may encode otherwise.
        if let Ok(program) = std::env::current_exe() {
            identity.add_file(&program);
        }
        identity
    }

    /// Some bytes, and how many.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in (bytes.len() as u64).to_le_bytes().iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// A file, by its name, size and time of writing.
    pub fn add_file(&mut self, path: &Path) {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.into());
        self.add(path.as_os_str().as_encoded_bytes());
        if let Ok(metadata) = fs::metadata(&path) {
            self.add(&metadata.len().to_le_bytes());
            let time = metadata.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
            self.add(&time.map_or(0, |t| t.as_nanos()).to_le_bytes());
        }
    }

    pub fn finish(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_says_what_was_noted() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("x.gguf");
        let d = |error| Deviation { error, power: 1.0 / 3.0, weighted_error: 0.1, weighted_power: 7.0 };
        let mut journal = Journal::new(&out, 7);
        assert_eq!(journal.read(), Done::default());
        journal.begin(&[d(0.5)]).unwrap();
        journal.add(1, &[d(1.5), d(2.5)]).unwrap();
        let all = || vec![d(0.5), d(1.5), d(2.5)];
        assert_eq!(Journal::new(&out, 7).read(), Done { tensors: all(), complete: false });
        assert_eq!(Journal::new(&out, 8).read(), Done::default(), "other work");
        journal.complete().unwrap();
        assert_eq!(journal.read(), Done { tensors: all(), complete: true });
        // A line that a crash cut short counts for nothing.
        let path = dir.path().join("x.gguf.journal");
        let text = fs::read(&path).unwrap();
        for n in 0..text.len() {
            fs::write(&path, &text[..n]).unwrap();
            let whole = text[..n].iter().filter(|b| **b == b'\n').count();
            let done = journal.read();
            assert_eq!(done.tensors, all()[..whole.saturating_sub(1)]);
            assert!(!done.complete);
        }
        journal.remove();
        assert!(!path.exists());
    }

    #[test]
    fn other_work_has_another_identity() {
        let id = |parts: &[&[u8]]| {
            let mut id = Identity::new();
            parts.iter().for_each(|p| id.add(p));
            id.finish()
        };
        assert_eq!(id(&[b"ab", b"c"]), id(&[b"ab", b"c"]));
        assert_ne!(id(&[b"ab", b"c"]), id(&[b"a", b"bc"]));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let of_file = || {
            let mut id = Identity::new();
            id.add_file(&path);
            id.finish()
        };
        fs::write(&path, "one").unwrap();
        let before = of_file();
        fs::write(&path, "three").unwrap();
        assert_ne!(of_file(), before);
    }
}
