//! A response that is encoded as a whole: what a coding is to the response, and what becomes known of it.
//!
//! Touches: nothing. Which coding a response gets is decided in `coding.rs`. RFC 9110 §8.4.

use std::cell::Cell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;

use crate::http::request::error::Error;
use crate::http::response::filter::Signal;

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    Zstd,
    Brotli,
    Gzip,
}

impl Name {
    /// In order of preference among codings that the client likes equally.
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Brotli, Self::Gzip];

    /// The token in `Accept-Encoding` and `Content-Encoding`.
    pub fn token(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }
}

/// The bytes that a coding has consumed and produced.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub given: u64,
    pub made: u64,
}

/// Sizes before and after content coding, once the response is complete.
pub type Report = Rc<Cell<Option<(Name, Totals)>>>;

/// A coding of the response as a whole, such as gzip.
///
/// The output calls it after all filters, with the bytes that are to be framed. At most one is set for a
/// response (`response/coding.rs`).
pub trait Coding: fmt::Debug {
    /// Takes the next bytes and appends the output that can be sent.
    ///
    /// Errors: the response cannot continue and is cut off.
    fn push(&mut self, data: &[u8], signal: Signal, out: &mut Vec<u8>) -> Result<(), Error>;

    /// The best number of bytes for one push, so that other connections need not wait.
    fn step_bytes(&self) -> usize;

    /// The cost of a push of this many bytes (`runtime::worked`), including a block that it would complete.
    fn work(&self, bytes: usize, signal: Signal) -> u32;

    /// Does the work of [`Coding::push`] on another thread, for steps that are too long for the worker's
    /// loop.
    fn push_elsewhere<'a>(
        &'a mut self,
        data: &'a [u8],
        signal: Signal,
        out: &'a mut Vec<u8>,
    ) -> Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>;
}
