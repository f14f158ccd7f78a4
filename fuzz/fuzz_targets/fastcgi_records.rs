//! Any bytes, read as the records of a FastCGI response in any pieces: the first byte is the number of piece lengths that
//! follow it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::proto::property::applications;

fuzz_target!(|data: &[u8]| {
    let Some((&count, rest)) = data.split_first() else { return };
    let (cuts, input) = rest.split_at(rest.len().min(usize::from(count % 16)));
    applications::reads_records(input, cuts);
});
