//! Runs that are killed, that run out of disk, or are stopped: what has the final name is whole, and the next run goes on.

#![cfg(unix)]

use std::fs;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fathom_testing::fixtures;
use ggml_sys::format::random::Random;
use ggml_sys::gguf::Gguf;
use quantize::{Error, Mix, Options, Plan, Report, Split, Target, run};
use tempfile::TempDir;

/// Tells a process of these tests that it is the one to be killed: what to do, as words.
const TASK: &str = "FATHOM_TEST_QUANTIZE";
/// What it says at its first step.
const BEGUN: &str = "begun";
/// What takes the place on the disk.
const FILLER: &str = "filler";
/// Pause of such a process at each step, so that there is time to kill it.
const PAUSE: Duration = Duration::from_millis(2);

struct Folder {
    dir: TempDir,
    out: PathBuf,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out.gguf");
        Folder { dir, out }
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The new files and their contents.
    fn contents(&self) -> Vec<(String, Vec<u8>)> {
        let read = |name: String| (name.clone(), fs::read(self.dir.path().join(name)).unwrap());
        self.names().into_iter().map(read).collect()
    }
}

fn plan() -> Plan {
    let source = Gguf::open(&fixtures::tiny_r1().f16).unwrap();
    Plan::new(&source, &Target::of(Mix::Q8_0)).unwrap()
}

fn options(split: Split) -> Options {
    Options { split, ..Options::default() }
}

/// Everything is noted at once.
fn noting(options: Options) -> Options {
    Options { sync_bytes: Some(1), ..options }
}

fn quantize(out: &Path, options: &Options) -> Result<Report, Error> {
    run(&plan(), out, options, &mut |_| (), &AtomicBool::new(false))
}

const SHARDS: Split = Split::BySize(2_000_000);

/// Leaves `free` bytes on the disk of a folder, and a bit: systems give space in pages.
fn fill(folder: &Path, free: u64) {
    let mut filler = File::create(folder.join(FILLER)).unwrap();
    while filler.write_all(&[1; 1 << 12]).is_ok() {}
    let size = filler.metadata().unwrap().len();
    filler.set_len(size.saturating_sub(free)).unwrap();
}

/// No test by itself: what the other tests start as a process of its own. `OUT SHARDS|WHOLE KEEP|-`, and perhaps the step
/// at which something else fills the disk, and what that leaves.
#[test]
fn a_process_to_be_killed() {
    let Some(task) = std::env::var_os(TASK) else { return };
    let task = task.into_string().unwrap();
    let words: Vec<_> = task.split(' ').collect();
    let [out, split, keep] = <[&str; 3]>::try_from(&words[..3]).unwrap();
    let number = |i: usize| words.get(i).map(|n| n.parse::<u64>().unwrap());
    let out = Path::new(out);
    let mut step = 0;
    let split = if split == "SHARDS" { SHARDS } else { Split::Whole };
    let options = noting(Options { keep_partial: keep == "KEEP", ..options(split) });
    let mut begun = false;
    let progress = &mut |_: quantize::Progress<'_>| {
        if !std::mem::replace(&mut begun, true) {
            println!("\n{BEGUN}");
        }
        std::thread::sleep(PAUSE);
        step += 1;
        if number(3) == Some(step) {
            fill(out.parent().unwrap(), number(4).unwrap());
        }
    };
    if let Err(e) = run(&plan(), out, &options, progress, &AtomicBool::new(false)) {
        println!("\nerror: {e}");
        std::process::exit(3);
    }
}

