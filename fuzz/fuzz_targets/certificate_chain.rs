//! Any bytes, split into certificates and revocation lists, as a peer's chain: no panic, nothing accepted
//! without a trusted certificate, and the same verdict twice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::net::tls::verify::property;

fuzz_target!(|data: &[u8]| {
    property::reads_chain(data);
    property::reads_certificate(data);
});
