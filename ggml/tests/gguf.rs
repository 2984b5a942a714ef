//! Files as people have them: read, written, split, older, larger than memory.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use fathom_testing::fixtures;
use fathom_testing::raw_gguf::{Raw, ty};
use fathom_testing::sha256;
use ggml_sys::gguf::{Access, Gguf, Metadata, StringArray, Value, ValueType, Writer};
use ggml_sys::tensor::Backing;
use ggml_sys::{GgmlType, Shape};

/// The file that `writer` describes, its tensors taken from `from`.
fn write(writer: &Writer, from: &[ggml_sys::Tensor]) -> Vec<u8> {
    let mut data = writer.begin(Vec::new()).unwrap();
    for tensor in from {
        // In pieces, as a stream comes.
        for piece in tensor.bytes().chunks(1000) {
            data.write(piece).unwrap();
        }
    }
    let position = data.position();
    let bytes = data.finish().unwrap();
    assert_eq!(position, bytes.len() as u64);
    assert_eq!(writer.file_size().unwrap(), bytes.len() as u64);
    bytes
}

fn open_bytes(bytes: Vec<u8>) -> Gguf {
    Gguf::from_bytes(Arc::new(bytes), "test.gguf").unwrap()
}

#[test]
fn converters_files_are_read_and_written_again_to_the_byte() {
    for name in fixtures::MODELS.iter().filter(|n| !n.ends_with("fp8")) {
        let model = fixtures::model(name);
        for path in [&model.f16, &model.f32] {
            let file = Gguf::open(path).unwrap();
            let mut writer = Writer::new("again.gguf");
            writer.copy_metadata(file.metadata());
            for t in file.tensors() {
                writer.tensor(t.name(), t.ty(), t.shape()).unwrap();
            }
            let again = write(&writer, file.tensors());
            let original = std::fs::read(path).unwrap();
            assert_eq!(sha256::hex(&again), sha256::hex(&original), "{name}");
        }
    }
}

#[test]
fn a_model_file_says_what_it_is() {
    let path = fixtures::model("llama3").f16;
    let file = Gguf::open(&path).unwrap();
    let m = file.metadata();
    assert_eq!(m.require_str("general.architecture").unwrap(), "llama");
    assert_eq!(m.require_u32("llama.block_count").unwrap(), 2);
    assert_eq!(m.require_usize("llama.attention.head_count_kv").unwrap(), 2);
    assert_eq!(m.require_f32("llama.rope.freq_base").unwrap(), 500_000.0);
    assert!(m.require_bool("tokenizer.ggml.add_bos_token").unwrap());
    assert_eq!(m.require_strings("tokenizer.ggml.tokens").unwrap().len(), 512);
    assert_eq!(m.require_i32s("tokenizer.ggml.token_type").unwrap().len(), 512);
    let q = file.tensor("blk.1.attn_k.weight").unwrap();
    assert_eq!((q.ty(), q.shape(), q.bytes().len()), (GgmlType::F16, Shape([256, 64, 1, 1]), 2 * 256 * 64));
    assert!(file.tensor("blk.2.attn_k.weight").is_none());
    assert_eq!((file.path(), file.size()), (&*path, std::fs::metadata(&path).unwrap().len()));
    let [shard] = file.shards() else { panic!("{} shards", file.shards().len()) };
    assert_eq!((shard.version(), shard.alignment(), shard.data_start() % 32), (3, 32, 0));
    // Names are kept by tensors that outlive the file.
    let kept = q.clone();
    drop(file);
    assert!(kept.to_f32().iter().all(|v| v.is_finite()));
}