/// A process that writes `out`; `shell` comes before it.
fn start(out: &Path, split: &str, keep: &str, shell: &str) -> Child {
    let program = std::env::current_exe().unwrap();
    let script = format!("{shell} exec \"$0\" a_process_to_be_killed --exact --nocapture --test-threads=1");
    Command::new("sh")
        .args(["-c", &script])
        .arg(program)
        .env(TASK, format!("{} {split} {keep}", out.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_run_that_was_killed_leaves_nothing_that_looks_finished_and_the_next_one_ends_it() {
    let mut random = Random(20);
    let (mut cut_short, mut gone_on) = (0, 0);
    for (name, split) in [("WHOLE", Split::Whole), ("SHARDS", SHARDS)] {
        let whole = Folder::new();
        let report = quantize(&whole.out, &options(split)).unwrap();
        let n = plan().lines().len();
        assert_eq!((report.resumed, report.files.len() > 1), (0, split != Split::Whole));
        let want = whole.contents();
        for point in 0..15 {
            let f = Folder::new();
            let mut child = start(&f.out, name, "-", "");
            let said = BufReader::new(child.stdout.take().unwrap());
            assert!(said.lines().any(|line| line.unwrap() == BEGUN));
            // From its first step to a little beyond its last.
            let steps = (random.next() % (n as u64 + 20)) as u32;
            std::thread::sleep(PAUSE * steps);
            child.kill().unwrap();
            child.wait().unwrap();
            for (name, bytes) in f.contents() {
                let partial = name.ends_with(".partial") || name.ends_with(".journal");
                let whole = want.iter().find(|(n, _)| *n == name);
                assert!(partial || whole.is_some_and(|(_, b)| *b == bytes), "{name} at point {point}");
            }
            if f.contents() == want {
                continue;
            }
            cut_short += 1;
            let report = quantize(&f.out, &options(split)).unwrap();
            gone_on += usize::from(report.resumed > 0);
            assert!(f.contents() == want, "{:?} at point {point}", f.names());
        }
    }
    assert!(cut_short >= 10 && gone_on >= 5, "{cut_short} of 30 were killed in time, {gone_on} went on");
}

#[test]
fn a_disk_that_fills_up_leaves_nothing_and_the_next_run_ends_it() {
    let whole = Folder::new();
    quantize(&whole.out, &options(Split::Whole)).unwrap();
    let size = fs::metadata(&whole.out).unwrap().len();
    for eighth in 1..8 {
        for keep in ["-", "KEEP"] {
            let f = Folder::new();
            // Files may have so many blocks of 512 bytes; what goes beyond fails, as on a full disk.
            let limit = format!("trap '' XFSZ; ulimit -f {};", size * eighth / 8 / 512);
            let child = start(&f.out, "WHOLE", keep, &limit).wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&child.stdout).into_owned();
            assert_eq!(child.status.code(), Some(3), "{said}");
            assert!(said.contains("error: ") && said.contains("cannot write"), "{said}");
            let left: &[&str] = if keep == "-" { &[] } else { &["out.gguf.journal", "out.gguf.partial"] };
            assert_eq!(f.names(), left, "at {eighth}/8");
            let report = quantize(&f.out, &options(Split::Whole)).unwrap();
            assert_eq!(report.resumed > 0, keep == "KEEP", "at {eighth}/8");
            assert!(f.contents() == whole.contents());
        }
    }
}

/// A file system of its own for a process and those that it starts, which others do not see: mounts it on `$1` and runs the
/// test three times: `$6`, in which the disk fills up, `$7` on the full disk, and `$7` when there is room. `$2`, `$3` and `$4`
/// get what each has left. What it says begins with MOUNTED if it could be mounted.
#[cfg(target_os = "linux")]
const SMALL_DISK: &str = "\
    mount -t tmpfs -o \"$5\" tmpfs \"$1\" || exit 77; echo MOUNTED; \
    again() { \"$0\" a_process_to_be_killed --exact --nocapture --test-threads=1; echo \"status $?\"; }; \
    left() { cp -r \"$1/.\" \"$2\"; rm -f \"$2/filler\"; }; \
    FATHOM_TEST_QUANTIZE=\"$6\" again; left \"$1\" \"$2\"; FATHOM_TEST_QUANTIZE=\"$7\" again; left \"$1\" \"$3\"; \
    rm -f \"$1/filler\"; mount -o remount,nr_inodes=100 \"$1\"; \
    FATHOM_TEST_QUANTIZE=\"$7\" again; left \"$1\" \"$4\"";

#[test]
#[cfg(target_os = "linux")]
fn a_file_system_that_others_fill_up_keeps_nothing_that_looks_finished() {
    let mut random = Random(21);
    let n = plan().lines().len() as u64;
    // Before anything is written, among the tensors, at the end, with up to 1 MiB left; and no room for the name of a
    // journal, or of a second shard.
    let mut cases = vec![
        (1, 0, "size=16m"),
        (1, 60_000, "size=16m"),
        (n, 0, "size=16m"),
        (n + 9, 0, "size=16m,nr_inodes=2"),
        (n + 9, 0, "size=16m,nr_inodes=2"),
    ];
    cases.extend((0..12).map(|_| (1 + random.next() % n, random.next() % (1 << 20), "size=16m")));
    let (mut failed, mut kept) = (0, 0);
    for (name, split) in [("WHOLE", Split::Whole), ("SHARDS", SHARDS)] {
        let whole = Folder::new();
        quantize(&whole.out, &options(split)).unwrap();
        let want = whole.contents();
        for (i, &(step, free, disk)) in cases.iter().enumerate() {
            let keep = ["-", "KEEP"][i % 2];
            let [disk_at, first, second, third] = [(); 4].map(|()| Folder::new());
            let task = format!("{} {name} {keep}", disk_at.out.display());
            let paths = [&disk_at, &first, &second, &third].map(|f| f.dir.path().to_owned());
            let output = Command::new("unshare")
                .args(["-rm", "sh", "-c", SMALL_DISK])
                .arg(std::env::current_exe().unwrap())
                .args(paths)
                .args([disk, &format!("{task} {step} {free}"), &task])
                .output();
            let said = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
            if !said.contains("MOUNTED") {
                eprintln!("skipped: this system lets its users mount nothing (unshare -rm)");
                return;
            }
            let case = format!("{name} {keep}: step {step}, {free} bytes left, {disk}");
            let statuses: Vec<_> = said.lines().filter_map(|l| l.strip_prefix("status ")).collect();
            if statuses.first() == Some(&"0") {
                // What was left was enough, and the other runs found a file of that name.
                continue;
            }
            failed += 1;
            assert_eq!(statuses, ["3", "3", "0"], "{case}: {said}");
            let errors: Vec<_> = said.lines().filter(|l| l.starts_with("error: ")).collect();
            let full = |e: &&&str| e.contains("No space left") || e.contains("are free on its disk");
            assert_eq!(errors.iter().filter(full).count(), 2, "{case}: {said}");
            for folder in [&first, &second] {
                let left = folder.names();
                let unfinished = |n: &String| n.ends_with(".partial") || n.ends_with(".journal");
                assert!(left.is_empty() || keep == "KEEP" && left.iter().all(unfinished), "{case}: {left:?}");
                kept += usize::from(!left.is_empty());
            }
            // To be refused costs nothing of what was done before.
            assert_eq!(first.names(), second.names(), "{case}");
            assert!(third.contents() == want, "{case}: {:?}", third.names());
        }
    }
    assert!(failed >= 20 && kept >= 10, "{failed} of {} ran out of space, {kept} kept", 2 * cases.len());
}

/// Stops after so many steps.
fn stopped(f: &Folder, options: &Options, steps: usize) {
    let (cancel, mut seen) = (AtomicBool::new(false), 0);
    let progress = &mut |_: quantize::Progress<'_>| {
        seen += 1;
        cancel.store(seen == steps, Ordering::Relaxed);
    };
    assert!(matches!(run(&plan(), &f.out, options, progress, &cancel), Err(Error::Cancelled)));
}

#[test]
fn what_is_to_be_kept_is_kept_and_only_for_the_same_work() {
    let keep = noting(Options { keep_partial: true, ..options(Split::Whole) });
    let whole = Folder::new();
    quantize(&whole.out, &keep).unwrap();
    let f = Folder::new();
    stopped(&f, &keep, 9);
    assert_eq!(f.names(), ["out.gguf.journal", "out.gguf.partial"]);
    // Stopped again, it loses nothing.
    stopped(&f, &keep, 3);
    let before = fs::read(f.dir.path().join("out.gguf.journal")).unwrap();
    // Other work begins anew.
    let source = Gguf::open(&fixtures::tiny_r1().f16).unwrap();
    let other = Plan::new(&source, &Target::of(Mix::Q4_0)).unwrap();
    let report = run(&other, &f.out, &options(Split::Whole), &mut |_| (), &AtomicBool::new(false)).unwrap();
    assert_eq!((report.resumed, f.names()), (0, vec!["out.gguf".to_owned()]));
    fs::remove_file(&f.out).unwrap();

    stopped(&f, &keep, 9);
    let report = quantize(&f.out, &keep).unwrap();
    assert!(report.resumed >= 7 && before.len() > 100, "{}", report.resumed);
    assert!(f.contents() == whole.contents());
    // And what encoding has cost is known of all tensors.
    let deviations = quantize(&Folder::new().out, &keep).unwrap().deviations;
    assert_eq!(report.deviations, deviations);
}

#[test]
fn a_journal_of_what_is_not_there_is_not_believed() {
    let keep = noting(Options { keep_partial: true, ..options(Split::Whole) });
    let whole = Folder::new();
    quantize(&whole.out, &keep).unwrap();
    let partial = |f: &Folder| f.dir.path().join("out.gguf.partial");
    for harm in 0..3 {
        let f = Folder::new();
        stopped(&f, &keep, 9);
        match harm {
            0 => fs::remove_file(partial(&f)).unwrap(),
            1 => fs::File::options().write(true).open(partial(&f)).unwrap().set_len(1000).unwrap(),
            _ => fs::write(f.dir.path().join("out.gguf.journal"), "something else\n").unwrap(),
        }
        let report = quantize(&f.out, &keep).unwrap();
        assert_eq!(report.resumed, 0);
        assert!(f.contents() == whole.contents(), "harm {harm}");
    }
}

#[test]
fn shards_are_a_model_and_split_again_as_they_were() {
    let f = Folder::new();
    let report = quantize(&f.out, &options(SHARDS)).unwrap();
    assert!(report.files.len() > 3, "{}", report.files.len());
    let sizes = report.files.iter().map(|p| fs::metadata(p).unwrap().len());
    assert_eq!(sizes.sum::<u64>(), report.bytes);
    let split = Gguf::open(&report.files[0]).unwrap();
    let whole = Folder::new();
    quantize(&whole.out, &options(Split::Whole)).unwrap();
    let one = Gguf::open(&whole.out).unwrap();
    assert_eq!(split.tensors().len(), one.tensors().len());
    for (a, b) in split.tensors().iter().zip(one.tensors()) {
        assert!(a.name() == b.name() && a.bytes() == b.bytes(), "{}", a.name());
    }
    let again = Folder::new();
    let plan = Plan::new(&split, &Target::of(Mix::Q8_0)).unwrap();
    let run = |split| run(&plan, &again.out, &options(split), &mut |_| (), &AtomicBool::new(false));
    run(Split::AsSource).unwrap();
    assert!(again.contents() == f.contents());
    run(Split::Whole).unwrap();
    assert!(fs::read(&again.out).unwrap() == fs::read(&whole.out).unwrap());
}
