//! Any bytes, parsed as the head of a CGI response in pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::proto::property::applications;

fuzz_target!(|data: &[u8]| applications::reads_cgi_head(data));
