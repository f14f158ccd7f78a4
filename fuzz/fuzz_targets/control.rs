//! Any bytes with any number of descriptors on a worker's control socket: read as at most one message, which
//! encodes to the same bytes, is judged without a panic in every state, and leaves no descriptor open.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::master::rules::property;

fuzz_target!(|data: &[u8]| property::leaves_nothing(data));
