//! Any bytes, read as a JSON Web Token, signed or encrypted, and as a set of keys: no panic, and nothing forged is accepted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::base::jose::property;

fuzz_target!(|data: &[u8]| {
    property::reads(data);
    property::opens(data);
});
