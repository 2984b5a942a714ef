//! What is said about a model: its name, its size, its license, how it is to be sampled.

use ggml_sys::gguf::{StringArray, Value, Writer};

use super::Folder;
use super::json::Object;
use crate::error::Result;
use crate::source::SourceTensor;

/// Keys of a model card that become strings under `general.`.
const STRINGS: [&str; 8] = [
    "author",
    "version",
    "organization",
    "description",
    "license",
    "license_name",
    "license_link",
    "basename",
];
/// Those that become arrays: what they are called in the card and in the file.
const LISTS: [(&str, &str); 2] = [("tags", "tags"), ("language", "languages")];

/// The head of README.md, between two lines of `---`: YAML, of which `key: value` and lists of values are read.
#[derive(Default)]
struct Card(Vec<(String, Vec<String>)>);

impl Card {
    fn parse(text: &str) -> Card {
        let mut card = Card::default();
        let mut lines = text.lines();
        if lines.next().map(str::trim_end) != Some("---") {
            return card;
        }
        for line in lines.map(str::trim_end).take_while(|line| *line != "---") {
            let item = line.trim_start().strip_prefix("- ");
            match (item, card.0.last_mut(), line.split_once(':')) {
                (Some(item), Some((_, values)), _) => values.push(unquoted(item)),
                // What is indented belongs to something that is not read.
                (None, _, Some((key, value))) if !line.starts_with([' ', '#', '\t']) => {
                    let value = unquoted(value);
                    card.0.push((key.trim().into(), if value.is_empty() { vec![] } else { vec![value] }));
                }
                _ => {}
            }
        }
        card
    }

    fn values(&self, key: &str) -> &[String] {
        self.0.iter().find(|(k, _)| k == key).map_or(&[], |(_, values)| values)
    }
}

fn unquoted(value: &str) -> String {
    let value = value.trim();
    let inner = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(value).into()
}

/// Sets `general.*`, but for the architecture, the size and what depends on the new file's types.
pub(super) fn keys(
    folder: &Folder<'_>,
    config: &Object,
    generation: &Object,
    keys: &mut Writer,
) -> Result<()> {
    sampling(generation, keys)?;
    let card = Card::parse(&folder.text("README.md")?.unwrap_or_default());
    let name = match (card.values("name"), config.get("_name_or_path").and_then(|v| v.as_str())) {
        ([name, ..], _) => name.clone(),
        // A name on the hub, not a path of the machine that it was made on.
        (_, Some(id)) if id.matches('/').count() <= 1 && !id.starts_with(['.', '/']) && !id.is_empty() => {
            title(id.rsplit('/').next().unwrap_or(id))
        }
        _ => title(&folder.name()),
    };
    keys.set("general.name", &name[..]);
    for key in STRINGS {
        let values = card.values(key);
        if !values.is_empty() {
            keys.set(&format!("general.{key}"), &values.join(",")[..]);
        }
    }
    for (from, to) in LISTS {
        if let Some(list) = StringArray::from_strings(card.values(from)).filter(|list| !list.is_empty()) {
            keys.set(&format!("general.{to}"), list);
        }
    }
    Ok(())
}

/// What generation_config.json suggests, under `general.sampling.`.
fn sampling(generation: &Object, keys: &mut Writer) -> Result<()> {
    for (name, key) in [
        ("top_k", "top_k"),
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("temperature", "temp"),
        ("repetition_penalty", "penalty_repeat"),
    ] {
        let value: Option<Value> = match name {
            "top_k" => generation.find_count(name)?.and_then(|n| i32::try_from(n).ok()).map(Value::I32),
            _ => generation.find_number(name)?.map(|x| Value::F32(x as f32)),
        };
        if let Some(value) = value {
            keys.set(&format!("general.sampling.{key}"), value);
        }
    }
    Ok(())
}

/// A name as people write it: `qwen2-7b-instruct` becomes `Qwen2 7b Instruct`. Words with capitals, versions and what
/// begins with a digit stay as they are.
fn title(name: &str) -> String {
    let word = |word: &str| {
        let is_lower = word.chars().any(char::is_lowercase) && !word.chars().any(char::is_uppercase);
        let is_version = word.strip_prefix('v').is_some_and(|rest| {
            rest.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
        });
        if !is_lower || is_version || word.starts_with(|c: char| c.is_ascii_digit()) {
            return word.to_owned();
        }
        let mut out = String::new();
        let mut inside = false;
        for c in word.chars() {
            if inside {
                out.push(c)
            } else {
                out.extend(c.to_uppercase())
            }
            inside = c.is_alphabetic();
        }
        out
    };
    name.replace('-', " ").split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

/// `general.size_label`: the number of weights, or of those that each expert comes with, times their number.
pub(super) fn size_label(tensors: &[SourceTensor]) -> String {
    let (mut shared, mut expert) = (0u128, 0u128);
    let (mut n_experts, mut n_stacks) = (0, 0);
    for tensor in tensors {
        let n = tensor.shape.n_elements() as u128;
        if tensor.name.contains("_exps.") {
            let count = tensor.shape.0[2] as u128;
            expert += n / count;
            n_experts += count;
            n_stacks += 1;
        } else {
            shared += n;
        }
    }
    let size = rounded(shared + expert);
    match n_experts.checked_div(n_stacks) {
        None => size,
        Some(n) => format!("{n}x{size}"),
    }
}

/// A count with two digits at least: `1.4M`, `671B`.
fn rounded(n: u128) -> String {
    let units = [(1e12, "T"), (1e9, "B"), (1e6, "M"), (0.0, "K")];
    let n = n as f64;
    let (unit, suffix) = units.into_iter().find(|(unit, _)| n > *unit).unwrap_or((1e3, "K"));
    let n = n / unit.max(1e3);
    // Digits that are missing before the point come after it.
    let digits = format!("{}", n.round_ties_even()).trim_start_matches('0').len();
    format!("{n:.*}{suffix}", 2usize.saturating_sub(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_titles() {
        for (name, want) in [
            ("DeepSeek-R1-Distill-Qwen-1.5B", "DeepSeek R1 Distill Qwen 1.5B"),
            ("qwen2-7b-instruct", "Qwen2 7b Instruct"),
            ("tiny-r1", "Tiny R1"),
            ("model-v1.2", "Model v1.2"),
            ("", ""),
        ] {
            assert_eq!(title(name), want);
        }
    }

    #[test]
    fn sizes_have_two_digits() {
        for (n, want) in [
            (0, "0.00K"),
            (999, "1.0K"),
            (1_377_536, "1.4M"),
            (7_000_000_001, "7.0B"),
            (671_026_419_200, "671B"),
            (1_026_000_000_000, "1.0T"),
            (45_000, "45K"),
        ] {
            assert_eq!(rounded(n), want, "{n}");
        }
    }

    #[test]
    fn cards_are_read_as_far_as_they_are_simple() {
        let card = Card::parse(
            "---\nlicense: mit\nname: 'A: b'\ntags:\n- x\n- \"y z\"\nmodel-index:\n  - name: no\nlanguage: en\n---\nauthor: me\n",
        );
        assert_eq!(card.values("license"), ["mit"]);
        assert_eq!(card.values("name"), ["A: b"]);
        assert_eq!(card.values("tags"), ["x", "y z"]);
        assert_eq!(card.values("language"), ["en"]);
        assert_eq!((card.values("author").len(), card.values("none").len()), (0, 0));
        assert!(Card::parse("# Title\nlicense: mit\n").0.is_empty() && Card::parse("").0.is_empty());
    }
}
