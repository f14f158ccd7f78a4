//! Body filters: they change the body of a response on its way out.
//!
//! A module's part in the head (`modules::HEAD_STEPS`) puts a filter into `request.filters`; bodies without one make no
//! call. Filters get bytes and give pieces, one after the other; a piece may be a subrequest, whose answer takes
//! its place. What changes the response as a whole, the answers of subrequests included, is a coding
//! (`coded.rs`) instead.

use std::fmt;

use crate::http::request::Request;
use crate::http::request::error::Error;
use crate::http::request::subrequest::Subrequest;
use crate::http::response::whole::Whole;

/// A part of a body.
#[derive(Debug)]
pub enum Piece {
    Bytes(Vec<u8>),
    /// A subrequest whose response is inserted here.
    Subrequest(Subrequest),
}

impl Piece {
    /// The number of bytes that it already has.
    pub fn byte_count(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Subrequest(_) => 0,
        }
    }
}

/// What follows the pushed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// More of the body, soon.
    More,
    /// A pause of the source: everything that can be sent must be sent now.
    Flush,
    /// Nothing: the body is complete.
    End,
}

/// Whether a filter has finished with its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Done,
    /// It continues after its pieces have been processed, when it is called again without data.
    Wait,
}

/// A change to a body.
///
/// One filter belongs to one response. It is called on the worker's loop with the bytes in order, never
/// waits, and must bound what it holds back. [`Signal::End`] tells it that the input has ended.
pub trait BodyFilter: fmt::Debug {
    /// Takes the next bytes of the body and appends the resulting pieces.
    ///
    /// Errors: the response cannot continue and is cut off.
    fn push(
        &mut self,
        request: &mut Request,
        data: &[u8],
        signal: Signal,
        out: &mut Vec<Piece>,
    ) -> Result<Flow, Error>;
}

/// Bytes that one filter searches and changes in a microsecond if it finds many matches.
const FILTERED_BYTES: usize = 64;

#[derive(Debug)]
struct Stage {
    filter: Box<dyn BodyFilter>,
    /// The input has ended.
    is_ended: bool,
    /// The filter was told of the end, and has nothing left.
    is_over: bool,
    waits: bool,
    /// Input that arrived while the filter waits.
    held: Vec<Piece>,
}

/// The filters of one response, in the order in which they run.
#[derive(Debug, Default)]
pub struct Filters {
    stages: Vec<Stage>,
    /// Takes what comes out of them as a whole, before the head is sent.
    whole: Option<Box<dyn Whole>>,
}

impl Filters {
    pub fn add(&mut self, filter: impl BodyFilter + 'static) {
        self.stages.push(Stage {
            filter: Box::new(filter),
            is_ended: false,
            is_over: false,
            waits: false,
            held: Vec::new(),
        });
    }

    /// Puts a change to the whole behind the filters that there are. Those that are added later belong to its result.
    pub fn set_whole(&mut self, whole: impl Whole + 'static) {
        self.whole = Some(Box::new(whole));
    }

    pub fn take_whole(&mut self) -> Option<Box<dyn Whole>> {
        self.whole.take()
    }

    /// Puts filters behind these.
    pub fn append(&mut self, later: Self) {
        self.stages.extend(later.stages);
    }

    /// True if a filter waits for its pieces to be processed; [`Filters::push`] without data lets it
    /// continue.
    pub fn waits(&self) -> bool {
        self.stages.iter().any(|stage| stage.waits)
    }

    /// The cost of running this many bytes through all filters (`runtime::worked`).
    pub fn work(&self, bytes: usize) -> u32 {
        (self.stages.len() * (1 + bytes / FILTERED_BYTES)) as u32
    }

    /// Runs bytes through all filters.
    pub fn push(&mut self, request: &mut Request, data: &[u8], signal: Signal) -> Result<Vec<Piece>, Error> {
        let mut pieces = vec![Piece::Bytes(data.to_vec())];
        let mut is_end = signal == Signal::End;
        for stage in &mut self.stages {
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
                // bytes that the filter holds back precede the response inserted here
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

    /// Pushes a signal without bytes.
    fn tell(&mut self, request: &mut Request, signal: Signal, out: &mut Vec<Piece>) -> Result<(), Error> {
        if !self.is_over {
            self.waits = self.filter.push(request, b"", signal, out)? == Flow::Wait;
            self.is_over = signal == Signal::End && !self.waits;
        }
        Ok(())
    }
}