#[test]
fn vocabularies_are_read_in_place() {
    let counts =
        [("deepseek-coder", 32_256), ("deepseek-llm", 102_400), ("llama-bpe", 128_256), ("qwen2", 151_936)];
    for (name, n_tokens) in counts {
        let path = fixtures::vocab(name).gguf;
        let file = Gguf::open(&path).unwrap();
        assert!(file.tensors().is_empty());
        let tokens = file.metadata().require_strings("tokenizer.ggml.tokens").unwrap();
        assert_eq!((tokens.len(), tokens.iter().len()), (n_tokens, n_tokens), "{name}");
        assert!(tokens.iter().enumerate().all(|(i, t)| tokens.get(i) == Some(t)));
        let merges = file.metadata().require_strings("tokenizer.ggml.merges").unwrap();
        assert!((0..merges.len()).all(|i| merges.get_str(i).is_some_and(|m| m.contains(' '))), "{name}");
    }
}

#[test]
fn getters_convert_exactly_or_refuse() {
    let mut w = Writer::new("getters.gguf");
    w.set("u8", 7u8);
    w.set("i64", -1i64);
    w.set("big", u64::MAX);
    w.set("f64", 0.1f64);
    w.set("tiny", f64::from_bits(1));
    w.set("true", true);
    w.set("text", "R1");
    w.set("i8s", &[1i8, -1][..]);
    w.set("u64s", &[1u64, 1 << 32][..]);
    w.set("f64s", &[0.5f64][..]);
    w.set("flags", &[true, false][..]);
    w.set("names", StringArray::from_strings(["a", "b"]).unwrap());
    w.set("nothing", StringArray::from_strings([""; 0]).unwrap());
    let file = open_bytes(write(&w, &[]));
    let m = file.metadata();
    let text = |e: Result<_, ggml_sys::gguf::Error>| e.map(|_: Option<()>| ()).unwrap_err().to_string();
    macro_rules! refused {
        ($get:ident($key:literal), $($mention:literal),+) => {
            let e = text(m.$get($key).map(|v| v.map(drop)));
            for mention in [concat!("'", $key, "'"), $($mention),+] {
                assert!(e.contains(mention), "{e}");
            }
        };
    }
    assert_eq!((m.u32("u8"), m.i32("u8"), m.usize("u8")).0.unwrap(), Some(7));
    assert_eq!(m.i64("u8").unwrap(), Some(7));
    assert_eq!(m.i32("i64").unwrap(), Some(-1));
    assert_eq!(m.u64("big").unwrap(), Some(u64::MAX));
    assert_eq!(m.f32("f64").unwrap(), Some(0.1));
    assert_eq!(m.bool("true").unwrap(), Some(true));
    assert_eq!(m.str("text").unwrap(), Some("R1"));
    assert_eq!(m.i32s("i8s").unwrap(), Some(vec![1, -1]));
    assert_eq!(m.f32s("f64s").unwrap(), Some(vec![0.5]));
    assert_eq!(m.bools("flags").unwrap(), Some(vec![true, false]));
    assert_eq!(m.u32s("nothing").unwrap(), Some(vec![]));
    assert_eq!(m.numbers("i8s").unwrap().unwrap().get(1), Some(Value::I8(-1)));
    assert_eq!(m.u32("absent").unwrap(), None);
    refused!(u32("i64"), "the i64 -1", "4294967295");
    refused!(i64("big"), "the u64 18446744073709551615");
    refused!(u32("text"), "the string 'R1'");
    refused!(u32("true"), "the bool true");
    refused!(u32("f64"), "the f64 0.1");
    refused!(u32("tiny"), "the f64 5e-324");
    refused!(f32("u8"), "the u8 7", "floating-point");
    refused!(bool("u8"), "the u8 7", "boolean");
    refused!(str("u8"), "the u8 7", "a string");
    refused!(str("names"), "an array of 2 string");
    refused!(strings("u8"), "the u8 7", "array of strings");
    refused!(strings("i8s"), "an array of 2 i8");
    refused!(u32s("i8s"), "element 1", "the i8 -1");
    refused!(u32s("u64s"), "element 1", "the u64 4294967296");
    refused!(u32s("names"), "an array of 2 string");
    refused!(f32s("i8s"), "element 0", "the i8 1");
    let missing = m.require_u32("llama.block_count").unwrap_err().to_string();
    assert!(missing.contains("'llama.block_count' is missing"), "{missing}");
    assert!(missing.starts_with("test.gguf: "), "{missing}");
}

