//! Looking a name up that comes from variables, for a `proxy_pass` without an `upstream` block.
//!
//! Touches: the name servers of `resolver`; without one the system's resolver, on the blocking pool, where nginx refuses.
//! Behaviour: nginx.org, `proxy_pass` and `resolver`.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::net::Address;
use crate::net::address::Host;
use crate::net::resolver::{Failure, Resolver, Resolvers};
use crate::runtime::blocking::{self, Lane};
use crate::shared::resolver;
use crate::upstream::{GroupState, Upstreams};

/// How long to use addresses from the system's resolver, which does not tell their lifetime.
const SYSTEM_VALID_MS: u64 = 30_000;

/// Why lookups beyond `blocking::NAMES_WAITING_MAX` are refused.
const NAMES_WAIT: &str =
    "too many names wait for the system's resolver; \"resolver\" has name servers asked without waiting";

/// The reason why a name has no addresses.
#[derive(Debug)]
pub enum Unresolved {
    ByNameServers(Failure),
    BySystem(io::Error),
}

impl fmt::Display for Unresolved {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByNameServers(failure) => failure.fmt(out),
            Self::BySystem(error) => write!(out, "({error})"),
        }
    }
}

/// The group for a name without an `upstream` block: its addresses from the `resolver` in force, otherwise from the system's.
/// `name` and `port`: under which the group is found again.
pub async fn group(
    upstreams: &Upstreams,
    resolvers: &Resolvers,
    conf: &'static resolver::Conf,
    (name, port): (&str, Option<u16>),
    host: &Host,
) -> Result<Rc<GroupState>, Unresolved> {
    let make = |source: Option<&Rc<Resolver>>, addresses| upstreams.make(name, port, source, host, addresses);
    let (Host::Inet { name: domain, port: own_port }, None) = (host, host.literal()) else {
        return Ok(make(None, host.literal().into_iter().collect()));
    };
    if let Some(settings) = conf.settings() {
        let resolver = resolvers.get(settings);
        let found = resolver.addresses(domain, conf.timeout_ms()).await;
        let found = found.map_err(Unresolved::ByNameServers)?;
        let addresses = found.list.iter().map(|&ip| Address::Inet(SocketAddr::new(ip, *own_port)));
        return Ok(make(Some(&resolver), addresses.collect()));
    }
    let known = upstreams.find_made(name, port, None, SYSTEM_VALID_MS);
    if let Some((group, true)) = &known {
        return Ok(Rc::clone(group));
    }
    let wanted = host.clone();
    let looking = blocking::try_run(Lane::Names, move || wanted.resolve());
    let looked = match looking {
        Ok(looking) => looking.await,
        Err(blocking::Busy) => Err(io::Error::other(NAMES_WAIT)),
    };
    match (looked, known) {
        (Ok(addresses), _) => Ok(make(None, addresses)),
        (Err(_), Some((group, _))) => Ok(group),
        (Err(error), None) => Err(Unresolved::BySystem(error)),
    }
}
