//! A worker in this process: the test is its master, at the other end of the control socket.

use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use super::*;
use crate::config::{LoadOptions, load_text};
use crate::cycle::Settings;
use crate::http::{CompileOptions, compile};
use crate::log::Logger;
use crate::runtime::{sleep, spawn};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// How long to look for what must not happen, and to wait for what must.
const SOON_MS: u64 = 50;
const DEADLINE_MS: u64 = 10_000;

/// The master's end.
struct Master {
    io: Io,
    sequence: u32,
    address: PathBuf,
    has_ended: Rc<Cell<bool>>,
}

impl Master {
    fn send(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        msg::send(self.io.as_fd(), bytes, fds).unwrap();
    }

    /// Returns the sequence number.
    fn tell(&mut self, message: &ToWorker, fds: &[BorrowedFd<'_>]) -> u32 {
        self.sequence += 1;
        let bytes = message.to_bytes(self.sequence);
        self.send(&bytes, fds);
        self.sequence
    }

    /// The next message. `None`: the worker has closed its end.
    async fn hear(&self) -> Option<(ToMaster, Vec<OwnedFd>)> {
        let hearing = async {
            loop {
                self.io.readable().await.unwrap();
                let mut buffer = [0; messages::BYTES_MAX];
                match self.io.try_receive(|fd| msg::receive(fd, &mut buffer)) {
                    Ok(msg::Message { length: 0, .. }) => return None,
                    Ok(message) => {
                        let (_, read) = ToMaster::from_bytes(&buffer[..message.length]).expect("a message");
                        return Some((read, message.fds));
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => return None,
                }
            }
        };
        runtime::timeout(DEADLINE_MS, hearing).await.expect("a message in time")
    }

    async fn hears(&self, expected: &ToMaster) {
        let (heard, fds) = self.hear().await.expect("a message");
        assert!(heard == *expected && fds.is_empty(), "{heard:?}");
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.address).unwrap()
    }

    async fn ends(&self) {
        let ended = async {
            while !self.has_ended.get() {
                sleep(1).await;
            }
        };
        runtime::timeout(DEADLINE_MS, ended).await.expect("it ends in time");
    }
}

/// Runs a test with a worker that answers `ok`, on a thread of its own: a worker leaves once.
fn run(test: impl AsyncFnOnce(Master) + Send + 'static) {
    let on_thread = move || {
        Runtime::new().unwrap().block_on(async move {
            let folder = tempfile::tempdir().unwrap();
            let address = folder.path().join("socket");
            let listener = UnixListener::bind(&address).unwrap();
            listener.set_nonblocking(true).unwrap();
            let (ours, theirs) = msg::pair().unwrap();
            let seat = Seat {
                number: 0,
                generation: 1,
                control: theirs,
                slots: vec![Slot { listen: 0, fd: listener.into(), is_lent: false }],
                leased: vec![0],
                leaves_terminal: false,
                duty: Duty::Serve,
            };
            let config: &'static Config = Box::leak(Box::new(config()));
            let signals = Signals::new(&[]).unwrap();
            let has_ended = Rc::new(Cell::new(false));
            let ended = Rc::clone(&has_ended);
            spawn(async move {
                serve(config, seat, signals).await.unwrap();
                ended.set(true);
            });
            let master = Master { io: Io::register(ours).unwrap(), sequence: 0, address, has_ended };
            master.hears(&ToMaster::Ready).await;
            test(master).await;
        });
    };
    if let Err(panic) = std::thread::spawn(on_thread).join() {
        std::panic::resume_unwind(panic);
    }
}

fn config() -> Config {
    let text =
        "http { access_log off; error_log stderr emerg; server { listen 127.0.0.1:1; return 200 ok; } }";
    let (tree, mut out) = load_text("worker.conf", text, &LoadOptions::default());
    let options = CompileOptions {
        prefix: std::env::temp_dir(),
        folder: std::env::temp_dir(),
        error_log: Logger::none(),
        names: Default::default(),
        test_only: true,
    };
    let http = compile(&tree.nodes[0], &options, &mut out);
    assert!(!out.has_errors(), "{:?}", out.0);
    Config::new(Settings::default(), Some(http), None, std::env::temp_dir())
}

/// Sends `bytes` and reads an answer, or up to the end of the connection. `None`: nothing comes for so long.
async fn answer(mut stream: &UnixStream, bytes: &[u8], wait_ms: u64) -> Option<String> {
    stream.set_nonblocking(true).unwrap();
    stream.write_all(bytes).unwrap();
    let reading = async {
        let (mut answer, mut piece) = (Vec::new(), [0; 1024]);
        while !answer.ends_with(b"\r\n\r\nok") {
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => answer.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => sleep(1).await,
                Err(error) => panic!("{error}"),
            }
        }
        String::from_utf8(answer).unwrap()
    };
    runtime::timeout(wait_ms, reading).await.ok()
}

