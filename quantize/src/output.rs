//! A file that exists only when it is complete.

use std::fs::{self, File, Metadata, TryLockError};
use std::io::{ErrorKind, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A file that is being written, as `NAME.partial`. It gets its name when it is complete and on the disk; until then,
/// dropping it removes it.
///
/// Two processes do not get into each other's way: whoever writes holds a lock on the partial file. One that a process
/// left behind when it was killed is written anew.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    partial: PathBuf,
    file: File,
    /// Whether dropping it leaves the partial file.
    keep: bool,
}

impl Output {
    /// Starts to write what will be `path`. `inputs` are the files that are read meanwhile.
    ///
    /// # Errors
    /// If `path`, or the name that it is written under, is one of `inputs`; if `path` exists without `force`, or as
    /// something that is no regular file; if another process is writing it; if the system refuses.
    pub fn create<'a>(
        path: &Path,
        inputs: impl IntoIterator<Item = &'a Path>,
        force: bool,
    ) -> Result<Output> {
        let mut output = Output::open(path, inputs, force)?;
        // From here on the file is ours, to be removed if anything fails.
        output.keep(false);
        output.cut(0)?;
        Ok(output)
    }

    /// As [`Output::create`], with what the partial file has. Dropping it leaves that as it is for now; a file that has
    /// nothing is removed.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn open<'a>(
        path: &Path,
        inputs: impl IntoIterator<Item = &'a Path>,
        force: bool,
    ) -> Result<Output> {
        let partial = Output::partial(path);
        for input in inputs {
            if let Some(taken) = [path, &partial].into_iter().find(|p| is_same(p, input)) {
                return Err(Error::Input(taken.into()));
            }
        }
        check_free(path, force)?;
        let file = File::options().write(true).create(true).truncate(false).open(&partial);
        let file = file.map_err(|e| Error::io(&partial, "create", e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Busy(path.into())),
            // Some network file systems have no locks.
            Err(TryLockError::Error(_)) => {}
        }
        // Between opening and locking another process may have finished, which made our file its output; and a link
        // leads elsewhere.
        let opened = file.metadata().map_err(|e| Error::io(&partial, "open", e))?;
        let named = fs::symlink_metadata(&partial).map_err(|e| Error::io(&partial, "open", e))?;
        if !named.is_file() {
            return Err(Error::NotAFile(partial));
        }
        if !is_same_file(&opened, &named) {
            return Err(Error::Busy(path.into()));
        }
        Ok(Output { path: path.into(), partial, file, keep: opened.len() > 0 })
    }

    /// The name that a file is written under.
    pub(crate) fn partial(path: &Path) -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(".partial");
        name.into()
    }

    /// Whether dropping it leaves the partial file.
    pub(crate) fn keep(&mut self, keep: bool) {
        self.keep = keep;
    }

    /// Bytes of the partial file.
    pub(crate) fn len(&self) -> Result<u64> {
        self.file.metadata().map(|m| m.len()).map_err(|e| Error::io(&self.partial, "open", e))
    }

    /// Cuts the partial file to so many bytes, behind which writing goes on.
    pub(crate) fn cut(&self, bytes: u64) -> Result<()> {
        let cut = self.file.set_len(bytes).and_then(|()| (&self.file).seek(SeekFrom::Start(bytes)));
        cut.map(drop).map_err(|e| Error::io(&self.partial, "empty", e))
    }

    /// The system's refusal to write it.
    pub(crate) fn failed(&self, e: std::io::Error) -> Error {
        Error::io(&self.path, "write", e)
    }

    /// The file, to be written.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Refuses to write `bytes` where the disk will not hold them, if that can be told.
    ///
    /// # Errors
    /// [`Error::NoSpace`].
    pub fn check_space(&self, bytes: u64) -> Result<()> {
        match free_space(&self.file) {
            Some(free) if free < bytes => Err(Error::NoSpace { path: self.path.clone(), need: bytes, free }),
            _ => Ok(()),
        }
    }

    /// Puts the file on the disk and gives it its name.
    ///
    /// # Errors
    /// If the system refuses; nothing is left then.
    pub fn commit(mut self) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::io(&self.path, "write", e))?;
        fs::rename(&self.partial, &self.path).map_err(|e| Error::io(&self.path, "create", e))?;
        self.keep = true;
        #[cfg(unix)]
        if let Ok(folder) = File::open(folder(&self.path)) {
            // Makes the name durable too. The file is whole without it, so there is nothing to report.
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.keep {
            // There is nobody left to tell.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// The folder that a file is in.
#[cfg(unix)]
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Refuses a name that is taken.
fn check_free(path: &Path, force: bool) -> Result<()> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(Error::NotAFile(path.into())),
        Ok(_) if !force => Err(Error::Exists(path.into())),
        Ok(_) => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(path, "create", e)),
    }
}

/// Whether two paths lead to one file, by whatever links.
fn is_same(a: &Path, b: &Path) -> bool {
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(x), Ok(y)) => {
            is_same_file(&x, &y) && (cfg!(unix) || fs::canonicalize(a).ok() == fs::canonicalize(b).ok())
        }
        _ => false,
    }
}

#[cfg(unix)]
fn is_same_file(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Elsewhere files have no number that the standard library tells; equal lengths and kinds have to do.
#[cfg(not(unix))]
fn is_same_file(a: &Metadata, b: &Metadata) -> bool {
    (a.len(), a.file_type()) == (b.len(), b.file_type())
}

/// Bytes that this user can still write on the disk of a file.
#[cfg(unix)]
fn free_space(file: &File) -> Option<u64> {
    let disk = nix::sys::statvfs::fstatvfs(file).ok()?;
    // The widths of these numbers differ from system to system.
    #[allow(clippy::useless_conversion)]
    u64::from(disk.blocks_available()).checked_mul(u64::from(disk.fragment_size()))
}

#[cfg(not(unix))]
fn free_space(_: &File) -> Option<u64> {
    None
}
