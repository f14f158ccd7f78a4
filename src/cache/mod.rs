//! The response cache: keys, the files of stored responses and their variants.

pub mod entry;
pub mod key;
pub mod vary;
