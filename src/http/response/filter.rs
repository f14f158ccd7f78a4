//! Body filters: what changes a response's body on its way out.
//!
//! A module's part in the head (`modules::HEAD`) puts a filter into `request.filters`; bodies without one make no
//! call. Filters get bytes and give pieces, one after the other; a piece may be a subrequest, whose answer takes
//! its place. What changes the response as a whole, the answers of subrequests included, is a [`Coding`] in
//! `request.coding` instead.

use std::fmt;
use std::pin::Pin;

use crate::http::request::Request;
use crate::http::request::error::Error;
use crate::http::request::subrequest::Subrequest;

/// A part of a body.
#[derive(Debug)]
pub enum Piece {
    Bytes(Vec<u8>),
    /// Its answer stands here.
    Subrequest(Subrequest),
}

impl Piece {
    /// Bytes that are here already.
    pub fn byte_count(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Subrequest(_) => 0,
        }
    }
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

    /// Bytes that should be pushed at a time, so that the others need not wait.
    fn step_bytes(&self) -> usize;

    /// What a push of so many bytes costs (`runtime::worked`), with what it would complete.
    fn work(&self, bytes: usize, signal: Signal) -> u32;

    /// Does on another thread what [`Coding::push`] does: for steps too long for the worker's loop.
    fn push_elsewhere<'a>(
        &'a mut self,
        data: &'a [u8],
        signal: Signal,
        out: &'a mut Vec<u8>,
    ) -> Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>;
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

/// Bytes that one filter searches and changes in a microsecond, where it finds much.
const FILTERED_BYTES: usize = 64;

#[derive(Debug)]
struct Stage {
    filter: Box<dyn BodyFilter>,
    /// Its input has ended.
    is_ended: bool,
    /// It was told so, and has nothing left.
    is_over: bool,
    waits: bool,
    /// What came while it waited.
    held: Vec<Piece>,
}

/// The filters of one response, in the order of running.
#[derive(Debug, Default)]
pub struct Filters(Vec<Stage>);

impl Filters {
    pub fn add(&mut self, filter: impl BodyFilter + 'static) {
        self.0.push(Stage {
            filter: Box::new(filter),
            is_ended: false,
            is_over: false,
            waits: false,
            held: Vec::new(),
        });
    }

    /// A filter waits until the pieces it gave are carried out; [`Filters::push`] without data lets it go on.
    pub fn waits(&self) -> bool {
        self.0.iter().any(|stage| stage.waits)
    }

    /// What it costs to run so many bytes through all filters (`runtime::worked`).
    pub fn work(&self, bytes: usize) -> u32 {
        (self.0.len() * (1 + bytes / FILTERED_BYTES)) as u32
    }

    /// Runs bytes through all filters.
    pub fn push(&mut self, request: &mut Request, data: &[u8], signal: Signal) -> Result<Vec<Piece>, Error> {
        let mut pieces = vec![Piece::Bytes(data.to_vec())];
        let mut is_end = signal == Signal::End;
        for stage in &mut self.0 {
            stage.is_ended |= is_end;
            pieces = stage.push(request, pieces, signal)?;
            is_end = stage.is_over;
        }
        Ok(pieces)
    }
}

impl Stage {
    fn push(
        &mut self,
        request: &mut Request,
        given: Vec<Piece>,
        signal: Signal,
    ) -> Result<Vec<Piece>, Error> {
        let was_waiting = std::mem::take(&mut self.waits);
        let mut pieces = std::mem::take(&mut self.held);
        pieces.extend(given);
        let last_bytes =
            pieces.iter().rposition(|piece| matches!(piece, Piece::Bytes(bytes) if !bytes.is_empty()));
        let mut out = Vec::new();
        for (index, piece) in pieces.into_iter().enumerate() {
            if let Piece::Subrequest(_) = piece
                && !self.waits
            {
                // what the filter holds back stands in front of the answer that comes here
                let is_last = self.is_ended && last_bytes.is_none_or(|last| last < index);
                self.tell(request, if is_last { Signal::End } else { Signal::Flush }, &mut out)?;
            }
            match piece {
                later if self.waits => self.held.push(later),
                Piece::Bytes(bytes) if bytes.is_empty() => {}
                Piece::Bytes(bytes) => {
                    self.waits = self.filter.push(request, &bytes, Signal::More, &mut out)? == Flow::Wait;
                }
                passed @ Piece::Subrequest(_) => out.push(passed),
            }
        }
        if self.waits {
            return Ok(out);
        }
        match signal {
            _ if self.is_ended => self.tell(request, Signal::End, &mut out)?,
            Signal::Flush => self.tell(request, Signal::Flush, &mut out)?,
            _ if was_waiting => self.tell(request, Signal::More, &mut out)?,
            _ => {}
        }
        Ok(out)
    }

    /// Pushes no bytes, but what follows.
    fn tell(&mut self, request: &mut Request, signal: Signal, out: &mut Vec<Piece>) -> Result<(), Error> {
        if !self.is_over {
            self.waits = self.filter.push(request, b"", signal, out)? == Flow::Wait;
            self.is_over = signal == Signal::End && !self.waits;
        }
        Ok(())
    }
}
