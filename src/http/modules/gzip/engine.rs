//! gzip's encoder for one response, and the idle encoders of a worker.
//!
//! Touches: the worker's store of encoders. An encoder takes 300 KiB, which are not allocated anew for each
//! response.

use std::cell::RefCell;

use crate::base::gzip::{Encoder, Flush, Shape};
use crate::http::response::coding::{Engine, STEP_BYTES, work_of};
use crate::http::response::filter::Signal;

/// Maximum number of idle encoders of a worker.
const IDLE_MAX: usize = 8;

thread_local! {
    static IDLE: RefCell<Vec<Encoder>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
pub struct Gzip {
    /// `Some` until it is dropped.
    encoder: Option<Encoder>,
}

impl Gzip {
    pub fn new(shape: Shape) -> Self {
        let idle = IDLE.with_borrow_mut(|idle| {
            let at = idle.iter().rposition(|encoder| encoder.shape() == shape)?;
            Some(idle.swap_remove(at))
        });
        Self { encoder: Some(idle.unwrap_or_else(|| Encoder::new(shape))) }
    }
}

impl Engine for Gzip {
    fn push(&mut self, data: &[u8], signal: Signal, out: &mut Vec<u8>) -> Result<(), String> {
        let flush = match signal {
            Signal::More => Flush::None,
            Signal::Flush => Flush::Sync,
            Signal::End => Flush::End,
        };
        if let Some(encoder) = &mut self.encoder {
            encoder.push(data, flush, out);
        }
        Ok(())
    }

    fn step_bytes(&self) -> usize {
        // half a millisecond each
        (STEP_NS / self.ns_per_byte() as usize).clamp(STEP_BYTES / 8, STEP_BYTES)
    }

    fn work(&self, bytes: usize, _: Signal) -> u32 {
        work_of(bytes, self.ns_per_byte())
    }
}

/// Target for the longest step.
const STEP_NS: usize = 500_000;

/// Nanoseconds per byte at each level, measured with random words of two to four letters, the hardest input
/// (release build).
const NS: [u32; 9] = [15, 15, 15, 20, 20, 20, 40, 100, 320];

impl Gzip {
    fn ns_per_byte(&self) -> u32 {
        let level = self.encoder.as_ref().map_or(1, |encoder| encoder.shape().level);
        NS[usize::from(level.clamp(1, 9)) - 1]
    }
}

impl Drop for Gzip {
    fn drop(&mut self) {
        let Some(mut encoder) = self.encoder.take() else { return };
        encoder.reset();
        IDLE.with_borrow_mut(|idle| {
            if idle.len() == IDLE_MAX {
                idle.remove(0); // its parameters may no longer be in use
            }
            idle.push(encoder);
        });
    }
}
