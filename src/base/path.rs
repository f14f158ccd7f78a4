//! Paths of URIs: decoding, dot segments, slashes; and escaping on the way out.
//!
//! Pure. RFC 3986 §5.2.4, §6.2.2; behaviour where it is free: nginx's parser of complex URIs.

use std::ops::Range;

use crate::base::number::hex_digit;

/// A path that cannot be meant: `%` without two hex digits, a zero byte, or `..` above the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadUri;

/// What [`normalize_uri`] found beside the path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The arguments in the raw bytes, without `?`; `None` when there is no `?`.
    pub args: Option<Range<usize>>,
    /// The decoded path differs from the raw one.
    pub complex: bool,
}

/// Writes the decoded, normalized path of `raw` (path, arguments, fragment) to `out`.
///
/// With `merge_slashes`, runs of slashes become one. Errors: see [`BadUri`].
pub fn normalize_uri(raw: &[u8], merge_slashes: bool, out: &mut Vec<u8>) -> Result<Parsed, BadUri> {
    out.clear();
    let end = memchr::memchr2(b'?', b'#', raw).unwrap_or(raw.len());
    let args = (raw.get(end) == Some(&b'?')).then(|| {
        let start = end + 1;
        let stop = memchr::memchr(b'#', &raw[start..]).map_or(raw.len(), |at| start + at);
        start..stop
    });
    let path = &raw[..end];
    if is_plain(path) {
        out.extend_from_slice(path);
        return Ok(Parsed { args, complex: false });
    }
    let mut at = 0;
    // A segment begins right after the slash that is written last.
    while at < path.len() {
        let (byte, length) = decode(&path[at..])?;
        at += length;
        match byte {
            0 => return Err(BadUri),
            b'/' => {
                close_segment(out)?;
                if !(merge_slashes && out.last() == Some(&b'/')) {
                    out.push(b'/');
                }
            }
            byte => out.push(byte),
        }
    }
    close_segment(out)?;
    Ok(Parsed { args, complex: true })
}

/// One byte, escaped or not, and how many raw bytes it took.
fn decode(raw: &[u8]) -> Result<(u8, usize), BadUri> {
    if raw[0] != b'%' {
        return Ok((raw[0], 1));
    }
    let digit = |at: usize| raw.get(at).copied().and_then(hex_digit).ok_or(BadUri);
    Ok((digit(1)? << 4 | digit(2)?, 3))
}

/// Resolves the segment that ends here when it is `.` or `..`.
fn close_segment(out: &mut Vec<u8>) -> Result<(), BadUri> {
    let start = memchr::memrchr(b'/', out).map_or(0, |slash| slash + 1);
    match &out[start..] {
        b"." => out.truncate(start),
        b".." => {
            // `out` ends in the slash before the dots; go back over the segment before it.
            let parent = out.get(..start.saturating_sub(1)).and_then(|before| memchr::memrchr(b'/', before));
            match parent {
                Some(slash) => out.truncate(slash + 1),
                None => return Err(BadUri),
            }
        }
        _ => {}
    }
    Ok(())
}

/// Nothing to decode, no dot segment, no double slash, no zero byte.
fn is_plain(path: &[u8]) -> bool {
    let mut previous = 0;
    for &byte in path {
        match byte {
            b'%' | 0 => return false,
            b'/' | b'.' if previous == b'/' => return false,
            _ => {}
        }
        previous = byte;
    }
    true
}

/// Which bytes [`escape_uri`] escapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// A whole path: space, `#`, `%`, `?`, control and non-ASCII bytes.
    Path,
    /// Arguments: as a path, and `&` and `+` too.
    Args,
    /// One component: everything but unreserved characters (RFC 3986 §2.3).
    Component,
}

/// Appends `path`, escaped.
pub fn escape_uri(path: &[u8], kind: Escape, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in path {
        let must = match kind {
            Escape::Path => matches!(byte, 0..=0x20 | b'#' | b'%' | b'?' | 0x7F..),
            Escape::Args => matches!(byte, 0..=0x20 | b'#' | b'%' | b'?' | b'&' | b'+' | 0x7F..),
            Escape::Component => !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')),
        };
        if must {
            out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        } else {
            out.push(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(raw: &str) -> Result<String, BadUri> {
        let mut out = Vec::new();
        normalize_uri(raw.as_bytes(), true, &mut out)?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }

    #[test]
    fn normalizes_as_nginx_does() {
        let cases = [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a//b", "/a/b"),
            ("//a", "/a"),
            ("/a/./b", "/a/b"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/../b", "/b"),
            ("/a/b/../../c", "/c"),
            ("/a%2Fb", "/a/b"),
            ("/a/%2e%2e/b", "/b"),
            ("/%41", "/A"),
            ("/a b", "/a b"),
            ("/...", "/..."),
            ("/.a", "/.a"),
            ("/a?b=/../c", "/a"),
            ("/a#f?b", "/a"),
            ("/%25", "/%"),
        ];
        for (raw, expected) in cases {
            assert_eq!(normal(raw).as_deref(), Ok(expected), "{raw}");
        }
    }

    #[test]
    fn refuses_what_cannot_be_meant() {
        for raw in ["/..", "/../a", "/a/../../b", "/%2e%2e/", "/%", "/%4", "/%zz", "/%00", "/a\0b"] {
            assert_eq!(normal(raw), Err(BadUri), "{raw}");
        }
    }

    #[test]
    fn splits_arguments_and_keeps_slashes_when_asked() {
        let mut out = Vec::new();
        assert_eq!(
            normalize_uri(b"/a?b=c#d", true, &mut out),
            Ok(Parsed { args: Some(3..6), complex: false })
        );
        assert_eq!(normalize_uri(b"/a?", true, &mut out), Ok(Parsed { args: Some(3..3), complex: false }));
        normalize_uri(b"/a//b", false, &mut out).unwrap();
        assert_eq!(out, b"/a//b");
    }

    #[test]
    fn escapes_and_comes_back() {
        let all: Vec<u8> = (1..=255).filter(|byte| !b"/.".contains(byte)).collect();
        let mut escaped = b"/".to_vec();
        escape_uri(&all, Escape::Component, &mut escaped);
        let mut out = Vec::new();
        normalize_uri(&escaped, true, &mut out).unwrap();
        assert_eq!(&out[1..], all);
        let mut text = Vec::new();
        escape_uri(b"/a b?c", Escape::Path, &mut text);
        assert_eq!(text, b"/a%20b%3Fc");
    }
}
