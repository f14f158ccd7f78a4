//! Any bytes of a client's unidirectional stream of HTTP/3 (control, encoder, decoder), given whole and in pieces: the first byte
//! is the number of piece lengths that follow it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::proto::h3::property;

fuzz_target!(|data: &[u8]| {
    let Some((&count, rest)) = data.split_first() else { return };
    let (cuts, input) = rest.split_at(rest.len().min(usize::from(count % 16)));
    property::takes_stream(input, cuts);
});
