//! Compiles the `http` block into servers and locations.

pub mod assemble;
pub mod compile;
pub mod listen;
pub mod location;
pub mod passes;
pub mod secure;
pub mod server;

use crate::config::keywords;
use crate::proto::message::Version;

// The keywords of types from lower floors that several modules use as values.
keywords!(Version { "1.0" => Http10, "1.1" => Http11 });

pub use crate::shared::tls::files as tls_files;
