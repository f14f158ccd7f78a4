//! Any bytes as a movie of which a part is asked for: no reading outside the file, no index that is much longer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::proto::mp4::property;

fuzz_target!(|data: &[u8]| property::cuts(data));
