//! Where the settings' file is, by the customs of the system.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The folder of fathom's settings: `$XDG_CONFIG_HOME/fathom`, else `~/.config/fathom`,
/// `~/Library/Application Support/fathom` or `%APPDATA%\fathom`. `None` if there is no home.
pub fn folder(env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    // By the XDG specification a relative path counts as none.
    let var = |name| env(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = var("XDG_CONFIG_HOME").or_else(|| {
        if cfg!(windows) {
            var("APPDATA")
        } else if cfg!(target_os = "macos") {
            Some(var("HOME")?.join("Library/Application Support"))
        } else {
            Some(var("HOME")?.join(".config"))
        }
    })?;
    Some(base.join("fathom"))
}

/// The user's home folder.
pub fn home(env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let name = if cfg!(windows) { "USERPROFILE" } else { "HOME" };
    env(name).map(PathBuf::from).filter(|p| p.is_absolute())
}

/// A path with the home folder for a `~` that begins it.
pub fn expand(path: &str, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix('~'), home) {
        (Some(""), Some(home)) => home.into(),
        (Some(rest), Some(home)) if rest.starts_with(std::path::is_separator) => home.join(&rest[1..]),
        _ => path.into(),
    }
}

/// A path with `~` for the home folder, to be read by people.
pub fn shown(path: &Path) -> String {
    let home = home(|name| std::env::var_os(name));
    match home.and_then(|home| path.strip_prefix(home).ok().map(Path::to_owned)) {
        Some(rest) => Path::new("~").join(rest).display().to_string(),
        None => path.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_folder_follows_the_xdg_specification() {
        let at = |env: &'static [(&str, &str)]| {
            folder(|name| env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()))
        };
        assert_eq!(at(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/c")]).unwrap(), Path::new("/c/fathom"));
        assert_eq!(at(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "c")]).unwrap(), Path::new("/h/.config/fathom"));
        assert_eq!(at(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "")]).unwrap(), Path::new("/h/.config/fathom"));
        assert_eq!(at(&[("HOME", "")]), None);
    }

    #[test]
    fn a_tilde_is_the_home_folder() {
        let home = Some(Path::new("/h"));
        assert_eq!(expand("~", home), Path::new("/h"));
        assert_eq!(expand("~/a", home), Path::new("/h/a"));
        assert_eq!(expand("~x/a", home), Path::new("~x/a"));
        assert_eq!(expand("~/a", None), Path::new("~/a"));
    }
}
