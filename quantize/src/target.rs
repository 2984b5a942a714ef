//! What is asked for.

use ggml_sys::GgmlType;
use ggml_sys::format::{FORMATS, Format, Kind};
use regex_automata::meta::Regex;

use crate::error::{Error, Result};
use crate::imatrix::ImportanceFile;
use crate::mix::{self, Choice, Facts, Item, Mix};

/// The types that can be written.
pub fn types() -> impl Iterator<Item = GgmlType> {
    FORMATS.iter().filter(|f| is_writable(f)).map(|f| f.ty)
}

/// Whether there is an encoder.
pub(crate) fn is_writable(format: &Format) -> bool {
    match &format.kind {
        Kind::Float { .. } => true,
        Kind::Blocks(b) => b.encode.is_some(),
    }
}

fn writable(ty: GgmlType) -> Result<GgmlType> {
    if is_writable(ty.format()) { Ok(ty) } else { Err(Error::NoEncoder { ty }) }
}

fn by_name(name: &str) -> Result<GgmlType> {
    let ty = GgmlType::from_name(name).ok_or_else(|| Error::UnknownType { name: name.into() })?;
    writable(ty)
}

/// What the tensors of a model become: a [mix](Mix) of types, and what differs from it.
///
/// A matrix whose rows are no whole blocks falls back to the nearest type with smaller blocks, or to F16.
#[derive(Clone, Debug)]
pub struct Target {
    mix: Mix,
    pure: bool,
    output: Option<GgmlType>,
    keeps_output: bool,
    embedding: Option<GgmlType>,
    overrides: Vec<Override>,
    importance: Option<ImportanceFile>,
}

impl Target {
    /// A mix.
    pub fn of(mix: Mix) -> Self {
        Target {
            mix,
            pure: false,
            output: None,
            keeps_output: false,
            embedding: None,
            overrides: Vec::new(),
            importance: None,
        }
    }

    /// The mix that is named after a type: Q4_K_M for Q4_K.
    ///
    /// # Errors
    /// If there is no encoder for the type.
    pub fn new(ty: GgmlType) -> Result<Self> {
        Ok(Target::of(Mix::of(writable(ty)?)))
    }

    /// The mix of this name, in either case.
    ///
    /// # Errors
    /// If there is no such mix, or no encoder for most of it.
    pub fn named(name: &str) -> Result<Self> {
        let mix = Mix::named(name).ok_or_else(|| Error::UnknownMix { name: name.into() })?;
        writable(mix.base())?;
        Ok(Target::of(mix))
    }

    /// All matrices in the mix's main type, without its rules.
    pub fn pure(mut self) -> Self {
        self.pure = true;
        self
    }

    /// Gives the output matrix another type; the embedding where that serves as one, unless that has been given its own.
    ///
    /// # Errors
    /// If there is no encoder for it.
    pub fn with_output(mut self, ty: GgmlType) -> Result<Self> {
        self.output = Some(writable(ty)?);
        Ok(self)
    }

    /// Leaves the output matrix as it is, whatever type it would get otherwise. An embedding that serves as one is converted.
    pub fn keeping_output(mut self) -> Self {
        self.keeps_output = true;
        self
    }

    /// Gives the embedding another type.
    ///
    /// # Errors
    /// If there is no encoder for it.
    pub fn with_embedding(mut self, ty: GgmlType) -> Result<Self> {
        self.embedding = Some(writable(ty)?);
        Ok(self)
    }

    /// Gives some tensors another type. Of several that fit a name, the first counts.
    pub fn with(mut self, other: Override) -> Self {
        self.overrides.push(other);
        self
    }

    /// Encodes by what matters, as this file has it.
    pub fn with_importance(mut self, file: ImportanceFile) -> Self {
        self.importance = Some(file);
        self
    }

    /// What matters, if that is known.
    pub fn importance(&self) -> Option<&ImportanceFile> {
        self.importance.as_ref()
    }

    /// The types that the tensors of a model get; `None` for those that keep theirs. `items` are all its tensors, and
    /// `known` says that there is an importance matrix, which some rules ask for.
    pub fn types(&self, facts: &Facts, known: bool, items: &[Item<'_>]) -> Vec<Option<Choice>> {
        mix::choose(self, facts, known, items)
    }

    /// What is asked for.
    pub fn name(&self) -> &'static str {
        self.mix.name()
    }

    /// The mix.
    pub fn mix(&self) -> Mix {
        self.mix
    }

