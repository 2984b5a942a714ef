//! From file to file: what comes out, what is refused, and that nothing is left of what fails.

use std::fs;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use fathom_testing::fixtures;
use ggml_sys::format::random::Random;
use ggml_sys::gguf::{Gguf, Writer};
use ggml_sys::{GgmlType, Shape};
use quantize::imatrix::Entry;
use quantize::{
    Deviation, Error, ImportanceFile, ImportanceMatrix, Options, Override, Plan, Report, Target, run, types,
};
use tempfile::TempDir;

/// A file whose matrices are random, in F32 unless said otherwise.
struct Source {
    writer: Writer,
    data: Vec<Vec<u8>>,
    random: Random,
}

impl Source {
    fn new() -> Self {
        let mut writer = Writer::new("source.gguf");
        writer.set("general.architecture", "llama");
        writer.set("general.file_type", 0u32);
        Source { writer, data: vec![], random: Random(7) }
    }

    fn values(mut self, name: &str, dims: &[usize], ty: GgmlType, values: &[f32]) -> Self {
        let shape = Shape::new(dims).unwrap();
        let mut bytes = vec![0; ty.row_bytes(values.len()).unwrap()];
        ty.format().encode(values, None, &mut bytes).unwrap();
        self.writer.tensor(name, ty, shape).unwrap();
        self.data.push(bytes);
        self
    }

    fn random(mut self, name: &str, dims: &[usize], ty: GgmlType) -> Self {
        let values: Vec<f32> = (0..dims.iter().product()).map(|_| self.random.gaussian()).collect();
        self.values(name, dims, ty, &values)
    }

    fn bytes(self) -> Vec<u8> {
        let mut out = self.writer.begin(Vec::new()).unwrap();
        self.data.iter().for_each(|d| out.write(d).unwrap());
        out.finish().unwrap()
    }

    fn write(self, path: &Path) -> Gguf {
        fs::write(path, self.bytes()).unwrap();
        Gguf::open(path).unwrap()
    }
}

/// A small llama: an embedding, a layer's worth of kinds of tensors, an output.
fn small() -> Source {
    Source::new()
        .random("token_embd.weight", &[512, 9], GgmlType::F32)
        .random("blk.0.attn_norm.weight", &[512], GgmlType::F32)
        .random("blk.0.attn_q.weight", &[512, 6], GgmlType::F32)
        .random("blk.0.attn_q.bias", &[6], GgmlType::F32)
        .random("blk.0.ffn_gate_inp.weight", &[512, 4], GgmlType::F32)
        .random("blk.0.ffn_up_exps.weight", &[512, 3, 4], GgmlType::F32)
        .random("output.weight", &[512, 9], GgmlType::F32)
}

fn target(ty: GgmlType) -> Target {
    Target::new(ty).unwrap()
}

fn quantize(source: &Gguf, target: &Target, out: &Path) -> Result<Report, Error> {
    let plan = Plan::new(source, target)?;
    run(&plan, out, &Options::default(), &mut |_| (), &AtomicBool::new(false))
}

fn in_memory(source: &Gguf, target: &Target) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    Plan::new(source, target)?.write(&mut out, "out", None, &mut |_| (), &AtomicBool::new(false))?;
    Ok(out)
}

/// Names in a folder, sorted.
fn names(dir: &TempDir) -> Vec<String> {
    let names = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

fn one_line(e: &Error) -> String {
    let text = e.to_string();
    assert!(!text.contains(char::is_control), "{text:?}");
    text
}

struct Folder {
    dir: TempDir,
    source: PathBuf,
    out: PathBuf,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (source, out) = (dir.path().join("in.gguf"), dir.path().join("out.gguf"));
        Folder { dir, source, out }
    }
}

