//! llama.cpp's GBNF, translated to Lark.
//!
//! GBNF describes characters: rules `name ::= …` of literals, classes of characters, references, groups, alternatives
//! and repetitions, beginning with `root`. Lark tells lexemes from rules. Here a lexeme is each longest part that refers to
//! no recursive rule, as one regular expression. A grammar without recursion is one lexeme, and so exactly what it says; in others
//! a lexeme takes as many characters as it can, where GBNF would try all numbers of them.

mod lark;

use std::collections::HashMap;
use std::fmt::Write;

/// How deep groups may lie in each other.
const DEPTH: usize = 100;
/// Repetitions of a part at the most, as in llama.cpp.
const REPETITIONS: u32 = 2000;

/// Whether a grammar is in GBNF and not in Lark.
pub fn is_gbnf(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.trim_start();
        let name = line.len() - line.trim_start_matches(is_name).len();
        name > 0 && line[name..].trim_start().starts_with("::=")
    })
}

/// The same grammar in Lark.
///
/// # Errors
/// Says on which line it is not sound.
pub fn to_lark(text: &str) -> Result<String, String> {
    lark::write(&Parser::parse(text)?)
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

struct Rule<'t> {
    name: &'t str,
    body: Node<'t>,
}

enum Node<'t> {
    /// A regular expression that is no alternative and can be repeated.
    Regex(String),
    /// A name and its line.
    Reference(&'t str, usize),
    Sequence(Vec<Node<'t>>),
    Choice(Vec<Node<'t>>),
    Repeated(Box<Node<'t>>, u32, Option<u32>),
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
}

impl<'t> Parser<'t> {
    fn parse(text: &'t str) -> Result<Vec<Rule<'t>>, String> {
        let mut parser = Parser { text, at: 0, depth: 0 };
        let mut rules: Vec<Rule<'t>> = Vec::new();
        let mut known = HashMap::new();
        parser.space();
        while !parser.rest().is_empty() {
            let name = parser.rule_name().ok_or_else(|| parser.wrong("a rule, name ::= …, is expected"))?;
            let body = parser.choice()?;
            // llama.cpp takes the last one, too.
            match known.get(name) {
                Some(&i) => rules[i] = Rule { name, body },
                None => {
                    known.insert(name, rules.len());
                    rules.push(Rule { name, body });
                }
            }
        }
        Ok(rules)
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn line(&self) -> usize {
        1 + self.text[..self.at].matches('\n').count()
    }

    fn wrong(&self, what: &str) -> String {
        format!("line {}: {what}", self.line())
    }

    /// Skips white space and comments.
    fn space(&mut self) {
        loop {
            let rest = self.rest().trim_start();
            self.at = self.text.len() - rest.len();
            if !rest.starts_with('#') {
                return;
            }
            self.at += rest.find('\n').unwrap_or(rest.len());
        }
    }

    fn take(&mut self, token: &str) -> bool {
        let taken = self.rest().starts_with(token);
        if taken {
            self.at += token.len();
            self.space();
        }
        taken
    }

    fn char(&mut self) -> Option<char> {
        let c = self.rest().chars().next()?;
        self.at += c.len_utf8();
        Some(c)
    }

    /// The name of a rule that begins here, behind its `::=`.
    fn rule_name(&mut self) -> Option<&'t str> {
        let before = self.at;
        let name = self.name();
        if !name.is_empty() && self.take("::=") {
            return Some(name);
        }
        self.at = before;
        None
    }

    fn name(&mut self) -> &'t str {
        let rest = self.rest();
        let name = &rest[..rest.len() - rest.trim_start_matches(is_name).len()];
        self.at += name.len();
        self.space();
        name
    }

    fn choice(&mut self) -> Result<Node<'t>, String> {
        let mut all = vec![self.sequence()?];
        while self.take("|") {
            all.push(self.sequence()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Node::Choice(all) })
    }

    fn sequence(&mut self) -> Result<Node<'t>, String> {
        let mut all = Vec::new();
        while let Some(part) = self.part()? {
            all.push(self.repeated(part)?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Node::Sequence(all) })
    }

    /// `None` where a sequence ends.
    fn part(&mut self) -> Result<Option<Node<'t>>, String> {
        let node = match self.rest().chars().next() {
            None | Some('|' | ')') => return Ok(None),
            Some('"') => self.literal()?,
            Some('[') => self.class()?,
            Some('.') => {
                self.at += 1;
                Node::Regex("(?s:.)".into())
            }
            Some('(') => {
                self.at += 1;
                self.space();
                self.depth += 1;
                if self.depth > DEPTH {
                    return Err(self.wrong(&format!("groups lie more than {DEPTH} deep")));
                }
                let group = self.choice()?;
                if !self.rest().starts_with(')') {
                    return Err(self.wrong("a ')' is expected"));
                }
                self.at += 1;
                self.depth -= 1;
                group
            }
            Some('<' | '!') => {
                return Err(self.wrong("tokens cannot be named in GBNF here; Lark takes <|token|>"));
            }
            Some(c) if is_name(c) => {
                let here = (self.at, self.line());
                if self.rule_name().is_some() {
                    self.at = here.0;
                    return Ok(None);
                }
                let rest = self.rest();
                let name = &rest[..rest.len() - rest.trim_start_matches(is_name).len()];
                self.at += name.len();
                Node::Reference(name, here.1)
            }
            Some(c) => return Err(self.wrong(&format!("'{c}' cannot stand here"))),
        };
        Ok(Some(node))
    }

    /// A part with what stands behind it: `*`, `+`, `?`, `{2}`, `{2,}`, `{2,5}`.
    fn repeated(&mut self, part: Node<'t>) -> Result<Node<'t>, String> {
        let mut node = part;
        loop {
            // A space between is allowed.
            self.space();
            let (least, most) = match self.rest().chars().next() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => {
                    let bounds = self.bounds()?;
                    node = Node::Repeated(Box::new(node), bounds.0, bounds.1);
                    continue;
                }
                _ => return Ok(node),
            };
            self.at += 1;
            node = Node::Repeated(Box::new(node), least, most);
        }
    }

    fn bounds(&mut self) -> Result<(u32, Option<u32>), String> {
        let wrong =
            |p: &Self| p.wrong(&format!("a repetition is {{2}}, {{2,}} or {{2,5}}, at most {REPETITIONS}"));
        let end = self.rest().find('}').ok_or_else(|| wrong(self))?;
        let inner = &self.rest()[1..end];
        let number = |text: &str| {
            let n = text.trim().parse::<u32>().ok().filter(|n| *n <= REPETITIONS);
            n.ok_or_else(|| wrong(self))
        };
        let (least, most) = match inner.split_once(',') {
            None => (number(inner)?, Some(number(inner)?)),
            Some((least, most)) => (
                if least.trim().is_empty() { 0 } else { number(least)? },
                if most.trim().is_empty() { None } else { Some(number(most)?) },
            ),
        };
        if most.is_some_and(|most| most < least) {
            return Err(wrong(self));
        }
        self.at += end + 1;
        Ok((least, most))
    }

    fn literal(&mut self) -> Result<Node<'t>, String> {
        let start = self.line();
        self.at += 1;
        let mut regex = String::from("(?:");
        loop {
            match self.char() {
                None => return Err(format!("line {start}: a text has no second '\"'")),
                Some('"') => break,
                Some('\\') => escape(self.escaped()?, &mut regex),
                Some(c) => escape(c, &mut regex),
            }
        }
        regex.push(')');
        Ok(Node::Regex(regex))
    }

    fn class(&mut self) -> Result<Node<'t>, String> {
        let start = self.line();
        let open = |line| format!("line {line}: a '[' has no ']'");
        self.at += 1;
        let mut regex = String::from("[");
        if self.rest().starts_with('^') {
            self.at += 1;
            regex.push('^');
        }
        let mut empty = true;
        loop {
            let first = match self.char().ok_or_else(|| open(start))? {
                ']' => break,
                '\\' => self.escaped()?,
                c => c,
            };
            empty = false;
            escape(first, &mut regex);
            if self.rest().starts_with('-') && !self.rest().starts_with("-]") {
                self.at += 1;
                let last = match self.char().ok_or_else(|| open(start))? {
                    '\\' => self.escaped()?,
                    c => c,
                };
                if last < first {
                    return Err(self.wrong(&format!("'{first}-{last}' is no range")));
                }
                regex.push('-');
                escape(last, &mut regex);
            }
        }
        if empty {
            return Err(format!("line {start}: a class of characters is empty"));
        }
        regex.push(']');
        Ok(Node::Regex(regex))
    }

    /// The character behind a backslash.
    fn escaped(&mut self) -> Result<char, String> {
        let digits = match self.char() {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some(c @ ('\\' | '"' | '[' | ']' | '-' | '^')) => return Ok(c),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => return Err(self.wrong("known are \\n \\r \\t \\\\ \\\" \\[ \\] \\x41 \\u0041 \\U00000041")),
        };
        let code = self.rest().get(..digits).and_then(|d| u32::from_str_radix(d, 16).ok());
        let c = code
            .and_then(char::from_u32)
            .ok_or_else(|| self.wrong("the number of a character is expected"))?;
        self.at += digits;
        Ok(c)
    }
}

