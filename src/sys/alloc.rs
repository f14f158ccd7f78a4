//! The allocator: glibc's, with free lists in front of it for the sizes that a request uses.
//!
//! glibc caches seven freed blocks of each size per thread. A turn of the loop that answers a hundred
//! requests frees and allocates hundreds (their futures, heads, headers), and each block beyond the seventh
//! costs a walk through glibc's bins. Only a thread that asked for it keeps blocks: the thread of a worker's
//! loop, which lives as long as the process.
//!
//! Written here because replacing the whole allocator (jemalloc, mimalloc) costs each worker megabytes. To
//! run without it, remove `#[global_allocator]` from `main.rs`; `keep_blocks` then has no effect.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;

/// glibc's blocks are multiples of 16 bytes, of which 8 are its own: these sizes waste nothing.
const STEP: usize = 16;
const FIRST: usize = 40;
const LARGE: usize = FIRST + STEP * (CLASSES - 1);
const CLASSES: usize = 95;
/// Bytes kept of each size, but at least 64 blocks and at most 512: 6.6 MB if every list were full, which no traffic
/// causes. A thread at rest keeps none ([`release`]).
///
/// A hundred requests at once have hundreds of blocks of the smallest sizes: a path, a host name and a session each.
const KEPT_BYTES: usize = 64 * 1024;
const KEPT_MAX: [u32; CLASSES] = kept_max();

const fn kept_max() -> [u32; CLASSES] {
    let mut most = [0; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        let count = KEPT_BYTES / (FIRST + class * STEP);
        most[class] = if count < 64 {
            64
        } else if count > 512 {
            512
        } else {
            count as u32
        };
        class += 1;
    }
    most
}

/// Blocks of at least this size are those of a request and its futures, which are gone when a connection rests. They are
/// allocated side by side, so that they leave whole pages, not gaps between what a connection keeps.
const BRIEF: usize = 1024;
const BATCH: usize = 16;

/// The allocator, which `main.rs` makes the `#[global_allocator]`.
///
/// Each thread has a free list for every size class up to 1,544 bytes. Larger blocks, and alignments above 16, go
/// straight to the system's allocator.
#[derive(Debug)]
pub struct Recycling;

struct List {
    first: Cell<*mut u8>,
    count: Cell<u32>,
}

thread_local! {
    // No destructor: registering one on first use would allocate.
    static LISTS: [List; CLASSES] = const { [const { List { first: Cell::new(null_mut()), count: Cell::new(0) } }; CLASSES] };
    static IS_ON: Cell<bool> = const { Cell::new(false) };
}

/// Makes this thread keep the blocks that it frees. They leak if the thread ends before the process.
pub fn keep_blocks() {
    IS_ON.set(true);
}

/// The bytes of the blocks that this thread keeps.
pub fn kept_bytes() -> usize {
    LISTS.with(|lists| {
        let bytes = |(class, list): (usize, &List)| (FIRST + class * STEP) * list.count.get() as usize;
        lists.iter().enumerate().map(bytes).sum()
    })
}

/// Frees the blocks that this thread keeps; it goes on keeping those that it frees from now on.
pub fn release() {
    LISTS.with(|lists| {
        for (class, list) in lists.iter().enumerate() {
            list.count.set(0);
            let mut block = list.first.replace(null_mut());
            let Some(whole) = whole(class) else { continue };
            while !block.is_null() {
                // SAFETY: a block in a list begins with the address of the next one. It was taken out of the list,
                // and is freed with the layout of its class, with which System allocated it.
                unsafe {
                    let next = block.cast::<*mut u8>().read();
                    System.dealloc(block, whole);
                    block = next;
                }
            }
        }
    });
}

/// Returns free memory to the kernel. Otherwise the memory that reading a configuration took would stay with
/// the master, and with every worker that it forks.
pub fn trim() {
    // SAFETY: touches free memory only.
    unsafe { nix::libc::malloc_trim(0) };
}

/// The size class of a block, and the layout with which all blocks of that class are allocated.
fn class(layout: Layout) -> Option<(usize, Layout)> {
    let (size, align) = (layout.size(), layout.align());
    if size == 0 || size > LARGE || align > 16 {
        return None;
    }
    let class = (size.max(FIRST) - FIRST).div_ceil(STEP);
    Some((class, whole(class)?))
}

/// The layout with which all blocks of a class are allocated.
fn whole(class: usize) -> Option<Layout> {
    Layout::from_size_align(FIRST + class * STEP, 16).ok()
}