    /// The type of most matrices.
    pub fn ty(&self) -> GgmlType {
        self.mix.base()
    }

    /// Whether there are no rules.
    pub fn is_pure(&self) -> bool {
        self.pure
    }

    /// The type of the output matrix, if it is given.
    pub fn output(&self) -> Option<GgmlType> {
        self.output
    }

    /// Whether the output matrix stays as it is.
    pub fn keeps_output(&self) -> bool {
        self.keeps_output
    }

    /// The type of the embedding, if it is given.
    pub fn embedding(&self) -> Option<GgmlType> {
        self.embedding
    }

    /// What differs from the mix.
    pub fn overrides(&self) -> &[Override] {
        &self.overrides
    }
}

/// A type for the tensors whose names a pattern fits.
#[derive(Clone, Debug)]
pub struct Override {
    pattern: String,
    regex: Regex,
    ty: GgmlType,
}

impl Override {
    /// `pattern` is a regular expression that is looked for anywhere in the name: `attn_v`, `blk\.(0|1)\.`.
    ///
    /// # Errors
    /// If it is none, or there is no encoder for the type.
    pub fn new(pattern: &str, ty: GgmlType) -> Result<Self> {
        let bad = |what: String| Error::Pattern { pattern: pattern.into(), what };
        if pattern.is_empty() {
            return Err(bad("is empty".into()));
        }
        // The cause of a syntax error has a drawing of several lines; its last one says what is wrong.
        let regex = Regex::new(pattern).map_err(|e| {
            let cause = e.syntax_error().map_or_else(|| e.to_string(), ToString::to_string);
            let last = cause.lines().last().unwrap_or_default();
            bad(format!("is no regular expression: {}", last.trim_start_matches("error: ")))
        })?;
        Ok(Override { pattern: pattern.into(), regex, ty: writable(ty)? })
    }

    /// Reads `PATTERN=TYPE`.
    ///
    /// # Errors
    /// As [`Override::new`], or if there is no `=` or no such type.
    pub fn parse(text: &str) -> Result<Self> {
        let Some((pattern, name)) = text.rsplit_once('=') else {
            return Err(Error::Pattern {
                pattern: text.into(),
                what: "has no type: PATTERN=TYPE is needed".into(),
            });
        };
        Override::new(pattern, by_name(name)?)
    }

    /// The regular expression.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// The type that is given.
    pub fn ty(&self) -> GgmlType {
        self.ty
    }

    /// Whether it is meant for the tensor of this name.
    pub fn fits(&self, name: &str) -> bool {
        self.regex.is_match(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_those_with_an_encoder() {
        let all: Vec<_> = types().collect();
        for ty in
            [GgmlType::F32, GgmlType::BF16, GgmlType::Q4_0, GgmlType::Q8_0, GgmlType::Q4_K, GgmlType::Q6_K]
        {
            assert!(all.contains(&ty), "{ty}");
        }
        for f in FORMATS {
            assert_eq!(Target::new(f.ty).is_ok(), all.contains(&f.ty), "{}", f.name);
        }
        assert_eq!(Target::named("q4_k").unwrap().name(), "Q4_K_M");
    }

    #[test]
    fn names_that_are_no_types_are_answered_with_those_that_are() {
        let e = Target::named("Q4_X\n").unwrap_err().to_string();
        assert!(
            e.starts_with("there is no type \"Q4_X\\n\"; known are: F32, F16, BF16, Q8_0, Q6_K, Q5_K_M"),
            "{e}"
        );
        let e = Target::new(GgmlType::IQ1_S).map(drop);
        if let Err(e) = e {
            assert!(e.to_string().starts_with("IQ1_S cannot be written; types that can: F32"), "{e}");
        }
    }

    #[test]
    fn patterns_are_looked_for_anywhere_in_a_name() {
        let o = Override::parse(r"blk\.(0|1)\.attn_v=q6_K").unwrap();
        assert_eq!((o.pattern(), o.ty()), (r"blk\.(0|1)\.attn_v", GgmlType::Q6_K));
        assert!(o.fits("blk.1.attn_v.weight") && !o.fits("blk.10.attn_v.weight"));
        for (text, what) in [
            ("attn_v", "has no type"),
            ("=Q8_0", "is empty"),
            ("a(b=Q8_0", "is no regular expression: unclosed group"),
            ("attn_v=Q9", "there is no type \"Q9\""),
        ] {
            let e = Override::parse(text).unwrap_err().to_string();
            assert!(e.contains(what) && !e.contains('\n'), "{text}: {e}");
        }
    }
}
