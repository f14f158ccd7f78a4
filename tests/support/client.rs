//! A client on a raw TCP connection, and the short requests that most tests need.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};

use super::deadline::deadline;
use super::message::Response;
use super::wire::Wire;

/// A connection to the daemon.
pub struct Client(Wire);

impl Client {
    /// Connects to 127.0.0.1.
    pub fn connect(port: u16) -> Self {
        Self::try_connect(port).unwrap_or_else(|error| panic!("no connection to port {port}: {error}"))
    }

    pub fn try_connect(port: u16) -> std::io::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(Self(Wire::new(TcpStream::connect_timeout(&address, deadline())?)))
    }

    /// Sends `GET path` for `localhost` on the kept-alive connection and reads the response.
    pub fn get(&mut self, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        self.response()
    }

    pub fn into_wire(self) -> Wire {
        self.0
    }
}

impl Deref for Client {
    type Target = Wire;
    fn deref(&self) -> &Wire {
        &self.0
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut Wire {
        &mut self.0
    }
}

/// Sends a `GET` for `localhost` on a new connection.
pub fn get(port: u16, path: &str) -> Response {
    fetch(port, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
}

/// Sends one request, given in full, on a new connection.
pub fn fetch(port: u16, request: &str) -> Response {
    let mut client = Client::connect(port);
    client.send(request);
    client.response()
}
