//! The JSON files of a folder: typed access, errors that name the file and the key.

use ggml_sys::gguf::{self, ErrorKind, Quoted};
use serde_json::{Map, Value};

use crate::error::Result;

/// An object of a JSON file. A key whose value is `null` counts as missing, as transformers have it.
#[derive(Clone, Debug)]
pub(super) struct Object {
    file: String,
    /// Keys that lead to it, each with a dot behind it.
    path: String,
    map: Map<String, Value>,
}

impl Object {
    /// The object that is the whole of a file; `file` is what errors call it.
    pub fn parse(file: String, bytes: &[u8]) -> Result<Object> {
        let bad = |what: String| gguf::Error::new(&file, ErrorKind::Header(what)).into();
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(map)) => Ok(Object { file, path: String::new(), map }),
            Ok(other) => Err(bad(format!("holds {}, not an object", describe(&other)))),
            Err(e) => Err(bad(format!("is no JSON: {e}"))),
        }
    }

    /// An object without keys, in place of a file that need not be there.
    pub fn none(file: String) -> Object {
        Object { file, path: String::new(), map: Map::new() }
    }

    /// The file as errors call it.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// All keys and values, `null` included.
    pub fn map(&self) -> &Map<String, Value> {
        &self.map
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// An error about a key.
    pub fn invalid(&self, key: &str, what: impl Into<String>) -> crate::Error {
        let key = format!("{}{key}", self.path);
        gguf::Error::new(&self.file, ErrorKind::Key { key, what: what.into() }).into()
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match convert(value) {
            Some(v) => Ok(Some(v)),
            None => Err(self.invalid(key, format!("is {}, not {expected}", describe(value)))),
        }
    }

    fn required<T>(&self, key: &str, expected: &'static str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| {
            let key = format!("{}{key}", self.path);
            gguf::Error::new(&self.file, ErrorKind::MissingKey { key, expected }).into()
        })
    }

    /// A count: an integer of at most 32 bits.
    pub fn find_count(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, COUNT, |v| match v.as_f64() {
            // Some programs write whole numbers as 4096.0.
            Some(f) if v.is_f64() => {
                (f >= 0.0 && f <= u32::MAX.into() && f.fract() == 0.0).then_some(f as u32)
            }
            _ => v.as_u64().and_then(|n| u32::try_from(n).ok()),
        })
    }

    /// As [`Self::find_count`], of a key that must be there.
    pub fn count(&self, key: &str) -> Result<u32> {
        self.required(key, COUNT, self.find_count(key)?)
    }

    /// A number that F32 can express.
    pub fn find_number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, NUMBER, |v| v.as_f64().filter(|f| (*f as f32).is_finite()))
    }

    /// As [`Self::find_number`], of a key that must be there.
    pub fn number(&self, key: &str) -> Result<f64> {
        self.required(key, NUMBER, self.find_number(key)?)
    }

    /// `true` or `false`.
    pub fn find_bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A string.
    pub fn find_str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", Value::as_str)
    }

    /// As [`Self::find_str`], of a key that must be there.
    pub fn str(&self, key: &str) -> Result<&str> {
        self.required(key, "a string", self.find_str(key)?)
    }

    /// An array.
    pub fn find_array(&self, key: &str) -> Result<Option<&[Value]>> {
        self.typed(key, "an array", |v| v.as_array().map(Vec::as_slice))
    }

    /// An object in this one.
    pub fn find_object(&self, key: &str) -> Result<Option<Object>> {
        let map = self.typed(key, "an object", Value::as_object)?;
        let path = format!("{}{key}.", self.path);
        Ok(map.map(|map| Object { file: self.file.clone(), path, map: map.clone() }))
    }

    /// As [`Self::find_object`], of a key that must be there.
    pub fn object(&self, key: &str) -> Result<Object> {
        self.required(key, "an object", self.find_object(key)?)
    }
}

const COUNT: &str = "an integer of 0 to 4294967295";
const NUMBER: &str = "a number that 32 bits hold";

/// A value in few words.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => format!("the string {}", Quoted(s.as_bytes())),
        Value::Array(a) => format!("an array of {}", a.len()),
        Value::Object(_) => "an object".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Result<Object> {
        Object::parse("config.json".into(), text.as_bytes())
    }

    #[test]
    fn numbers_are_what_they_must_be() {
        let o = object(r#"{"a": 7, "b": 8.0, "c": 8.5, "d": -1, "e": null, "f": 1e300, "g": {"h": "x\n"}}"#)
            .unwrap();
        assert_eq!((o.count("a").unwrap(), o.count("b").unwrap()), (7, 8));
        assert_eq!((o.find_count("e").unwrap(), o.find_count("z").unwrap()), (None, None));
        for key in ["c", "d", "f", "g"] {
            let e = o.count(key).unwrap_err().to_string();
            assert!(e.starts_with(&format!("config.json: key '{key}': is ")), "{e}");
        }
        assert_eq!(o.number("d").unwrap(), -1.0);
        assert!(o.find_number("f").is_err());
        let e = o.object("g").unwrap().count("h").unwrap_err().to_string();
        assert_eq!(e, "config.json: key 'g.h': is the string 'x\\n', not an integer of 0 to 4294967295");
        let e = o.count("z").unwrap_err().to_string();
        assert_eq!(e, "config.json: key 'z' is missing (an integer of 0 to 4294967295 is needed)");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for (text, what) in [
            ("", "is no JSON: EOF while parsing"),
            ("[1]", "holds an array of 1, not an object"),
            ("{\"a\": 1e999}", "is no JSON: number out of range"),
            ("{\"a\": \u{1}}", "is no JSON"),
        ] {
            let e = object(text).map(drop).unwrap_err().to_string();
            assert!(e.contains(what) && !e.contains('\n'), "{e}");
        }
        let deep = "{\"a\":".repeat(100_000);
        assert!(object(&deep).is_err());
    }
}
