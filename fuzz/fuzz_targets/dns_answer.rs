//! Any bytes, parsed as a name server's answer: no reading past its end, no endless loop, no records that
//! were not asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::proto::property;

fuzz_target!(|data: &[u8]| property::reads_dns_answer(data));
