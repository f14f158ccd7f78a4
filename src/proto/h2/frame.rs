//! The frames of HTTP/2: their heads, read and written.
//!
//! Touches: nothing. RFC 9113 §4.1, §6, §7.

use std::fmt;

/// The bytes that a client sends first (§3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The bytes of every frame's head.
pub const HEAD_BYTES: usize = 9;
/// The protocol's default for SETTINGS_MAX_FRAME_SIZE: the longest payload that we accept, unless heads may be longer.
pub const PAYLOAD_BYTES_MAX: usize = 16 * 1024;
/// The longest payload that a peer may accept.
pub const PAYLOAD_LIMIT: u32 = (1 << 24) - 1;
/// The largest flow-control window.
pub const WINDOW_MAX: u32 = (1 << 31) - 1;
/// The window of a connection, and of its streams unless SETTINGS_INITIAL_WINDOW_SIZE says otherwise.
pub const WINDOW_DEFAULT: u32 = 65_535;
/// The highest number of a stream.
pub const STREAM_MAX: u32 = WINDOW_MAX;

/// The types of frames.
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
    /// RFC 9218 §7.1.
    pub const PRIORITY_UPDATE: u8 = 0x10;
}

/// The flags of frames.
pub mod flag {
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 32;
}

/// The parameters of SETTINGS (§6.5.2).
pub mod setting {
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    /// RFC 8441 §3.
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
    /// RFC 9218 §2.1.
    pub const NO_RFC7540_PRIORITIES: u16 = 9;
}

/// An error code of RST_STREAM and GOAWAY (§7).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Code(pub u32);

impl Code {
    pub const NO_ERROR: Self = Self(0);
    pub const PROTOCOL_ERROR: Self = Self(1);
    pub const INTERNAL_ERROR: Self = Self(2);
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    pub const STREAM_CLOSED: Self = Self(5);
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    pub const REFUSED_STREAM: Self = Self(7);
    pub const CANCEL: Self = Self(8);
    pub const COMPRESSION_ERROR: Self = Self(9);
    pub const ENHANCE_YOUR_CALM: Self = Self(11);

    /// The name in the RFC; `None` for an unknown code.
    pub fn name(self) -> Option<&'static str> {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        NAMES.get(self.0 as usize).copied()
    }
}

impl fmt::Display for Code {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => out.write_str(name),
            None => write!(out, "error code {}", self.0),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the payload.
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    /// 0: the connection. The reserved bit is ignored.
    pub stream: u32,
}

impl Head {
    pub fn parse(bytes: &[u8; HEAD_BYTES]) -> Self {
        let [high, middle, low, kind, flags, stream @ ..] = *bytes;
        Self {
            length: u32::from_be_bytes([0, high, middle, low]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & STREAM_MAX,
        }
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub fn write(self, out: &mut Vec<u8>) {
        let [_, high, middle, low] = (self.length as u32).to_be_bytes();
        out.extend_from_slice(&[high, middle, low, self.kind, self.flags]);
        out.extend_from_slice(&self.stream.to_be_bytes());
    }
}

/// Appends a frame whose payload is at hand.
pub fn put(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    Head { length: payload.len(), kind, flags, stream }.write(out);
    out.extend_from_slice(payload);
}

pub fn put_reset(stream: u32, code: Code, out: &mut Vec<u8>) {
    put(kind::RST_STREAM, 0, stream, &code.0.to_be_bytes(), out);
}

pub fn put_window_update(stream: u32, bytes: u32, out: &mut Vec<u8>) {
    put(kind::WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes(), out);
}

pub fn put_settings(settings: &[(u16, u32)], out: &mut Vec<u8>) {
    Head { length: settings.len() * 6, kind: kind::SETTINGS, flags: 0, stream: 0 }.write(out);
    for (number, value) in settings {
        out.extend_from_slice(&number.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub fn put_go_away(last: u32, code: Code, out: &mut Vec<u8>) {
    Head { length: 8, kind: kind::GOAWAY, flags: 0, stream: 0 }.write(out);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
}

/// Appends a header block in as many frames as it takes, none longer than the peer accepts.
pub fn put_block(stream: u32, block: &[u8], ends: bool, payload_max: usize, out: &mut Vec<u8>) {
    let end_stream = if ends { flag::END_STREAM } else { 0 };
    let (mut part, mut rest) = block.split_at(block.len().min(payload_max));
    let (mut kind, mut flags) = (kind::HEADERS, end_stream);
    loop {
        let end_headers = if rest.is_empty() { flag::END_HEADERS } else { 0 };
        put(kind, flags | end_headers, stream, part, out);
        if rest.is_empty() {
            return;
        }
        (part, rest) = rest.split_at(rest.len().min(payload_max));
        (kind, flags) = (kind::CONTINUATION, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The frame of RFC 9113's figures with every field set, and the reserved bit.
    #[test]
    fn heads_are_read_as_they_are_written() {
        let bytes = [0x01, 0x02, 0x03, 9, 0x25, 0x81, 2, 3, 4];
        let head = Head::parse(&bytes);
        assert_eq!(head, Head { length: 0x01_02_03, kind: 9, flags: 0x25, stream: 0x0102_0304 });
        let mut out = Vec::new();
        head.write(&mut out);
        assert_eq!(out, [0x01, 0x02, 0x03, 9, 0x25, 0x01, 2, 3, 4]);
        assert!(head.has(flag::END_HEADERS) && head.has(flag::PRIORITY) && !head.has(flag::PADDED));
    }

    #[test]
    fn frames_have_the_layout_of_the_rfc() {
        let mut out = Vec::new();
        put_settings(&[(setting::MAX_CONCURRENT_STREAMS, 128)], &mut out);
        put_window_update(0, 0x7fff_0000, &mut out);
        put_reset(3, Code::CANCEL, &mut out);
        put_go_away(5, Code::ENHANCE_YOUR_CALM, &mut out);
        let expected = [
            &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 128][..],
            &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xff, 0, 0],
            &[0, 0, 4, 3, 0, 0, 0, 0, 3, 0, 0, 0, 8],
            &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 11],
        ];
        assert_eq!(out, expected.concat());
        assert_eq!(
            (Code(11).to_string(), Code(99).to_string()),
            ("ENHANCE_YOUR_CALM".into(), "error code 99".into())
        );
    }

    #[test]
    fn a_long_block_goes_on_in_continuations() {
        let mut out = Vec::new();
        put_block(1, b"abcde", true, 2, &mut out);
        let frames = [
            &[0, 0, 2, kind::HEADERS, flag::END_STREAM, 0, 0, 0, 1, b'a', b'b'][..],
            &[0, 0, 2, kind::CONTINUATION, 0, 0, 0, 0, 1, b'c', b'd'],
            &[0, 0, 1, kind::CONTINUATION, flag::END_HEADERS, 0, 0, 0, 1, b'e'],
        ];
        assert_eq!(out, frames.concat());
    }
}
