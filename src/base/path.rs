//! Paths of URIs: decoding to the form that locations are compared with, escaping back, and escaping text for
//! HTML.
//!
//! Touches: nothing. Behaviour: nginx's `$uri` (percent-decoding, `merge_slashes`, dot segments); RFC 3986 §5.2.4.

use std::ops::Range;

use crate::base::number::hex_digit;

/// Facts found while normalizing a URI, in addition to the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Range of the arguments in the raw URI; `None` without a `?`.
    pub args: Option<Range<usize>>,
    /// The normalized path differs from the raw one.
    pub complex: bool,
}

/// The URI has no path, contains a bad `%XX` or a NUL, or leaves the root by `..`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadUri;

/// Selects the bytes that are escaped as `%XX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// In a path: bytes that would end it, and bytes that a URI must not contain.
    Uri,
    /// In an argument: also `&` and `+`.
    Args,
    /// Everything except letters, digits, `-`, `.`, `_`, `~`.
    UriComponent,
    /// In a link inside an HTML attribute.
    Html,
}

/// True if a path, decoded or not, has a segment `..`.
pub fn climbs(path: &[u8]) -> bool {
    unescaped(path).split(|&byte| byte == b'/').any(|segment| segment == b"..")
}

/// Decodes the escapes of a path, well-formed or not.
fn unescaped(path: &[u8]) -> Vec<u8> {
    let digit = |index: usize| char::from(*path.get(index)?).to_digit(16);
    let mut out = Vec::with_capacity(path.len());
    let mut at = 0;
    while at < path.len() {
        match (path[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// Decodes the path of `raw`, which must begin with `/`, into `out`, which is cleared first:
/// percent-decoding, dot segments, repeated slashes if `merge_slashes`.
pub fn normalize_uri(raw: &[u8], merge_slashes: bool, out: &mut Vec<u8>) -> Result<Parsed, BadUri> {
    out.clear();
    if raw.first() != Some(&b'/') {
        return Err(BadUri);
    }
    if out.capacity() == 0 {
        *out = Vec::with_capacity(raw.len()); // half of the instructions of `reserve`
    }
    let plain_length = plain_length(raw);
    match raw.get(plain_length) {
        None => {
            out.extend_from_slice(raw);
            return Ok(Parsed { args: None, complex: false });
        }
        Some(b'?' | b'#') => out.extend_from_slice(&raw[..plain_length]),
        Some(_) => {}
    }
    let path_end = raw.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(raw.len());
    let args = (raw.get(path_end) == Some(&b'?')).then(|| {
        let start = path_end + 1;
        start..memchr::memchr(b'#', &raw[start..]).map_or(raw.len(), |at| start + at)
    });
    let path = &raw[..path_end];
    if plain_length < path_end {
        decode(path, merge_slashes, out)?;
    }
    let complex = out != path;
    Ok(Parsed { args, complex })
}

/// How long the part at the beginning is that is normalized as it stands, and holds no end of the path.
fn plain_length(raw: &[u8]) -> usize {
    let mut is_after_slash = false;
    let needs_work = |byte: &u8| {
        let begins_segment = std::mem::replace(&mut is_after_slash, *byte == b'/');
        matches!(byte, b'%' | b'?' | b'#' | 0) || begins_segment && matches!(byte, b'/' | b'.')
    };
    raw.iter().position(needs_work).unwrap_or(raw.len())
}

/// Appends the path, which begins with `/`, decoded and without dot segments.
fn decode(path: &[u8], merge_slashes: bool, out: &mut Vec<u8>) -> Result<(), BadUri> {
    out.reserve(path.len());
    let mut segment_start = 0;
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        let byte = if byte == b'%' { decoded(path.get(at + 1..at + 3).ok_or(BadUri)?)? } else { byte };
        at += if path[at] == b'%' { 3 } else { 1 };
        match byte {
            0 => return Err(BadUri),
            b'/' => {
                let dropped = close_segment(out, segment_start)?;
                let merged = merge_slashes && out.last() == Some(&b'/');
                if !dropped && !merged {
                    out.push(b'/');
                }
                segment_start = out.len();
            }
            byte => out.push(byte),
        }
    }
    close_segment(out, segment_start)?;
    Ok(())
}

/// Appends the escaped `path`.
pub fn escape_uri(path: &[u8], kind: Escape, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.reserve(path.len());
    for &byte in path {
        if is_escaped(byte, kind) {
            out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        } else {
            out.push(byte);
        }
    }
}

fn is_escaped(byte: u8, kind: Escape) -> bool {
    if byte <= b' ' || byte >= 0x7f {
        return true;
    }
    match kind {
        Escape::Uri => {
            matches!(byte, b'"' | b'#' | b'%' | b'<' | b'>' | b'?' | b'\\' | b'^' | b'`' | b'{'..=b'}')
        }
        Escape::Args => {
            matches!(
                byte,
                b'"' | b'#' | b'%' | b'&' | b'+' | b'<' | b'>' | b'?' | b'\\' | b'^' | b'`' | b'{'..=b'}'
            )
        }
        Escape::UriComponent => !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')),
        Escape::Html => {
            matches!(
                byte,
                b'"' | b'#' | b'%' | b'\'' | b'<' | b'>' | b'?' | b'\\' | b'^' | b'`' | b'{'..=b'}'
            )
        }
    }
}

fn decoded(digits: &[u8]) -> Result<u8, BadUri> {
    match digits {
        [high, low] => Ok(hex_digit(*high).ok_or(BadUri)? << 4 | hex_digit(*low).ok_or(BadUri)?),
        _ => Err(BadUri),
    }
}

/// Resolves the segment that ends here; true if it was a dot segment and has been removed.
fn close_segment(out: &mut Vec<u8>, start: usize) -> Result<bool, BadUri> {
    match &out[start..] {
        b"." => out.truncate(start),
        b".." => {
            let parent = out[..start].strip_suffix(b"/").ok_or(BadUri)?;
            let slash = parent.iter().rposition(|byte| *byte == b'/').ok_or(BadUri)?;
            out.truncate(slash + 1);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Counts the ".." segments of a path.
pub fn steps_up(path: &[u8]) -> usize {
    path.split(|byte| *byte == b'/').filter(|segment| *segment == b"..").count()
}

/// Appends `text`, escaped for an HTML page or attribute.
pub fn escape_html(text: &[u8], out: &mut Vec<u8>) {
    for byte in text {
        match byte {
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            b'&' => out.extend_from_slice(b"&amp;"),
            b'"' => out.extend_from_slice(b"&quot;"),
            byte => out.push(*byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalized(raw: &str) -> Result<String, BadUri> {
        let mut out = b"old".to_vec();
        normalize_uri(raw.as_bytes(), true, &mut out).map(|_| String::from_utf8_lossy(&out).into_owned())
    }

    #[test]
    fn resolves_dots_slashes_and_percents() {
        for (raw, path) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a//b///c", "/a/b/c"),
            ("/a/./b/.", "/a/b/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../c", "/a/c"),
            ("/a/%2e%2e/c", "/c"),
            ("/%61%2Fb", "/a/b"),
            ("/a%3fb?c", "/a?b"),
            ("/a%25%23b#c", "/a%#b"),
            ("/...", "/..."),
            ("/.a/..b", "/.a/..b"),
        ] {
            assert_eq!(normalized(raw).as_deref(), Ok(path), "{raw}");
        }
    }

    #[test]
    fn refuses_what_leaves_the_root_or_cannot_be_decoded() {
        for raw in ["", "a", "*", "/..", "/a/../..", "/%2e%2e/a", "/%", "/%4", "/%zz", "/%00", "/a/%+1"] {
            assert_eq!(normalized(raw), Err(BadUri), "{raw}");
        }
    }

    #[test]
    fn finds_the_arguments() {
        let mut out = Vec::new();
        for (raw, args, complex) in [
            ("/a?b=c", Some(3..6), false),
            ("/a?b?c#d", Some(3..6), false),
            ("/a?", Some(3..3), false),
            ("/a#b?c", None, false),
            ("//a", None, true),
        ] {
            assert_eq!(normalize_uri(raw.as_bytes(), true, &mut out), Ok(Parsed { args, complex }), "{raw}");
        }
    }

    #[test]
    fn slashes_stay_when_asked() {
        let mut out = Vec::new();
        assert_eq!(
            normalize_uri(b"//a/.//b/..//c", false, &mut out),
            Ok(Parsed { args: None, complex: true })
        );
        assert_eq!(out, b"//a///c");
    }

    #[test]
    fn escaped_paths_decode_to_themselves() {
        let path: Vec<u8> = [b'/'].into_iter().chain(1..=255u8).filter(|byte| *byte != b'.').collect();
        for kind in [Escape::Uri, Escape::UriComponent] {
            let (mut escaped, mut decoded) = (Vec::new(), Vec::new());
            escape_uri(&path[1..], kind, &mut escaped);
            escaped.insert(0, b'/');
            assert!(normalize_uri(&escaped, false, &mut decoded).is_ok());
            assert_eq!(decoded, path);
        }
        let mut out = Vec::new();
        escape_uri(b"a b&c+d", Escape::Args, &mut out);
        assert_eq!(out, b"a%20b%26c%2Bd");
    }
}
