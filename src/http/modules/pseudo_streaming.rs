//! Films from a place on, for players that ask by an argument of the URI: `flv` and `mp4`.
//!
//! Runs in the content phase, in front of all other files. Touches: the file system; `mp4` parses on the blocking pool.
//! Behaviour: nginx.org, ngx_http_flv_module, ngx_http_mp4_module.

use crate::config::directive::custom;
use crate::config::inherit::own;
use crate::config::{Arity, Context, Diagnostic, Node, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::open_file_cache::{self, Entry, Found};
use crate::http::modules::{BlockConf, Directive, mp4, static_file};
use crate::http::request::Request;
use crate::http::response::file::Source;
use crate::http::scope::Variable;
use crate::http::verdict::{Reply, Verdict};
use crate::proto::uri;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        /// The last directive in the block decides.
        format: Option<Format> => own,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Flv,
    Mp4,
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("flv", Context::LOCATION, Arity::exactly(0), |c: &mut Conf, cx, node| set(c, Format::Flv, cx, node),
        "Sends FLV files from the byte on that the argument start gives, after a header."),
    custom("mp4", Context::LOCATION, Arity::exactly(0), |c: &mut Conf, cx, node| set(c, Format::Mp4, cx, node),
        "Sends MP4 files from the second on that the argument start gives, up to that of end; the index of the file is written anew for that part."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    const INHERITS: bool = false; // it is the content of its own block only
    const INHERITS_NAMELESS: bool = true;

    fn acts(&self) -> bool {
        self.format.is_some()
    }
}

fn set(conf: &mut Conf, format: Format, _: &mut Cx, _: &Node) -> Result<(), Diagnostic> {
    conf.format = Some(format);
    Ok(())
}

/// Responds with the file, or a part of it.
pub fn content(request: &mut Request) -> Verdict {
    if !request.method.is_get_or_head() {
        return Verdict::Done(Reply::Status(405));
    }
    if request.uri.last() == Some(&b'/') {
        return Verdict::Next;
    }
    let path = match static_file::path(request) {
        Ok(path) => path,
        Err(status) => return Verdict::Done(Reply::Status(status)),
    };
    match open_file_cache::open(request, &path) {
        Ok(found) => opened(request, &path, found),
        Err(lookup) => lookup.then(move |request, found| opened(request, &path, found)),
    }
}

fn opened(request: &mut Request, path: &[u8], found: open_file_cache::Outcome) -> Verdict {
    match found {
        Ok(Found::File(entry)) => match request.location.confs.pseudo_streaming.format {
            Some(Format::Mp4) => mp4::answer(request, path, &entry),
            _ => Verdict::Done(flv(request, &entry)),
        },
        // `static_file` redirects to a directory, and reports what is no file
        Ok(Found::Directory | Found::Other) => Verdict::Next,
        Err(errno) => Verdict::Done(Reply::Status(static_file::failed(request, path, errno))),
    }
}

/// The header of a film: version 1, with video and sound, 9 bytes long; the tag before the first one has none.
const FLV_HEADER: [u8; 13] = *b"FLV\x01\x05\0\0\0\x09\0\0\0\0";

/// The response with a film from a byte on that it has. Any other start means all of it.
fn flv(request: &mut Request, entry: &Entry) -> Reply {
    let start = match uri::argument(&request.args, b"start") {
        Some(text) => {
            let text =
                std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            text.and_then(|text| text.parse().ok()).filter(|start| *start < entry.size()).unwrap_or(0)
        }
        None => 0,
    };
    let response = match static_file::head(request, entry) {
        Ok(response) => response,
        Err(reply) => return reply,
    };
    if start == 0 {
        return static_file::reply(request, entry.content.clone().into(), entry.size(), response);
    }
    let source = Source::joined(FLV_HEADER.to_vec(), entry.content.clone(), &(start..entry.size()));
    static_file::reply(request, source, FLV_HEADER.len() as u64 + entry.size() - start, response)
}
