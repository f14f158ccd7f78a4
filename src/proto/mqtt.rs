//! MQTT's first message: who connects.
//!
//! Touches: nothing; bytes in, values out. Only the names of a client are read, so that a server can be chosen by them;
//! what follows is the broker's. Truth: MQTT 3.1.1 §3.1, MQTT 5.0 §3.1; version 3.1 differs in the protocol's name.

/// CONNECT, with its flags, which must be zero.
const CONNECT: u8 = 0x10;

const HAS_USERNAME: u8 = 0x80;
const HAS_WILL: u8 = 0x04;

/// The names in a CONNECT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connect {
    /// 3: MQTT 3.1, 4: 3.1.1, 5: 5.0.
    pub level: u8,
    /// Empty: the server is to choose one.
    pub client_id: Box<[u8]>,
    /// `None`: the client has sent none.
    pub username: Option<Box<[u8]>>,
}

/// The bytes are not a CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMqtt;

/// Reads the message at the start of a connection's bytes, as far as the user's name. `None`: more bytes are needed.
pub fn parse(data: &[u8]) -> Result<Option<Connect>, NotMqtt> {
    match data.first() {
        None => return Ok(None),
        Some(&CONNECT) => {}
        Some(_) => return Err(NotMqtt),
    }
    let Some((length, head_bytes)) = variable_length(&data[1..])? else { return Ok(None) };
    let body = &data[1 + head_bytes..];
    let (body, is_whole) = match body.get(..length) {
        Some(body) => (body, true),
        None => (body, false),
    };
    match read(&mut Reader(body)) {
        Read::Done(connect) => Ok(Some(connect)),
        Read::Short if !is_whole => Ok(None),
        Read::Short | Read::Wrong => Err(NotMqtt),
    }
}

/// The bytes that have not been read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn skip(&mut self, count: usize) -> Option<&'a [u8]> {
        let (skipped, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(skipped)
    }

    fn byte(&mut self) -> Option<u8> {
        self.skip(1).map(|bytes| bytes[0])
    }

    /// Bytes with their count in front. Reads nothing if some are missing.
    fn vector16(&mut self) -> Option<&'a [u8]> {
        let (count, rest) = self.0.split_first_chunk()?;
        let count = usize::from(u16::from_be_bytes(*count));
        let (bytes, rest) = rest.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }
}

enum Read {
    Done(Connect),
    /// The bytes end before the names do.
    Short,
    Wrong,
}

fn read(reader: &mut Reader<'_>) -> Read {
    const NAMES: [&[u8]; 2] = [b"\0\x04MQTT", b"\0\x06MQIsdp"];
    let Some(name) = NAMES.iter().find(|name| reader.0.starts_with(name)) else {
        // Another protocol is told by its first bytes.
        let is_possible = NAMES.iter().any(|name| name.starts_with(reader.0));
        return if is_possible { Read::Short } else { Read::Wrong };
    };
    let is_old = *name == NAMES[1];
    reader.skip(name.len());
    let Some(level) = reader.byte() else { return Read::Short };
    // A bridge of mosquitto sets the first bit.
    if !matches!((is_old, level & 0x7f), (false, 4 | 5) | (true, 3)) {
        return Read::Wrong;
    }
    let mut connect = Connect { level: level & 0x7f, ..Connect::default() };
    let Some(flags) = reader.byte() else { return Read::Short };
    // It is reserved.
    if flags & 1 != 0 {
        return Read::Wrong;
    }
    let mut names = || -> Option<Result<(), NotMqtt>> {
        reader.skip(2)?; // keep alive
        if connect.level == 5
            && let Err(wrong) = properties(reader)?
        {
            return Some(Err(wrong));
        }
        connect.client_id = reader.vector16()?.into();
        if flags & HAS_USERNAME == 0 {
            return Some(Ok(()));
        }
        if flags & HAS_WILL != 0 {
            if connect.level == 5
                && let Err(wrong) = properties(reader)?
            {
                return Some(Err(wrong));
            }
            reader.vector16()?; // topic
            reader.vector16()?; // payload
        }
        connect.username = Some(reader.vector16()?.into());
        Some(Ok(()))
    };
    match names() {
        Some(Ok(())) => Read::Done(connect),
        Some(Err(NotMqtt)) => Read::Wrong,
        None => Read::Short,
    }
}

