//! Texts that end an answer.
//!
//! An answer ends before the first stop text that is complete in it (of two that are complete with the same byte, before
//! the longer one). Nothing of a stop text is ever handed out: what may be the beginning of one is held back until
//! it is certain, so the answer is the same however it is cut into tokens.

/// Looks for stop texts in an answer that comes piece by piece.
#[derive(Clone, Debug, Default)]
pub struct StopFinder {
    /// None is empty.
    texts: Vec<String>,
    /// The end of what came, as long as it may be the beginning of a stop text.
    held: String,
    found: Option<usize>,
}

impl StopFinder {
    /// Looks for these texts; empty ones are never found.
    pub fn new(texts: &[String]) -> Self {
        let texts = texts.iter().filter(|t| !t.is_empty()).cloned().collect();
        StopFinder { texts, held: String::new(), found: None }
    }

    /// The stop text that ended the answer.
    pub fn found(&self) -> Option<&str> {
        self.found.map(|i| self.texts[i].as_str())
    }

    /// Takes the next piece and gives back what is certain to be of the answer. Behind a stop text nothing is.
    pub fn push(&mut self, piece: &str) -> String {
        if self.found.is_some() {
            return String::new();
        }
        let mut text = std::mem::take(&mut self.held) + piece;
        let complete = self.texts.iter().enumerate().filter_map(|(i, stop)| {
            let start = text.find(stop)?;
            Some((start + stop.len(), start, i))
        });
        if let Some((_, start, i)) = complete.min() {
            self.found = Some(i);
            text.truncate(start);
            return text;
        }
        let held = self.texts.iter().map(|stop| overlap(&text, stop)).max().unwrap_or(0);
        self.held = text.split_off(text.len() - held);
        text
    }

    /// Ends the answer: what was held back is of it after all.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes at the end of `text` that `stop` begins with, at most all of it but one character.
fn overlap(text: &str, stop: &str) -> usize {
    let ends = stop.char_indices().map(|(at, _)| at).rev();
    ends.into_iter().find(|&n| text.ends_with(&stop[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is handed out of these pieces, and what ended it.
    fn cut(stops: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let mut finder = StopFinder::new(&stops.iter().map(|s| s.to_string()).collect::<Vec<_>>());
        let mut out: String = pieces.iter().map(|p| finder.push(p)).collect();
        out += &finder.finish();
        (out, finder.found().map(str::to_owned))
    }

    #[test]
    fn an_answer_ends_before_a_stop_text() {
        assert_eq!(cut(&["END"], &["one E", "N", "D two"]), ("one ".into(), Some("END".into())));
        assert_eq!(cut(&["END"], &["one E", "N two E", "N"]), ("one EN two EN".into(), None));
        assert_eq!(cut(&["。完"], &["好", "。", "完", "了"]), ("好".into(), Some("。完".into())));
        assert_eq!(cut(&["\n\n"], &["a\n", "b\n\nc"]), ("a\nb".into(), Some("\n\n".into())));
        assert_eq!(cut(&["aab"], &["aa", "ab"]), ("a".into(), Some("aab".into())));
        assert_eq!(cut(&[""], &["a"]), ("a".into(), None));
        assert_eq!(cut(&[], &["a"]), ("a".into(), None));
    }

    #[test]
    fn the_first_to_be_complete_counts() {
        assert_eq!(cut(&["abcd", "bc"], &["abcd"]), ("a".into(), Some("bc".into())));
        assert_eq!(cut(&["c", "bc"], &["ab", "c"]), ("a".into(), Some("bc".into())));
    }

    #[test]
    fn nothing_is_held_back_without_need() {
        let mut finder = StopFinder::new(&["User:".into(), "###".into()]);
        for (piece, shown) in [("Us", ""), ("ing #", "Using "), ("#1 a", "##1 a"), ("模", "模"), ("User", "")]
        {
            assert_eq!(finder.push(piece), shown);
        }
        assert_eq!((finder.push(": b"), finder.found()), (String::new(), Some("User:")));
        assert_eq!(finder.push("more"), "");
        assert_eq!(finder.finish(), "");
    }

    proptest! {
        /// By the definition: the shortest beginning of the text that ends with a stop text.
        #[test]
        fn cuts_do_not_matter(
            stops in prop::collection::vec("[ab模]{1,4}", 0..4),
            pieces in prop::collection::vec("[ab模]{0,3}", 0..12),
        ) {
            let whole = pieces.concat();
            let ends = whole.char_indices().map(|(i, c)| i + c.len_utf8());
            let hit = ends.filter_map(|end| {
                let ending = stops.iter().filter(|s| whole[..end].ends_with(s.as_str()));
                ending.max_by_key(|s| s.len()).map(|s| (whole[..end - s.len()].to_owned(), Some(s.clone())))
            }).next();
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(cut(&stops, &pieces), hit.unwrap_or((whole, None)));
        }
    }
}
