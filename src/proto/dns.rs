//! DNS messages as a stub resolver needs them: one question out, one answer in.
//!
//! Touches: nothing. Written here because hickory-proto brings some sixty crates for it, Unicode's tables among them.
//! Truth: RFC 1035 §4 (PTR: §3.5), RFC 3596 (AAAA), RFC 2782 (SRV), RFC 2308 (negative answers).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::log;

/// Maximum length of a name without its final dot. One octet more on the wire than RFC 1035 allows: nginx's
/// limit.
const NAME_CHARS_MAX: usize = 255;
const LABEL_BYTES_MAX: usize = 63;
const HEADER_BYTES: usize = 12;
/// Maximum number of aliases followed within one answer.
const ALIASES_MAX: usize = 16;
/// Maximum number of addresses or services taken from one answer; the rest is ignored.
const RECORDS_MAX: usize = 256;
/// The same for the names of an address, of which one is used.
const HOSTS_MAX: usize = 4;
/// Maximum number of pointers in a name, which has no more labels than that (RFC 1035 §2.3.4).
const POINTERS_MAX: usize = 128;

const CNAME: u16 = 5;
const SOA: u16 = 6;
const CLASS_IN: u16 = 1;

/// The type of record asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    A = 1,
    Ptr = 12,
    Aaaa = 28,
    Srv = 33,
}

/// A host name as DNS compares it: lower case, without the last dot, each label 1 to 63 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// `None` if the text is not a valid name.
    pub fn new(text: &[u8]) -> Option<Self> {
        let text = text.strip_suffix(b".").unwrap_or(text);
        let is_label = |label: &[u8]| (1..=LABEL_BYTES_MAX).contains(&label.len());
        let is_name = text.len() <= NAME_CHARS_MAX && text.split(|&byte| byte == b'.').all(is_label);
        is_name.then(|| Self(text.to_ascii_lowercase().into()))
    }

    /// The name under which the host of an address is found (RFC 1035 §3.5, RFC 3596 §2.5).
    pub fn of_address(ip: IpAddr) -> Self {
        let text = match ip {
            IpAddr::V4(ip) => {
                let [a, b, c, d] = ip.octets();
                format!("{d}.{c}.{b}.{a}.in-addr.arpa")
            }
            IpAddr::V6(ip) => {
                let nibbles = ip.octets().into_iter().rev().flat_map(|byte| [byte & 15, byte >> 4]);
                nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
            }
        };
        Self(text.into_bytes().into())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        log::Text(&self.0).fmt(out) // it may come from a client
    }
}

/// The reason why a server gave no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The server did not understand the question.
    Format = 1,
    /// The server could not find out.
    Server = 2,
    /// There is no such name, or it has no such record.
    NotFound = 3,
    NotImplemented = 4,
    Refused = 5,
    /// Any other code.
    Other = 6,
}

/// One place where a service runs (SRV).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The lowest is used first.
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    pub target: Name,
}

/// The content of an answer, concerning the name that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Addresses {
        list: Vec<IpAddr>,
        ttl_s: u32,
    },
    Services {
        list: Vec<Service>,
        ttl_s: u32,
    },
    /// The names of an address (PTR).
    Hosts {
        list: Vec<Name>,
        ttl_s: u32,
    },
    /// The name is an alias of another one, about which the answer says nothing.
    Alias {
        name: Name,
        ttl_s: u32,
    },
    /// `ttl_s`: how long this may be cached; `None`: it must not be.
    Failed {
        code: Code,
        ttl_s: Option<u32>,
    },
    /// Too long for a datagram: ask again by TCP.
    Truncated,
}

/// The reason why a message is not the answer to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// It has another id or another question: it is forged or late.
    Foreign,
    /// It is truncated, or contradicts itself.
    Malformed,
}

