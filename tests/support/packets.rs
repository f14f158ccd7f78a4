//! The application's side of uwsgi and SCGI: the heads of requests as it reads them.

use super::origin::Peer;

/// Names and values, in the order of the wire.
pub type Pairs = Vec<(String, String)>;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads the packet that begins a uwsgi request: its two modifiers, and its variables. `None`: the connection ended
/// before it.
pub fn uwsgi(peer: &mut Peer) -> Option<((u8, u8), Pairs)> {
    let first = *peer.some(1).first()?;
    let rest = peer.exactly(3);
    let bytes = peer.exactly(u16::from_le_bytes([rest[0], rest[1]]).into());
    let (mut content, mut pairs) = (&bytes[..], Vec::new());
    while !content.is_empty() {
        let mut word = || {
            let length = usize::from(u16::from_le_bytes([content[0], content[1]]));
            let word = text(&content[2..2 + length]);
            content = &content[2 + length..];
            word
        };
        pairs.push((word(), word()));
    }
    Some(((first, rest[2]), pairs))
}

/// Reads the netstring that begins an SCGI request. `None`: the connection ended before it. Panics if it is not what
/// the specification demands.
pub fn scgi(peer: &mut Peer) -> Option<Pairs> {
    let mut length = String::new();
    loop {
        match peer.some(1).first()? {
            b':' => break,
            digit => length.push(char::from(*digit)),
        }
    }
    let content = peer.exactly(length.parse().expect("a length"));
    assert_eq!(peer.exactly(1), b",");
    let words: Vec<String> = content.split(|byte| *byte == 0).map(text).collect();
    let pairs: Pairs = words.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    assert_eq!(pairs.first().map(|(name, _)| name.as_str()), Some("CONTENT_LENGTH"), "it comes first");
    Some(pairs)
}

/// The value of a variable.
pub fn value<'a>(pairs: &'a Pairs, name: &str) -> Option<&'a str> {
    pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}
