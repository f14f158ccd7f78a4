//! One whole configuration: the main and events blocks, and the blocks of the protocols.
//!
//! The master reads and opens it and keeps it in force; a worker serves it; the command line tests it. What it needs of
//! the system (listeners, folders, counters) it tells in terms that know no protocol.

mod config;
mod need;
mod renewal;
mod settings;
mod source;

pub use config::Config;
pub use need::{Need, Shown};
pub use renewal::{Renewal, Renewed, TrustedRenewal};
pub use settings::{Settings, default_pid};
pub use source::{Compiled, Draft, Embedded, Loaded, Source, early_log, read, read_tree};

use std::path::PathBuf;

use crate::config::{Context, RowInfo};
use crate::http;
use crate::log::Lease;
use crate::mail;
use crate::stream;

/// A configuration in force, and its claim on its logs.
///
/// The logs close when the last cycle that claims them is dropped, so the master keeps the cycle before until the
/// workers of the next one are ready.
#[derive(Debug)]
pub struct Cycle {
    pub config: Config,
    pub lease: Lease,
}

impl Cycle {
    /// The path of the pid file; the demonstration has none.
    pub fn pid_path(&self, source: &Source) -> Option<PathBuf> {
        source.embedded.is_none().then(|| self.config.settings.pid(&self.config.prefix))
    }
}

/// The row of a directive in a block, of all parts of the language.
pub fn find_row(name: &str, context: Context) -> Option<RowInfo> {
    let http = || http::modules::table().find(name, context);
    let stream = || stream::modules::table().find(name, context);
    let mail = || mail::modules::table().find(name, context);
    settings::table().find(name, context).or_else(http).or_else(stream).or_else(mail).cloned()
}

/// Every row, for the manual.
pub fn rows() -> impl Iterator<Item = &'static RowInfo> {
    let parts = settings::table().rows().chain(http::modules::table().rows());
    parts.chain(stream::modules::table().rows()).chain(mail::modules::table().rows())
}
