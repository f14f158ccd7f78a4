//! A connection without a socket, for tests: it plays a script, step by step.
//!
//! One script says what arrives from the peer, another what the peer takes; the test holds a [`Script`] and
//! the code under test the [`Transport`]. Time does not pass in a script: a pause is one poll that finds
//! nothing, after which the task is woken at once. After the end of a script nothing more arrives, and
//! everything is taken.
//! Touches: memory.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use crate::net::transport::Transport;
use crate::runtime;

/// The cost of a poll that moves bytes, like that of a system call.
const CALL_WORK: u32 = runtime::POLL_WORK / 32;

/// A step of the arriving data.
#[derive(Debug)]
enum Arrival {
    /// Never empty. A read with less room leaves the rest.
    Bytes(Vec<u8>),
    /// One poll finds nothing; the next step has arrived by the following poll.
    Pause,
    /// Nothing arrives until these bytes have been written, after the ones awaited before.
    Until(Vec<u8>),
    /// The peer has closed its direction. This stays the last step.
    End,
    /// The connection is lost, in both directions.
    Reset,
}

/// The room that the peer has for one write.
#[derive(Clone, Copy, Debug)]
enum Room {
    AtMost(usize),
    /// One write finds no room.
    Pause,
    /// No room from here on, until [`Script::drains`].
    Full,
}

#[derive(Debug, Default)]
struct State {
    arrivals: VecDeque<Arrival>,
    rooms: VecDeque<Room>,
    written: Vec<u8>,
    /// Where the search for the next [`Arrival::Until`] begins in them.
    seen: usize,
    write_count: usize,
    is_shut: bool,
    is_dropped: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Creates a transport that plays a script, and the script.
pub fn play() -> (Transport, Script) {
    let state = Rc::default();
    (Transport::Scripted(Player(Rc::clone(&state))), Script(state))
}

/// The test's side. Steps may be added while the transport is in use; its waiting task is then woken.
#[derive(Clone, Debug)]
pub struct Script(Rc<RefCell<State>>);

impl Script {
    /// The peer sends these bytes in one piece.
    pub fn sends(&self, data: &[u8]) -> &Self {
        match data {
            b"" => self,
            _ => self.arrives(Arrival::Bytes(data.to_vec())),
        }
    }

    /// The peer sends these bytes in two pieces, split at `cut`, with a pause between them.
    pub fn sends_cut(&self, data: &[u8], cut: usize) -> &Self {
        self.sends(&data[..cut]).pauses().sends(&data[cut..])
    }

    /// The peer sends each byte alone, with a pause before it.
    pub fn drips(&self, data: &[u8]) -> &Self {
        data.chunks(1).fold(self, |script, byte| script.pauses().sends(byte))
    }

    /// One poll finds nothing.
    pub fn pauses(&self) -> &Self {
        self.arrives(Arrival::Pause)
    }

    /// The peer waits until it has received these bytes, after the ones it awaited before: the end of a request's head,
    /// for example.
    pub fn awaits(&self, bytes: &[u8]) -> &Self {
        self.arrives(Arrival::Until(bytes.to_vec()))
    }

    /// The peer closes its direction, but still takes our bytes.
    pub fn ends(&self) -> &Self {
        self.arrives(Arrival::End)
    }

    /// The peer resets the connection.
    pub fn resets(&self) -> &Self {
        self.arrives(Arrival::Reset)
    }

    /// The next write is taken, up to this many bytes.
    pub fn takes(&self, count: usize) -> &Self {
        self.has_room(Room::AtMost(count))
    }

    /// The next write finds no room, the one after it does.
    pub fn blocks(&self) -> &Self {
        self.has_room(Room::Pause)
    }

    /// From here on nothing is taken, until [`Script::drains`].
    pub fn is_full(&self) -> &Self {
        self.has_room(Room::Full)
    }

    /// Each of the next `count` writes first finds no room and then takes one byte.
    pub fn sips(&self, count: usize) -> &Self {
        (0..count).fold(self, |script, _| script.blocks().takes(1))
    }

    /// Clears the script of what the peer takes: from now on it takes everything.
    pub fn drains(&self) {
        let mut state = self.0.borrow_mut();
        state.rooms.clear();
        let writer = state.writer.take();
        drop(state);
        wake(writer);
    }

    /// The bytes taken so far.
    pub fn written(&self) -> Vec<u8> {
        self.0.borrow().written.clone()
    }

    /// The number of writes in which they were taken.
    pub fn write_count(&self) -> usize {
        self.0.borrow().write_count
    }

    /// Number of the script's bytes that were not read.
    pub fn unread(&self) -> usize {
        let of = |step: &Arrival| if let Arrival::Bytes(bytes) = step { bytes.len() } else { 0 };
        self.0.borrow().arrivals.iter().map(of).sum()
    }

    /// True when the code under test has closed its sending direction.
    pub fn is_shut(&self) -> bool {
        self.0.borrow().is_shut
    }

    /// True when the transport was dropped.
    pub fn is_closed(&self) -> bool {
        self.0.borrow().is_dropped
    }

