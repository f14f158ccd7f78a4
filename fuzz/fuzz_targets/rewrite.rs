//! Any target and any rewrite steps: refused with diagnostics, or the request terminates.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::http::property;

fuzz_target!(|text: &str| property::rewrites(text));
