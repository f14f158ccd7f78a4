//! The addresses of a host that a worker asks itself: a responder, a provider of logins, an authority.
//!
//! Touches: the name servers of `resolver`; without one the system's resolver, on the blocking pool.
//! Behaviour: nginx.org, `resolver` and `resolver_timeout`.

use std::net::SocketAddr;
use std::rc::Rc;

use crate::log::Cause;
use crate::net::address::{Address, Host};
use crate::net::resolver::Resolver;
use crate::runtime::blocking::{self, Lane};

/// How names are looked up.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    /// `resolver`; `None`: the system's.
    pub resolver: Option<Rc<Resolver>>,
    /// `resolver_timeout`.
    pub timeout_ms: u64,
}

impl Lookup {
    /// The addresses of a host. Errors: why there are none, in parentheses.
    pub async fn addresses(&self, host: &Host) -> Result<Vec<Address>, String> {
        if let Some(address) = host.literal() {
            return Ok(vec![address]);
        }
        let Host::Inet { name, port } = host else { return Ok(Vec::new()) };
        if let Some(resolver) = &self.resolver {
            let found = resolver.addresses(name, self.timeout_ms).await.map_err(|why| why.to_string())?;
            return Ok(found.list.iter().map(|&ip| Address::Inet(SocketAddr::new(ip, *port))).collect());
        }
        let host = host.clone();
        let looking = blocking::try_run(Lane::Names, move || host.resolve());
        let looking = looking.map_err(|_| "(too many lookups at a time)".to_owned())?;
        looking.await.map_err(|error| Cause(&error).to_string())
    }
}
