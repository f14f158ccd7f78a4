//! Requests inside a request: runs subrequests, in their turn, before it, and those that nobody waits for.
//!
//! Touches: the client of the outer request, into whose body an answer may go. The pipeline is inside itself here.
//! Behaviour: nginx's subrequests (development guide, "Subrequests").

use crate::http::client::Client;
use crate::http::pipeline::{self, Entry};
use crate::http::request::Request;
use crate::http::request::ahead::{self, Source};
use crate::http::request::body::Body;
use crate::http::request::error::{Error, Kind};
use crate::http::request::subrequest::{Subrequest, Then, admit};
use crate::http::response::filter::Piece;
use crate::http::verdict::{Ask, Verdict};
use crate::log;
use crate::net::budget::{self, Part};
use crate::net::open;
use crate::runtime::{self, Either, race};

/// Maximum number of requests without a waiting client in a worker. Further ones are not sent, so that dead
/// mirrors cost a bounded number of connections.
const DETACHED_MAX: usize = 512;

/// Memory of a subrequest that runs ahead of its turn: its pipe, its head, and the buffers of an upstream.
const AHEAD_BYTES: usize = 96 * 1024;

/// How many subrequests of one piece of a page run at a time.
const BEGUN_MAX: usize = 8;

/// Makes a subrequest of `request` and puts its response where it belongs.
///
/// Errors: the client has gone, or the response broke off within its body: the outer response cannot be
/// completed.
pub async fn run(
    request: &mut Request,
    client: &mut Client<'_>,
    subrequest: Subrequest,
) -> Result<(), Error> {
    let uri = log::Text(&subrequest.uri).to_string();
    let swap = match &subrequest.then {
        Then::More(swap) => Some(*swap),
        Then::Insert | Then::Keep { .. } => None,
    };
    let mut inner = match swap {
        Some(swap) => {
            let mut inner = request.sub_more();
            swap(request, &mut inner);
            inner
        }
        None => request.sub(subrequest.uri, subrequest.args),
    };
    let entry = if swap.is_some() { Entry::Content } else { Entry::Subrequest };
    let then = subrequest.then;
    let outcome = match then {
        Then::Insert | Then::More(_) => {
            let mut within = Client::within(client);
            let outcome = handle(&mut inner, &mut within, entry).await;
            client.resume(within);
            outcome
        }
        Then::Keep { max, done } => {
            let mut memory = Client::memory(client.downstream(), max);
            let outcome = handle(&mut inner, &mut memory, Entry::Subrequest).await;
            let status = inner.response.status;
            request.take_back(&mut inner);
            (done.take)(request, &done.name, status, memory.take_memory());
            return outcome.map_err(|error| broken(error, &uri));
        }
    };
    request.bytes_sent += inner.bytes_sent;
    request.take_back(&mut inner);
    if let Some(swap) = swap {
        swap(request, &mut inner);
    }
    outcome.map_err(|error| broken(error, &uri))
}

/// Starts subrequests ahead of their turn, so that a page with many includes does not wait for one after the
/// other: all of those in `pieces` but the first, in order. `None`: it is made in its turn.
///
/// Each gets the variables as they are now. Only those of the client's own request are started, and only a
/// few: what they hold is bounded (`http/request/ahead.rs`).
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
        Then::Insert | Then::More(_) | Then::Keep { .. } => None,
    };
    subrequests.take(BEGUN_MAX).enumerate().map(begin).collect()
}

fn begin(request: &Request, subrequest: &Subrequest) -> Option<Source> {
    let guard = open::Background::new(DETACHED_MAX)?;
    let Some(share) = budget::draw(AHEAD_BYTES, Part::ThreeQuarters) else {
        if let Some(why) = budget::degrade(runtime::now_ms()) {
            log::warn!(request.error_log(), request, "includes run one after the other: {why}");
        }
        return None;
    };
    let mut inner = request.sub_ahead(subrequest.uri.clone(), subrequest.args.clone());
    let (sink, source) = ahead::pipe();
    runtime::spawn(async move {
        let mut client = Client::ahead(sink.clone());
        let uri = log::Text(&inner.uri).to_string();
        let outcome = match race(handle(&mut inner, &mut client, Entry::Subrequest), sink.left()).await {
            Either::First(outcome) => outcome,
            Either::Second(()) => Ok(()), // nothing reads how it would have ended
        };
        sink.end(outcome.map_err(|error| broken(error, &uri)));
        drop((inner, guard, share));
    });
    Some(source)
}

