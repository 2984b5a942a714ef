//! The metadata of a file: typed access with exact conversions.

use std::collections::HashMap;
use std::sync::Arc;

use super::error::{Error, ErrorKind, Result};
use super::value::{Array, NumberArray, StringArray, Value};

/// The keys of a file in the order in which they stand there, and their values.
///
/// Integer getters take any integer type of the file as long as the value fits; [`Metadata::f32`]
/// takes F64 too. Getters answer `Ok(None)` for a key that is not there and an error, which names
/// the key, for one of another type; those called `require_` make the missing key an error too.
#[derive(Clone, Debug)]
pub struct Metadata {
    file: Arc<str>,
    entries: Vec<(Arc<str>, Value)>,
    index: HashMap<Arc<str>, usize>,
}

impl Metadata {
    pub(super) fn new(file: Arc<str>) -> Self {
        Metadata { file, entries: Vec::new(), index: HashMap::new() }
    }

    /// Adds a key at the end; `false` if it is there already.
    pub(super) fn insert(&mut self, key: &str, value: Value) -> bool {
        if self.index.contains_key(key) {
            return false;
        }
        let key: Arc<str> = key.into();
        self.index.insert(key.clone(), self.entries.len());
        self.entries.push((key, value));
        true
    }

    /// Sets a key in its place, or adds it at the end.
    pub(super) fn set(&mut self, key: &str, value: Value) {
        match self.index.get(key) {
            Some(&i) => self.entries[i].1 = value,
            None => _ = self.insert(key, value),
        }
    }

    pub(super) fn remove(&mut self, key: &str) {
        if let Some(i) = self.index.remove(key) {
            self.entries.remove(i);
            self.index.values_mut().filter(|at| **at > i).for_each(|at| *at -= 1);
        }
    }

    /// The file as errors call it.
    pub(super) fn file(&self) -> &Arc<str> {
        &self.file
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All keys in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (&**k, v))
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&i| &self.entries[i].1)
    }

    /// Whether there is such a key.
    pub fn contains(&self, key: &str) -> bool {
        self.index.contains_key(key)
    }

    pub(super) fn error(&self, kind: ErrorKind) -> Error {
        Error::new(&self.file, kind)
    }

    /// An error that names the file and `key`, for values that make no sense to the caller.
    pub fn invalid(&self, key: &str, what: impl Into<String>) -> Error {
        self.error(ErrorKind::key(key, what))
    }

    fn missing(&self, key: &str, expected: &'static str) -> Error {
        self.error(ErrorKind::MissingKey { key: key.into(), expected })
    }

    fn mismatch(&self, key: &str, found: &Value, expected: &str) -> Error {
        self.invalid(key, format!("is {}, not {expected}", found.describe()))
    }

    /// The value of `key` as `convert` makes it.
    fn scalar<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        convert(value).map(Some).ok_or_else(|| self.mismatch(key, value, expected))
    }

    /// The elements of the array `key`, each as `convert` makes it.
    fn array<T>(
        &self,
        key: &str,
        expected: &'static str,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let Value::Array(Array::Numbers(numbers)) = value else {
            // An empty array says nothing about what it might have held.
            return match value.array() {
                Some(a) if a.is_empty() => Ok(Some(Vec::new())),
                _ => Err(self.mismatch(key, value, expected)),
            };
        };
        let mut out = Vec::with_capacity(numbers.len());
        for (i, v) in numbers.iter().enumerate() {
            match convert(&v) {
                Some(v) => out.push(v),
                None => {
                    let what = format!("element {i} is {}; {expected} is needed", v.describe());
                    return Err(self.invalid(key, what));
                }
            }
        }
        Ok(Some(out))
    }

    /// A string; an error if it is not UTF-8.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => s.as_str().map(Some).map_err(|e| {
                self.invalid(key, format!("is not UTF-8 (bad byte at {} of the string)", e.valid_up_to()))
            }),
            Some(other) => Err(self.mismatch(key, other, "a string")),
        }
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<&StringArray>> {
        self.scalar(key, "an array of strings", |v| match v {
            Value::Array(Array::Strings(a)) => Some(a),
            _ => None,
        })
    }

    /// An array of numbers or booleans as it lies in the file.
    pub fn numbers(&self, key: &str) -> Result<Option<&NumberArray>> {
        self.scalar(key, "an array of numbers", |v| match v {
            Value::Array(Array::Numbers(a)) => Some(a),
            _ => None,
        })
    }
}

/// The getters that differ in nothing but the type.
macro_rules! getters {
    ($($(#[$doc:meta])* $get:ident, $require:ident: $ty:ty = $via:ident($expected:literal, $convert:expr);)*) => {
        impl Metadata {$(
            $(#[$doc])*
            pub fn $get(&self, key: &str) -> Result<Option<$ty>> {
                self.$via(key, $expected, $convert)
            }
        )*}
        getters!(@require $($require, $get: $ty, $expected;)* );
    };
    (@require $($require:ident, $get:ident: $ty:ty, $expected:literal;)*) => {
        impl Metadata {$(
            #[doc = concat!("As [`Metadata::", stringify!($get), "`], an error if the key is missing.")]
            pub fn $require(&self, key: &str) -> Result<$ty> {
                self.$get(key)?.ok_or_else(|| self.missing(key, $expected))
            }
        )*}
    };
}

fn int<T: TryFrom<i128>>(value: &Value) -> Option<T> {
    T::try_from(value.integer()?).ok()
}

fn boolean(value: &Value) -> Option<bool> {
    match *value {
        Value::Bool(b) => Some(b),
        _ => None,
    }
}

getters! {
    /// An integer that fits 32 bits without sign.
    u32, require_u32: u32 = scalar("an integer of 0 to 4294967295", int);
    /// An integer that fits 32 bits with sign.
    i32, require_i32: i32 = scalar("an integer of 32 bits", int);
    /// An integer that fits 64 bits without sign.
    u64, require_u64: u64 = scalar("a non-negative integer", int);
    /// An integer that fits 64 bits with sign.
    i64, require_i64: i64 = scalar("an integer of 64 bits", int);
    /// A non-negative integer.
    usize, require_usize: usize = scalar("a non-negative integer", int);
    /// A floating-point number; F64 is rounded.
    f32, require_f32: f32 = scalar("a floating-point number", Value::float);
    /// A boolean.
    bool, require_bool: bool = scalar("a boolean", boolean);
    /// An array of integers that fit 32 bits without sign.
    u32s, require_u32s: Vec<u32> = array("an array of integers of 0 to 4294967295", int);
    /// An array of integers that fit 32 bits with sign.
    i32s, require_i32s: Vec<i32> = array("an array of integers of 32 bits", int);
    /// An array of floating-point numbers; F64 are rounded.
    f32s, require_f32s: Vec<f32> = array("an array of floating-point numbers", Value::float);
    /// An array of booleans.
    bools, require_bools: Vec<bool> = array("an array of booleans", boolean);
}

getters! {
    @require
    require_str, str: &str, "a string";
    require_strings, strings: &StringArray, "an array of strings";
    require_numbers, numbers: &NumberArray, "an array of numbers";
}
