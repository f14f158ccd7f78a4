//! Any bytes, read as the `state` of a login and as the target to return to: nothing forged opens, nothing leads elsewhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::proto::oidc::login::property;

fuzz_target!(|data: &[u8]| property::forged_states_stay_closed(data));
