//! One operation over its inputs, on every backend.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use ggml_sys::backend::{Backend, Program, Share, Streamed};
use ggml_sys::cache::{Cache, LayerCache};
use ggml_sys::cpu::{Cpu, kernels};
use ggml_sys::cuda::Cuda;
use ggml_sys::cuda::driver::{Driver, LIBRARY};
use ggml_sys::format::random::{Random, random_blocks};
use ggml_sys::graph::{BufId, Graph, Row, Rows, View, Weights};
use ggml_sys::ops::Op;
use ggml_sys::reference::Reference;
use ggml_sys::{Bytes, Error, GgmlType, Shape, Tensor};

/// Backends that must give the same bits: every instruction set of this machine, with one thread and with several; and CUDA, on the
/// device of a driver that is named or on the simulated one. `FATHOM_BACKENDS=cpu` or `cuda` leaves out the others.
pub fn backends() -> Vec<Vec<Box<dyn Backend>>> {
    let only = std::env::var("FATHOM_BACKENDS").unwrap_or_default();
    let threads = |n| NonZeroUsize::new(n).unwrap();
    let cpu = kernels::available().map(|k| {
        [1, 2, 5].map(|n| Box::new(Cpu::with_kernels(threads(n), k).unwrap()) as Box<dyn Backend>).into()
    });
    let cpu = cpu.filter(|_| only != "cuda");
    let cuda = (only != "cpu").then(cuda).flatten().map(|c| vec![Box::new(c) as Box<dyn Backend>]);
    cpu.chain(cuda).collect()
}

/// CUDA with experts that are not kept on the device, through buffers of several sizes, which change no bit.
pub fn streaming() -> Vec<Box<dyn Backend>> {
    let only = std::env::var("FATHOM_BACKENDS").unwrap_or_default();
    let of =
        |buffer| (only != "cpu").then(cuda).flatten().map(|cuda| Box::new(Streaming { cuda, buffer }) as _);
    [0, 200_000, 4 << 20].into_iter().filter_map(of).collect()
}

/// A device that keeps no experts.
struct Streaming {
    cuda: Cuda,
    buffer: usize,
}

impl Backend for Streaming {
    fn name(&self) -> String {
        format!("{}, experts through {} bytes", self.cuda.name(), self.buffer)
    }

    fn compile_share(
        &self,
        graph: &Graph,
        layers: &[LayerCache],
        max_rows: usize,
        share: &Share,
    ) -> Result<Box<dyn Program>, Error> {
        let mut weights = vec![];
        for op in graph.ops() {
            if let Op::Experts(o) = op {
                weights.extend([o.gate.w, o.up.w, o.down.w]);
            }
        }
        let share = Share { streamed: Streamed { weights, buffer: self.buffer }, ..share.clone() };
        self.cuda.compile_share(graph, layers, max_rows, &share)
    }
}

/// The first CUDA device.
pub fn cuda() -> Option<Cuda> {
    let library = std::env::var_os(LIBRARY).map(PathBuf::from).or_else(fathom_testing::cuda_driver)?;
    let driver = Driver::from(&[library]).unwrap();
    Some(Cuda::open(Arc::new(driver), 0).unwrap())
}

pub fn tensor(ty: GgmlType, dims: &[usize], scale: f32, seed: u64) -> Tensor {
    let shape = Shape::new(dims).unwrap();
    let blocks = shape.n_elements() / ty.format().block;
    let bytes = Bytes::from_vec(random_blocks(ty, blocks, scale, seed));
    Tensor::new(format!("{ty} {shape}"), ty, shape, bytes).unwrap()
}

pub fn gaussian(n: usize, seed: u64) -> Vec<f32> {
    let mut r = Random(seed);
    (0..n).map(|_| r.gaussian()).collect()
}

/// Rows of one sequence from a position on, all wanted.
pub fn rows(first: usize, n: usize) -> Vec<Row> {
    (first..first + n).map(|p| Row { token: (p % 7) as u32, pos: p as u32, seq: 0, output: true }).collect()
}

/// Buffers and their values.
pub type Inputs = Vec<(BufId, Vec<f32>)>;

