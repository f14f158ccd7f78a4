//! Any bytes as the first message of a client of MQTT or PostgreSQL: no panic, and a message that is cut is never read in
//! another way.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::proto::property::applications;

fuzz_target!(|data: &[u8]| applications::reads_first_messages(data));
