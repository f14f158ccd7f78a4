//! Any bytes, parsed as a request target, a host and a path: parts, normal form, and escaping back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::proto::property;

fuzz_target!(|data: &[u8]| property::reads_target(data));
