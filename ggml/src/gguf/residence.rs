//! Where the bytes of a file are: in the page cache as far as they were read, all of them, locked there, or in memory of
//! their own.
//!
//! A map costs nothing until it is read, and what was read stays in the page cache for the next process. Whoever knows that
//! all of a file will be needed gains by reading it with several threads at once ([`Gguf::populate`]): page faults one after
//! another leave a disk idle most of the time. A file larger than memory is left alone, but pieces of it that will be
//! needed in a moment can be asked for ([`Gguf::announce_reads`]).

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use memmap2::Mmap;

use super::error::{Error, ErrorKind, Result};
use super::shards::Split;
use super::{Gguf, Part, display};
use crate::memory::AlignedBuf;
use crate::tensor::Backing;

/// Bytes that a thread reads at a time. In tests a few, so that small files have several pieces.
const PIECE: usize = if cfg!(test) { 1 << 10 } else { 8 << 20 };
/// Threads that read, however few processors there are: disks are faster when asked for several things.
const READERS: usize = 4;
/// Places at which [`Gguf::is_cached`] looks.
const SAMPLES: usize = 64;
/// Longest time that mapping a page of the page cache takes, usually; reading one from a disk takes longer.
const CACHED: Duration = Duration::from_micros(30);
/// Fewest bytes from one touched byte to the next: a page of the smallest size there is.
const PAGE: usize = 4096;

/// A mapped file.
pub(super) struct FileMap {
    pub map: Mmap,
    /// Whether [`Backing::will_need`] does anything.
    announce: AtomicBool,
}

impl FileMap {
    pub fn new(map: Mmap) -> Self {
        FileMap { map, announce: AtomicBool::new(false) }
    }

    /// See [`Gguf::announce_reads`].
    pub fn announce_reads(&self, on: bool) {
        self.announce.store(on, Ordering::Relaxed);
    }
}

