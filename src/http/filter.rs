//! Body filters: what changes a response's body on its way out.
//!
//! A module's part in the head (`modules::HEAD`) puts a filter into `request.filters`; bodies without one make no
//! call. Filters get bytes and give pieces, one after the other; a piece may be a subrequest, whose answer takes
//! its place. What changes the response as a whole, the answers of subrequests included, is a [`Coding`] in
//! `request.coding` instead.

use std::fmt;

use crate::http::error::Error;
use crate::http::request::Request;
use crate::http::subrequest::Subrequest;

/// A part of a body.
#[derive(Debug)]
pub enum Piece {
    Bytes(Vec<u8>),
    /// Its answer stands here.
    Subrequest(Subrequest),
}

/// What follows the bytes that are pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// More of the body, soon.
    More,
    /// The source pauses: what can leave must leave now.
    Flush,
    /// Nothing: the body is complete.
    End,
}

/// A coding of the response as a whole: gzip and the like.
pub trait Coding: fmt::Debug {
    /// Takes the next bytes and appends what is to be sent of them.
    ///
    /// Errors: the response cannot go on and is cut.
    fn push(&mut self, data: &[u8], signal: Signal, out: &mut Vec<u8>) -> Result<(), Error>;
}

/// Whether a filter has done with what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Done,
    /// It goes on when its pieces are carried out: called again without data.
    Wait,
}

/// One change of a body.
pub trait BodyFilter: fmt::Debug {
    /// Takes the next bytes of the body and appends what becomes of them.
    ///
    /// Errors: the response cannot go on and is cut.
    fn push(
        &mut self,
        request: &mut Request,
        data: &[u8],
        signal: Signal,
        out: &mut Vec<Piece>,
    ) -> Result<Flow, Error>;
}

#[derive(Debug)]
struct Stage {
    filter: Box<dyn BodyFilter>,
    /// It was told that its input ends.
    is_ended: bool,
    waits: bool,
    /// What came while it waited.
    held: Vec<Piece>,
}

/// The filters of one response, in the order of running.
#[derive(Debug, Default)]
pub struct Filters(Vec<Stage>);

impl Filters {
    pub fn add(&mut self, filter: impl BodyFilter + 'static) {
        self.0.push(Stage { filter: Box::new(filter), is_ended: false, waits: false, held: Vec::new() });
    }

    /// A filter waits until the pieces it gave are carried out; [`Filters::push`] without data lets it go on.
    pub fn waits(&self) -> bool {
        self.0.iter().any(|stage| stage.waits)
    }

    /// Runs bytes through all filters.
    pub fn push(&mut self, request: &mut Request, data: &[u8], signal: Signal) -> Result<Vec<Piece>, Error> {
        let mut pieces = vec![Piece::Bytes(data.to_vec())];
        let mut is_end = signal == Signal::End;
        for Stage { filter, is_ended, waits, held } in &mut self.0 {
            let was_waiting = std::mem::take(waits);
            let mut next = Vec::new();
            for piece in std::mem::take(held).into_iter().chain(pieces) {
                match piece {
                    later if *waits => held.push(later),
                    Piece::Bytes(bytes) if bytes.is_empty() => {}
                    Piece::Bytes(bytes) => {
                        *waits = filter.push(request, &bytes, Signal::More, &mut next)? == Flow::Wait;
                    }
                    passed @ Piece::Subrequest(_) => next.push(passed),
                }
            }
            *is_ended |= is_end;
            let last = match signal {
                _ if *is_ended => Some(Signal::End),
                Signal::Flush => Some(Signal::Flush),
                _ => was_waiting.then_some(Signal::More),
            };
            if let Some(last) = last.filter(|_| !*waits) {
                *waits = filter.push(request, b"", last, &mut next)? == Flow::Wait;
            }
            is_end = *is_ended && !*waits && held.is_empty();
            pieces = next;
        }
        Ok(pieces)
    }
}
