//! Any bytes taken as the answer of a name server: no reading past its end, no circle, nothing that was not asked.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::proto::property;

fuzz_target!(|data: &[u8]| property::reads_dns_answer(data));
