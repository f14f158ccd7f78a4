//! A subrequest: what is asked for, what becomes of the answer, and how many a request may make.
//!
//! Values; `http/nesting.rs` runs them. A subrequest has the head and the body of the request it belongs to, a URI of its
//! own, and shares its variables. Behaviour: nginx's subrequests (development guide, "Subrequests").

use std::cell::Cell;

use crate::http::request::Request;
use crate::http::request::error::Error;
use crate::log;

/// Maximum nesting of subrequests, as in nginx.
const DEPTH_MAX: usize = 50;

/// Maximum number of subrequests of a client's request in total, including nested ones. nginx allows 64535 at
/// a time; without such a bound a page that includes itself twice makes 2^50.
const COUNT_MAX: u32 = 4096;

/// A request to make, and what to do with its response.
///
/// Filters put it into their output as a [`Piece`]; `client.rs` runs it when its turn comes ([`run`]), or
/// starts it ahead of that ([`begin_others`]).
#[derive(Debug)]
pub struct Subrequest {
    /// Decoded and normalized path.
    pub uri: Vec<u8>,
    pub args: Vec<u8>,
    pub then: Then,
}

/// Counts the subrequests of a client's request; all requests inside it share this.
#[derive(Debug, Default)]
pub struct Tally {
    count: Cell<u32>,
    is_told: Cell<bool>,
}

/// Why a subrequest is refused: they are nested too deeply, or there are too many.
#[derive(Debug)]
pub struct Refusal {
    cause: String,
    /// Another one of the same client's request has been refused before, and logged.
    pub is_told: bool,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::ours(refusal.cause)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.cause)
    }
}

impl Subrequest {
    /// A subrequest for `request` to make. `levels`: how much deeper it is nested than the request's own
    /// body, in texts that were inserted in its place.
    ///
    /// Errors: it is nested too deeply, or the client's request has made too many.
    pub fn new(
        request: &mut Request,
        levels: usize,
        uri: Vec<u8>,
        args: Vec<u8>,
        then: Then,
    ) -> Result<Self, Refusal> {
        admit(request, levels, &uri)?;
        Ok(Self { uri, args, then })
    }

    /// More of the answer to `request`, from the content of its own location. It is not counted: such subrequests follow
    /// each other, each brings bytes, and a long answer has any number of them.
    pub fn more(request: &Request, swap: Swap) -> Self {
        Self { uri: request.uri.clone(), args: request.args.clone(), then: Then::More(swap) }
    }
}

/// Exchanges a state of a request and its subrequest: called when the subrequest begins, and again when it is over.
pub type Swap = fn(&mut Request, &mut Request);

/// Counts a subrequest for `uri`.
pub fn admit(request: &mut Request, levels: usize, uri: &[u8]) -> Result<(), Refusal> {
    let is_cycle = usize::from(request.depth) + levels > DEPTH_MAX;
    let tally = request.tally.get_or_insert_default();
    if !is_cycle && tally.count.get() < COUNT_MAX {
        tally.count.set(tally.count.get() + 1);
        return Ok(());
    }
    let uri = log::Text(uri);
    let cause = match is_cycle {
        true => format!("subrequests cycle while processing \"{uri}\""),
        false => format!("too many subrequests: \"{uri}\" is one more than the {COUNT_MAX} of a request"),
    };
    Err(Refusal { cause, is_told: tally.is_told.replace(true) })
}

/// What to do with a response.
#[derive(Debug)]
pub enum Then {
    /// Insert it at the position of the subrequest.
    Insert,
    /// The same, of more of the answer that it becomes a part of.
    More(Swap),
    /// Keep it, up to `max` bytes or as the subrequest's location allows (`subrequest_output_buffer_size`),
    /// and pass it on with its status.
    Keep { max: Option<usize>, done: Done },
}

/// Takes the status and the body of a kept response, and the name under which it was requested.
#[derive(Debug)]
pub struct Done {
    pub name: Vec<u8>,
    pub take: fn(&mut Request, &[u8], u16, Vec<u8>),
}
