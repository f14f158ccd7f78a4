//! Any bytes as the TLS of a connection that a hostile worker hands over.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::net::tls::property;

fuzz_target!(|data: &[u8]| property::reads_moved(data));
