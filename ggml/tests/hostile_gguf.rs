//! Files that are wrong: each ends in one line that says what and where, and costs next to no memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

use fathom_testing::raw_gguf::{Raw, ty};
use ggml_sys::gguf::{Error, Gguf};

#[path = "common/one_line.rs"]
mod one_line;

/// No single allocation on the way to an error may be larger, whatever the file announces.
const MOST_AT_ONCE: usize = 1 << 20;
/// Nor may all of them together.
const MOST: usize = 8 << 20;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
    static TOTAL: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, keeping count per thread.
struct Counting;

fn count(size: usize) {
    LARGEST.set(LARGEST.get().max(size));
    TOTAL.set(TOTAL.get().saturating_add(size));
}

// SAFETY: everything is passed on to the system's allocator unchanged; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(ptr, layout, size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `open`, which must fail with a line that starts with `file` and holds all of `mentions`.
fn refuse(case: &str, file: &str, mentions: &[&str], open: impl FnOnce() -> Result<Gguf, Error>) {
    LARGEST.set(0);
    TOTAL.set(0);
    let result = open();
    let (largest, total) = (LARGEST.get(), TOTAL.get());
    let Err(error) = result else { panic!("{case}: was opened") };
    one_line::check(&error, file);
    let text = error.to_string();
    for mention in mentions {
        assert!(text.contains(mention), "{case}: {mention:?} is not in {text:?}");
    }
    assert!(largest <= MOST_AT_ONCE, "{case}: {largest} bytes at once");
    assert!(total <= MOST, "{case}: {total} bytes");
}

