//! Properties of every trace context, for the fuzz target and the tests here.

use crate::proto::trace_context::{Parent, state};

/// Reads the first line of `data` as a `traceparent` and each further one as a `tracestate`: a parent is written as it came, and
/// a state makes no further field, and is read again as it is.
pub fn reads_trace_context(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    if let Some(parent) = Parent::parse(first) {
        assert!(parent.trace != 0 && parent.span != 0);
        let written = format!("{:032x}-{:016x}-{:02x}", parent.trace, parent.span, parent.flags);
        assert_eq!(first.get(3..55), Some(written.as_bytes()));
        assert!(first.len() == 55 || first[55] == b'-' && !first.starts_with(b"00"));
        assert!(!first.starts_with(b"ff"));
    }
    let Some(list) = state(lines) else { return };
    assert!(!list.is_empty() && list.iter().all(|byte| matches!(byte, b' '..=b'~')));
    assert!(list.split(|byte| *byte == b',').count() <= 32);
    assert!(list.len() <= data.len());
    assert_eq!(state([&list[..]].into_iter()).as_ref(), Some(&list));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_as_trace_context() {
        const PARTS: &[&[u8]] = &[
            b"00-",
            b"01-",
            b"ff-",
            b"0af7651916cd43dd8448eb211c80319c",
            b"00000000000000000000000000000000",
            b"-",
            b"b7ad6b7169203331",
            b"0000000000000000",
            b"01",
            b"\n",
            b"a",
            b"=",
            b",",
            b" ",
            b"\t",
            b"@",
            b"b",
            b"*",
            b"\xff",
            b"a=1",
            b"\r",
            b"A",
        ];
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            let parts = bytes.iter().flat_map(|byte| PARTS[usize::from(*byte) % PARTS.len()]);
            reads_trace_context(&parts.copied().collect::<Vec<u8>>());
            reads_trace_context(bytes);
            reads_trace_context(&[GOOD, bytes].concat());
        });
        const GOOD: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n";
    }
}