/// Appends the query for `name`, with recursion desired.
pub fn write_query(id: u16, name: &Name, kind: Kind, out: &mut Vec<u8>) {
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&[0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
    // The root, to which an alias or a service may lead, has no labels.
    for label in name.0.split(|&byte| byte == b'.').filter(|label| !label.is_empty()) {
        out.push(label.len() as u8);
        out.extend_from_slice(label);
    }
    out.push(0);
    out.extend_from_slice(&(kind as u16).to_be_bytes());
    out.extend_from_slice(&CLASS_IN.to_be_bytes());
}

/// Parses the answer to the query that was sent with `id`.
pub fn read_answer(message: &[u8], id: u16, name: &Name, kind: Kind) -> Result<Answer, NoAnswer> {
    let mut reader = Reader { message, at: 0 };
    if reader.u16()? != id {
        return Err(NoAnswer::Foreign);
    }
    let flags = reader.u16()?;
    let counts = [reader.u16()?, reader.u16()?, reader.u16()?];
    let [questions, answers, authorities] = counts;
    reader.at = HEADER_BYTES;
    if flags & 0xf800 != 0x8000 {
        return Err(NoAnswer::Foreign); // a query, or not of the same opcode
    }
    let code = code(flags);
    match questions {
        1 => {
            let asked = (reader.name()?, reader.u16()?, reader.u16()?);
            if asked != (name.clone(), kind as u16, CLASS_IN) {
                return Err(NoAnswer::Foreign);
            }
        }
        // a server that did not understand the question need not repeat it
        0 if code.is_some_and(|code| code != Code::NotFound) => {}
        _ => return Err(NoAnswer::Foreign),
    }
    if let Some(code) = code.filter(|&code| code != Code::NotFound) {
        return Ok(Answer::Failed { code, ttl_s: None });
    }
    if flags & 0x0200 != 0 {
        return Ok(Answer::Truncated);
    }
    let mut records = Records::default();
    for _ in 0..answers {
        records.read(&mut reader, kind)?;
    }
    let (last, ttl_s) = records.follow(name)?;
    if code.is_none() {
        if let Some(answer) = records.of(&last, kind, ttl_s) {
            return Ok(answer);
        }
        if last != *name {
            return Ok(Answer::Alias { name: last, ttl_s });
        }
        if kind == Kind::Ptr && answers > 0 {
            // As in nginx: records that were not asked for do not say that the host has no name.
            return Err(NoAnswer::Malformed);
        }
    }
    let ttl_s = negative_ttl(&mut reader, authorities).unwrap_or(None);
    Ok(Answer::Failed { code: Code::NotFound, ttl_s })
}

fn code(flags: u16) -> Option<Code> {
    match flags & 0x000f {
        0 => None,
        1 => Some(Code::Format),
        2 => Some(Code::Server),
        3 => Some(Code::NotFound),
        4 => Some(Code::NotImplemented),
        5 => Some(Code::Refused),
        _ => Some(Code::Other),
    }
}

/// The time that a negative answer holds: the SOA's own TTL or its last field, whichever is shorter (RFC 2308
/// §5).
fn negative_ttl(reader: &mut Reader<'_>, authorities: u16) -> Result<Option<u32>, NoAnswer> {
    for _ in 0..authorities {
        let head = reader.record()?;
        if head.kind == SOA && head.class == CLASS_IN {
            let mut fields = Reader { message: &reader.message[..head.end], at: head.start };
            fields.name()?;
            fields.name()?;
            fields.skip(16)?;
            return Ok(Some(head.ttl_s.min(fields.u32()?)));
        }
    }
    Ok(None)
}

/// The relevant records of an answer, each with its owner and TTL.
#[derive(Default)]
struct Records {
    aliases: Vec<(Name, u32, Name)>,
    addresses: Vec<(Name, u32, IpAddr)>,
    services: Vec<(Name, u32, Service)>,
    hosts: Vec<(Name, u32, Name)>,
}

impl Records {
    fn read(&mut self, reader: &mut Reader<'_>, kind: Kind) -> Result<(), NoAnswer> {
        let Head { owner, kind: found, class, ttl_s, start, end } = reader.record()?;
        if class != CLASS_IN {
            return Ok(());
        }
        let data = &reader.message[start..end];
        let mut fields = Reader { message: &reader.message[..end], at: start };
        if found == CNAME {
            if self.aliases.len() < ALIASES_MAX {
                self.aliases.push((owner, ttl_s, fields.name()?));
            }
        } else if found != kind as u16 {
            // RRSIG, DNAME and other records that were not asked for
        } else if kind == Kind::Ptr {
            let host = fields.name()?;
            if host.0.is_empty() {
                return Err(NoAnswer::Malformed);
            }
            if self.hosts.len() < HOSTS_MAX {
                self.hosts.push((owner, ttl_s, host));
            }
        } else if kind == Kind::Srv {
            let service = Service {
                priority: fields.u16()?,
                weight: fields.u16()?,
                port: fields.u16()?,
                target: fields.name()?,
            };
            if self.services.len() < RECORDS_MAX {
                self.services.push((owner, ttl_s, service));
            }
        } else {
            let address = match kind {
                Kind::A => <[u8; 4]>::try_from(data).ok().map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes))),
                Kind::Aaaa => <[u8; 16]>::try_from(data).ok().map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes))),
                Kind::Srv | Kind::Ptr => None,
            };
            let address = address.ok_or(NoAnswer::Malformed)?;
            if self.addresses.len() < RECORDS_MAX {
                self.addresses.push((owner, ttl_s, address));
            }
        }
        Ok(())
    }

    /// The last name in the chain of aliases, and the shortest TTL in it.
    fn follow(&self, name: &Name) -> Result<(Name, u32), NoAnswer> {
        let (mut last, mut ttl_s) = (name, u32::MAX);
        for _ in 0..=ALIASES_MAX {
            let Some((_, ttl, target)) = self.aliases.iter().find(|(owner, ..)| owner == last) else {
                return Ok((last.clone(), ttl_s));
            };
            (last, ttl_s) = (target, ttl_s.min(*ttl));
        }
        Err(NoAnswer::Malformed) // the aliases form a circle
    }

    fn of(self, name: &Name, kind: Kind, ttl_s: u32) -> Option<Answer> {
        fn owned<T>(records: Vec<(Name, u32, T)>, name: &Name, ttl_s: u32) -> (Vec<T>, u32) {
            let own = records.into_iter().filter(|(owner, ..)| owner == name);
            own.fold((Vec::new(), ttl_s), |(mut list, least), (_, ttl, value)| {
                list.push(value);
                (list, least.min(ttl))
            })
        }
        match kind {
            Kind::A | Kind::Aaaa => {
                let (list, ttl_s) = owned(self.addresses, name, ttl_s);
                (!list.is_empty()).then_some(Answer::Addresses { list, ttl_s })
            }
            Kind::Srv => {
                let (list, ttl_s) = owned(self.services, name, ttl_s);
                (!list.is_empty()).then_some(Answer::Services { list, ttl_s })
            }
            Kind::Ptr => {
                let (list, ttl_s) = owned(self.hosts, name, ttl_s);
                (!list.is_empty()).then_some(Answer::Hosts { list, ttl_s })
            }
        }
    }
}

