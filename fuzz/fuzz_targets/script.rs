//! Any text as a value with variables: what is made of it is what a plain replacement makes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::http::property;

fuzz_target!(|text: &str| property::evaluates(text));
