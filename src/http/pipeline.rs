//! The way of a request: phases in order, then the content, then the response.
//!
//! Handlers decide, this file waits. Behaviour: nginx's phases (development guide, "HTTP phases").

use std::borrow::Cow;
use std::pin::Pin;

use crate::http::client::Client;
use crate::http::config::location::{Found, Location};
use crate::http::modules::{self, Confs, Phase};
use crate::http::request::Request;
use crate::http::request::body_file;
use crate::http::request::error::{Error, Side};
use crate::http::request::subrequest;
use crate::http::request::termination::{self, How, Phase as Moment, Termination, Who};
use crate::http::response::error_page;
use crate::http::response::{Body, Response};
use crate::http::{modules::core, upstream};
use crate::log;
use crate::proto::header::Id;
use crate::proto::message::Method;
use crate::runtime::blocking::{self, Lane};
use crate::runtime::{self, Either, race};
use crate::script::regex;

/// Internal redirects a request may take before it is a loop; nginx's limit.
pub const INTERNAL_REDIRECTS_MAX: u8 = 10;

/// What a phase handler decides.
#[derive(Debug)]
pub enum Verdict {
    /// The next handler decides.
    Next,
    /// The answer is known.
    Done(Reply),
    /// The next handler decides, in so many milliseconds. For the phases inside a location.
    Delay(u64),
    /// The answer of this work decides, which is done on another thread. For the phases inside a location.
    Work(Box<Work>),
    /// The answer to a subrequest decides. For the phases inside a location.
    Ask(Box<Ask>),
    /// The request's body is read whole, into memory or a file; what follows then decides. For the phases inside a
    /// location.
    Body(fn(&mut Request) -> Verdict),
    /// A handler of the access phase lets the request in: enough where any may do so (`satisfy any`).
    Granted,
}

/// What takes too long for the worker's loop: it is waited for.
pub struct Work {
    /// Begins with its first poll; dropped, it is given up as far as it has not begun.
    pub run: Pin<Box<dyn Future<Output = u64>>>,
    pub lane: Lane,
    /// What follows from its answer.
    pub then: fn(&mut Request, u64) -> Verdict,
}

impl Work {
    /// Work on files and directories.
    pub fn on_files(
        run: impl FnOnce() -> u64 + Send + 'static,
        then: fn(&mut Request, u64) -> Verdict,
    ) -> Box<Self> {
        let run = async move { blocking::run(Lane::Files, run).await };
        Box::new(Self { run: Box::pin(run), lane: Lane::Files, then })
    }
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Work")
    }
}

/// A subrequest that is made for its status.
#[derive(Debug)]
pub struct Ask {
    pub uri: Vec<u8>,
    /// What follows, from the request and the subrequest with its answer.
    pub then: fn(&mut Request, &mut Request) -> Verdict,
}

