//! What it costs to style an answer as it streams: 4,000 pieces of four characters, written one by one to where nothing is kept.
//!
//!     cargo bench --bench rendering

use std::fs::File;

use criterion::{Criterion, criterion_group, criterion_main};

const NOTHING: &str = if cfg!(windows) { "NUL" } else { "/dev/null" };

fn rendering(c: &mut Criterion) {
    let text =
        "## A heading\n\nSome **bold** words, `code` and 模型.\n\n- an item\n\n```rust\nlet a = 1;\n```\n\n"
            .repeat(200);
    let chars: Vec<char> = text.chars().collect();
    let pieces: Vec<String> = chars.chunks(4).map(|c| c.iter().collect()).take(4000).collect();
    let null = File::options().write(true).open(NOTHING).expect("the system has it");
    c.bench_function("4000 pieces", |b| b.iter(|| fathom::fuzzing::rendered(&pieces, &null)));
}

criterion_group!(benches, rendering);
criterion_main!(benches);
