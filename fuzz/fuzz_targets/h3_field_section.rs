//! Any bytes, the first half as instructions for the decoder's table, the second as a field section of HTTP/3; then as turns of
//! both, with the decoder's memory bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::proto::h3::property;

fuzz_target!(|data: &[u8]| {
    property::reads_field_section(data);
    property::keeps_decoder_small(data);
});
