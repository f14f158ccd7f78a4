//! Any bytes before a connection's first request, parsed as a PROXY protocol header.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::proto::property;

fuzz_target!(|data: &[u8]| property::reads_proxy_header(data));
