//! Passing a session on: a group, a peer, a connection to it; then bytes in both directions (`relay.rs`).
//!
//! Touches: the upstream's socket, and the client's to notice that it has gone.
//! Behaviour: nginx.org, ngx_stream_proxy_module.

pub mod exchange;
pub mod ftp;
pub mod relay;
mod target;

use std::rc::Rc;
use std::sync::Arc;

use crate::log;
use crate::net::connect;
use crate::net::open::Place;
use crate::net::tls::client::Terms;
use crate::net::transport::Transport;
use crate::proto::proxy_protocol::Header;
use crate::runtime::{self, timeout};
use crate::script::Scope;
use crate::shared::sticky::Source;
use crate::shared::tls::outgoing;
use crate::stream::modules::proxy::{Conf, HeaderVersion, PREFIX};
use crate::stream::pipeline::Plain;
use crate::stream::session::Session;
use crate::upstream::session::Outcome;
use crate::upstream::trace::Action;
use crate::upstream::{self, GroupState, Peer};

/// A connection to the peer that serves a session.
#[derive(Debug)]
pub struct Upstream {
    pub transport: Transport,
    pub place: Place,
    /// `None`: the group of a session that has come from another process is not configured any more.
    pub course: Option<Course>,
    /// Peers are compared by the time to connect.
    by_connect: bool,
}

/// The session's course through its group once there is a connection, which it counts.
#[derive(Debug)]
pub enum Course {
    Resting(upstream::Resting),
    /// It hears how long its turn takes, and how it ends.
    Noted(Box<upstream::Session>),
}

impl Course {
    fn of(mut course: upstream::Session) -> Self {
        course.rest().map_or_else(|| Self::Noted(Box::new(course)), Self::Resting)
    }

    /// The name of the group.
    pub fn group_name(&self) -> &str {
        match self {
            Self::Resting(resting) => resting.group_name(),
            Self::Noted(course) => course.group_name(),
        }
    }

    fn has_lost_peer(&self) -> bool {
        match self {
            Self::Resting(resting) => resting.has_lost_peer(runtime::now_ms()),
            Self::Noted(course) => course.has_lost_peer(runtime::now_ms()),
        }
    }

    /// The course, if its peer's times are compared with others'.
    fn timed(&mut self) -> Option<&mut upstream::Session> {
        match self {
            Self::Resting(_) => None,
            Self::Noted(course) => Some(&mut **course).filter(|course| course.is_timed()),
        }
    }

    /// Notes the times of a session that ends, if they are compared. `by_connect`: the time to connect counts, not that to the
    /// first byte.
    fn note_end(&mut self, session: &mut Session, by_connect: bool) {
        let Some(course) = self.timed() else { return };
        let attempt = session.upstream.last();
        let first_us = if by_connect { attempt.connect_us } else { attempt.header_us };
        if let Some(first_us) = first_us.get() {
            course.note_end(first_us, attempt.response_us());
        }
    }
}

impl Upstream {
    /// A connection that another process has made.
    pub fn resumed(
        session: &Session,
        transport: Transport,
        place: Place,
        course: Option<upstream::Session>,
        group: Option<&GroupState>,
    ) -> Self {
        let selection = group.and_then(|group| session.config().tables.upstream.selection(&group.group));
        let by_connect = selection.is_some_and(|selection| selection.by_connect);
        Self { transport, place, course: course.map(Course::of), by_connect }
    }
}

/// True if a session must end because its server is gone (`proxy_session_drop`), which is logged.
fn must_drop(session: &Session, has_lost_peer: impl FnOnce() -> bool) -> bool {
    let must_drop = session.server.confs.proxy.drops_sessions() && has_lost_peer();
    if must_drop {
        log::info!(
            session.logger(),
            session,
            "the session ends, since its server was removed or is unavailable (\"proxy_session_drop\")"
        );
    }
    must_drop
}

