//! Reads the PROXY protocol header from a client's connection (`listen … proxy_protocol`).
//!
//! Touches: the client's socket. Waits without a limit; the caller sets one.
//! Behaviour: nginx.org, "Accepting the PROXY Protocol"; an invalid header ends the connection.

use std::io;

use crate::log::{self, Logger};
use crate::net::Transport;
use crate::net::newcomer::Newcomer;
use crate::proto::proxy_protocol::{self, Error, Header};
use crate::runtime::Waiting;
use crate::runtime::buffer::Buffer;

/// Reads the header; returns it and the bytes that came after it. `None`: there is none, and the log says
/// why.
pub async fn read(
    transport: &Transport,
    buffer_size: usize,
    log: Logger,
    who: &Newcomer<'_>,
) -> Option<(Header, Buffer)> {
    let mut input = Buffer::take(buffer_size);
    loop {
        match proxy_protocol::parse(input.data()) {
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
        match arrived(transport, &mut input).await {
            Ok(0) if transport.is_asked() && !transport.is_gone() => return None,
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

/// Reads the next bytes. Zero: the end, or the worker needs this connection's place.
async fn arrived(transport: &Transport, input: &mut Buffer) -> io::Result<usize> {
    loop {
        transport.waiting(Waiting::Head).await?;
        match transport.try_read(input.space()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && transport.is_asked() => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

fn report(error: Error, data: &[u8], log: Logger, who: &Newcomer<'_>) {
    match error {
        Error::Broken => {
            let end = memchr::memchr2(b'\r', b'\n', data).unwrap_or(data.len());
            log::error!(log, who, "broken header: \"{}\"", log::Text(&data[..end]));
        }
        Error::UnknownVersion(version) => log::error!(log, who, "unknown PROXY protocol version: {version}"),
        Error::TooLarge => log::error!(log, who, "header is too large"),
    }
}

/// Writes the header for the worker that takes the connection over.
pub fn for_handover(header: &Header) -> Box<[u8]> {
    let mut bytes = Vec::new();
    header.write(&mut bytes);
    bytes.into()
}

/// Parses the header that an older worker has read; `Ok(None)` if there was none. Fails unless the bytes are
/// exactly one whole header.
pub fn of_handover(bytes: &[u8]) -> Result<Option<Header>, Error> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (header, length) = proxy_protocol::parse(bytes)?.ok_or(Error::Broken)?;
    if length == bytes.len() { Ok(Some(header)) } else { Err(Error::Broken) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_journey_to_another_worker() {
        let of = |bytes: Box<[u8]>| of_handover(&bytes);
        let (header, _) =
            proxy_protocol::parse(b"PROXY TCP6 2001:db8::1 ::2 5 6\r\n").expect("valid").expect("whole");
        assert_eq!(of(for_handover(&header)), Ok(Some(header.clone())));
        assert_eq!(of(for_handover(&Header::default())), Ok(Some(Header::default())));
        assert_eq!(of(Box::default()), Ok(None));
        let whole = for_handover(&header);
        for other in [&b"0d0a"[..], &whole[..whole.len() - 1], &[&whole[..], b"x"].concat()] {
            assert_eq!(of(other.into()), Err(Error::Broken));
        }
    }
}
