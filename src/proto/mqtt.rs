//! MQTT's first message: who connects.
//!
//! Touches: nothing; bytes in, values out. The names of a client are read, so that a server can be chosen by them, or
//! replaced; what follows is the broker's. Truth: MQTT 3.1.1 §3.1, MQTT 5.0 §3.1; version 3.1 differs in the protocol's name.

/// CONNECT, with its flags, which must be zero.
const CONNECT: u8 = 0x10;

const HAS_USERNAME: u8 = 0x80;
const HAS_PASSWORD: u8 = 0x40;
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

/// Why a first message is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    NotMqtt,
    /// Its length.
    TooLong(usize),
    /// A value that is to stand in it has more than 65535 bytes.
    LongValue,
}

impl From<NotMqtt> for Refusal {
    fn from(_: NotMqtt) -> Self {
        Self::NotMqtt
    }
}

/// The length of the whole message at the start of a connection's bytes. `None`: more bytes are needed. Errors: it is no
/// CONNECT, or longer than `bytes_max`; whether all of it is well formed [`rewrite`] finds out.
pub fn message(data: &[u8], bytes_max: usize) -> Result<Option<usize>, Refusal> {
    // Another protocol is told by its first bytes.
    parse(data)?;
    let Some((length, head_bytes)) = variable_length(data.get(1..).unwrap_or_default())? else {
        return Ok(None);
    };
    let whole = 1 + head_bytes + length;
    if whole > bytes_max {
        return Err(Refusal::TooLong(whole));
    }
    Ok((data.len() >= whole).then_some(whole))
}

/// The fields to replace in a CONNECT; `None`: it stays as the client has sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Names<'a> {
    pub client_id: Option<&'a [u8]>,
    /// Empty: it has none.
    pub username: Option<&'a [u8]>,
    /// Empty: it has none.
    pub password: Option<&'a [u8]>,
}

/// Makes a CONNECT with other names of a whole one. Errors: `message` has parts that do not fit together, a value is too
/// long for its field, or the result is longer than `bytes_max`.
pub fn rewrite(message: &[u8], names: &Names<'_>, bytes_max: usize) -> Result<Vec<u8>, Refusal> {
    let head_bytes = match variable_length(message.get(1..).unwrap_or_default())? {
        Some((length, head_bytes)) if 1 + head_bytes + length == message.len() => 1 + head_bytes,
        _ => return Err(Refusal::NotMqtt),
    };
    let parts = Parts::read(&message[head_bytes..]).ok_or(Refusal::NotMqtt)?;
    let replaced = |own: Option<&[u8]>, name: Option<&[u8]>| -> Option<Vec<u8>> {
        name.map_or(own, |name| Some(name).filter(|name| !name.is_empty())).map(<[u8]>::to_vec)
    };
    let password = replaced(parts.password, names.password);
    let username = replaced(parts.username, names.username).or(password.as_ref().map(|_| Vec::new()));
    let client_id = names.client_id.unwrap_or(parts.client_id);
    let mut flags = parts.flags & !(HAS_USERNAME | HAS_PASSWORD);
    flags |= if username.is_some() { HAS_USERNAME } else { 0 };
    flags |= if password.is_some() { HAS_PASSWORD } else { 0 };
    let mut body = parts.protocol.to_vec();
    body.push(flags);
    body.extend_from_slice(parts.before_id);
    let fields = [Some(client_id), None, username.as_deref(), password.as_deref()];
    for (index, field) in fields.into_iter().enumerate() {
        if index == 1 {
            body.extend_from_slice(parts.will);
        }
        let Some(field) = field else { continue };
        let length = u16::try_from(field.len()).map_err(|_| Refusal::LongValue)?;
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(field);
    }
    let mut out = vec![CONNECT];
    put_variable_length(body.len(), &mut out);
    out.append(&mut body);
    if out.len() > bytes_max { Err(Refusal::TooLong(out.len())) } else { Ok(out) }
}

/// The parts of a whole CONNECT, in their order.
struct Parts<'a> {
    /// The name and the level of the protocol.
    protocol: &'a [u8],
    flags: u8,
    /// The keep-alive time, and the properties of version 5.
    before_id: &'a [u8],
    client_id: &'a [u8],
    /// The will: its properties, topic and payload; empty if there is none.
    will: &'a [u8],
    username: Option<&'a [u8]>,
    password: Option<&'a [u8]>,
}