async fn ask(stream: &UnixStream, bytes: &[u8]) -> String {
    answer(stream, bytes, DEADLINE_MS).await.expect("an answer in time")
}

async fn is_ignored(stream: &UnixStream, bytes: &[u8]) -> bool {
    answer(stream, bytes, SOON_MS).await.is_none()
}

fn handover(listen: u32) -> Handover {
    Handover {
        listen,
        requests: 1,
        idle_ms_left: 5_000,
        opened_ms_ago: 0,
        number: 1,
        proxy: Box::default(),
        tls: Default::default(),
    }
}

#[test]
fn a_worker_accepts_from_what_it_is_leased_and_answers_pings() {
    run(async |mut master: Master| {
        assert!(ask(&master.connect(), GET).await.ends_with("ok"));
        let sequence = master.tell(&ToWorker::Ping, &[]);
        master.hears(&ToMaster::Pong(sequence)).await;
        master.tell(&ToWorker::Release(vec![0]), &[]);
        let sequence = master.tell(&ToWorker::Ping, &[]);
        master.hears(&ToMaster::Pong(sequence)).await;
        let waiting = master.connect();
        assert!(is_ignored(&waiting, GET).await, "nothing is accepted any more");
        master.tell(&ToWorker::Lease(vec![0, 0, 99]), &[]);
        assert!(ask(&waiting, b"").await.ends_with("ok"), "it waited in the queue");
    });
}

#[test]
fn what_makes_no_sense_is_left_alone() {
    run(async |mut master: Master| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        master.send(b"garbage", &[]);
        master.send(&[0; messages::BYTES_MAX + 10], &[]);
        master.send(b"garbage with a descriptor", &[theirs.as_fd()]);
        master.tell(&ToWorker::Adopt(handover(0)), &[]);
        master.tell(&ToWorker::Adopt(handover(9)), &[theirs.as_fd()]);
        master.tell(&ToWorker::Lease(vec![7, u32::MAX]), &[]);
        master.tell(&ToWorker::Release(vec![7]), &[]);
        let sequence = master.tell(&ToWorker::Ping, &[]);
        master.hears(&ToMaster::Pong(sequence)).await;
        drop(theirs);
        assert_eq!((&ours).read(&mut [0]).unwrap(), 0, "no descriptor is left open");
        assert!(ask(&master.connect(), GET).await.ends_with("ok"));
    });
}

