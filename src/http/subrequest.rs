//! Requests that a request makes of its own server, whose answers become part of its own.
//!
//! A subrequest has the head and the body of the request it belongs to, a URI of its own, and shares its variables.
//! Behaviour: nginx's subrequests (development guide, "Subrequests").

use crate::http::ahead::{self, Source};
use crate::http::body::Body;
use crate::http::client::Client;
use crate::http::error::Error;
use crate::http::filter::Piece;
use crate::http::modules::{core, slice};
use crate::http::pipeline::{self, Ask, Verdict};
use crate::http::request::Request;
use crate::log;
use crate::net::open;
use crate::runtime::{self, Either, Io, race};

/// How deep subrequests may make subrequests; nginx's limit.
const DEPTH_MAX: u8 = 50;

/// Requests that no client waits for which a worker may have under way; what more there are is not sent, so that dead
/// mirrors cost a bounded number of connections.
const DETACHED_MAX: usize = 512;

/// Subrequests of one piece of a page that run at a time.
const BEGUN_MAX: usize = 8;

/// What is asked for, and what becomes of the answer.
#[derive(Debug)]
pub struct Subrequest {
    /// Decoded and normalized path.
    pub uri: Vec<u8>,
    pub args: Vec<u8>,
    pub then: Then,
}

/// What becomes of an answer.
#[derive(Debug)]
pub enum Then {
    /// It stands where the subrequest stood.
    Insert,
    /// The same, of a slice of the answer that it becomes a part of.
    Slice(Box<slice::State>),
    /// It is kept, up to `max` bytes or what the subrequest's location allows (`subrequest_output_buffer_size`), and
    /// handed over with its status.
    Keep { max: Option<usize>, done: Done },
}

/// Takes the status and the body of an answer that was kept, and the name it was asked for under.
#[derive(Debug)]
pub struct Done {
    pub name: Vec<u8>,
    pub take: fn(&mut Request, &[u8], u16, Vec<u8>),
}

/// Makes a subrequest of `request` and puts its answer where it belongs.
///
/// Errors: the client has gone, or the answer broke off inside its body: the response cannot be completed.
pub async fn run(
    request: &mut Request,
    client: &mut Client<'_>,
    subrequest: Subrequest,
) -> Result<(), Error> {
    if request.depth >= DEPTH_MAX {
        let uri = String::from_utf8_lossy(&subrequest.uri).into_owned();
        log::error!(core::error_log(request), &*request, "subrequests cycle while processing \"{uri}\"");
        return Err(Error::ours("subrequests cycle"));
    }
    let uri = String::from_utf8_lossy(&subrequest.uri).into_owned();
    let (mut inner, then) = match subrequest.then {
        Then::Slice(state) => (request.sub_slice(state), Then::Insert),
        then => (request.sub(subrequest.uri, subrequest.args), then),
    };
    let outcome = match then {
        Then::Insert | Then::Slice(_) => {
            let mut within = Client::within(client);
            let outcome = handle(&mut inner, &mut within).await;
            client.resume(within);
            outcome
        }
        Then::Keep { max, done } => {
            let mut memory = Client::memory(client.io(), max);
            let outcome = handle(&mut inner, &mut memory).await;
            let status = inner.response.status;
            request.take_back(&mut inner);
            (done.take)(request, &done.name, status, memory.take_memory());
            return outcome.map_err(|error| broken(error, &uri));
        }
    };
    request.bytes_sent += inner.bytes_sent;
    request.take_back(&mut inner);
    outcome.map_err(|error| broken(error, &uri))
}

/// Begins subrequests whose turn has not come, so that a page with many includes does not wait for one after the
/// other: of those in `pieces`, in their order, all but the first. `None`: it is made when its turn has come.
///
/// Each has the variables as they are now. Only those of the client's own request are begun, a few of them: what
/// they hold is bounded (`http/ahead.rs`).
pub fn begin_others(request: &Request, pieces: &[Piece]) -> Vec<Option<Source>> {
    let subrequests = pieces.iter().filter_map(|piece| match piece {
        Piece::Subrequest(subrequest) => Some(subrequest),
        Piece::Bytes(_) => None,
    });
    if request.is_subrequest() || subrequests.clone().count() < 2 {
        return Vec::new();
    }
    let begin = |(index, subrequest): (usize, &Subrequest)| match subrequest.then {
        Then::Insert if index > 0 => begin(request, subrequest),
        Then::Insert | Then::Slice(_) | Then::Keep { .. } => None,
    };
    subrequests.take(BEGUN_MAX).enumerate().map(begin).collect()
}

fn begin(request: &Request, subrequest: &Subrequest) -> Option<Source> {
    let guard = open::Background::new(DETACHED_MAX)?;
    let mut inner = request.sub_ahead(subrequest.uri.clone(), subrequest.args.clone());
    let (sink, source) = ahead::pipe();
    runtime::spawn(async move {
        let io = Io::silent();
        let mut client = Client::ahead(&io, sink.clone());
        let uri = String::from_utf8_lossy(&inner.uri).into_owned();
        let outcome = match race(handle(&mut inner, &mut client), sink.left()).await {
            Either::First(outcome) => outcome,
            Either::Second(()) => Ok(()), // nobody reads how it would have ended
        };
        sink.end(outcome.map_err(|error| broken(error, &uri)));
        drop((inner, guard));
    });
    Some(source)
}

/// Makes a subrequest for its status: the verdict that follows from its answer, whose body nobody gets.
///
/// Errors: the client has gone.
pub async fn ask(request: &mut Request, client: &Client<'_>, ask: Ask) -> Result<Verdict, Error> {
    if request.depth >= DEPTH_MAX {
        return Err(Error::ours("subrequests cycle"));
    }
    let mut inner = request.sub(ask.uri, Vec::new());
    let mut memory = Client::memory(client.io(), Some(0));
    let outcome = handle(&mut inner, &mut memory).await;
    let verdict = match outcome {
        Err(error) if error.status == 499 => Err(error),
        // An answer that breaks off after its head has said what it was asked for.
        _ => Ok((ask.then)(request, &mut inner)),
    };
    request.take_back(&mut inner);
    verdict
}

/// Makes a request of its own that nobody waits for, and whose answer nobody gets: a task that has a copy of all it
/// needs, so that neither it nor `request` holds the other up.
///
/// There is no client to notice its end or to slow it down; its own timeouts bound it.
pub fn detach(request: &Request, uri: &str, body: Body) {
    let Some(guard) = open::Background::new(DETACHED_MAX) else {
        let why = "copies of requests are under way already";
        log::error!(core::error_log(request), request, "\"{}\" is not asked: {} {}", uri, DETACHED_MAX, why);
        return;
    };
    let mut fork = request.fork(uri.as_bytes().to_vec(), body);
    runtime::spawn(async move {
        let io = Io::silent();
        let _ = handle(&mut fork, &mut Client::nobody(&io)).await; // the pipeline has logged what went wrong
        drop((fork, guard));
    });
}

/// What the log says of the request whose subrequest has failed, and told why.
fn broken(error: Error, uri: &str) -> Error {
    match error.status {
        499 => error,
        _ => Error { cause: format!("the answer of the subrequest \"{uri}\" broke off"), ..error },
    }
}

/// A box that hides its type: the pipeline is inside itself here.
fn handle<'a>(
    request: &'a mut Request,
    client: &'a mut Client<'_>,
) -> std::pin::Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>> {
    Box::pin(pipeline::handle(request, client, None))
}
