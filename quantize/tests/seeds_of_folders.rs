//! What the fuzz target `folder` starts from: small folders, and each spoilt in thousands of fixed ways.

use std::path::Path;

mod common {
    pub mod folder;
}
use common::folder::{BETWEEN, FILES, open_and_use};

/// The seeds by name.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/folder");
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap())
    };
    let mut seeds: Vec<_> = std::fs::read_dir(dir).unwrap().map(read).collect();
    seeds.sort();
    seeds
}

#[test]
fn seeds_are_sound() {
    let seeds = seeds();
    assert!(seeds.len() >= 4);
    for (name, seed) in seeds {
        assert!(open_and_use(&seed), "{name}");
        let between = seed.windows(2).filter(|w| *w == BETWEEN).count();
        assert!(between >= FILES.len() - 2, "{name}");
    }
}

#[test]
fn bytes_that_are_others_missing_or_twice_end_in_one_line() {
    for (_, seed) in seeds() {
        for at in (0..seed.len()).step_by(3) {
            for new in [b'0', b'}', 0xff] {
                let mut spoilt = seed.clone();
                spoilt[at] = new;
                open_and_use(&spoilt);
            }
            open_and_use(&[&seed[..at], &seed[at + 1..]].concat());
            open_and_use(&[&seed[..=at], &seed[at..]].concat());
            open_and_use(&seed[..at]);
        }
    }
}