#[test]
fn a_dismissed_worker_gives_its_idle_connections_away_and_ends() {
    run(async |mut master: Master| {
        let idle = [master.connect(), master.connect(), master.connect()];
        for client in &idle {
            assert!(ask(client, GET).await.ends_with("ok"));
        }
        let queued = master.connect();
        (&queued).write_all(GET).unwrap();
        master.tell(&ToWorker::Drain, &[]);
        let (mut given, mut is_closed) = (Vec::new(), false);
        while let Some((message, fds)) = master.hear().await {
            match message {
                ToMaster::HandOver(handover) => {
                    assert_eq!((handover.listen, handover.requests, fds.len()), (0, 1, 1));
                    given.extend(fds);
                }
                ToMaster::Closed => assert!(!std::mem::replace(&mut is_closed, true), "told twice"),
                other => panic!("{other:?}"),
            }
        }
        master.ends().await;
        assert!(is_closed && (3..=4).contains(&given.len()), "{} were given away", given.len());
        assert!(ask(&queued, b"").await.ends_with("ok"), "a client in the queue is served first");
    });
}

#[test]
fn a_worker_that_quits_finishes_what_has_begun() {
    run(async |mut master: Master| {
        let (idle, begun) = (master.connect(), master.connect());
        assert!(ask(&idle, GET).await.ends_with("ok"));
        assert!(is_ignored(&begun, &GET[..10]).await);
        master.tell(&ToWorker::Quit, &[]);
        master.tell(&ToWorker::Quit, &[]);
        master.hears(&ToMaster::Closed).await;
        assert_eq!(ask(&idle, b"").await, "", "it is closed");
        assert!(!master.has_ended.get());
        let last = ask(&begun, &GET[10..]).await;
        assert!(last.contains("Connection: close") && last.ends_with("ok"), "{last}");
        assert!(master.hear().await.is_none());
        master.ends().await;
    });
}

#[test]
fn an_adopted_connection_is_served() {
    run(async |mut master: Master| {
        let (client, theirs) = UnixStream::pair().unwrap();
        master.tell(&ToWorker::Adopt(handover(0)), &[theirs.as_fd()]);
        drop(theirs);
        assert!(ask(&client, GET).await.ends_with("ok"));
    });
}

#[test]
fn without_its_master_a_worker_ends() {
    run(async |master: Master| {
        let idle = master.connect();
        assert!(ask(&idle, GET).await.ends_with("ok"));
        let Master { io, has_ended, .. } = master;
        drop(io);
        while !has_ended.get() {
            sleep(1).await;
        }
        assert_eq!(ask(&idle, b"").await, "");
    });
}

#[test]
fn tasks_that_panic_ask_for_a_replacement_once() {
    run(async |mut master: Master| {
        for _ in 0..3 {
            spawn(async { std::panic::resume_unwind(Box::new("for a test")) });
            sleep(1).await;
        }
        master.hears(&ToMaster::Replace).await;
        let sequence = master.tell(&ToWorker::Ping, &[]);
        master.hears(&ToMaster::Pong(sequence)).await;
    });
}

#[test]
fn news_of_one_name_waits_in_one_message() {
    let learned = |group, server, port| {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        Learned { group, server, spots: vec![Spot::from(crate::net::Address::Inet(address))] }
    };
    let mut outbox = VecDeque::from([(ToMaster::Ready, None)]);
    for (group, server, port) in [(0, 0, 1), (0, 1, 2), (1, 0, 3), (0, 0, 4), (0, 0, 5)] {
        put_learned(&mut outbox, learned(group, server, port));
    }
    let left: Vec<ToMaster> = outbox.into_iter().map(|(message, _)| message).collect();
    let news = [(0, 0, 5), (0, 1, 2), (1, 0, 3)].map(|(group, server, port)| learned(group, server, port));
    assert_eq!(left[0], ToMaster::Ready);
    assert_eq!(left[1..], news.map(ToMaster::Learned));
}

#[test]
fn the_gravest_of_several_signals_counts() {
    let order = [SIGHUP, SIGUSR1, SIGQUIT, SIGTERM];
    assert!(order.windows(2).all(|pair| urgency(pair[0]) < urgency(pair[1])));
    assert_eq!((urgency(SIGWINCH), urgency(SIGINT)), (urgency(SIGQUIT), urgency(SIGTERM)));
}
