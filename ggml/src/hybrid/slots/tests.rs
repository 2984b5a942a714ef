//! What is in slots and when, over a memory that does as it is told.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::*;
use crate::error::Error;
use crate::graph::{Rows, SelId, Weights};
use crate::tensor::Shape;

const GATE: usize = 256;

/// A memory that counts what is brought, of which the first `come` have come.
#[derive(Default)]
struct Fake {
    brought: Mutex<Vec<Vec<Piece>>>,
    come: Arc<AtomicUsize>,
    /// Refuses from this number of calls on.
    refuse: Option<usize>,
    /// Whether what was to come never will.
    lost: Arc<AtomicUsize>,
}

struct FakeArrival {
    number: usize,
    come: Arc<AtomicUsize>,
    lost: Arc<AtomicUsize>,
}

fn failure() -> Error {
    Error::Batch("a test".into())
}

impl SlotMemory for Fake {
    fn address(&self) -> u64 {
        0
    }

    fn bring(&self, pieces: Vec<Piece>) -> Result<Box<dyn Arrival>> {
        let mut brought = self.brought.lock().unwrap();
        let number = brought.len();
        if self.refuse.is_some_and(|n| number >= n) {
            return Err(failure());
        }
        brought.push(pieces);
        Ok(Box::new(FakeArrival { number, come: self.come.clone(), lost: self.lost.clone() }))
    }
}

impl Arrival for FakeArrival {
    fn has_come(&self) -> Result<bool> {
        if self.lost.load(Ordering::Relaxed) > 0 {
            return Err(failure());
        }
        Ok(self.number < self.come.load(Ordering::Relaxed))
    }
}

impl Fake {
    fn all_come(&self) {
        self.come.store(usize::MAX, Ordering::Relaxed);
    }

    /// The experts that were brought, by where the gates of each begin in their tensor.
    fn experts(&self) -> Vec<usize> {
        let all = self.brought.lock().unwrap();
        all.iter().map(|pieces| pieces[0].bytes.start / pieces[0].bytes.len()).collect()
    }
}

/// A mixture of `n` experts whose matrices of 8 x 8 floats take 256 bytes each, and slots for `most` of them.
fn slots(n: usize, most: usize, fake: Fake) -> (Slots, WeightId, Arc<Fake>) {
    let mut weights = Weights::default();
    let stacks = [(); 3].map(|()| {
        let shape = Shape::new(&[8, 8, n]).unwrap();
        let w = weights.add(Tensor::from_f32("w", shape, &vec![0.0; shape.n_elements()]).unwrap());
        Stack { w, row0: 0, stride: 8, rows: 8, n }
    });
    let mut graph = Graph::new(Arc::new(weights));
    graph.buffer(8, Rows::Tokens);
    let mixture = Mixture { op: 0, host: 0, device: 1, sel: SelId(0), stacks };
    let fake = Arc::new(fake);
    let room = [Slotting::default(), Slotting { bytes: usize::MAX, most }];
    let memory = |device: usize, bytes: usize| {
        assert_eq!((device, bytes), (1, most.min(n) * 3 * GATE));
        Ok(Some(fake.clone() as Arc<dyn SlotMemory>))
    };
    (Slots::new(&graph, &[mixture], &room, memory).unwrap(), mixture.gate(), fake)
}

/// A step of a token that chooses these experts with weights 1, 2, …: those that the host computes, and the slots.
fn step(slots: &mut Slots, gate: WeightId, experts: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let chosen: Vec<(u32, f32)> = experts.iter().copied().zip((1u8..).map(f32::from)).collect();
    slots.begin(1);
    let split = slots.split(gate, &chosen, true).unwrap();
    slots.end();
    for ((host, device), chosen) in split.host.iter().zip(&split.device).zip(&chosen) {
        // In one place each, with its weight.
        assert!((host.0 == SKIPPED) != (device.0 == SKIPPED));
        assert_eq!(if host.0 == SKIPPED { device.1 } else { host.1 }, chosen.1);
        assert!(host.0 == SKIPPED || host == chosen);
    }
    let there = |list: Vec<(u32, f32)>| list.iter().map(|c| c.0).filter(|e| *e != SKIPPED).collect();
    (there(split.host), there(split.device))
}

#[test]
fn room_is_divided_by_what_could_fill_it() {
    let room = |bytes, most| Slotting { bytes, most };
    let sizes = [(100, 60), (200, 20)];
    assert_eq!(divide(&room(1000, 99), &sizes), [6, 2]);
    assert_eq!(divide(&room(5000, 99), &sizes), [30, 10]);
    // What is left over.
    assert_eq!(divide(&room(1250, 99), &sizes), [8, 2]);
    // No more than there are experts, and than are wanted.
    assert_eq!(divide(&room(1 << 40, 1 << 40), &sizes), [60, 20]);
    assert_eq!(divide(&room(1 << 40, 9), &sizes), [7, 2]);
    assert_eq!(divide(&room(1 << 40, 1), &sizes), [1, 0]);
    assert_eq!((divide(&room(99, 9), &sizes), divide(&room(0, 0), &[])), (vec![0, 0], vec![]));
}

