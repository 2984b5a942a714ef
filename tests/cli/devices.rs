//! Devices beside the processor: a simulated one that works, and all that can be wrong with a driver.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use super::{Ran, fathom, write};

/// The simulated driver; nothing where there is no C++ compiler to make it.
fn driver() -> Option<&'static PathBuf> {
    static DRIVER: OnceLock<Option<PathBuf>> = OnceLock::new();
    DRIVER.get_or_init(fathom_testing::cuda_driver).as_ref()
}

/// The binary with the simulated driver, which is told these things.
fn simulated(told: &[(&str, &str)]) -> Option<Command> {
    let mut command = fathom();
    command.env("FATHOM_CUDA_DRIVER", driver()?).envs(told.iter().copied());
    // So small a model stays on the processor unless somebody asks.
    command.env("FATHOM_DEVICE", "auto");
    Some(command)
}

fn ran(command: &mut Command, args: &[&str]) -> Ran {
    Ran::new(command.args(args).output().unwrap())
}

/// The start of an answer: few tokens, since a simulated device takes its time.
const START: [&str; 7] = ["--raw", "--temp", "0", "-n", "6", "-p", "What is 2 + 2?"];

/// What the processor makes of it.
fn expected() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| ran(&mut fathom(), &START).done().stdout)
}

#[test]
fn without_a_driver_the_processor_does_the_work_and_says_so_if_asked() {
    let none = || {
        let mut command = fathom();
        command.env("FATHOM_CUDA_DRIVER", "/nowhere/libcuda.so.1");
        command
    };
    let quiet = ran(&mut none(), &START).done();
    assert_eq!(quiet.stdout, expected());
    assert!(!quiet.stderr.contains("NVIDIA"), "{}", quiet.stderr);
    let asked = ran(none().args(["-ngl", "99"]), &START).done();
    assert_eq!(asked.stdout, expected());
    assert_eq!(asked.stderr.matches("no NVIDIA driver").count(), 1, "{}", asked.stderr);
    let listed = ran(&mut none(), &["show", "--devices"]).done();
    assert!(listed.stdout.contains("no NVIDIA driver"), "{}", listed.stdout);
}

#[test]
fn drivers_that_are_of_no_use_are_said() {
    let cases = [
        (("FAKE_CUDA_DEVICES", "0"), "sees no device"),
        (("FAKE_CUDA_DRIVER_VERSION", "10020"), "supports CUDA 10.2, and 11.0 is needed"),
        (("FAKE_CUDA_FAIL", "cuInit:1=999"), "does not start"),
        (("FAKE_CUDA_FAIL", "cuDevicePrimaryCtxRetain:1=2"), "making a context failed"),
    ];
    for (told, what) in cases {
        let Some(mut command) = simulated(&[told]) else { return };
        let ran = ran(&mut command, &START).done();
        assert_eq!(ran.stdout, expected(), "{told:?}");
        assert_eq!(ran.stderr.matches(what).count(), 1, "{told:?}: {}", ran.stderr);
    }
}

#[test]
fn devices_are_listed_and_those_that_are_not_there_are_refused() {
    let Some(mut command) = simulated(&[("FAKE_CUDA_DEVICES", "2")]) else { return };
    let text = ran(&mut command, &["show", "--devices"]).done().stdout;
    assert!(text.lines().count() == 2 && text.contains("cuda1  "), "{text}");
    let json = ran(&mut simulated(&[]).unwrap(), &["show", "--devices", "--json"]).done().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["devices"][0]["id"], &json["problem"]), (&"cuda0".into(), &serde_json::Value::Null));
    let args = [&["--device", "cuda7"], &START[..]].concat();
    ran(&mut simulated(&[]).unwrap(), &args).failed(2, "there is no device cuda7");
    let args = [&["--device", "gpu"], &START[..]].concat();
    ran(&mut simulated(&[]).unwrap(), &args).failed(2, "there is no device \"gpu\"");
}

