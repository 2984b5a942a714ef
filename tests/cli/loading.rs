//! --no-mmap and --mlock change where the weights are, and nothing else.

use super::{Ran, SUM, fathom, model, run};

fn answer(extra: &[&str]) -> Ran {
    run(&[&["run", "-q", "-m", model()], extra, &SUM].concat())
}

#[test]
fn answers_are_the_same_wherever_the_weights_are() {
    let mapped = answer(&[]).done().stdout;
    assert_eq!(answer(&["--no-mmap"]).done().stdout, mapped);
    // Whether locking is allowed depends on where this runs.
    assert_eq!(answer(&["--mlock"]).done().stdout, mapped);
    assert_eq!(answer(&["--no-mmap", "--mlock"]).done().stdout, mapped);
    let ran = Ran::new(fathom().args(["run", "-q"]).args(SUM).env("FATHOM_NO_MMAP", "1").output().unwrap());
    ran.done();
}

#[test]
#[cfg(target_os = "linux")]
fn a_refused_lock_is_a_warning_with_the_limit() {
    // 64 KiB in the shell's units of 1 KiB. Root may lock without a limit.
    let command = format!(
        "ulimit -l 64 && exec {} run --mlock -m {} --temp 0 hi",
        env!("CARGO_BIN_EXE_fathom"),
        model()
    );
    let ran = Ran::new(std::process::Command::new("sh").args(["-c", &command]).output().unwrap()).done();
    let warnings: Vec<&str> = ran.stderr.lines().filter(|l| l.starts_with("warning: ")).collect();
    match warnings[..] {
        [] => {}
        [warning] => assert!(warning.contains("64.0 KiB") && warning.contains("ulimit"), "{warning}"),
        _ => panic!("{warnings:?}"),
    }
}
