//! A 304 to our own condition: what is stored is current again, with the fields that came with the 304.
//!
//! Touches: the stored file, through the blocking pool. If only its times change they are written in place; new fields
//! make a new file, unless that would copy more than [`COPIED_BYTES_MAX`] of a body.
//! Behaviour: nginx.org, `proxy_cache_revalidate`; RFC 9111 §4.3.4, §3.2, of which nginx updates the lifetime alone.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::rc::Rc;

use crate::cache::entry::{self, Meta};
use crate::http::request::Request;
use crate::http::response::file::Content;
use crate::http::temp_file::TempFile;
use crate::http::upstream::cache::course::Course;
use crate::http::upstream::cache::fill;
use crate::http::upstream::cache::state::Status;
use crate::http::upstream::cache::stored::Stored;
use crate::http::upstream::proxied::Head;
use crate::http::verdict::Reply;
use crate::log::{self, Cause};
use crate::proto::header::Id;
use crate::runtime::blocking::{self, Lane};
use crate::sys::{clock, file};

/// Of a longer body the fields stay as they are.
const COPIED_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Fields of a 304 that do not replace stored ones: they describe the 304 itself, or its body.
const KEPT: [Id; 4] = [Id::ContentLength, Id::ContentEncoding, Id::ContentType, Id::ContentRange];

/// The reply that serves what the upstream has confirmed.
pub async fn confirm(request: &mut Request, course: &Course, mut stale: Stored, answer: &Head) -> Reply {
    let now_ms = clock::wall_ms();
    let now_s = (now_ms / 1000).cast_signed();
    request.proxied.cache.get_or_insert_default().status = Some(Status::Revalidated);
    let Some(before) = stale.parse() else { return stale.into_reply(request, now_s) };
    let merged = merge(&before, answer);
    let head = merged.as_ref().map_or(&*before, |merged| &**merged);
    // The lifetime is that of the merged fields; the status of what is stored decides where they say nothing.
    if let Some(fresh) = course.meta(request, head, now_ms).filter(|_| !course.is_outdated()) {
        let meta = Meta {
            valid_s: fresh.valid_s,
            valid_ms: fresh.valid_ms,
            updating_s: fresh.updating_s,
            error_s: fresh.error_s,
            date: fresh.date,
            ..stale.meta.clone()
        };
        let written = match merged.filter(|_| stale.length() <= COPIED_BYTES_MAX) {
            Some(merged) => rewrite(request, course, &mut stale, meta, &merged).await,
            None => update(course, &mut stale, meta).await,
        };
        if let Err(why) = written {
            log::error!(request.error_log(), &*request, "{why}: the stored response is not updated");
        }
    }
    stale.into_reply(request, now_s)
}

/// The stored head with the fields of a 304 in place of its own; `None`: nothing but its `Date` would change.
fn merge(before: &Head, answer: &Head) -> Option<Rc<Head>> {
    let (old, new) = (before.buffer.data(), answer.buffer.data());
    let updates: Vec<_> = fill::stored_fields(answer)
        .filter(|field| !field.id.is_some_and(|id| KEPT.contains(&id)))
        .map(|field| (field.name(new), field.value(new)))
        .collect();
    let is_updated = |name: &[u8]| updates.iter().any(|(updated, _)| updated.eq_ignore_ascii_case(name));
    let kept = before.head.fields.pairs(old).filter(|(name, _)| !is_updated(name));
    let is_same = updates.iter().all(|(name, value)| {
        let mut same = before.head.fields.pairs(old).filter(|(own, _)| own.eq_ignore_ascii_case(name));
        name.eq_ignore_ascii_case(b"date") || same.any(|(_, own)| own == *value)
    });
    if is_same {
        return None;
    }
    let reason = old.get(before.head.reason.clone()).unwrap_or(b"");
    let text = fill::head_of(before.head.status, reason, kept.chain(updates.iter().copied()));
    super::stored::parse_head(&text)
}

