//! Any bytes as an image that is changed: an error, or an image within its bounds; no panic of a decoder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::base::image::property;

fuzz_target!(|data: &[u8]| property::changes(data));
