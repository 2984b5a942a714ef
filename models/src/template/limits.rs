//! Bounds on what minijinja would do without asking: a filter told to pad to a width of a billion pads.

use std::io;

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};

/// Largest width, count or precision.
const WIDEST: i64 = 10_000;

/// Puts bounds on filters and methods that make text or lists of a length they are told.
pub(super) fn install(env: &mut Environment<'_>) {
    let told = [
        ("batch", Value::from_function(filters::batch)),
        ("indent", Value::from_function(filters::indent)),
        ("round", Value::from_function(filters::round)),
        ("slice", Value::from_function(filters::slice)),
    ];
    for (name, filter) in told {
        env.add_filter(name, move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            // The first argument is what is filtered.
            match args.iter().skip(1).all(is_modest) {
                true => filter.call(state, &args),
                false => Err(too_wide(name)),
            }
        });
    }
    let format = Value::from_function(filters::format);
    env.add_filter("format", move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
        let args = args.into_values();
        match args.first().and_then(Value::as_str).is_some_and(has_wide_field) {
            true => Err(too_wide("format")),
            false => format.call(state, &args),
        }
    });
    env.set_unknown_method_callback(|state, value, method, args| {
        if method == "format" && value.as_str().is_some_and(has_wide_field) {
            return Err(too_wide(method));
        }
        minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
    });
}

fn too_wide(name: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{name}: a width beyond {WIDEST}"))
}

/// Whether an argument is no number beyond [`WIDEST`], nor, given by name, holds one.
fn is_modest(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Number => i64::try_from(value.clone()).is_ok_and(|n| (-WIDEST..=WIDEST).contains(&n)),
        ValueKind::Map if value.is_kwargs() => {
            let mut keys = value.try_iter().into_iter().flatten();
            keys.all(|key| value.get_item(&key).is_ok_and(|v| is_modest(&v)))
        }
        _ => true,
    }
}

/// Whether a format, of `%` or of Python's `str.format`, has a field of five digits of width or
/// precision, or takes them from an argument.
fn has_wide_field(format: &str) -> bool {
    let number = |text: &str| text.bytes().take_while(|&b| b.is_ascii_digit() || b == b'*').count();
    let is_wide = |spec: &str| {
        let spec = spec.trim_start_matches(['-', '+', ' ', '#', '<', '>', '=', '^']);
        let (width, rest) = spec.split_at(number(spec));
        let precision = rest.strip_prefix('.').map_or("", |p| &p[..number(p)]);
        [width, precision].iter().any(|n| n.len() > 4 || n.contains('*'))
    };
    let percent = |spec: &str| match spec.strip_prefix('(').and_then(|named| named.split_once(')')) {
        Some((_, spec)) => is_wide(spec),
        None => is_wide(spec),
    };
    let brace = |field: &str| match field.split_once('}') {
        Some((field, _)) => field.split_once(':').is_some_and(|(_, spec)| is_wide(spec)),
        // A field that does not close has another one inside.
        None => true,
    };
    let unescaped = format.replace("{{", "").replace("}}", "");
    format.split('%').skip(1).any(percent) || unescaped.split('{').skip(1).any(brace)
}

/// A buffer that is full at some point.
pub(super) struct Limited {
    /// What has been written.
    pub text: Vec<u8>,
    left: usize,
}

impl Limited {
    pub fn new(most: usize) -> Self {
        Limited { text: Vec::new(), left: most }
    }
}

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_fields_are_seen() {
        for wide in [
            "%99999d",
            "%-99999s",
            "%.99999f",
            "%1.99999f",
            "%*d",
            "%(a)99999d",
            "%-*d",
            "%5.99999f",
            "%.*f",
            "{:99999}",
            "{:<99999}",
            "{:{}}",
            "{0:>{1}}",
            "{:.99999f}",
        ] {
            assert!(has_wide_field(wide), "{wide}");
        }
        for narrow in [
            "",
            "%d",
            "%5.2f",
            "100000 %s",
            "%s 100000",
            "{}",
            "{:>10}: {}",
            "{0} {1}",
            "{{}} {:>3}",
            "%s costs .99999 of 100000",
            "%(a)s",
            "a: {}",
            "{\"a\": 1}",
        ] {
            assert!(!has_wide_field(narrow), "{narrow}");
        }
    }

    #[test]
    fn bounded_filters_still_work() {
        let mut env = Environment::new();
        install(&mut env);
        let render = |source: &str| env.render_str(source, ());
        assert_eq!(
            render("{{ 'a\nb' | indent(2) }}{{ 'a\nb' | indent(width=1, first=true) }}").unwrap(),
            "a\n  b a\n b"
        );
        assert_eq!(
            render("{{ [1, 2, 3] | batch(2) | list }} {{ 2.456 | round(1) }}").unwrap(),
            "[[1, 2], [3]] 2.5"
        );
        assert_eq!(
            render("{{ '%s-%03d' | format('a', 123456789) }} {{ '%(a)s' | format(a=1) }} {{ '{}: {:>4}'.format(1, 2) }}").unwrap(),
            "a-123456789 1 1:    2"
        );
        for wide in [
            "'a' | indent(99999)",
            "'a' | indent(width=99999)",
            "[1] | batch(99999999999, 0)",
            "'%99999d' | format(1)",
            "'{:99999}'.format(1)",
        ] {
            assert!(render(&format!("{{{{ {wide} }}}}")).is_err(), "{wide}");
        }
    }
}
