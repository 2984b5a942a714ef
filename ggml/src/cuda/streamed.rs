//! Weights in host memory that pass through the device: a piece is multiplied with while the next one is on its way.
//!
//! There are two buffers, which take turns. What is sent into one waits, in the stream of copies, until the kernels that used it before
//! are done; kernels wait, in theirs, until it has come. The host only puts both into their streams, and fills pinned memory. It
//! does not wait for kernels: while they are busy with attention, the first experts of the next mixture come already.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::device::{Device, Memory, Stream};
use super::driver::DevicePtr;
use super::staging::Event;
use crate::error::Result;
use crate::graph::{Graph, Stack};
use crate::tensor::Tensor;

/// What addresses of matrices are multiples of.
const ALIGN: usize = 256;

/// The two buffers of a program.
pub(super) struct Buffers {
    device: Arc<Device>,
    halves: [Half; 2],
    /// Pieces that have been sent: the next one goes to this half, modulo 2.
    sent: AtomicUsize,
}

struct Half {
    memory: Memory,
    /// All of a piece has come.
    filled: Event,
    /// The kernels that need it are done.
    used: Event,
}

impl Buffers {
    /// Two buffers of so many bytes.
    ///
    /// # Errors
    /// If the device has no room for them.
    pub fn new(device: &Arc<Device>, bytes: usize) -> Result<Buffers> {
        let half = || -> Result<Half> {
            let memory = device.alloc("buffers for experts", bytes)?;
            Ok(Half { memory, filled: Event::new(device)?, used: Event::new(device)? })
        };
        Ok(Buffers { device: device.clone(), halves: [half()?, half()?], sent: AtomicUsize::new(0) })
    }

    /// Sends experts `experts` of some stacks, and lets `launch` put into the stream what is to be done with them, given where the
    /// first matrix of each stack is; the others follow without a gap.
    ///
    /// # Errors
    /// If a copy fails, or what `launch` does.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn pass(
        &self,
        stacks: &[HostStack],
        experts: Range<usize>,
        launch: impl FnOnce(&[DevicePtr]) -> Result<()>,
    ) -> Result<()> {
        let half = &self.halves[self.sent.fetch_add(1, Ordering::Relaxed) % 2];
        half.used.hold(Stream::Copies)?;
        let (mut at, mut places) = (0, vec![]);
        for stack in stacks {
            places.push(half.memory.at() + at as u64);
            for bytes in stack.runs(experts.clone()) {
                self.device.upload_in(Stream::Copies, &half.memory, at, bytes)?;
                at += bytes.len();
            }
            at = at.next_multiple_of(ALIGN);
        }
        half.filled.record(Stream::Copies)?;
        half.filled.hold(Stream::Compute)?;
        launch(&places)?;
        half.used.record(Stream::Compute)
    }

    /// Experts of these stacks that fit a buffer at once.
    pub fn experts_at_once(&self, stacks: &[HostStack]) -> usize {
        let one: usize = stacks.iter().map(HostStack::matrix_bytes).sum();
        let room = self.halves[0].memory.len().saturating_sub(stacks.len() * ALIGN);
        (room / one.max(1)).max(1)
    }
}

/// Bytes of a buffer of `wanted`, or of what one expert of each of these groups of stacks takes.
pub(super) fn buffer_bytes(wanted: usize, groups: &[Vec<HostStack>]) -> usize {
    let one = |stacks: &Vec<HostStack>| stacks.iter().map(|s| s.matrix_bytes() + ALIGN).sum();
    groups.iter().map(one).chain([wanted]).max().unwrap_or(0)
}

/// A stack of matrices in host memory.
#[derive(Clone)]
pub(super) struct HostStack {
    tensor: Tensor,
    stack: Stack,
}

impl HostStack {
    pub fn new(graph: &Graph, stack: Stack) -> HostStack {
        HostStack { tensor: graph.weight(stack.w).clone(), stack }
    }

    pub fn matrix_bytes(&self) -> usize {
        self.stack.rows * self.tensor.row_bytes()
    }

    /// Tells the system that these matrices will be read in a moment.
    pub fn announce(&self, experts: Range<usize>) {
        if !experts.is_empty() {
            let s = &self.stack;
            self.tensor.will_need(s.row(experts.start, 0)..s.row(experts.end - 1, s.rows));
        }
    }

    /// The bytes of some matrices, in as few runs as there are gaps between them.
    fn runs(&self, experts: Range<usize>) -> impl Iterator<Item = &[u8]> {
        let (s, row) = (self.stack, self.tensor.row_bytes());
        let at_once = if s.stride == s.rows { experts.len() } else { 1 };
        let starts = experts.clone().step_by(at_once.max(1));
        starts.map(move |first| {
            let last = first + at_once - 1;
            &self.tensor.bytes()[s.row(first, 0) * row..s.row(last, s.rows) * row]
        })
    }
}
