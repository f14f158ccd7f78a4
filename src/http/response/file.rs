//! A file as an answer: where its bytes are, and what is known of its place in memory.
//!
//! Values; `http/send_file.rs` sends them.

use std::fs::File;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::http::response::Response;
use crate::runtime;

/// The location of the bytes.
#[derive(Clone, Debug)]
pub enum Content {
    Memory(Arc<[u8]>),
    File(Arc<OnDisk>),
}

/// An open file, and when it was last known to be entirely in memory.
#[derive(Debug)]
pub struct OnDisk {
    file: File,
    size: u64,
    /// In terms of `runtime::now_ms`; 0: never.
    warm_ms: AtomicU64,
}

/// The page cache is LRU-like: a file that was found cached this recently is assumed to be cached still.
const WARM_MS: u64 = 250;

impl OnDisk {
    pub fn new(file: File, size: u64) -> Self {
        Self { file, size, warm_ms: AtomicU64::new(0) }
    }

    /// All of it was seen in memory lately.
    pub fn is_warm(&self) -> bool {
        runtime::now_ms().saturating_sub(self.warm_ms.load(Ordering::Relaxed)) < WARM_MS
    }

    /// Notes that this many of its first bytes have been in memory since `began_ms`.
    pub fn note_warm(&self, length: u64, began_ms: u64) {
        if length >= self.size && !self.is_warm() {
            self.warm_ms.store(began_ms, Ordering::Relaxed);
        }
    }
}

impl Deref for OnDisk {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

/// The file that answers a request, and the head for all of it.
#[derive(Debug)]
pub struct Answer {
    pub content: Content,
    pub response: Box<Response>,
    /// Where the body begins in the file: behind what else a stored response has. Its length.
    pub start: u64,
    pub size: u64,
}
