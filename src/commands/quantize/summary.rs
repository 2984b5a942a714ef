//! What has become of a model, or would.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use ggml_sys::GgmlType;
use quantize::{Deviation, Plan, Report};
use serde::Serialize;

use crate::size::{Bytes, Count};
use crate::streams;

/// What is, or would be, in the new file. docs/json.md describes the fields.
#[derive(Serialize)]
pub struct Summary<'a> {
    input: String,
    output: String,
    written: bool,
    /// The new files, if they are shards.
    files: Vec<String>,
    /// Tensors that an earlier run had completed.
    resumed: usize,
    input_bytes: u64,
    bytes: u64,
    bits_per_weight: f64,
    types: Vec<TypeSummary>,
    tensors: Vec<TensorSummary<'a>>,
}

#[derive(Serialize)]
struct TypeSummary {
    r#type: &'static str,
    tensors: usize,
    bytes: u64,
    bits_per_weight: f64,
    error: Option<f64>,
    /// The same, each square weighted by the importance of its column.
    weighted_error: Option<f64>,
}

#[derive(Serialize)]
struct TensorSummary<'a> {
    name: &'a str,
    from: &'static str,
    to: &'static str,
    /// The type that the rows did not fit.
    fallback_of: Option<&'static str>,
    bytes: u64,
    new_bytes: u64,
    error: Option<f64>,
    weighted_error: Option<f64>,
}

impl<'a> Summary<'a> {
    /// Of a plan, and of what came of it if it was carried out.
    pub fn new(plan: &'a Plan, output: &Path, report: Option<&Report>) -> Self {
        let deviations = report.map(|r| &*r.deviations);
        let deviation = |i: usize| deviations.and_then(|d| d.get(i));
        let tensors = plan.lines().iter().enumerate().map(|(i, l)| TensorSummary {
            name: &l.name,
            from: l.from.name(),
            to: l.to.name(),
            fallback_of: l.fallback_of.map(GgmlType::name),
            bytes: l.bytes,
            new_bytes: l.new_bytes,
            error: deviation(i).map(Deviation::relative),
            weighted_error: deviation(i).and_then(Deviation::weighted),
        });
        let files = report.map_or(&[][..], |r| &r.files);
        let shards = if files.len() > 1 { files } else { &[] };
        let weights = plan.lines().iter().map(|l| l.shape.n_elements()).sum();
        let data = plan.lines().iter().map(|l| l.new_bytes).sum();
        Summary {
            input: plan.source().path().display().to_string(),
            output: files.first().map_or(output, |f| f).display().to_string(),
            written: report.is_some(),
            files: shards.iter().map(|f| f.display().to_string()).collect(),
            resumed: report.map_or(0, |r| r.resumed),
            input_bytes: plan.source().size(),
            bytes: report.map_or(plan.file_size(), |r| r.bytes),
            bits_per_weight: bits(data, weights),
            types: types(plan, deviations),
            tensors: tensors.collect(),
        }
    }

    /// A table of types and a line on the whole; before anything is written, the tensors too.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        if !self.written {
            self.write_tensors(&mut out);
        }
        let weighted = self.types.iter().any(|t| t.weighted_error.is_some());
        let percent = |e: Option<f64>| e.map_or(String::new(), |e| format!("{:.3} %", e * 100.0));
        let heading = if weighted { "    weighted" } else { "" };
        let (ty, bits) = ("type", "bits/weight");
        let _ = writeln!(out, "{ty:<8} {:>7} {:>11} {bits:>11} {:>9}{heading}", "tensors", "size", "error");
        for t in &self.types {
            let size = Bytes(t.bytes).to_string();
            let error = percent(t.error);
            let weighted =
                if weighted { format!(" {:>11}", percent(t.weighted_error)) } else { String::new() };
            let (ty, n, bits) = (t.r#type, t.tensors, t.bits_per_weight);
            let line = format!("{ty:<8} {n:>7} {size:>11} {bits:>11.2} {error:>9}{weighted}");
            let _ = writeln!(out, "{}", line.trim_end());
        }
        let files = match self.files.len() {
            0 => String::new(),
            n => format!(" and {}", Count(n - 1, "more shard")),
        };
        let _ = writeln!(
            out,
            "{}{files} {}: {} from {}, {:.2} bits a weight",
            streams::harmless(&self.output),
            if self.written { "written" } else { "would be written" },
            Bytes(self.bytes),
            Bytes(self.input_bytes),
            self.bits_per_weight
        );
        out
    }

    fn write_tensors(&self, out: &mut String) {
        let name = |t: &TensorSummary<'_>| streams::harmless(t.name).to_string();
        let width = self.tensors.iter().map(|t| name(t).chars().count()).max().unwrap_or(0);
        for t in &self.tensors {
            let (name, from, to, size) = (name(t), t.from, t.to, Bytes(t.new_bytes).to_string());
            let change = if from == to { to.to_owned() } else { format!("{from} → {to}") };
            let _ = writeln!(out, "{name:<width$}  {change:<16} {size:>11}");
        }
        out.push('\n');
    }
}

/// The tensors by their new types, the largest first.
fn types(plan: &Plan, deviations: Option<&[Deviation]>) -> Vec<TypeSummary> {
    #[derive(Default)]
    struct Sum {
        tensors: usize,
        bytes: u64,
        weights: usize,
        deviation: Deviation,
    }
    let mut sums = BTreeMap::<&'static str, Sum>::new();
    for (i, line) in plan.lines().iter().enumerate() {
        let sum = sums.entry(line.to.name()).or_default();
        sum.tensors += 1;
        sum.bytes += line.new_bytes;
        sum.weights += line.shape.n_elements();
        sum.deviation += deviations.and_then(|d| d.get(i)).copied().unwrap_or_default();
    }
    let summary = |(name, sum): (&'static str, Sum)| TypeSummary {
        r#type: name,
        tensors: sum.tensors,
        bytes: sum.bytes,
        bits_per_weight: bits(sum.bytes, sum.weights),
        error: deviations.map(|_| sum.deviation.relative()),
        weighted_error: sum.deviation.weighted(),
    };
    let mut types: Vec<TypeSummary> = sums.into_iter().map(summary).collect();
    types.sort_by_key(|t| std::cmp::Reverse(t.bytes));
    types
}

fn bits(bytes: u64, weights: usize) -> f64 {
    bytes as f64 * 8.0 / weights.max(1) as f64
}
