//! Any bytes, parsed as a reply of memcached: the first byte is the length of the key that follows it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pronghorn::proto::property::applications;

fuzz_target!(|data: &[u8]| {
    let Some((&length, rest)) = data.split_first() else { return };
    let (key, reply) = rest.split_at(rest.len().min(usize::from(length % 16)));
    applications::reads_memcached_reply(reply, key);
});
