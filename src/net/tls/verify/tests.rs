//! Verdicts on chains of every kind, each beside the verdict of `openssl verify` on the same files.

mod agreement;
mod handshake;
pub mod lab;
mod names;
mod ocsp;