/// How a request is answered.
#[derive(Debug)]
pub enum Reply {
    /// A status with the error page that belongs to it.
    Status(u16),
    /// This head and body, as they are.
    Response(Box<Response>, Body),
    /// A redirect to a location (absolute, or a path of this server).
    Redirect(u16, Vec<u8>),
    /// Another URI of this server; the search for a location begins anew.
    Internal { uri: Vec<u8>, args: Vec<u8> },
    /// A named location.
    Named(&'static str),
    /// A file's content.
    File(modules::static_file::Answer),
    /// The upstream of the location.
    Upstream,
    /// Nothing yet: in `ms` the handlers go on behind number `index` of their phase.
    Later { ms: u64, phase: Phase, index: usize },
    /// Nothing yet: what the work's answer leads to is the verdict of handler number `index`.
    After { work: Box<Work>, phase: Phase, index: usize },
    /// The same with the answer to a subrequest.
    AfterAnswer { ask: Box<Ask>, phase: Phase, index: usize },
    /// The same once the request's body was read.
    AfterBody { then: fn(&mut Request) -> Verdict, phase: Phase, index: usize },
    /// The connection closes without an answer; the status is for the log (`return 444`).
    Hangup(u16),
}

/// Runs a request from its first phase to the last byte of the response.
///
/// A subrequest has been read with the request that made it, and begins with the server's rewrites; one that is
/// `refused` is over before its first phase (a malformed head) and has the page of that status.
/// Errors: those after which the connection cannot be used; everything else was answered.
pub async fn handle(
    request: &mut Request,
    client: &mut Client<'_>,
    refused: Option<u16>,
) -> Result<(), Error> {
    let mut reply = match refused {
        None => begin(request),
        Some(status) => refuse(request, status),
    };
    loop {
        let answered = if matches!(reply, Reply::Upstream) {
            upstream::proxy(request, client).await
        } else {
            let answered = answer(request, client, reply).await;
            if let Err(error) = &answered {
                termination::note(request, client.has_started(), error);
            }
            answered
        };
        match answered {
            Ok(None) => break,
            Ok(Some(next)) => reply = next,
            Err(error) => match recover(request, client, error)? {
                Some(next) => reply = next,
                None => return Ok(()),
            },
        }
    }
    let finished = client.finish(request).await;
    if let Err(error) = &finished {
        termination::note(request, true, error);
        if error.side != Side::Client {
            log::error!(core::error_log(request), &*request, "{error}");
        }
    }
    finished
}

/// The phases up to the content.
pub fn begin(request: &mut Request) -> Reply {
    if request.is_subrequest() && request.slice.is_some() {
        return run(request, Phase::Content).unwrap_or(Reply::Status(404)); // the request has gone the way before
    }
    let read = if request.is_subrequest() { None } else { run(request, Phase::PostRead) };
    match read {
        Some(reply) => {
            core::bound_keepalive(request);
            reply
        }
        None => from_server(request),
    }
}

/// The server's rewrites, then the search for a location: where every request begins, and where an internal redirect
/// begins anew.
///
/// Until a location is found the server's settings are in force, those of no location that the request has left:
/// `$request_filename` and `-f` go by the server's `root`, a `return` has the server's fields and error pages.
fn from_server(request: &mut Request) -> Reply {
    request.location = &request.server.root;
    match run(request, Phase::ServerRewrite) {
        Some(reply) => {
            core::bound_keepalive(request);
            reply
        }
        None => locate(request),
    }
}

fn refuse(request: &mut Request, status: u16) -> Reply {
    request.keep_alive = false;
    request.termination.get_or_insert(Termination::of_head(None, request.passes()));
    match status {
        408 => error_page::last_resort(request, status), // its client is too slow for more
        _ => error_page::reply(request, status),
    }
}

/// The log phase; called once, when the request is dropped.
pub fn log(request: &mut Request) {
    for act in modules::LOG {
        act(request);
    }
}

/// Finds the location and runs the phases up to the content.
fn locate(request: &mut Request) -> Reply {
    request.uri_changed = false;
    request.left_proxy = false;
    request.adds_uri_to_alias = false;
    match request.server.root.find(&request.uri) {
        Found::AddSlash(location) => {
            enter(request, location);
            return match core::check_location(request) {
                Some(status) => error_page::reply(request, status),
                None => core::redirect_to_slash(request),
            };
        }
        Found::GaveUp(location, error) => {
            enter(request, location);
            regex::give_up(request, error);
            request.values.gave_up = false;
            return error_page::reply(request, 500);
        }
        Found::Location(location, groups) => {
            enter(request, location);
            if let Some(groups) = groups {
                let subject = std::mem::take(&mut request.uri);
                request.values.captures.set(&subject, groups.iter().cloned());
                core::store_named(request, location, &subject, &groups);
                request.uri = subject;
            }
        }
    }
    let name = &request.location.name;
    log::debug!(core::error_log(request), &*request, "using configuration \"{}\"", name);
    if let Some(status) = core::check_location(request) {
        return error_page::reply(request, status);
    }
    within(request)
}

/// Puts a location's settings in force, or those of the block that stands for it with this method.
pub fn enter(request: &mut Request, location: &'static Location) {
    request.location = location.for_method(request.method);
    core::bound_body(request);
    core::bound_keepalive(request);
}

/// The phases inside a location once nothing rewrites the path any more.
const INSIDE: [Phase; 4] = [Phase::Preaccess, Phase::Access, Phase::Precontent, Phase::Content];

/// The phases inside a location that is already chosen; a rewritten path finds another one.
fn within(request: &mut Request) -> Reply {
    if let Some(reply) = run(request, Phase::Rewrite) {
        return reply;
    }
    if request.uri_changed {
        return match too_many_redirects(request, "processing") {
            Some(reply) => reply,
            None => locate(request),
        };
    }
    inside(request, INSIDE).unwrap_or(Reply::Status(404))
}

/// Goes on with a request that was told to wait, as if the handler's verdict were this one.
fn go_on(request: &mut Request, phase: Phase, index: usize, verdict: Verdict) -> Reply {
    let after = INSIDE.into_iter().skip_while(|other| *other != phase).skip(1);
    let reply = decide(request, phase, index, verdict).or_else(|| inside(request, after));
    reply.unwrap_or(Reply::Status(404))
}

fn inside(request: &mut Request, phases: impl IntoIterator<Item = Phase>) -> Option<Reply> {
    // whether the client may have what a subrequest is for was decided for the request that made it
    let is_sub = request.is_subrequest();
    phases
        .into_iter()
        .filter(|phase| *phase != Phase::Access || !is_sub)
        .find_map(|phase| run(request, phase))
}

#[inline]
fn run(request: &mut Request, phase: Phase) -> Option<Reply> {
    if confs(request, phase).is_phase_idle(phase) {
        return None;
    }
    let reply = run_from(request, phase, 0);
    if std::mem::take(&mut request.values.gave_up) { Some(Reply::Status(500)) } else { reply }
}

/// The settings that a phase goes by: the server's own steps are run also where a location is in force already.
#[inline]
fn confs(request: &Request, phase: Phase) -> &'static Confs {
    match phase {
        Phase::PostRead | Phase::ServerRewrite => &request.server.root.confs,
        _ => &request.location.confs,
    }
}

