//! HTTP as a scope of variables: they are evaluated for a request, and compiled with a [`Cx`].
//!
//! Touches: nothing. Defines short names of `script/` types for HTTP, for all modules.

use std::net::IpAddr;
use std::path::Path;

use crate::base::network::Network;
use crate::config::Places;
use crate::http::Config;
use crate::http::config::compile::Cx;
use crate::http::request::Request;
use crate::log::Logger;
use crate::net::tls::Info;
use crate::net::tls::watch::Pairs;
use crate::net::transport::Probe;
use crate::proto::proxy_protocol::Header;
use crate::script::registry::{self, Variables};
use crate::script::{Compile, Scope, Values, value, variable};
use crate::shared::Environment;
use crate::shared::connection::Connected;
use crate::shared::status_zone::Zones;
use crate::shared::tls::{Secured, files, server};
use crate::sys::address::SockAddr;
use crate::sys::names::Names;

pub type Script = value::Script<Request>;
pub type Variable = variable::Variable<Request>;
pub type Registry = registry::Registry<Request>;
pub type Target = registry::Target<Request>;

impl Scope for Request {
    const HAS_NAMED_CLIENTS: bool = true;

    #[inline]
    fn variables(&self) -> &'static Variables<Self> {
        let config: &'static Config = self.config;
        &config.variables
    }

    #[inline]
    fn values(&self) -> &Values {
        &self.values
    }

    #[inline]
    fn values_mut(&mut self) -> &mut Values {
        &mut self.values
    }

    #[inline]
    fn peer(&self) -> &SockAddr {
        &self.connection.peer
    }

    fn logger(&self) -> Logger {
        self.error_log()
    }

    fn places(&self) -> &'static Places {
        let config: &'static Config = self.config;
        &config.places
    }

    fn named_client(&self, trusted: &[Network], is_recursive: bool, peer: Option<IpAddr>) -> Option<IpAddr> {
        self.forwarded_client(b"X-Forwarded-For", trusted, is_recursive, peer).map(|client| client.ip())
    }
}

impl Connected for Request {
    fn number(&self) -> u64 {
        self.connection.number
    }

    fn local(&self) -> &SockAddr {
        &self.connection.local
    }

    fn proxy_header(&self) -> Option<&Header> {
        self.connection.proxy.as_deref()
    }

    fn probe(&self) -> Option<Probe> {
        self.connection.probe
    }

    fn tls(&self) -> Option<&Info> {
        self.connection.tls.as_deref()
    }
}

impl Compile for Cx {
    type Scope = Request;

    fn variables(&mut self) -> &mut Registry {
        &mut self.variables
    }
}

impl Environment for Cx {
    const BLOCK: &'static str = "http";

    fn prefix(&self) -> &Path {
        &self.options.prefix
    }

    fn names(&self) -> &Names {
        &self.options.names
    }

    fn is_test(&self) -> bool {
        self.options.test_only
    }

    fn status_zones(&mut self) -> &mut Zones {
        &mut self.drafts.status_zone
    }
}

impl Secured for Cx {
    fn folder(&self) -> &Path {
        &self.options.folder
    }

    fn tls_files(&mut self) -> &mut files::Loaded {
        &mut self.tls_files
    }

    fn tls_memory(&mut self) -> &mut server::Draft {
        &mut self.drafts.ssl
    }

    fn pairs(&mut self) -> &mut Pairs {
        &mut self.pairs
    }
}
