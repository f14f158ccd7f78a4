//! pronghorn: a multi-worker reverse proxy and load balancer that reads nginx's configuration language.
//!
//! Each folder is a floor; a file imports its own folder and lower floors only (`docs/architecture.md`,
//! checked by `tests/tidy.rs`). From the top: master, worker, cycle, http and stream, shared, script and upstream and cache,
//! net, config and proto, runtime and shm and log, sys and base.

pub mod base;
pub mod cache;
pub mod cli;
pub mod config;
pub mod ctl;
pub mod cycle;
pub mod http;
pub mod log;
pub mod mail;
pub mod master;
pub mod net;
pub mod proto;
pub mod runtime;
pub mod script;
pub mod shared;
pub mod shm;
pub mod stream;
pub mod sys;
pub mod top;
pub mod upstream;
pub mod worker;
