//! The way of a request: phases in order, then the content, then the response.
//!
//! Handlers decide, this file waits.
//! Behaviour: nginx's phases (development guide, "HTTP phases").

use crate::http::client::Client;
use crate::http::config::location::{Found, Location};
use crate::http::modules::{self, Confs, Phase};
use crate::http::nesting;
use crate::http::request::error::{Error, Side};
use crate::http::request::termination::{self, How, Phase as Moment, Termination, Who};
use crate::http::request::{Request, body_file, limit, target};
use crate::http::response::{Body, Response, condition, error_page, redirect};
use crate::http::verdict::{Arrived, Call, Pause, Reply, Then, Verdict, Work, hangs_up};
use crate::http::{satisfy, send_file, upstream};
use crate::log;
use crate::proto::header::Id;
use crate::runtime::blocking::{self, Lane};
use crate::runtime::{self, Either, race};
use crate::script::regex;

/// Where a request enters the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A client's request: at its first phase.
    Client,
    /// A subrequest, which starts with the server's rewrites: its head was read with its parent.
    Subrequest,
    /// At the content phase of its location: a subrequest for more of the same response.
    Content,
    /// Its head is malformed: it ends before its first phase, with the page of this status.
    Refused(u16),
    /// Answered already: it goes on at its location's `post_action`.
    Answered,
}

/// The next step of a request.
#[derive(Debug)]
pub enum Step {
    Answer(Reply),
    /// The upstream of its location answers.
    Pass,
    /// The verdict after the pause counts as that of the handler that asked for it.
    Wait(Pause, Resume),
}

/// The handler that asked to wait: the phases continue after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    phase: Phase,
    index: usize,
}

/// Runs a request from its entry to the last byte of the response.
///
/// Errors: those after which the connection cannot be used; all others have been answered.
pub async fn handle(request: &mut Request, client: &mut Client<'_>, entry: Entry) -> Result<(), Error> {
    let mut step = begin(request, entry);
    let ending = {
        let outcome = loop {
            // Boxed: an error that waits for an end that never comes would make the future of every request larger.
            let failed = loop {
                let taken = match step {
                    Step::Pass => upstream::proxy(request, client).await.map(|reply| reply.map(Step::Answer)),
                    Step::Answer(reply) => noted(answer(request, client, reply).await, request, client),
                    Step::Wait(pause, resume) => {
                        noted(wait(request, client, pause, resume).await, request, client)
                    }
                };
                match taken {
                    Ok(None) => break None,
                    Ok(Some(next)) => step = next,
                    Err(error) => match recover(request, client, error) {
                        Ok(reply) => step = Step::Answer(reply),
                        Err(error) => break Some(Box::new(error)),
                    },
                }
            };
            if let Some(error) = failed {
                break Err(*error);
            }
            match client.finish(request).await {
                // the head has waited for the whole body, and nothing has been sent
                Err(error) if client.is_held() => {
                    termination::note(request, false, &error);
                    match recover(request, client, error) {
                        Ok(reply) => step = Step::Answer(reply),
                        Err(error) => break Err(error),
                    }
                }
                outcome => break noted_end(outcome, request),
            }
        };
        if !goes_on(request, client) {
            return outcome;
        }
        Box::pin(nesting::finish(request, outcome))
    };
    ending.await
}

/// Records and logs why the end of a response could not be sent.
fn noted_end(outcome: Result<(), Error>, request: &mut Request) -> Result<(), Error> {
    if let Err(error) = &outcome {
        termination::note(request, true, error);
        if error.side != Side::Client {
            log::error!(request.error_log(), &*request, "{error}");
        }
    }
    outcome
}

/// True if the location of a client's request has a `post_action`. There is none after a connection that was closed without a
/// response.
#[inline]
fn goes_on(request: &Request, client: &Client<'_>) -> bool {
    request.location.confs.post_action.target().is_some()
        && client.is_outermost()
        && (client.has_started() || !hangs_up(request.response.status))
}

/// Records what ended a request.
fn noted<T>(outcome: Result<T, Error>, request: &mut Request, client: &Client<'_>) -> Result<T, Error> {
    if let Err(error) = &outcome {
        termination::note(request, client.has_started(), error);
    }
    outcome
}

