//! Ctrl-C. While something is generated it asks for an end and keeps what was said; a second one, or
//! one at any other time, ends the program at once.

use std::sync::atomic::{AtomicBool, Ordering};

/// Set by Ctrl-C while a [`Guard`] lives.
static CANCEL: AtomicBool = AtomicBool::new(false);
static GUARDED: AtomicBool = AtomicBool::new(false);

/// What the shell gets to know of a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Takes Ctrl-C over from the system. Without a handler it ends the program, which will do.
pub fn install() {
    let handler = || {
        let asked_before = CANCEL.swap(true, Ordering::SeqCst);
        if asked_before || !GUARDED.load(Ordering::SeqCst) {
            std::process::exit(INTERRUPTED);
        }
    };
    if let Err(e) = ctrlc::set_handler(handler) {
        log::debug!("no handler for Ctrl-C: {e}");
    }
}

/// Work that Ctrl-C stops in good order.
pub struct Guard(());

impl Guard {
    /// From here on the first Ctrl-C sets [`Guard::cancel`].
    pub fn new() -> Self {
        CANCEL.store(false, Ordering::SeqCst);
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
