//! The application's side of FastCGI: requests as it reads them, and records as it writes them.

use super::origin::Peer;

/// A request as an application received it.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// In the order of the wire.
    pub params: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The server asks to keep the connection.
    pub keeps: bool,
    /// The number of records of the body, the empty one included.
    pub body_records: usize,
}

impl Call {
    /// Reads a request; `None`: the connection ended before it. Panics if it is not what the specification demands.
    pub fn read(peer: &mut Peer) -> Option<Self> {
        let first = peer.some(1);
        if first.is_empty() {
            return None;
        }
        let (mut call, mut has_begun, mut params) = (Self::default(), false, Vec::new());
        let mut header = [first, peer.exactly(7)].concat();
        loop {
            assert_eq!((header[0], &header[2..4]), (1, &[0, 1][..]), "version and id of {header:?}");
            let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
            let content = peer.exactly(length);
            peer.exactly(header[6].into());
            match header[1] {
                1 => {
                    assert_eq!((length, &content[..2], has_begun), (8, &[0, 1][..], false), "a responder");
                    (call.keeps, has_begun) = (content[2] == 1, true);
                }
                4 => {
                    // each record by itself, as PHP reads them
                    params.extend(pairs(&content));
                }
                5 => {
                    call.body_records += 1;
                    call.body.extend_from_slice(&content);
                    if length == 0 {
                        call.params = params;
                        assert!(has_begun);
                        return Some(call);
                    }
                }
                other => panic!("a record of type {other}"),
            }
            header = peer.exactly(8);
        }
    }

    /// The value of a parameter; panics if there are two of that name.
    pub fn param(&self, name: &str) -> Option<&str> {
        let mut found = self.params.iter().filter(|(known, _)| known == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} twice");
        value
    }
}

fn pairs(mut content: &[u8]) -> Vec<(String, String)> {
    let mut out = Vec::new();
    while !content.is_empty() {
        let mut length = || {
            let (length, rest) = match content[0] {
                short @ 0..=127 => (usize::from(short), &content[1..]),
                first => {
                    let long = [first & 127, content[1], content[2], content[3]];
                    (u32::from_be_bytes(long) as usize, &content[4..])
                }
            };
            content = rest;
            length
        };
        let (name, value) = (length(), length());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        out.push((text(&content[..name]), text(&content[name..name + value])));
        content = &content[name + value..];
    }
    out
}

/// One record.
pub fn record(kind: u8, content: &[u8], padding: u8) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).expect("a record's length").to_be_bytes();
    let mut out = vec![1, kind, 0, 1, high, low, padding, 0];
    out.extend_from_slice(content);
    out.extend(std::iter::repeat_n(b'#', padding.into()));
    out
}

/// A part of the output, in as many records as it needs.
pub fn out(text: &str) -> Vec<u8> {
    text.as_bytes().chunks(60_000).flat_map(|part| record(6, part, 3)).collect()
}

/// A message for the error log.
pub fn said(text: &str) -> Vec<u8> {
    record(7, text.as_bytes(), 0)
}

/// The end of a request, with the protocol's status.
pub fn end(status: u8) -> Vec<u8> {
    record(3, &[0, 0, 0, 0, status, 0, 0, 0], 0)
}

/// A whole response: head and body.
pub fn whole(text: &str) -> Vec<u8> {
    [out(text), record(6, b"", 0), end(0)].concat()
}
