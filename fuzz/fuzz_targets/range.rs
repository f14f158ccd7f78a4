//! Any bytes, taken as a size, a limit and a `Range`: parts inside the body, and the length of a response
//! with them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::http::modules::ranges::property;

fuzz_target!(|data: &[u8]| property::reads_range(data));
