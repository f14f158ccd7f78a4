//! One end of a TCP connection that speaks bytes, with a deadline for every read and write.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::deadline::deadline;
use super::message::{self, Request, Response};

/// The end of the peer's direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// FIN: the peer sends no more.
    Closed,
    /// RST.
    Reset,
}

/// A connection, with the bytes that were read ahead.
pub struct Wire {
    stream: TcpStream,
    ahead: Vec<u8>,
    read_bytes: u64,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a TCP socket has TCP_NODELAY");
        stream.set_write_timeout(Some(deadline())).expect("a deadline is not zero");
        Self { stream, ahead: Vec::new(), read_bytes: 0 }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Number of bytes that we have received since the connection began.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// Sends all of it; panics if the peer is gone or the deadline passes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.try_send(bytes.as_ref()).expect("the peer takes our bytes");
        self
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a FIN and keeps reading.
    pub fn half_close(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Makes the later close send an RST instead of a FIN.
    pub fn reset_on_close(&self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("a socket has SO_LINGER");
    }

    /// Holds bytes back until the close, so that they arrive in one packet with the end.
    pub fn send_with_end(&self) {
        SockRef::from(&self.stream).set_tcp_cork(true).expect("a TCP socket has TCP_CORK");
    }

    /// Reads one request, according to its framing. `None` if the peer closed before the first byte.
    pub fn request(&mut self) -> Option<Request> {
        let head = self.head_or_end()?;
        let mut request = Request::parse(&head);
        self.request_body(&mut request);
        Some(request)
    }

    /// Reads the body for the head of a request.
    pub fn request_body(&mut self, request: &mut Request) {
        request.body = match request.header("transfer-encoding") {
            Some(_) => self.chunked(&mut request.trailers),
            None => self.exactly(request.length().unwrap_or(0)),
        };
    }

    /// Reads the head of a request and leaves the body on the wire.
    pub fn request_head(&mut self) -> Option<Request> {
        Some(Request::parse(&self.head_or_end()?))
    }

    /// Reads one response with its body.
    pub fn response(&mut self) -> Response {
        let mut response = self.response_head();
        self.body_into(&mut response);
        response
    }

    /// Reads the response to a HEAD request: only the head, whatever length it states.
    pub fn response_head(&mut self) -> Response {
        Response::parse(&self.head_or_end().expect("a response comes before the end"))
    }

    /// Reads the body for a head, according to its framing.
    pub fn body_into(&mut self, response: &mut Response) {
        response.body = if matches!(response.status, 100..=199 | 204 | 304) {
            Vec::new()
        } else if response.header("transfer-encoding").is_some() {
            self.chunked(&mut response.trailers)
        } else if let Some(length) = response.length() {
            self.exactly(length)
        } else {
            self.rest().0
        };
    }

    /// Reads up to and including the empty line; `None` if the connection ends before the first byte.
    pub fn head_or_end(&mut self) -> Option<Vec<u8>> {
        let end = Instant::now() + deadline();
        loop {
            if let Some(length) = message::head_length(&self.ahead) {
                return Some(self.ahead.drain(..length).collect());
            }
            match self.fill(end) {
                Ok(()) => {}
                Err(_) if self.ahead.is_empty() => return None,
                Err(how) => panic!("{how:?} inside a head: {:?}", String::from_utf8_lossy(&self.ahead)),
            }
        }
    }

    /// Reads one line, without its terminator.
    pub fn line(&mut self) -> Vec<u8> {
        let end = Instant::now() + deadline();
        loop {
            if let Some(at) = self.ahead.iter().position(|&byte| byte == b'\n') {
                let mut line: Vec<u8> = self.ahead.drain(..=at).collect();
                line.pop();
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return line;
            }
            if let Err(how) = self.fill(end) {
                panic!("{how:?} inside a line: {:?}", String::from_utf8_lossy(&self.ahead));
            }
        }
    }

    /// Reads exactly `count` bytes.
    pub fn exactly(&mut self, count: usize) -> Vec<u8> {
        let end = Instant::now() + deadline();
        while self.ahead.len() < count {
            if let Err(how) = self.fill(end) {
                panic!("{how:?} after {} of {count} bytes", self.ahead.len());
            }
        }
        self.ahead.drain(..count).collect()
    }

    /// Reads exactly `count` bytes; `None` if the connection ends before.
    pub fn try_exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        let end = Instant::now() + deadline();
        while self.ahead.len() < count {
            match self.fill(end) {
                Ok(()) => {}
                Err(End::Closed | End::Reset) => return None,
            }
        }
        Some(self.ahead.drain(..count).collect())
    }

    /// Reads until the peer ends the connection; returns the bytes, and how it ended.
    pub fn rest(&mut self) -> (Vec<u8>, End) {
        let end = Instant::now() + deadline();
        loop {
            if let Err(how) = self.fill(end) {
                return (std::mem::take(&mut self.ahead), how);
            }
        }
    }

    /// Waits for the end of the connection; panics if any byte comes first.
    pub fn expect_end(&mut self) -> End {
        let (bytes, how) = self.rest();
        assert!(bytes.is_empty(), "more bytes before the end: {:?}", String::from_utf8_lossy(&bytes));
        how
    }

    /// True if nothing arrives for this time: neither bytes nor an end.
    pub fn is_silent(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).expect("not zero");
        let mut byte = [0];
        let silent = matches!(self.stream.peek(&mut byte), Err(error) if is_timeout(&error));
        self.ahead.is_empty() && silent
    }

    /// Reads whatever one read returns, up to `most` bytes; empty at the end of the stream.
    pub fn some(&mut self, most: usize) -> Vec<u8> {
        if self.ahead.is_empty() {
            let _ = self.fill(Instant::now() + deadline());
        }
        let count = self.ahead.len().min(most);
        self.ahead.drain(..count).collect()
    }

    /// Decodes a chunked body (RFC 9112 §7.1), strictly: a proxy's response has no excuse for errors.
    fn chunked(&mut self, trailers: &mut Vec<(String, String)>) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            let text = String::from_utf8_lossy(&line);
            let digits = text.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("chunk size {text:?}"));
            if size == 0 {
                break;
            }
            body.extend(self.exactly(size));
            let end = self.exactly(2);
            assert_eq!(end, b"\r\n", "the end of a chunk");
        }
        loop {
            let line = self.line();
            if line.is_empty() {
                return body;
            }
            trailers.push(message::field(&String::from_utf8_lossy(&line)));
        }
    }

    fn fill(&mut self, end: Instant) -> Result<(), End> {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left)).expect("not zero");
        let mut space = [0; 16 * 1024];
        match self.stream.read(&mut space) {
            Ok(0) => Err(End::Closed),
            Ok(count) => {
                self.ahead.extend_from_slice(&space[..count]);
                self.read_bytes += count as u64;
                Ok(())
            }
            Err(error) if is_timeout(&error) => {
                let seen = String::from_utf8_lossy(&self.ahead).chars().take(400).collect::<String>();
                panic!("waited {:?} in vain for bytes; so far {seen:?}", deadline())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(_) => Err(End::Reset),
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
