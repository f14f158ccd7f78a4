//! Retries names that did not resolve at the start, for all workers.
//!
//! One task, in the prober, only if there is such a name. The lookups run on the blocking pool, several at a
//! time, and each name only once, however many servers have it. The master is told of those that resolve, and tells
//! the workers.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use crate::log::{self, Logger};
use crate::net::Address;
use crate::net::address::Host;
use crate::runtime::blocking::{self, Lane};
use crate::runtime::sleep;
use crate::upstream::follow::Tell;
use crate::upstream::known::Spot;
use crate::upstream::state::GroupState;

/// Pause between two attempts; the first comes at once.
const RETRY_MS: u64 = 5_000;
/// Maximum number of simultaneous lookups: a name whose name server is silent holds up no other.
const AT_ONCE_MAX: usize = 4;

/// A group, with its index in the configuration.
type Indexed = (usize, Rc<GroupState>);

/// Retries until every server of `groups` has an address.
pub async fn retry(groups: Vec<Indexed>, log: Logger, tell: Tell) {
    let mut waiting = groups;
    loop {
        waiting.retain(|(_, state)| !state.unresolved().is_empty());
        if waiting.is_empty() {
            return;
        }
        let mut names: BTreeMap<Box<str>, Vec<(Indexed, usize)>> = BTreeMap::new();
        for (group, state) in &waiting {
            for index in state.unresolved() {
                let set = state.set();
                let server = set.group.servers.get(index);
                if let Some(Host::Inet { name, .. }) = server.map(|server| &server.host) {
                    names.entry(name.clone()).or_default().push(((*group, Rc::clone(state)), index));
                }
            }
        }
        all(names.into_iter().map(|(name, servers)| try_name(name, servers, log, &tell))).await;
        sleep(RETRY_MS).await;
    }
}

/// Runs these futures, `AT_ONCE_MAX` at a time.
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

async fn try_name(name: Box<str>, servers: Vec<(Indexed, usize)>, log: Logger, tell: &Tell) {
    let host = Host::Inet { name, port: 0 };
    let Ok(addresses) = blocking::run(Lane::Names, move || host.resolve()).await else { return };
    for ((group_index, state), index) in servers {
        let group = &state.set().group;
        let Some(server) = group.servers.get(index) else { continue };
        let Host::Inet { port, .. } = server.host else { continue };
        let spot = |address: &Address| {
            let mut inet = address.inet().copied()?;
            inet.set_port(port);
            Some(Spot::from(Address::Inet(inet)))
        };
        tell(group_index, index, &addresses.iter().filter_map(spot).collect::<Vec<_>>());
        log::notice!(log, &(), "upstream server \"{}\" of \"{}\" resolves now", server.name, group.name);
    }
}