/// Makes a subrequest for its status, or its body, and returns the verdict on its response, which the client does not get.
///
/// A body that matters is asked for by itself: whole, in no content coding, on no condition, and without a body of the client's.
/// Errors: the client has gone, or the request has made too many of them.
pub async fn ask(request: &mut Request, client: &Client<'_>, ask: Ask) -> Result<Verdict, Error> {
    admit(request, 0, &ask.uri)?;
    let mut inner = request.sub(ask.uri, Vec::new());
    if ask.kept_bytes_max > 0 {
        inner.body = inner.body.without();
        inner.set_field(
            |name| NEGOTIATING.iter().any(|known| name.eq_ignore_ascii_case(known)),
            b"",
            b"",
            true,
        );
    }
    let mut memory = Client::memory(client.downstream(), Some(ask.kept_bytes_max));
    let outcome = handle(&mut inner, &mut memory, Entry::Subrequest).await;
    let verdict = match outcome {
        Err(error) if error.ends_silently() => Err(error),
        // A response that breaks off after its head has already given its status.
        outcome => {
            let body = outcome.is_ok().then(|| memory.take_memory());
            Ok((ask.then)(request, &mut inner, body))
        }
    };
    request.take_back(&mut inner);
    verdict
}

/// The fields of a client that would make an answer another one, in lower case.
const NEGOTIATING: [&[u8]; 7] = [
    b"accept-encoding",
    b"range",
    b"if-match",
    b"if-modified-since",
    b"if-none-match",
    b"if-range",
    b"if-unmodified-since",
];

/// Makes an independent request whose response is discarded: a task with a copy of all it needs, so that
/// neither it nor `request` delays the other.
///
/// It has no client that could leave or slow it down; its own timeouts bound it.
pub fn detach(request: &mut Request, uri: &str, body: Body) {
    if let Err(why) = admit(request, 0, uri.as_bytes()) {
        log::error!(request.error_log(), &*request, "{why}");
        return;
    }
    let Some(guard) = open::Background::new(DETACHED_MAX) else {
        let why = "copies of requests are already in progress";
        log::error!(request.error_log(), &*request, "\"{}\" is not requested: {} {}", uri, DETACHED_MAX, why);
        return;
    };
    let mut fork = request.fork(uri.as_bytes().to_vec(), body);
    runtime::spawn(async move {
        // the pipeline has logged any error
        let _ = handle(&mut fork, &mut Client::nobody(), Entry::Subrequest).await;
        drop((fork, guard));
    });
}

/// Goes on with a request whose response has been sent, or has failed, at its location's `post_action`; its response is
/// discarded. It gets the body if that is kept, not if it was passed on, and changes nothing that matters to the connection.
///
/// A tunnel is no response: nothing happens after one. Returns `outcome`, that of the response: it waits here rather than in
/// the pipeline, whose future would have room for it in every request.
pub async fn finish(request: &mut Request, outcome: Result<(), Error>) -> Result<(), Error> {
    if request.proxied.has_tunnel() {
        return outcome;
    }
    let copy = Body::copy(&request.body);
    let body = std::mem::replace(&mut request.body, copy);
    let termination = request.termination.take();
    let (keep_alive, is_complete, bytes_sent) = (request.keep_alive, request.is_complete, request.bytes_sent);
    // the pipeline has logged any error
    let _ = handle(request, &mut Client::nobody(), Entry::Answered).await;
    (request.keep_alive, request.is_complete, request.bytes_sent) = (keep_alive, is_complete, bytes_sent);
    (request.termination, request.body) = (termination, body);
    outcome
}

/// Runs a copy of a request that has no client, at the content of its location: it brings a stored response up to date.
/// False: too many requests without a client are in progress.
pub fn update(copy: impl FnOnce() -> Box<Request>) -> bool {
    let Some(guard) = open::Background::new(DETACHED_MAX) else { return false };
    let mut copy = copy();
    runtime::spawn(async move {
        // the pipeline has logged any error
        let _ = handle(&mut copy, &mut Client::nobody(), Entry::Content).await;
        drop((copy, guard));
    });
    true
}

/// The error of a request whose subrequest failed, which has logged the reason.
fn broken(error: Error, uri: &str) -> Error {
    match error.ends_silently() {
        true => error,
        false => error.of_subrequest(uri.to_owned()),
    }
}

/// A box that hides its type, because the pipeline calls itself here.
///
/// Errors: those of the pipeline; 444 if the connection is to be closed without a response, which a
/// subrequest decides for the whole request.
fn handle<'a>(
    request: &'a mut Request,
    client: &'a mut Client<'_>,
    entry: Entry,
) -> std::pin::Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>> {
    Box::pin(async move {
        pipeline::handle(request, client, entry).await?;
        if client.has_started() {
            return Ok(());
        }
        Err(Error::client(Kind::Dropped))
    })
}
