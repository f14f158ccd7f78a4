//! Wakers that are integers: a task's loop, generation and slab index in one word.
//!
//! A waker dereferences nothing, so cloning copies a word, dropping does nothing, and a stale waker causes at
//! worst a spurious poll. A wake from another thread goes through the loop's locked list and its eventfd.

#![allow(unsafe_code)]

use std::ptr::without_provenance;
use std::task::{Context, RawWaker, RawWakerVTable, Waker};

use crate::runtime::executor;

const INDEX_BITS: u32 = 32;
const GENERATION_BITS: u32 = 20;
/// The largest loop id that fits into a task's word.
pub const LOOP_ID_MAX: u64 = (1 << (u64::BITS - INDEX_BITS - GENERATION_BITS)) - 1;

/// Identifies a task: its loop, its index in the slab, and the generation of that place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskId(u64);

impl TaskId {
    pub fn new(loop_id: u64, generation: u32, index: u32) -> Self {
        debug_assert!((1..=LOOP_ID_MAX).contains(&loop_id), "loop {loop_id} has no room in a task's word");
        let generation = u64::from(generation) & ((1 << GENERATION_BITS) - 1);
        Self(loop_id << (INDEX_BITS + GENERATION_BITS) | generation << INDEX_BITS | u64::from(index))
    }

    /// Returns the task that is being polled. Panics if the waker is not ours: the wakes of a combinator that
    /// swaps wakers would be lost here.
    pub fn of(cx: &Context<'_>) -> Self {
        let waker = cx.waker();
        assert!(std::ptr::eq(waker.vtable(), &VTABLE), "a foreign combinator has swapped the waker");
        Self(waker.data().addr() as u64)
    }

    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub fn bits(self) -> u64 {
        self.0
    }

    pub fn index(self) -> usize {
        (self.0 & ((1 << INDEX_BITS) - 1)) as usize
    }

    pub fn loop_id(self) -> u64 {
        self.0 >> (INDEX_BITS + GENERATION_BITS)
    }

    pub fn waker(self) -> Waker {
        // SAFETY: the functions of VTABLE treat the data as an integer and dereference nothing, so every
        // requirement of RawWaker (thread safety, balance of clone and drop) holds vacuously.
        unsafe { Waker::from_raw(raw(self.0)) }
    }
}

static VTABLE: RawWakerVTable = RawWakerVTable::new(
    |data| raw(data.addr() as u64),
    |data| executor::wake(TaskId(data.addr() as u64)),
    |data| executor::wake(TaskId(data.addr() as u64)),
    |_| {},
);

fn raw(bits: u64) -> RawWaker {
    RawWaker::new(without_provenance(bits as usize), &VTABLE)
}
