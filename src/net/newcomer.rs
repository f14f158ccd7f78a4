//! A client's connection before its first request, as the log names it.
//!
//! Touches: nothing.

use crate::log;
use crate::sys::address::SockAddr;

/// The context of log lines about such a connection.
#[derive(Debug)]
pub struct Newcomer<'a> {
    pub number: u64,
    pub peer: &'a SockAddr,
    /// The address of the listener that accepted it.
    pub listener: &'a SockAddr,
    /// What is being done, in nginx's words: `SSL handshaking`.
    pub action: &'static str,
}

impl log::Context for Newcomer<'_> {
    fn connection(&self) -> Option<u64> {
        Some(self.number)
    }

    fn action(&self) -> Option<&str> {
        Some(self.action)
    }

    fn fields(&self, fields: &mut log::Fields) {
        match self.peer.ip() {
            Some(ip) => fields.plain("client", ip),
            None => fields.plain("client", "unix:"),
        };
        fields.plain("server", self.listener);
    }
}
