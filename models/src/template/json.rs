//! `tojson` as chat templates know it: Python's `json.dumps` with `ensure_ascii=False`.
//!
//! Models were trained on its spacing, `{"a": 1, "b": [1, 2]}`, and, unlike in Jinja's own filter, no
//! character is escaped for HTML.

use std::io::{self, Write};

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// The filter: `{{ value | tojson(indent=4, ensure_ascii=false, sort_keys=false, separators=none) }}`.
pub(super) fn tojson(value: &Value, indent: Option<u16>, options: Kwargs) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<u16>>("indent")?,
    };
    let separators = match options.get::<Option<Vec<String>>>("separators")? {
        Some(s) => <[String; 2]>::try_from(s)
            .map_err(|_| Error::new(ErrorKind::InvalidOperation, "tojson: separators must be two"))?,
        // With line breaks Python leaves no space at the end of a line.
        None => [if indent.is_some() { "," } else { ", " }.into(), ": ".into()],
    };
    let style = Python {
        separators,
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        indent: indent.map(usize::from),
        depth: 0,
        empty: true,
    };
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let written = if sort_keys {
        serde_json::to_value(value).and_then(|mut value| {
            value.sort_all_objects();
            write(&value, style)
        })
    } else {
        write(value, style)
    };
    written.map_err(|e| Error::new(ErrorKind::BadSerialization, "tojson").with_source(e))
}

fn write(value: &impl Serialize, style: Python) -> serde_json::Result<String> {
    let mut out = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut out, style))?;
    String::from_utf8(out).map_err(serde::ser::Error::custom)
}

/// Python's punctuation.
struct Python {
    /// Between elements, and between a key and its value.
    separators: [String; 2],
    ensure_ascii: bool,
    /// Spaces per level; without it everything is on one line.
    indent: Option<usize>,
    depth: usize,
    /// Whether nothing has been written since the last bracket opened.
    empty: bool,
}

impl Python {
    fn open<W: Write + ?Sized>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.empty = true;
        out.write_all(bracket)
    }

    fn close<W: Write + ?Sized>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !self.empty {
            self.line(out)?;
        }
        self.empty = false;
        out.write_all(bracket)
    }

    fn line<W: Write + ?Sized>(&self, out: &mut W) -> io::Result<()> {
        match self.indent {
            Some(n) => write!(out, "\n{:1$}", "", n * self.depth),
            None => Ok(()),
        }
    }

    fn element<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if !first {
            out.write_all(self.separators[0].as_bytes())?;
        }
        self.empty = false;
        self.line(out)
    }
}

impl Formatter for Python {
    fn begin_array<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"[")
    }

    fn end_array<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"]")
    }

    fn begin_array_value<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.element(out, first)
    }

    fn begin_object<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"{")
    }

    fn end_object<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"}")
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.element(out, first)
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(self.separators[1].as_bytes())
    }

    fn write_string_fragment<W: Write + ?Sized>(&mut self, out: &mut W, text: &str) -> io::Result<()> {
        if !self.ensure_ascii {
            return out.write_all(text.as_bytes());
        }
        for c in text.chars() {
            if c.is_ascii() {
                out.write_all(&[c as u8])?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use minijinja::{Environment, context};

    /// The expected texts are Python's `json.dumps(value, ensure_ascii=False, …)`.
    #[test]
    fn spacing_is_pythons() {
        let mut env = Environment::new();
        env.add_filter("tojson", super::tojson);
        let value: minijinja::Value = serde_json::from_str(
            r#"{"name": "f<é>&'", "a": [1, 2.5, true, null], "e": {}, "l": [], "n": {"x": "\n"}}"#,
        )
        .unwrap();
        let render = |options: &str| {
            env.render_str(&format!("{{{{ v | tojson({options}) }}}}"), context! { v => value.clone() })
                .unwrap()
        };
        let flat = r#"{"name": "f<é>&'", "a": [1, 2.5, true, null], "e": {}, "l": [], "n": {"x": "\n"}}"#;
        assert_eq!(render(""), flat);
        assert_eq!(render("ensure_ascii=true"), flat.replace('é', "\\u00e9"));
        assert_eq!(render("separators=(',', ':')"), flat.replace(": ", ":").replace(", ", ","));
        assert_eq!(
            render("sort_keys=true"),
            r#"{"a": [1, 2.5, true, null], "e": {}, "l": [], "n": {"x": "\n"}, "name": "f<é>&'"}"#
        );
        let indented = "{\n  \"name\": \"f<é>&'\",\n  \"a\": [\n    1,\n    2.5,\n    true,\n    null\n  ],\n  \"e\": {},\n  \"l\": [],\n  \"n\": {\n    \"x\": \"\\n\"\n  }\n}";
        assert_eq!(render("indent=2"), indented);
        assert_eq!(render("2"), indented);
    }
}
