//! A socket's address as system calls take and return it: IPv4, IPv6 or a path.
//!
//! Pure data. The text form is nginx's: `127.0.0.1:8080`, `[::1]:80`, `unix:/run/app.sock`.

use std::ffi::OsStr;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The address that a socket is bound or connected to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SockAddr {
    Inet(SocketAddr),
    /// Of UDP: another socket than that of TCP with the same address.
    Datagram(Box<SocketAddr>),
    /// Empty for an unnamed socket (a client of a unix listener). A name that begins with a zero byte is
    /// abstract (unix(7)).
    Unix(PathBuf),
}

impl SockAddr {
    /// From a name as the kernel reports it, including the leading zero of an abstract name.
    pub fn from_unix_name(name: &[u8]) -> Self {
        Self::Unix(PathBuf::from(OsStr::from_bytes(name)))
    }

    /// The port, in host order; `None` for a unix socket.
    pub fn port(&self) -> Option<u16> {
        self.inet().map(SocketAddr::port)
    }

    /// The IP address; `None` for a unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        self.inet().map(SocketAddr::ip)
    }

    pub fn inet(&self) -> Option<&SocketAddr> {
        match self {
            Self::Inet(address) => Some(address),
            Self::Datagram(address) => Some(address),
            Self::Unix(_) => None,
        }
    }

    /// The path of a unix socket; `None` for other sockets, and for unnamed and abstract ones.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) if path.as_os_str().as_bytes().first().is_some_and(|&byte| byte != 0) => {
                Some(path)
            }
            Self::Unix(_) | Self::Inet(_) | Self::Datagram(_) => None,
        }
    }

    pub fn is_datagram(&self) -> bool {
        matches!(self, Self::Datagram(_))
    }

    pub fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// Appends what `Display` writes, for IPv4 many times faster.
    pub fn push_to(&self, text: &mut String) {
        let Self::Inet(SocketAddr::V4(v4)) = self else {
            return text.push_str(&self.to_string());
        };
        octets(*v4.ip(), |part| text.push_str(part));
        text.push(':');
        text.push_str(itoa::Buffer::new().format(v4.port()));
    }
}

/// Appends an address as text, many times faster than its `Display` does for IPv4.
pub fn write_ip(ip: IpAddr, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(v4) => octets(v4, |part| out.extend_from_slice(part.as_bytes())),
        IpAddr::V6(v6) => out.extend_from_slice(v6.to_string().as_bytes()),
    }
}

/// The decimal octets of an address and the dots between them, in order.
fn octets(ip: Ipv4Addr, mut push: impl FnMut(&str)) {
    for (index, octet) in ip.octets().into_iter().enumerate() {
        if index > 0 {
            push(".");
        }
        push(itoa::Buffer::new().format(octet));
    }
}

impl From<SocketAddr> for SockAddr {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

impl fmt::Display for SockAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(out),
            Self::Datagram(address) => address.fmt(out),
            Self::Unix(path) => match path.as_os_str().as_bytes().strip_prefix(b"\0") {
                Some(name) => write!(out, "unix:@{}", String::from_utf8_lossy(name)),
                None => write!(out, "unix:{}", path.display()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_they_are_displayed() {
        for text in ["0.0.0.0", "1.20.255.100", "255.255.255.255", "::", "2001:db8::1", "::ffff:10.0.0.1"] {
            let (ip, mut out): (IpAddr, _) = (text.parse().expect(text), b"for ".to_vec());
            write_ip(ip, &mut out);
            assert_eq!(String::from_utf8(out).expect("ASCII"), format!("for {ip}"));
        }
    }

    #[test]
    fn prints_as_nginx_does() {
        let inet = |text: &str| SockAddr::Inet(text.parse().unwrap());
        let cases = [
            (inet("127.0.0.1:8080"), "127.0.0.1:8080"),
            (inet("255.0.10.255:65535"), "255.0.10.255:65535"),
            (SockAddr::Datagram(Box::new("10.0.0.1:53".parse().unwrap())), "10.0.0.1:53"),
            (inet("[::1]:80"), "[::1]:80"),
            (SockAddr::Unix("/run/app.sock".into()), "unix:/run/app.sock"),
            (SockAddr::Unix(PathBuf::new()), "unix:"),
            (SockAddr::from_unix_name(b"\0hidden"), "unix:@hidden"),
        ];
        for (address, text) in cases {
            assert_eq!(address.to_string(), text);
            let mut appended = "to ".to_owned();
            address.push_to(&mut appended);
            assert_eq!(appended, format!("to {text}"));
        }
    }

    #[test]
    fn only_a_named_unix_socket_has_a_path() {
        assert_eq!(SockAddr::Unix("/a".into()).path(), Some(Path::new("/a")));
        assert_eq!(SockAddr::Unix(PathBuf::new()).path(), None);
        assert_eq!(SockAddr::from_unix_name(b"\0a").path(), None);
        assert_eq!(SockAddr::Inet("1.2.3.4:5".parse().unwrap()).path(), None);
    }
}
