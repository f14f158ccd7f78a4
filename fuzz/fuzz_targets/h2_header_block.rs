//! Any bytes, decoded as header blocks of HTTP/2 and as Huffman code.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::proto::h2::property;

fuzz_target!(|data: &[u8]| {
    property::reads_header_block(data);
    property::codes_huffman(data);
});
