//! Messages to a syslog server by datagram, as nginx sends them.
//!
//! Nothing here blocks: a datagram that does not fit the socket's queue is lost and counted.
//! Truth: RFC 3164 §4.1; nginx.org, "Logging to syslog".

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use crate::sys::names::Names;

use super::format;
use super::level::Level;

const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "intern", "lpr", "news", "uucp", "clock", "authpriv", "ftp",
    "ntp", "audit", "alert", "cron", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
    "local7",
];
const FACILITY_DEFAULT: u8 = 23; // local7, as in nginx
const PORT_DEFAULT: u16 = 514;
const TAG_BYTES_MAX: usize = 32; // RFC 3164 §4.1.3
const TAG_DEFAULT: &str = "nginx"; // nginx's documented default: collectors have rules for it

/// The parameters of `syslog:server=…,facility=…,severity=…,tag=…,nohostname`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    server: Server,
    facility: u8,
    /// The severity of access log lines; error log lines have their own.
    pub severity: Level,
    tag: String,
    hostname: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Server {
    Udp(SocketAddr),
    Unix(PathBuf),
}

impl Settings {
    /// Parses the parameters after `syslog:`. Errors: nginx's words.
    pub fn parse(text: &str, names: &Names) -> Result<Settings, String> {
        let (mut server, mut facility, mut severity, mut tag) = (None, None, None, None);
        let mut with_hostname = true;
        for parameter in text.split(',') {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match name {
                "server" => once(&mut server, name, parse_server(value, names)?)?,
                "facility" => {
                    let number = FACILITIES.iter().position(|&known| known == value);
                    let number = number.ok_or_else(|| format!("unknown syslog facility \"{value}\""))?;
                    once(&mut facility, name, number as u8)?;
                }
                "severity" => {
                    let level = Level::ALL.into_iter().find(|level| level.name() == value);
                    let level = level.ok_or_else(|| format!("unknown syslog severity \"{value}\""))?;
                    once(&mut severity, name, level)?;
                }
                "tag" => once(&mut tag, name, parse_tag(value)?)?,
                "nohostname" if parameter == name => with_hostname = false,
                _ => return Err(format!("unknown syslog parameter \"{parameter}\"")),
            }
        }
        let hostname = || nix::unistd::gethostname().ok().map(|name| name.to_string_lossy().into_owned());
        Ok(Settings {
            server: server.ok_or("no syslog server specified")?,
            facility: facility.unwrap_or(FACILITY_DEFAULT),
            severity: severity.unwrap_or(Level::Info),
            tag: tag.unwrap_or_else(|| TAG_DEFAULT.to_owned()),
            hostname: if with_hostname { hostname() } else { None },
        })
    }

    /// The key under which `word` is interned: the same word may mean another server address or host name
    /// later.
    pub(super) fn key(&self, word: &str) -> String {
        format!("{word} {:?} {:?}", self.server, self.hostname)
    }

    /// Appends the head of a message: `<PRI>Mon DD HH:MM:SS host tag: `.
    fn head(&self, level: Level, secs: i64, out: &mut Vec<u8>) {
        let priority = u16::from(self.facility) * 8 + level as u16;
        out.push(b'<');
        out.extend_from_slice(itoa::Buffer::new().format(priority).as_bytes());
        out.push(b'>');
        format::syslog_time(secs, out);
        out.push(b' ');
        if let Some(hostname) = &self.hostname {
            out.extend_from_slice(hostname.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(self.tag.as_bytes());
        out.extend_from_slice(b": ");
    }
}

fn once<T>(place: &mut Option<T>, name: &str, value: T) -> Result<(), String> {
    if place.replace(value).is_some() {
        return Err(format!("duplicate syslog \"{name}\""));
    }
    Ok(())
}

fn parse_tag(value: &str) -> Result<String, String> {
    if value.len() > TAG_BYTES_MAX {
        return Err("syslog tag length exceeds 32".to_owned());
    }
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err("syslog \"tag\" only allows alphanumeric characters and underscore".to_owned());
    }
    Ok(value.to_owned())
}

fn parse_server(value: &str, names: &Names) -> Result<Server, String> {
    if let Some(path) = value.strip_prefix("unix:") {
        if path.is_empty() {
            return Err(format!("no path in syslog server \"{value}\""));
        }
        return Ok(Server::Unix(PathBuf::from(path)));
    }
    let failed = |why: &str| format!("{why} in syslog server \"{value}\"");
    if value.is_empty() {
        return Err(failed("no host"));
    }
    let named_port = match value.rfind(':') {
        Some(colon) if !value[colon..].contains(']') && value.find(':') == Some(colon) => true,
        Some(colon) => value.starts_with('[') && value[..colon].ends_with(']'),
        None => false,
    };
    let (host, port) = match value.rsplit_once(':').filter(|_| named_port) {
        Some((host, port)) => {
            (host, port.parse().ok().filter(|&port| port != 0).ok_or(failed("invalid port"))?)
        }
        None => (value, PORT_DEFAULT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let found = match host.parse() {
        Ok(ip) => Some(SocketAddr::new(ip, port)),
        Err(_) => names.find(host, port).and_then(|all| all.first().copied()),
    };
    found.map(Server::Udp).ok_or_else(|| failed("host not found"))
}

/// A connected datagram socket, opened on first use and again after a failure.
#[derive(Debug, Default)]
pub(super) struct Sender {
    socket: Option<Socket>,
    datagram: Vec<u8>,
}

#[derive(Debug)]
enum Socket {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

impl Sender {
    /// Sends one message. After a failure it connects again and retries once, since the server may have been
    /// restarted.
    pub(super) fn send(
        &mut self,
        settings: &Settings,
        level: Level,
        secs: i64,
        message: &[u8],
    ) -> io::Result<()> {
        self.datagram.clear();
        settings.head(level, secs, &mut self.datagram);
        self.datagram.extend_from_slice(message);
        if let Some(socket) = &self.socket {
            match socket.send(&self.datagram) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(_) => self.socket = None,
            }
        }
        let socket = Socket::connect(&settings.server)?;
        let sent = socket.send(&self.datagram);
        self.socket = Some(socket);
        sent
    }

    pub(super) fn close(&mut self) {
        *self = Sender::default();
    }

    pub(super) fn descriptor(&self) -> Option<RawFd> {
        Some(match self.socket.as_ref()? {
            Socket::Udp(socket) => socket.as_raw_fd(),
            Socket::Unix(socket) => socket.as_raw_fd(),
        })
    }
}

impl Socket {
    fn connect(server: &Server) -> io::Result<Socket> {
        match server {
            Server::Udp(address) => {
                let any: SocketAddr =
                    if address.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
                let socket = UdpSocket::bind(any)?;
                socket.connect(address)?;
                socket.set_nonblocking(true)?;
                Ok(Socket::Udp(socket))
            }
            Server::Unix(path) => Socket::connect_unix(path),
        }
    }

    fn connect_unix(path: &Path) -> io::Result<Socket> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(path)?;
        Ok(Socket::Unix(socket))
    }

    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        match self {
            Socket::Udp(socket) => socket.send(datagram).map(drop),
            Socket::Unix(socket) => socket.send(datagram).map(drop),
        }
    }
}
