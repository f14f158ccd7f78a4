//! Byte buffers from a worker-local pool: taken when data has arrived, given back before the next wait.

use std::cell::RefCell;
use std::fmt;

/// Pooled sizes; buffers of other sizes come from the allocator.
const CLASSES: [usize; 5] = [1024, 4096, 16 * 1024, 64 * 1024, 132 * 1024];
/// Buffers of this size are allocated several at once: side by side they are whole pages, which can be given back to the
/// kernel when they are freed. One by one they would lie between small blocks that live as long as a connection. Larger
/// ones have whole pages of their own, and the allocator does the same for smaller ones.
const BATCHED: usize = 4096;
const BATCH: usize = 8;
/// Maximum number of free bytes that a worker keeps.
const KEPT_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The smallest class with room for this many bytes.
#[inline]
fn class_for(bytes: usize) -> Option<usize> {
    match bytes {
        0..=1024 => Some(0),
        1025..=4096 => Some(1),
        4097..=16_384 => Some(2),
        16_385..=65_536 => Some(3),
        65_537..=135_168 => Some(4),
        _ => None,
    }
}

struct Pool {
    free: [Vec<Box<[u8]>>; CLASSES.len()],
    kept_bytes: usize,
}

thread_local! {
    static POOL: RefCell<Pool> =
        const { RefCell::new(Pool { free: [const { Vec::new() }; CLASSES.len()], kept_bytes: 0 }) };
}

/// A byte buffer: `start..end` is data, the rest behind it is free space. The default is empty and takes
/// nothing from the pool. Dropping a buffer gives its memory back to the pool.
#[derive(Default)]
pub struct Buffer {
    bytes: Box<[u8]>,
    start: u32,
    end: u32,
}

impl Buffer {
    /// Takes a buffer of at least `capacity` bytes from the pool.
    pub fn take(capacity: usize) -> Self {
        let bytes = match class_for(capacity) {
            Some(class) => POOL.with_borrow_mut(|pool| pool.take(class)),
            None => vec![0; capacity].into(),
        };
        Self { bytes, start: 0, end: 0 }
    }

    /// Copies `data` into a buffer without free space: for a few bytes that are kept for long.
    pub fn exactly(data: &[u8]) -> Self {
        Self { bytes: data.into(), start: 0, end: data.len() as u32 }
    }

    /// Makes a buffer of bytes that are in memory of their own.
    pub fn of(data: Vec<u8>) -> Self {
        let end = data.len() as u32;
        Self { bytes: data.into(), start: 0, end }
    }