struct Head {
    owner: Name,
    kind: u16,
    class: u16,
    ttl_s: u32,
    /// Position of the record's data in the message.
    start: usize,
    end: usize,
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn skip(&mut self, count: usize) -> Result<(), NoAnswer> {
        self.at =
            self.at.checked_add(count).filter(|&at| at <= self.message.len()).ok_or(NoAnswer::Malformed)?;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], NoAnswer> {
        let start = self.at;
        self.skip(N)?;
        self.message[start..self.at].try_into().map_err(|_| NoAnswer::Malformed)
    }

    fn u16(&mut self) -> Result<u16, NoAnswer> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, NoAnswer> {
        self.array().map(u32::from_be_bytes)
    }

    /// Reads a record's header and skips its data.
    fn record(&mut self) -> Result<Head, NoAnswer> {
        let (owner, kind, class) = (self.name()?, self.u16()?, self.u16()?);
        let ttl_s = self.u32()?;
        let ttl_s = if ttl_s > i32::MAX as u32 { 0 } else { ttl_s }; // RFC 2181 §8
        let length = usize::from(self.u16()?);
        let start = self.at;
        self.skip(length)?;
        Ok(Head { owner, kind, class, ttl_s, start, end: self.at })
    }

    /// Reads a name, which may continue at an earlier place through a pointer (RFC 1035 §4.1.4). Each pointer
    /// must lead backwards, so that there are no circles, and their number is limited, so that a message of chains
    /// takes no longer than any other.
    fn name(&mut self) -> Result<Name, NoAnswer> {
        let mut text = Vec::new();
        let (mut at, mut earliest, mut is_away) = (self.at, self.at, false);
        let mut pointers = 0;
        loop {
            let length = usize::from(*self.message.get(at).ok_or(NoAnswer::Malformed)?);
            at += 1;
            if length & 0xc0 == 0xc0 {
                let low = usize::from(*self.message.get(at).ok_or(NoAnswer::Malformed)?);
                if !std::mem::replace(&mut is_away, true) {
                    self.at = at + 1;
                }
                at = (length & 0x3f) << 8 | low;
                pointers += 1;
                if at >= earliest || pointers > POINTERS_MAX {
                    return Err(NoAnswer::Malformed);
                }
                earliest = at;
                continue;
            }
            if length > LABEL_BYTES_MAX {
                return Err(NoAnswer::Malformed);
            }
            if length == 0 {
                if !is_away {
                    self.at = at;
                }
                return Ok(Name(text.into()));
            }
            let label = self.message.get(at..at + length).ok_or(NoAnswer::Malformed)?;
            if !text.is_empty() {
                text.push(b'.');
            }
            text.extend(label.iter().map(u8::to_ascii_lowercase));
            if text.len() > NAME_CHARS_MAX {
                return Err(NoAnswer::Malformed);
            }
            at += length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: u16 = 0x1234;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    /// An answer to the question for `www.test`, with these counts in its header.
    fn message(flags: u16, kind: Kind, counts: [u16; 2], records: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        write_query(ID, &name("www.test"), kind, &mut message);
        message[2..4].copy_from_slice(&flags.to_be_bytes());
        message[6..8].copy_from_slice(&counts[0].to_be_bytes());
        message[8..10].copy_from_slice(&counts[1].to_be_bytes());
        message.extend_from_slice(records);
        message
    }

    /// `owner` in wire format.
    fn record(owner: &[u8], kind: u16, ttl_s: u32, data: &[u8]) -> Vec<u8> {
        let mut record = owner.to_vec();
        record.extend_from_slice(&kind.to_be_bytes());
        record.extend_from_slice(&CLASS_IN.to_be_bytes());
        record.extend_from_slice(&ttl_s.to_be_bytes());
        record.extend_from_slice(&(data.len() as u16).to_be_bytes());
        record.extend_from_slice(data);
        record
    }

    const QUESTION: &[u8] = &[0xc0, 12];
    const TEST: &[u8] = &[0xc0, 16];

    fn read(message: &[u8], kind: Kind) -> Result<Answer, NoAnswer> {
        // no prefix may be read past its end
        for end in 0..message.len() {
            let _ = read_answer(&message[..end], ID, &name("www.test"), kind);
        }
        read_answer(message, ID, &name("www.test"), kind)
    }

    fn addresses(texts: &[&str], ttl_s: u32) -> Result<Answer, NoAnswer> {
        Ok(Answer::Addresses { list: texts.iter().map(|text| text.parse().unwrap()).collect(), ttl_s })
    }

    #[test]
    fn names_are_labels_of_63_bytes_and_255_in_all() {
        let label = "a".repeat(63);
        let long = [&*label; 4].join(".");
        for good in ["a", "A.b.", "_http._tcp.x", &label, &long] {
            assert!(Name::new(good.as_bytes()).is_some(), "{good}");
        }
        for bad in ["", ".", "a..b", ".a", &"a".repeat(64), &format!("{long}.a")] {
            assert!(Name::new(bad.as_bytes()).is_none(), "{bad}");
        }
        assert_eq!(name("WWW.Test."), name("www.test"));
    }

    #[test]
    fn an_address_has_a_name_of_its_own() {
        let of = |text: &str| Name::of_address(text.parse().unwrap()).to_string();
        assert_eq!(of("192.0.2.1"), "1.2.0.192.in-addr.arpa");
        let six = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
        assert_eq!(of("2001:db8::1"), six);
        assert!(Name::new(six.as_bytes()).is_some());
    }

    #[test]
    fn reads_the_names_of_an_address() {
        let hosts = |list: &[&str]| {
            Ok(Answer::Hosts { list: list.iter().map(|text| name(text)).collect(), ttl_s: 60 })
        };
        let records =
            [record(QUESTION, 12, 60, b"\x01a\x04test\0"), record(QUESTION, 12, 90, b"\x01b\xc0\x10")]
                .concat();
        assert_eq!(
            read(&message(0x8180, Kind::Ptr, [2, 0], &records), Kind::Ptr),
            hosts(&["a.test", "b.test"])
        );
        let alias =
            [record(QUESTION, 5, 60, b"\x01c\xc0\x10"), record(b"\x01c\xc0\x10", 12, 60, b"\x01d\xc0\x10")]
                .concat();
        assert_eq!(read(&message(0x8180, Kind::Ptr, [2, 0], &alias), Kind::Ptr), hosts(&["d.test"]));
        let other = message(0x8180, Kind::Ptr, [1, 0], &record(QUESTION, 39, 60, b"\x01a\x04test\0"));
        assert_eq!(read(&other, Kind::Ptr), Err(NoAnswer::Malformed), "DNAME");
        for data in [&b""[..], b"\0", b"\x05a"] {
            let broken = message(0x8180, Kind::Ptr, [1, 0], &record(QUESTION, 12, 60, data));
            assert_eq!(read(&broken, Kind::Ptr), Err(NoAnswer::Malformed), "{data:?}");
        }
    }

    #[test]
    fn a_query_is_as_the_standard_has_it() {
        let mut query = Vec::new();
        write_query(ID, &name("www.test"), Kind::Aaaa, &mut query);
        assert_eq!(query, b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x03www\x04test\0\0\x1c\0\x01");
    }

    #[test]
    fn reads_addresses_of_either_kind() {
        let records =
            [record(QUESTION, 1, 60, &[10, 0, 0, 1]), record(QUESTION, 1, 30, &[10, 0, 0, 2])].concat();
        let answer = message(0x8180, Kind::A, [2, 0], &records);
        assert_eq!(read(&answer, Kind::A), addresses(&["10.0.0.1", "10.0.0.2"], 30));
        let six = record(QUESTION, 28, 5, &[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(read(&message(0x8180, Kind::Aaaa, [1, 0], &six), Kind::Aaaa), addresses(&["fe80::1"], 5));
    }

    #[test]
    fn follows_aliases_inside_the_answer_whatever_their_order() {
        let alias = record(QUESTION, CNAME, 9, &[&b"\x01b"[..], TEST].concat());
        let address = record(b"\x01b\x04test\0", 1, 60, &[10, 0, 0, 1]);
        let foreign = record(b"\x01c\x04test\0", 1, 60, &[10, 6, 6, 6]);
        for records in [[&alias[..], &address, &foreign].concat(), [&foreign[..], &address, &alias].concat()]
        {
            let answer = message(0x8180, Kind::A, [3, 0], &records);
            assert_eq!(read(&answer, Kind::A), addresses(&["10.0.0.1"], 9));
        }
        let answer = message(0x8180, Kind::A, [1, 0], &alias);
        assert_eq!(read(&answer, Kind::A), Ok(Answer::Alias { name: name("b.test"), ttl_s: 9 }));
    }

    #[test]
    fn a_circle_of_aliases_is_malformed() {
        let there = record(QUESTION, CNAME, 9, &[&b"\x01b"[..], TEST].concat());
        let back = record(b"\x01b\x04test\0", CNAME, 9, QUESTION);
        let answer = message(0x8180, Kind::A, [2, 0], &[there, back].concat());
        assert_eq!(read(&answer, Kind::A), Err(NoAnswer::Malformed));
        let itself = record(QUESTION, CNAME, 9, QUESTION);
        assert_eq!(read(&message(0x8180, Kind::A, [1, 0], &itself), Kind::A), Err(NoAnswer::Malformed));
    }

    #[test]
    fn reads_services() {
        let data = [&[0, 1, 0, 5, 0x1f, 0x90][..], b"\x01a", TEST].concat();
        let answer = message(0x8180, Kind::Srv, [1, 0], &record(QUESTION, 33, 7, &data));
        let service = Service { priority: 1, weight: 5, port: 8080, target: name("a.test") };
        assert_eq!(read(&answer, Kind::Srv), Ok(Answer::Services { list: vec![service], ttl_s: 7 }));
    }

    #[test]
    fn what_was_not_asked_is_foreign() {
        let address = record(QUESTION, 1, 60, &[10, 0, 0, 1]);
        let answer = message(0x8180, Kind::A, [1, 0], &address);
        let www = name("www.test");
        assert_eq!(read_answer(&answer, ID + 1, &www, Kind::A), Err(NoAnswer::Foreign));
        assert_eq!(read_answer(&answer, ID, &name("wwx.test"), Kind::A), Err(NoAnswer::Foreign));
        assert_eq!(read_answer(&answer, ID, &www, Kind::Aaaa), Err(NoAnswer::Foreign));
        let question = message(0x0100, Kind::A, [1, 0], &address);
        assert_eq!(read(&question, Kind::A), Err(NoAnswer::Foreign));
    }

    #[test]
    fn failures_have_a_code_and_negative_ones_the_time_of_the_soa() {
        let failed = |code, ttl_s| Ok(Answer::Failed { code, ttl_s });
        assert_eq!(read(&message(0x8182, Kind::A, [0, 0], b""), Kind::A), failed(Code::Server, None));
        assert_eq!(read(&message(0x8183, Kind::A, [0, 0], b""), Kind::A), failed(Code::NotFound, None));
        assert_eq!(read(&message(0x8180, Kind::A, [0, 0], b""), Kind::A), failed(Code::NotFound, None));
        let fields = [[0, 0, 0, 1]; 4].concat();
        let data = [TEST, TEST, &fields, &[0, 0, 0, 77]].concat();
        let soa = record(TEST, SOA, 900, &data);
        assert_eq!(read(&message(0x8183, Kind::A, [0, 1], &soa), Kind::A), failed(Code::NotFound, Some(77)));
        let bare = [&ID.to_be_bytes()[..], &[0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(read(&bare, Kind::A), failed(Code::Format, None));
        assert_eq!(read(&message(0x8380, Kind::A, [0, 0], b""), Kind::A), Ok(Answer::Truncated));
    }

    #[test]
    fn hostile_messages_are_malformed() {
        let cases: [(&str, Vec<u8>); 6] = [
            ("a pointer to itself", record(&[0xc0, 26], 1, 60, &[10, 0, 0, 1])),
            ("a pointer forwards", record(&[0xc0, 40], 1, 60, &[10, 0, 0, 1])),
            ("a label of a strange kind", record(&[0x40, 0], 1, 60, &[10, 0, 0, 1])),
            ("an address of three bytes", record(QUESTION, 1, 60, &[10, 0, 0])),
            ("an alias that is cut", record(QUESTION, CNAME, 60, b"\x05ab")),
            ("nothing where a record should be", Vec::new()),
        ];
        for (what, records) in cases {
            let answer = message(0x8180, Kind::A, [1, 0], &records);
            assert_eq!(read(&answer, Kind::A), Err(NoAnswer::Malformed), "{what}");
        }
    }

    #[test]
    fn a_name_has_no_more_pointers_than_labels() {
        for (count, is_read) in [(POINTERS_MAX, true), (POINTERS_MAX + 1, false)] {
            // The data of a record of another kind: the root, and pointers, each to the one before.
            let first = message(0x8180, Kind::A, [2, 0], &record(QUESTION, 99, 60, b"")).len();
            let place = |index: usize| if index == 0 { first } else { first + 2 * index - 1 };
            let pointers: Vec<u8> =
                (0..count - 1).flat_map(|index| (0xc000 | place(index) as u16).to_be_bytes()).collect();
            let last = place(count - 1);
            let chain = record(QUESTION, 99, 60, &[&b"\0"[..], &pointers].concat());
            let owner = (0xc000 | last as u16).to_be_bytes();
            let answer =
                message(0x8180, Kind::A, [2, 0], &[chain, record(&owner, 1, 60, &[10, 0, 0, 1])].concat());
            assert_eq!(read(&answer, Kind::A) != Err(NoAnswer::Malformed), is_read, "{count}");
        }
    }

    #[test]
    fn the_root_is_asked_for_as_such() {
        let mut query = Vec::new();
        write_query(ID, &Name(Box::default()), Kind::A, &mut query);
        assert_eq!(query[HEADER_BYTES..], [0, 0, 1, 0, 1]);
    }

    #[test]
    fn takes_no_more_than_a_bounded_number_of_records() {
        let records: Vec<u8> = (0..4000u16).flat_map(|_| record(QUESTION, 1, 60, &[10, 0, 0, 1])).collect();
        let answer = message(0x8180, Kind::A, [4000, 0], &records);
        let Ok(Answer::Addresses { list, .. }) = read_answer(&answer, ID, &name("www.test"), Kind::A) else {
            panic!("no addresses")
        };
        assert_eq!(list.len(), RECORDS_MAX);
    }
}
