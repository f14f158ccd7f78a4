//! Any bytes before a connection's first request taken as the header of the PROXY protocol.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::proto::property;

fuzz_target!(|data: &[u8]| property::reads_proxy_header(data));