impl<'a> Parts<'a> {
    /// `None`: the bytes are no CONNECT, or have a part too many or too few.
    fn read(body: &'a [u8]) -> Option<Self> {
        let Read::Done(Connect { level, .. }) = read(&mut Reader(body)) else { return None };
        let mut reader = Reader(body);
        let name_bytes = reader.vector16()?.len();
        reader.byte()?; // the level
        let protocol = &body[..2 + name_bytes + 1];
        let flags = reader.byte()?;
        let before = reader.0;
        reader.skip(2)?; // keep alive
        if level == 5 {
            properties(&mut reader)?.ok()?;
        }
        let before_id = &before[..before.len() - reader.0.len()];
        let client_id = reader.vector16()?;
        let before = reader.0;
        if flags & HAS_WILL != 0 {
            if level == 5 {
                properties(&mut reader)?.ok()?;
            }
            reader.vector16()?; // topic
            reader.vector16()?; // payload
        }
        let will = &before[..before.len() - reader.0.len()];
        let username = if flags & HAS_USERNAME != 0 { Some(reader.vector16()?) } else { None };
        let password = if flags & HAS_PASSWORD != 0 { Some(reader.vector16()?) } else { None };
        let parts = Self { protocol, flags, before_id, client_id, will, username, password };
        reader.0.is_empty().then_some(parts)
    }
}

/// Writes what [`variable_length`] reads.
fn put_variable_length(mut length: usize, out: &mut Vec<u8>) {
    loop {
        let more = if length > 0x7f { 0x80 } else { 0 };
        out.push((length & 0x7f) as u8 | more);
        length >>= 7;
        if length == 0 {
            break;
        }
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
        put_variable_length(body.len(), &mut out);
        out.extend_from_slice(&body);
        out
    }

    #[test]
    fn names_are_replaced_and_all_else_stays() {
        const MAX: usize = 1000;
        for level in [3, 4, 5] {
            for has_will in [false, true] {
                for username in [None, Some(&b"user"[..])] {
                    let bytes = connect(level, b"sensor-1", username, has_will);
                    let put = |names: Names<'_>| rewrite(&bytes, &names, MAX).expect("a CONNECT");
                    assert_eq!(put(Names::default()), bytes, "nothing is replaced");
                    let client_id = Some(&b"a longer name"[..]);
                    let other = put(Names { client_id, ..Names::default() });
                    assert_eq!(other, connect(level, b"a longer name", username, has_will));
                    let all = Names { client_id, username: Some(b"ann"), password: Some(b"password") };
                    assert_eq!(put(all), connect(level, b"a longer name", Some(b"ann"), has_will));
                    let none = Names { username: Some(b""), password: Some(b""), ..Names::default() };
                    assert_eq!(put(none), connect(level, b"sensor-1", None, has_will));
                    let nameless = Names { password: Some(b"password"), username: Some(b""), ..none };
                    assert_eq!(put(nameless), connect(level, b"sensor-1", Some(b""), has_will));
                    assert_eq!(message(&bytes, MAX), Ok(Some(bytes.len())));
                    assert_eq!(message(&[&bytes[..], b"more"].concat(), MAX), Ok(Some(bytes.len())));
                    for length in 0..bytes.len() {
                        assert_eq!(message(&bytes[..length], MAX), Ok(None), "{length}");
                    }
                }
            }
        }
    }

    #[test]
    fn messages_beyond_the_limit_and_broken_ones_are_refused() {
        let bytes = connect(4, b"id", Some(b"user"), false);
        assert_eq!(message(&bytes, bytes.len() - 1), Err(Refusal::TooLong(bytes.len())));
        assert_eq!(message(&bytes[..6], 5), Err(Refusal::TooLong(bytes.len())), "before it is there");
        assert_eq!(message(b"GET / HTTP/1.1", 1000), Err(Refusal::NotMqtt));
        let long = vec![b'x'; 1 << 16];
        let names = Names { client_id: Some(&long), ..Names::default() };
        assert_eq!(rewrite(&bytes, &names, usize::MAX), Err(Refusal::LongValue));
        let names = Names { client_id: Some(b"longer"), ..Names::default() };
        assert_eq!(rewrite(&bytes, &names, bytes.len()), Err(Refusal::TooLong(bytes.len() + 4)));
        // A byte too many inside the message, and a field that its flags do not announce.
        let mut longer = bytes.clone();
        longer[1] += 1;
        longer.push(0);
        let mut unannounced = bytes.clone();
        unannounced[9] &= !HAS_PASSWORD;
        for broken in [&longer, &unannounced, &bytes[..bytes.len() - 1].to_vec()] {
            assert_eq!(rewrite(broken, &Names::default(), 1000), Err(Refusal::NotMqtt));
        }
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
