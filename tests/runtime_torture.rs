//! The event loop under all conditions that can lose wakes: partial reads and writes, ends that come with
//! data, resets, half-closes, cancellation at every await, timers that fire in the turn of an event.
//!
//! Method: thousands of loopback sockets in one loop. Each pair plays a script generated from a seed, and
//! both ends check every byte. A lost wake shows as a script that does not end in time, a leak as a task,
//! registration or timer that remains when all have ended.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use pronghorn::net::Transport;
use pronghorn::net::tunnel::tunnel;
use pronghorn::runtime::buffer::Buffer;
use pronghorn::runtime::channel::Notify;
use pronghorn::runtime::{
    self, Acceptor, Either, Io, Runtime, Timer, race, registration_count, sleep, spawn, task_count, timeout,
    timer_count, yield_now,
};

/// Far more than any script needs, even on a busy machine: reaching it means that a wake was lost.
const LOST_MS: u64 = 15_000;

struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    fn is_one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// The byte at a position of a script's stream.
fn byte_at(seed: u64, position: u64) -> u8 {
    (seed.wrapping_add(position).wrapping_mul(0x9E37_79B1) >> 13) as u8
}

fn unix_pair() -> (OwnedFd, OwnedFd) {
    let (a, b) = UnixStream::pair().unwrap();
    a.set_nonblocking(true).unwrap();
    b.set_nonblocking(true).unwrap();
    (a.into(), b.into())
}

fn tcp_pair(listener: &TcpListener) -> (OwnedFd, OwnedFd) {
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_nonblocking(true).unwrap();
    (near.into(), far.into())
}

/// Runs `scripts` to their end and asserts that nothing remains of them.
fn play(scripts: Vec<Pin<Box<dyn Future<Output = ()>>>>) {
    let mut runtime = Runtime::new().unwrap();
    runtime.block_on(async move {
        let (total, ended, all_ended) = (scripts.len(), Rc::new(Cell::new(0)), Rc::new(Notify::new()));
        for script in scripts {
            let (ended, all_ended) = (ended.clone(), all_ended.clone());
            spawn(async move {
                script.await;
                ended.set(ended.get() + 1);
                all_ended.notify();
            });
        }
        let wait = async {
            loop {
                let next = all_ended.notified();
                if ended.get() == total {
                    break;
                }
                next.await;
            }
        };
        let outcome = timeout(LOST_MS, wait).await;
        assert!(outcome.is_ok(), "{} of {total} scripts did not end: a wake was lost", total - ended.get());
        while task_count() > 1 {
            yield_now().await;
        }
        assert_eq!((registration_count(), timer_count()), (0, 0), "registrations and timers that were left");
    });
}

/// Polls `future` a few times, then drops it: this cancels it at whatever await it has reached.
async fn cut_short<F: Future>(future: F, polls: u64) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// Writes the stream in pieces of random size, cancelling and pausing; ends with a FIN.
async fn send(io: &Io, seed: u64, length: u64) {
    let mut random = Random::new(seed ^ 0xA);
    let mut position = 0;
    while position < length {
        let size = if random.is_one_in(8) { random.below(200_000) } else { random.below(5000) } + 1;
        let size = size.min(length - position);
        let piece: Vec<u8> = (position..position + size).map(|at| byte_at(seed, at)).collect();
        let written = match random.below(4) {
            0 => cut_short(io.write(&piece), random.below(3)).await,
            1 => timeout(random.below(3), io.write(&piece)).await.ok(),
            2 => {
                let (head, tail) = piece.split_at(piece.len() / 2);
                let slices = [io::IoSlice::new(head), io::IoSlice::new(tail)];
                Some(poll_fn(|cx| io.poll_write_vectored(cx, &slices)).await)
            }
            _ => Some(io.write(&piece).await),
        };
        // A write that was dropped while pending has moved nothing.
        position += written.map_or(0, |outcome| outcome.unwrap() as u64);
        if random.is_one_in(6) {
            sleep(random.below(3)).await;
        }
    }
    io.shutdown_write().unwrap();
}

