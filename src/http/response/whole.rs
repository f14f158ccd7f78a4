//! A change to a response as a whole: its head waits until the body is known.
//!
//! A module's head step puts it behind the filters (`Filters::set_whole`); the steps of the modules behind that one, and the
//! head itself, wait until it has made its result. Until then nothing of the response has been sent, so that it may
//! still become an error page. Responses without one make no call.

use std::fmt;
use std::pin::Pin;

use crate::http::downstream::Downstream;
use crate::http::request::Request;
use crate::http::request::error::Error;
use crate::http::verdict::Reply;

/// The need of a change for more, after it has got some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    More,
    /// Nothing: the head may go, with the bytes so far, and the rest of the body follows as it comes.
    Nothing,
    /// It does not continue: [`Whole::instead`] has the reply.
    Stop,
}

/// The result of a change: the body, once `request.response` is its head.
pub type Made<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, Error>> + 'a>>;

/// A change to one response as a whole.
pub trait Whole: fmt::Debug {
    /// Takes the next bytes of the body. Called on the worker's loop; bounds what it keeps.
    fn push(&mut self, data: &[u8]) -> Need;

    /// Changes the head, and returns the body so far: after [`Need::Nothing`].
    fn begin(&mut self, request: &mut Request) -> Vec<u8>;

    /// Changes the head, and makes the body, which is complete.
    ///
    /// Errors: the client has gone, or there is a reply instead.
    fn finish<'a>(&'a mut self, request: &'a mut Request, client: Downstream<'a>) -> Made<'a>;

    /// The reply that replaces the response, if it was this change that has stopped; logs the reason.
    fn instead(&mut self, request: &mut Request) -> Option<Reply>;
}

/// The error of a response that a change has stopped; [`Whole::instead`] tells more.
pub fn stopped() -> Error {
    Error::ours("the response cannot be changed")
}
