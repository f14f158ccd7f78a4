//! Any text, read in the TOML spelling: no panic, and a tree without errors survives both spellings.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::config::property;

fuzz_target!(|text: &str| property::reads_and_converts("fuzz.toml", text));
