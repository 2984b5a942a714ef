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
    let set = |value: &str| {
        Ran::new(fathom().args(["run", "-q"]).args(SUM).env("FATHOM_NO_MMAP", value).output().unwrap())
    };
    assert_eq!(set("1").done().stdout, mapped);
    set("x").failed(2, "FATHOM_NO_MMAP is 'x'");
}

/// Whether this process may have the capability to lock without a limit, CAP_IPC_LOCK. In a namespace of users it has it and
/// may not.
#[cfg(target_os = "linux")]
fn may_lock() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let caps = status.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(caps.trim(), 16).unwrap() >> 14 & 1 == 1
}

#[test]
#[cfg(target_os = "linux")]
fn a_refused_lock_is_a_warning_with_the_limit() {
    // 64 KiB in the shell's units of 1 KiB.
    let command = format!(
        "ulimit -l 64 && exec {} run --mlock -m {} --temp 0 hi",
        env!("CARGO_BIN_EXE_fathom"),
        model()
    );
    let ran = Ran::new(
        std::process::Command::new("sh")
            .env("FATHOM_NO_CONFIG", "1")
            .args(["-c", &command])
            .output()
            .unwrap(),
    )
    .done();
    let warnings: Vec<&str> = ran.stderr.lines().filter(|l| l.starts_with("warning: ")).collect();
    match warnings[..] {
        [] => assert!(may_lock(), "64 KiB cannot hold the model"),
        [warning] => assert!(warning.contains("64.0 KiB") && warning.contains("ulimit"), "{warning}"),
        _ => panic!("{warnings:?}"),
    }
}
