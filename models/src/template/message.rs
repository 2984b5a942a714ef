//! Messages of a conversation, as the chat APIs write them in JSON.

use std::collections::BTreeMap;
use std::fmt;

use minijinja::Value;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

/// One turn: `{"role": "user", "content": "Hi"}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Message {
    /// Who says it: `system`, `user`, `assistant` or `tool` in most templates.
    pub role: String,
    /// What is said. `None` for an assistant's turn that only calls tools. In JSON also a list of
    /// text parts, `[{"type": "text", "text": "Hi"}]`, which are put together.
    #[serde(default, deserialize_with = "content")]
    pub content: Option<String>,
    /// Whatever else the message holds, for the template: `reasoning_content`, `tool_calls`, `name`.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

impl Message {
    /// A message with nothing but a role and a text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: Some(content.into()), extra: BTreeMap::new() }
    }

    /// Bytes of its text.
    pub(super) fn size(&self) -> usize {
        self.role.len() + self.content.as_deref().map_or(0, str::len)
    }
}

/// A text, null, or a list of text parts.
fn content<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    struct Part {
        r#type: String,
        text: Option<String>,
    }

    struct Content;

    impl<'de> Visitor<'de> for Content {
        type Value = Option<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text, null or a list of text parts")
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Some(text.into()))
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_none<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
            let mut text = String::new();
            while let Some(part) = parts.next_element::<Part>()? {
                match part.text {
                    Some(t) if part.r#type == "text" => text.push_str(&t),
                    _ => {
                        return Err(de::Error::custom(format_args!(
                            "a content part of type {:?}; only text is read",
                            part.r#type
                        )));
                    }
                }
            }
            Ok(Some(text))
        }
    }

    from.deserialize_any(Content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Message, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn contents_of_all_kinds() {
        let content = |json: &str| parse(json).unwrap().content;
        assert_eq!(content(r#"{"role": "user", "content": "a"}"#).as_deref(), Some("a"));
        assert_eq!(content(r#"{"role": "user", "content": null}"#), None);
        assert_eq!(content(r#"{"role": "user"}"#), None);
        let parts =
            r#"{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}"#;
        assert_eq!(content(parts).as_deref(), Some("ab"));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error =
            parse(r#"{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}"#).unwrap_err();
        assert!(error.to_string().contains("image_url"), "{error}");
        assert!(parse(r#"{"content": "a"}"#).unwrap_err().to_string().contains("role"));
        assert!(parse(r#"{"role": "user", "content": 7}"#).is_err());
    }

    #[test]
    fn other_fields_are_kept() {
        let m =
            parse(r#"{"role": "assistant", "reasoning_content": "r", "tool_calls": [{"id": 1}]}"#).unwrap();
        assert_eq!(m.extra["reasoning_content"].as_str(), Some("r"));
        let again = serde_json::to_value(&m).unwrap();
        assert_eq!(again["tool_calls"][0]["id"], 1);
        assert_eq!(again["content"], serde_json::Value::Null);
    }
}