#[test]
fn every_type_with_an_encoder_comes_out_as_planned() {
    let f = Folder::new();
    let source = small().write(&f.source);
    let importance = f.dir.path().join("importance");
    fs::write(&importance, importance_of(&source)).unwrap();
    let importance = ImportanceFile::open(&importance).unwrap();
    for ty in types() {
        let out = f.dir.path().join(ty.name());
        let mut plan = Plan::new(&source, &target(ty)).unwrap();
        let needed = plan.needs_importance().is_some();
        if needed {
            let e = run(&plan, &out, &Options::default(), &mut |_| (), &AtomicBool::new(false)).unwrap_err();
            assert!(matches!(e, Error::NeedsImportance { .. }) && !out.exists(), "{ty}: {e}");
            plan = Plan::new(&source, &target(ty).with_importance(importance.clone())).unwrap();
            assert!(plan.needs_importance().is_none());
        }
        let report = run(&plan, &out, &Options::default(), &mut |_| (), &AtomicBool::new(false)).unwrap();
        let new = Gguf::open(&out).unwrap();
        assert_eq!((plan.file_size(), report.bytes), (new.size(), new.size()), "{ty}");
        assert_eq!(new.tensors().len(), plan.lines().len());
        for ((line, tensor), deviation) in plan.lines().iter().zip(new.tensors()).zip(&report.deviations) {
            assert_eq!((tensor.name(), tensor.ty(), tensor.shape()), (&*line.name, line.to, line.shape));
            assert_eq!(tensor.bytes().len() as u64, line.new_bytes);
            let old = source.tensor(&line.name).unwrap().to_f32();
            let mut encoded = vec![0; tensor.bytes().len()];
            let [n_in, _, n, _] = line.shape.0;
            let weights = importance.weights(&line.name, n_in, n).unwrap().filter(|_| line.weighted);
            assert_eq!(weights.is_some(), needed && line.is_converted(), "{ty}: {}", line.name);
            let weights = weights.map(|w| {
                let rows = w.chunks(n_in).flat_map(|row| std::iter::repeat_n(row, line.shape.0[1]));
                rows.flatten().copied().collect::<Vec<f32>>()
            });
            line.to.format().encode(&old, weights.as_deref(), &mut encoded).unwrap();
            assert!(tensor.bytes() == encoded, "{ty}: {}", line.name);
            check_deviation(&old, &tensor.to_f32(), deviation);
        }
        let kept = ["blk.0.attn_norm.weight", "blk.0.attn_q.bias", "blk.0.ffn_gate_inp.weight"];
        assert!(kept.iter().all(|name| new.tensor(name).unwrap().ty() == GgmlType::F32), "{ty}");
        assert_eq!(new.metadata().u32("general.quantization_version").unwrap(), Some(2));
        assert_eq!(new.metadata().str("general.architecture").unwrap(), Some("llama"));
    }
}

/// Something else for every column of every matrix.
fn importance_of(source: &Gguf) -> Vec<u8> {
    let mut matrix = ImportanceMatrix { chunks: 1, chunk_size: 512, ..ImportanceMatrix::default() };
    for t in source.tensors().iter().filter(|t| t.shape().used().len() > 1) {
        let [n_in, _, n, _] = t.shape().0;
        let sums = (0..n_in * n).map(|i| 1.0 + (i % 7) as f64).collect();
        matrix.entries.insert(t.name().into(), Entry { sums, counts: vec![2; n] });
    }
    matrix.write(Vec::new(), "importance").unwrap()
}

fn check_deviation(old: &[f32], new: &[f32], deviation: &Deviation) {
    let sum =
        |f: fn(f64, f64) -> f64| -> f64 { old.iter().zip(new).map(|(&x, &y)| f(x.into(), y.into())).sum() };
    let want = (sum(|x, y| (x - y).powi(2)) / sum(|x, _| x * x)).sqrt();
    assert!((deviation.relative() - want).abs() <= 1e-9 * want, "{} {want}", deviation.relative());
    // Three values for a weight are the coarsest there is, and some of them matter less than others.
    assert!(deviation.relative() < 0.7);
}

