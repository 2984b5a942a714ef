//! What `bench` prints: a table, or JSON with llama-bench's field names.

use std::fmt::Write;
use std::time::Duration;

use ggml_sys::GgmlType;
use models::Model;
use serde::Serialize;

use super::settings::{Config, Test, Work};
use crate::commands::statistics::{deviation, mean, median};
use crate::model::sizes_by_type;
use crate::size::{Amount, Bytes, Count};

/// The model, as reports name it.
pub struct Subject {
    /// Its file, or the name of a shape.
    pub file: String,
    /// `qwen2 1.78 B Q4_K`: architecture, parameters, the type of most of its bytes.
    pub kind: String,
    pub bytes: u64,
    pub parameters: u64,
}

impl Subject {
    pub fn new(model: &Model) -> Self {
        let types = sizes_by_type(model.gguf());
        let parameters = model.gguf().tensors().iter().map(|t| t.shape().n_elements() as u64).sum();
        Subject {
            file: model.gguf().path().display().to_string(),
            kind: format!("{} {} {}", model.arch(), Amount(parameters), types.first().map_or("", |t| t.name)),
            bytes: types.iter().map(|t| t.bytes).sum(),
            parameters,
        }
    }
}

/// The machine, and what it does at best with the threads of a configuration.
#[derive(Clone)]
pub struct Machine {
    /// Name of the processor.
    pub cpu: String,
    /// Name of the instruction set.
    pub isa: &'static str,
    /// Bytes a second.
    pub read: f64,
    /// Multiplications of bytes a second.
    pub peak: f64,
    /// Bytes a second that a device copies from pinned memory of the host, and that are sent to it from any.
    pub send: Option<(f64, f64)>,
}

/// What a test took.
pub struct Measured {
    pub test: Test,
    pub config: Config,
    /// Of keys and values.
    pub cache: [GgmlType; 2],
    pub machine: Machine,
    /// Bytes that a run reads at least.
    pub bytes: f64,
    /// Multiplications that a run makes at least.
    pub macs: f64,
    /// When it began: `2026-01-31T12:00:00Z`.
    pub time: String,
    /// Time of each run; at least one.
    pub samples: Vec<Duration>,
    /// The share of chosen experts of the host that were in slots of a device, if there are such.
    pub in_slots: Option<f64>,
}

impl Measured {
    /// Tokens a second of each run.
    fn speeds(&self) -> Vec<f64> {
        self.samples.iter().map(|t| self.test.work.tokens() as f64 / seconds(*t)).collect()
    }

    /// `pp512`, `tg128`, `tg128 x4 @ d4096`, and what else tells it from other configurations.
    pub fn label(&self, all: &[Config]) -> String {
        let mut label = match self.test.work {
            Work::Prompt(n) => format!("pp{n}"),
            Work::Generate { n, rows: 1 } => format!("tg{n}"),
            Work::Generate { n, rows } => format!("tg{n} x{rows}"),
        };
        // Writing to a string cannot fail.
        if self.test.depth > 0 {
            let _ = write!(label, " @ d{}", self.test.depth);
        }
        let differs = |f: &dyn Fn(&Config) -> usize| all.iter().any(|c| f(c) != f(&self.config));
        if differs(&|c| c.rows()) {
            let _ = write!(label, " ub{}", self.config.rows());
        }
        if all.iter().any(|c| c.cache != self.config.cache) {
            let _ = write!(label, " {}/{}", self.cache[0].name(), self.cache[1].name());
        }
        label
    }
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64().max(1e-9)
}

/// The lines that begin the table.
pub fn heading(subject: &Subject, machine: &Machine) -> String {
    let Subject { file, kind, bytes, .. } = subject;
    format!("{file}: {kind}, {}\n{}, {}\n", Bytes(*bytes), machine.cpu, machine.isa)
}

/// The line before the tests with so many threads, and the names of the columns.
pub fn columns(threads: usize, machine: &Machine, width: usize) -> String {
    let threads = Count(threads, "thread");
    let (read, peak) = (machine.read / 1e9, machine.peak / 1e9);
    let send = machine.send.map_or(String::new(), |(copy, send)| {
        format!("; to the device {:.1} GB/s from pinned memory, {:.1} GB/s from any", copy / 1e9, send / 1e9)
    });
    format!(
        "\n{threads}: {read:.1} GB/s read, {peak:.0} GMAC/s of bytes{send}\n{:width$} {:>10} {:>19} {:>8} {:>5} {:>9} {:>5}\n",
        "test", "tokens/s", "from - to", "GB/s", "of it", "GMAC/s", "of it"
    )
}

/// A line of the table.
pub fn line(m: &Measured, label: &str, width: usize) -> String {
    let speeds = m.speeds();
    let (low, high) = speeds.iter().fold((f64::INFINITY, 0f64), |(a, b), &s| (a.min(s), b.max(s)));
    let figures = Figures::new(m);
    let in_slots = m.in_slots.map_or(String::new(), |s| format!("  {:.0}% of experts in slots", 100.0 * s));
    format!(
        "{label:width$} {:>10.2} {:>19} {:>8.2} {:>4.0}% {:>9.1} {:>4.0}%{in_slots}\n",
        figures.median_ts,
        format!("{low:.2} - {high:.2}"),
        figures.gb_per_s,
        100.0 * figures.read_share,
        figures.gmac_per_s,
        100.0 * figures.peak_share
    )
}

/// What the median run did a second.
#[derive(Serialize)]
struct Figures {
    median_ts: f64,
    gb_per_s: f64,
    read_gb_per_s: f64,
    read_share: f64,
    gmac_per_s: f64,
    peak_gmac_per_s: f64,
    peak_share: f64,
    copy_gb_per_s: Option<f64>,
    send_gb_per_s: Option<f64>,
    experts_in_slots: Option<f64>,
}