#[test]
fn strings_need_not_be_utf8() {
    let raw = Raw::new(0, 2)
        .key("name", ty::STRING)
        .string(b"ab\xff")
        .key_array("tokens", ty::STRING, 2)
        .string(b"\xe4\xbd")
        .string("\u{4f60}");
    let file = open_bytes(raw.0);
    let m = file.metadata();
    let e = m.str("name").unwrap_err().to_string();
    assert!(e.contains("'name'") && e.contains("UTF-8") && e.contains("at 2"), "{e}");
    let Some(Value::String(name)) = m.get("name") else { panic!() };
    assert_eq!(name.as_bytes(), b"ab\xff");
    let tokens = m.require_strings("tokens").unwrap();
    assert_eq!((tokens.get(0), tokens.get_str(0)), (Some(&b"\xe4\xbd"[..]), None));
    assert_eq!(tokens.get_str(1), Some("\u{4f60}"));
}

#[test]
fn every_type_is_written_and_read() {
    let mut w = Writer::new("types.gguf");
    let values: Vec<Value> = vec![
        u8::MAX.into(),
        i8::MIN.into(),
        u16::MAX.into(),
        i16::MIN.into(),
        u32::MAX.into(),
        i32::MIN.into(),
        u64::MAX.into(),
        i64::MIN.into(),
        f32::MIN_POSITIVE.into(),
        f64::MAX.into(),
        false.into(),
        "\u{ff5c}".into(),
        StringArray::from_strings(["", "x"]).unwrap().into(),
        (&[u8::MAX, 1][..]).into(),
        (&[i16::MIN, 1][..]).into(),
        (&[f32::MIN, 1.0][..]).into(),
        (&[true, false][..]).into(),
    ];
    for (i, value) in values.iter().enumerate() {
        w.set(&format!("key.{i}"), value.clone());
    }
    let file = open_bytes(write(&w, &[]));
    assert!(file.metadata().iter().map(|(_, v)| v).eq(&values));
    assert_eq!(file.metadata().get("key.0").map(Value::ty), Some(ValueType::U8));
}

#[test]
fn the_writer_replaces_removes_and_refuses() {
    let mut w = Writer::new("new.gguf");
    for key in ["a", "b", "c"] {
        w.set(key, 1u32);
    }
    w.set("a", 2u32);
    w.remove("b");
    w.set("d", 3u32);
    w.remove("no such key");
    let keys = |m: &Metadata| m.iter().map(|(k, v)| format!("{k}{v}")).collect::<Vec<_>>();
    assert_eq!(keys(w.metadata()), ["a2", "c1", "d3"]);
    assert_eq!(w.metadata().u32("d").unwrap(), Some(3));

    w.tensor("x", GgmlType::F32, Shape([3, 1, 1, 1])).unwrap();
    let e = w.tensor("x", GgmlType::F32, Shape([3, 1, 1, 1])).unwrap_err().to_string();
    assert!(e.contains("'x'") && e.contains("twice"), "{e}");
    let e = w.tensor("y", GgmlType::Q8_0, Shape([33, 1, 1, 1])).unwrap_err().to_string();
    assert!(e.contains("'y'") && e.contains("Q8_0"), "{e}");
    let mut data = w.begin(Vec::new()).unwrap();
    data.write(&[0; 8]).unwrap();
    let e = data.write(&[0; 5]).unwrap_err().to_string();
    assert!(e.starts_with("new.gguf: ") && e.contains("'x'") && e.contains("4 are left"), "{e}");
    let e = data.finish().unwrap_err().to_string();
    assert!(e.contains("'x'") && e.contains("8 of its 12"), "{e}");
    let mut data = w.begin(Vec::new()).unwrap();
    data.write(&[0; 12]).unwrap();
    let e = data.write(&[0; 1]).unwrap_err().to_string();
    assert!(e.contains("beyond the last tensor"), "{e}");
    w.set("general.alignment", 24u32);
    assert!(w.begin(Vec::new()).err().unwrap().to_string().contains("alignment of 24"));
    assert!(w.file_size().is_err());
}