#[test]
fn an_expert_is_found_once_it_has_come() {
    let (mut s, gate, fake) = slots(8, 2, Fake::default());
    let all = vec![5, 3];
    assert_eq!(step(&mut s, gate, &[5, 3]), (all.clone(), vec![]));
    // One at a time: both are more than an eighth of what was read.
    assert_eq!(fake.experts(), [3]);
    assert_eq!(step(&mut s, gate, &[5, 3]), (all.clone(), vec![]));
    assert_eq!(fake.experts(), [3]);
    let piece = |i: usize| fake.brought.lock().unwrap()[0][i].clone();
    assert_eq!((piece(0).bytes, piece(0).to), (3 * GATE..4 * GATE, 0));
    assert_eq!((piece(2).bytes, piece(2).to), (3 * GATE..4 * GATE, 2 * GATE));
    fake.all_come();
    assert_eq!(step(&mut s, gate, &[5, 3]), (vec![5], vec![0]));
    assert_eq!(fake.experts(), [3, 5]);
    assert_eq!(fake.brought.lock().unwrap()[1][0].to, 3 * GATE);
    assert_eq!(step(&mut s, gate, &[5, 3]), (vec![], vec![1, 0]));
    let all = SlotUse { slots: 2, bytes: 6 * GATE as u64, hits: 3, misses: 5, brought: 2 };
    assert_eq!(s.so_far(), all);
}

#[test]
fn the_least_used_goes_for_one_that_is_ahead_by_a_use() {
    let (mut s, gate, fake) = slots(8, 1, Fake::default());
    fake.all_come();
    step(&mut s, gate, &[5]);
    assert_eq!(step(&mut s, gate, &[5]), (vec![], vec![0]));
    // Used as often as the other is not enough.
    for _ in 0..2 {
        assert_eq!(step(&mut s, gate, &[1]), (vec![1], vec![]));
        assert_eq!(fake.experts(), [5]);
    }
    step(&mut s, gate, &[1]);
    fake.come.store(0, Ordering::Relaxed);
    step(&mut s, gate, &[1]);
    assert_eq!(fake.experts(), [5, 1]);
    // Between the two, neither is there.
    assert_eq!(step(&mut s, gate, &[5, 1]), (vec![5, 1], vec![]));
    fake.all_come();
    assert_eq!(step(&mut s, gate, &[5, 1]), (vec![5], vec![0]));
}

#[test]
fn old_uses_count_less() {
    let (mut s, gate, fake) = slots(8, 1, Fake::default());
    fake.all_come();
    (0..10).for_each(|_| drop(step(&mut s, gate, &[5])));
    // Four half-lives without it leave less than one of its ten uses; so long a run passes the limit of what a use adds, too.
    (0..20 * 4 * HALF_LIFE as usize).for_each(|_| drop(step(&mut s, gate, &[])));
    assert!(s.one < LARGEST);
    step(&mut s, gate, &[2]);
    step(&mut s, gate, &[2]);
    assert_eq!(fake.experts(), [5, 2]);
}

#[test]
fn what_is_on_its_way_is_a_part_of_what_was_read() {
    let (mut s, gate, fake) = slots(32, 32, Fake::default());
    let every: Vec<u32> = (0..32).collect();
    step(&mut s, gate, &every);
    assert_eq!(fake.experts(), [0, 1, 2, 3]);
    step(&mut s, gate, &every);
    assert_eq!(fake.experts().len(), 4);
    fake.come.store(1, Ordering::Relaxed);
    step(&mut s, gate, &every);
    // Three and none more: an eighth of 31 is less than four.
    assert_eq!(fake.experts().len(), 4);
    fake.all_come();
    step(&mut s, gate, &every);
    assert_eq!(fake.experts().len(), 7);
}

#[test]
fn long_batches_are_counted_and_not_divided() {
    let (mut s, gate, fake) = slots(8, 2, Fake::default());
    s.begin(20);
    assert!(s.split(gate, &[(4, 1.0); 20], false).is_none());
    assert!(s.split(gate, &[(6, 1.0)], false).is_none());
    assert!(s.split(WeightId(99), &[(6, 1.0)], true).is_none());
    s.end();
    assert_eq!(fake.experts(), [4]);
    assert_eq!((s.so_far().hits, s.so_far().misses), (0, 0));
}

#[test]
fn after_a_failure_what_is_there_stays() {
    let refused = Fake { refuse: Some(1), ..Fake::default() };
    let (mut s, gate, fake) = slots(8, 4, refused);
    fake.all_come();
    for _ in 0..4 {
        step(&mut s, gate, &[1, 2, 3]);
    }
    assert_eq!(step(&mut s, gate, &[1, 2, 3]), (vec![2, 3], vec![0]));
    // One that was to come and does not.
    let (mut s, gate, fake) = slots(8, 4, Fake::default());
    fake.come.store(1, Ordering::Relaxed);
    step(&mut s, gate, &[1, 2]);
    step(&mut s, gate, &[1, 2]);
    assert_eq!(fake.experts(), [1, 2]);
    fake.lost.store(1, Ordering::Relaxed);
    for _ in 0..4 {
        assert_eq!(step(&mut s, gate, &[1, 2, 3]), (vec![2, 3], vec![0]));
    }
    assert_eq!(fake.experts(), [1, 2]);
}
