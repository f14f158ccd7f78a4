//! Pure data and text that no crate gives: no system call, no clock.