/// Reads to the end in pieces of random size and checks every byte.
async fn receive(io: &Io, seed: u64, length: u64) {
    let mut random = Random::new(seed ^ 0xB);
    let mut position = 0;
    loop {
        let mut buffer = Buffer::take(1 + random.below(70_000) as usize);
        let limit = 1 + random.below(buffer.capacity() as u64) as usize;
        let space = &mut buffer.space()[..limit];
        let read = match random.below(5) {
            0 => cut_short(io.read(space), random.below(3)).await,
            1 => timeout(random.below(3), io.read(space)).await.ok(),
            2 => match race(io.readable(), sleep(random.below(4))).await {
                Either::First(outcome) => {
                    outcome.unwrap();
                    match io.try_read(space) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                        outcome => Some(outcome),
                    }
                }
                Either::Second(()) => None,
            },
            _ => Some(io.read(space).await),
        };
        let Some(count) = read else { continue };
        let count = count.unwrap();
        for (index, byte) in buffer.space()[..count].iter().enumerate() {
            assert_eq!(*byte, byte_at(seed, position + index as u64));
        }
        position += count as u64;
        if count == 0 {
            assert_eq!(position, length, "the end came at another place");
            return;
        }
    }
}

/// Runs two futures of one task to their end: both directions of one socket.
async fn both(first: impl Future<Output = ()>, second: impl Future<Output = ()>) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let mut done = (false, false);
    poll_fn(|cx| {
        done.0 = done.0 || first.as_mut().poll(cx).is_ready();
        done.1 = done.1 || second.as_mut().poll(cx).is_ready();
        if done == (true, true) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[test]
fn streams_arrive_whole_whatever_is_cancelled() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut scripts: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    for seed in 0..150u64 {
        let (a, b) = if seed % 2 == 0 { tcp_pair(&listener) } else { unix_pair() };
        let mut random = Random::new(seed);
        let (forth, back) = (random.below(300_000), random.below(30_000));
        for (fd, out, sent, expected) in [(a, seed, forth, back), (b, seed + 1_000_000, back, forth)] {
            let other = if out == seed { seed + 1_000_000 } else { seed };
            scripts.push(Box::pin(async move {
                let io = Io::register(fd).unwrap();
                both(send(&io, out, sent), receive(&io, other, expected)).await;
            }));
        }
    }
    play(scripts);
}

/// Thousands of sockets that each send a few bytes and end, the FIN directly after the bytes.
#[test]
fn thousands_of_short_lives() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for round in 0..5u64 {
        let mut scripts: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
        for seed in 0..400u64 {
            let seed = round * 1000 + seed;
            let (a, b) = if seed % 2 == 0 { tcp_pair(&listener) } else { unix_pair() };
            scripts.push(Box::pin(async move {
                let io = Io::register(a).unwrap();
                let length = 1 + seed % 50;
                let data: Vec<u8> = (0..length).map(|at| byte_at(seed, at)).collect();
                if seed % 3 == 0 {
                    yield_now().await;
                }
                io.write_all(&data).await.unwrap();
                if seed % 5 == 0 {
                    sleep(seed % 4).await;
                }
            }));
            scripts.push(Box::pin(async move {
                let io = Io::register(b).unwrap();
                if seed % 7 == 0 {
                    sleep(seed % 3).await;
                }
                io.readable().await.unwrap();
                receive(&io, seed, 1 + seed % 50).await;
                io.hangup().await;
                assert!(io.is_hung_up());
            }));
        }
        play(scripts);
    }
}