fn run_from(request: &mut Request, phase: Phase, first: usize) -> Option<Reply> {
    let confs = confs(request, phase);
    for (index, (number, handler)) in modules::handlers(phase).iter().enumerate().skip(first) {
        if confs.is_idle(*number) {
            continue;
        }
        match handler(request) {
            Verdict::Next => {}
            verdict => return decide(request, phase, index, verdict),
        }
    }
    match std::mem::take(&mut request.access_status) {
        0 => None,
        401 if first <= AFTER_DELAY && request.location.auth_basic.delay_ms() > 0 => Some(delay_401(request)),
        refused => {
            if refused == 403 {
                log::error!(core::error_log(request), &*request, "access forbidden by rule");
            }
            Some(Reply::Status(refused))
        }
    }
}

/// For an index: the access phase goes on behind its last handler, with the 401 that has waited.
const AFTER_DELAY: usize = usize::MAX - 1;

/// Who tries passwords waits for each answer (`auth_delay`).
fn delay_401(request: &mut Request) -> Reply {
    log::info!(core::error_log(request), &*request, "delaying unauthorized request");
    request.access_status = 401;
    let ms = request.location.auth_basic.delay_ms();
    Reply::Later { ms, phase: Phase::Access, index: AFTER_DELAY }
}

/// What becomes of a handler's verdict, and of the phase behind it.
fn decide(request: &mut Request, phase: Phase, index: usize, verdict: Verdict) -> Option<Reply> {
    match verdict {
        Verdict::Next => {}
        Verdict::Done(Reply::Status(status @ (401 | 403 | 407)))
            if phase == Phase::Access && request.location.access.satisfies_any() =>
        {
            // Who could come in by saying who they are is told so.
            if !matches!(request.access_status, 401 | 407) {
                request.access_status = status;
            }
        }
        Verdict::Done(Reply::Status(401))
            if phase == Phase::Access && request.location.auth_basic.delay_ms() > 0 =>
        {
            return Some(delay_401(request));
        }
        Verdict::Done(reply) => {
            request.access_status = 0;
            return Some(reply);
        }
        Verdict::Delay(ms) => return Some(Reply::Later { ms, phase, index }),
        Verdict::Work(work) => return Some(Reply::After { work, phase, index }),
        Verdict::Ask(ask) => return Some(Reply::AfterAnswer { ask, phase, index }),
        Verdict::Body(then) => return Some(Reply::AfterBody { then, phase, index }),
        Verdict::Granted => {
            if request.location.access.satisfies_any() {
                request.access_status = 0;
                request.forget(Id::WwwAuthenticate);
                return None;
            }
        }
    }
    run_from(request, phase, index + 1)
}

