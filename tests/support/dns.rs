//! A scripted name server, UDP and TCP on one port: the test's closure answers each question with raw
//! messages.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::deadline::{deadline, wait_for};
use super::port;

pub const A: u16 = 1;
pub const CNAME: u16 = 5;
pub const SOA: u16 = 6;
pub const AAAA: u16 = 28;
pub const SRV: u16 = 33;

pub const FORMERR: u16 = 1;
pub const SERVFAIL: u16 = 2;
pub const NXDOMAIN: u16 = 3;
pub const REFUSED: u16 = 5;

type Script = dyn Fn(&Query) -> Vec<Reply> + Send + Sync;

/// One message to the sender of the question.
pub enum Reply {
    Answer(Vec<u8>),
    /// Sent from another port than the one that was asked.
    FromElsewhere(Vec<u8>),
}

/// A question as it was received.
#[derive(Clone, Debug)]
pub struct Query {
    pub id: u16,
    pub name: String,
    pub kind: u16,
    pub is_tcp: bool,
    /// The number of times that this was asked before, by either transport.
    pub earlier: usize,
    /// The sender.
    pub from: SocketAddr,
    /// The server's own socket, for unsolicited messages.
    pub socket: Arc<UdpSocket>,
}

#[derive(Default)]
struct Shared {
    stopping: AtomicBool,
    queries: Mutex<Vec<Query>>,
}