#[test]
fn a_reset_wakes_readers_writers_and_those_who_wait_for_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut scripts: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    for seed in 0..300u64 {
        let (a, b) = tcp_pair(&listener);
        scripts.push(Box::pin(async move {
            let io = Io::register(a).unwrap();
            sleep(seed % 5).await;
            // Closing with linger 0 sends a RST instead of a FIN.
            let socket = TcpStream::from(io.into_fd());
            nix::sys::socket::setsockopt(
                &socket,
                nix::sys::socket::sockopt::Linger,
                &nix::libc::linger { l_onoff: 1, l_linger: 0 },
            )
            .unwrap();
        }));
        scripts.push(Box::pin(async move {
            let io = Io::register(b).unwrap();
            let mut byte = [0; 16];
            match seed % 3 {
                0 => assert!(io.read(&mut byte).await.is_err()),
                1 => io.hangup().await,
                _ => {
                    let data = vec![0; 1 << 20];
                    while io.write_all(&data).await.is_ok() {}
                }
            }
            // The call may have reported the reset before epoll did; its event must still come.
            io.hangup().await;
            assert!(io.is_hung_up());
        }));
    }
    play(scripts);
}

/// Deadlines that fall into the turn of the bytes they guard: either may win, neither may be lost.
#[test]
fn timers_and_bytes_of_one_turn() {
    let mut scripts: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    for seed in 0..300u64 {
        let (a, b) = unix_pair();
        scripts.push(Box::pin(async move {
            let io = Io::register(a).unwrap();
            for round in 0..10u8 {
                sleep(1 + seed % 3).await;
                io.write_all(&[round]).await.unwrap();
            }
        }));
        scripts.push(Box::pin(async move {
            let io = Io::register(b).unwrap();
            let (mut next, mut timer, mut byte) = (0, Timer::new(), [0]);
            while next < 10 {
                timer.set(runtime::now_ms() + 1 + seed % 3);
                let outcome = race(io.read(&mut byte), poll_fn(|cx| timer.poll_expired(cx))).await;
                if let Either::First(count) = outcome {
                    assert_eq!((count.unwrap(), byte[0]), (1, next));
                    next += 1;
                }
            }
        }));
    }
    play(scripts);
}

/// Half of the tasks are dropped with the loop, whatever they were waiting for.
#[test]
fn a_loop_that_is_dropped_closes_what_its_tasks_held() {
    let (mut ends, mut runtime) = (Vec::new(), Runtime::new().unwrap());
    let fds: Vec<OwnedFd> = (0..200)
        .map(|_| {
            let (a, b) = unix_pair();
            ends.push(b);
            a
        })
        .collect();
    runtime.block_on(async move {
        for fd in fds {
            spawn(async move {
                let io = Io::register(fd).unwrap();
                let _ = timeout(1_000_000, io.read(&mut [0; 10])).await;
            });
        }
        // This task comes first in every turn, and not all others fit into one.
        while registration_count() < 200 {
            yield_now().await;
        }
        assert_eq!((task_count(), registration_count(), timer_count()), (201, 200, 200));
    });
    drop(runtime);
    for end in ends {
        assert_eq!(nix::unistd::read(&end, &mut [0; 1]), Ok(0), "the other end must be closed");
    }
}

#[test]
fn a_task_that_panics_ends_alone_and_leaves_nothing() {
    thread_local! {
        static REPORTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }
    let mut scripts: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    scripts.push(Box::pin(async {
        runtime::on_panic(|text| REPORTS.with_borrow_mut(|reports| reports.push(text.to_owned())));
        for number in 0..10 {
            let (a, b) = unix_pair();
            let peer = Io::register(b).unwrap();
            spawn(async move {
                let io = Io::register(a).unwrap();
                let _buffer = Buffer::take(1000);
                let _ = timeout(1, io.readable()).await;
                panic!("broken {number}");
            });
            assert_eq!(peer.read(&mut [0; 1]).await.unwrap(), 0);
        }
        assert_eq!(REPORTS.with_borrow(|reports| reports[9].clone()), "broken 9");
    }));
    play(scripts);
}

#[test]
fn wakes_from_other_threads_are_not_lost() {
    let mut scripts: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    for seed in 0..20u64 {
        scripts.push(Box::pin(async move {
            for round in 0..50u64 {
                let flag = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
                let mut thread = None;
                poll_fn(|cx| {
                    if flag.load(std::sync::atomic::Ordering::Acquire) {
                        return Poll::Ready(());
                    }
                    if thread.is_none() {
                        let (flag, waker) = (flag.clone(), cx.waker().clone());
                        thread = Some(std::thread::spawn(move || {
                            if (seed + round) % 2 == 0 {
                                std::thread::yield_now();
                            }
                            flag.store(true, std::sync::atomic::Ordering::Release);
                            waker.wake();
                        }));
                    }
                    Poll::Pending
                })
                .await;
                thread.unwrap().join().unwrap();
            }
        }));
    }
    play(scripts);
}

