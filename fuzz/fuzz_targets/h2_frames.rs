//! Well-formed frames of a client and answers of a server, in any order, against a model of flow control.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::proto::h2::property;

fuzz_target!(|data: &[u8]| property::plays_frames(data));
