//! Bringing a model's file into memory: as far as it fits, all of it at once, with progress.

use std::sync::Mutex;

use ggml_sys::gguf::Gguf;
use models::memory;

use crate::cli::args::LoadingArgs;
use crate::failure::{Failure, Result};
use crate::size::Bytes;
use crate::term::progress::{Display, Progress, Unit};

/// How a file is brought into memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loading {
    /// Read it into memory of the process instead of mapping it.
    pub no_mmap: bool,
    /// Keep it from being written to the disk or dropped again.
    pub lock: bool,
}

impl Loading {
    pub fn new(args: &LoadingArgs) -> Self {
        Loading { no_mmap: args.no_mmap, lock: args.mlock }
    }

    /// The model in memory of its own, if that is asked for; before anything else is made of it.
    ///
    /// # Errors
    /// If there is not so much memory, or a file cannot be read.
    pub fn copied(self, gguf: Gguf, display: Display) -> Result<Gguf> {
        if !self.no_mmap {
            return Ok(gguf);
        }
        let size = gguf.size();
        if let Some(available) = memory::available().filter(|a| size > *a) {
            let name = gguf.path().display();
            let what = format!("{name} has {}, and {} of memory are free", Bytes(size), Bytes(available));
            return Err(Failure::new(what).or_hint("without --no-mmap it is read as far as needed"));
        }
        Ok(with_progress(display, "loading", size, |progress| gguf.into_memory(progress))?)
    }

    /// Brings all pages of the map in, if they fit into memory; if not, chosen experts are announced before they are read.
    /// Locks them there if that is asked for.
    pub fn fill(self, gguf: &Gguf, display: Display) {
        let size = gguf.size();
        let fits = self.no_mmap || memory::available().is_none_or(|a| size <= a);
        if !fits {
            gguf.announce_reads(true);
        } else if !gguf.is_cached() {
            with_progress(display, "loading", size, |progress| gguf.populate(progress));
        }
        match self.lock {
            true if fits => lock(gguf),
            true => log::warn!("the model is larger than the free memory: --mlock is left out"),
            false => {}
        }
    }
}

/// Calls `work`, showing the bytes of `size` that it reports.
pub fn with_progress<T>(
    display: Display,
    doing: &'static str,
    size: u64,
    work: impl FnOnce(&(dyn Fn(usize) + Sync)) -> T,
) -> T {
    let progress = Mutex::new((Progress::new(display, doing, Unit::Bytes), 0));
    work(&|n| {
        if let Ok(mut progress) = progress.lock() {
            progress.1 += n as u64;
            let done = progress.1;
            progress.0.update(done, size);
        }
    })
}

/// Locks the model, or says why that cannot be.
fn lock(gguf: &Gguf) {
    let Err(e) = gguf.lock() else { return };
    let limit = match locked_limit() {
        Some(limit) => format!(
            "; the limit is {limit}: raise it with 'ulimit -l unlimited' or in /etc/security/limits.conf"
        ),
        None => String::new(),
    };
    log::warn!("the model cannot be locked in memory: {e}{limit}");
}

/// What this process may lock, on Linux.
fn locked_limit() -> Option<String> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    parse_limit(&limits)
}

fn parse_limit(limits: &str) -> Option<String> {
    let line = limits.lines().find_map(|l| l.strip_prefix("Max locked memory"))?;
    let soft = line.split_whitespace().next()?;
    Some(soft.parse().map_or_else(|_| soft.to_owned(), |n| Bytes(n).to_string()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_limit_of_locked_memory_is_found() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             95852                95852                processes \n\
                      Max locked memory         8388608              unlimited            bytes     \n";
        assert_eq!(parse_limit(limits).as_deref(), Some("8.0 MiB"));
        assert_eq!(parse_limit(&limits.replace("8388608  ", "unlimited")).as_deref(), Some("unlimited"));
        assert_eq!(parse_limit(""), None);
    }

    #[test]
    fn a_copied_model_does_not_hang_on_its_file_and_a_mapped_one_does() {
        let original = std::fs::read(fathom_testing::fixtures::tiny_r1().f16).unwrap();
        for no_mmap in [true, false] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &original).unwrap();
            let loading = Loading { no_mmap, lock: false };
            let gguf = loading.copied(Gguf::open(file.path()).unwrap(), Display::Nothing).unwrap();
            let tensor = |gguf: &Gguf| gguf.tensor("token_embd.weight").unwrap().bytes().to_vec();
            let before = tensor(&gguf);
            // In place: what is mapped must not become shorter.
            let zeros = vec![0; original.len()];
            std::fs::OpenOptions::new().write(true).open(file.path()).unwrap().write_all(&zeros).unwrap();
            assert_eq!(tensor(&gguf) == before, no_mmap, "no_mmap {no_mmap}");
        }
    }
}