/// Waits, unless the client leaves before.
async fn wait(client: &Client<'_>, ms: u64) -> Result<(), Error> {
    match race(runtime::sleep(ms), client.downstream().gone()).await {
        Either::First(()) => Ok(()),
        Either::Second(()) => Err(Error::left()),
    }
}

/// Waits for work. A client that leaves meanwhile has nothing begun for it where others wait: it may have closed only
/// its side for sending, so what is about to begin is still done.
async fn done_or_gone(
    client: &Client<'_>,
    run: Pin<Box<dyn Future<Output = u64>>>,
    lane: Lane,
) -> Result<u64, Error> {
    let mut run = run;
    match race(run.as_mut(), client.downstream().gone()).await {
        Either::First(outcome) => Ok(outcome),
        Either::Second(()) if lane.is_crowded() => Err(Error::left()),
        Either::Second(()) => Ok(run.await),
    }
}

/// Carries out a reply of our own. `Some`: it led to another reply.
async fn answer(
    request: &mut Request,
    client: &mut Client<'_>,
    reply: Reply,
) -> Result<Option<Reply>, Error> {
    if matches!(reply, Reply::Response(..) | Reply::Redirect(..) | Reply::File(_))
        && request.error_status.is_none()
        && !request.body.is_read()
    {
        // A body that is framed wrongly is refused also where nobody reads it.
        request.body.discard_arrived()?;
    }
    match reply {
        Reply::Status(status) if hangs_up(status) => {
            hang_up(request, client, status);
            Ok(None)
        }
        Reply::Status(status) => Ok(Some(error_page::reply(request, status))),
        Reply::Response(response, body) => {
            if let Some(reply) = modules::static_file::instead(request, &response, body.as_bytes().len()) {
                return Ok(Some(reply));
            }
            send(request, client, *response, &body).await?;
            Ok(None)
        }
        Reply::Redirect(status, target) => {
            let response = core::redirect(request, status, &target);
            if let Some(reply) = error_page::instead(request, status) {
                request.keep(Id::Location, response.headers.get(Id::Location));
                return Ok(Some(reply));
            }
            let (response, body) = error_page::of_redirect(request, status, response);
            send(request, client, response, &body).await?;
            Ok(None)
        }
        Reply::Internal { uri, args } => {
            if let Some(reply) = too_many_redirects(request, REDIRECTING) {
                return Ok(Some(reply));
            }
            request.uri = uri;
            request.args = args;
            request.uri_is_original = false;
            request.internal = true;
            (request.left_location, request.adds_uri_to_alias) = (false, false);
            Ok(Some(from_server(request)))
        }
        Reply::Named(name) => {
            if let Some(reply) = too_many_redirects(request, REDIRECTING) {
                return Ok(Some(reply));
            }
            let Some(location) = request.server.named(name) else {
                let name = log::Text(name.as_bytes());
                log::error!(core::error_log(request), &*request, "could not find named location \"{name}\"");
                return Ok(Some(Reply::Status(500)));
            };
            if request.uri.is_empty() {
                let what = "empty URI in redirect to named location";
                log::error!(core::error_log(request), &*request, "{what} \"{name}\"");
                return Ok(Some(error_page::last_resort(request, 500)));
            }
            enter(request, location);
            request.internal = true;
            (request.uri_changed, request.left_proxy) = (false, false);
            Ok(Some(within(request)))
        }
        Reply::File(file) => {
            modules::static_file::send(request, client, file).await?;
            Ok(None)
        }
        Reply::Later { ms, phase, index } => {
            wait(client, ms).await?;
            Ok(Some(go_on(request, phase, index, Verdict::Next)))
        }
        Reply::After { work, phase, index } => {
            let Work { run, lane, then } = *work;
            let outcome = done_or_gone(client, run, lane).await?;
            let verdict = then(request, outcome);
            Ok(Some(go_on(request, phase, index, verdict)))
        }
        Reply::AfterAnswer { ask, phase, index } => {
            let verdict = Box::pin(subrequest::ask(request, client, *ask)).await?;
            Ok(Some(go_on(request, phase, index, verdict)))
        }
        Reply::AfterBody { then, phase, index } => {
            Box::pin(body_file::gather(request, client.downstream())).await?;
            let verdict = then(request);
            Ok(Some(go_on(request, phase, index, verdict)))
        }
        Reply::Upstream => Ok(Some(Reply::Upstream)), // the callers' own case: its future is the largest
        Reply::Hangup(status) => {
            let by_return = Termination::new(Who::Proxy, How::Abort, Moment::Process).by("return");
            request.termination = Some(by_return);
            hang_up(request, client, status);
            Ok(None)
        }
    }
}

