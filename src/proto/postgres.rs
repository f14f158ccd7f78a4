//! PostgreSQL's first message: who connects, and to which database.
//!
//! Touches: nothing; bytes in, values out. Truth: PostgreSQL, "Message Formats" (StartupMessage, SSLRequest,
//! GSSENCRequest, CancelRequest).

/// The longest message that a server accepts (MAX_STARTUP_PACKET_LENGTH).
const MESSAGE_BYTES_MAX: usize = 10_000;

const MAJOR_VERSION: u16 = 3;
/// The major number of requests that are no startup.
const REQUEST: u16 = 1234;
const CANCEL: u16 = 5678;
const SSL: u16 = 5679;
const GSS_ENCRYPTION: u16 = 5680;

/// The first message of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum First {
    Startup(Startup),
    /// It asks whether the server encrypts, or cancels what another connection does, and names nobody.
    Request,
}

/// The names in a StartupMessage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Startup {
    pub user: Box<[u8]>,
    /// That of the user if the client names none.
    pub database: Box<[u8]>,
}

/// The bytes are no first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotPostgres;

/// Reads the message at the start of a connection's bytes. `None`: more bytes are needed.
pub fn parse(data: &[u8]) -> Result<Option<First>, NotPostgres> {
    let Some((length, rest)) = data.split_first_chunk() else {
        // The first two bytes of the length are zero.
        let is_possible = data.iter().take(2).all(|byte| *byte == 0);
        return if is_possible { Ok(None) } else { Err(NotPostgres) };
    };
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| NotPostgres)?;
    if !(8..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(NotPostgres);
    }
    let Some(([a, b, c, d], _)) = rest.split_first_chunk() else { return Ok(None) };
    let (major, minor) = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
    match (major, minor, length) {
        (REQUEST, SSL | GSS_ENCRYPTION, 8) => return Ok(Some(First::Request)),
        // The key of newer servers is longer.
        (REQUEST, CANCEL, 16..) => return Ok(Some(First::Request)),
        (MAJOR_VERSION, _, 9..) => {}
        _ => return Err(NotPostgres),
    }
    let Some(message) = data.get(8..length) else { return Ok(None) };
    startup(message).map(|startup| Some(First::Startup(startup)))
}

/// Reads the parameters: names and values, each with a zero behind, and a zero at the end.
fn startup(message: &[u8]) -> Result<Startup, NotPostgres> {
    let Some((0, texts)) = message.split_last() else { return Err(NotPostgres) };
    let texts = match texts.split_last() {
        None => &[][..],
        Some((0, texts)) => texts,
        Some(_) => return Err(NotPostgres),
    };
    let mut parts = texts.split(|byte| *byte == 0);
    let (mut user, mut database) = (None, None);
    while let Some(name) = parts.next().filter(|name| !name.is_empty()) {
        let value = parts.next().ok_or(NotPostgres)?;
        match name {
            b"user" => user = Some(value),
            b"database" => database = Some(value),
            _ => {}
        }
    }
    if parts.next().is_some() {
        return Err(NotPostgres); // an empty name
    }
    let user = user.filter(|user| !user.is_empty()).ok_or(NotPostgres)?;
    let database = database.filter(|database| !database.is_empty()).unwrap_or(user);
    Ok(Startup { user: user.into(), database: database.into() })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A StartupMessage with these parameters.
    pub fn message(parameters: &[(&str, &str)]) -> Vec<u8> {
        let mut body = vec![0, 3, 0, 0];
        for (name, value) in parameters {
            body.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
        }
        body.push(0);
        framed(&body)
    }

    fn framed(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
    }

    fn named(user: &str, database: &str) -> Result<Option<First>, NotPostgres> {
        let (user, database) = (user.as_bytes().into(), database.as_bytes().into());
        Ok(Some(First::Startup(Startup { user, database })))
    }

    #[test]
    fn names_are_read_once_the_message_is_whole() {
        let many =
            [("client_encoding", ""), ("database", "shop"), ("user", "ann"), ("application_name", "user")];
        for (parameters, expected) in [
            (&[("user", "ann"), ("database", "shop")][..], named("ann", "shop")),
            (&[("user", "ann")], named("ann", "ann")),
            (&[("user", "ann"), ("database", "")], named("ann", "ann")),
            (&many, named("ann", "shop")),
        ] {
            let bytes = message(parameters);
            for length in 0..bytes.len() {
                assert_eq!(parse(&bytes[..length]), Ok(None), "{length} of {}", bytes.len());
            }
            assert_eq!(parse(&bytes), expected);
            assert_eq!(parse(&[&bytes[..], b"p\0\0"].concat()), expected, "more follows");
        }
    }

    #[test]
    fn requests_name_nobody() {
        for bytes in [
            framed(&80_877_103_u32.to_be_bytes()),
            framed(&80_877_104_u32.to_be_bytes()),
            framed(&[&80_877_102_u32.to_be_bytes()[..], &[0; 8]].concat()),
        ] {
            assert_eq!(parse(&bytes), Ok(Some(First::Request)));
            assert_eq!(parse(&bytes[..7]), Ok(None));
        }
    }

    #[test]
    fn other_protocols_and_broken_messages_are_told_at_once() {
        let mut unended = message(&[("user", "ann")]);
        *unended.last_mut().expect("bytes") = b'x';
        let mut second = message(&[("user", "ann")]);
        second[5] = 2;
        for bytes in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"\x16\x03".to_vec(),
            vec![0, 1],
            vec![0, 0, 0, 7],
            vec![0, 0, 0x27, 0x11], // 10,001
            vec![0, 0, 0, 9, 4, 210, 22, 47],
            message(&[]),
            message(&[("database", "shop")]),
            message(&[("user", "")]),
            message(&[("", "x"), ("user", "ann")]),
            framed(b"\0\x03\0\0user\0ann\0alone\0\0"),
            unended,
            second,
        ] {
            assert_eq!(parse(&bytes), Err(NotPostgres), "{bytes:?}");
        }
    }
}
