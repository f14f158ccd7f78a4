//! Boxes whose content is made where it stays.
//!
//! `Box::new(make())` makes the value on the stack and copies it, however large it is; a future of a thousand
//! bytes of which ten are set is copied whole.

use std::pin::Pin;

/// A box of what `make` returns.
#[inline(always)]
pub fn boxed<T>(make: impl FnOnce() -> T) -> Box<T> {
    Box::write(Box::new_uninit(), make())
}

/// The same for a future that is awaited: `Box::pin` without the copy.
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