#[test]
fn a_disk_that_is_full_is_an_error() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let e = Writer::new("full.gguf").begin(Full).err().unwrap().to_string();
    assert!(e.starts_with("full.gguf: cannot write"), "{e}");
}

#[test]
fn versions_2_and_an_alignment_of_its_own() {
    let raw = Raw::version(2, 1, 1)
        .key_u32("general.alignment", 128)
        .tensor("a", &[4], 0, 128)
        .pad(128)
        .zeros(128)
        .bytes(bytemuck::cast_slice(&[1f32, 2.0, 3.0, 4.0]));
    let file = open_bytes(raw.0);
    assert_eq!((file.shards()[0].version(), file.shards()[0].alignment()), (2, 128));
    assert_eq!(file.tensor("a").unwrap().to_f32(), [1.0, 2.0, 3.0, 4.0]);
}

/// Writes llama3's F16 file as `n` shards, as llama.cpp's splitter does it.
fn split(dir: &Path, n: usize) -> Gguf {
    let whole = Gguf::open(&fixtures::model("llama3").f16).unwrap();
    let per_shard = whole.tensors().len().div_ceil(n);
    for (no, tensors) in whole.tensors().chunks(per_shard).enumerate() {
        let mut w = Writer::new("shard");
        if no == 0 {
            w.copy_metadata(whole.metadata());
        }
        w.set("split.no", no as u16);
        w.set("split.count", n as u16);
        w.set("split.tensors.count", whole.tensors().len() as i32);
        for t in tensors {
            w.tensor(t.name(), t.ty(), t.shape()).unwrap();
        }
        let name = format!("m-{:05}-of-{n:05}.gguf", no + 1);
        std::fs::write(dir.join(name), write(&w, tensors)).unwrap();
    }
    whole
}

#[test]
fn a_split_model_is_opened_by_any_of_its_shards() {
    let dir = tempfile::tempdir().unwrap();
    let whole = split(dir.path(), 3);
    for no in 1..=3 {
        let file = Gguf::open(&dir.path().join(format!("m-{no:05}-of-00003.gguf"))).unwrap();
        assert_eq!(file.shards().len(), 3);
        assert!(file.path().ends_with("m-00001-of-00003.gguf"));
        assert_eq!(file.size(), file.shards().iter().map(|s| s.size()).sum::<u64>());
        assert_eq!(file.metadata().str("general.name").unwrap(), Some("llama3"));
        assert_eq!(file.tensors().len(), whole.tensors().len());
        for (a, b) in file.tensors().iter().zip(whole.tensors()) {
            assert_eq!((a.name(), a.ty(), a.shape()), (b.name(), b.ty(), b.shape()));
            assert!(a.bytes() == b.bytes(), "{}", a.name());
        }
        // Hints change nothing that can be seen.
        file.advise(Access::Random);
        file.announce_reads(true);
        file.tensors().iter().for_each(|t| t.will_need(0..t.shape().n_rows()));
        file.tensors().iter().for_each(|t| t.shared_bytes().release(0..t.bytes().len()));
        assert!(file.tensors().iter().zip(whole.tensors()).all(|(a, b)| a.bytes() == b.bytes()));
        file.advise(Access::Sequential);
        file.advise(Access::Normal);
    }
}

#[test]
fn a_file_is_the_same_in_the_page_cache_and_in_memory_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let whole = split(dir.path(), 3);
    let file = Gguf::open(&dir.path().join("m-00002-of-00003.gguf")).unwrap();
    let done = AtomicUsize::new(0);
    let progress = |n| _ = done.fetch_add(n, Ordering::Relaxed);
    file.populate(&progress);
    assert_eq!(done.swap(0, Ordering::Relaxed) as u64, file.size());
    let (size, paths) = (file.size(), file.shards().iter().map(|s| s.path().to_owned()).collect::<Vec<_>>());
    let own = file.into_memory(&progress).unwrap();
    assert_eq!(done.into_inner() as u64, size);
    assert_eq!(own.shards().iter().map(|s| s.path().to_owned()).collect::<Vec<_>>(), paths);
    // Nothing of it hangs on the files any more.
    for path in &paths {
        std::fs::write(path, b"").unwrap();
    }
    for (a, b) in own.tensors().iter().zip(whole.tensors()) {
        assert!(a.name() == b.name() && a.bytes() == b.bytes(), "{}", a.name());
    }
    assert_eq!(own.tensors().len(), whole.tensors().len());
}