/// Writes new times into the file.
async fn update(course: &Course, stale: &mut Stored, meta: Meta) -> Result<(), String> {
    let fixed = entry::encode_fixed(&meta, &course.key);
    let before = entry::encode_fixed(&stale.meta, &course.key);
    stale.meta = meta;
    let path = stale.path.clone();
    let write = move || -> io::Result<()> {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(&path);
        let opened = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()), // removed meanwhile
            opened => opened?,
        };
        let mut now = before;
        opened.read_exact_at(&mut now, 0)?;
        // The name may lead to a newer file by now, which must not get these times.
        if now == before { opened.write_all_at(&fixed, 0) } else { Ok(()) }
    };
    let name = stale.path.clone();
    blocking::run(Lane::Files, write)
        .await
        .map_err(|error| format!("write() \"{}\" failed {}", name.display(), Cause(&error)))
}

/// Writes a new file with another head and the same body.
async fn rewrite(
    request: &Request,
    course: &Course,
    stale: &mut Stored,
    meta: Meta,
    head: &Head,
) -> Result<(), String> {
    let Some(mut bytes) = entry::encode(&meta, &course.key, head.buffer.data()) else {
        return update(course, stale, meta).await;
    };
    let (start, length) = (u64::from(stale.meta.body_start), stale.length());
    let source = stale.content.clone();
    let copy = move || -> io::Result<Vec<u8>> {
        let had = bytes.len();
        match source {
            Content::Memory(all) => bytes.extend_from_slice(all.get(start as usize..).unwrap_or(b"")),
            Content::File(file) => {
                bytes.resize(had + usize::try_from(length).map_err(io::Error::other)?, 0);
                let count = file::read_waiting(&file, &mut bytes[had..], start)?;
                bytes.truncate(had + count);
            }
        }
        let is_whole = (bytes.len() - had) as u64 == length;
        if is_whole { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    };
    let bytes = blocking::run(Lane::Files, copy)
        .await
        .map_err(|error| format!("read() \"{}\" failed {}", stale.path.display(), Cause(&error)))?;
    let target = stale.path.clone();
    let place = fill::place(course.zone, &course.digest, request.passes().temp_path());
    let (_, on_disk) = TempFile::finish(None, place, bytes, target.clone()).await?;
    if course.enter(request, on_disk).await
        && let Ok(stored) = Stored::open(target, &course.key).await
    {
        *stale = stored;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::upstream::cache::stored::parse_head;

    /// The stored head after a 304 with these fields, which `|` separates; `None`: it stays as it is.
    fn merged(answer: &str) -> Option<String> {
        let head = |text: &str| parse_head(format!("{}\r\n\r\n", text.replace('|', "\r\n")).as_bytes());
        let before =
            head("HTTP/1.1 200 OK|Date: a|ETag: \"e\"|X-A: 1|X-A: 2|Content-Length: 5").expect("a head");
        let answer = head(&format!("HTTP/1.1 304 Not Modified{answer}")).expect("a head");
        let merged = merge(&before, &answer)?;
        Some(String::from_utf8_lossy(merged.buffer.data()).trim_end().replace("\r\n", "|"))
    }

    #[test]
    fn a_confirmation_replaces_the_fields_that_would_be_stored() {
        for same in [
            "",
            "|Date: b",
            "|ETag: \"e\"|X-A: 1|X-A: 2",
            "|Content-Length: 0|Content-Type: text/x|Content-Encoding: br|Content-Range: x",
            "|Connection: x-b, close|X-B: 1|Keep-Alive: 5|Transfer-Encoding: chunked|Upgrade: h2c|Trailer: x|TE: x",
            "|Status: 304 Not Modified",
        ] {
            assert_eq!(merged(same), None, "{same}");
        }
        const KEPT: &str = "HTTP/1.1 200 OK|Date: a|ETag: \"e\"";
        assert_eq!(
            merged("|x-a: 3|Status: 304|Content-Length: 0").as_deref(),
            Some(&*format!("{KEPT}|Content-Length: 5|x-a: 3"))
        );
        assert_eq!(
            merged("|X-B: |Set-Cookie: a=b").as_deref(),
            Some(&*format!("{KEPT}|X-A: 1|X-A: 2|Content-Length: 5|X-B: |Set-Cookie: a=b"))
        );
    }
}