/// Statuses that are told to nobody, whatever directive names them and whatever `error_page` says: 444 drops a client,
/// and for nginx those of 408 and 499 have gone. Nor can an interim status be the end of a request.
pub fn hangs_up(status: u16) -> bool {
    matches!(status, 408 | 444 | 499 | 100..200)
}

/// Closes the connection without an answer; the status is for the log.
fn hang_up(request: &mut Request, client: &mut Client<'_>, status: u16) {
    request.keep_alive = false;
    request.response.status = status;
    request.termination.get_or_insert(Termination::new(Who::Proxy, How::Abort, Moment::Process));
    client.abandon();
}

/// Sends a response whose body is at hand.
pub async fn send(
    request: &mut Request,
    client: &mut Client<'_>,
    mut response: Response,
    body: &Body,
) -> Result<(), Error> {
    let bytes = body.as_bytes();
    if !response.is_current {
        response.content_length = (response.status != 304).then_some(bytes.len() as u64);
    }
    client.start(request, response);
    client.write(request, bytes).await
}

const REDIRECTING: &str = "internally redirecting to";

/// Counts a change of the path; `Some`: it was one too many.
fn too_many_redirects(request: &mut Request, doing: &str) -> Option<Reply> {
    request.internal_redirects += 1;
    if request.internal_redirects <= INTERNAL_REDIRECTS_MAX {
        return None;
    }
    let uri = log::Text(&request.uri);
    let place = request.config.places.name(request.led_by.unwrap_or(request.location.span));
    let what = "rewrite or internal redirection cycle";
    log::error!(core::error_log(request), &*request, "{what} while {doing} \"{uri}\" in {place}");
    request.keep_alive = false;
    Some(error_page::last_resort(request, 500))
}

/// What follows an error: an error page when nothing was sent yet, else the end of the connection.
fn recover(request: &mut Request, client: &mut Client<'_>, error: Error) -> Result<Option<Reply>, Error> {
    match error.side {
        Side::Client if error.limit.is_some() => core::log_limit(request, &error),
        Side::Client => log::info!(core::error_log(request), &*request, "{error}"),
        Side::Upstream | Side::Ours => {
            let told = error.told_limit().map(|limit| core::told(request, limit)).unwrap_or_default();
            log::error!(core::error_log(request), &*request, "{error}{told}");
        }
    }
    if error.ends_silently() {
        if !client.has_started() {
            request.response.status = error.status;
        }
        return Err(error);
    }
    if client.has_started() {
        // The response cannot be completed: the client must see that it is cut.
        client.abandon();
        request.keep_alive = false;
        return Err(error);
    }
    if error.side == Side::Client {
        // Framing is lost, or the client is too slow: an error page that is proxied must not wait for the body.
        request.keep_alive = false;
        request.body.refuse();
    }
    Ok(Some(error_page::reply(request, error.status)))
}

/// A short text as a response.
pub fn text(status: u16, content_type: &[u8], body: Vec<u8>) -> Reply {
    // A 204 tells no type of what does not follow.
    let response = Response::with_type(status, if status == 204 { b"" } else { content_type });
    let body = if body.is_empty() { Body::Empty } else { Body::Bytes(Cow::Owned(body)) };
    Reply::Response(Box::new(response), body)
}

/// True for the methods that read a resource.
pub fn is_get_or_head(method: Method) -> bool {
    matches!(method, Method::Get | Method::Head)
}
