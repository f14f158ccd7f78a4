//! Boxes whose content is built in place.
//!
//! `Box::new(make())` builds the value on the stack and then copies all of it: a future of a thousand bytes
//! is copied whole, even if only ten of them are set.

use std::pin::Pin;

/// Boxes the value that `make` returns.
#[inline(always)]
pub fn boxed<T>(make: impl FnOnce() -> T) -> Box<T> {
    Box::write(Box::new_uninit(), make())
}

/// The same for a future: `Box::pin` without the copy.
#[inline(always)]
pub fn pinned<F>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::into_pin(boxed(make))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_box_holds_what_was_made() {
        assert_eq!(*boxed(|| [7u8; 2000]), [7; 2000]);
        let text = String::from("moved");
        assert_eq!(*boxed(move || text), "moved");
    }
}
