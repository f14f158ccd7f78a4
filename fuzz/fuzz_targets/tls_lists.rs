//! Any text as a list of ciphers, groups or protocols, or as a command of OpenSSL: no panic, nothing twice,
//! never an empty selection.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::net::tls::property;

fuzz_target!(|text: &str| property::reads_lists(text));
