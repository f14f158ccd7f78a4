//! Any bytes of a server, given to a client of HTTP/2 with requests in progress, whole and in pieces: the first byte is the
//! number of piece lengths that follow it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::proto::h2::property;

fuzz_target!(|data: &[u8]| {
    let Some((&count, rest)) = data.split_first() else { return };
    let (cuts, input) = rest.split_at(rest.len().min(usize::from(count % 16)));
    property::takes_server_bytes(input, cuts);
});
