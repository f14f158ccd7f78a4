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
    /// Where the content begins; its length.
    start: u64,
    size: u64,
    /// In terms of `runtime::now_ms`; 0: never.
    warm_ms: AtomicU64,
}

/// The page cache is LRU-like: a file that was found cached this recently is assumed to be cached still.
const WARM_MS: u64 = 250;

impl OnDisk {
    pub fn new(file: File, size: u64) -> Self {
        Self::part(file, 0, size)
    }

    /// A part of a file: `size` bytes from `start` on.
    pub fn part(file: File, start: u64, size: u64) -> Self {
        Self { file, start, size, warm_ms: AtomicU64::new(0) }
    }

    /// Where in the file its content begins.
    pub fn start(&self) -> u64 {
        self.start
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
    pub size: u64,
}