/// The search for a peer that serves a session.
pub struct Search {
    conf: &'static Conf,
    group: Rc<GroupState>,
    /// The terms of TLS; `None`: connections are plain.
    terms: Option<Arc<Terms>>,
    /// The host that the group is written as, for these terms.
    host: String,
    options: Box<connect::Options>,
    course: upstream::Session,
    by_connect: bool,
    /// For a sticky group: its table, and the client's key in it.
    binding: Option<(&'static Source, Vec<u8>)>,
    started_ms: u64,
}

/// Connects a session to a peer of its server's upstream; also returns the terms of TLS with it. Errors: the status with which the session ends.
pub async fn connect(
    session: &mut Session,
    client: &Transport,
) -> Result<(Box<Upstream>, Option<Arc<Terms>>), u16> {
    let mut search = Search::begin(session, Some(client)).await?;
    let (transport, place) = search.connect(session).await?;
    let Search { course, by_connect, terms, .. } = search;
    Ok((Box::new(Upstream { transport, place, course: Some(Course::of(course)), by_connect }), terms))
}

impl Search {
    /// Finds the group. `client`: the connection that may go away meanwhile.
    pub async fn begin(session: &mut Session, client: Option<&Transport>) -> Result<Self, u16> {
        let conf: &'static Conf = &session.server.confs.proxy;
        let (group, host) = target::find(session, client).await?;
        let layer = conf.layer().filter(|_| !session.is_udp());
        let terms = layer.map(|layer| layer.terms(session, &host));
        let options = Box::new(conf.connect_options(session));
        session.upstream.begin_pass();
        let mut course = upstream::Session::new(&group, conf.next_upstream_tries());
        let selection = session.config().tables.upstream.selection(&group.group);
        if let Some(selection) = selection {
            course = selection.key.give(session, course);
        }
        let sticky = selection.and_then(|selection| selection.sticky.as_ref());
        let binding = sticky.map(|sticky| (&sticky.source, sticky.source.key(session.peer())));
        let binding = binding.filter(|(_, key)| !key.is_empty());
        if let Some((source, key)) = &binding
            && let Some(bound) = source.bindings.find(key, runtime::now_ms())
        {
            course = course.prefer(bound);
        }
        if std::mem::take(&mut session.values.gave_up) {
            return Err(500);
        }
        if let Some(rule) = group.group.retries {
            group.retries.earn(rule);
        }
        let by_connect = selection.is_some_and(|selection| selection.by_connect);
        let started_ms = runtime::now_ms();
        Ok(Self { conf, group, terms, host, options, course, by_connect, binding, started_ms })
    }

    /// Connects to the next peer that can be reached. Errors: the status with which the session ends.
    pub async fn connect(&mut self, session: &mut Session) -> Result<(Transport, Place), u16> {
        loop {
            let peer = self.pick(session)?;
            self.suit(session);
            let terms = (self.conf, self.terms.as_ref());
            match attempt(session, terms, &self.options, (&self.group, &peer)).await {
                Ok((transport, place)) => {
                    self.connected(session, &transport);
                    return Ok((transport, place));
                }
                Err(Failure::Ours(status)) => return Err(status),
                Err(Failure::Peer) => {}
            }
            if !self.goes_on(session) {
                return Err(502);
            }
        }
    }

    /// Evaluates what depends on the peer that was chosen.
    fn suit(&mut self, session: &mut Session) {
        if self.conf.binds_anew() {
            *self.options = self.conf.connect_options(session);
        }
        if let (Some(terms), Some(layer)) = (&mut self.terms, self.conf.layer())
            && self.conf.names_depend_on_peer()
        {
            *terms = layer.terms(session, &self.host);
        }
    }

    fn pick(&mut self, session: &mut Session) -> Result<Rc<Peer>, u16> {
        let picked = self.course.pick(runtime::now_ms());
        if let Some(ejection) = self.course.take_ejection() {
            let (seconds, reason) = (ejection.time_ms / 1000, ejection.reason);
            let (peer, name) = (&ejection.peer.name, &self.group.group.name);
            log::warn!(
                session.logger(),
                &*session,
                "upstream server {peer} of \"{name}\" is ejected for {seconds} s: {reason}"
            );
        }
        let Some(peer) = picked else {
            session.upstream.begin(None, &self.group).status = 502;
            session.upstream.action = Some(Action::Connecting);
            log::error!(session.logger(), &*session, "no live upstreams");
            return Err(502);
        };
        if let Some((source, key)) = &self.binding {
            // At once: a client's further connections may come before this one is open.
            source.bindings.bind(key, &peer, runtime::now_ms());
        }
        session.upstream.begin(Some(Rc::clone(&peer)), &self.group);
        session.upstream.action = Some(Action::Connecting);
        Ok(peer)
    }

    /// The peer has failed. True if another one may be tried.
    pub fn goes_on(&mut self, session: &mut Session) -> bool {
        session.upstream.last().status = 502;
        session.upstream.end();
        self.fail(session);
        let limit_ms = self.conf.next_upstream_timeout_ms();
        let is_late = limit_ms > 0 && runtime::now_ms().saturating_sub(self.started_ms) >= limit_ms;
        let may_go_on = self.course.tries_left() > 0 && self.conf.next_upstream() && !is_late;
        may_go_on && retries(session, &self.group)
    }

    /// Counts a failure of the peer.
    fn fail(&mut self, session: &Session) {
        fail(&mut self.course, session);
    }

