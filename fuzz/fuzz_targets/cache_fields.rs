//! Any bytes, as the fields of a response that say how long it may be stored.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::proto::cache_control::property;

fuzz_target!(|data: &[u8]| property::reads_lifetime(data));
