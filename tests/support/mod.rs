//! What every test against the real daemon stands on: the daemon itself on a small inline configuration,
//! scripted peers that speak bytes, free ports, and a deadline for every wait.
//!
//! Nothing here knows pronghorn's code: requests are written and answers are read by code of their own, so a
//! mistake of the codec cannot hide behind itself.
//!
//! Environment: `PRONGHORN_TEST_DEADLINE` seconds that a wait may take (10), raise it on a slow machine;
//! `PRONGHORN_TEST_BINARY` another daemon to run the tests against, such as `/usr/sbin/nginx`, whose
//! behaviour is the specification of most tests here.
#![allow(dead_code, unused_imports)]

pub mod captured;
pub mod client;
pub mod daemon;
pub mod deadline;
pub mod dns;
pub mod environment;
pub mod load;
pub mod message;
pub mod origin;
pub mod port;
pub mod process;
pub mod wire;

pub use client::{Client, fetch, get};
pub use daemon::{Daemon, Setup};
pub use deadline::{deadline, wait_for};
pub use dns::Dns;
pub use load::Load;
pub use message::{Request, Response};
pub use origin::Origin;
pub use wire::Wire;
