//! A file as an answer: where its bytes are, and what is known of its place in memory.
//!
//! Values; `http/send_file.rs` sends them.

use std::fs::File;
use std::ops::{Deref, Range};
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

/// The bytes of a body: those of a file, or some before a part of it.
#[derive(Clone, Debug)]
pub enum Source {
    Memory(Arc<[u8]>),
    File(Arc<OnDisk>),
    Joined(Arc<Joined>),
}

/// Bytes of our own, and those of a file from a place on.
#[derive(Debug)]
pub struct Joined {
    pub head: Box<[u8]>,
    pub file: Arc<OnDisk>,
    pub at: u64,
}

impl From<Content> for Source {
    fn from(content: Content) -> Self {
        match content {
            Content::Memory(bytes) => Self::Memory(bytes),
            Content::File(file) => Self::File(file),
        }
    }
}

impl Source {
    /// `head`, and then the content's bytes in a range of it.
    pub fn joined(head: Vec<u8>, content: Content, range: &Range<u64>) -> Self {
        match content {
            Content::Memory(bytes) => Self::Memory([&head, part(&bytes, range)].concat().into()),
            Content::File(file) => {
                Self::Joined(Arc::new(Joined { head: head.into(), file, at: range.start }))
            }
        }
    }
}

/// A part of a file in memory; empty if it has none of it.
pub fn part<'a>(bytes: &'a [u8], range: &Range<u64>) -> &'a [u8] {
    let ends = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
    ends.and_then(|(start, end)| bytes.get(start..end)).unwrap_or(b"")
}

/// The file that answers a request, and the head for all of it.
#[derive(Debug)]
pub struct Answer {
    pub source: Source,
    pub response: Box<Response>,
    /// Where the body begins in the source: behind what else a stored response has. Its length.
    pub start: u64,
    pub size: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_joined_with_what_is_in_memory() {
        let content = || Content::Memory(b"0123456789"[..].into());
        for (range, expected) in
            [(2..5, &b"head234"[..]), (9..10, b"head9"), (5..11, b"head"), (10..10, b"head")]
        {
            match Source::joined(b"head".to_vec(), content(), &range) {
                Source::Memory(bytes) => assert_eq!(&*bytes, expected, "{range:?}"),
                other => panic!("{other:?}"),
            }
        }
    }
}
