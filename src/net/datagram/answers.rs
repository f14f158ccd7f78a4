//! Answers to the clients of one socket: those of all sessions of a turn leave together.
//!
//! A turn ends before the worker waits, so no answer is late for this. Touches: the listening socket.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use socket2::SockRef;

use crate::log;
use crate::runtime::waiters::Waiters;
use crate::runtime::{self, Io};
use crate::sys::datagrams::{self, BYTES_MAX, Mark, Outbox, send_burst};
use crate::sys::retire;

/// Answers that wait for the end of a turn; with more, they leave at once.
const COUNT_MAX: usize = 64;

/// The bytes of these answers: the same.
const WAITING_BYTES_MAX: usize = 256 * 1024;

/// Bursts of this length are sent by themselves, which saves a copy; shorter ones share a system call with others.
const DIRECT_BYTES_MIN: usize = 16 * 1024;

/// A listening socket and the answers that are to be sent with it.
#[derive(Debug)]
pub struct Answers {
    pub io: Io,
    waiting: RefCell<Outbox>,
    /// The longest datagrams that leave in bursts.
    burst_max: Cell<usize>,
    /// In the list of those to be sent at the end of the turn.
    is_due: Cell<bool>,
    /// The socket has no room: a task waits for it.
    is_blocked: Cell<bool>,
    /// Answers were lost since then, and the log says so.
    has_lost: Cell<bool>,
    /// Tasks that wait for room instead of losing answers.
    for_space: RefCell<Waiters>,
}

thread_local! {
    static DUE: RefCell<Vec<Rc<Answers>>> = const { RefCell::new(Vec::new()) };
    static IS_HOOKED: Cell<bool> = const { Cell::new(false) };
}

/// Sends what waits on all sockets. Called at the end of a turn.
fn send_due() {
    let mut due = DUE.take();
    for answers in due.drain(..) {
        answers.is_due.set(false);
        answers.send();
    }
    // Kept for its capacity; sending adds nothing to the list.
    DUE.set(due);
}

impl Answers {
    /// Called inside the runtime of a worker.
    pub fn new(fd: OwnedFd) -> io::Result<Rc<Self>> {
        let io = Io::register(fd)?;
        if !IS_HOOKED.replace(true) {
            runtime::at_turn_end(send_due);
        }
        Ok(Rc::new(Self {
            io,
            waiting: RefCell::default(),
            burst_max: Cell::new(BYTES_MAX),
            is_due: Cell::new(false),
            is_blocked: Cell::new(false),
            has_lost: Cell::new(false),
            for_space: RefCell::default(),
        }))
    }

    /// Sends a datagram to a client before the turn ends, from the address that the client had sent to, if the socket
    /// listens on several. If the kernel has no room for it, it is lost, as it could be on its way.
    pub fn push(self: &Rc<Self>, bytes: &[u8], to: SocketAddr, from: Option<IpAddr>) {
        self.push_marked(bytes, to, from, 0);
    }

    /// The same for a datagram with a mark of congestion control.
    pub fn push_marked(self: &Rc<Self>, bytes: &[u8], to: SocketAddr, from: Option<IpAddr>, mark: Mark) {
        if !self.has_room(bytes.len()) {
            self.send();
        }
        if !self.has_room(bytes.len()) {
            if !self.has_lost.replace(true) {
                log::info!(
                    log::process(),
                    &(),
                    "sendmmsg() has no room for answers to udp clients: some are dropped, \"sndbuf\" of \"listen\" \
                     gives the socket more"
                );
            }
            return;
        }
        self.waiting.borrow_mut().push_marked(bytes, Some((to, from)), mark);
        self.send_later();
    }

    /// Sends a burst: datagrams of the length `segment`, of which the last may be shorter, at most as many as [`send_burst`]
    /// takes. A long one leaves at once, without being copied, behind those that wait. The caller has seen that there is
    /// [space](Self::poll_space), so none is lost for want of it.
    pub fn push_burst(
        self: &Rc<Self>,
        bytes: &[u8],
        segment: usize,
        (to, from): (SocketAddr, Option<IpAddr>),
        mark: Mark,
    ) {
        if bytes.len() >= DIRECT_BYTES_MIN && segment <= self.burst_max.get() {
            self.send();
            if self.waiting.borrow().is_empty()
                && let Ok(segment) = u16::try_from(segment)
                && let Ok(()) = self.io.try_send(|fd| send_burst(fd, bytes, segment, Some((to, from)), mark))
            {
                return;
            }
        } else if !self.has_room(bytes.len()) {
            self.send();
        }
        let mut waiting = self.waiting.borrow_mut();
        bytes.chunks(segment.max(1)).for_each(|bytes| waiting.push_marked(bytes, Some((to, from)), mark));
        drop(waiting);
        self.send_later();
    }

    fn send_later(self: &Rc<Self>) {
        if !self.is_due.replace(true) {
            DUE.with_borrow_mut(|due| due.push(Rc::clone(self)));
        }
    }

    /// Has the kernel tell the marks of datagrams that arrive.
    pub fn read_marks(&self) {
        datagrams::read_marks(&SockRef::from(&self.io.as_fd()));
    }

    /// True if the master has left the socket to workers that have connections there.
    pub fn is_left(&self) -> bool {
        retire::is_left(self.io.as_fd())
    }

    /// Lets equal datagrams leave in bursts, or not.
    pub fn set_bursts(&self, may_be_sent: bool) {
        self.burst_max.set(if may_be_sent { BYTES_MAX } else { 0 });
    }

