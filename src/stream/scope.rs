//! A stream session as a scope of variables: they are evaluated for a session, and compiled with a [`Cx`].
//!
//! Touches: nothing. Defines short names of `script/` types for streams, for all modules.

use std::path::Path;

use crate::config::Places;
use crate::log::{self, Logger};
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
use crate::stream::config::compile::Cx;
use crate::stream::session::Session;
use crate::sys::address::SockAddr;
use crate::sys::names::Names;

pub type Script = value::Script<Session>;
pub type Variable = variable::Variable<Session>;
pub type Registry = registry::Registry<Session>;
pub type Target = registry::Target<Session>;

impl Scope for Session {
    fn variables(&self) -> &'static Variables<Self> {
        &self.config().variables
    }

    fn values(&self) -> &Values {
        &self.values
    }

    fn values_mut(&mut self) -> &mut Values {
        &mut self.values
    }

    fn peer(&self) -> &SockAddr {
        &self.peer
    }

    fn logger(&self) -> Logger {
        log::logger_for(self.server.confs.core.log(), || self.peer.ip())
    }

    fn places(&self) -> &'static Places {
        &self.config().places
    }
}

impl Connected for Session {
    fn number(&self) -> u64 {
        self.number
    }

    fn local(&self) -> &SockAddr {
        &self.local
    }

    fn proxy_header(&self) -> Option<&Header> {
        self.proxy.as_deref()
    }

    fn probe(&self) -> Option<Probe> {
        self.probe
    }

    fn tls(&self) -> Option<&Info> {
        self.tls.as_deref()
    }
}

impl Compile for Cx {
    type Scope = Session;

    fn variables(&mut self) -> &mut Registry {
        &mut self.variables
    }
}

impl Environment for Cx {
    const BLOCK: &'static str = "stream";

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