#[test]
fn file_types_are_those_of_llama_cpp() {
    let source = small().bytes();
    let source = Gguf::from_bytes(std::sync::Arc::new(source), "source").unwrap();
    for (ty, number) in [(GgmlType::F32, 0), (GgmlType::F16, 1), (GgmlType::Q8_0, 7), (GgmlType::Q6_K, 18)] {
        let new =
            Gguf::from_bytes(std::sync::Arc::new(in_memory(&source, &target(ty)).unwrap()), "new").unwrap();
        assert_eq!(new.metadata().u32("general.file_type").unwrap(), Some(number), "{ty}");
    }
}

#[test]
fn f16_to_f32_and_back_is_the_file_that_it_was() {
    for name in ["qwen2", "deepseek_v3"] {
        let f = Folder::new();
        let model = fixtures::model(name);
        let report = quantize(&Gguf::open(&model.f16).unwrap(), &target(GgmlType::F32), &f.out).unwrap();
        assert!(report.deviations.iter().all(|d| d.error == 0.0));
        let back = f.dir.path().join("back.gguf");
        quantize(&Gguf::open(&f.out).unwrap(), &target(GgmlType::F16), &back).unwrap();
        assert!(fs::read(back).unwrap() == fs::read(&model.f16).unwrap(), "{name}");
    }
}

#[test]
fn rows_that_are_no_whole_blocks_fall_back() {
    let f = Folder::new();
    let source = Source::new()
        .random("token_embd.weight", &[96, 8], GgmlType::F32)
        .random("blk.0.attn_q.weight", &[96, 8], GgmlType::F32)
        .random("blk.0.attn_k.weight", &[40, 8], GgmlType::F32)
        .random("blk.0.attn_v.weight", &[256, 8], GgmlType::F32)
        .write(&f.source);
    let plan = Plan::new(&source, &target(GgmlType::Q4_K)).unwrap();
    let got: Vec<_> = plan.lines().iter().map(|l| (l.to, l.fallback_of)).collect();
    let want = [
        (GgmlType::Q8_0, None), // the output's rule where rows are no whole super-blocks
        (GgmlType::Q5_0, Some(GgmlType::Q4_K)),
        (GgmlType::F16, Some(GgmlType::Q4_K)),
        (GgmlType::Q6_K, None), // the only one of its kind
    ];
    assert_eq!(got, want);
    quantize(&source, &target(GgmlType::Q4_K), &f.out).unwrap();
    let types: Vec<_> = Gguf::open(&f.out).unwrap().tensors().iter().map(|t| t.ty()).collect();
    assert_eq!(types, want.map(|w| w.0));
}

#[test]
fn overrides_change_the_type_of_what_they_fit() {
    let source = Gguf::from_bytes(std::sync::Arc::new(small().bytes()), "source").unwrap();
    let parse = |s| Override::parse(s).unwrap();
    let t = target(GgmlType::Q4_0).with(parse("attn_q=Q5_K")).with(parse("^(output|blk.*)=f16"));
    let plan = Plan::new(&source, &t).unwrap();
    let to = |name: &str| plan.lines().iter().find(|l| &*l.name == name).unwrap().to;
    assert_eq!(to("token_embd.weight"), GgmlType::Q4_0);
    assert_eq!(to("blk.0.attn_q.weight"), GgmlType::Q5_K);
    assert_eq!(to("blk.0.ffn_up_exps.weight"), GgmlType::F16);
    assert_eq!(to("output.weight"), GgmlType::F16);
    assert_eq!(to("blk.0.attn_norm.weight"), GgmlType::F32);
    for useless in ["attn_w=Q8_0", "attn_norm=Q8_0"] {
        let e = Plan::new(&source, &target(GgmlType::Q4_0).with(parse(useless))).map(drop).unwrap_err();
        assert!(one_line(&e).contains("fits the name of no tensor that can be converted"), "{e}");
    }
}