/// The phases up to the content.
pub fn begin(request: &mut Request, entry: Entry) -> Step {
    match entry {
        Entry::Client => match run(request, Phase::PostRead) {
            Some(step) => without_location(request, step),
            None => from_server(request),
        },
        Entry::Subrequest => from_server(request),
        Entry::Content => run(request, Phase::Content).unwrap_or(NOT_FOUND),
        Entry::Refused(status) => Step::Answer(refuse(request, status)),
        Entry::Answered => go_on(request).unwrap_or(NOT_FOUND),
    }
}

/// Where a request goes on after its response; `None`: the named location does not exist.
fn go_on(request: &mut Request) -> Option<Step> {
    let location: &'static Location = request.location;
    let action = location.confs.post_action.target()?;
    if action.starts_with('/') {
        request.uri = action.into();
        request.args.clear();
        request.route.redirect();
        return Some(from_server(request));
    }
    let named = named(request, action)?;
    target::enter(request, named);
    request.route.enter_named();
    Some(within(request))
}

const NOT_FOUND: Step = Step::Answer(Reply::Status(404));

/// The server's rewrites, then the search for a location: the start of every request, and of an internal
/// redirect.
///
/// Until a location is found the server's settings are in force, not those of a location that the request has
/// left: `$request_filename` and `-f` use the server's `root`, and a `return` gets the server's fields and
/// error pages.
fn from_server(request: &mut Request) -> Step {
    request.location = &request.server.root;
    match run(request, Phase::ServerRewrite) {
        Some(step) => without_location(request, step),
        None => locate(request),
    }
}

/// The server's settings decide about the connection of a request that is answered before a location is found.
fn without_location(request: &mut Request, step: Step) -> Step {
    if !matches!(step, Step::Wait(..)) {
        target::bound_keepalive(request);
    }
    step
}

fn refuse(request: &mut Request, status: u16) -> Reply {
    request.keep_alive = false;
    request.termination.get_or_insert(Termination::of_head(None, request.passes().prefix()));
    match status {
        408 => error_page::last_resort(request, status), // its client is too slow for another response
        _ => error_page::reply(request, status),
    }
}

/// Finds the location and runs the phases up to the content.
fn locate(request: &mut Request) -> Step {
    request.route.search();
    match request.server.root.find(&request.uri) {
        Found::AddSlash(location) => {
            target::enter(request, location);
            return Step::Answer(match target::check_location(request) {
                Some(status) => error_page::reply(request, status),
                None => redirect::to_slash(request),
            });
        }
        Found::GaveUp(location, error) => {
            target::enter(request, location);
            regex::give_up(request, error);
            request.values.gave_up = false;
            return Step::Answer(error_page::reply(request, 500));
        }
        Found::Location(location, groups) => {
            target::enter(request, location);
            if let Some(groups) = groups {
                let subject = std::mem::take(&mut request.uri);
                request.values.captures.set(&subject, groups.iter().cloned());
                target::store_named(request, location, &subject, &groups);
                request.uri = subject;
            }
        }
    }
    let name = &request.location.name;
    log::debug!(request.error_log(), &*request, "using configuration \"{}\"", name);
    if let Some(status) = target::check_location(request) {
        return Step::Answer(error_page::reply(request, status));
    }
    within(request)
}

/// The phases inside a location after the path is final.
const INSIDE: [Phase; 4] = [Phase::Preaccess, Phase::Access, Phase::Precontent, Phase::Content];

/// Runs the phases inside the current location; a rewritten path leads to another one.
fn within(request: &mut Request) -> Step {
    if let Some(step) = run(request, Phase::Rewrite) {
        return step;
    }
    if request.route.rewriting.is_pending() {
        return match too_many_redirects(request, "processing") {
            Some(reply) => Step::Answer(reply),
            None => locate(request),
        };
    }
    inside(request, INSIDE).unwrap_or(NOT_FOUND)
}