    /// The course with the peer that was found.
    pub fn into_course(self) -> upstream::Session {
        self.course
    }
}

/// Counts a failure of a session's peer.
pub fn fail(course: &mut upstream::Session, session: &Session) {
    if course.finish(Outcome::Failed, runtime::now_ms()) {
        log::warn!(session.logger(), session, "upstream server temporarily disabled");
    }
}

/// Counts a retry. False: the group has had its share.
fn retries(session: &Session, group: &GroupState) -> bool {
    let Some(rule) = group.group.retries else { return true };
    let is_left = group.retries.spend(rule, runtime::now_ms());
    if !is_left {
        let name = &group.group.name;
        log::warn!(
            session.logger(),
            session,
            "no other server is tried: more than {} % of the sessions of \"{name}\" were repeated; \"retry_budget\" \
             permits no more",
            rule.percent
        );
    }
    is_left
}

/// Why a peer's turn is over before it began.
enum Failure {
    /// This worker is to blame, and another peer would not help.
    Ours(u16),
    Peer,
}

/// Opens a connection to a peer, up to the first byte that is the client's.
async fn attempt(
    session: &mut Session,
    (conf, terms): (&Conf, Option<&Arc<Terms>>),
    options: &connect::Options,
    (group, peer): (&GroupState, &Rc<Peer>),
) -> Result<(Transport, Place), Failure> {
    log::debug!(session.logger(), &*session, "trying {} of \"{}\"", peer.name, group.group.name);
    let started_us = runtime::now_us();
    let opened = connect::open(&peer.address, options, conf.connect_timeout_ms()).await;
    let (mut transport, place) = match opened {
        Ok(opened) => opened,
        Err(refusal) => {
            log::error!(session.logger(), &*session, "{refusal}");
            return Err(if refusal.is_ours() { Failure::Ours(500) } else { Failure::Peer });
        }
    };
    if let Some(version) = conf.header_version() {
        let header = proxy_header(session, version);
        let sent = timeout(conf.timeout_ms(), transport.write_all(&header)).await;
        if !matches!(sent, Ok(Ok(()))) {
            log::error!(session.logger(), &*session, "the PROXY header could not be sent");
            return Err(Failure::Peer);
        }
        session.upstream.last().sent += header.len() as u64;
    }
    let spent_us = runtime::now_us().saturating_sub(started_us);
    session.upstream.last().connect_us = spent_us.into();
    if let Some(terms) = terms {
        let left_ms = conf.connect_timeout_ms().saturating_sub(spent_us / 1000);
        Box::pin(secure(session, &mut transport, (conf, terms), (group, peer), left_ms)).await?;
    }
    Ok((transport, place))
}

/// Encrypts a connection to a peer.
async fn secure(
    session: &mut Session,
    transport: &mut Transport,
    (conf, terms): (&Conf, &Arc<Terms>),
    (group, peer): (&GroupState, &Rc<Peer>),
    left_ms: u64,
) -> Result<(), Failure> {
    session.upstream.action = Some(Action::Handshaking);
    let place = format!("stream {} {}", group.group.name, peer.name);
    let made = outgoing::secure(conf.layer(), transport, terms, (PREFIX, &place), left_ms).await;
    made.map_err(|failure| match failure {
        outgoing::Failure::Ours(why) => {
            log::error!(session.logger(), &*session, "{why}");
            Failure::Ours(500)
        }
        outgoing::Failure::Peer(why) => {
            log::error!(session.logger(), &*session, "{why}");
            Failure::Peer
        }
        outgoing::Failure::TimedOut => {
            log::error!(session.logger(), &*session, "upstream timed out (110: Connection timed out)");
            Failure::Peer
        }
    })
}

impl Search {
    /// The connection is there: the log and the balancer hear of it.
    fn connected(&mut self, session: &mut Session, transport: &Transport) {
        let attempt = session.upstream.last();
        attempt.status = 200;
        self.course.note_connected();
        let connect_us = attempt.connect_us.get().unwrap_or(0);
        if self.by_connect {
            self.course.note_head(connect_us, runtime::now_ms());
        }
        session.upstream.action = None;
        session.action = "proxying connection";
        // The kernel is asked for the address only if the line is written.
        log::info!(
            session.logger(),
            &Plain(session),
            "{}proxy {} connected to {}",
            if session.is_udp() { "udp " } else { "" },
            transport.local_addr().map_or_else(String::new, |local| local.to_string()),
            session.upstream.peer_name().unwrap_or_default()
        );
    }
}

/// The header that names the client to a peer, in nginx's words.
pub fn proxy_header(session: &Session, version: HeaderVersion) -> Vec<u8> {
    let addresses = session.peer.inet().copied().zip(session.local.inet().copied());
    let header = Header { addresses, tlvs: Box::default() };
    let mut out = Vec::new();
    match version {
        HeaderVersion::One => header.write_line(&mut out),
        HeaderVersion::Two => header.write(&mut out),
    }
    out
}
