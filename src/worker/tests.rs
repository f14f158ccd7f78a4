//! A worker in this process: the test is its master, at the other end of the control socket.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::*;
use crate::config::{LoadOptions, load_text};
use crate::cycle::Settings;
use crate::http::{CompileOptions, compile};
use crate::log::Logger;
use crate::net::handover::{MovedTunnel, NO_LISTENER, TunnelOf, TunnelState};
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
    /// A listener of `stream`.
    stream_address: PathBuf,
    /// The upstream of both protocols.
    origin: UnixListener,
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
            let stream_address = folder.path().join("stream");
            let stream = UnixListener::bind(&stream_address).unwrap();
            stream.set_nonblocking(true).unwrap();
            let origin_address = folder.path().join("origin");
            let origin = UnixListener::bind(&origin_address).unwrap();
            let (ours, theirs) = msg::pair().unwrap();
            let seat = Seat {
                waits: false,
                number: 0,
                generation: 1,
                control: theirs,
                slots: vec![
                    Slot { listen: 0, fd: listener.into(), is_lent: false },
                    Slot { listen: 1, fd: stream.into(), is_lent: false },
                ],
                leased: vec![0, 1],
                leaves_terminal: false,
                duty: Duty::Serve,
            };
            let config: &'static Config = Box::leak(Box::new(config(&origin_address)));
            let signals = Signals::new(&[]).unwrap();
            let has_ended = Rc::new(Cell::new(false));
            let ended = Rc::clone(&has_ended);
            spawn(async move {
                serve(config, seat, signals).await.unwrap();
                ended.set(true);
            });
            let io = Io::register(ours).unwrap();
            let master = Master { io, sequence: 0, address, stream_address, origin, has_ended };
            master.hears(&ToMaster::Ready).await;
            test(master).await;
        });
    };
    if let Err(panic) = std::thread::spawn(on_thread).join() {
        std::panic::resume_unwind(panic);
    }
}

fn config(origin: &Path) -> Config {
    let origin = origin.display();
    let text = format!(
        "http {{ access_log off; error_log stderr emerg; limit_conn_zone $host zone=worker.tests:64k;
            server {{ listen 127.0.0.1:1; location / {{ return 200 ok; }}
                location /tunnel {{ set $kept $host; limit_conn worker.tests 100; proxy_pass http://unix:{origin}; proxy_set_header Upgrade x;
                    proxy_set_header Connection upgrade; }} }} }}
         stream {{ error_log stderr emerg; limit_conn_zone $server_port zone=worker.tests.stream:64k;
            server {{ listen 127.0.0.1:2; set $kept a; ssl_preread on; limit_conn worker.tests.stream 100; proxy_pass unix:{origin};
                proxy_download_rate 1m; }} }}"
    );
    let (tree, mut out) = load_text("worker.conf", &text, &LoadOptions::default());
    let options = CompileOptions {
        prefix: std::env::temp_dir(),
        folder: std::env::temp_dir(),
        error_log: Logger::none(),
        names: Default::default(),
        test_only: true,
    };
    let http = compile(&tree.nodes[0], &options, &mut out);
    let stream = crate::stream::compile(&tree.nodes[1], &options, &mut out);
    assert!(!out.has_errors(), "{:?}", out.0);
    Config::new(Settings::default(), Some(http), None, std::env::temp_dir()).with_stream(Some(stream))
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

/// This many bytes.
async fn heard(mut stream: &UnixStream, count: usize) -> Vec<u8> {
    stream.set_nonblocking(true).unwrap();
    let hearing = async {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let mut piece = vec![0; count - bytes.len()];
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => bytes.extend_from_slice(&piece[..count]),
                Err(_) => sleep(1).await,
            }
        }
        bytes
    };
    runtime::timeout(DEADLINE_MS, hearing).await.expect("bytes in time")
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
fn the_gravest_of_several_signals_counts() {
    let order = [SIGHUP, SIGUSR1, SIGQUIT, SIGTERM];
    assert!(order.windows(2).all(|pair| urgency(pair[0]) < urgency(pair[1])));
    assert_eq!((urgency(SIGWINCH), urgency(SIGINT)), (urgency(SIGQUIT), urgency(SIGTERM)));
}

