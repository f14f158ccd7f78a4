//! Unpredictable numbers.

#![allow(unsafe_code)]

use std::hash::{BuildHasher, RandomState};

/// A random number from the kernel, or from std's seed in the unlikely case that the kernel has none.
pub fn number() -> u64 {
    let mut bytes = [0u8; 8];
    // SAFETY: the kernel writes at most `bytes.len()` bytes.
    let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_NONBLOCK) };
    if usize::try_from(count) == Ok(bytes.len()) {
        return u64::from_ne_bytes(bytes);
    }
    RandomState::new().hash_one(crate::sys::clock::monotonic_us())
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_number_comes_twice() {
        assert_ne!(super::number(), super::number());
    }
}
