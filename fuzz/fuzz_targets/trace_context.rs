//! Any bytes, taken as a `traceparent` and fields of `tracestate`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::proto::property::trace;

fuzz_target!(|data: &[u8]| trace::reads_trace_context(data));
