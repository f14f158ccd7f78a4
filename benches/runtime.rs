//! The cost of the loop's own parts: `cargo bench --bench runtime` prints nanoseconds per operation.

use std::future::poll_fn;
use std::os::unix::net::UnixStream;
use std::task::Poll;
use std::time::Instant;

use pronghorn::runtime::buffer::Buffer;
use pronghorn::runtime::channel::oneshot;
use pronghorn::runtime::{Io, Runtime, Timer, now_ms, race, sleep, spawn, timeout, yield_now};

const ROUNDS: u32 = 1_000_000;

fn report(name: &str, began: Instant, operations: u32) {
    println!("{name:<44} {:>8.1} ns", began.elapsed().as_nanos() as f64 / f64::from(operations));
}

fn main() {
    Runtime::new().expect("epoll").block_on(async {
        let began = Instant::now();
        for _ in 0..ROUNDS {
            yield_now().await;
        }
        report("wake and poll, one task (with epoll_wait/64)", began, ROUNDS);

        let began = Instant::now();
        for _ in 0..ROUNDS / 32 {
            for _ in 0..32 {
                spawn(async {});
            }
            yield_now().await;
        }
        report("spawn and end of an empty task", began, ROUNDS);

        timers(0).await;
        timers(1_000_000).await;

        let began = Instant::now();
        for _ in 0..ROUNDS {
            std::hint::black_box(Buffer::take(4096));
        }
        report("take and give a 4K buffer", began, ROUNDS);

        let began = Instant::now();
        for number in 0..ROUNDS {
            let (sender, receiver) = oneshot();
            let _ = sender.send(number);
            receiver.recv().await;
        }
        report("make a oneshot, send and receive", began, ROUNDS);

        sockets().await;
    });
}

async fn timers(filed: u32) {
    let mut others: Vec<Timer> = Vec::new();
    for number in 0..u64::from(filed) {
        let mut timer = Timer::new();
        timer.set(now_ms() + 600_000 + number % 60_000);
        others.push(timer);
    }
    poll_fn(|cx| {
        for timer in &mut others {
            let _ = timer.poll_expired(cx);
        }
        Poll::Ready(())
    })
    .await;
    let mut timer = Timer::new();
    let began = Instant::now();
    poll_fn(|cx| {
        for number in 0..ROUNDS {
            timer.set(now_ms() + 60_000 + u64::from(number % 1024));
            let _ = timer.poll_expired(cx);
        }
        Poll::Ready(())
    })
    .await;
    report(&format!("timer set, filed, moved (beside {filed})"), began, ROUNDS);
}

async fn sockets() {
    let (a, b) = UnixStream::pair().expect("a pair");
    a.set_nonblocking(true).and_then(|()| b.set_nonblocking(true)).expect("non-blocking");
    let (a, b) = (Io::register(a.into()).expect("registered"), Io::register(b.into()).expect("registered"));
    let rounds = ROUNDS / 10;
    spawn(async move {
        let mut buffer = [0; 64];
        while b.read(&mut buffer).await.is_ok_and(|count| count > 0) {
            let _ = b.write_all(&buffer[..1]).await;
        }
    });
    let mut buffer = [0; 64];
    let began = Instant::now();
    for _ in 0..rounds {
        a.write_all(b"x").await.expect("written");
        let read = race(timeout(60_000, a.read(&mut buffer)), sleep(120_000)).await;
        std::hint::black_box(read);
    }
    report("echo between two tasks: 4 calls and epoll", began, rounds);
}
