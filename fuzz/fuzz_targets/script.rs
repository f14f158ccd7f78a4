//! Any text, compiled as a value with variables: the result equals that of a plain replacement.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::http::property;

fuzz_target!(|text: &str| property::evaluates(text));
