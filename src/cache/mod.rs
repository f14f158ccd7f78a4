//! The response cache: its zones, the files in which responses are kept, their variants, the counts of lookups, and the manager of the files.
//!
//! Knows neither requests nor directives. Touches: what each file says.

pub mod entry;
pub mod key;
mod loader;
pub mod lock;
pub mod manager;
mod plan;
pub mod status;
pub mod vary;
pub mod zone;
