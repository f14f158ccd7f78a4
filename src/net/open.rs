//! The client connections that this worker holds, counted.
//!
//! The worker stops accepting at `worker_connections` and leaves once the count is zero.

use std::cell::Cell;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// One client connection; counted as long as it lives.
#[derive(Debug)]
pub struct Guard(());

impl Guard {
    #[allow(clippy::new_without_default, reason = "counting is an effect, not a default value")]
    pub fn new() -> Self {
        COUNT.set(COUNT.get() + 1);
        Self(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        COUNT.set(COUNT.get() - 1);
    }
}

pub fn count() -> usize {
    COUNT.get()
}
