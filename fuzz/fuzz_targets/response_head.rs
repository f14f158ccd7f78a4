//! Any bytes read as the head of a response, cut at every byte: places, framing, and the copy that is forwarded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::proto::property;

fuzz_target!(|data: &[u8]| property::reads_response_head(data));
