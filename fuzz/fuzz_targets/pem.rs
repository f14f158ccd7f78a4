//! Any bytes, read as a file of certificates, revocation lists, keys and passwords: no panic, and what is
//! found reads the same from a file of ours.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::net::tls::property;

fuzz_target!(|data: &[u8]| property::reads_pem(data));