#[test]
fn a_split_model_becomes_one_file() {
    let f = Folder::new();
    for no in 0..2u16 {
        let mut part = Source::new();
        part.writer.set("split.no", no);
        part.writer.set("split.count", 2u16);
        part.writer.set("split.tensors.count", 2i32);
        let name = format!("blk.{no}.attn_q.weight");
        part.random(&name, &[64, 3], GgmlType::F32)
            .write_part(&f.dir.path().join(format!("m-0000{}-of-00002.gguf", no + 1)));
    }
    let source = Gguf::open(&f.dir.path().join("m-00001-of-00002.gguf")).unwrap();
    quantize(&source, &target(GgmlType::Q8_0), &f.out).unwrap();
    let new = Gguf::open(&f.out).unwrap();
    assert_eq!(new.tensors().len(), 2);
    assert!(new.metadata().iter().all(|(key, _)| !key.starts_with("split.")));
    // The second shard is read, too.
    let second = f.dir.path().join("m-00002-of-00002.gguf");
    assert!(matches!(quantize(&source, &target(GgmlType::F16), &second), Err(Error::Input(_))));
}

impl Source {
    fn write_part(self, path: &Path) {
        fs::write(path, self.bytes()).unwrap();
    }
}

#[test]
fn tensors_larger_than_a_slab_are_converted_in_pieces() {
    // Rows of 96 do not divide a slab.
    let rows = (4 << 20) / 96 + 1000;
    let source = || Source::new().random("blk.0.attn_q.weight", &[96, rows], GgmlType::F16);
    let gguf = Gguf::from_bytes(std::sync::Arc::new(source().bytes()), "source").unwrap();
    let values = gguf.tensors()[0].to_f32();
    let mut want = vec![0; rows * GgmlType::Q8_0.row_bytes(96).unwrap()];
    GgmlType::Q8_0.format().encode(&values, None, &mut want).unwrap();
    for threads in [1, 3] {
        let (mut out, mut told) = (Vec::new(), vec![]);
        let plan = Plan::new(&gguf, &target(GgmlType::Q8_0)).unwrap();
        let threads = NonZeroUsize::new(threads);
        plan.write(&mut out, "out", threads, &mut |p| told.push((p.done, p.total)), &AtomicBool::new(false))
            .unwrap();
        let new = Gguf::from_bytes(std::sync::Arc::new(out), "new").unwrap();
        assert!(new.tensors()[0].bytes() == want);
        let total = 2 * values.len() as u64;
        assert_eq!(told, [(8 << 20, total), (total, total)]);
    }
}

#[test]
fn numbers_that_are_none_are_errors_that_name_the_tensor() {
    let n = 96 * ((4 << 20) / 96 + 1000);
    let mut values = vec![0.5; n];
    for (at, value, place) in [
        (n - 1, f32::NAN, format!("row {}, column 95 is NaN", n / 96 - 1)),
        (200_007, f32::NEG_INFINITY, "row 2083, column 39 is -inf".into()),
        (5, f32::INFINITY, "row 0, column 5 is inf".into()),
    ] {
        values[at] = value;
        let source = Source::new().values("blk.7.attn_q.weight", &[96, n / 96], GgmlType::F16, &values);
        let source = Gguf::from_bytes(std::sync::Arc::new(source.bytes()), "source.gguf").unwrap();
        for ty in [GgmlType::Q8_0, GgmlType::F16] {
            let text = one_line(&in_memory(&source, &target(ty)).unwrap_err());
            assert_eq!(text, format!("source.gguf: tensor 'blk.7.attn_q.weight': {place}"));
        }
    }
    // Tensors that are only copied are read, too.
    let source = Source::new().values("output_norm.weight", &[2], GgmlType::F32, &[1.0, f32::NAN]);
    let source = Gguf::from_bytes(std::sync::Arc::new(source.bytes()), "source.gguf").unwrap();
    assert!(
        one_line(&in_memory(&source, &target(GgmlType::Q8_0)).unwrap_err()).contains("'output_norm.weight'")
    );
}