// SAFETY: a block of a class is always allocated by System with the class's layout and freed with the same
// one; in between it belongs either to one list or to one caller. A freed block is large enough, and aligned,
// for the link that its first word becomes. Each thread has its own lists.
unsafe impl GlobalAlloc for Recycling {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((class, whole)) = class(layout) else {
            // SAFETY: the caller's own request.
            return unsafe { System.alloc(layout) };
        };
        let kept = LISTS.with(|lists| {
            let list = &lists[class];
            let block = list.first.get();
            if !block.is_null() {
                // SAFETY: a block in a list begins with the address of the next one.
                list.first.set(unsafe { block.cast::<*mut u8>().read() });
                list.count.set(list.count.get() - 1);
            }
            block
        });
        if kept.is_null() {
            // SAFETY: the size is not zero.
            return unsafe { self.allocate(whole) };
        }
        kept
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some((class, whole)) = class(layout) else {
            // SAFETY: alloc took it from System with this layout.
            return unsafe { System.dealloc(block, layout) };
        };
        let is_kept = IS_ON.get()
            && LISTS.with(|lists| {
                let list = &lists[class];
                let has_room = list.count.get() < KEPT_MAX[class];
                if has_room {
                    // SAFETY: the block is free, and larger than a pointer.
                    unsafe { block.cast::<*mut u8>().write(list.first.get()) };
                    list.first.set(block);
                    list.count.set(list.count.get() + 1);
                }
                has_room
            });
        if !is_kept {
            // SAFETY: allocated by System with the layout of its class.
            unsafe { System.dealloc(block, whole) };
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else { return null_mut() };
        let (old_class, new_class) = (class(layout), class(new_layout));
        match (old_class, new_class) {
            // SAFETY: no class before, none after: System's throughout.
            (None, None) => unsafe { System.realloc(block, layout, new_size) },
            (Some((old, _)), Some((new, _))) if old == new => block,
            _ => {
                // SAFETY: the copy is as long as the smaller of the two blocks; the old one is freed with its
                // own layout.
                unsafe {
                    let new_block = self.alloc(new_layout);
                    if !new_block.is_null() {
                        std::ptr::copy_nonoverlapping(block, new_block, layout.size().min(new_size));
                        self.dealloc(block, layout);
                    }
                    new_block
                }
            }
        }
    }
}

impl Recycling {
    /// Allocates a block of a class, and others for the list of a thread that keeps them.
    ///
    /// # Safety
    ///
    /// As for [`GlobalAlloc::alloc`].
    #[cold]
    unsafe fn allocate(&self, whole: Layout) -> *mut u8 {
        // SAFETY: the caller's own request.
        let first = unsafe { System.alloc(whole) };
        if whole.size() >= BRIEF && IS_ON.get() {
            for _ in 1..BATCH {
                // SAFETY: the same; each block goes to the list of its class, as if it had been used.
                unsafe {
                    let block = System.alloc(whole);
                    if !block.is_null() {
                        self.dealloc(block, whole);
                    }
                }
            }
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 8).expect("a layout")
    }

    #[test]
    fn every_size_fits_its_class() {
        for size in 0..4096 {
            match class(layout(size)) {
                None => assert!(size == 0 || size > LARGE, "{size}"),
                Some((class, whole)) => {
                    assert!(class < CLASSES && whole.size() >= size, "{size}");
                    assert!(whole.size() < size.max(FIRST - STEP + 1) + STEP, "{size}");
                }
            }
        }
        assert!(
            class(Layout::from_size_align(512, 64).expect("a layout")).is_none(),
            "larger alignments are System's"
        );
    }

    #[test]
    fn blocks_are_kept_used_again_and_never_shared() {
        keep_blocks();
        let mut held = Vec::new();
        let mut seed = 7usize;
        for turn in 0..20_000usize {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let size = 1 + (seed >> 33) % 2000;
            // SAFETY: each block is written within its size, read back, and freed once with its own layout.
            unsafe {
                let block = Recycling.alloc(layout(size));
                assert!(!block.is_null());
                block.write_bytes(turn as u8, size);
                held.push((block, size, turn as u8));
                if held.len() > 300 {
                    let (block, size, mark) = held.swap_remove((seed >> 40) % held.len());
                    let bytes = std::slice::from_raw_parts(block, size);
                    assert!(bytes.iter().all(|byte| *byte == mark), "another block overlaps");
                    if seed.is_multiple_of(3) {
                        let new_size = 1 + (seed >> 20) % 2000;
                        let block = Recycling.realloc(block, layout(size), new_size);
                        let kept = std::slice::from_raw_parts(block, size.min(new_size));
                        assert!(kept.iter().all(|byte| *byte == mark), "content lost by realloc");
                        Recycling.dealloc(block, layout(new_size));
                    } else {
                        Recycling.dealloc(block, layout(size));
                    }
                }
            }
        }
        for (block, size, _) in held {
            // SAFETY: as above.
            unsafe { Recycling.dealloc(block, layout(size)) };
        }
        let counts = || LISTS.with(|lists| lists.each_ref().map(|list| list.count.get()));
        assert!(counts().iter().any(|count| *count > 0));
        assert!(counts().iter().zip(KEPT_MAX).all(|(count, most)| *count <= most));
        release();
        assert!(counts().iter().all(|count| *count == 0));
        // SAFETY: one block, freed once with its own layout.
        unsafe { Recycling.dealloc(Recycling.alloc(layout(100)), layout(100)) };
        assert_eq!(counts().iter().sum::<u32>(), 1, "blocks are kept again");
        release();
        // SAFETY: the same.
        unsafe { Recycling.dealloc(Recycling.alloc(layout(BRIEF)), layout(BRIEF)) };
        assert_eq!(counts().iter().sum::<u32>(), BATCH as u32, "large blocks come side by side");
        assert!((BATCH * BRIEF..BATCH * (BRIEF + STEP)).contains(&kept_bytes()));
        release();
        assert_eq!(kept_bytes(), 0);
    }
}