/// Continues with a request that waited, with this verdict as its handler's.
fn resume(request: &mut Request, at: Resume, verdict: Verdict) -> Step {
    if at.phase == Phase::PostRead {
        return match decide(request, at, verdict) {
            Some(step) => without_location(request, step),
            None => from_server(request),
        };
    }
    let step = decide(request, at, verdict).or_else(|| inside(request, behind(at.phase)));
    step.unwrap_or(NOT_FOUND)
}

/// The phases inside a location after this one.
fn behind(phase: Phase) -> impl Iterator<Item = Phase> {
    INSIDE.into_iter().skip_while(move |other| *other != phase).skip(1)
}

fn inside(request: &mut Request, phases: impl IntoIterator<Item = Phase>) -> Option<Step> {
    // access to a subrequest was decided with its parent
    let is_sub = request.is_subrequest();
    phases
        .into_iter()
        .filter(|phase| *phase != Phase::Access || !is_sub)
        .find_map(|phase| run(request, phase))
}

#[inline]
fn run(request: &mut Request, phase: Phase) -> Option<Step> {
    if confs(request, phase).is_phase_idle(phase) {
        return None;
    }
    let step = run_from(request, Resume { phase, index: 0 });
    if std::mem::take(&mut request.values.gave_up) {
        return Some(Step::Answer(Reply::Status(500)));
    }
    step
}

/// The settings that apply to a phase: the server's own steps run even if a location is in force already.
#[inline]
fn confs(request: &Request, phase: Phase) -> &'static Confs {
    match phase {
        Phase::PostRead | Phase::ServerRewrite => &request.server.root.confs,
        _ => &request.location.confs,
    }
}

/// Calls the handlers of a phase, starting with that of `from`.
fn run_from(request: &mut Request, from: Resume) -> Option<Step> {
    let Resume { phase, index: first } = from;
    let confs = confs(request, phase);
    let handlers = modules::handlers(phase);
    for (index, (number, handler)) in handlers.iter().enumerate().skip(first) {
        if confs.is_idle(*number) {
            continue;
        }
        match handler(request) {
            Verdict::Next => {}
            verdict => return decide(request, Resume { phase, index }, verdict),
        }
    }
    if phase != Phase::Access {
        return None;
    }
    let verdict = satisfy::conclude(request);
    step(verdict, Resume { phase, index: handlers.len() })
}

/// Handles a verdict: continues with the rest of the phase, unless the verdict ends it.
fn decide(request: &mut Request, at: Resume, verdict: Verdict) -> Option<Step> {
    let verdict = if at.phase == Phase::Access { satisfy::judge(request, verdict) } else { verdict };
    match verdict {
        Verdict::Next => run_from(request, Resume { index: at.index + 1, ..at }),
        verdict => step(verdict, at),
    }
}

/// The step for a verdict; `None`: the next phase decides.
fn step(verdict: Verdict, at: Resume) -> Option<Step> {
    match verdict {
        Verdict::Next | Verdict::Granted => None,
        Verdict::Done(reply) => Some(Step::Answer(reply)),
        Verdict::Pass => Some(Step::Pass),
        Verdict::Wait(pause) => Some(Step::Wait(pause, at)),
    }
}

/// Waits, then continues.
async fn wait(
    request: &mut Request,
    client: &Client<'_>,
    pause: Pause,
    at: Resume,
) -> Result<Option<Step>, Error> {
    let verdict = match pause {
        Pause::Delay { ms, then } => {
            sleep(client, ms).await?;
            then(request)
        }
        Pause::Work(work) => done_or_gone(client, work).await?(request),
        Pause::Call(Call(run)) => match race(run, client.downstream().gone()).await {
            Either::First(then) => then(request),
            Either::Second(()) => return Err(Error::left()),
        },
        Pause::Answer(ask) => Box::pin(nesting::ask(request, client, *ask)).await?,
        Pause::Body(Arrived(then)) => {
            Box::pin(body_file::gather(request, client.downstream())).await?;
            then(request)
        }
    };
    Ok(Some(resume(request, at, verdict)))
}

/// Sleeps, unless the client leaves first.
async fn sleep(client: &Client<'_>, ms: u64) -> Result<(), Error> {
    match race(runtime::sleep(ms), client.downstream().gone()).await {
        Either::First(()) => Ok(()),
        Either::Second(()) => Err(Error::left()),
    }
}