    /// Shrinks a buffer that is kept until more bytes arrive: to the size of its data plus half as much
    /// again, so that bytes arriving one at a time do not force a copy each.
    pub fn slim(self) -> Self {
        let length = self.data().len();
        let wanted = length + length / 2 + 32;
        if self.start == 0 && self.capacity() <= wanted.max(length * 2) {
            return self;
        }
        let mut bytes = vec![0; wanted];
        bytes[..length].copy_from_slice(self.data());
        Self { bytes: bytes.into(), start: 0, end: length as u32 }
    }

    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    pub fn data(&self) -> &[u8] {
        &self.bytes[self.start as usize..self.end as usize]
    }

    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start as usize..self.end as usize]
    }

    /// The free space behind the data.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end as usize..]
    }

    /// Counts `count` bytes that were written into [`Buffer::space`] as data.
    pub fn filled(&mut self, count: usize) {
        debug_assert!(count <= self.bytes.len() - self.end as usize);
        self.end = (self.end as usize + count).min(self.bytes.len()) as u32;
    }

    /// Drops bytes from the front of the data.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start as usize + count).min(self.end as usize) as u32;
        if self.start == self.end {
            self.clear();
        }
    }

    /// Drops all but the first `length` bytes of the data.
    pub fn truncate(&mut self, length: usize) {
        self.end = self.end.min((self.start as usize + length) as u32);
    }

    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Moves the data to the front, so that all free space is behind it.
    pub fn compact(&mut self) {
        if self.start > 0 {
            self.bytes.copy_within(self.start as usize..self.end as usize, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }

    /// Grows to a total of at least `capacity` bytes.
    pub fn grow(&mut self, capacity: usize) {
        if capacity > self.bytes.len() {
            let mut larger = Self::take(capacity);
            larger.bytes[..self.data().len()].copy_from_slice(self.data());
            larger.end = self.end - self.start;
            *self = larger;
        }
    }

    /// Appends bytes, growing as needed.
    pub fn extend(&mut self, bytes: &[u8]) {
        let needed = self.data().len() + bytes.len();
        if self.bytes.len() - (self.end as usize) < bytes.len() {
            self.compact();
            self.grow(needed.max(self.bytes.len() * usize::from(needed > self.bytes.len()) * 2));
        }
        self.space()[..bytes.len()].copy_from_slice(bytes);
        self.filled(bytes.len());
    }
}

/// Maximum number of scratch vectors kept; each keeps its capacity from one use to the next.
const SCRATCHES_MAX: usize = 64;
const SCRATCH_BYTES_MAX: usize = 16 * 1024;

thread_local! {
    static SCRATCHES: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Returns an empty vector, with the capacity of an earlier one if possible.
pub fn scratch() -> Vec<u8> {
    SCRATCHES.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Keeps a vector for the next [`scratch`], unless it has grown large.
pub fn recycle(mut bytes: Vec<u8>) {
    if (1..=SCRATCH_BYTES_MAX).contains(&bytes.capacity()) {
        bytes.clear();
        let _ = SCRATCHES.try_with(|all| {
            let mut all = all.borrow_mut();
            if all.len() < SCRATCHES_MAX {
                all.push(bytes);
            }
        });
    }
}

/// The bytes of the buffers that the thread keeps for the next use.
pub fn kept_bytes() -> usize {
    POOL.with_borrow(|pool| pool.kept_bytes)
}

/// Frees all buffers and scratch vectors that the thread keeps for the next use.
pub fn release() {
    let free = POOL.with_borrow_mut(|pool| {
        pool.kept_bytes = 0;
        std::mem::take(&mut pool.free)
    });
    drop((free, SCRATCHES.take()));
}

impl fmt::Debug for Buffer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Buffer({} of {})", self.data().len(), self.capacity())
    }
}

impl Drop for Buffer {
    #[inline]
    fn drop(&mut self) {
        // The bytes of most buffers were taken out before.
        if !self.bytes.is_empty() {
            give(std::mem::take(&mut self.bytes));
        }
    }
}

/// Gives bytes back to the pool, or to the allocator if they are of no pooled size.
fn give(bytes: Box<[u8]>) {
    if let Some(class) = class_for(bytes.len()).filter(|class| CLASSES[*class] == bytes.len()) {
        // The pool may already be gone when a thread exits while it holds a buffer.
        let _ = POOL.try_with(|pool| pool.borrow_mut().give(class, bytes));
    }
}

impl Pool {
    fn take(&mut self, class: usize) -> Box<[u8]> {
        match self.free[class].pop() {
            Some(bytes) => {
                self.kept_bytes -= bytes.len();
                bytes
            }
            None => self.allocate(class),
        }
    }

    #[cold]
    fn allocate(&mut self, class: usize) -> Box<[u8]> {
        let size = CLASSES[class];
        let first = vec![0; size].into();
        if size == BATCHED && self.kept_bytes + BATCH * size <= KEPT_BYTES_MAX {
            self.free[class].extend((1..BATCH).map(|_| Box::from(vec![0; size])));
            self.kept_bytes += (BATCH - 1) * size;
        }
        first
    }

    fn give(&mut self, class: usize, bytes: Box<[u8]>) {
        if self.kept_bytes + bytes.len() <= KEPT_BYTES_MAX {
            self.kept_bytes += bytes.len();
            self.free[class].push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_compacts_and_keeps_its_data() {
        let mut buffer = Buffer::take(1000);
        assert_eq!(buffer.capacity(), 1024);
        buffer.extend(&[1; 1000]);
        buffer.consume(900);
        buffer.extend(&[2; 500]);
        assert_eq!((buffer.data().len(), buffer.capacity()), (600, 1024));
        buffer.extend(&[3; 5000]);
        assert_eq!(buffer.data().len(), 5600);
        assert_eq!((buffer.data()[0], buffer.data()[100], buffer.data()[5599]), (1, 2, 3));
        buffer.truncate(1);
        assert_eq!(buffer.data(), [1]);
    }

    #[test]
    fn each_class_has_room_for_what_is_of_it() {
        for bytes in 0..=70_000 {
            assert_eq!(class_for(bytes), CLASSES.iter().position(|size| bytes <= *size), "{bytes}");
        }
    }

    #[test]
    fn pages_are_allocated_side_by_side_and_freed_together() {
        let buffer = Buffer::take(BATCHED);
        assert_eq!(kept_bytes(), (BATCH - 1) * BATCHED);
        drop(buffer);
        release();
        assert_eq!(POOL.with_borrow(|pool| (pool.kept_bytes, pool.free.iter().map(Vec::len).sum())), (0, 0));
    }

    #[test]
    fn the_pool_keeps_no_more_than_its_limit() {
        let many: Vec<Buffer> = (0..100).map(|_| Buffer::take(64 * 1024)).collect();
        drop(many);
        assert!(POOL.with_borrow(|pool| pool.kept_bytes) <= KEPT_BYTES_MAX);
    }
}