#[test]
fn a_model_answers_the_same_wherever_its_parts_are() {
    for (more, says) in [
        (&["-v"][..], "on devices, the experts of"),
        (&["-v", "--cpu-moe"], "the experts of 0"),
        (&["-v", "--cpu-moe", "--stream-experts", "4"], "sent to them for batches of 4 tokens and more"),
        (&["-v", "--cpu-moe", "--expert-slots", "3"], "3 slots ("),
        (&["-v", "--cpu-moe", "--expert-slots", "auto"], "for those used most"),
        (&["-v", "-ngl", "2"], "2 of "),
    ] {
        let Some(mut command) = simulated(&[("FAKE_CUDA_DEVICES", "2")]) else { return };
        let ran = ran(&mut command, &[more, &START].concat()).done();
        assert_eq!(ran.stdout, expected(), "{more:?}");
        assert!(ran.stderr.contains(says) && ran.stderr.contains("cuda"), "{more:?}: {}", ran.stderr);
    }
}

#[test]
fn show_says_where_parts_would_be() {
    let shown = |told: &[(&str, &str)], more: &[&str]| {
        let mut command = simulated(told)?;
        Some(ran(&mut command, &[&["show"], more].concat()).done().stdout)
    };
    for (more, says) in [
        (&[][..], " layers on devices, the experts of"),
        (&["--cpu-moe"], "the experts of 0"),
        (&["--cpu-moe"], " for those used most"),
        (&["--cpu-moe", "--expert-slots", "3"], "up to 3 slots for those used most"),
        (&["-ngl", "2", "-c", "1000"], "2 of "),
        (&["-ngl", "2", "-c", "1000"], "context 1000"),
        (&["--device", "none"], "everything on the CPU\n"),
    ] {
        let Some(text) = shown(&[], more) else { return };
        assert!(text.contains(says), "{more:?}: {text}");
    }
    let small = [("FAKE_CUDA_MEMORY", "100000000")];
    assert!(shown(&small, &[]).unwrap().contains("everything on the CPU: no device has room"));
    assert!(shown(&small, &["-ngl", "99"]).unwrap().contains("not possible: "));
    let broken = [("FAKE_CUDA_FAIL", "cuMemGetInfo_v2:1=2")];
    let json: serde_json::Value = serde_json::from_str(&shown(&broken, &["--json"]).unwrap()).unwrap();
    assert!(json["model"]["placement"].as_str().unwrap().starts_with("not possible: "), "{json}");
}

#[test]
fn too_little_memory_is_refused_with_numbers_or_left_alone() {
    let small = [("FAKE_CUDA_MEMORY", "100000000")];
    let Some(mut command) = simulated(&small) else { return };
    let left = ran(&mut command, &START).done();
    assert_eq!(left.stdout, expected());
    assert_eq!(left.stderr.matches("no device has room").count(), 1, "{}", left.stderr);
    let args = [&["-ngl", "99"], &START[..]].concat();
    ran(&mut simulated(&small).unwrap(), &args).failed(1, "of device memory");
}

#[test]
fn whatever_fails_at_the_start_the_processor_does_the_work() {
    let failures = [
        ("cuMemAlloc_v2:N=2", [1, 2, 5, 20]),
        ("cuModuleLoadData:N=209", [1, 2, 3, 5]),
        ("cuMemAllocHost_v2:N=2", [1, 2, 3, 3]),
        ("cuMemcpyHtoDAsync_v2:N=999", [1, 2, 5, 20]),
    ];
    for (failure, at) in failures.iter().flat_map(|(f, at)| at.map(|at| (f, at))) {
        let told = failure.replace('N', &at.to_string());
        let Some(mut command) = simulated(&[("FAKE_CUDA_FAIL", &told)]) else { return };
        let ran = ran(&mut command, &[&["-v"], &START[..]].concat()).done();
        assert_eq!(ran.stdout, expected(), "{told}: {}", ran.stderr);
        // It did fail, and that was said: here, or when a token was computed.
        let said = ["trying with less", "everything runs on the processor", "going on with cpu"];
        assert!(said.iter().any(|s| ran.stderr.contains(s)), "{told}: {}", ran.stderr);
    }
}

#[test]
fn a_device_that_fails_on_the_way_loses_nothing() {
    // While the prompt is read, at the first token, in the middle of the answer.
    for failure in
        ["cuLaunchKernel:7=719", "cuGraphLaunch:1=719", "cuGraphLaunch:4=719", "cuMemcpyDtoHAsync_v2:3=700"]
    {
        let Some(mut command) = simulated(&[("FAKE_CUDA_FAIL", failure)]) else { return };
        let ran = ran(&mut command, &START).done();
        assert_eq!(ran.stdout, expected(), "{failure}");
        assert_eq!(ran.stderr.matches("going on with cpu").count(), 1, "{failure}: {}", ran.stderr);
    }
}