#[test]
fn numbers_that_a_type_cannot_express_are_errors() {
    let source = Source::new().values("a.weight", &[2, 2], GgmlType::F32, &[1.0, 2.0, 65519.0, 65520.0]);
    let source = Gguf::from_bytes(std::sync::Arc::new(source.bytes()), "s").unwrap();
    let text = one_line(&in_memory(&source, &target(GgmlType::F16)).unwrap_err());
    assert_eq!(text, "s: tensor 'a.weight': row 1, column 1 is 65520.0, which F16 cannot express");
    in_memory(&source, &target(GgmlType::BF16)).unwrap();
}

#[test]
fn an_output_that_exists_is_replaced_only_by_force() {
    let f = Folder::new();
    let source = small().write(&f.source);
    fs::write(&f.out, "precious").unwrap();
    let e = quantize(&source, &target(GgmlType::Q8_0), &f.out).unwrap_err();
    assert!(matches!(&e, Error::Exists(path) if *path == f.out));
    assert_eq!(one_line(&e), format!("{:?} exists already", f.out));
    assert_eq!(fs::read(&f.out).unwrap(), b"precious");
    let plan = Plan::new(&source, &target(GgmlType::Q8_0)).unwrap();
    let force = Options { force: true, ..Options::default() };
    run(&plan, &f.out, &force, &mut |_| (), &AtomicBool::new(false)).unwrap();
    assert_eq!(Gguf::open(&f.out).unwrap().size(), plan.file_size());
    assert_eq!(names(&f.dir), ["in.gguf", "out.gguf"]);
}

