//! The decisions of phase handlers: how to answer a request, or what to wait for first.
//!
//! Values only: handlers make them without waiting, and the pipeline carries them out.
//! Behaviour: nginx's phases (development guide, "HTTP phases").

use std::borrow::Cow;
use std::pin::Pin;

use crate::http::request::Request;
use crate::http::response::{Body, Response, file};
use crate::runtime::blocking::{self, Lane};

/// The decision of a phase handler.
///
/// Handlers are plain functions over a request (`modules::Handler`) and never wait. One that cannot decide
/// yet returns [`Verdict::Wait`] with the function that decides after the wait; it is not called again.
#[derive(Debug)]
pub enum Verdict {
    /// The next handler decides.
    Next,
    /// The reply is known.
    Done(Reply),
    /// The upstream of the location answers.
    Pass,
    /// A handler of the access phase allows the request; with `satisfy any` this is enough.
    Granted,
    /// The function of the pause decides. For the phases inside a location.
    Wait(Pause),
}

/// What a request waits for within a phase. Each pause has a function that decides afterwards; its verdict
/// counts as that of the handler that asked for the pause.
#[derive(Debug)]
pub enum Pause {
    /// This many milliseconds, unless the client leaves first.
    Delay { ms: u64, then: fn(&mut Request) -> Verdict },
    /// Work on another thread.
    Work(Work),
    /// The response to a subrequest.
    Answer(Box<Ask>),
    /// The whole body of the request, in memory or a file.
    Body(Arrived),
    /// An answer of another service, which the worker asks itself.
    Call(Call),
}

/// A question to another service: its result is the function that decides. It is dropped if the client leaves first.
pub struct Call(pub Pin<Box<dyn Future<Output = Decide>>>);

/// The continuation after a [`Call`], run on the worker's loop.
pub type Decide = Box<dyn FnOnce(&mut Request) -> Verdict>;

impl Call {
    /// The verdict to wait for this.
    pub fn wait<F: FnOnce(&mut Request) -> Verdict + 'static>(
        run: impl Future<Output = Box<F>> + 'static,
    ) -> Verdict {
        let run = async move { run.await as Decide };
        Verdict::Wait(Pause::Call(Self(Box::pin(run))))
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Call")
    }
}

/// The continuation after the body of a request has been read, run on the worker's loop.
pub struct Arrived(pub Box<dyn FnOnce(&mut Request) -> Verdict>);

impl Pause {
    /// Waits for the whole body of the request.
    pub fn body(then: impl FnOnce(&mut Request) -> Verdict + 'static) -> Self {
        Self::Body(Arrived(Box::new(then)))
    }
}

impl std::fmt::Debug for Arrived {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Arrived")
    }
}

/// Work that is too long for the worker's loop: it runs on another thread, and its result is the function
/// that decides.
pub struct Work {
    /// Starts with its first poll. Dropping it cancels it unless it has started.
    pub run: Pin<Box<dyn Future<Output = Then>>>,
    pub lane: Lane,
}

/// The continuation after work, run on the worker's loop.
pub type Then = Box<dyn FnOnce(&mut Request) -> Verdict + Send>;

impl Work {
    /// Work on files and directories.
    pub fn on_files(job: impl FnOnce() -> Then + Send + 'static) -> Self {
        Self::on(Lane::Files, job)
    }

    /// Work of a kind that has no maximum of jobs.
    pub fn on(lane: Lane, job: impl FnOnce() -> Then + Send + 'static) -> Self {
        let run = async move { blocking::run(lane, job).await };
        Self { run: Box::pin(run), lane }
    }
}

impl From<Work> for Verdict {
    fn from(work: Work) -> Self {
        Self::Wait(Pause::Work(work))
    }
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work").field("lane", &self.lane).finish_non_exhaustive()
    }
}

/// A subrequest whose answer decides, and is not sent to the client.
pub struct Ask {
    pub uri: Vec<u8>,
    /// The longest body that is kept; 0: its status is enough.
    pub kept_bytes_max: usize,
    /// Decides from the request, the answered subrequest, and the body. `None`: it was longer, or broke off.
    pub then: Answered,
}

/// The continuation after a subrequest, run on the worker's loop.
pub type Answered = Box<dyn FnOnce(&mut Request, &mut Request, Option<Vec<u8>>) -> Verdict>;

impl std::fmt::Debug for Ask {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Ask").field("uri", &self.uri).finish_non_exhaustive()
    }
}

/// How a request is answered.
#[derive(Debug)]
pub enum Reply {
    /// A status with its error page.
    Status(u16),
    /// This head and body, unchanged.
    Response(Box<Response>, Body),
    /// A redirect to a URL (absolute, or a path on this server).
    Redirect(u16, Vec<u8>),
    /// Another URI of this server; the search for a location starts again.
    Internal { uri: Vec<u8>, args: Vec<u8> },
    /// A named location.
    Named(&'static str),
    /// A file's content.
    File(file::Answer),
    /// The connection is closed without a response; the status is for the log (`return 444`).
    Hangup(u16),
}

impl Reply {
    /// A short text as a response.
    pub fn text(status: u16, content_type: &[u8], body: Vec<u8>) -> Self {
        // A 204 has no body whose type could be given.
        let response = Response::with_type(status, if status == 204 { b"" } else { content_type });
        let body = if body.is_empty() { Body::Empty } else { Body::Bytes(Cow::Owned(body)) };
        Self::Response(Box::new(response), body)
    }
}

/// True for statuses that are never sent, whichever directive names them and whatever `error_page` says: 444
/// drops a client; with 408 and 499 nginx considers it gone. Nor can an interim status end a request.
pub fn hangs_up(status: u16) -> bool {
    matches!(status, 408 | 444 | 499 | 100..200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_small() {
        // handlers return it by value, a dozen times for each request
        assert!(size_of::<Verdict>() <= 56, "{}", size_of::<Verdict>());
    }

    #[test]
    fn statuses_that_nobody_sees_close_the_connection() {
        for status in [100, 101, 199, 408, 444, 499] {
            assert!(hangs_up(status), "{status}");
        }
        for status in [200, 400, 404, 443, 498, 500] {
            assert!(!hangs_up(status), "{status}");
        }
    }

    #[test]
    fn a_text_of_no_content_has_no_type() {
        let type_of = |status| match Reply::text(status, b"text/plain", Vec::new()) {
            Reply::Response(response, Body::Empty) => {
                response.headers.get(crate::proto::header::Id::ContentType).map(<[u8]>::to_vec)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(type_of(204), None);
        assert_eq!(type_of(200).as_deref(), Some(&b"text/plain"[..]));
    }
}
