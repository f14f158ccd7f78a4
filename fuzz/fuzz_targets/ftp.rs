//! Any bytes, read as the lines of an FTP client and of a server.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::proto::property::ftp;

fuzz_target!(|data: &[u8]| {
    ftp::reads_ftp_commands(data);
    ftp::reads_ftp_replies(data);
});