/// A name server. It stops when dropped.
pub struct Dns {
    ip: Ipv4Addr,
    port: u16,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Dns {
    pub fn start(script: impl Fn(&Query) -> Vec<Reply> + Send + Sync + 'static) -> Self {
        let udp = loop {
            if let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port::free())) {
                break socket;
            }
        };
        Self::on(udp, Arc::new(script))
    }

    /// A server for the system's resolver: at port 53 of an address that no other process uses. `None` if the
    /// test may not bind to that port.
    pub fn for_the_system(script: impl Fn(&Query) -> Vec<Reply> + Send + Sync + 'static) -> Option<Self> {
        static COUNT: AtomicU8 = AtomicU8::new(1);
        let pid = std::process::id().to_be_bytes();
        let ip = Ipv4Addr::new(127, pid[2] | 1, pid[3], COUNT.fetch_add(1, Ordering::SeqCst));
        let udp = UdpSocket::bind((ip, 53)).ok()?;
        Some(Self::on(udp, Arc::new(script)))
    }

    fn on(udp: UdpSocket, script: Arc<Script>) -> Self {
        let shared = Arc::new(Shared::default());
        let address = udp.local_addr().expect("it is bound");
        let (IpAddr::V4(ip), port) = (address.ip(), address.port()) else { panic!("it is IPv4") };
        let tcp = port::listen(ip, port);
        udp.set_read_timeout(Some(deadline())).expect("a timeout");
        let udp = Arc::new(udp);
        let (theirs, their_script, socket) = (shared.clone(), script.clone(), udp.clone());
        let by_udp = std::thread::spawn(move || serve_udp(&udp, &theirs, &their_script));
        let theirs = shared.clone();
        let by_tcp = std::thread::spawn(move || serve_tcp(&tcp, &socket, &theirs, &script));
        Self { ip, port, shared, threads: vec![by_udp, by_tcp] }
    }

    /// A server that knows only these addresses, IPv4 or IPv6.
    pub fn knowing(names: &[(&str, &str)]) -> Self {
        let names: Vec<(String, IpAddr)> =
            names.iter().map(|(name, ip)| ((*name).to_owned(), ip.parse().expect("an address"))).collect();
        Self::start(move |query| {
            let own = names.iter().filter(|(name, ip)| *name == query.name && kind(*ip) == query.kind);
            let records: Vec<_> = own.map(|(_, ip)| query.address(60, *ip)).collect();
            query.reply(&records)
        })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn queries(&self) -> Vec<Query> {
        self.shared.queries.lock().expect("not poisoned").clone()
    }

    /// The number of questions for this.
    pub fn asked(&self, name: &str, kind: u16) -> usize {
        self.queries().iter().filter(|query| query.name == name && query.kind == kind).count()
    }

    /// Waits until there were this many questions for this.
    pub fn wait_asked(&self, name: &str, kind: u16, count: usize) {
        wait_for(&format!("{count} questions for {name}"), || {
            (self.asked(name, kind) >= count).then_some(())
        });
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect((self.ip, self.port));
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) {
            let _ = socket.send_to(b"", (self.ip, self.port));
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Query {
    /// A response with these records.
    pub fn reply(&self, records: &[Vec<u8>]) -> Vec<Reply> {
        vec![Reply::Answer(self.message(0x8180, records))]
    }

    /// A response without records.
    pub fn fail(&self, code: u16) -> Vec<Reply> {
        vec![Reply::Answer(self.message(0x8180 | code, &[]))]
    }

    /// A response that is too long for UDP.
    pub fn truncate(&self) -> Vec<Reply> {
        vec![Reply::Answer(self.message(0x8380, &[]))]
    }

    /// A whole message: the question, with `records` as its answers.
    pub fn message(&self, flags: u16, records: &[Vec<u8>]) -> Vec<u8> {
        let mut message = Vec::new();
        for word in [self.id, flags, 1, records.len() as u16, 0, 0] {
            message.extend_from_slice(&word.to_be_bytes());
        }
        message.extend_from_slice(&wire(&self.name));
        message.extend_from_slice(&self.kind.to_be_bytes());
        message.extend_from_slice(&[0, 1]);
        for record in records {
            message.extend_from_slice(record);
        }
        message
    }

    pub fn address(&self, ttl: u32, ip: IpAddr) -> Vec<u8> {
        record(&self.name, kind(ip), ttl, &octets(ip))
    }

    pub fn a(&self, ttl: u32, ip: &str) -> Vec<u8> {
        self.address(ttl, ip.parse().expect("an address"))
    }

    pub fn alias(&self, ttl: u32, target: &str) -> Vec<u8> {
        record(&self.name, CNAME, ttl, &wire(target))
    }

    /// An SRV record; `words` are priority, weight and port.
    pub fn service(&self, ttl: u32, words: [u16; 3], target: &str) -> Vec<u8> {
        let mut data: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        data.extend_from_slice(&wire(target));
        record(&self.name, SRV, ttl, &data)
    }
}

/// One record, with its owner's name in full.
pub fn record(owner: &str, kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut record = wire(owner);
    record.extend_from_slice(&kind.to_be_bytes());
    record.extend_from_slice(&[0, 1]);
    record.extend_from_slice(&ttl.to_be_bytes());
    record.extend_from_slice(&(data.len() as u16).to_be_bytes());
    record.extend_from_slice(data);
    record
}

/// A name as labels with their lengths.
pub fn wire(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn kind(ip: IpAddr) -> u16 {
    if ip.is_ipv4() { A } else { AAAA }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn serve_udp(socket: &Arc<UdpSocket>, shared: &Shared, script: &Arc<Script>) {
    let mut buffer = [0; 4096];
    loop {
        let received = socket.recv_from(&mut buffer);
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok((length, from)) = received else { continue };
        let Some(query) = shared.note(&buffer[..length], from, false, socket) else { continue };
        for reply in script(&query) {
            let _ = match reply {
                Reply::Answer(bytes) => socket.send_to(&bytes, from),
                Reply::FromElsewhere(bytes) => {
                    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|other| other.send_to(&bytes, from))
                }
            };
        }
    }
}

fn serve_tcp(listener: &TcpListener, socket: &Arc<UdpSocket>, shared: &Shared, script: &Arc<Script>) {
    loop {
        let accepted = listener.accept();
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok((mut stream, from)) = accepted else { continue };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
        let mut length = [0; 2];
        if stream.read_exact(&mut length).is_err() {
            continue;
        }
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        if stream.read_exact(&mut message).is_err() {
            continue;
        }
        let Some(query) = shared.note(&message, from, true, socket) else { continue };
        for reply in script(&query) {
            if let Reply::Answer(bytes) = reply {
                let _ = stream.write_all(&(bytes.len() as u16).to_be_bytes());
                let _ = stream.write_all(&bytes);
            }
        }
    }
}

impl Shared {
    fn note(&self, message: &[u8], from: SocketAddr, is_tcp: bool, socket: &Arc<UdpSocket>) -> Option<Query> {
        let word = |at: usize| message.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]));
        let mut labels = Vec::new();
        let mut at = 12;
        loop {
            let length = usize::from(*message.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            labels.push(String::from_utf8_lossy(message.get(at..at + length)?).into_owned());
            at += length;
        }
        let (id, name, kind) = (word(0)?, labels.join("."), word(at)?);
        let mut queries = self.queries.lock().expect("not poisoned");
        let earlier = queries.iter().filter(|query| query.name == name && query.kind == kind).count();
        let query = Query { id, name, kind, is_tcp, earlier, from, socket: socket.clone() };
        queries.push(query.clone());
        Some(query)
    }
}
