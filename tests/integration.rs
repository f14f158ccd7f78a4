//! Tests against the real daemon, with a folder for each floor and a file for each room or directive.
//!
//! To add a file, name it in its folder's `mod.rs`. `PRONGHORN_TEST_BINARY=/usr/sbin/nginx cargo test --test
//! integration` runs the same tests against nginx, whose behaviour most of them pin.

mod applications;
mod caching;
mod control;
mod grpc;
mod http;
mod mail;
mod operator;
mod process;
mod stream;
mod support;
mod tls;
mod upstream;
