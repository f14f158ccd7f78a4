//! Safe functions over system calls and over instructions that only some processors have. One of the rooms
//! where `unsafe` is allowed.

pub mod address;
pub mod alloc;
pub mod buffers;
pub mod clock;
pub mod clock_local;
pub mod datagram;
pub mod datagrams;
pub mod epoll;
pub mod event;
pub mod file;
pub mod lookup;
pub mod memory;
pub mod mmap;
pub mod msg;
pub mod nameless;
pub mod names;
pub mod nature;
pub mod pair;
pub mod process;
pub mod random;
pub mod remove_tree;
pub mod retire;
pub mod sealed;
pub mod signal;
pub mod single;
pub mod socket;
pub mod terminal;
pub mod transfer;
pub mod trusted;
#[cfg(test)]
pub mod valgrind;
pub mod watcher;
pub mod whereabouts;
pub mod wide;
