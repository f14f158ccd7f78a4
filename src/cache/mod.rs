//! The response cache: its zones, the files in which responses are kept, and their variants.
//!
//! Knows neither requests nor directives. Touches: what each file says.

pub mod entry;
pub mod key;
pub mod lock;
pub mod vary;
pub mod zone;
