//! Decodes gzip for clients that do not accept it.
//!
//! A body filter that runs before all filters that read or change a body's text. It holds one piece of the
//! input and passes its output on in pieces, so memory does not grow with the compression ratio.
//! Behaviour: nginx.org, ngx_http_gunzip_module.

use crate::base::gzip::Decoder;
use crate::config::directive::{Accepted, accepted, flag};
use crate::config::{Arity, Context, Setting, settings};
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::request::error::Error;
use crate::http::response::coding::{self, Name};
use crate::http::response::filter::{BodyFilter, Flow, Piece, Signal};
use crate::http::scope::Variable;
use crate::net::budget::Share;
use crate::proto::header::Id;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        on: Setting<bool> = false,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    flag("gunzip", Context::ANY, |c| &mut c.on, "Decompresses responses that arrive with gzip for clients that do not accept it."),
    accepted("gunzip_buffers", Context::ANY, Arity::exactly(2), Accepted::Buffers, "Decompressed data is sent at once.").default("32 4k"),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        self.on.get()
    }
}

/// Prepares a response that this client could not read. A subrequest's part of a page is always decoded.
pub fn head(request: &mut Request) {
    if !request.location.confs.gunzip.on.get() {
        return;
    }
    let coding = request.response.headers.get(Id::ContentEncoding);
    // a part of an encoded body cannot be decoded
    if request.response.status == 206 || !coding.is_some_and(|coding| coding.eq_ignore_ascii_case(b"gzip")) {
        return;
    }
    coding::vary(request);
    if coding::liking(request, Name::Gzip) > 0 {
        return;
    }
    request.response.headers.remove(Id::ContentEncoding);
    request.response.body_changes();
    let mut gunzip = Gunzip::default();
    gunzip.share.add(STATE_BYTES);
    request.filters.get_or_insert_default().add(gunzip);
}

/// Memory for decoding, in addition to its output space. It is always granted: without decoding the client
/// could not read the response.
const STATE_BYTES: usize = 64 * 1024 + ROOM_BYTES;

/// Output is passed on in pieces of this size.
const ROOM_BYTES: usize = 32 * 1024;

#[derive(Debug, Default)]
struct Gunzip {
    decoder: Decoder,
    /// Input that waits until the previous piece has been passed on.
    input: Vec<u8>,
    share: Share,
}

impl BodyFilter for Gunzip {
    fn push(
        &mut self,
        _: &mut Request,
        data: &[u8],
        signal: Signal,
        out: &mut Vec<Piece>,
    ) -> Result<Flow, Error> {
        let held = std::mem::take(&mut self.input);
        let joined: Vec<u8>;
        let input = match (held.is_empty(), data.is_empty()) {
            (true, _) => data,
            (false, true) => &held,
            (false, false) => {
                joined = [held, data.to_vec()].concat();
                &joined
            }
        };
        let mut bytes = Vec::new();
        let progress = self.decoder.decode(input, ROOM_BYTES, &mut bytes);
        let progress = progress.map_err(|broken| Error::ours(format!("inflate() failed: {broken}")))?;
        if !bytes.is_empty() {
            out.push(Piece::Bytes(bytes));
        }
        if progress.is_full {
            self.input = input[progress.used..].to_vec();
            return Ok(Flow::Wait);
        }
        if signal == Signal::End && !self.decoder.is_between() {
            return Err(Error::ours("inflate() failed: the response ended early"));
        }
        Ok(Flow::Done)
    }
}
