//! The simulated CUDA driver of ggml/cuda/sim, compiled once.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::{sha256, unpack};

/// Panics where [`cuda_driver`] would give nothing, so that CI cannot pass without it.
const REQUIRED: &str = "FATHOM_REQUIRE_SIMULATOR";

const FLAGS: &[&str] = &[
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    // Misaligned accesses end in an illegal instruction, which the simulator takes for what a device would say.
    "-fsanitize=alignment",
    "-fsanitize-undefined-trap-on-error",
    "-DSIM",
    "-w",
];

/// A library that can stand in for NVIDIA's driver and runs kernels on the CPU, for `FATHOM_CUDA_DRIVER`.
///
/// `None` if this machine cannot make it: it takes Linux, x86-64 or aarch64, and a C++ compiler (`CXX`, or `c++`).
///
/// # Panics
/// If it does not compile, or if it cannot be made although `FATHOM_REQUIRE_SIMULATOR` is set.
pub fn cuda_driver() -> Option<PathBuf> {
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let system = cfg!(all(
        target_os = "linux",
        target_env = "gnu",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ));
    let version = if system { Command::new(&compiler).arg("--version").output().ok() } else { None };
    let Some(version) = version.filter(|v| v.status.success()) else {
        assert!(std::env::var_os(REQUIRED).is_none(), "no C++ compiler for the simulated CUDA driver");
        return None;
    };
    let made = build(&compiler, &version.stdout);
    Some(made.unwrap_or_else(|e| panic!("the simulated CUDA driver: {e}")))
}

/// What is compiled: a source, and the format it is compiled for.
struct Unit {
    source: PathBuf,
    format: Option<String>,
}

fn build(compiler: &OsString, version: &[u8]) -> std::io::Result<PathBuf> {
    let cuda = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ggml/cuda");
    let (units, headers) = sources(&cuda)?;
    let mut common = version.to_vec();
    common.extend(FLAGS.join(" ").bytes());
    for header in &headers {
        common.extend(fs::read(header)?);
    }
    let common = sha256::digest(&common);

    let folder = unpack::target_dir().join("cuda-driver");
    fs::create_dir_all(&folder)?;
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?;
    let objects = compile(compiler, &folder, &units, &common)?;
    let names: Vec<u8> = objects.iter().flat_map(|o| o.as_os_str().as_encoded_bytes().to_vec()).collect();
    let library = folder.join(format!("libcuda-{}.so.1", &sha256::hex(&names)[..16]));
    if !library.exists() {
        let partial = folder.join("partial.so");
        run(Command::new(compiler).arg("-shared").arg("-o").arg(&partial).args(&objects).arg("-lpthread"))?;
        fs::rename(partial, &library)?;
        // Objects of sources as they were; another process may still have an older library open, and keeps it.
        for old in fs::read_dir(&folder)? {
            let old = old?.path();
            if old.extension().is_some_and(|e| e == "o") && !objects.contains(&old) {
                fs::remove_file(old)?;
            }
        }
    }
    Ok(library)
}

/// All units, and the files that any of them may include.
fn sources(cuda: &Path) -> std::io::Result<(Vec<Unit>, Vec<PathBuf>)> {
    let formats = fs::read_to_string(cuda.join("kernels/formats/list.txt"))?;
    let (mut units, mut headers) = (vec![], vec![]);
    for folder in ["kernels", "kernels/formats", "kernels/formats/grids", "sim", "sim/driver"] {
        for entry in fs::read_dir(cuda.join(folder))? {
            let source = entry?.path();
            let Some(extension) = source.extension().and_then(|e| e.to_str()) else { continue };
            match extension {
                "h" | "cuh" => headers.push(source),
                "cu" if source.ends_with("format.cu") => {
                    let unit = |f: &str| Unit { source: source.clone(), format: Some(f.into()) };
                    units.extend(formats.lines().map(unit));
                }
                "cu" | "cpp" => units.push(Unit { source, format: None }),
                _ => {}
            }
        }
    }
    headers.sort();
    units.sort_by(|a, b| (&a.source, &a.format).cmp(&(&b.source, &b.format)));
    Ok((units, headers))
}

/// Compiles what has not been compiled as it is now, on all processors, and gives the objects in order.
fn compile(
    compiler: &OsString,
    folder: &Path,
    units: &[Unit],
    common: &[u8],
) -> std::io::Result<Vec<PathBuf>> {
    let mut objects = vec![];
    for unit in units {
        let name =
            unit.format.as_deref().or(unit.source.file_stem().and_then(|s| s.to_str())).unwrap_or_default();
        let key = [common, &fs::read(&unit.source)?, name.as_bytes()].concat();
        objects.push(folder.join(format!("{name}-{}.o", &sha256::hex(&key)[..16])));
    }
    let next = AtomicUsize::new(0);
    let work = || -> std::io::Result<()> {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let (Some(unit), Some(object)) = (units.get(i), objects.get(i)) else { return Ok(()) };
            if object.exists() {
                continue;
            }
            let partial = object.with_extension("partial");
            let mut command = Command::new(compiler);
            command.args(FLAGS).args(unit.format.iter().map(|f| format!("-DFORMAT={f}")));
            run(command.args(["-x", "c++", "-c"]).arg(&unit.source).arg("-o").arg(&partial))?;
            fs::rename(partial, object)?;
        }
    };
    let threads = thread::available_parallelism().map_or(1, |n| n.get());
    thread::scope(|s| {
        let workers: Vec<_> = (0..threads).map(|_| s.spawn(work)).collect();
        workers.into_iter().try_for_each(|w| w.join().expect("no panics"))
    })?;
    Ok(objects)
}

fn run(command: &mut Command) -> std::io::Result<()> {
    let output = command.output()?;
    let text = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    if output.status.success() { Ok(()) } else { Err(std::io::Error::other(format!("{command:?}:\n{text}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_simulator_notices_mistakes() {
        if cuda_driver().is_none() {
            return;
        }
        let sim = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ggml/cuda/sim");
        let program = unpack::target_dir().join("cuda-driver/check");
        let mut command = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()));
        command.args(FLAGS).arg("-o").arg(&program).arg("-x").arg("c++").arg(sim.join("check/kernels.cu"));
        command.args(["check/main.cpp", "simt.cpp"].map(|f| sim.join(f)));
        command.args(["device", "memory", "modules", "streams"].map(|f| sim.join(format!("driver/{f}.cpp"))));
        run(command.arg("-lpthread")).unwrap();
        run(&mut Command::new(program)).unwrap();
    }

    #[test]
    fn it_is_made_once() {
        let Some(first) = cuda_driver() else { return };
        let made = fs::metadata(&first).unwrap().modified().unwrap();
        assert_eq!(cuda_driver().unwrap(), first);
        assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), made);
    }
}
