//! Where names are asked for: the name servers of a `resolver` directive, or those of the system.
//!
//! Touches: `/etc/resolv.conf`, before each lookup (`net/resolv_conf.rs`).

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use super::{Failure, Found, Place, Resolver, Settings};
use crate::log;
use crate::net::resolv_conf::{File, System};
use crate::proto::dns::Code;

/// The name servers for names that are followed.
#[derive(Debug)]
pub enum Source {
    /// Those of a directive.
    Directive(Rc<Resolver>),
    /// Those of the system, which may change while serving.
    System(RefCell<OfSystem>),
}

#[derive(Debug)]
pub struct OfSystem {
    file: File,
    resolver: Rc<Resolver>,
}

impl Source {
    pub fn of_directive(settings: &Arc<Settings>) -> Self {
        Self::Directive(Rc::new(Resolver::new(Arc::clone(settings))))
    }

    /// The name servers that this file names (`resolv_conf::PATH`).
    pub fn of_system(path: &Path) -> Self {
        let resolver = resolver(&System::default());
        Self::System(RefCell::new(OfSystem { file: File::new(path), resolver }))
    }

    /// True if a name that does not exist any more keeps its last addresses.
    pub fn keeps_vanished(&self) -> bool {
        matches!(self, Self::System(_))
    }

    /// `valid=`
    pub fn valid_ms(&self) -> Option<u64> {
        match self {
            Self::Directive(resolver) => resolver.valid_ms(),
            Self::System(_) => None,
        }
    }

    /// See [`Resolver::addresses`].
    pub async fn addresses(&self, name: &str, timeout_ms: u64) -> Result<Found<IpAddr>, Failure> {
        let (resolver, names, timeout_ms) = self.plan(name, timeout_ms);
        let mut outcome = Err(Failure::Code(Code::NotFound));
        for name in names {
            outcome = resolver.addresses(&name, timeout_ms).await;
            if !is_absent(&outcome) {
                break;
            }
        }
        outcome
    }

    /// See [`Resolver::services`].
    pub async fn services(
        &self,
        service: &str,
        name: &str,
        timeout_ms: u64,
    ) -> Result<Found<Place>, Failure> {
        let (resolver, names, timeout_ms) = self.plan(name, timeout_ms);
        let mut outcome = Err(Failure::Code(Code::NotFound));
        for name in names {
            outcome = resolver.services(service, &name, timeout_ms).await;
            if !is_absent(&outcome) {
                break;
            }
        }
        outcome
    }

    /// The resolver to ask, the names to ask for, and the limit of time for each.
    fn plan(&self, name: &str, timeout_ms: u64) -> (Rc<Resolver>, Vec<String>, u64) {
        match self {
            Self::Directive(resolver) => (Rc::clone(resolver), vec![name.to_owned()], timeout_ms),
            Self::System(of_system) => {
                let OfSystem { file, resolver: present } = &mut *of_system.borrow_mut();
                let (system, has_changed) = file.look();
                if has_changed {
                    let servers: Vec<String> = system.servers.iter().map(ToString::to_string).collect();
                    log::notice!(log::process(), &(), "name servers of the system: {}", servers.join(", "));
                    *present = resolver(system);
                }
                (Rc::clone(present), system.candidates(name), timeout_ms.min(system.limit_ms()))
            }
        }
    }
}

fn resolver(system: &System) -> Rc<Resolver> {
    let servers = system.servers.clone();
    Rc::new(Resolver::new(Arc::new(Settings {
        servers,
        valid_ms: None,
        ipv4: true,
        ipv6: true,
        counts: None,
    })))
}

fn is_absent<T>(outcome: &Result<T, Failure>) -> bool {
    matches!(outcome, Err(Failure::Code(Code::NotFound)))
}
