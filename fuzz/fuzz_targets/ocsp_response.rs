//! Any bytes as a certificate, its issuer and an OCSP response: no panic, the same answer twice, and a signer
//! that counts for a client counts for any handshake.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::net::tls::verify::ocsp::property;

fuzz_target!(|data: &[u8]| property::reads_response(data));
