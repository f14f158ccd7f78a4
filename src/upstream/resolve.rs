//! Names that did not resolve at the start, tried again while serving.
//!
//! One task per worker, only if there is such a name; the lookup itself runs on the blocking pool.

use crate::log::{self, Logger};
use crate::net::drain;
use crate::runtime::blocking::{self, Lane};
use crate::runtime::{Either, race, sleep};
use crate::upstream::group::Group;
use crate::upstream::known::Spot;

/// Between two attempts; the first comes at once.
const RETRY_MS: u64 = 5_000;

/// Tries until every server of `groups` has an address, or the worker leaves.
pub async fn retry(groups: Vec<&'static Group>, log: Logger) {
    let mut waiting = groups;
    loop {
        waiting.retain(|group| !group.unresolved().is_empty());
        if waiting.is_empty() {
            return;
        }
        for group in &waiting {
            for index in group.unresolved() {
                try_server(group, index, &log).await;
            }
        }
        if let Either::Second(()) = race(sleep(RETRY_MS), drain::reached(drain::Mode::HandOver)).await {
            return;
        }
    }
}

async fn try_server(group: &'static Group, index: usize, log: &Logger) {
    let Some(server) = group.servers.get(index) else { return };
    let host = server.host.clone();
    if let Ok(addresses) = blocking::run(Lane::Names, move || host.resolve()).await {
        group.learn(index, &addresses.into_iter().map(Spot::from).collect::<Vec<_>>());
        log::notice!(log, &(), "upstream server \"{}\" of \"{}\" resolves now", server.name, group.name);
    }
}