#[test]
fn the_model_that_is_read_is_never_written() {
    let f = Folder::new();
    let source = small().write(&f.source);
    let before = fs::read(&f.source).unwrap();
    let plan = Plan::new(&source, &target(GgmlType::Q8_0)).unwrap();
    let force = Options { force: true, ..Options::default() };
    let mut outs = vec![f.source.clone(), f.dir.path().join(".").join("in.gguf")];
    #[cfg(unix)]
    {
        let (hard, soft) = (f.dir.path().join("hard.gguf"), f.dir.path().join("soft.gguf"));
        fs::hard_link(&f.source, &hard).unwrap();
        std::os::unix::fs::symlink(&f.source, &soft).unwrap();
        // The name that the output is written under.
        fs::hard_link(&f.source, f.dir.path().join("x.gguf.partial")).unwrap();
        outs.extend([hard, soft, f.dir.path().join("x.gguf")]);
    }
    for out in outs {
        let e = run(&plan, &out, &force, &mut |_| (), &AtomicBool::new(false)).unwrap_err();
        assert!(matches!(e, Error::Input(_)), "{}: {e}", out.display());
        assert!(one_line(&e).ends_with("is the model that is read"));
        assert!(fs::read(&f.source).unwrap() == before);
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_never_replaced() {
    let f = Folder::new();
    let plan = Plan::new(&small().write(&f.source), &target(GgmlType::Q8_0)).unwrap();
    let force = Options { force: true, ..Options::default() };
    let try_it = |out: &Path| run(&plan, out, &force, &mut |_| (), &AtomicBool::new(false)).unwrap_err();
    assert!(matches!(try_it(f.dir.path()), Error::NotAFile(_)));
    // A name is lent to a device, so that a mistake costs nothing.
    std::os::unix::fs::symlink("/dev/full", &f.out).unwrap();
    assert!(matches!(try_it(&f.out), Error::NotAFile(_)));
    fs::remove_file(&f.out).unwrap();
    let partial = f.dir.path().join("out.gguf.partial");
    std::os::unix::fs::symlink("/dev/full", &partial).unwrap();
    assert!(matches!(try_it(&f.out), Error::NotAFile(p) if p == partial));
    assert!(partial.is_symlink());
    let e = try_it(&f.dir.path().join("no folder").join("x.gguf"));
    assert!(one_line(&e).contains("no folder") && one_line(&e).contains("cannot create"), "{e}");
}

#[test]
fn what_another_process_writes_is_left_to_it() {
    let f = Folder::new();
    let source = small().write(&f.source);
    let partial = f.dir.path().join("out.gguf.partial");
    let other = fs::File::create(&partial).unwrap();
    other.lock().unwrap();
    let e = quantize(&source, &target(GgmlType::Q8_0), &f.out).unwrap_err();
    assert!(matches!(e, Error::Busy(_)), "{e}");
    assert_eq!(names(&f.dir), ["in.gguf", "out.gguf.partial"]);
    // What a process left behind that was killed is in nobody's way.
    drop(other);
    fs::write(&partial, vec![1; 1 << 20]).unwrap();
    quantize(&source, &target(GgmlType::Q8_0), &f.out).unwrap();
    assert_eq!(names(&f.dir), ["in.gguf", "out.gguf"]);
    assert!(Gguf::open(&f.out).is_ok());
}

#[test]
fn nothing_is_left_of_what_was_cancelled() {
    let f = Folder::new();
    let source = small().write(&f.source);
    let plan = Plan::new(&source, &target(GgmlType::Q4_K)).unwrap();
    fs::write(&f.out, "precious").unwrap();
    let force = Options { force: true, ..Options::default() };
    for after in 0..plan.lines().len() {
        let (cancel, mut seen) = (AtomicBool::new(after == 0), 0);
        let progress = &mut |_: quantize::Progress<'_>| {
            assert_eq!(names(&f.dir), ["in.gguf", "out.gguf", "out.gguf.partial"]);
            seen += 1;
            cancel.store(seen == after, Ordering::Relaxed);
        };
        let e = run(&plan, &f.out, &force, progress, &cancel).unwrap_err();
        assert!(matches!(e, Error::Cancelled), "{e}");
        assert_eq!(seen, after);
        assert_eq!(names(&f.dir), ["in.gguf", "out.gguf"]);
        assert_eq!(fs::read(&f.out).unwrap(), b"precious");
    }
}

#[test]
fn nothing_is_left_of_what_failed() {
    let f = Folder::new();
    let source =
        small().values("z.weight", &[2, 2], GgmlType::F32, &[0.0, 0.0, 0.0, f32::NAN]).write(&f.source);
    let e = quantize(&source, &target(GgmlType::Q8_0), &f.out).unwrap_err();
    assert!(one_line(&e).ends_with("tensor 'z.weight': row 1, column 1 is NaN"), "{e}");
    assert_eq!(names(&f.dir), ["in.gguf"]);
}

/// A disk that is full after so many bytes.
struct Disk(usize);

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(self.0);
        self.0 -= n;
        if n == 0 && !bytes.is_empty() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(n) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_an_error_wherever_it_happens() {
    let source = Gguf::from_bytes(std::sync::Arc::new(small().bytes()), "source").unwrap();
    let plan = Plan::new(&source, &target(GgmlType::Q5_1)).unwrap();
    let size = plan.file_size() as usize;
    let write = |disk| plan.write(disk, "new.gguf", None, &mut |_| (), &AtomicBool::new(false));
    for room in (0..size).step_by(997).chain([size - 1]) {
        let text = one_line(&write(Disk(room)).unwrap_err());
        assert!(text.starts_with("new.gguf: cannot write: "), "{room}: {text}");
    }
    assert_eq!(write(Disk(size)).unwrap().bytes, size as u64);
}

#[cfg(unix)]
#[test]
fn a_disk_without_room_is_told_before_anything_is_written() {
    let f = Folder::new();
    let source = small().write(&f.source);
    let output = quantize::Output::create(&f.out, [source.path()], false).unwrap();
    output.check_space(1 << 10).unwrap();
    let e = output.check_space(u64::MAX).unwrap_err();
    assert!(matches!(e, Error::NoSpace { need: u64::MAX, .. }), "{e}");
    one_line(&e);
    drop(output);
    assert_eq!(names(&f.dir), ["in.gguf"]);
}
