//! Answers of a certain form: what a constraint allows next, and where in an answer it holds.

use crate::error::Result;
use crate::tokenizer::{TokenId, Tokenizer};

/// Allows the tokens with which an answer can go on, so that it is of a form by construction.
pub trait Constraint {
    /// Sets the logits of all other tokens to minus infinity. Tokens that end generation are allowed where the answer is complete.
    ///
    /// # Errors
    /// If no token is allowed, or finding out takes too much.
    fn allow(&mut self, logits: &mut [f32]) -> Result<()>;

    /// The answer goes on with this token.
    ///
    /// # Errors
    /// If it is not allowed.
    fn accept(&mut self, token: TokenId) -> Result<()>;

    /// Whether the answer is complete as it is. It may be able to go on.
    fn is_complete(&mut self) -> bool;

    /// Whether nothing can follow.
    fn is_done(&self) -> bool;
}

/// Whether the model may reason before an answer that is constrained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reasoning {
    /// It may; the reasoning is free.
    Free,
    /// All is answer.
    None,
}

/// Applies a constraint, if there is one, to the answer of a model that may reason before it.
///
/// Reasoning that the prompt opened, or the model opens with its first token, is free. It ends as the [splitter] says; the
/// line's ends behind its tag are given, so that the constraint begins where the answer does.
///
/// [splitter]: crate::reasoning::Splitter
pub(crate) struct Guide<'a> {
    constraint: Option<&'a mut dyn Constraint>,
    /// The token that may open the reasoning, until another is drawn.
    open: Option<TokenId>,
    /// The token that closes it, where it is one.
    close: Option<TokenId>,
    /// Whether the model reasons freely.
    free: bool,
}

impl<'a> Guide<'a> {
    /// `inside`: the prompt has opened the reasoning.
    pub fn new(
        constraint: Option<&'a mut dyn Constraint>,
        tokenizer: &Tokenizer,
        inside: bool,
        reasoning: Reasoning,
    ) -> Self {
        let may = reasoning == Reasoning::Free && constraint.is_some();
        Guide {
            constraint,
            open: tokenizer.token_id("<think>").filter(|_| may && !inside),
            close: tokenizer.token_id("</think>").filter(|_| may),
            free: may && inside,
        }
    }

    /// Whether what comes is free reasoning before a constrained answer.
    pub fn is_free(&self) -> bool {
        self.free
    }

    /// Whether the answer has to end here.
    pub fn is_done(&self) -> bool {
        !self.free && self.constraint.as_ref().is_some_and(|c| c.is_done())
    }

    /// Whether the answer ended before its form allows it.
    pub fn is_unfinished(&mut self) -> bool {
        match &mut self.constraint {
            Some(constraint) => self.free || !constraint.is_complete(),
            None => false,
        }
    }

    /// Masks the logits of the next token.
    pub fn allow(&mut self, logits: &mut [f32]) -> Result<()> {
        let Some(constraint) = self.constraint.as_mut().filter(|_| !self.free) else { return Ok(()) };
        let opening = self.open.and_then(|id| Some((id as usize, *logits.get(id as usize)?)));
        constraint.allow(logits)?;
        if let Some((id, logit)) = opening {
            logits[id] = logit;
        }
        Ok(())
    }

    /// A token was drawn, or `given` to close the reasoning; `thinking` says whether that goes on after it. `true` if the reasoning ended
    /// with it and the line's ends behind its tag are to come.
    pub fn took(&mut self, token: TokenId, given: bool, thinking: bool) -> Result<bool> {
        let Some(constraint) = &mut self.constraint else { return Ok(false) };
        if given {
            self.free &= thinking;
            return Ok(false);
        }
        let opened = self.open.take() == Some(token) && thinking;
        if !(self.free || opened) {
            constraint.accept(token)?;
            return Ok(false);
        }
        self.free = thinking;
        Ok(!thinking && self.close == Some(token))
    }
}
