//! Any words in the shared table of TLS sessions, as a hostile worker may write them, before and between its use.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::shm::tls_sessions::property;

fuzz_target!(|data: &[u8]| property::survives(data));
