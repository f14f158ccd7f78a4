//! A service whose connections play scripts: clients on one side, kept connections to upstream servers on the
//! other.
//!
//! The work of a daemon between two sockets is done in memory, so that each test may cut, stop and drop it
//! anywhere. Waits for timers are skipped: an hour's silence takes no time, and a script that has no more
//! steps runs into the timeout meant for it. Touches: nothing outside this process.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use crate::http::h1::{Conn, serve};
use crate::http::{Config, Hooks, Service};
use crate::net::handover::Handover;
use crate::net::open::{self, Place};
use crate::net::transport::Transport;
use crate::net::transport::script::{Script, play};
use crate::proto::h1::chunked::Decoder;
use crate::runtime::{self, Runtime};
use crate::sys::address::SockAddr;
use crate::upstream::GroupState;
use crate::upstream::pool::{Connection, Tag};

/// A service with its configuration, which is never freed, as a worker's is not.
#[derive(Clone)]
pub(in crate::http) struct Stage {
    pub service: Service,
    /// The idle connections that have been given away.
    pub handed_over: Rc<RefCell<Vec<Handover>>>,
}

/// Runs a test with a service of these directives of an `http` block, in a loop of its own.
pub(in crate::http) fn run<T: Send + 'static>(
    directives: &'static str,
    test: impl AsyncFnOnce(Stage) -> T + Send + 'static,
) -> T {
    // A thread of its own: the drain state of a worker is a thread's, and never goes back.
    let on_stage = move || {
        Runtime::new().unwrap().block_on(async move {
            runtime::skip_waits();
            test(Stage::new(directives)).await
        })
    };
    match std::thread::spawn(on_stage).join() {
        Ok(outcome) => outcome,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

impl Stage {
    fn new(directives: &str) -> Self {
        let config =
            super::config(&format!("http {{ access_log off; error_log stderr emerg; {directives} }}"));
        let config: &'static Config = Box::leak(Box::new(config));
        let handed_over = Rc::<RefCell<Vec<Handover>>>::default();
        let list = Rc::clone(&handed_over);
        let hand_over = move |_, handover: &Handover| {
            list.borrow_mut().push(handover.clone());
            Ok(())
        };
        let hooks = Hooks { hand_over: Box::new(hand_over), hand_over_tunnel: Box::new(|_, _| {}) };
        Self { service: Service::new(config, hooks), handed_over }
    }

    /// A connection that the first listener has accepted.
    pub fn accept(&self, transport: Transport) -> Conn {
        let peer = SockAddr::Inet(([127, 0, 0, 1], 9).into());
        Conn::new(transport, self.service, &self.service.config().listens[0], peer, 1)
    }

    /// The bytes that one client gets until the service closes the connection, at the latest when the client
    /// has been silent for too long.
    pub async fn serve(&self, plays: impl FnOnce(&Script) -> &Script) -> Vec<u8> {
        let (transport, client) = play();
        plays(&client);
        serve(self.accept(transport)).await;
        assert!(client.is_closed());
        client.written()
    }

    /// Like [`Stage::serve`], in a task of its own.
    pub fn spawn(&self) -> Script {
        let (transport, client) = play();
        runtime::spawn(serve(self.accept(transport)));
        client
    }

    /// The state of the upstream group `u`.
    pub fn group(&self) -> &'static Rc<GroupState> {
        self.service.worker().upstreams.find("u", None, false).expect("an upstream block u")
    }

    /// The peer's side of an idle connection to the first server of group `u`, which its next request will
    /// use.
    pub fn upstream(&self) -> Script {
        self.upstream_at(0)
    }

    /// The same for another server of the group.
    pub fn upstream_at(&self, index: usize) -> Script {
        let (transport, upstream) = play();
        let peer = Rc::clone(&self.group().set().levels[0].peers[index]);
        let opened_ms = runtime::now_ms();
        self.group().give(Box::new(Connection {
            transport,
            place: Place::new(),
            peer,
            terms: None,
            tag: Tag::default(),
            requests: 1,
            opened_ms,
            is_single: false,
            reused: false,
            client: None,
            timer: runtime::Timer::new(),
        }));
        upstream
    }
}

/// Polls a future this many times, then drops it unless it has ended.
pub(in crate::http) async fn polled<T>(
    mut future: Pin<Box<dyn Future<Output = T>>>,
    count: usize,
) -> Option<T> {
    let mut left = count;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Drops the future that `begin` makes at its first wait, at its second one, and so on, until one completes;
/// returns how many were dropped. After each of them no client's connection may be left, and `check` is
/// called; in the end no timer may be left.
pub(in crate::http) async fn dropped_at_every_wait<S>(
    mut begin: impl AsyncFnMut() -> (Pin<Box<dyn Future<Output = ()>>>, S),
    mut check: impl FnMut(S),
) -> usize {
    let timers = runtime::timer_count();
    for count in 1.. {
        let (future, scripts) = begin().await;
        let has_ended = pin!(polled(future, count)).await.is_some();
        assert_eq!(open::count(), 0, "after {count} polls");
        check(scripts);
        if has_ended {
            runtime::sleep(300_000).await; // longer than any connection is kept
            let left = runtime::timer_count();
            assert!(left <= timers + 1, "{left} timers"); // one is the pool's
            return count - 1;
        }
    }
    unreachable!("a future ends")
}

/// A parsed response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::http) struct Answer {
    pub status: u16,
    /// Without the date.
    pub head: String,
    /// Without its framing.
    pub body: Vec<u8>,
    /// It is complete, by its length or its last chunk.
    pub is_whole: bool,
}

/// The responses to a client's requests, none of which may be HEAD. The last one may be cut, which its
/// `is_whole` tells.
pub(in crate::http) fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let (answer, used) = answer(bytes);
        answers.push(answer);
        bytes = &bytes[used..];
    }
    answers
}

fn answer(bytes: &[u8]) -> (Answer, usize) {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        let head = String::from_utf8_lossy(bytes).into_owned();
        return (Answer { head, ..Answer::default() }, bytes.len());
    };
    let lines = std::str::from_utf8(&bytes[..end]).unwrap();
    let head: Vec<&str> = lines.split("\r\n").filter(|line| !line.starts_with("Date: ")).collect();
    let status = head[0].split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
    let length = head.iter().find_map(|line| line.strip_prefix("Content-Length: "));
    let is_bodiless = matches!(status, 100..200 | 204 | 304);
    let mut answer = Answer { status, head: head.join("\r\n"), ..Answer::default() };
    let rest = &bytes[end + 4..];
    let mut used = 0;
    if is_bodiless {
        answer.is_whole = true;
    } else if let Some(length) = length {
        let length: usize = length.parse().unwrap();
        used = length.min(rest.len());
        answer.body = rest[..used].to_vec();
        answer.is_whole = used == length;
    } else if head.contains(&"Transfer-Encoding: chunked") {
        let mut decoder = Decoder::default();
        while used < rest.len() && !decoder.is_done() {
            let step = decoder.decode(&rest[used..]).expect("chunks");
            answer.body.extend_from_slice(&rest[used..][step.data.unwrap_or(0..0)]);
            used += step.consumed;
        }
        answer.is_whole = decoder.is_done();
    } else {
        (answer.body, used) = (rest.to_vec(), rest.len());
    }
    (answer, end + 4 + used)
}

/// The statuses of these responses.
pub(in crate::http) fn statuses(bytes: &[u8]) -> Vec<u16> {
    answers(bytes).iter().map(|answer| answer.status).collect()
}