    fn arrives(&self, step: Arrival) -> &Self {
        let mut state = self.0.borrow_mut();
        state.arrivals.push_back(step);
        let (reader, writer) = (state.reader.take(), state.writer.take());
        drop(state);
        wake(reader);
        wake(writer); // a reset ends its wait too
        self
    }

    fn has_room(&self, step: Room) -> &Self {
        self.0.borrow_mut().rooms.push_back(step);
        self
    }
}

impl State {
    /// The next step of the arriving data. `None`: the peer waits, or the script is over.
    fn next(&mut self) -> Option<&mut Arrival> {
        while let Some(Arrival::Until(awaited)) = self.arrivals.front() {
            let at = memchr::memmem::find(&self.written[self.seen..], awaited)?;
            self.seen += at + awaited.len();
            self.arrivals.pop_front();
        }
        self.arrivals.front_mut()
    }

    fn is_reset(&mut self) -> bool {
        matches!(self.next(), Some(Arrival::Reset))
    }
}

/// The transport's side: the methods that [`Transport`] has.
#[derive(Debug)]
pub struct Player(Rc<RefCell<State>>);

impl Player {
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.0.borrow_mut();
        match state.next() {
            None | Some(Arrival::Until(_)) => Err(io::ErrorKind::WouldBlock.into()),
            Some(Arrival::Pause) => {
                state.arrivals.pop_front();
                Err(io::ErrorKind::WouldBlock.into())
            }
            Some(Arrival::End) => Ok(0),
            Some(Arrival::Reset) => Err(io::ErrorKind::ConnectionReset.into()),
            Some(Arrival::Bytes(bytes)) => {
                let count = bytes.len().min(buffer.len());
                buffer[..count].copy_from_slice(&bytes[..count]);
                bytes.drain(..count);
                if bytes.is_empty() {
                    state.arrivals.pop_front();
                }
                Ok(count)
            }
        }
    }

    pub(super) fn poll_budget(&self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(runtime::poll_budget(cx));
        runtime::charge(CALL_WORK);
        Poll::Ready(())
    }

    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_budget(cx));
        if self.skip_pause(cx) {
            return Poll::Pending;
        }
        match self.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(cx),
            outcome => Poll::Ready(outcome),
        }
    }

    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.skip_pause(cx) {
            return Poll::Pending;
        }
        let has_next = self.0.borrow_mut().next().is_some();
        if has_next { Poll::Ready(Ok(())) } else { self.wait(cx) }
    }

    pub(super) fn poll_hangup(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_hung_up() {
            return Poll::Ready(());
        }
        // Skip also a pause behind unread bytes: only the end is of interest.
        let mut state = self.0.borrow_mut();
        state.next();
        let stop = state.arrivals.iter().position(|step| matches!(step, Arrival::Pause | Arrival::Until(_)));
        let Some(index) = stop.filter(|index| matches!(state.arrivals[*index], Arrival::Pause)) else {
            drop(state);
            return self.wait(cx);
        };
        state.arrivals.remove(index);
        drop(state);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Like a socket, it reports the end even while bytes before it are unread.
    pub(super) fn is_hung_up(&self) -> bool {
        let mut state = self.0.borrow_mut();
        state.next();
        let is_here = |step: &&Arrival| !matches!(step, Arrival::Pause | Arrival::Until(_));
        let mut arrived = state.arrivals.iter().take_while(is_here);
        arrived.any(|step| matches!(step, Arrival::End | Arrival::Reset))
    }

    pub(super) fn is_quiet(&self) -> bool {
        matches!(self.0.borrow_mut().next(), None | Some(Arrival::Pause))
    }

    pub(super) fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        self.try_write_vectored(&[IoSlice::new(data)])
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.0.borrow_mut();
        assert!(!state.is_shut, "written behind the end");
        if state.is_reset() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let mut room = match state.rooms.front() {
            None => usize::MAX,
            Some(Room::Full) => return Err(io::ErrorKind::WouldBlock.into()),
            Some(Room::Pause) => 0,
            Some(Room::AtMost(count)) => *count,
        };
        state.rooms.pop_front();
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.write_count += 1;
        let before = state.written.len();
        for slice in slices {
            let part = &slice[..slice.len().min(room)];
            state.written.extend_from_slice(part);
            room -= part.len();
        }
        let count = state.written.len() - before;
        let awaiting = if state.next().is_some() { state.reader.take() } else { None };
        drop(state);
        wake(awaiting); // the peer may have waited for these bytes
        Ok(count)
    }

    pub(super) fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    pub(super) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_budget(cx));
        match self.try_write_vectored(slices) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut state = self.0.borrow_mut();
                state.writer = Some(cx.waker().clone());
                let is_full = matches!(state.rooms.front(), Some(Room::Full));
                drop(state);
                if !is_full {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
            outcome => Poll::Ready(outcome),
        }
    }

    pub(super) fn shutdown_write(&self) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        if state.is_reset() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        state.is_shut = true;
        Ok(())
    }

    /// True if this poll finds nothing because of a pause.
    fn skip_pause(&self, cx: &Context<'_>) -> bool {
        let mut state = self.0.borrow_mut();
        let is_pause = matches!(state.next(), Some(Arrival::Pause));
        if is_pause {
            state.arrivals.pop_front();
            drop(state);
            cx.waker().wake_by_ref();
        }
        is_pause
    }

    fn wait<T>(&self, cx: &Context<'_>) -> Poll<T> {
        self.0.borrow_mut().reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.0.borrow_mut().is_dropped = true;
    }
}

