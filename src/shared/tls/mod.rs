//! TLS in a configuration: the directives of both sides of a connection, the files that they name, and what they become.
//!
//! The engine is `net/tls/`. Generic over the scope whose variables names may have. Touches: what each file says.

pub mod certificates;
pub mod choices;
pub mod dynamic;
pub mod files;
pub mod handshakes;
pub mod in_force;
pub mod outgoing;
pub mod rows;
pub mod server;
pub mod status;
pub mod upstream;
pub mod upstream_rows;
pub mod variables;

use std::path::Path;

use crate::net::tls::watch::Pairs;
use crate::shared::Environment;

/// A compile context of a language part whose connections may use TLS.
pub trait Secured: Environment {
    /// Relative names of certificates begin here.
    fn folder(&self) -> &Path;

    /// The files that were read already.
    fn tls_files(&mut self) -> &mut files::Loaded;

    /// The memory that servers share, as declared so far.
    fn tls_memory(&mut self) -> &mut server::Draft;

    /// The certificates of servers, to be watched for changes.
    fn pairs(&mut self) -> &mut Pairs;
}
