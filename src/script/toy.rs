//! A second language part for tests: a session that is an address and some bytes, as `stream`'s will be.
//!
//! It proves that `script/` and `shared/` ask nothing of a scope that only HTTP has. Touches: nothing.

use std::net::SocketAddr;
use std::path::Path;

use crate::config::{Diagnostics, HasDiagnostics, LoadOptions, Node, Places, Severity, load_text};
use crate::log::{self, Logger};
use crate::script::map::Map;
use crate::script::registry::{Registry, Variables};
use crate::script::variable::{Change, Definition, Variable, changeable, prefix, variable};
use crate::script::{Compile, Scope, Values, geo, split_clients, value};
use crate::sys::address::SockAddr;
use crate::sys::names::Names;

pub type Script = value::Script<Session>;

/// What is under way.
#[derive(Debug)]
pub struct Session {
    variables: &'static Variables<Session>,
    places: &'static Places,
    values: Values,
    pub peer: SockAddr,
    pub bytes: Vec<u8>,
    /// The names that were used before they were set.
    pub early: std::cell::RefCell<Vec<String>>,
}

/// What its configuration is read into.
pub struct Cx {
    pub registry: Registry<Session>,
    pub diagnostics: Diagnostics,
    names: Names,
    /// Nothing is created.
    pub is_test: bool,
}

pub static VARIABLES: &[&[Variable<Session>]] = &[
    &[variable(
        "remote_addr",
        |s, _, out| s.peer.ip().is_some_and(|ip| add(out, &ip.to_string())),
        "The client.",
    )],
    &[
        variable("protocol", |_, _, out| add(out, "TCP"), "TCP."),
        changeable(
            "bytes",
            |s, _, out| add(out, &String::from_utf8_lossy(&s.bytes)),
            Change::By(|s, v| s.bytes = v),
            "Bytes.",
        ),
        prefix(
            "twice_",
            |_, argument, out| add(out, &argument.name.repeat(2)),
            "The rest of its name, twice.",
        ),
    ],
];

fn add(out: &mut Vec<u8>, text: &str) -> bool {
    out.extend_from_slice(text.as_bytes());
    !text.is_empty()
}

impl log::Context for Session {
    fn connection(&self) -> Option<u64> {
        Some(7)
    }
}

impl Scope for Session {
    fn variables(&self) -> &'static Variables<Self> {
        self.variables
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
        Logger::of(&[])
    }

    fn places(&self) -> &'static Places {
        self.places
    }
}

impl HasDiagnostics for Cx {
    fn diagnostics(&mut self) -> &mut Diagnostics {
        &mut self.diagnostics
    }
}

impl Compile for Cx {
    type Scope = Session;

    fn variables(&mut self) -> &mut Registry<Session> {
        &mut self.registry
    }
}

impl Default for Cx {
    fn default() -> Self {
        let (registry, diagnostics) = (Registry::new(VARIABLES), Diagnostics::default());
        Self { registry, diagnostics, names: Names::default(), is_test: true }
    }
}

impl Cx {
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Reads the blocks that make variables from a configuration, and gives what else stands in it.
    pub fn read(&mut self, text: &str) -> Vec<Node> {
        let options = LoadOptions { data_blocks: &["map", "geo"], ..LoadOptions::default() };
        let (tree, diagnostics) = load_text("toy.conf", text, &options);
        self.diagnostics.append(diagnostics);
        let mut others = Vec::new();
        for node in tree.nodes {
            let definition = match &*node.name.text {
                "map" => Map::read(&node, self).map(|map| Definition::Map(map.into())),
                "geo" => geo::Geo::read(&node, self).map(|geo| Definition::Geo(geo.into())),
                "split_clients" => {
                    split_clients::Split::read(&node, self).map(|split| Definition::Split(split.into()))
                }
                _ => {
                    others.push(node);
                    continue;
                }
            };
            let word = &node.args[node.args.len() - 1];
            let declared = definition.and_then(|definition| self.registry.declare(word, definition));
            if let Err(diagnostic) = declared {
                self.diagnostics.push(diagnostic);
            }
        }
        others
    }

    pub fn script(&mut self, text: &str) -> Script {
        let script = Script::compile_text(text, Default::default(), self);
        script.unwrap_or_else(|error| panic!("{text}: {}", error.message))
    }

    /// All has been read: a session, and what was found.
    pub fn finish(self, peer: &str) -> (Session, Vec<String>) {
        let Self { registry, mut diagnostics, .. } = self;
        let warn = |session: &Session, name: &str| session.early.borrow_mut().push(name.to_owned());
        let variables = registry.freeze(warn, &mut diagnostics);
        let inet = |peer: SocketAddr| SockAddr::Inet(peer);
        let session = Session {
            variables: Box::leak(Box::new(variables)),
            places: Box::leak(Box::default()),
            values: Values::default(),
            peer: peer.parse().map_or_else(|_| SockAddr::Unix(Path::new(peer).into()), inet),
            bytes: Vec::new(),
            early: Default::default(),
        };
        let name = |severity| if severity == Severity::Error { "error" } else { "warning" };
        let found = diagnostics.0.iter().map(|found| format!("{}: {}", name(found.severity), found.message));
        (session, found.collect())
    }
}
