//! Any bytes, parsed as what clients of mail, their servers and authentication servers send; the first byte is the number of bytes that
//! say how the rest is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::proto::property::mail;

fuzz_target!(|data: &[u8]| {
    let Some((&count, rest)) = data.split_first() else { return };
    let (cuts, input) = rest.split_at(rest.len().min(usize::from(count % 16)));
    mail::reads_mail_commands(input, cuts);
    mail::reads_mail_replies(input);
});