/// Each case: what it is, the file, what the error must mention.
type Case = (&'static str, Raw, &'static [&'static str]);

/// Opens every case from memory and as a mapped file.
fn refuse_all(cases: Vec<Case>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hostile.gguf");
    let name = path.to_str().unwrap();
    for (case, raw, mentions) in cases {
        std::fs::write(&path, &raw.0).unwrap();
        refuse(case, name, mentions, || Gguf::open(&path));
        let owner = Arc::new(raw.0);
        refuse(case, "memory", mentions, || Gguf::from_bytes(owner, "memory"));
    }
}

fn raw(bytes: &[u8]) -> Raw {
    Raw(bytes.to_vec())
}

/// A file with one key whose value is to follow.
fn one_key(key: &str, ty: u32) -> Raw {
    Raw::new(0, 1).key(key, ty)
}

/// A file with one key whose value is an array, the elements of which are to follow.
fn one_array(key: &str, ty: u32, n: u64) -> Raw {
    Raw::new(0, 1).key_array(key, ty, n)
}

/// A file with one F32 tensor, followed by 4 KiB of data.
fn one_tensor(dims: &[u64], ty: u32, offset: u64) -> Raw {
    Raw::new(1, 0).tensor("blk.0.attn_q.weight", dims, ty, offset).pad(32).zeros(4096)
}

const F32: u32 = 0;
const Q8_0: u32 = 8;

// The tables below have a line a case.

#[test]
#[rustfmt::skip]
fn other_kinds_of_files() {
    refuse_all(vec![
        ("empty", raw(b""), &["empty"]),
        ("zeros", raw(&[0; 1000]), &["zeros"]),
        ("three letters of the magic number", raw(b"GGU"), &["not a GGUF file"]),
        ("noise", raw(&[0xa7; 100]), &["not a GGUF file"]),
        ("swapped magic number", raw(b"FUGG\0\0\0\x03"), &["big-endian"]),
        ("ggml of 2023", raw(b"tjgg\x03\0\0\0...."), &["older than GGUF"]),
        ("safetensors", raw(b"\x02\0\0\0\0\0\0\0{}"), &["safetensors"]),
        ("zip", raw(b"PK\x03\x04\0\0\0\0"), &["zip", "PyTorch"]),
        ("pickle", raw(b"\x80\x02}q\0."), &["pickle"]),
        ("gzip", raw(b"\x1f\x8b\x08\0\0\0\0"), &["compressed"]),
        ("LFS pointer", raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:0"), &["Git LFS"]),
        ("web page", raw(b"<!DOCTYPE html><html><title>404"), &["web page"]),
        ("JSON", raw(b"{\"error\":\"Invalid username\"}"), &["JSON"]),
    ]);
}

#[test]
#[rustfmt::skip]
fn headers() {
    let whole = Raw::new(0, 0).0;
    refuse_all(vec![
        ("magic number only", raw(&whole[..4]), &["cut short", "header"]),
        ("cut in the version", raw(&whole[..6]), &["cut short", "header"]),
        ("version only", raw(&whole[..8]), &["cut short", "header"]),
        ("cut in the number of tensors", raw(&whole[..12]), &["cut short", "header"]),
        ("cut in the number of keys", raw(&whole[..23]), &["cut short", "header"]),
        ("version 0", Raw::version(0, 0, 0), &["version 0"]),
        ("version 1", Raw::version(1, 0, 0), &["version 1"]),
        ("version 4", Raw::version(4, 0, 0), &["version 4"]),
        ("version 2^32 - 1", Raw::version(u32::MAX, 0, 0), &["version 4294967295"]),
        ("big-endian", Raw::version(3u32.swap_bytes(), 0, 0), &["big-endian"]),
        ("2^64 - 1 tensors", Raw::new(u64::MAX, 0), &["18446744073709551615 tensors"]),
        ("2^62 tensors", Raw::new(1 << 62, 0).zeros(5000), &["tensors"]),
        ("2^64 - 1 keys", Raw::new(0, u64::MAX), &["18446744073709551615 metadata keys"]),
        ("a million keys in 1 KB", Raw::new(0, 1_000_000).zeros(1000), &["1000000 metadata keys"]),
        ("a million tensors in 1 KB", Raw::new(1_000_000, 0).zeros(1000), &["1000000 tensors"]),
        (
            "a key more than there are",
            Raw::new(0, 2).key_str("general.name", "a name of some length"),
            &["cut short", "key 1 of 2"],
        ),
        (
            "a tensor more than there are",
            Raw::new(2, 0).tensor("a.name.that.is.long.enough.for.two", &[32], F32, 0).u64(9),
            &["cut short", "tensor 1 of 2"],
        ),
    ]);
}

#[test]
#[rustfmt::skip]
fn keys_and_scalars() {
    let long = "k".repeat(70_000);
    refuse_all(vec![
        ("key of 2^64 - 1 bytes", Raw::new(0, 1).u64(u64::MAX).zeros(50), &["cut short", "key 0"]),
        ("key of 2^63 bytes", Raw::new(0, 1).u64(1 << 63).zeros(50), &["cut short", "key 0"]),
        ("key beyond the end", Raw::new(0, 1).u64(51).zeros(50), &["key 0", "51 bytes", "50 are left"]),
        ("empty key", Raw::new(0, 1).string("").zeros(50), &["key 0 of 1", "empty"]),
        ("key not UTF-8", Raw::new(0, 1).string(b"ab\xff").zeros(50), &["key 0", "UTF-8", "'ab\u{fffd}'"]),
        ("long key", Raw::new(0, 1).string(&long).u32(ty::U32).u32(1), &["key 0", "70000"]),
        ("key twice", Raw::new(0, 2).key_u32("a.b", 1).key_u32("a.b", 1), &["'a.b'", "twice"]),
        ("key twice with other types", Raw::new(0, 2).key_u32("a.b", 1).key_str("a.b", "1"), &["'a.b'", "twice"]),
        ("key that breaks lines", Raw::new(0, 1).key("a\n\x1b[31m\u{2028}b", 99).zeros(9), &["'a\\n\\u{1b}[31m"]),
        ("key whose escapes are long", Raw::new(0, 1).string([b"\xff", &[20; 96][..]].concat()).zeros(9), &["key 0", "…'"]),
        ("type 13", one_key("x", 13).zeros(8), &["'x'", "type 13"]),
        ("type 2^32 - 1", one_key("x", u32::MAX).zeros(8), &["'x'", "type 4294967295"]),
        ("cut in the type", Raw::new(0, 1).string("general.name").bytes(&[8, 0]), &["'general.name'", "cut short"]),
        ("cut in a u32", one_key("llama.block_count", ty::U32).zeros(3), &["'llama.block_count'", "cut short"]),
        ("cut in a u64", one_key("llama.block_count", ty::U64).zeros(7), &["'llama.block_count'", "cut short"]),
        ("no value", one_key("llama.expert_used", ty::F32), &["'llama.expert_used'", "cut short"]),
        ("boolean 2", one_key("x.bool", ty::BOOL).bytes(&[2]), &["'x.bool'", "is 2"]),
        ("string of 2^64 - 1 bytes", one_key("s", ty::STRING).u64(u64::MAX).zeros(9), &["'s'", "cut short"]),
        ("string of -2^63 bytes", one_key("s", ty::STRING).u64(1 << 63).zeros(9), &["'s'", "cut short"]),
        ("string beyond the end", one_key("s", ty::STRING).u64(10).zeros(9), &["'s'", "10 bytes", "9 are left"]),
        ("cut in a length", one_key("string", ty::STRING).zeros(7), &["'string'", "cut short"]),
    ]);
}

#[test]
#[rustfmt::skip]
fn arrays() {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    let strings = |n| one_array(TOKENS, ty::STRING, n);
    refuse_all(vec![
        ("elements of type 13", one_array("a", 13, 1).zeros(99), &["'a'", "type 13"]),
        ("array of arrays", one_array("a", ty::ARRAY, 1).u32(ty::U8).u64(1).zeros(9), &["'a'", "arrays of arrays"]),
        ("2^64 - 1 bytes", one_array("a", ty::U8, u64::MAX).zeros(99), &["'a'", "cut short"]),
        ("bytes that wrap", one_array("a", ty::U64, (1 << 61) + 1).zeros(99), &["'a'", "cut short"]),
        ("numbers beyond the end", one_array("a", ty::I32, 25).zeros(99), &["'a'", "25 i32", "99 are left"]),
        ("2^64 - 1 strings", strings(u64::MAX).zeros(99), &[TOKENS, "cut short"]),
        ("strings beyond the end", strings(13).zeros(99), &[TOKENS, "13 string"]),
        (
            "third string beyond the end",
            strings(3).string("a").string("b").u64(9).zeros(8),
            &[TOKENS, "string 2 of 3"],
        ),
        ("string of 2^64 - 1 bytes", strings(2).string("a").u64(u64::MAX).zeros(9), &[TOKENS, "string 1 of 2"]),
        ("a string that eats the next", strings(2).u64(9).zeros(9).zeros(7), &[TOKENS, "string 1 of 2"]),
        ("cut in the length", one_key("array", ty::ARRAY).u32(ty::U8).zeros(7), &["'array'", "cut short"]),
        ("cut in the type", one_key("an.array", ty::ARRAY).zeros(3), &["'an.array'", "cut short"]),
        ("boolean 7", one_array("a", ty::BOOL, 3).bytes(&[1, 0, 7]), &["'a'", "boolean 2 is 7"]),
        ("17 million elements", one_array("a", ty::U8, 17 << 20).zeros(17 << 20), &["'a'", "17825792 elements"]),
    ]);
}

#[test]
#[rustfmt::skip]
fn alignments() {
    const KEY: &str = "general.alignment";
    let with = |n| Raw::new(0, 1).key_u32(KEY, n);
    refuse_all(vec![
        ("zero", with(0), &[KEY, "alignment of 0"]),
        ("one", with(1), &[KEY, "alignment of 1"]),
        ("four", with(4), &[KEY, "alignment of 4"]),
        ("48", with(48), &[KEY, "alignment of 48"]),
        ("2^31", with(1 << 31), &[KEY, "alignment of 2147483648"]),
        ("2^32 - 1", with(u32::MAX), &[KEY]),
        ("2^63", one_key(KEY, ty::U64).u64(1 << 63), &[KEY]),
        ("negative", one_key(KEY, ty::I32).u32(-32i32 as u32), &[KEY, "-32"]),
        ("string", Raw::new(0, 1).key_str(KEY, "32"), &[KEY, "the string '32'"]),
        ("float", one_key(KEY, ty::F32).bytes(&32f32.to_le_bytes()), &[KEY, "f32 32"]),
        ("array", one_array(KEY, ty::U32, 1).u32(32), &[KEY, "array of 1 u32"]),
    ]);
}

#[test]
#[rustfmt::skip]
fn tensor_descriptions() {
    const NAME: &str = "'blk.0.attn_q.weight'";
    let named = || Raw::new(1, 0).string("blk.0.attn_q.weight");
    let (half, huge) = (1u64 << 32, 1u64 << 62);
    refuse_all(vec![
        ("name beyond the end", Raw::new(1, 0).u64(99).zeros(98), &["tensor 0", "99 bytes"]),
        ("name of 2^64 - 1 bytes", Raw::new(1, 0).u64(u64::MAX).zeros(98), &["tensor 0", "cut short"]),
        ("empty name", Raw::new(1, 0).tensor("", &[32], F32, 0).zeros(200), &["tensor 0", "empty"]),
        ("name not UTF-8", Raw::new(1, 0).string(b"\xc3\x28").zeros(99), &["tensor 0", "UTF-8"]),
        ("name that breaks lines", Raw::new(1, 0).tensor("a\r\nb", &[0], F32, 0).zeros(9), &["'a\\r\\nb'"]),
        (
            "name twice",
            Raw::new(2, 0).tensor("a", &[8], F32, 0).tensor("a", &[8], F32, 32).pad(32).zeros(64),
            &["'a'", "twice"],
        ),
        ("no dimensions", one_tensor(&[], F32, 0), &[NAME, "0 dimensions"]),
        ("five dimensions", one_tensor(&[2; 5], F32, 0), &[NAME, "5 dimensions"]),
        ("2^32 - 1 dimensions", named().u32(u32::MAX).zeros(999), &[NAME, "4294967295 dimensions"]),
        ("a dimension of zero", one_tensor(&[32, 0], F32, 0), &[NAME, "[32, 0]", "zero"]),
        ("all dimensions zero", one_tensor(&[0; 4], F32, 0), &[NAME, "zero"]),
        ("zero hides an overflow", one_tensor(&[huge, huge, huge, 0], F32, 0), &[NAME, "zero"]),
        ("product that overflows", one_tensor(&[half, half], F32, 0), &[NAME, "[4294967296, 4294967296]"]),
        ("product that wraps to 32", one_tensor(&[half + 1, half, half, 32], F32, 0), &[NAME]),
        ("dimensions of 2^64 - 1", one_tensor(&[u64::MAX, u64::MAX], F32, 0), &[NAME]),
        ("bytes that overflow", one_tensor(&[huge], F32, 0), &[NAME]),
        ("bytes that overflow over rows", one_tensor(&[32, huge >> 5], F32, 0), &[NAME]),
        ("larger than the file", one_tensor(&[1 << 40], F32, 0), &[NAME, "cut short"]),
        ("type 200", one_tensor(&[32], 200, 0), &[NAME, "type 200"]),
        ("type 2^32 - 1", one_tensor(&[32], u32::MAX, 0), &[NAME, "type 4294967295"]),
        ("type Q4_2", one_tensor(&[32], 4, 0), &[NAME, "type 4 (Q4_2"]),
        ("type I32", one_tensor(&[32], 26, 0), &[NAME, "type 26 (I32)"]),
        ("type Q4_0_4_4", one_tensor(&[32], 31, 0), &[NAME, "type 31", "repacked"]),
        ("row of a block and a bit", one_tensor(&[33], Q8_0, 0), &[NAME, "33", "Q8_0"]),
        ("row of less than a block", one_tensor(&[16, 2], Q8_0, 0), &[NAME, "16", "Q8_0"]),
        ("cut in the number of dimensions", named().zeros(3).zeros(8), &[NAME]),
        ("cut in the dimensions", named().u32(2).u64(32).zeros(7), &[NAME, "cut short"]),
        ("cut in the type", named().u32(1).u64(32).zeros(3), &[NAME, "cut short"]),
        ("cut in the offset", named().u32(1).u64(32).u32(F32).zeros(7), &[NAME, "cut short"]),
    ]);
}

#[test]
#[rustfmt::skip]
fn tensor_data() {
    const NAME: &str = "'blk.0.attn_q.weight'";
    let two = |dims: u64, a: u64, b: u64| {
        Raw::new(2, 0).tensor("a", &[dims], F32, a).tensor("b", &[dims], F32, b).pad(32).zeros(4096)
    };
    let mut short = one_tensor(&[1024], F32, 0);
    short.0.pop();
    let ends = Raw::new(1, 0).tensor("blk.0.attn_q.weight", &[8], F32, 0);
    refuse_all(vec![
        ("misaligned offset", one_tensor(&[32], F32, 4), &[NAME, "offset 4", "alignment 32"]),
        ("offset beyond the end", one_tensor(&[32], F32, 4096), &[NAME, "end of the file"]),
        ("offset far beyond the end", one_tensor(&[32], F32, 1 << 50), &[NAME, "end of the file"]),
        ("start that wraps", one_tensor(&[32], F32, u64::MAX - 31), &[NAME, "18446744073709551584"]),
        ("end that wraps", one_tensor(&[1 << 58], F32, u64::MAX - (1 << 59) + 1), &[NAME]),
        ("sizes whose sum wraps", two(1 << 61, 0, 1 << 63), &["'a'"]),
        ("one byte short", short, &[NAME, "cut short"]),
        ("no data", ends, &[NAME, "cut short"]),
        ("two tensors in one place", two(32, 0, 0), &["overlaps", "'a'", "'b'"]),
        ("second inside the first", two(256, 0, 992), &["'b'", "overlaps", "'a'"]),
        ("first inside the second", two(256, 992, 0), &["'a'", "overlaps", "'b'"]),
        (
            "misaligned by the file's own alignment",
            Raw::new(1, 1)
                .key_u32("general.alignment", 64)
                .tensor("blk.0.attn_q.weight", &[32], F32, 32)
                .pad(64)
                .zeros(4096),
            &[NAME, "alignment 64"],
        ),
    ]);
}

/// A folder for the shards of a model.
struct Shards {
    dir: tempfile::TempDir,
}

impl Shards {
    fn new() -> Self {
        Shards { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, no: u32, count: u32) -> std::path::PathBuf {
        self.dir.path().join(format!("m-{no:05}-of-{count:05}.gguf"))
    }

    fn raw(no: u32, count: u32, n_tensors: u32, arch: &str, tensor: &str) -> Raw {
        Raw::new(1, 4)
            .key_str("general.architecture", arch)
            .key_u32("split.no", no)
            .key_u32("split.count", count)
            .key_u32("split.tensors.count", n_tensors)
            .tensor(tensor, &[8], F32, 0)
            .pad(32)
            .zeros(32)
    }

    /// The first shard as it should be, and `second` beside it; opening it must fail.
    fn refuse(case: &str, second: Option<Raw>, mentions: &[&str]) {
        let shards = Shards::new();
        let (a, b) = (shards.path(1, 2), shards.path(2, 2));
        std::fs::write(&a, Shards::raw(0, 2, 2, "llama", "a").0).unwrap();
        if let Some(second) = second {
            std::fs::write(&b, second.0).unwrap();
        }
        let dir = shards.dir.path().to_str().unwrap();
        refuse(case, dir, mentions, || Gguf::open(&a));
    }
}

#[test]
#[rustfmt::skip]
fn shards() {
    const SECOND: &str = "m-00002-of-00002.gguf";
    Shards::refuse("second missing", None, &[SECOND, "missing", "shard 2 of 2"]);
    let cases: Vec<Case> = vec![
        ("first again", Shards::raw(0, 2, 2, "llama", "b"), &["is shard 1 of 2", "shard 2 of 2"]),
        ("of another count", Shards::raw(1, 3, 2, "llama", "b"), &["is shard 2 of 3"]),
        ("of another model", Shards::raw(1, 2, 2, "qwen2", "b"), &["'general.architecture'", "another model"]),
        ("of a model of more tensors", Shards::raw(1, 2, 7, "llama", "b"), &["with 7 tensors"]),
        ("the same tensor", Shards::raw(1, 2, 2, "llama", "a"), &["'a'", "another shard"]),
        ("no shard", Raw::new(0, 0), &["no shard"]),
        ("no GGUF", raw(b"<html>"), &["web page"]),
        ("cut short", raw(&Shards::raw(1, 2, 2, "llama", "b").0[..200]), &["cut short"]),
        ("empty", raw(b""), &["empty"]),
        ("number beyond the count", Shards::raw(2, 2, 2, "llama", "b"), &["'split.no'", "2 shards"]),
    ];
    for (case, raw, mentions) in cases {
        Shards::refuse(case, Some(raw), &[&[SECOND], mentions].concat());
    }
}

#[test]
#[rustfmt::skip]
fn shards_by_themselves() {
    let missing_tensors = Shards::new();
    let (a, b) = (missing_tensors.path(1, 2), missing_tensors.path(2, 2));
    std::fs::write(&a, Shards::raw(0, 2, 3, "llama", "a").0).unwrap();
    std::fs::write(&b, Shards::raw(1, 2, 3, "llama", "b").0).unwrap();
    let name = a.to_str().unwrap();
    refuse("a tensor is missing", name, &["'split.tensors.count'", "3 tensors", "hold 2"], || Gguf::open(&a));

    let keys = |no: Raw| no.key_u32("split.count", 2);
    let cases: Vec<Case> = vec![
        ("other name", Shards::raw(0, 2, 2, "llama", "a"), &["shard 1 of 2", "-00001-of-00002.gguf"]),
        ("no number", keys(Raw::new(0, 1)), &["'split.no'", "missing"]),
        ("number is a string", keys(Raw::new(0, 2).key_str("split.no", "0")), &["'split.no'", "string '0'"]),
        ("count is a string", Raw::new(0, 1).key_str("split.count", "2"), &["'split.count'", "string '2'"]),
        ("negative count", one_key("split.count", ty::I32).u32(u32::MAX), &["'split.count'", "-1"]),
        ("2^32 - 1 shards", Raw::new(0, 1).key_u32("split.count", u32::MAX), &["'split.count'", "4294967295"]),
        ("99999 shards", Shards::raw(0, 99_999, 2, "llama", "a"), &["shard 1 of 99999"]),
    ];
    let dir = Shards::new();
    let path = dir.dir.path().join("x.gguf");
    for (case, raw, mentions) in cases {
        std::fs::write(&path, raw.0).unwrap();
        refuse(case, path.to_str().unwrap(), mentions, || Gguf::open(&path));
    }
    let owner = Arc::new(Shards::raw(0, 2, 2, "llama", "a").0);
    refuse("in memory", "memory", &["shard 1 of 2"], || Gguf::from_bytes(owner, "memory"));
    // With the right name, a great number of shards ends at the first that is missing.
    let path = dir.path(1, 99_999);
    std::fs::write(&path, Shards::raw(0, 99_999, 2, "llama", "a").0).unwrap();
    refuse("99999 shards", dir.dir.path().to_str().unwrap(), &["shard 2 of 99999", "missing"], || Gguf::open(&path));
}

#[test]
fn paths_that_are_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let name = |p: &Path| p.to_str().unwrap().to_string();
    refuse("directory", &name(dir.path()), &["directory"], || Gguf::open(dir.path()));
    let missing = dir.path().join("missing.gguf");
    refuse("missing", &name(&missing), &["cannot open", "No such file"], || Gguf::open(&missing));
    #[cfg(unix)]
    refuse("device", "/dev/null", &["no regular file"], || Gguf::open(Path::new("/dev/null")));
    // The name itself may try to break the line.
    let path = dir.path().join("a\nb.gguf");
    std::fs::write(&path, b"").unwrap();
    refuse("name with a line break", dir.path().to_str().unwrap(), &["a\\nb.gguf"], || Gguf::open(&path));
}
