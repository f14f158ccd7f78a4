//! Any bytes, written as the parameters of requests in FastCGI, uwsgi and SCGI, and read back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::proto::property::applications;

fuzz_target!(|data: &[u8]| applications::writes_pairs(data));
