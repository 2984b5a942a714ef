//! The held-out questions of tiny-r1, and how answers are marked.

use serde::Deserialize;

/// A question of the held-out set.
#[derive(Deserialize)]
pub struct Question {
    /// `eval-000` and so on.
    pub id: String,
    /// `en` or `zh`.
    pub lang: String,
    /// The kind of question: `add`, `sort`, …
    pub task: String,
    /// The conversation as the template takes it.
    pub messages: serde_json::Value,
    /// What the answer must end with.
    pub answer: String,
}

/// Tokens that an answer may take; one that is longer is wrong.
pub const MOST_TOKENS: usize = 230;

/// Whether `reply`, what follows `</think>`, ends with the expected answer, final punctuation aside. What stands before it
/// must not make it another number or word. The same rule as in models/tiny-r1/data.py.
pub fn is_right(reply: &str, answer: &str) -> bool {
    let bare = |text: &str| text.trim().trim_end_matches([' ', '.', '。', '!', '！', '"', '\n']).to_owned();
    let (reply, answer) = (bare(reply), bare(answer));
    let Some(before) = reply.strip_suffix(&answer) else {
        return false;
    };
    match (before.chars().next_back(), answer.chars().next()) {
        // 十一月 is not 一月.
        (Some('十'), Some('一' | '二')) => false,
        (Some(c), Some(first)) if first.is_ascii() => !(c.is_ascii_alphanumeric() || c == '-'),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::is_right;

    #[test]
    fn answers_are_marked_by_their_end() {
        for (reply, answer) in [
            ("\n\n347 + 285 = 632", "632"),
            ("632", "632"),
            ("It is 632. ", "632"),
            ("答案是632。", "632"),
            ("= -5", "-5"),
            ("是一月。", "一月"),
            ("Wednesday", "Wednesday."),
        ] {
            assert!(is_right(reply, answer), "{reply}");
        }
        for (reply, answer) in [
            ("1632", "632"),
            ("-632", "632"),
            ("632 apples", "632"),
            ("", "632"),
            ("是十一月", "一月"),
            ("xWednesday", "Wednesday"),
        ] {
            assert!(!is_right(reply, answer), "{reply}");
        }
    }
}
