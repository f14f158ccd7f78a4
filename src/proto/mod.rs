//! Protocols as values: bytes and time in, bytes out; no socket, no clock.
