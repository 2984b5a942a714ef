//! The user's own editor.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use super::interrupt::Guard;
use crate::failure::{Failure, Result};

/// Has the user change a file in the editor of their choice: `$VISUAL`, else `$EDITOR`.
///
/// # Errors
/// If the editor cannot be started or says that it failed.
pub fn edit(file: &Path) -> Result<()> {
    let name = ["VISUAL", "EDITOR"].iter().find_map(|n| std::env::var_os(n).filter(|v| !v.is_empty()));
    let name = name.unwrap_or_else(|| if cfg!(windows) { "notepad" } else { "vi" }.into());
    // Ctrl-C in there is not meant for us.
    let guard = Guard::new();
    let status = command(&name, file).status();
    drop(guard);
    let failed = |why: String| {
        Err(Failure::new(format!("the editor '{}' {why}", name.display())).or_hint("set $EDITOR to another"))
    };
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => failed(format!("ended with {status}")),
        Err(e) => failed(format!("cannot be started: {e}")),
    }
}

/// The editor on a file. Its name may hold options, as the shell reads them.
#[cfg(unix)]
fn command(name: &OsString, file: &Path) -> Command {
    let mut command = Command::new("sh");
    let mut script = name.clone();
    script.push(" \"$1\"");
    command.arg("-c").arg(script).arg("sh").arg(file);
    command
}

#[cfg(not(unix))]
fn command(name: &OsString, file: &Path) -> Command {
    let mut command = Command::new(name);
    command.arg(file);
    command
}
