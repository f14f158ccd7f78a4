//! TLS on rustls: what operators write and keep in files, as values.
//!
//! Touches: rustls with its aws-lc-rs provider. No socket, no file, no clock.

pub mod certificate;
pub mod certificate_compression;
pub mod ciphers;
pub mod conf_command;
pub mod encrypted_key;
pub mod pem;
#[cfg(any(test, feature = "property"))]
pub mod property;
pub mod settings;
pub mod verify;
