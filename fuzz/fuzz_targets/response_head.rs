//! Any bytes, parsed as the head of a response and cut at every byte: ranges, framing, and the forwarded
//! copy.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::proto::property;

fuzz_target!(|data: &[u8]| property::reads_response_head(data));
