//! The exam of tiny-r1: all 500 held-out questions, the likeliest token each time.
//!
//! ```text
//! cargo run --release -p models --example tiny_r1_eval -- [FILE] [--cache f32|f16|q8_0] [--threads N] [--wrong]
//! ```
//!
//! FILE is the bundled model if not given. `--wrong` shows the answers that are not right.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use fathom_testing::fixtures;
use ggml_sys::GgmlType;

#[path = "../tests/tiny/mod.rs"]
mod tiny;

struct Arguments {
    file: PathBuf,
    cache: GgmlType,
    threads: usize,
    show_wrong: bool,
}

impl Arguments {
    fn parse() -> Result<Self, String> {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let mut parsed =
            Arguments { file: tiny::bundled(), cache: GgmlType::F16, threads, show_wrong: false };
        let mut rest = std::env::args().skip(1);
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--wrong" => parsed.show_wrong = true,
                "--cache" => {
                    let ty = rest.next().as_deref().and_then(GgmlType::from_name);
                    parsed.cache = ty.ok_or("--cache is f32, f16 or q8_0")?;
                }
                "--threads" => {
                    let n = rest.next().and_then(|n| n.parse().ok());
                    parsed.threads = n.filter(|n| *n > 0).ok_or("--threads is a number")?;
                }
                option if option.starts_with('-') => return Err(format!("there is no option {option}")),
                file => parsed.file = file.into(),
            }
        }
        Ok(parsed)
    }
}

/// Right answers and questions.
#[derive(Default)]
struct Count(usize, usize);

impl Count {
    fn add(&mut self, right: bool) {
        self.0 += usize::from(right);
        self.1 += 1;
    }

    fn print(&self, name: &str) {
        println!("| {name} | {}/{} | {:.1} % |", self.0, self.1, 100.0 * self.0 as f64 / self.1 as f64);
    }
}

fn main() -> Result<(), String> {
    let arguments = Arguments::parse()?;
    let mut model = tiny::Tiny::open(&arguments.file, arguments.threads, arguments.cache, None);
    let (mut all, mut tasks, mut languages) = (Count::default(), BTreeMap::new(), BTreeMap::new());
    let (mut read, mut made) = (0, 0);
    let start = Instant::now();
    for question in fixtures::tiny_r1().questions() {
        let (right, answer) = model.examine(&question);
        if !right && arguments.show_wrong {
            println!("{}: {:?} instead of {:?}", question.id, answer.reply, question.answer);
        }
        read += answer.prompt.len();
        made += answer.tokens.len();
        all.add(right);
        tasks.entry(question.task).or_insert_with(Count::default).add(right);
        languages.entry(question.lang).or_insert_with(Count::default).add(right);
    }
    println!("| task | right | |\n| --- | --- | --- |");
    tasks.iter().chain(&languages).for_each(|(name, count)| count.print(name));
    all.print("all");
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("{seconds:.1} s on {} threads: {read} tokens read, {made} generated", arguments.threads);
    Ok(())
}