/// A graph, the cache it runs over, and its inputs for one batch.
pub struct Case {
    pub name: String,
    pub graph: Graph,
    pub layers: Vec<LayerCache>,
    /// Positions that the cache has before, and the graph that stores them.
    pub before: Option<(Graph, usize, Inputs)>,
    pub batch: Vec<Row>,
    pub inputs: Inputs,
    pub out: BufId,
    /// Distance allowed for each output.
    pub bound: Box<dyn Fn(usize, f32) -> f32>,
}

impl Case {
    pub fn new(name: impl Into<String>, weights: Weights) -> Case {
        let mut graph = Graph::new(Arc::new(weights));
        let out = graph.buffer(1, Rows::Tokens).buf;
        Case {
            name: name.into(),
            graph,
            layers: vec![],
            before: None,
            batch: vec![],
            inputs: vec![],
            out,
            bound: Box::new(|_, _| 0.0),
        }
    }

    pub fn input(&mut self, n_rows: usize, width: usize, scale: f32, seed: u64) -> View {
        let v = self.graph.input(width, Rows::Tokens);
        let values = gaussian(n_rows * width, seed).iter().map(|x| x * scale).collect();
        self.inputs.push((v.buf, values));
        v
    }

    /// The cache before the batch.
    pub fn cache(&self) -> Cache {
        let mut cache = Cache::new(&self.layers, 1 << 20).unwrap();
        if let Some((graph, n, inputs)) = &self.before {
            let batch = rows(0, *n);
            cache.prepare(&batch).unwrap();
            let inputs: Vec<_> = inputs.iter().map(|(b, v)| (*b, &v[..])).collect();
            // What the cache holds is the reference's work: only the case itself is compared.
            let mut p = Reference::default().compile(graph, &self.layers, *n).unwrap();
            p.run(&batch, &mut cache, &inputs).unwrap();
        }
        cache
    }

    /// The same where the backend wants it.
    pub fn cache_of(&self, backend: &dyn Backend) -> Cache {
        let (host, mut cache) = (self.cache(), backend.cache(&self.layers, 1 << 20).unwrap());
        let (mut rows, mut at) = (vec![], 0);
        let taken: Result<(), Error> = host.export(0, &mut |bytes| {
            rows.extend_from_slice(bytes);
            Ok(())
        });
        taken.unwrap();
        let fill = &mut |to: &mut [u8]| {
            to.copy_from_slice(&rows[at..at + to.len()]);
            at += to.len();
            Ok(())
        };
        cache.import::<Error>(0, host.len(0), fill).unwrap();
        cache
    }

    fn run(&self, backend: &dyn Backend) -> Vec<f32> {
        let mut cache = self.cache_of(backend);
        cache.prepare(&self.batch).unwrap();
        let mut p = backend.compile(&self.graph, &self.layers, self.batch.len()).unwrap();
        let inputs: Vec<_> = self.inputs.iter().map(|(b, v)| (*b, &v[..])).collect();
        p.run(&self.batch, &mut cache, &inputs).unwrap();
        // A second run over the same buffers must not depend on what the first one left there.
        let first = p.read(self.out).unwrap();
        cache.truncate(0, self.batch[0].pos as usize);
        cache.prepare(&self.batch).unwrap();
        p.run(&self.batch, &mut cache, &inputs).unwrap();
        let second = p.read(self.out).unwrap();
        assert!(same_bits(&first, &second), "{}: a second run differs", self.name);
        first
    }

    pub fn check(self, backends: &[Vec<Box<dyn Backend>>]) {
        let want = self.run(&Reference::default());
        assert!(want.iter().any(|v| *v != 0.0), "{}: nothing but zeros to compare", self.name);
        for same in backends {
            let got = self.run(&*same[0]);
            for (i, (g, w)) in got.iter().zip(&want).enumerate() {
                let (e, bound) = ((g - w).abs(), (self.bound)(i, *w));
                let at = format!("{}, {}, output {i}", self.name, same[0].name());
                assert!(e <= bound, "{at}: {g} is {e} from {w}, more than {bound}");
            }
            assert_eq!(got.len(), want.len());
            for other in &same[1..] {
                assert!(same_bits(&got, &self.run(&**other)), "{}, {}: other bits", self.name, other.name());
            }
        }
    }
}

pub fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}
