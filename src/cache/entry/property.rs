//! Properties that hold for any file: checked by a fuzz target and, on fewer bytes, by a test.

use super::{BODY_START_MAX, Beginning, Broken, FIXED_BYTES, beginning, encode, encode_fixed, parse};
use crate::cache::key::Key;

/// The first byte is the length of the key, which follows; the rest is the file.
pub fn reads_cache_file(data: &[u8]) {
    let Some((length, rest)) = data.split_first() else { return };
    let Some((text, file)) = rest.split_at_checked(usize::from(*length)) else { return };
    let key = Key::new(text.to_vec());
    check(file, &key);
    // as the beginning of a file of this key, which few random bytes are
    let head = file.split_at_checked(FIXED_BYTES).map_or(file, |(_, head)| head);
    if let Some(mut whole) = encode(&Default::default(), &key, head) {
        let count = file.len().min(FIXED_BYTES);
        let checked = [0..8, 48..52, 54..56]; // version, CRC and start of the head
        for at in (0..count).filter(|at| !checked.iter().any(|range| range.contains(at))) {
            whole[at] = file[at];
        }
        check(&whole, &key);
    }
}

/// Parses a file and whatever of it may be read first.
pub(super) fn check(file: &[u8], key: &Key) {
    let beginning = beginning(file);
    match parse(file, key) {
        Ok(parsed) => {
            let known = Beginning { key: key.text(), received_ms: parsed.meta.received_ms() };
            assert_eq!(beginning, Some(known), "without the key too");
            assert_eq!(parsed.head.end, usize::from(parsed.meta.body_start));
            let head = &file[parsed.head.clone()];
            assert!(head.starts_with(b"HTTP/1.") && head.ends_with(b"\n"));
            assert_eq!(
                parse(&file[..parsed.head.end], key).as_ref(),
                Ok(&parsed),
                "the body is not looked at"
            );
            let again = encode(&parsed.meta, key, head).expect("it has been in a file");
            assert_eq!(parse(&again, key).as_ref().map(|again| &again.head), Ok(&parsed.head));
            assert_eq!(encode_fixed(&parsed.meta, key)[..], again[..FIXED_BYTES]);
        }
        Err(Broken::Short { needed }) => assert!(file.len() < needed && needed <= BODY_START_MAX),
        Err(broken) => assert!(!broken.to_string().is_empty()),
    }
}
