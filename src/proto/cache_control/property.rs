//! Properties that hold for any fields of a response: checked by a fuzz target and, on fewer bytes, by a test.

use super::{Ignored, Lifetime};
use crate::proto::h1::response;
use crate::proto::head::ResponseHead;
use crate::proto::header::Id;

const NAMES: [&str; 6] = ["Cache-Control", "Expires", "X-Accel-Expires", "Age", "Date", "Set-Cookie"];
const NOW_S: i64 = 784_111_777;

/// Reads the lifetime of a response with a field for each line; its first byte selects the name.
pub fn reads_lifetime(data: &[u8]) {
    let lines = data.split(|byte| *byte == b'\n').filter_map(<[u8]>::split_first);
    let fields: Vec<(&str, Vec<u8>)> = lines
        .take(16)
        .map(|(name, value)| (NAMES[usize::from(*name) % NAMES.len()], value.iter().map(visible).collect()))
        .collect();
    let Some((said, head)) = of(&fields, Ignored::default()) else { return };
    assert!(said.updating_s >= 0 && said.error_s >= 0);
    let has_accel = head.fields.has(Id::XAccelExpires);
    if said.storable && !has_accel {
        assert!(said.valid_s.is_none_or(|valid_s| valid_s > NOW_S), "{said:?}");
    }
    let all = Ignored { x_accel_expires: true, cache_control: true, expires: true, set_cookie: true };
    let nothing = of(&fields, all).map(|(said, _)| said);
    assert!(nothing.is_some_and(|said| said.storable && !said.is_explicit() && !said.must_revalidate));
    // The inside of a quoted string says nothing, whatever follows.
    let mut quoted = b"x=\"".to_vec();
    for byte in fields.iter().flat_map(|(_, value)| value) {
        if matches!(byte, b'"' | b'\\') {
            quoted.push(b'\\');
        }
        quoted.push(*byte);
    }
    quoted.push(b'"');
    let with = |value: &[u8]| {
        let more: Vec<_> =
            std::iter::once((NAMES[0], value.to_vec())).chain(fields.iter().cloned()).collect();
        of(&more, Ignored::default()).map(|(said, _)| said)
    };
    assert_eq!(with(&quoted), Some(said));
    assert!(has_accel || with(b"no-store").is_some_and(|said| !said.storable));
}

/// Control characters are in no field that has been parsed.
fn visible(byte: &u8) -> u8 {
    if byte.is_ascii_control() && *byte != b'\t' { b'?' } else { *byte }
}

/// `None`: the head is too long.
fn of(fields: &[(&str, Vec<u8>)], ignored: Ignored) -> Option<(Lifetime, ResponseHead)> {
    let mut text = b"HTTP/1.1 200 OK\r\n".to_vec();
    for (name, value) in fields {
        text.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    text.extend_from_slice(b"\r\n");
    let mut head = ResponseHead::default();
    response::parse(&text, 1 << 20, &mut head).ok()?;
    Some((Lifetime::of(&head.fields, &text, ignored, NOW_S), head))
}