/// Skips the properties of version 5. `None`: there are not enough bytes.
fn properties(reader: &mut Reader<'_>) -> Option<Result<(), NotMqtt>> {
    match variable_length(reader.0) {
        Ok(Some((length, head_bytes))) => reader.skip(head_bytes + length).map(|_| Ok(())),
        Ok(None) => None,
        Err(wrong) => Some(Err(wrong)),
    }
}

/// A length of up to four bytes, seven bits each, and the count of its own bytes (MQTT 5.0 §1.5.5).
fn variable_length(data: &[u8]) -> Result<Option<(usize, usize)>, NotMqtt> {
    let mut length = 0;
    for index in 0..4 {
        let Some(byte) = data.get(index) else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((length, index + 1)));
        }
    }
    Err(NotMqtt)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A CONNECT of this level, with all that may precede the user's name.
    pub fn connect(level: u8, client_id: &[u8], username: Option<&[u8]>, has_will: bool) -> Vec<u8> {
        let mut body: Vec<u8> = if level == 3 { b"\0\x06MQIsdp".to_vec() } else { b"\0\x04MQTT".to_vec() };
        let flags = if username.is_some() { 0xc2 } else { 2 } | if has_will { HAS_WILL } else { 0 };
        body.extend_from_slice(&[level, flags, 0, 60]);
        let vector = |body: &mut Vec<u8>, bytes: &[u8]| {
            body.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
            body.extend_from_slice(bytes);
        };
        if level == 5 {
            body.extend_from_slice(&[5, 0x11, 0, 0, 0, 10]);
        }
        vector(&mut body, client_id);
        if has_will {
            if level == 5 {
                body.push(0);
            }
            vector(&mut body, b"topic");
            vector(&mut body, &[b'x'; 200]);
        }
        if let Some(username) = username {
            vector(&mut body, username);
            vector(&mut body, b"password");
        }
        let mut out = vec![CONNECT];
        let mut length = body.len();
        loop {
            let more = if length > 0x7f { 0x80 } else { 0 };
            out.push((length & 0x7f) as u8 | more);
            length >>= 7;
            if length == 0 {
                break;
            }
        }
        out.extend_from_slice(&body);
        out
    }

    #[test]
    fn names_are_read_wherever_the_message_is_cut() {
        for level in [3, 4, 5] {
            for has_will in [false, true] {
                for username in [None, Some(&b"user"[..]), Some(b"")] {
                    let bytes = connect(level, b"sensor-1", username, has_will);
                    let expected = Connect {
                        level,
                        client_id: b"sensor-1"[..].into(),
                        username: username.map(Box::from),
                    };
                    assert_eq!(parse(&bytes), Ok(Some(expected.clone())));
                    let mut was_read = false;
                    for length in 0..bytes.len() {
                        match parse(&bytes[..length]) {
                            Ok(None) => assert!(!was_read),
                            Ok(Some(read)) => {
                                was_read = true; // the password need not be there
                                assert_eq!(read, expected);
                            }
                            Err(NotMqtt) => panic!("{length} of {}", bytes.len()),
                        }
                    }
                    let more = [&bytes[..], b"\xc0\0"].concat();
                    assert_eq!(parse(&more), Ok(Some(expected)), "a ping follows");
                }
            }
        }
    }

    #[test]
    fn other_protocols_and_broken_messages_are_told_at_once() {
        let good = connect(4, b"id", Some(b"user"), false);
        let mut reserved = good.clone();
        reserved[9] |= 1;
        let mut level = good.clone();
        level[8] = 6;
        let mut short = good.clone();
        short[1] -= 12; // the user's name is outside
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x03\x01",
            b"\x11\x10",
            b"\x10\xff\xff\xff\xff\x01",
            b"\x10\x10\0\x04HTTP",
            b"\x10\x10\x01",
            b"\x10\0",
            &reserved,
            &level,
            &short,
        ] {
            assert_eq!(parse(bytes), Err(NotMqtt), "{bytes:?}");
        }
    }
}
