//! Any bytes, with any number of descriptors, on a worker's control socket: read as at most one message, which is written
//! as the same bytes, judged without a panic in every state, and no descriptor stays open.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::master::rules::property;

fuzz_target!(|data: &[u8]| property::leaves_nothing(data));
