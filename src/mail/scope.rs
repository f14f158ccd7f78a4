//! A mail session as a scope: it has no variables, but what it shares with other language parts is compiled with a [`Cx`].
//!
//! Touches: nothing.

use std::path::Path;

use crate::config::Places;
use crate::log::{self, Logger};
use crate::mail::config::compile::Cx;
use crate::mail::session::Session;
use crate::net::tls::watch::Pairs;
use crate::script::registry::{self, Variables};
use crate::script::{Compile, Scope, Values};
use crate::shared::Environment;
use crate::shared::status_zone::Zones;
use crate::shared::tls::{Secured, files, server};
use crate::sys::address::SockAddr;
use crate::sys::names::Names;

pub type Registry = registry::Registry<Session>;

impl Scope for Session {
    fn variables(&self) -> &'static Variables<Self> {
        &self.config.variables
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
        &self.config.places
    }
}

impl Compile for Cx {
    type Scope = Session;

    fn variables(&mut self) -> &mut Registry {
        &mut self.variables
    }
}

impl Environment for Cx {
    const BLOCK: &'static str = "mail";

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
        &mut self.zones
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
