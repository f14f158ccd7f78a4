//! Names that did not resolve at the start, tried again while serving.
//!
//! One task per worker, only if there is such a name; the lookups themselves run on the blocking pool, several at a time
//! and each name once, however many servers have it.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;

use crate::log::{self, Logger};
use crate::net::Address;
use crate::net::address::Host;
use crate::net::drain;
use crate::runtime::blocking::{self, Lane};
use crate::runtime::{Either, race, sleep};
use crate::upstream::group::Group;
use crate::upstream::known::Spot;

/// Between two attempts; the first comes at once.
const RETRY_MS: u64 = 5_000;
/// Lookups that are under way at one time: one whose name server is silent holds up no other.
const AT_ONCE_MAX: usize = 4;

/// A server whose name leads nowhere yet.
type Waiting = (&'static Group, usize);

/// Tries until every server of `groups` has an address, or the worker leaves.
pub async fn retry(groups: Vec<&'static Group>, log: Logger) {
    let mut waiting = groups;
    loop {
        waiting.retain(|group| !group.unresolved().is_empty());
        if waiting.is_empty() {
            return;
        }
        let mut names: BTreeMap<&'static str, Vec<Waiting>> = BTreeMap::new();
        for group in &waiting {
            for index in group.unresolved() {
                if let Some(Host::Inet { name, .. }) = group.servers.get(index).map(|server| &server.host) {
                    names.entry(name).or_default().push((group, index));
                }
            }
        }
        all(names.into_iter().map(|(name, servers)| try_name(name, servers, log))).await;
        if let Either::Second(()) = race(sleep(RETRY_MS), drain::reached(drain::Mode::HandOver)).await {
            return;
        }
    }
}

/// Runs these futures, at most so many at a time.
async fn all(futures: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut waiting = futures.fuse();
    let mut running: Vec<Pin<Box<_>>> = Vec::new();
    poll_fn(|cx| {
        loop {
            running.extend(waiting.by_ref().take(AT_ONCE_MAX - running.len()).map(Box::pin));
            let before = running.len();
            running.retain_mut(|future| future.as_mut().poll(cx).is_pending());
            if running.is_empty() && before == 0 {
                return Poll::Ready(());
            }
            if running.len() == before {
                return Poll::Pending;
            }
        }
    })
    .await;
}

async fn try_name(name: &'static str, servers: Vec<Waiting>, log: Logger) {
    let host = Host::Inet { name: name.into(), port: 0 };
    let Ok(addresses) = blocking::run(Lane::Names, move || host.resolve()).await else { return };
    for (group, index) in servers {
        let Some(server) = group.servers.get(index) else { continue };
        let Host::Inet { port, .. } = server.host else { continue };
        let spot = |address: &Address| {
            let ip = address.inet().copied()?;
            Some(Spot::from(Address::Inet(with_port(ip, port))))
        };
        group.learn(index, &addresses.iter().filter_map(spot).collect::<Vec<_>>());
        log::notice!(log, &(), "upstream server \"{}\" of \"{}\" resolves now", server.name, group.name);
    }
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}