/// Waits for work. If the client leaves meanwhile, work that is still queued behind others is not started; it
/// may have closed only its sending side, so work that is about to start is still done.
async fn done_or_gone(client: &Client<'_>, work: Work) -> Result<Then, Error> {
    let Work { mut run, lane } = work;
    match race(run.as_mut(), client.downstream().gone()).await {
        Either::First(then) => Ok(then),
        Either::Second(()) if lane.is_crowded() => Err(Error::left()),
        Either::Second(()) => Ok(run.await),
    }
}

/// Carries out a reply of our own. `Some`: it leads to another step.
async fn answer(request: &mut Request, client: &mut Client<'_>, reply: Reply) -> Result<Option<Step>, Error> {
    if matches!(reply, Reply::Response(..) | Reply::Redirect(..) | Reply::File(_))
        && request.error_page.status.is_none()
        && !request.body.is_read()
    {
        // A body with invalid framing is refused even if nothing reads it.
        request.body.discard_arrived(client.downstream())?;
    }
    match reply {
        Reply::Status(status) if hangs_up(status) => {
            hang_up(request, client, status);
            Ok(None)
        }
        Reply::Status(status) => Ok(Some(Step::Answer(error_page::reply(request, status)))),
        Reply::Response(response, body) => {
            if let Some(reply) = condition::instead(request, &response, body.as_bytes().len()) {
                return Ok(Some(Step::Answer(reply)));
            }
            send(request, client, *response, &body).await?;
            if body.as_bytes().len() >= LARGE_BYTES {
                // Giving so much memory back to the system takes as long as a dozen requests.
                blocking::detach(Lane::Documents, move || drop(body));
            }
            Ok(None)
        }
        Reply::Redirect(status, target) => {
            let response = redirect::response(request, status, &target);
            if let Some(reply) = error_page::instead(request, status) {
                request.keep(Id::Location, response.headers.get(Id::Location));
                return Ok(Some(Step::Answer(reply)));
            }
            let (response, body) = error_page::of_redirect(request, status, response);
            send(request, client, response, &body).await?;
            Ok(None)
        }
        Reply::Internal { uri, args } => {
            if let Some(reply) = too_many_redirects(request, REDIRECTING) {
                return Ok(Some(Step::Answer(reply)));
            }
            request.uri = uri;
            request.args = args;
            request.route.redirect();
            Ok(Some(from_server(request)))
        }
        Reply::Named(name) => {
            if let Some(reply) = too_many_redirects(request, REDIRECTING) {
                return Ok(Some(Step::Answer(reply)));
            }
            let Some(location) = named(request, name) else {
                return Ok(Some(Step::Answer(Reply::Status(500))));
            };
            if request.uri.is_empty() {
                let what = "empty URI in redirect to named location";
                log::error!(request.error_log(), &*request, "{what} \"{name}\"");
                return Ok(Some(Step::Answer(error_page::last_resort(request, 500))));
            }
            target::enter(request, location);
            request.route.enter_named();
            Ok(Some(within(request)))
        }
        Reply::File(answer) => {
            send_file::send(request, client, answer).await?;
            Ok(None)
        }
        Reply::Hangup(status) => {
            let by_return = Termination::new(Who::Proxy, How::Abort, Moment::Process).by("return");
            request.termination = Some(by_return);
            hang_up(request, client, status);
            Ok(None)
        }
    }
}

/// The named location of the request's server; without one there is a line in the log.
fn named(request: &Request, name: &str) -> Option<&'static Location> {
    let found = request.server.named(name);
    if found.is_none() {
        let name = log::Text(name.as_bytes());
        log::error!(request.error_log(), request, "could not find named location \"{name}\"");
    }
    found
}

/// Closes the connection without a response; the status is for the log.
fn hang_up(request: &mut Request, client: &mut Client<'_>, status: u16) {
    request.keep_alive = false;
    request.response.status = status;
    request.termination.get_or_insert(Termination::new(Who::Proxy, How::Abort, Moment::Process));
    client.abandon();
}

