//! The response cache: its zones, the files in which responses are kept and their variants, the counts of lookups, and
//! the upkeep of the files.
//!
//! Knows neither requests nor directives. Touches: what each file says.

pub mod entry;
pub mod key;
mod loader;
pub mod lock;
mod plan;
pub mod purge_file;
pub mod purger;
pub mod status;
pub mod upkeep;
pub mod vary;
pub mod zone;