/// Clients in a thread, and an acceptor that is paused and resumed meanwhile: each is accepted once.
#[test]
fn an_acceptor_loses_nobody_while_it_pauses() {
    const CLIENTS: usize = 300;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let clients = std::thread::spawn(move || {
        for _ in 0..CLIENTS {
            drop(TcpStream::connect(address).unwrap());
        }
    });
    let script = async move {
        let acceptor = Acceptor::register(listener.into()).unwrap();
        for number in 0..CLIENTS {
            let (fd, _) = acceptor.accept().await.unwrap();
            spawn(async move {
                let io = Io::register(fd).unwrap();
                assert_eq!(io.read(&mut [0; 4]).await.unwrap(), 0);
            });
            if number % 10 == 0 {
                acceptor.pause();
                assert!(timeout(1, acceptor.accept()).await.is_err());
                acceptor.resume().unwrap();
            }
        }
    };
    play(vec![Box::pin(script)]);
    clients.join().unwrap();
}

/// Tunnels between pairs that both send, pause and half-close.
#[test]
fn tunnels_carry_every_byte_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut scripts: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    for seed in 0..60u64 {
        let (client, near) = if seed % 2 == 0 { tcp_pair(&listener) } else { unix_pair() };
        let (far, server) = tcp_pair(&listener);
        let mut random = Random::new(seed);
        let (forth, back) = (random.below(200_000), random.below(200_000));
        scripts.push(Box::pin(async move {
            let (near, far) = (Io::register(near).unwrap(), Io::register(far).unwrap());
            assert_eq!(tunnel(&near.into(), &far.into(), LOST_MS).await.unwrap(), (forth, back));
        }));
        scripts.push(Box::pin(async move {
            let io = Io::register(client).unwrap();
            both(send(&io, seed, forth), receive(&io, seed + 5000, back)).await;
        }));
        scripts.push(Box::pin(async move {
            let io = Io::register(server).unwrap();
            both(send(&io, seed + 5000, back), receive(&io, seed, forth)).await;
        }));
    }
    play(scripts);
}

/// A busy pair must not keep the others from getting their turn.
#[test]
fn a_busy_task_yields_to_the_others() {
    Runtime::new().unwrap().block_on(async {
        let (a, b) = unix_pair();
        let is_over = Rc::new(Cell::new(false));
        let (stop, (a, b)) = (is_over.clone(), (Io::register(a).unwrap(), Io::register(b).unwrap()));
        spawn(async move {
            // Always ready: without a budget this would never give the loop back.
            let mut byte = [0];
            while !stop.get() {
                a.write_all(&[1]).await.unwrap();
                b.read(&mut byte).await.unwrap();
            }
        });
        for _ in 0..20 {
            sleep(1).await;
        }
        is_over.set(true);
    });
}

/// The cost of an idle connection: its future, and its places in the slabs.
#[test]
fn an_idle_connection_fits_its_budget() {
    let (a, b) = unix_pair();
    drop(b);
    Runtime::new().unwrap().block_on(async move {
        let io = Io::register(a).unwrap();
        let waiting = race(timeout(60_000, io.readable()), std::future::pending::<()>());
        let bytes = size_of_val(&waiting);
        assert!(bytes <= 112, "waiting for the first byte takes {bytes} bytes");
        drop(waiting);
        let io = Transport::from(io);
        let bytes = size_of_val(&tunnel(&io, &io, 1000));
        assert!(bytes <= 400, "an idle tunnel takes {bytes} bytes");
        assert!(size_of::<Io>() <= 8 && size_of::<Timer>() <= 16 && size_of::<Buffer>() <= 24);
    });
}
