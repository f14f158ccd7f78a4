//! The `http` block made into servers and locations.

pub mod compile;
pub mod listen;
pub mod location;
pub mod passes;
pub mod server;

use crate::config::keywords;
use crate::proto::message::Version;

// The words of types that come from below and are the values of several modules' settings.
keywords!(Version { "1.0" => Http10, "1.1" => Http11 });