impl Figures {
    fn new(m: &Measured) -> Self {
        let times: Vec<f64> = m.samples.iter().map(|t| seconds(*t)).collect();
        let time = median(&times);
        let (read, macs) = (m.bytes / time, m.macs / time);
        Figures {
            median_ts: m.test.work.tokens() as f64 / time,
            gb_per_s: read / 1e9,
            read_gb_per_s: m.machine.read / 1e9,
            read_share: read / m.machine.read,
            gmac_per_s: macs / 1e9,
            peak_gmac_per_s: m.machine.peak / 1e9,
            peak_share: macs / m.machine.peak,
            copy_gb_per_s: m.machine.send.map(|s| s.0 / 1e9),
            send_gb_per_s: m.machine.send.map(|s| s.1 / 1e9),
            experts_in_slots: m.in_slots,
        }
    }
}

/// An element of the array that `--json` prints. docs/json.md describes the fields.
#[derive(Serialize)]
struct Element<'a> {
    build_commit: &'static str,
    cpu_info: &'a str,
    gpu_info: &'static str,
    backends: &'static str,
    model_filename: &'a str,
    model_type: &'a str,
    model_size: u64,
    model_n_params: u64,
    n_batch: usize,
    n_ubatch: usize,
    n_threads: usize,
    type_k: String,
    type_v: String,
    n_prompt: usize,
    n_gen: usize,
    n_depth: usize,
    test_time: &'a str,
    avg_ns: u64,
    stddev_ns: u64,
    avg_ts: f64,
    stddev_ts: f64,
    samples_ns: Vec<u64>,
    samples_ts: Vec<f64>,
    n_parallel: usize,
    isa: &'static str,
    bytes: f64,
    macs: f64,
    #[serde(flatten)]
    figures: Figures,
}

impl<'a> Element<'a> {
    fn new(subject: &'a Subject, m: &'a Measured) -> Self {
        let ns: Vec<f64> = m.samples.iter().map(|t| t.as_nanos() as f64).collect();
        let ts = m.speeds();
        let (n_prompt, n_gen, n_parallel) = match m.test.work {
            Work::Prompt(n) => (n, 0, 1),
            Work::Generate { n, rows } => (0, n, rows),
        };
        let [type_k, type_v] = m.cache.map(|ty| ty.name().to_lowercase());
        Element {
            build_commit: env!("CARGO_PKG_VERSION"),
            cpu_info: &m.machine.cpu,
            gpu_info: "",
            backends: "CPU",
            model_filename: &subject.file,
            model_type: &subject.kind,
            model_size: subject.bytes,
            model_n_params: subject.parameters,
            n_batch: m.config.n_batch,
            n_ubatch: m.config.n_ubatch,
            n_threads: m.config.threads.get(),
            type_k,
            type_v,
            n_prompt,
            n_gen,
            n_depth: m.test.depth,
            test_time: &m.time,
            avg_ns: mean(&ns) as u64,
            stddev_ns: deviation(&ns) as u64,
            avg_ts: mean(&ts),
            stddev_ts: deviation(&ts),
            samples_ns: ns.iter().map(|&n| n as u64).collect(),
            samples_ts: ts,
            n_parallel,
            isa: m.machine.isa,
            bytes: m.bytes,
            macs: m.macs,
            figures: Figures::new(m),
        }
    }
}

/// The whole output of `--json`.
pub fn json(subject: &Subject, all: &[Measured]) -> serde_json::Result<String> {
    let elements: Vec<Element<'_>> = all.iter().map(|m| Element::new(subject, m)).collect();
    Ok(serde_json::to_string_pretty(&elements)? + "\n")
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn measured() -> Measured {
        let threads = NonZeroUsize::new(2).unwrap();
        Measured {
            test: Test { work: Work::Generate { n: 10, rows: 4 }, depth: 100 },
            config: Config { threads, n_batch: 2048, n_ubatch: 512, cache: (None, None) },
            cache: [GgmlType::F16, GgmlType::Q8_0],
            machine: Machine { cpu: "a processor".into(), isa: "scalar", read: 8e9, peak: 2e11, send: None },
            bytes: 4e9,
            macs: 1e11,
            time: "2026-01-31T12:00:00Z".into(),
            samples: [500, 1000, 2000].map(Duration::from_millis).to_vec(),
            in_slots: None,
        }
    }

    #[test]
    fn shares_are_of_the_median_run() {
        let f = Figures::new(&measured());
        assert_eq!(
            (f.median_ts, f.gb_per_s, f.read_share, f.gmac_per_s, f.peak_share),
            (10.0, 4.0, 0.5, 100.0, 0.5)
        );
        let text = line(&measured(), "x", 8);
        for part in ["10.00", "5.00 - 20.00", "4.00", "50%", "100.0"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn labels_say_what_differs() {
        let m = measured();
        assert_eq!(m.label(&[m.config]), "tg10 x4 @ d100");
        let other = Config { n_ubatch: 64, cache: (Some(GgmlType::F32), None), ..m.config };
        assert_eq!(m.label(&[m.config, other]), "tg10 x4 @ d100 ub512 F16/Q8_0");
    }

    #[test]
    fn the_median_of_an_even_number_of_runs_is_one_time() {
        let even = Measured { samples: [1000, 3000].map(Duration::from_millis).to_vec(), ..measured() };
        let f = Figures::new(&even);
        // 10 tokens and 4 GB in 2 seconds: as many bytes a token as there are.
        assert_eq!((f.median_ts, f.gb_per_s), (5.0, 2.0));
        assert!(line(&even, "x", 8).contains(" 5.00 "));
    }
}