impl AsRef<[u8]> for FileMap {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl Backing for FileMap {
    fn will_need(&self, range: Range<usize>) {
        #[cfg(unix)]
        if self.announce.load(Ordering::Relaxed) && range.end <= self.map.len() && !range.is_empty() {
            super::hint(self.map.advise_range(memmap2::Advice::WillNeed, range.start, range.len()));
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if range.end <= self.map.len() && !range.is_empty() {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the pages are those of a file, mapped to be read only: nothing was written to them that could be
            // lost, and the next access brings the same bytes of the file back.
            super::hint(unsafe { self.map.unchecked_advise_range(advice, range.start, range.len()) });
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    fn lock(&self) -> io::Result<()> {
        #[cfg(unix)]
        return self.map.lock();
        #[cfg(not(unix))]
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Gguf {
    /// Whether [`crate::Tensor::will_need`] tells the operating system. It costs a little for each call, which only files
    /// larger than memory are worth.
    pub fn announce_reads(&self, on: bool) {
        self.maps().for_each(|map| map.announce_reads(on));
    }

    /// Whether the pages of the files seem to be in the page cache, by the time it takes to touch some: others each time,
    /// because those that were touched are there.
    pub fn is_cached(&self) -> bool {
        let random = RandomState::new().hash_one(()) as usize;
        let slow = |map: &FileMap| {
            let step = map.map.len() / SAMPLES;
            let first = random % step.max(1);
            let touch = |i: usize| {
                let start = Instant::now();
                std::hint::black_box(map.map.get(first + i * step).copied());
                usize::from(start.elapsed() > CACHED)
            };
            (0..SAMPLES).map(touch).sum::<usize>()
        };
        // On a busy machine some take long whatever they are.
        self.maps().all(|map| slow(map) <= SAMPLES / 16)
    }

    /// Reads everything into the page cache and maps it, with several threads. `progress` gets the bytes of each piece.
    pub fn populate(&self, progress: &(dyn Fn(usize) + Sync)) {
        for map in self.maps() {
            let read = |range: Range<usize>| {
                touch(&map.map, range.clone());
                progress(range.len());
                Ok(())
            };
            // Touching cannot fail.
            let _ = in_pieces(map.map.len(), read);
        }
    }

    /// Keeps the maps, of the files or of memory of their own, from leaving memory until the model is dropped. Bytes on the
    /// heap, as small models are after [`Gguf::into_memory`], are left as they are.
    ///
    /// # Errors
    /// If the process may not lock that much, or the system cannot.
    pub fn lock(&self) -> io::Result<()> {
        self.shards().iter().try_for_each(|shard| shard.owner.lock())
    }

    /// The same model in memory of its own, on huge pages where the system has them, read with several threads.
    /// `progress` gets the bytes of each piece. Files that are not mapped stay where they are.
    ///
    /// # Errors
    /// If there is not so much memory, or a file cannot be read.
    pub fn into_memory(self, progress: &(dyn Fn(usize) + Sync)) -> Result<Gguf> {
        if self.maps().next().is_none() {
            return Ok(self);
        }
        let paths: Vec<_> = self.shards().iter().map(|s| s.path().to_owned()).collect();
        // The maps go before their contents come a second time.
        drop(self);
        let read = |path: &Path| Part::new(Arc::new(read(path, progress)?), path, None);
        let parts = paths.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
        let split = Split::of(&parts[0].parsed.metadata)?;
        Self::assemble(parts, split)
    }
}

/// The contents of a file.
fn read(path: &Path, progress: &(dyn Fn(usize) + Sync)) -> Result<AlignedBuf> {
    let failed = |source| Error::new(&display(path), ErrorKind::Io { doing: "read", source });
    let size = std::fs::metadata(path).map_err(failed)?.len();
    let memory = usize::try_from(size).ok().and_then(AlignedBuf::huge);
    let mut memory = memory.ok_or_else(|| failed(io::ErrorKind::OutOfMemory.into()))?;
    let len = memory.as_slice().len();
    let pieces: Vec<_> = memory.as_mut_slice().chunks_mut(PIECE).map(Mutex::new).collect();
    let fill = |range: Range<usize>| -> io::Result<()> {
        let mut piece = pieces[range.start / PIECE].lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(range.start as u64))?;
        file.read_exact(&mut piece)?;
        progress(range.len());
        Ok(())
    };
    in_pieces(len, fill).map_err(failed)?;
    drop(pieces);
    Ok(memory)
}

/// Calls `f` for every piece of `0..len`, with several threads, until one fails.
fn in_pieces(len: usize, f: impl Fn(Range<usize>) -> io::Result<()> + Sync) -> io::Result<()> {
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let start = next.fetch_add(1, Ordering::Relaxed).saturating_mul(PIECE);
            if start >= len {
                return Ok(());
            }
            if let Err(e) = f(start..len.min(start + PIECE)) {
                next.store(len.div_ceil(PIECE), Ordering::Relaxed);
                return Err(e);
            }
        }
    };
    let readers = std::thread::available_parallelism().map_or(READERS, |n| n.get().max(READERS));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..readers.min(len.div_ceil(PIECE))).map(|_| scope.spawn(work)).collect();
        let own = work();
        let panicked = |_| Err(io::Error::other("a thread that reads ended early"));
        threads.into_iter().map(|t| t.join().unwrap_or_else(panicked)).fold(own, io::Result::and)
    })
}

/// Brings the pages of a range of the map in.
fn touch(map: &Mmap, range: Range<usize>) {
    // One call reads ahead and maps all of them; Linux has it since 5.14.
    #[cfg(target_os = "linux")]
    if map.advise_range(memmap2::Advice::PopulateRead, range.start, range.len()).is_ok() {
        return;
    }
    let bytes = &map[range];
    let sum = bytes.iter().step_by(PAGE).fold(0u8, |sum, b| sum.wrapping_add(*b));
    std::hint::black_box(sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_everything_once() {
        for len in [0, 1, PIECE, 5 * PIECE + 7] {
            let seen: Vec<_> = (0..len).map(|_| AtomicUsize::new(0)).collect();
            let visit = |r: Range<usize>| {
                seen[r].iter().for_each(|n| _ = n.fetch_add(1, Ordering::Relaxed));
                Ok(())
            };
            in_pieces(len, visit).unwrap();
            assert!(seen.into_iter().all(|n| n.into_inner() == 1), "{len} bytes");
        }
    }

    #[test]
    fn nothing_more_is_begun_after_an_error() {
        let begun = AtomicUsize::new(0);
        let failing = |r: Range<usize>| match r.start / PIECE {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {
                begun.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
                Ok(())
            }
        };
        let n = 100_000;
        assert_eq!(in_pieces(n * PIECE, failing).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(begun.into_inner() < n / 10);
    }

    #[test]
    fn files_of_several_pieces_are_read_in_order() {
        let bytes: Vec<u8> =
            (0..7 * PIECE as u32 + 100).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let done = AtomicUsize::new(0);
        let memory = read(file.path(), &|n| _ = done.fetch_add(n, Ordering::Relaxed)).unwrap();
        assert!(memory.as_slice() == bytes);
        assert_eq!(done.into_inner(), bytes.len());
    }
}