/// Copies of experts, and what waits for them: refused, or the device is lost.
#[test]
fn experts_that_cannot_be_sent_are_computed_here() {
    let failures = [
        "cuStreamWaitEvent:1=1",
        "cuStreamWaitEvent:4=719",
        "cuEventRecord:58=1",
        "cuMemcpyHtoDAsync_v2:55=2",
        "cuMemcpyHtoDAsync_v2:57=719",
    ];
    for failure in failures {
        let Some(mut command) = simulated(&[("FAKE_CUDA_FAIL", failure)]) else { return };
        let args = [&["--cpu-moe", "--stream-experts", "4", "--expert-slots", "0"], &START[..]].concat();
        let ran = ran(&mut command, &args).done();
        assert_eq!(ran.stdout, expected(), "{failure}");
        assert_eq!(ran.stderr.matches("going on with cpu").count(), 1, "{failure}: {}", ran.stderr);
    }
}

/// Copies to slots, and what is asked of them: refused, and slots stay as they are; or the device is lost, and the processor goes on.
#[test]
fn experts_that_do_not_come_into_slots_are_computed_here() {
    let args =
        [&["-v", "--cpu-moe", "--stream-experts", "never", "--expert-slots", "6"], &START[..]].concat();
    let stays = "experts in slots stay as they are";
    for (failure, says) in [
        ("cuEventQuery:N=1", stays),
        ("cuStreamWaitEvent:N=1", stays),
        ("cuEventQuery:N=719", "going on with cpu"),
        // Which copy or event it is depends on how fast the others are.
        ("cuEventCreate:N=2", ""),
        ("cuEventRecord:5N=1", ""),
        ("cuMemcpyHtoDAsync_v2:6N=2", ""),
        ("cuMemcpyHtoDAsync_v2:7N=719", ""),
    ] {
        for n in [1, 2, 5] {
            let told = failure.replace('N', &n.to_string());
            let Some(mut command) = simulated(&[("FAKE_CUDA_FAIL", &told)]) else { return };
            let ran = ran(&mut command, &args).done();
            assert_eq!(ran.stdout, expected(), "{told}: {}", ran.stderr);
            assert!(n > 1 || ran.stderr.contains(says), "{told}: {}", ran.stderr);
        }
    }
}

#[test]
fn experts_are_not_sent_where_that_is_not_worth_it_or_there_is_no_room() {
    let Some(mut command) = simulated(&[]) else { return };
    let args = [&["-v", "--cpu-moe", "--stream-experts", "never"], &START[..]].concat();
    let never = ran(&mut command, &args).done();
    assert!(!never.stderr.contains("sent to them"), "{}", never.stderr);
    let args = [&["-v", "--cpu-moe", "--stream-experts", "4000"], &START[..]].concat();
    let long = ran(&mut simulated(&[]).unwrap(), &args).done();
    assert!(long.stderr.contains("no room for buffers, or no batches that long"), "{}", long.stderr);
    assert_eq!((&*never.stdout, &*long.stdout), (expected(), expected()));
    let args = [&["--stream-experts", "often"], &START[..]].concat();
    ran(&mut simulated(&[]).unwrap(), &args).failed(2, "--stream-experts often");
    let args = [&["--expert-slots", "many"], &START[..]].concat();
    ran(&mut simulated(&[]).unwrap(), &args).failed(2, "--expert-slots many");
}

#[test]
fn a_chat_goes_on_when_its_device_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let script = write(dir.path(), "script", "What is 20 + 22?\nNow add 15 to that.\n");
    let chat = |command: &mut Command| {
        let script = std::fs::File::open(&script).unwrap();
        Ran::new(command.args(["chat", "--temp", "0"]).stdin(script).output().unwrap()).done()
    };
    let Some(mut command) = simulated(&[("FAKE_CUDA_FAIL", "cuGraphLaunch:40=719")]) else { return };
    let ran = chat(&mut command);
    assert_eq!(ran.stdout, chat(&mut fathom()).stdout);
    assert_eq!(ran.stderr.matches("going on with cpu").count(), 1, "{}", ran.stderr);
}
