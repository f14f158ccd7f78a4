//! The basis of every test against the real daemon: the daemon itself on a small inline configuration,
//! scripted peers that speak bytes, free ports, and a deadline for every wait.
//!
//! Nothing here uses pronghorn's code: requests are written and responses parsed by separate code, so that a
//! mistake in the codec cannot hide itself.
//!
//! Environment: `PRONGHORN_TEST_DEADLINE` is the number of seconds that a wait may take (30); raise it on a
//! slow machine. `PRONGHORN_TEST_BINARY` is another daemon to run the tests against, such as
//! `/usr/sbin/nginx`, whose behaviour is the specification of most tests here. `PRONGHORN_NEED_PEERS`: a program that some
//! tests talk to, such as php-fpm, must be installed; otherwise they are left out where it is not.
#![allow(dead_code, unused_imports)]

pub mod acme;
pub mod base64;
pub mod captured;
pub mod client;
pub mod daemon;
pub mod deadline;
pub mod dns;
pub mod environment;
pub mod fastcgi;
pub mod h2;
pub mod h2_load;
pub mod h2_server;
pub mod h3;
pub mod listening;
pub mod load;
pub mod message;
pub mod origin;
pub mod otlp;
pub mod packets;
pub mod port;
pub mod process;
pub mod program;
pub mod tasks;
pub mod tls;
pub mod wire;

pub use acme::Acme;
pub use client::{Client, fetch, get};
pub use daemon::{Daemon, Setup};
pub use deadline::{deadline, wait_for};
pub use dns::Dns;
pub use h2::H2;
pub use h2_server::H2Server;
pub use h3::H3;
pub use load::Load;
pub use message::{Request, Response};
pub use origin::Origin;
pub use otlp::Collector;
pub use wire::Wire;