/// Call it while no cell is borrowed: it calls into the runtime.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::runtime::{POLL_WORK, Runtime, TimedOut, spawn, timeout, yield_now};

    async fn read_all(transport: &Transport) -> (Vec<u8>, io::Result<usize>) {
        let mut all = Vec::new();
        let mut piece = [0; 3];
        loop {
            match poll_fn(|cx| transport.poll_read(cx, &mut piece)).await {
                Ok(count) if count > 0 => all.extend_from_slice(&piece[..count]),
                end => return (all, end),
            }
        }
    }

    #[test]
    fn what_is_sent_arrives_however_it_is_cut() {
        Runtime::new().unwrap().block_on(async {
            for cut in 0..=5 {
                let (transport, script) = play();
                script.sends_cut(b"hello", cut).drips(b" you").ends();
                let (all, end) = read_all(&transport).await;
                assert_eq!((&all[..], end.unwrap()), (&b"hello you"[..], 0));
                assert!(transport.is_gone());
            }
            let (transport, script) = play();
            script.sends(b"half").resets();
            assert!(transport.is_gone(), "told before the bytes are read, as by a socket");
            let (all, end) = read_all(&transport).await;
            assert_eq!((&all[..], end.unwrap_err().kind()), (&b"half"[..], io::ErrorKind::ConnectionReset));
            assert!(transport.try_write(b"x").is_err() && transport.shutdown().is_err());
        });
    }

    #[test]
    fn silence_lasts_until_the_script_goes_on() {
        Runtime::new().unwrap().block_on(async {
            let (transport, script) = play();
            assert!(transport.is_quiet());
            assert_eq!(timeout(1, transport.readable()).await.unwrap_err(), TimedOut);
            spawn(async move {
                yield_now().await;
                script.sends(b"now");
            });
            transport.readable().await.unwrap();
            assert!(!transport.is_quiet() && !transport.is_gone());
            assert_eq!(transport.try_read(&mut [0; 8]).unwrap(), 3);
        });
    }

    #[test]
    fn an_answer_comes_once_its_question_was_asked() {
        Runtime::new().unwrap().block_on(async {
            let (transport, script) = play();
            script.awaits(b"?\n").sends(b"one").awaits(b"?\n").sends(b"two").ends();
            let (transport, asking) = (Rc::new(transport), script.clone());
            assert!(transport.is_quiet() && !transport.is_gone());
            assert_eq!(timeout(1, transport.readable()).await.unwrap_err(), TimedOut);
            let other = Rc::clone(&transport);
            spawn(async move { other.write_all(b"a?\nb?").await.unwrap() });
            transport.readable().await.unwrap();
            assert_eq!(transport.try_read(&mut [0; 8]).unwrap(), 3);
            assert!(transport.try_read(&mut [0; 8]).is_err() && asking.unread() == 3);
            transport.write_all(b"\n").await.unwrap();
            let (all, end) = read_all(&transport).await;
            assert_eq!((&all[..], end.unwrap()), (&b"two"[..], 0));
        });
    }

    #[test]
    fn a_task_that_only_reads_lets_others_run() {
        Runtime::new().unwrap().block_on(async {
            let (transport, script) = play();
            let count = (POLL_WORK / CALL_WORK) as usize;
            script.sends(&vec![b'x'; 4 * count]).ends();
            let reading = script.clone();
            spawn(async move { assert!(reading.unread() > count, "all was read in one go") });
            assert_eq!(read_all(&transport).await.0.len(), 4 * count);
        });
    }

    #[test]
    fn writes_are_taken_as_the_script_says() {
        Runtime::new().unwrap().block_on(async {
            let (transport, script) = play();
            script.takes(2).sips(3);
            transport.write_all(b"all of it").await.unwrap();
            assert_eq!((script.written(), script.write_count()), (b"all of it".to_vec(), 5));
            script.is_full();
            assert_eq!(timeout(1, transport.write_all(b" more")).await.unwrap_err(), TimedOut);
            let again = script.clone();
            spawn(async move { again.drains() });
            transport.write_all(b" more").await.unwrap();
            let slices = [IoSlice::new(b", "), IoSlice::new(b""), IoSlice::new(b"in pieces")];
            script.takes(4);
            assert_eq!(poll_fn(|cx| transport.poll_write_vectored(cx, &slices)).await.unwrap(), 4);
            assert_eq!(script.written(), b"all of it more, in");
            transport.shutdown().unwrap();
            drop(transport);
            assert!(script.is_shut() && script.is_closed());
        });
    }
}