    /// Ready while the socket takes answers.
    pub fn poll_space(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_blocked.get() {
            return Poll::Ready(());
        }
        self.for_space.borrow_mut().add(cx);
        Poll::Pending
    }

    fn has_room(&self, bytes: usize) -> bool {
        let waiting = self.waiting.borrow();
        waiting.count() < COUNT_MAX && waiting.bytes() + bytes <= WAITING_BYTES_MAX
    }

    /// Sends what waits at once: the worker may end with this turn.
    pub fn flush(self: &Rc<Self>) {
        self.send();
    }

    fn send(self: &Rc<Self>) {
        if self.is_blocked.get() {
            return;
        }
        let mut waiting = self.waiting.borrow_mut();
        let mut burst_max = self.burst_max.get();
        while let Some((_, route)) = waiting.first() {
            let count = match self.io.try_send(|fd| waiting.send(fd, &mut burst_max)) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_blocked.set(true);
                    runtime::spawn(Rc::clone(self).unblock());
                    break;
                }
                Err(error) => {
                    let to = route.map(|(to, _)| to.to_string()).unwrap_or_default();
                    log::info!(
                        log::process(),
                        &(),
                        "sendmmsg() failed {} while sending to udp client {to}",
                        log::Cause(&error)
                    );
                    1
                }
            };
            waiting.skip(count, true);
        }
        self.burst_max.set(burst_max);
    }

    /// Waits until the socket has room.
    async fn unblock(self: Rc<Self>) {
        let _ = self.io.writable().await;
        self.is_blocked.set(false);
        self.has_lost.set(false);
        self.send();
        if !self.is_blocked.get() {
            let waiting = self.for_space.borrow_mut().take();
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::runtime::Runtime;
    use crate::sys::address::SockAddr;
    use crate::sys::datagrams::gather;
    use crate::sys::socket::{ListenOptions, listen};

    fn socket() -> OwnedFd {
        let any = SockAddr::Datagram(Box::new("127.0.0.1:0".parse().expect("an address")));
        listen(&any, &ListenOptions::default()).expect("a socket")
    }

    fn client() -> (UdpSocket, SocketAddr) {
        let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        client.set_nonblocking(true).expect("set");
        let address = client.local_addr().expect("bound");
        (client, address)
    }

    fn received(client: &UdpSocket) -> Vec<Vec<u8>> {
        let mut buffer = vec![0; BYTES_MAX];
        std::iter::from_fn(|| client.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec())).collect()
    }

    #[test]
    fn answers_of_a_turn_leave_at_its_end_in_their_order() {
        let ((one, to_one), (two, to_two)) = (client(), client());
        Runtime::new().expect("a loop").block_on(async move {
            let answers = Answers::new(socket()).expect("registered");
            for text in ["a", "b", ""] {
                answers.push(text.as_bytes(), to_one, None);
                answers.push(text.as_bytes(), to_two, None);
            }
            assert!(received(&one).is_empty());
            runtime::yield_now().await;
            for client in [&one, &two] {
                assert_eq!(received(client), [b"a".to_vec(), b"b".to_vec(), Vec::new()]);
            }
        });
    }

    #[test]
    fn a_long_burst_leaves_at_once_behind_those_that_wait() {
        let burst: Vec<u8> = (0..DIRECT_BYTES_MIN + 300).map(|at| (at % 251) as u8).collect();
        let (one, to_one) = client();
        gather(&SockRef::from(&one));
        Runtime::new().expect("a loop").block_on(async move {
            let answers = Answers::new(socket()).expect("registered");
            answers.push(b"first", to_one, None);
            answers.push_burst(&burst, 1000, (to_one, None), 0);
            assert_eq!(received(&one), [b"first", &burst[..]], "one message, as it was sent");
            answers.set_bursts(false);
            answers.push_burst(&burst, 1000, (to_one, None), 0);
            assert!(received(&one).is_empty());
            runtime::yield_now().await;
            let datagrams = received(&one);
            assert_eq!((datagrams.len(), datagrams.concat()), (burst.len().div_ceil(1000), burst));
        });
    }

    #[test]
    fn a_burst_that_the_kernel_refuses_leaves_in_shorter_ones() {
        let (one, to_one) = client();
        Runtime::new().expect("a loop").block_on(async move {
            let answers = Answers::new(socket()).expect("registered");
            let burst = vec![1; 140 * 120]; // the kernel takes 128
            let sent = answers.io.try_send(|fd| send_burst(fd, &burst, 120, Some((to_one, None)), 0));
            assert!(sent.is_err());
            answers.push_burst(&burst, 120, (to_one, None), 0);
            runtime::yield_now().await;
            assert_eq!(received(&one).len(), 140);
        });
    }

    #[test]
    fn many_answers_do_not_wait_and_one_that_cannot_be_sent_stops_no_other() {
        let (one, to_one) = client();
        Runtime::new().expect("a loop").block_on(async move {
            let answers = Answers::new(socket()).expect("registered");
            answers.push(b"no port has this number", ([127, 0, 0, 1], 0).into(), None);
            (0..COUNT_MAX).for_each(|_| answers.push(b"x", to_one, None));
            assert_eq!(received(&one).len(), COUNT_MAX - 1);
            runtime::yield_now().await;
            assert_eq!(received(&one).len(), 1);
        });
    }
}
