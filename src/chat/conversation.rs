//! What has been said.

use models::template::Message;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};

/// Turns, and the system prompt before them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    pub turns: Vec<Turn>,
}

/// A question and its answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    pub user: String,
    /// Without the reasoning.
    #[serde(default)]
    pub answer: String,
    /// What there is of an answer that was stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
}

/// An answer that can go on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cut {
    /// All that was generated, reasoning too.
    pub tokens: Vec<u32>,
}

impl Conversation {
    /// As the template wants it, all answers included.
    pub fn messages(&self) -> Vec<Message> {
        let mut messages = self.question();
        if let Some(turn) = self.turns.last() {
            messages.push(Message::new("assistant", &turn.answer));
        }
        messages
    }

    /// The same up to the last question, which is to be answered.
    pub fn question(&self) -> Vec<Message> {
        let system = self.system.iter().filter(|s| !s.is_empty()).map(|s| Message::new("system", s));
        let turns = self
            .turns
            .iter()
            .flat_map(|t| [Message::new("user", &t.user), Message::new("assistant", &t.answer)]);
        // The last answer.
        let n = (2 * self.turns.len()).saturating_sub(1);
        system.chain(turns.take(n)).collect()
    }

    /// A conversation from messages: a system prompt, if any, then questions and answers by turns.
    ///
    /// # Errors
    /// If they stand in another order.
    pub fn from_messages(messages: Vec<Message>) -> Result<Self> {
        let mut conversation = Conversation::default();
        for (i, message) in messages.into_iter().enumerate() {
            let text = message.content.unwrap_or_default();
            match (message.role.as_str(), conversation.turns.last_mut()) {
                ("system", None) if conversation.system.is_none() => conversation.system = Some(text),
                ("assistant", Some(turn)) if turn.cut.is_some() => {
                    (turn.answer, turn.cut) = (text, None);
                }
                // A question is open until its answer comes.
                ("user", last) if last.as_ref().is_none_or(|t| t.cut.is_none()) => conversation
                    .turns
                    .push(Turn { user: text, answer: String::new(), cut: Some(Cut::default()) }),
                (role, _) => {
                    return Err(Failure::new(format!("message {} is the {role}'s", i + 1))
                        .or_hint("a chat is a system prompt, if any, then user and assistant by turns"));
                }
            }
        }
        Ok(conversation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(said: &[(&str, &str)]) -> Vec<Message> {
        said.iter().map(|(role, text)| Message::new(*role, *text)).collect()
    }

    fn roles(messages: &[Message]) -> Vec<&str> {
        messages.iter().map(|m| m.role.as_str()).collect()
    }

    #[test]
    fn messages_and_turns_are_the_same() {
        let said = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")];
        let conversation = Conversation::from_messages(messages(&said)).unwrap();
        assert_eq!(conversation.turns.len(), 2);
        assert!(conversation.turns.iter().all(|t| t.cut.is_none()));
        assert_eq!(roles(&conversation.messages()), said.map(|(role, _)| role));
        assert_eq!(roles(&conversation.question()), ["system", "user", "assistant", "user"]);
        assert_eq!(roles(&Conversation::default().messages()), [""; 0]);
        let open = Conversation::from_messages(messages(&said[..2])).unwrap();
        assert!(open.turns[0].cut.is_some());
    }

    #[test]
    fn an_order_that_is_no_chat_is_refused() {
        for said in [
            &[("assistant", "a")][..],
            &[("user", "a"), ("user", "b")],
            &[("user", "a"), ("system", "b")],
            &[("system", "a"), ("system", "b")],
            &[("user", "a"), ("assistant", "b"), ("assistant", "c")],
            &[("tool", "a")],
        ] {
            assert!(Conversation::from_messages(messages(said)).is_err(), "{said:?}");
        }
    }
}
