//! Safetensors files of expected values.

use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// A safetensors file in memory.
pub struct Tensors {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Tensors {
    /// Reads the file.
    pub fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Tensors { path: path.into(), bytes }
    }

    /// Names of all tensors.
    pub fn names(&self) -> Vec<String> {
        self.parse().names().iter().map(|name| name.to_string()).collect()
    }

    /// Shape (row-major, the slowest dimension first) and values of a tensor of F32, F16 or BF16.
    pub fn f32(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let file = self.parse();
        let view = self.view(&file, name);
        let values = match view.dtype() {
            Dtype::F32 => words(&view, f32::from_le_bytes),
            Dtype::F16 => words(&view, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => words(&view, |b| bf16::from_le_bytes(b).to_f32()),
            other => panic!("{}: {name} is {other:?}", self.path.display()),
        };
        (view.shape().to_vec(), values)
    }

    /// Shape and values of a tensor of I32 or I64.
    pub fn i64(&self, name: &str) -> (Vec<usize>, Vec<i64>) {
        let file = self.parse();
        let view = self.view(&file, name);
        let values = match view.dtype() {
            Dtype::I32 => words(&view, |b| i32::from_le_bytes(b).into()),
            Dtype::I64 => words(&view, i64::from_le_bytes),
            other => panic!("{}: {name} is {other:?}", self.path.display()),
        };
        (view.shape().to_vec(), values)
    }

    fn parse(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap_or_else(|e| panic!("{}: {e}", self.path.display()))
    }

    fn view<'a>(&self, file: &SafeTensors<'a>, name: &str) -> TensorView<'a> {
        file.tensor(name).unwrap_or_else(|e| panic!("{}: {name}: {e}", self.path.display()))
    }
}

fn words<const N: usize, T>(view: &TensorView<'_>, convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    view.data().chunks_exact(N).map(|b| convert(b.try_into().expect("N bytes"))).collect()
}
