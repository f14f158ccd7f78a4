//! Reading the PROXY protocol's header from a client's connection (`listen … proxy_protocol`).
//!
//! Touches: the client's socket. Waits without a limit of its own: the caller has one.
//! Behaviour: nginx.org, "Accepting the PROXY Protocol"; a wrong header ends the connection.

use std::io;

use crate::http::handover::Handover;
use crate::http::server::Listen;
use crate::log::{self, Logger};
use crate::proto::proxy::{self, Error, Header};
use crate::runtime::Io;
use crate::runtime::buffer::Buffer;
use crate::sys::address::SockAddr;

/// Of the header as text between workers, whose messages have a size.
pub const HANDOVER_BYTES_MAX: usize = 6000;

/// Who is about to tell for whom it connects.
#[derive(Debug)]
pub struct Sender<'a> {
    pub number: u64,
    pub peer: &'a SockAddr,
    pub listen: &'a Listen,
}

impl log::Context for Sender<'_> {
    fn connection(&self) -> Option<u64> {
        Some(self.number)
    }

    fn action(&self) -> Option<&str> {
        Some("reading PROXY protocol")
    }

    fn fields(&self, fields: &mut log::Fields) {
        match self.peer.ip() {
            Some(ip) => fields.plain("client", ip),
            None => fields.plain("client", "unix:"),
        };
        fields.plain("server", &self.listen.address);
    }
}

/// Reads the header: it, and what came behind it. `None`: there is none, and the log says why.
pub async fn read(io: &Io, buffer_size: usize, log: Logger, who: &Sender<'_>) -> Option<(Header, Buffer)> {
    let mut input = Buffer::take(buffer_size);
    loop {
        match proxy::parse(input.data()) {
            Ok(Some((header, length))) => {
                input.consume(length);
                input.compact();
                return Some((header, input));
            }
            Ok(None) => {}
            Err(error) => {
                report(error, input.data(), log, who);
                return None;
            }
        }
        if input.space().is_empty() {
            input.grow(input.capacity() * 2); // the longest header is a few KiB
        }
        match io.read(input.space()).await {
            Ok(count) if count > 0 => input.filled(count),
            Ok(_) => {
                log::info!(log, who, "client closed connection");
                return None;
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
            Err(error) => {
                log::info!(log, who, "recv() failed {}", log::Cause(&error));
                return None;
            }
        }
    }
}

fn report(error: Error, data: &[u8], log: Logger, who: &Sender<'_>) {
    match error {
        Error::Broken => {
            let end = memchr::memchr2(b'\r', b'\n', data).unwrap_or(data.len());
            log::error!(log, who, "broken header: \"{}\"", log::Text(&data[..end]));
        }
        Error::UnknownVersion(version) => log::error!(log, who, "unknown PROXY protocol version: {version}"),
        Error::TooLarge => log::error!(log, who, "header is too large"),
    }
}

/// The header as text for the worker that goes on with the connection.
pub fn for_handover(header: &Header) -> String {
    let mut bytes = Vec::new();
    header.write(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The header that an older worker has read.
pub fn of_handover(handover: &Handover) -> Option<Header> {
    let digits = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = handover.proxy.as_bytes().chunks(2).map(digits).collect();
    let (header, _) = proxy::parse(&bytes?).ok()??;
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_journey_to_another_worker() {
        let of = |proxy| {
            let (listen, requests, idle_ms_left, opened_ms_ago, number) = (String::new(), 0, 0, 0, 0);
            of_handover(&Handover { listen, requests, idle_ms_left, opened_ms_ago, number, proxy })
        };
        let (header, _) = proxy::parse(b"PROXY TCP6 2001:db8::1 ::2 5 6\r\n").expect("valid").expect("whole");
        assert_eq!(of(for_handover(&header)), Some(header));
        assert_eq!(of(for_handover(&Header::default())), Some(Header::default()));
        assert_eq!((of(String::new()), of("0g".into()), of("0d0".into())), (None, None, None));
    }
}
