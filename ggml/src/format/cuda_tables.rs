//! What the CUDA kernels' sources repeat of the formats, held against the formats here.
//!
//! With `FATHOM_WRITE_TABLES` set the test of the grids writes the files anew.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

use super::grids::{IQ1S, IQ2S, IQ2XS, IQ2XXS, IQ3S, IQ3XXS};
use super::{FORMATS, GgmlType};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cuda/kernels/formats");

const HEAD: &str = "\
// Made by the test `the_grids_of_kernels_are_these` of src/format/cuda_tables.rs; do not edit.
//
// A point's coordinates, a byte each, first lowest; of IQ1 a nibble each, from 0 to 2, coordinate i in nibble 2i, i + 4 in 2i + 1.
#pragma once
";

/// The file of a grid.
fn check(name: &str, words: &[u32]) {
    let mut text = HEAD.to_string();
    let array = format!("GRID_{}[{}]", name.to_uppercase(), words.len());
    let _ = writeln!(text, "\nstatic __device__ __align__(16) const u32 {array} = {{");
    for line in words.chunks(8) {
        let line: Vec<String> = line.iter().map(|w| format!("0x{w:08x},")).collect();
        let _ = writeln!(text, "    {}", line.join(" "));
    }
    text.push_str("};\n");
    let file = Path::new(FOLDER).join(format!("grids/{name}.cuh"));
    if env::var_os("FATHOM_WRITE_TABLES").is_some() {
        fs::write(&file, &text).unwrap();
    }
    assert!(
        fs::read_to_string(&file).unwrap() == text,
        "grids/{name}.cuh is not what the format's grid makes"
    );
}

/// Four coordinates a word.
fn bytes<const D: usize>(grid: &[[i8; D]]) -> Vec<u32> {
    grid.as_flattened().as_chunks::<4>().0.iter().map(|g| u32::from_le_bytes(g.map(|g| g as u8))).collect()
}

/// The eight coordinates −8, 0, 8 of IQ1 as nibbles 0, 1, 2.
fn nibbles(point: &[i8; 8]) -> u32 {
    let digit = |i: usize| u32::from((point[i] + 8) as u8 / 8);
    (0..4).fold(0, |word, i| word | (digit(i) | digit(i + 4) << 4) << (8 * i))
}

#[test]
fn the_grids_of_kernels_are_these() {
    check("iq1", &IQ1S.iter().map(nibbles).collect::<Vec<_>>());
    check("iq2_xxs", &bytes(&IQ2XXS));
    check("iq2_xs", &bytes(&IQ2XS));
    check("iq2_s", &bytes(&IQ2S));
    check("iq3_xxs", &bytes(&IQ3XXS));
    check("iq3_s", &bytes(&IQ3S));
}

#[test]
fn kernels_have_every_format() {
    let list = fs::read_to_string(Path::new(FOLDER).join("list.txt")).unwrap();
    let names: Vec<GgmlType> = list.lines().map(|l| GgmlType::from_name(l).expect("a format")).collect();
    assert_eq!(names, FORMATS.iter().map(|f| f.ty).collect::<Vec<_>>());
    assert_eq!(list, list.to_lowercase());
}
