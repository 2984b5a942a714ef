//! Rules of GBNF as rules and lexemes of Lark.

use std::collections::HashMap;
use std::fmt::Write;

use super::{Node, Rule};

/// Bytes that an expression has at the most once what it refers to is written out; larger ones stay rules.
const EXPRESSION_BYTES: usize = 8 << 10;

/// The grammar in Lark.
///
/// # Errors
/// If a rule is not there.
pub(super) fn write(rules: &[Rule<'_>]) -> Result<String, String> {
    let names: HashMap<&str, usize> = rules.iter().enumerate().map(|(i, r)| (r.name, i)).collect();
    let root = *names.get("root").ok_or("there is no rule 'root'")?;
    let references = references(rules, &names)?;
    let mut writer = Writer { names, expressions: vec![None; rules.len()] };
    writer.find_expressions(rules, &references);
    let mut lark = format!("start: r{root}\n");
    let mut seen = vec![false; rules.len()];
    seen[root] = true;
    let mut waiting = vec![root];
    while let Some(rule) = waiting.pop() {
        let mut body = String::new();
        writer.rule(&rules[rule].body, &mut body);
        let _ = writeln!(lark, "r{rule}: {body}");
        for &next in &references[rule] {
            // Those of expressions are written out where they are referred to.
            if writer.expressions[next].is_none() && !std::mem::replace(&mut seen[next], true) {
                waiting.push(next);
            }
        }
    }
    Ok(lark)
}

/// The rules that each rule refers to.
fn references(rules: &[Rule<'_>], names: &HashMap<&str, usize>) -> Result<Vec<Vec<usize>>, String> {
    fn collect(node: &Node<'_>, names: &HashMap<&str, usize>, out: &mut Vec<usize>) -> Result<(), String> {
        match node {
            Node::Regex(_) => Ok(()),
            Node::Reference(name, line) => {
                let rule =
                    names.get(name).ok_or_else(|| format!("line {line}: there is no rule '{name}'"))?;
                out.push(*rule);
                Ok(())
            }
            Node::Sequence(parts) | Node::Choice(parts) => {
                parts.iter().try_for_each(|part| collect(part, names, out))
            }
            Node::Repeated(part, ..) => collect(part, names, out),
        }
    }
    let of = |rule: &Rule<'_>| {
        let mut out = Vec::new();
        collect(&rule.body, names, &mut out).map(|()| out)
    };
    rules.iter().map(of).collect()
}

struct Writer<'t> {
    names: HashMap<&'t str, usize>,
    /// The regular expression of each rule that is one.
    expressions: Vec<Option<String>>,
}

impl<'t> Writer<'t> {
    /// Writes out the rules that refer to nothing, then those that refer to these, and so on. What is left over is recursive, or too large.
    fn find_expressions(&mut self, rules: &[Rule<'t>], references: &[Vec<usize>]) {
        let mut users = vec![Vec::new(); rules.len()];
        let mut open: Vec<usize> = references.iter().map(Vec::len).collect();
        for (rule, all) in references.iter().enumerate() {
            all.iter().for_each(|&r| users[r].push(rule));
        }
        let mut ready: Vec<usize> = (0..open.len()).filter(|&r| open[r] == 0).collect();
        while let Some(rule) = ready.pop() {
            let mut expression = String::new();
            if self.regex(&rules[rule].body, &mut expression).is_none() {
                continue;
            }
            self.expressions[rule] = Some(expression);
            for &user in &users[rule] {
                open[user] -= 1;
                if open[user] == 0 {
                    ready.push(user);
                }
            }
        }
    }

    fn expression(&self, name: &str) -> Option<&str> {
        self.expressions[*self.names.get(name)?].as_deref()
    }

    /// Whether the part is one regular expression.
    fn is_regular(&self, node: &Node<'t>) -> bool {
        match node {
            Node::Regex(_) => true,
            Node::Reference(name, _) => self.expression(name).is_some(),
            Node::Sequence(parts) | Node::Choice(parts) => parts.iter().all(|p| self.is_regular(p)),
            Node::Repeated(part, ..) => self.is_regular(part),
        }
    }

    /// Appends the regular expression of a part; `None` if it is recursive or too large.
    fn regex(&self, node: &Node<'t>, out: &mut String) -> Option<()> {
        match node {
            Node::Regex(regex) => out.push_str(regex),
            Node::Reference(name, _) => {
                let expression = self.expression(name)?;
                if out.len() + expression.len() > EXPRESSION_BYTES {
                    return None;
                }
                out.push_str(expression);
            }
            Node::Sequence(parts) => {
                for part in parts {
                    self.group(part, out)?;
                }
            }
            Node::Choice(parts) => {
                for (i, part) in parts.iter().enumerate() {
                    out.push_str(if i == 0 { "" } else { "|" });
                    self.regex(part, out)?;
                }
            }
            Node::Repeated(part, least, most) => {
                self.group(part, out)?;
                repetition(*least, *most, out);
            }
        }
        Some(())
    }

    fn group(&self, node: &Node<'t>, out: &mut String) -> Option<()> {
        out.push_str("(?:");
        self.regex(node, out)?;
        out.push(')');
        Some(())
    }

    /// A part as Lark.
    fn rule(&self, node: &Node<'t>, out: &mut String) {
        if self.is_regular(node) && self.lexeme(std::slice::from_ref(node), "", out) {
            return;
        }
        match node {
            Node::Regex(regex) => {
                let _ = write!(out, "/{regex}/");
            }
            Node::Reference(name, _) => {
                let _ = match (self.expression(name), self.names.get(name)) {
                    (Some(expression), _) => write!(out, "/{expression}/"),
                    (None, rule) => write!(out, "r{}", rule.unwrap_or(&0)),
                };
            }
            Node::Sequence(parts) => self.runs(parts, " ", "", out),
            Node::Choice(parts) => {
                out.push('(');
                self.runs(parts, " | ", "|", out);
                out.push(')');
            }
            Node::Repeated(part, least, most) => {
                out.push('(');
                self.rule(part, out);
                out.push(')');
                repetition(*least, *most, out);
            }
        }
    }

    /// Parts, neighbours that are regular as one lexeme.
    fn runs(&self, parts: &[Node<'t>], between: &str, within: &str, out: &mut String) {
        let runs = parts.chunk_by(|a, b| self.is_regular(a) && self.is_regular(b));
        for (i, run) in runs.enumerate() {
            out.push_str(if i == 0 { "" } else { between });
            if self.is_regular(&run[0]) && self.lexeme(run, within, out) {
                continue;
            }
            for (i, part) in run.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { between });
                self.rule(part, out);
            }
        }
    }

    /// Appends regular parts as one lexeme, unless that is too large.
    fn lexeme(&self, parts: &[Node<'t>], between: &str, out: &mut String) -> bool {
        let mut regex = String::new();
        for (i, part) in parts.iter().enumerate() {
            regex.push_str(if i == 0 { "" } else { between });
            if self.group(part, &mut regex).is_none() {
                return false;
            }
        }
        let _ = write!(out, "/{regex}/");
        true
    }
}

fn repetition(least: u32, most: Option<u32>, out: &mut String) {
    let _ = match (least, most) {
        (0, None) => write!(out, "*"),
        (1, None) => write!(out, "+"),
        (0, Some(1)) => write!(out, "?"),
        (n, Some(m)) if n == m => write!(out, "{{{n}}}"),
        (n, Some(m)) => write!(out, "{{{n},{m}}}"),
        (n, None) => write!(out, "{{{n},}}"),
    };
}
