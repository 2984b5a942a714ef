//! Ctrl-C. While something is generated it asks for an end and keeps what was said; a second one, or
//! one at any other time, ends the program at once. A chat is more patient, as its end would be that of
//! the conversation: there it takes a third, and one that comes when the answer has just ended is none.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Set by Ctrl-C while a [`Guard`] lives.
static CANCEL: AtomicBool = AtomicBool::new(false);
static GUARDED: AtomicBool = AtomicBool::new(false);
/// How often it was pressed under this guard.
static PRESSED: AtomicU32 = AtomicU32::new(0);
/// Whether this is a chat.
static PATIENT: AtomicBool = AtomicBool::new(false);

/// A file that is not to stay behind.
static SCRATCH: Mutex<Option<PathBuf>> = Mutex::new(None);

/// What the shell gets to know of a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Takes Ctrl-C over from the system. Without a handler it ends the program, which will do.
pub fn install() {
    let handler = || {
        CANCEL.store(true, Ordering::SeqCst);
        let before = PRESSED.fetch_add(1, Ordering::SeqCst);
        let ends = match (GUARDED.load(Ordering::SeqCst), PATIENT.load(Ordering::SeqCst)) {
            (true, patient) => before >= if patient { 2 } else { 1 },
            (false, patient) => !patient,
        };
        if ends {
            if let Ok(Some(path)) = SCRATCH.lock().as_deref() {
                let _ = std::fs::remove_file(path);
            }
            std::process::exit(INTERRUPTED);
        }
    };
    if let Err(e) = ctrlc::set_handler(handler) {
        log::debug!("no handler for Ctrl-C: {e}");
    }
}

/// From here on there is a prompt to end the program at.
pub fn be_patient() {
    PATIENT.store(true, Ordering::SeqCst);
}

/// Names the file that goes too when Ctrl-C ends the program; `None` if there is none any more.
pub fn scratch(path: Option<PathBuf>) {
    if let Ok(mut scratch) = SCRATCH.lock() {
        *scratch = path;
    }
}

/// Work that Ctrl-C stops in good order.
pub struct Guard(());

impl Guard {
    /// From here on the first Ctrl-C sets [`Guard::cancel`].
    pub fn new() -> Self {
        CANCEL.store(false, Ordering::SeqCst);
        PRESSED.store(0, Ordering::SeqCst);
        GUARDED.store(true, Ordering::SeqCst);
        Guard(())
    }

    /// Whether to stop now.
    pub fn is_cancelled(&self) -> bool {
        CANCEL.load(Ordering::Relaxed)
    }

    /// Whether to stop, for those who look themselves.
    pub fn cancel(&self) -> &'static AtomicBool {
        &CANCEL
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        GUARDED.store(false, Ordering::SeqCst);
        CANCEL.store(false, Ordering::SeqCst);
    }
}
