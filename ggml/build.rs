//! Deflates the PTX of the CUDA kernels and lists what it holds, for `src/cuda/modules.rs`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let folder = Path::new("cuda/ptx");
    println!("cargo::rerun-if-changed={}", folder.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo names the folder"));
    let mut names: Vec<PathBuf> = match fs::read_dir(folder) {
        Ok(entries) => entries.map(|e| e.expect("a folder of this crate").path()).collect(),
        Err(_) => vec![],
    };
    names.retain(|p| p.extension().is_some_and(|e| e == "ptx"));
    names.sort();
    let (mut modules, mut kernels) = (String::new(), vec![]);
    for (i, path) in names.iter().enumerate() {
        let text = fs::read_to_string(path).expect("PTX is text");
        let packed = out.join(format!("{i}.z"));
        fs::write(&packed, miniz_oxide::deflate::compress_to_vec(text.as_bytes(), 9)).expect("space");
        let _ = writeln!(modules, "    (include_bytes!({packed:?}), {}),", text.len());
        kernels.extend(entries(&text).map(|(name, size)| format!("    ({name:?}, {i}, {size}),\n")));
    }
    // The program searches by name.
    kernels.sort();
    let mut text = format!("static MODULES: &[(&[u8], usize)] = &[\n{modules}];\n\n");
    let _ = write!(text, "static KERNELS: &[(&str, usize, usize)] = &[\n{}];\n", kernels.concat());
    fs::write(out.join("ptx.rs"), text).expect("space");
}

/// The kernels of a module, and the bytes of the one parameter of each: what stands as
/// `.visible .entry NAME(` and, on the next line, `.param .align 8 .b8 NAME_param_0[SIZE]`.
fn entries(text: &str) -> impl Iterator<Item = (&str, usize)> {
    text.split(".visible .entry ").skip(1).map(|entry| {
        let (name, rest) = entry.split_once('(').expect("an entry has parameters");
        let param = rest.split(')').next().unwrap_or_default();
        let size = param.rsplit('[').next().and_then(|s| s.split(']').next()).and_then(|s| s.parse().ok());
        (name.trim(), size.unwrap_or_else(|| panic!("{name} does not take one struct")))
    })
}
