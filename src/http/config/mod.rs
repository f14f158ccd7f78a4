//! Compiles the `http` block into servers and locations.

pub mod assemble;
pub mod compile;
pub mod listen;
pub mod location;
pub mod memory;
pub mod passes;
pub mod secure;
pub mod server;

use crate::config::Keyword;
use crate::proto::message::Version;

pub use crate::shared::tls::files as tls_files;

// The keywords of types from lower floors that several modules use as values.
impl Keyword for Version {
    const WORDS: &'static [&'static str] = &["1.0", "1.1", "2"];
    const VALUES: &'static [Self] = &[Self::Http10, Self::Http11, Self::Http2];

    fn word(self) -> &'static str {
        match self {
            Self::Http10 => "1.0",
            Self::Http11 => "1.1",
            Self::Http2 => "2",
            Self::Http3 => "3", // no value of the directive
        }
    }
}
