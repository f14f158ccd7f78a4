//! Any target and any steps of rewriting: refused with diagnostics, or the request comes to an end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::http::property;

fuzz_target!(|text: &str| property::rewrites(text));
