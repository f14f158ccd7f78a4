//! Any bytes as a session ticket, as a session that is sealed in one, and as damage to that ticket.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::net::tls::ticket::property;

fuzz_target!(|data: &[u8]| property::opens_its_own_only(data));
