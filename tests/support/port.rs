//! Free TCP ports below the ephemeral range, where no outgoing connection can take one by accident.
//!
//! Each test process holds blocks of sixteen ports by a file lock, so that test binaries that run at the same
//! time, even from other worktrees, never hand out the same port. The kernel releases the lock when the
//! process ends.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Mutex;

use socket2::{Domain, Socket, Type};

use super::deadline::wait_for;

const BACKLOG: i32 = 4_096;
const FIRST: u16 = 12_000;
const BLOCK: u16 = 16;
const BLOCKS: u16 = 1_200; // up to 31,200; the ephemeral range begins at 32,768

struct Held {
    _locks: Vec<File>,
    next: u16,
    end: u16,
}

static HELD: Mutex<Held> = Mutex::new(Held { _locks: Vec::new(), next: 0, end: 0 });

/// A port on which no process listens now, and which no other test process gets while this one lives.
pub fn free() -> u16 {
    let mut held = HELD.lock().expect("no holder of the lock panics");
    loop {
        if held.next == held.end {
            let (lock, block) = claim();
            held._locks.push(lock);
            held.next = FIRST + block * BLOCK;
            held.end = held.next + BLOCK;
        }
        let port = held.next;
        held.next += 1;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}

/// A port of 127.0.0.1 that refuses connections and datagrams until this process ends: it is held by sockets that take none,
/// so nobody else can listen there meanwhile.
pub fn refusing() -> u16 {
    static HELD: Mutex<Vec<(Socket, UdpSocket)>> = Mutex::new(Vec::new());
    let (port, sockets) = wait_for("a port to hold", || {
        let port = free();
        hold(port).ok().map(|sockets| (port, sockets))
    });
    HELD.lock().expect("no holder of the lock panics").push(sockets);
    port
}

fn hold(port: u16) -> std::io::Result<(Socket, UdpSocket)> {
    // Bound and not listening: the kernel answers with a reset.
    let tcp = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    tcp.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    // Connected to another peer, itself: for datagrams of others there is no socket.
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))?;
    udp.connect((Ipv4Addr::LOCALHOST, port))?;
    Ok((tcp, udp))
}

/// Listens on a port from [`free`]. A process that another thread has just forked may still hold the socket
/// with which `free` tested the port, until it executes its program. The queue is long enough for a test that
/// connects a thousand clients at once: when it overflows, the kernel falls back to SYN cookies and may reset
/// a connection that its peer takes for established.
pub fn listen(address: Ipv4Addr, port: u16) -> TcpListener {
    wait_for("the port to be free", || try_listen(address, port).ok())
}

fn try_listen(address: Ipv4Addr, port: u16) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((address, port)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn claim() -> (File, u16) {
    let folder = std::env::temp_dir().join("pronghorn-test-ports");
    std::fs::create_dir_all(&folder).expect("the temporary directory takes a folder");
    // Start at another place in each process: a port that was used recently may have connections in
    // TIME_WAIT.
    let start = (std::process::id() * 7 % u32::from(BLOCKS)) as u16;
    for step in 0..BLOCKS {
        let block = (start + step) % BLOCKS;
        let path = folder.join(block.to_string());
        let Ok(file) = OpenOptions::new().create(true).append(true).open(&path) else { continue };
        if file.try_lock().is_ok() {
            return (file, block);
        }
    }
    panic!("every block of test ports is taken ({})", folder.display());
}
