//! Uses all of a file that could be opened, as the engine would and more.

#[path = "one_line.rs"]
mod one_line;

use ggml_sys::gguf::{Array, Error, Gguf, Metadata, Value};

/// Opens a file and, if that works, reads everything it says; errors must be one short line.
pub fn open_and_use(bytes: Vec<u8>) -> Result<Gguf, Error> {
    let opened = Gguf::from_bytes(std::sync::Arc::new(bytes), "fuzzed.gguf");
    match &opened {
        Ok(file) => use_all(file),
        Err(e) => one_line::check(e, "fuzzed.gguf"),
    }
    opened
}

fn use_all(file: &Gguf) {
    let metadata = file.metadata();
    for (key, value) in metadata.iter() {
        assert!(metadata.get(key).is_some_and(|v| std::ptr::eq(v, value)));
        _ = value.to_string();
        getters(metadata, key);
        match value {
            Value::Array(Array::Strings(a)) => {
                assert_eq!(a.iter().map(<[u8]>::len).sum::<usize>() + 8 * a.len(), encoded_len(a));
                assert!((0..a.len()).all(|i| a.get(i).is_some()) && a.get(a.len()).is_none());
                assert!(a.get_str(usize::MAX).is_none());
            }
            Value::Array(Array::Numbers(a)) => {
                assert_eq!(a.iter().count(), a.len());
                assert!(a.get(a.len()).is_none() && a.get(usize::MAX).is_none());
            }
            _ => {}
        }
    }
    for tensor in file.tensors() {
        assert_eq!(file.tensor(tensor.name()).map(|t| t.name()), Some(tensor.name()));
        let (row, n) = (tensor.row_bytes(), tensor.shape().n_rows());
        assert_eq!(row * n, tensor.bytes().len());
        tensor.row(n - 1);
        if tensor.shape().n_elements() <= 1 << 16 {
            assert_eq!(tensor.to_f32().len(), tensor.shape().n_elements());
        }
        tensor.will_need(0..tensor.shape().n_rows());
    }
}

fn encoded_len(a: &ggml_sys::gguf::StringArray) -> usize {
    a.iter().fold(0, |n, s| n + size_of::<u64>() + s.len())
}

/// Whatever the value is, every getter takes it or says in a line why not.
fn getters(m: &Metadata, key: &str) {
    let errors = [
        m.str(key).err(),
        m.u32(key).err(),
        m.i32(key).err(),
        m.u64(key).err(),
        m.i64(key).err(),
        m.usize(key).err(),
        m.f32(key).err(),
        m.bool(key).err(),
        m.strings(key).err(),
        m.numbers(key).err(),
        m.u32s(key).err(),
        m.i32s(key).err(),
        m.f32s(key).err(),
        m.bools(key).err(),
        m.require_str("no such key").err(),
        m.require_u32s("no such key").err(),
    ];
    for e in errors.into_iter().flatten() {
        one_line::check(&e, "fuzzed.gguf");
    }
}