#[test]
fn announced_rows_are_the_bytes_that_they_are_read_from() {
    /// A file that notes what will be needed of it.
    struct Noted(Vec<u8>, Mutex<Vec<Range<usize>>>);
    impl AsRef<[u8]> for Noted {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Backing for Noted {
        fn will_need(&self, range: Range<usize>) {
            self.1.lock().unwrap().push(range);
        }
    }
    let path = fixtures::model("llama3").f16;
    let bytes = Arc::new(Noted(std::fs::read(path).unwrap(), Mutex::default()));
    let file = Gguf::from_bytes(bytes.clone(), "noted.gguf").unwrap();
    let tensor = file.tensor("blk.1.ffn_down.weight").unwrap();
    tensor.will_need(3..7);
    let noted = std::mem::take(&mut *bytes.1.lock().unwrap());
    let [range] = &noted[..] else { panic!("{noted:?}") };
    let rows: Vec<u8> = (3..7).flat_map(|i| tensor.row(i)).copied().collect();
    assert_eq!(bytes.0[range.clone()], rows);
    assert_eq!(bytes.0[range.clone()].as_ptr(), tensor.row(3).as_ptr());
}

/// KiB that this process has locked, where the system says it.
#[cfg(target_os = "linux")]
fn locked() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmLck:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[test]
#[cfg(target_os = "linux")]
fn a_locked_file_stays_in_memory_as_long_as_the_model() {
    let Some(before) = locked() else { return };
    let mut w = Writer::new("locked.gguf");
    w.tensor("x", GgmlType::F32, Shape([8192, 1, 1, 1])).unwrap();
    let mut data = w.begin(Vec::new()).unwrap();
    data.write(&[7; 32768]).unwrap();
    let bytes = data.finish().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    let model = Gguf::open(file.path()).unwrap();
    match model.lock() {
        Ok(()) => assert!(locked().unwrap() >= before + bytes.len() / 1024),
        Err(e) => {
            // Less than these few pages, then.
            let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
            let line = limits.lines().find_map(|l| l.strip_prefix("Max locked memory")).unwrap();
            let limit: usize = line.split_whitespace().next().unwrap().parse().unwrap();
            assert!(limit < bytes.len() + 4096, "{e} with a limit of {limit}");
        }
    }
    drop(model);
    assert_eq!(locked(), Some(before));
    // What is on the heap is left alone.
    open_bytes(bytes).lock().unwrap();
    assert_eq!(locked(), Some(before));
}

#[test]
#[cfg(target_pointer_width = "64")]
fn files_larger_than_memory_are_mapped() {
    // 1 TiB with a hole where nearly all of it would be; filesystems that cannot do it are excused.
    const ROWS: u64 = 1 << 31;
    let raw = Raw::new(1, 0).tensor("token_embd.weight", &[256, ROWS], 1, 0).pad(32);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &raw.0).unwrap();
    let size = raw.0.len() as u64 + ROWS * 512;
    if let Err(e) = file.as_file().set_len(size) {
        eprintln!("a file of {size} bytes: {e}");
        return;
    }
    let model = Gguf::open(file.path()).unwrap();
    assert_eq!(model.size(), size);
    let tensor = model.tensor("token_embd.weight").unwrap();
    assert!(tensor.row(ROWS as usize - 1).iter().all(|&b| b == 0));
    // One byte less and its end is outside.
    file.as_file().set_len(size - 1).unwrap();
    let e = Gguf::open(file.path()).unwrap_err().to_string();
    assert!(e.contains("'token_embd.weight'") && e.contains("cut short"), "{e}");
}
