//! Any bytes, parsed as a stored response of nginx's cache: a head within the bytes, or a reason.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::cache::entry::property;

fuzz_target!(|data: &[u8]| property::reads_cache_file(data));