/// Opens a tunnel of each protocol in a worker that is then told to leave; the messages with which it gives them away, the
/// clients and the upstream's ends.
fn moved_tunnels() -> Vec<(MovedTunnel, Vec<OwnedFd>, UnixStream, UnixStream)> {
    let (send, receive) = std::sync::mpsc::channel();
    run(async move |mut master: Master| {
        let websocket = master.connect();
        let ask = b"GET /tunnel HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
        (&websocket).write_all(ask).unwrap();
        master.origin.set_nonblocking(true).unwrap();
        while let Err(error) = master.origin.accept().map(|(peer, _)| {
            (&peer)
                .write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
                .unwrap();
            send.send((websocket.try_clone().unwrap(), peer)).unwrap();
        }) {
            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
            sleep(1).await;
        }
        assert!(answer(&websocket, b"", SOON_MS).await.is_none(), "it is open");
        let session = UnixStream::connect(&master.stream_address).unwrap();
        (&session).write_all(b"hello").unwrap();
        let mut peer = None;
        while peer.is_none() {
            sleep(1).await;
            peer = master.origin.accept().ok().map(|(peer, _)| peer);
        }
        let peer = peer.unwrap();
        assert_eq!(heard(&peer, 5).await, b"hello");
        send.send((session, peer)).unwrap();
        master.tell(&ToWorker::Drain, &[]);
        let mut tunnels = Vec::new();
        while let Some((message, fds)) = master.hear().await {
            match message {
                ToMaster::HandOverTunnel(tunnel) => tunnels.push((tunnel, fds)),
                ToMaster::Closed => {}
                other => panic!("{other:?}"),
            }
        }
        master.ends().await;
        MOVED.lock().unwrap().extend(tunnels);
    });
    let tunnels = std::mem::take(&mut *MOVED.lock().unwrap());
    let ends: Vec<_> = receive.iter().collect();
    assert_eq!(tunnels.len(), 2);
    // Both know which is whose by the protocol: HTTP's came first.
    let of = |tunnel: &MovedTunnel| usize::from(tunnel.of == TunnelOf::Stream);
    let mut ends: Vec<_> = ends.into_iter().map(Some).collect();
    let with_ends = tunnels.into_iter().map(|(tunnel, fds)| {
        let (client, peer) = ends[of(&tunnel)].take().expect("one of each");
        (tunnel, fds, client, peer)
    });
    with_ends.collect()
}

static MOVED: std::sync::Mutex<Vec<(MovedTunnel, Vec<OwnedFd>)>> = std::sync::Mutex::new(Vec::new());

/// A state with any byte changed, or cut anywhere, is at worst refused: the worker goes on, without a panic.
#[test]
fn tunnels_are_given_away_and_taken_over_and_damaged_ones_do_no_harm() {
    let tunnels = moved_tunnels();
    run(async move |mut master: Master| {
        for (tunnel, fds, client, peer) in tunnels {
            assert_eq!((fds.len(), tunnel.listen), (2, u32::from(tunnel.of == TunnelOf::Stream)));
            let bytes = tunnel.state.0.to_vec();
            let mut damaged: Vec<Vec<u8>> =
                (0..bytes.len()).step_by(7).map(|at| bytes[..at].to_vec()).collect();
            for at in 0..bytes.len() {
                for value in [0xff, bytes[at] ^ 1] {
                    let mut other = bytes.clone();
                    other[at] = value;
                    damaged.push(other);
                }
            }
            for listen in [0, 1, 7, NO_LISTENER] {
                damaged.push(bytes.clone());
                for (index, state) in damaged.drain(..).enumerate() {
                    let (a, b) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
                    let state = TunnelState(state.into());
                    let message = ToWorker::AdoptTunnel(MovedTunnel { listen, of: tunnel.of, state });
                    master.tell(&message, &[a.0.as_fd(), b.0.as_fd()]);
                    drop((a, b)); // both ends are gone: the tunnel ends, and is logged
                    if index % 16 == 0 {
                        let sequence = master.tell(&ToWorker::Ping, &[]);
                        master.hears(&ToMaster::Pong(sequence)).await; // and no Replace
                    }
                }
            }
            let sequence = master.tell(&ToWorker::Ping, &[]);
            master.hears(&ToMaster::Pong(sequence)).await;
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            master.tell(&ToWorker::AdoptTunnel(tunnel), &fds);
            assert!(answer(&peer, b"", SOON_MS).await.is_none(), "it stays open");
            (&client).write_all(b"ping").unwrap();
            assert_eq!(heard(&peer, 4).await, b"ping");
        }
    });
}