/// Sends a response whose body is in memory.
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
    let mut rest = bytes;
    loop {
        let (step, later) = rest.split_at(rest.len().min(STEP_BYTES));
        client.write(request, step).await?;
        if later.is_empty() {
            return Ok(());
        }
        rest = later;
        // Others get their turn: the kernel would take megabytes in one call, which lasts for milliseconds.
        runtime::yield_now().await;
    }
}

/// A body of this length is freed on another thread.
const LARGE_BYTES: usize = 1024 * 1024;

/// The most of a body that is written at once: about 30 µs.
const STEP_BYTES: usize = 128 * 1024;

const REDIRECTING: &str = "internally redirecting to";

/// Counts a change of the path; `Some`: it exceeds the limit.
fn too_many_redirects(request: &mut Request, doing: &str) -> Option<Reply> {
    if request.route.count_redirect() {
        return None;
    }
    let uri = log::Text(&request.uri);
    let place = request.config.places.name(request.route.led_by.unwrap_or(request.location.span));
    let what = "rewrite or internal redirection cycle";
    log::error!(request.error_log(), &*request, "{what} while {doing} \"{uri}\" in {place}");
    request.keep_alive = false;
    Some(error_page::last_resort(request, 500))
}

/// Handles an error: an error page if nothing has been sent, otherwise the end of the connection.
fn recover(request: &mut Request, client: &mut Client<'_>, error: Error) -> Result<Reply, Error> {
    if let Some(reply) = client.withdraw(request) {
        request.termination = None; // it ends with that reply
        return Ok(reply);
    }
    match error.side {
        Side::Client if error.limit.is_some() => limit::log_limit(request, &error),
        Side::Client => log::info!(request.error_log(), &*request, "{error}"),
        Side::Upstream | Side::Ours => {
            let told = error.told_limit().map(|limit| limit::told(request, limit)).unwrap_or_default();
            log::error!(request.error_log(), &*request, "{error}{told}");
        }
    }
    if error.ends_silently() {
        if !client.has_started() {
            request.response.status = error.status;
        }
        return Err(error);
    }
    if client.has_started() {
        // The response cannot be completed: the client must see that it is cut off.
        client.abandon();
        request.keep_alive = false;
        return Err(error);
    }
    if error.side == Side::Client {
        // Framing is lost, or the client is too slow: a proxied error page must not wait for the body.
        request.keep_alive = false;
        request.body.refuse();
    }
    Ok(error_page::reply(request, error.status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::with_request;

    #[test]
    fn a_pause_goes_on_in_the_phases_behind_it() {
        let phases = |phase| behind(phase).collect::<Vec<_>>();
        assert_eq!(phases(Phase::Preaccess), [Phase::Access, Phase::Precontent, Phase::Content]);
        assert_eq!(phases(Phase::Precontent), [Phase::Content]);
        assert_eq!(phases(Phase::Content), []);
        // no pause comes from the rewrites
        assert_eq!(phases(Phase::Rewrite), []);
    }

    #[test]
    fn a_request_s_future_fits_its_budget() {
        with_request("http { access_log off; server { listen 127.0.0.1:1; } }", "/", |request| {
            let mut client = Client::nobody();
            let size = size_of_val(&handle(request, &mut client, Entry::Client));
            assert!(size <= 1480, "{size}");
        });
    }

    #[test]
    fn a_verdict_asks_for_one_step() {
        let at = Resume { phase: Phase::Access, index: 1 };
        assert!(step(Verdict::Next, at).is_none() && step(Verdict::Granted, at).is_none());
        assert!(matches!(step(Verdict::Pass, at), Some(Step::Pass)));
        let done = step(Verdict::Done(Reply::Status(418)), at);
        assert!(matches!(done, Some(Step::Answer(Reply::Status(418)))));
        let delay = Pause::Delay { ms: 7, then: |_| Verdict::Next };
        let Some(Step::Wait(Pause::Delay { ms, .. }, resume)) = step(Verdict::Wait(delay), at) else {
            panic!("no pause");
        };
        assert_eq!((ms, resume), (7, at));
    }
}
