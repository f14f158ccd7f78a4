//! Where one request goes: the group of its location, or the one that variables name.
//!
//! Touches: the resolver (on the blocking pool), for a name that only a variable brought.

use crate::http::error::Error;
use crate::http::modules::proxy_pass::{Pass, Target};
use crate::http::modules::upstream::Chosen;
use crate::http::request::Request;
use crate::runtime::blocking;
use crate::upstream::Server;

/// The group that a request is passed to, and what replaces its URI.
#[derive(Debug)]
pub struct Goal {
    pub group: Chosen,
    target: Parts,
    /// The URL was made of variables: its URI part is the whole URI.
    pub is_evaluated: bool,
}

#[derive(Debug)]
enum Parts {
    Fixed(&'static Target),
    Evaluated(Box<Target>),
}

impl Goal {
    /// Finds the group. Errors: 500 for a value that is no URL, 502 for a name that does not resolve.
    pub async fn find(request: &mut Request) -> Result<Self, Error> {
        let upstreams = &request.config.upstreams;
        match request.location.proxy_pass.pass() {
            Some(Pass::Fixed { group, target }) => {
                let group =
                    upstreams.get(*group).ok_or_else(|| Error::ours("the location's upstream is gone"))?;
                Ok(Self {
                    group: Chosen::Configured(group),
                    target: Parts::Fixed(target),
                    is_evaluated: false,
                })
            }
            Some(Pass::Script(script)) => {
                let url = String::from_utf8(script.to_vec(request))
                    .map_err(|_| Error::ours("the URL of \"proxy_pass\" is no text"))?;
                let target = Target::parse(&url).map_err(|why| Error::ours(format!("{why} in \"{url}\"")))?;
                Self::evaluated(request, target).await
            }
            None => Err(Error::ours("no \"proxy_pass\" in this location")),
        }
    }

    /// The value of `$proxy_host`.
    pub fn write_host(&self, out: &mut Vec<u8>) {
        self.target().write_host(out);
    }

    /// What replaces the location's name in the URI; `None`: the URI goes on as it is.
    pub fn uri(&self) -> Option<&str> {
        self.target().uri.as_deref()
    }

    fn target(&self) -> &Target {
        match &self.target {
            Parts::Fixed(target) => target,
            Parts::Evaluated(target) => target,
        }
    }

    async fn evaluated(request: &mut Request, target: Target) -> Result<Self, Error> {
        let upstreams = &request.config.upstreams;
        let group = match upstreams.find(&target.name, target.port) {
            Some(group) => group,
            None => {
                let mut server = Server::new(&target.name, target.host.clone());
                if server.addresses.is_empty() {
                    let host = target.host.clone();
                    let found = blocking::run(move || host.resolve()).await;
                    server.addresses = found.map_err(|error| {
                        Error::upstream(502, format!("{} could not be resolved ({error})", target.name))
                    })?;
                }
                upstreams.make(&target.name, target.port, server)
            }
        };
        let (mut host, mut port) = (Vec::new(), Vec::new());
        target.write_host(&mut host);
        target.write_port(&mut port);
        request.upstream.host = Some((host, port));
        Ok(Self { group, target: Parts::Evaluated(Box::new(target)), is_evaluated: true })
    }
}
