//! gzip's encoder at work on a response, and those that are kept for the next ones.
//!
//! Touches: the worker's store of encoders. One has 300 KiB, which is not taken anew for each response.

use std::cell::RefCell;

use crate::base::gzip::{Encoder, Flush, Shape};
use crate::http::coding::Engine;
use crate::http::filter::Signal;

/// Encoders that wait in a worker.
const IDLE_MAX: usize = 8;

thread_local! {
    static IDLE: RefCell<Vec<Encoder>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
pub struct Gzip {
    /// There until it is dropped.
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
}

impl Drop for Gzip {
    fn drop(&mut self) {
        let Some(mut encoder) = self.encoder.take() else { return };
        encoder.reset();
        IDLE.with_borrow_mut(|idle| {
            if idle.len() == IDLE_MAX {
                idle.remove(0); // perhaps of a shape that no answer has any more
            }
            idle.push(encoder);
        });
    }
}