/// A character as regular expressions and Lark take it.
fn escape(c: char, out: &mut String) {
    if c.is_ascii_alphanumeric() || !c.is_ascii() && c.is_alphabetic() {
        out.push(c);
    } else {
        let _ = write!(out, "\\x{{{:X}}}", u32::from(c));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grammar_without_recursion_is_one_expression() {
        let lark = to_lark(
            "# a list\nroot ::= item+ # end\nitem ::= \"- \" [^\\r\\n]{1,3}\n \"\\n\" | word\nword ::= \"a/\"\n",
        );
        assert_eq!(
            lark.unwrap(),
            "start: r0\nr0: /(?:(?:(?:(?:\\x{2D}\\x{20}))(?:(?:[^\\x{D}\\x{A}]){1,3})(?:(?:\\x{A}))|(?:a\\x{2F}))+)/\n"
        );
    }

    #[test]
    fn recursion_is_left_to_rules() {
        let lark = to_lark("root ::= \"(\" root? \")\" | [0-9]+").unwrap();
        assert_eq!(lark, "start: r0\nr0: (/(?:(?:\\x{28}))/ (r0)? /(?:(?:\\x{29}))/ | /(?:(?:[0-9])+)/)\n");
    }

    #[test]
    fn gbnf_is_told_from_lark() {
        assert!(is_gbnf("# comment\n  root::= \"a\""));
        assert!(!is_gbnf("start: \"a ::= b\""));
        assert!(!is_gbnf(""));
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, what) in [
            ("root ::= \"a", "line 1"),
            ("root ::= \"a\"\n  [b", "line 2"),
            ("root ::= \"a\"\nb ::= c", "line 2: there is no rule 'c'"),
            ("a ::= \"a\"", "root"),
            ("root ::= ( \"a\"", "')'"),
            ("root ::= \"a\")", "rule"),
            ("root ::= \"\\q\"", "known"),
            ("root ::= \"\\uD800\"", "number"),
            ("root ::= [z-a]", "range"),
            ("root ::= []", "empty"),
            ("root ::= \"a\"{2,1}", "repetition"),
            ("root ::= \"a\"{9999}", "repetition"),
            ("root ::= <think>", "Lark"),
            ("root ::= %", "'%'"),
            ("::= \"a\"", "rule"),
        ] {
            let said = to_lark(text).unwrap_err();
            assert!(said.contains(what), "{text:?}: {said}");
        }
    }
}
