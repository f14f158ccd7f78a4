//! An encrypted connection on its way to another process: the bytes that go with its descriptor.
//!
//! The keys are the connection's own and useless for any other. The process that receives them may be a newer
//! one of the same binary; the process that sends them may be hostile, so everything is bounded and checked,
//! and what a certificate is worth is judged anew.
//!
//! Touches: nothing. Layout: little-endian; see [`Moved::to_bytes`].

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::base::frame::Fields;
use crate::net::tls::Info;
use crate::net::tls::record::{Direction, PLAIN_BYTES_MAX, Secret, Suite};
use crate::proto::client_hello::ClientHello;

/// The most bytes of a connection's TLS that are handed over; a connection with a longer chain of client
/// certificates is closed instead.
pub const TLS_BYTES_MAX: usize = 12 * 1024;
/// The most certificates of a client.
const CERTIFICATES_MAX: usize = 10;
/// No connection lasts for as many records; the numbers of further ones cannot overflow.
const SEQUENCE_MAX: u64 = 1 << 62;
const VERSION: u8 = 1;

/// The state of a connection that is idle.
#[derive(Debug)]
pub struct Moved {
    pub reading: Direction,
    pub writing: Direction,
    pub info: Rc<Info>,
    pub record_bytes: usize,
}

impl Moved {
    /// Version; cipher suite; for each direction the next sequence number and the secret; size of records;
    /// group, signature schemes of server and client, flags; then, each with its length, the protocol, the lists of the ClientHello
    /// and the client's certificates.
    ///
    /// `None`: it is longer than [`TLS_BYTES_MAX`].
    pub fn to_bytes(&self) -> Option<Zeroizing<Vec<u8>>> {
        write((&self.reading, &self.writing), &self.info, self.record_bytes)
    }

    /// `None` unless the bytes are what [`Moved::to_bytes`] writes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > TLS_BYTES_MAX {
            return None;
        }
        let mut fields = Fields(bytes);
        if fields.u8()? != VERSION {
            return None;
        }
        let suite = Suite::of(fields.u16()?)?;
        let mut direction = || {
            let sequence = fields.u64().filter(|sequence| *sequence <= SEQUENCE_MAX)?;
            let (secret, rest) = fields.0.split_at_checked(suite.secret_bytes())?;
            fields.0 = rest;
            Some(Direction::new(suite, Secret::of_traffic(secret)?, sequence))
        };
        let (reading, writing) = (direction()?, direction()?);
        let record_bytes = fields.u32()? as usize;
        if !(1..=PLAIN_BYTES_MAX).contains(&record_bytes) {
            return None;
        }
        let mut number = || fields.u16().map(|number| Some(number).filter(|number| *number != 0));
        let (group, signature_scheme, client_signature_scheme) = (number()?, number()?, number()?);
        let is_resumed = fields.flag()?;
        let mut vector = || fields.vector16();
        let numbers = |bytes: &[u8]| -> Option<Box<[u16]>> {
            let pairs = bytes.chunks_exact(2);
            let is_whole = pairs.remainder().is_empty();
            is_whole.then(|| pairs.map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect())
        };
        let protocol = vector()?.into();
        let hello = ClientHello {
            server_name: std::str::from_utf8(vector()?).ok()?.into(),
            protocols: vector()?.into(),
            session_id: vector()?.into(),
            cipher_suites: numbers(vector()?)?,
            groups: numbers(vector()?)?,
            signature_schemes: numbers(vector()?)?,
            versions: numbers(vector()?)?,
        };
        let mut chain = Vec::new();
        while !fields.0.is_empty() {
            chain.push(CertificateDer::from(fields.vector16()?.to_vec()));
        }
        if chain.len() > CERTIFICATES_MAX {
            return None;
        }
        let info = Info {
            is_tls13: suite.is_tls13(),
            cipher_suite: suite.number,
            group,
            signature_scheme,
            client_signature_scheme,
            protocol,
            is_resumed,
            is_early: Cell::new(false),
            hello: Some(Box::new(hello)),
            peer_chain: Arc::from(chain),
            verdict: Default::default(),
        };
        Some(Self { reading, writing, info: Rc::new(info), record_bytes })
    }
}

/// Writes the state of a connection as [`Moved::to_bytes`] has it: the keys of both directions, the result of the
/// handshake, and the size of records. `None`: it is longer than [`TLS_BYTES_MAX`].
pub fn write(
    (reading, writing): (&Direction, &Direction),
    info: &Info,
    record_bytes: usize,
) -> Option<Zeroizing<Vec<u8>>> {
    let mut out = Zeroizing::new(Vec::with_capacity(TLS_BYTES_MAX)); // no copy of a secret is left behind
    out.push(VERSION);
    out.extend_from_slice(&reading.suite().number.to_le_bytes());
    for direction in [reading, writing] {
        let (secret, sequence) = direction.parts();
        out.extend_from_slice(&sequence.to_le_bytes());
        out.extend_from_slice(secret);
    }
    out.extend_from_slice(&(record_bytes as u32).to_le_bytes());
    out.extend_from_slice(&info.group.unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&info.signature_scheme.unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&info.client_signature_scheme.unwrap_or(0).to_le_bytes());
    out.push(u8::from(info.is_resumed));
    let default = ClientHello::default();
    let hello = info.hello.as_deref().unwrap_or(&default);
    let mut fits = true;
    let mut vector = |bytes: &[u8]| {
        fits &= out.len() + 2 + bytes.len() <= TLS_BYTES_MAX;
        if fits {
            out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
            out.extend_from_slice(bytes);
        }
    };
    let numbers = |list: &[u16]| list.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>();
    vector(&info.protocol);
    vector(hello.server_name.as_bytes());
    vector(&hello.protocols);
    vector(&hello.session_id);
    for list in [&hello.cipher_suites, &hello.groups, &hello.signature_schemes, &hello.versions] {
        vector(&numbers(list));
    }
    for certificate in info.peer_chain.iter() {
        vector(certificate);
    }
    (fits && info.peer_chain.len() <= CERTIFICATES_MAX).then_some(out)
}
