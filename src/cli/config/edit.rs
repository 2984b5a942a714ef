//! Changing the settings' file: one value at a time, everything else as it stands, comments too.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Table as TomlTable, TableLike};

use super::file::{self, DEFAULT_PROFILE, PROFILES};
use super::table::{Kind, Table};
use crate::failure::{Failure, Result};

/// A file that is being changed.
pub struct Edit<'t> {
    path: PathBuf,
    document: DocumentMut,
    table: &'t Table,
}

impl<'t> Edit<'t> {
    /// Opens the file, or begins one.
    ///
    /// # Errors
    /// If there is one that is no TOML or cannot be read.
    pub fn open(path: &Path, table: &'t Table) -> Result<Self> {
        let text = file::read(path)?.unwrap_or_default();
        let document = text.parse().map_err(|e: toml_edit::TomlError| {
            let line = file::line_of_byte(text.as_bytes(), e.span().map_or(0, |s| s.start));
            let what = format!("{}:{line}: {}", path.display(), e.message().replace('\n', ", "));
            Failure::usage(what, "'fathom config edit' opens the file")
        })?;
        Ok(Edit { path: path.into(), document, table })
    }

    /// Sets a value, in a profile or outside. Returns the line that is written.
    ///
    /// # Errors
    /// If there is no such setting, or it cannot have that value.
    pub fn set(&mut self, profile: Option<&str>, name: &str, words: &[String]) -> Result<String> {
        if is_default_profile(name) {
            return self.set_default_profile(words);
        }
        let setting = self.table.find(name)?;
        let words = setting.words(name, words)?;
        setting.check(&words)?;
        let value = file::value(setting, &words);
        let written = format!("{} = {value}", setting.key);
        // Under the other name of a flag the value would mean the opposite.
        let inverse = |name: &str| {
            let on = || setting.words(name, &["true".into()]);
            matches!(setting.kind, Kind::Flag { .. }) && on().is_ok_and(|words| words == ["false"])
        };
        let key = match self.spelling(profile, &setting.key) {
            Some(spelling) if inverse(&spelling) => {
                self.take(profile, &spelling);
                setting.key.clone()
            }
            Some(spelling) => spelling,
            None => setting.key.clone(),
        };
        let table = self.section(profile)?;
        match table.get_mut(&key).and_then(Item::as_value_mut) {
            // What stands around it, such as a comment behind it, stays.
            Some(old) => {
                let decor = old.decor().clone();
                *old = value;
                *old.decor_mut() = decor;
            }
            None => {
                table.insert(&key, Item::Value(value));
            }
        }
        Ok(written)
    }

    fn set_default_profile(&mut self, words: &[String]) -> Result<String> {
        let [name] = words else {
            return Err(Failure::usage(
                format!("{DEFAULT_PROFILE} takes one name"),
                "it is the name of a profile",
            ));
        };
        let names = self.profiles();
        if name != file::NO_PROFILE && !names.contains(name) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            return Err(file::no_profile(name, &names, &self.path));
        }
        self.document.insert(DEFAULT_PROFILE, Item::Value(name.as_str().into()));
        Ok(format!("{DEFAULT_PROFILE} = \"{name}\""))
    }

    /// Takes a setting out of the file. Returns whether it was there.
    ///
    /// # Errors
    /// If there is neither such a setting nor such a line.
    pub fn unset(&mut self, profile: Option<&str>, name: &str) -> Result<bool> {
        if let Some(profile) = profile.filter(|p| !self.profiles().iter().any(|n| n == p)) {
            let names = self.profiles();
            return Err(file::no_profile(
                profile,
                &names.iter().map(String::as_str).collect::<Vec<_>>(),
                &self.path,
            ));
        }
        // A line that is no setting can go as well.
        if self.take(profile, name) {
            return Ok(true);
        }
        if is_default_profile(name) {
            return Ok(false);
        }
        let key = self.table.find(name)?.key.clone();
        Ok(match self.spelling(profile, &key) {
            Some(spelling) => self.take(profile, &spelling),
            None => false,
        })
    }

    /// Writes the file: a new one beside it takes its place, so that there is always a whole one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self) -> Result<()> {
        // Of a link to a file, which people have who keep their settings elsewhere, the link stays.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        replace(&path, self.document.to_string().as_bytes()).map_err(|e| {
            let what = format!("cannot write {}: {e}", self.path.display());
            Failure::new(what).or_hint("check the permissions and the space on its disk")
        })
    }

    fn profiles(&self) -> Vec<String> {
        let tables = self.document.get(PROFILES).and_then(Item::as_table_like);
        tables.into_iter().flat_map(|t| t.iter().map(|(name, _)| name.to_owned())).collect()
    }

    /// The table of a profile, made if need be, or the top of the file.
    fn section(&mut self, profile: Option<&str>) -> Result<&mut dyn TableLike> {
        let Some(name) = profile else { return Ok(self.document.as_table_mut()) };
        if name.is_empty() || name == file::NO_PROFILE {
            return Err(Failure::usage(
                format!("no profile can be called '{name}'"),
                "call it something else",
            ));
        }
        let wrong = || {
            Failure::usage(
                format!("{PROFILES} is no table of profiles"),
                "'fathom config edit' opens the file",
            )
        };
        let implicit = || {
            let mut table = TomlTable::new();
            // The heading [profile] alone says nothing.
            table.set_implicit(true);
            Item::Table(table)
        };
        let profiles = self.document.entry(PROFILES).or_insert_with(implicit);
        let profiles = profiles.as_table_like_mut().ok_or_else(wrong)?;
        if !profiles.contains_key(name) {
            profiles.insert(name, Item::Table(TomlTable::new()));
        }
        profiles.get_mut(name).and_then(Item::as_table_like_mut).ok_or_else(wrong)
    }

    fn existing(&self, profile: Option<&str>) -> Option<&dyn TableLike> {
        match profile {
            None => Some(self.document.as_table()),
            Some(name) => self.document.get(PROFILES)?.as_table_like()?.get(name)?.as_table_like(),
        }
    }

    /// How the file spells the key of a setting, if it is there.
    fn spelling(&self, profile: Option<&str>, key: &str) -> Option<String> {
        let names = self.existing(profile)?.iter().map(|(name, _)| name.to_owned());
        names.into_iter().find(|name| self.table.find(name).is_ok_and(|s| s.key == key))
    }

    /// Takes out a line by the name that stands there.
    fn take(&mut self, profile: Option<&str>, name: &str) -> bool {
        let there = self.existing(profile).is_some_and(|t| t.contains_key(name));
        there && name != PROFILES && self.section(profile).is_ok_and(|t| t.remove(name).is_some())
    }
}

fn is_default_profile(name: &str) -> bool {
    name.replace('_', "-") == DEFAULT_PROFILE
}

/// Puts a file in the place of another, with its permissions.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", std::process::id()));
    let written = fs::File::create(&new).and_then(|mut file| {
        file.write_all(bytes)?;
        if let Ok(old) = fs::metadata(path) {
            file.set_permissions(old.permissions())?;
        }
        file.sync_all()
    });
    let done = written.and_then(|()| fs::rename(&new, path));
    if done.is_err() {
        // There is nothing to be done about what cannot be removed.
        let _ = fs::remove_file(&new);
    }
    done
}
