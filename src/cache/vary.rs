//! Variants of a stored response: the fields named by `Vary`, and the request's values of them as one digest.
//!
//! Touches: nothing. Behaviour: nginx, so that its files are found; RFC 9111 §4.1.

use md5::{Digest, Md5};

use crate::cache::entry::TEXT_BYTES_MAX;

/// Why a response cannot be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `*` is in the list: the response depends on more than the request.
    Anything,
    /// The list is longer than [`TEXT_BYTES_MAX`].
    TooLong,
}

/// Fields whose values are lists in which spaces and empty members mean nothing.
const LISTS: [&[u8]; 3] = [b"accept-charset", b"accept-encoding", b"accept-language"];

/// The values of a response's `Vary` fields as they are stored: in one list; empty if the response does not vary.
///
/// Errors: the response must not be stored. nginx stores `*` among other names.
pub fn join<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u8>, Refusal> {
    let mut list = Vec::new();
    for (index, line) in lines.enumerate() {
        if members(line).any(|name| name == b"*") {
            return Err(Refusal::Anything);
        }
        if index > 0 {
            list.extend_from_slice(b", ");
        }
        if list.len() + line.len() > TEXT_BYTES_MAX {
            return Err(Refusal::TooLong);
        }
        list.extend_from_slice(line);
    }
    Ok(list)
}

/// The digest of a variant: MD5 over the digest of the key, and over the name and the values of each field in the list.
/// It is the name of the variant's file.
///
/// `values` calls its second argument with the value of each of the request's fields of that name, which is in lower
/// case, in their order.
pub fn variant(
    key_digest: &[u8; 16],
    list: &[u8],
    mut values: impl FnMut(&[u8], &mut dyn FnMut(&[u8])),
) -> [u8; 16] {
    let mut md5 = Md5::new();
    md5.update(key_digest);
    let list = list.to_ascii_lowercase();
    for name in members(&list) {
        md5.update(name);
        md5.update(b":");
        let is_list = LISTS.contains(&name);
        let mut is_first = true;
        let mut add = |value: &[u8]| {
            if !std::mem::take(&mut is_first) {
                md5.update(b",");
            }
            md5.update(value);
        };
        values(name, &mut |value| match is_list {
            true => members(value).for_each(&mut add),
            false => add(value),
        });
        md5.update(b"\r\n");
    }
    md5.finalize().into()
}

/// The members of a list, which commas and white space separate. For nginx a tab is a part of a name.
fn members(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| matches!(byte, b',' | b' ' | b'\t')).filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(list: &str, request: &[(&str, &str)]) -> [u8; 16] {
        variant(&[7; 16], list.as_bytes(), |name, add| {
            let same = request.iter().filter(|(own, _)| own.as_bytes().eq_ignore_ascii_case(name));
            same.for_each(|(_, value)| add(value.as_bytes()));
        })
    }

    fn md5(text: &str) -> [u8; 16] {
        Md5::new().chain_update([7; 16]).chain_update(text).finalize().into()
    }

    #[test]
    fn digests_are_those_of_nginx() {
        type Request<'a> = &'a [(&'a str, &'a str)];
        let cases: [(&str, Request<'_>, &str); 10] = [
            ("X-A,\tX-B\t", &[("x-a", "1\t2"), ("x-b", "3")], "x-a:1\t2\r\nx-b:3\r\n"),
            ("Accept-Encoding", &[("accept-encoding", "gzip, br")], "accept-encoding:gzip,br\r\n"),
            ("ACCEPT-encoding", &[("accept-encoding", " ,gzip  ,, br,")], "accept-encoding:gzip,br\r\n"),
            ("Accept-Encoding", &[], "accept-encoding:\r\n"),
            (
                "accept-language",
                &[("Accept-Language", "de,"), ("Accept-Language", "en")],
                "accept-language:de,en\r\n",
            ),
            ("X-A", &[("x-a", "1, 2"), ("x-b", "no"), ("X-A", "3")], "x-a:1, 2,3\r\n"),
            ("X-A", &[("x-a", ""), ("x-a", "")], "x-a:,\r\n"),
            ("x-b,X-A", &[("x-a", "1"), ("x-b", "2")], "x-b:2\r\nx-a:1\r\n"),
            (", x-a ,,", &[("x-a", "1")], "x-a:1\r\n"),
            ("", &[("x-a", "1")], ""),
        ];
        for (list, request, text) in cases {
            assert_eq!(of(list, request), md5(text), "{list} {request:?}");
        }
    }

    #[test]
    fn lines_form_one_list_unless_they_cannot_be_stored() {
        let join = |lines: &[&str]| super::join(lines.iter().map(|line| line.as_bytes()));
        assert_eq!(join(&[]), Ok(vec![]));
        assert_eq!(join(&[""]), Ok(vec![]));
        assert_eq!(join(&["Accept", "x-a,x-b"]), Ok(b"Accept, x-a,x-b".to_vec()));
        for any in [&["*"][..], &["Accept, *"], &["Accept", "*,x"], &["x,*"], &["x", " * "], &["x,\t*\t"]] {
            assert_eq!(join(any), Err(Refusal::Anything), "{any:?}");
        }
        assert_eq!(join(&["x-*"]), Ok(b"x-*".to_vec()), "part of a name");
        let (fits, half) = ("x".repeat(TEXT_BYTES_MAX), "x".repeat(TEXT_BYTES_MAX / 2));
        assert_eq!(join(&[&fits]).map(|list| list.len()), Ok(TEXT_BYTES_MAX));
        assert_eq!(join(&[&half, &half]), Err(Refusal::TooLong), "the separators count");
        assert_eq!(join(&[&fits, ""]).map(|list| list.len()), Err(Refusal::TooLong));
    }
}
