//! Tasks that wait for the same thing: each once, in the order in which they came.
//!
//! A task adds itself at each poll, so thousands that wait for one thing must not be searched one by one. Callers wake them
//! while nothing is borrowed.

use std::collections::BTreeSet;
use std::task::{Context, Waker};

/// So many are searched one by one: that takes no further memory.
const FEW: usize = 8;

/// The tasks that wait.
#[derive(Debug, Default)]
pub struct Waiters {
    list: Vec<Waker>,
    /// Those in the list, if there are many.
    known: BTreeSet<(usize, usize)>,
}

fn key(waker: &Waker) -> (usize, usize) {
    (waker.data().addr(), std::ptr::from_ref(waker.vtable()).addr())
}

impl Waiters {
    pub const fn new() -> Self {
        Self { list: Vec::new(), known: BTreeSet::new() }
    }

    /// Adds the task that is being polled, unless it waits already.
    pub fn add(&mut self, cx: &Context<'_>) {
        let waker = cx.waker();
        let is_new = if self.list.len() < FEW {
            !self.list.iter().any(|waiting| waiting.will_wake(waker))
        } else {
            if self.known.is_empty() {
                self.known.extend(self.list.iter().map(key));
            }
            self.known.insert(key(waker))
        };
        if is_new {
            self.list.push(waker.clone());
        }
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Takes all of them out, to be woken.
    #[must_use]
    pub fn take(&mut self) -> Vec<Waker> {
        self.known.clear();
        std::mem::take(&mut self.list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::waker::TaskId;

    #[test]
    fn each_waits_once_and_in_order() {
        let mut waiters = Waiters::new();
        for _ in 0..3 {
            for count in [3, FEW, FEW + 1, 40] {
                for _ in 0..2 {
                    (0..count).for_each(|index| {
                        let waker = TaskId::new(1, 0, index as u32).waker();
                        waiters.add(&Context::from_waker(&waker));
                    });
                }
            }
            let order: Vec<usize> = waiters.take().iter().map(|waker| waker.data().addr() & 0xffff).collect();
            assert!(order.iter().copied().eq(0..40), "{order:?}");
        }
        assert!(waiters.take().is_empty());
    }

    /// Fifty thousand that are compared one by one take seconds.
    #[test]
    fn many_are_found_by_key() {
        let mut waiters = Waiters::new();
        for index in (0..1000).chain(0..1000) {
            waiters.add(&Context::from_waker(&TaskId::new(1, 0, index).waker()));
        }
        assert_eq!((waiters.known.len(), waiters.take().len()), (1000, 1000));
        assert!(waiters.known.is_empty());
    }
}
