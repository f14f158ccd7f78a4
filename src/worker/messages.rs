//! Messages between the master and its workers: frames of one packet each (`base/frame.rs`).
//!
//! Pure data; descriptors accompany the bytes. Listeners and upstream servers are named by their indexes in the
//! configuration of the sender's generation. The master trusts nothing that it reads here: which message a worker may
//! send, how often and with how many descriptors is decided in `master/rules.rs`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::base::frame::{self, Fields, Frame};
use crate::net::Address;
use zeroize::Zeroizing;

use crate::net::acme::challenges::{CHALLENGE_BYTES_MAX, Challenge};
use crate::net::clients::{PROTOCOLS, Row, STATES, TEXT_BYTES_MAX};
use crate::net::handover::{
    Handover, INLINE_BYTES_MAX, MovedSession, MovedTunnel, PROXY_BYTES_MAX, TlsState, TunnelOf, TunnelState,
};
use crate::net::tls::moved::TLS_BYTES_MAX;
use crate::shared::control::Sendable;
use crate::shared::keyvals::News;
use crate::upstream::edits::LINE_BYTES_MAX;
use crate::upstream::known::{SPOTS_MAX, Spot};

/// The number of a listening socket in the list of a worker, the same in all of one generation.
pub type SlotIndex = u32;

/// From the master to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToWorker {
    /// A newer generation runs: stop accepting, hand idle connections back, finish, leave.
    Drain,
    /// Graceful stop: stop accepting, close idle connections, finish, leave.
    Quit,
    /// Go on with an idle connection; its descriptor comes with the message.
    Adopt(Handover),
    /// Go on with a tunnel; its descriptors come with the message.
    AdoptTunnel(MovedTunnel),
    /// Go on with a session of datagrams; its upstream's socket comes with the message.
    AdoptSession(MovedSession),
    /// The workers before have handed their sessions over: receive datagrams from now on.
    Receive,
    /// Accept from these slots too (indexes into the worker's list).
    Lease(Vec<SlotIndex>),
    /// Stop accepting from these slots.
    Release(Vec<SlotIndex>),
    /// Reopen the logs.
    Reopen,
    /// Use a newer certificate for this pair, by its index in the configuration; the certificate and its key come
    /// in sealed memory (`net/tls/parcel.rs`).
    Certificate(u32),
    /// The present addresses of an upstream's name.
    Learned(Learned),
    /// The server at a position of an upstream group is another one now.
    Edited(Edited),
    /// A key-value zone has changed.
    Keyval(News),
    /// A challenge of ACME is to be answered, or not any more. The keeper of certificates hears it last.
    Challenge(Challenge),
    /// List the client connections: [`ToMaster::Listed`] with this number.
    List(u32),
    /// End the connection of this id, and say with this number whether there was one.
    End(u32, u64),
    /// A part of the answer to an order.
    Answer(AnswerPart),
    /// To the prober: start no checks while the prober of another master does (`true`), or go on.
    Pause(bool),
    /// Give a sign of life: a `Pong` with the sequence number of this message.
    Ping,
}

/// From a worker to the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToMaster {
    /// It accepts. The first message of every worker.
    Ready,
    /// An idle connection for the newer generation; its descriptor comes with the message.
    HandOver(Handover),
    /// A tunnel for the newer generation; its descriptors come with the message.
    HandOverTunnel(MovedTunnel),
    /// A session of datagrams for the newer generation; its upstream's socket comes with the message.
    HandOverSession(MovedSession),
    /// A task has panicked: replace this worker gracefully.
    Replace,
    /// The answer to the ping of this sequence number.
    Pong(u32),
    /// The answer to the first `Drain` or `Quit`: it accepts no more, and has accepted the connections in its
    /// queues.
    Closed,
    /// From the prober: the present addresses of an upstream's name, for all workers.
    Learned(Learned),
    /// A part of the answer to `List`, or the answer to `End`.
    Listed(Listed),
    /// An operator's order, with a number that comes back in the answer.
    Order(u32, Sendable),
    /// From the keeper of certificates: a challenge that all workers are to answer, or not any more.
    Challenge(Challenge),
}

/// A server that was changed while it serves: its group by the index in the configuration, and its position there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    pub group: u32,
    pub position: u32,
    pub id: u32,
    /// The words of its line; of one that was removed its name.
    pub line: Box<str>,
    pub is_removed: bool,
    /// For each of its addresses, the numbers of its counters and of its place.
    pub shared: Vec<(Option<u32>, Option<u32>)>,
}

/// Some of a worker's connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The number of the question.
    pub query: u32,
    pub is_last: bool,
    /// The number of connections that there are; after `End` of those that were ended.
    pub total: u32,
    /// At most [`LISTED_MAX`].
    pub rows: Vec<Row>,
}

/// The most rows in one message.
pub const LISTED_MAX: usize = (BYTES_MAX - frame::HEAD_BYTES - 9) / ROW_BYTES_MAX;

/// The longest row.
const ROW_BYTES_MAX: usize = 22 + 3 * (2 + TEXT_BYTES_MAX);

/// A part of the answer to an order. The parts come in their order, and each has the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerPart {
    pub number: u32,
    pub status: u16,
    pub is_last: bool,
    /// At most [`PART_BYTES_MAX`].
    pub body: Vec<u8>,
}

/// The longest body of a part.
pub const PART_BYTES_MAX: usize = BYTES_MAX - frame::HEAD_BYTES - 8;

/// The addresses of a server whose name is looked up, by the index of its group in the configuration and its own in
/// the group. The master adds their counters and places in shared memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learned {
    pub group: u32,
    pub server: u32,
    /// Internet addresses only, at most [`SPOTS_MAX`].
    pub spots: Vec<Spot>,
}

/// The longest frame.
pub const BYTES_MAX: usize = 16 * 1024;

/// The most slots in one message.
pub const SLOTS_MAX: usize = (BYTES_MAX - frame::HEAD_BYTES) / size_of::<SlotIndex>();

/// Bytes of an address: family, backup, weight, port, IP, and one more than the numbers of its slot and its place.
const SPOT_BYTES: usize = 30;
const HANDOVER_BYTES: usize = 38;

const _: () = assert!(frame::HEAD_BYTES + 5 + INLINE_BYTES_MAX <= BYTES_MAX);
/// The longest text of an internet address: one of IPv6 with the number of an interface.
const INET_BYTES_MAX: usize = 64;
const _: () = assert!(frame::HEAD_BYTES + 6 + 2 * INET_BYTES_MAX + INLINE_BYTES_MAX <= BYTES_MAX);
const _: () = assert!(frame::HEAD_BYTES + HANDOVER_BYTES + PROXY_BYTES_MAX + TLS_BYTES_MAX <= BYTES_MAX);
const _: () = assert!(frame::HEAD_BYTES + 5 + CHALLENGE_BYTES_MAX <= BYTES_MAX);
const _: () = assert!(frame::HEAD_BYTES + 8 + SPOTS_MAX * SPOT_BYTES <= BYTES_MAX);

impl ToWorker {
    pub fn to_bytes(&self, sequence: u32) -> Vec<u8> {
        match self {
            Self::Drain => frame::write(b'D', sequence, |_| {}),
            Self::Quit => frame::write(b'Q', sequence, |_| {}),
            Self::Adopt(handover) => frame::write(b'A', sequence, |out| write_handover(handover, out)),
            Self::AdoptTunnel(tunnel) => frame::write(b'T', sequence, |out| write_tunnel(tunnel, out)),
            Self::AdoptSession(session) => frame::write(b'S', sequence, |out| write_session(session, out)),
            Self::Receive => frame::write(b'G', sequence, |_| {}),
            Self::Lease(slots) => frame::write(b'L', sequence, |out| write_slots(slots, out)),
            Self::Release(slots) => frame::write(b'U', sequence, |out| write_slots(slots, out)),
            Self::Reopen => frame::write(b'O', sequence, |_| {}),
            Self::Certificate(pair) => {
                frame::write(b'K', sequence, |out| out.extend_from_slice(&pair.to_le_bytes()))
            }
            Self::Learned(learned) => frame::write(b'N', sequence, |out| write_learned(learned, out)),
            Self::Edited(edited) => frame::write(b'E', sequence, |out| write_edited(edited, out)),
            Self::Keyval(news) => frame::write(b'V', sequence, |out| news.write(out)),
            Self::Challenge(challenge) => frame::write(b'B', sequence, |out| challenge.write(out)),
            Self::List(query) => {
                frame::write(b'J', sequence, |out| out.extend_from_slice(&query.to_le_bytes()))
            }
            Self::End(query, id) => frame::write(b'Z', sequence, |out| {
                out.extend_from_slice(&query.to_le_bytes());
                out.extend_from_slice(&id.to_le_bytes());
            }),
            Self::Answer(part) => frame::write(b'W', sequence, |out| {
                out.extend_from_slice(&part.number.to_le_bytes());
                out.extend_from_slice(&part.status.to_le_bytes());
                out.push(u8::from(part.is_last));
                out.extend_from_slice(&part.body[..part.body.len().min(PART_BYTES_MAX)]);
            }),
            Self::Pause(is_on) => frame::write(b'H', sequence, |out| out.push(u8::from(*is_on))),
            Self::Ping => frame::write(b'I', sequence, |_| {}),
        }
    }

    /// The sequence number and the message; `None` if this version knows no such message.
    pub fn from_bytes(bytes: &[u8]) -> Option<(u32, Self)> {
        let Frame { tag, sequence, payload } = Frame::parse(bytes)?;
        let mut fields = Fields(payload);
        let message = match tag {
            b'D' => fields.end(Self::Drain),
            b'Q' => fields.end(Self::Quit),
            b'A' => read_handover(fields).map(Self::Adopt),
            b'T' => read_tunnel(fields).map(Self::AdoptTunnel),
            b'S' => read_session(fields).map(Self::AdoptSession),
            b'G' => fields.end(Self::Receive),
            b'L' => read_slots(fields).map(Self::Lease),
            b'U' => read_slots(fields).map(Self::Release),
            b'O' => fields.end(Self::Reopen),
            b'K' => fields.u32().and_then(|pair| fields.end(Self::Certificate(pair))),
            b'N' => read_learned(fields).map(Self::Learned),
            b'E' => read_edited(fields).map(Self::Edited),
            b'V' => News::read(fields).map(Self::Keyval),
            b'B' => Challenge::read(fields).map(Self::Challenge),
            b'J' => fields.u32().and_then(|query| fields.end(Self::List(query))),
            b'Z' => fields
                .u32()
                .and_then(|query| Some((query, fields.u64()?)))
                .and_then(|(query, id)| fields.end(Self::End(query, id))),
            b'W' => read_part(fields).map(Self::Answer),
            b'H' => {
                fields.u8().filter(|is_on| *is_on <= 1).and_then(|is_on| fields.end(Self::Pause(is_on == 1)))
            }
            b'I' => fields.end(Self::Ping),
            _ => None,
        };
        Some((sequence, message?))
    }
}

impl ToMaster {
    pub fn to_bytes(&self, sequence: u32) -> Vec<u8> {
        match self {
            Self::Ready => frame::write(b'R', sequence, |_| {}),
            Self::HandOver(handover) => frame::write(b'H', sequence, |out| write_handover(handover, out)),
            Self::HandOverTunnel(tunnel) => frame::write(b'T', sequence, |out| write_tunnel(tunnel, out)),
            Self::HandOverSession(session) => frame::write(b'S', sequence, |out| write_session(session, out)),
            Self::Replace => frame::write(b'P', sequence, |_| {}),
            Self::Pong(ping) => {
                frame::write(b'I', sequence, |out| out.extend_from_slice(&ping.to_le_bytes()))
            }
            Self::Closed => frame::write(b'C', sequence, |_| {}),
            Self::Learned(learned) => frame::write(b'N', sequence, |out| write_learned(learned, out)),
            Self::Listed(listed) => frame::write(b'J', sequence, |out| write_listed(listed, out)),
            Self::Order(number, order) => frame::write(b'X', sequence, |out| {
                out.extend_from_slice(&number.to_le_bytes());
                order.write(out);
            }),
            Self::Challenge(challenge) => frame::write(b'B', sequence, |out| challenge.write(out)),
        }
    }

    /// The sequence number and the message; `None` if this version knows no such message.
    pub fn from_bytes(bytes: &[u8]) -> Option<(u32, Self)> {
        let Frame { tag, sequence, payload } = Frame::parse(bytes)?;
        let mut fields = Fields(payload);
        let message = match tag {
            b'R' => fields.end(Self::Ready),
            b'H' => read_handover(fields).map(Self::HandOver),
            b'T' => read_tunnel(fields).map(Self::HandOverTunnel),
            b'S' => read_session(fields).map(Self::HandOverSession),
            b'P' => fields.end(Self::Replace),
            b'I' => fields.u32().and_then(|ping| fields.end(Self::Pong(ping))),
            b'C' => fields.end(Self::Closed),
            b'N' => read_learned(fields).filter(Learned::has_no_place).map(Self::Learned),
            b'J' => read_listed(fields).map(Self::Listed),
            b'X' => fields.u32().and_then(|number| Some(Self::Order(number, Sendable::read(fields)?))),
            b'B' => Challenge::read(fields).map(Self::Challenge),
            _ => None,
        };
        Some((sequence, message?))
    }
}

/// Also for the link between two masters.
pub fn write_handover(handover: &Handover, out: &mut Vec<u8>) {
    let Handover { listen, requests, idle_ms_left, opened_ms_ago, number, proxy, tls } = handover;
    out.extend_from_slice(&listen.to_le_bytes());
    for value in [requests, idle_ms_left, opened_ms_ago, number] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    let proxy = &proxy[..proxy.len().min(PROXY_BYTES_MAX)];
    out.extend_from_slice(&(proxy.len() as u16).to_le_bytes());
    out.extend_from_slice(proxy);
    out.extend_from_slice(&tls.0[..tls.0.len().min(TLS_BYTES_MAX)]);
}

/// `None` also if the PROXY protocol header or the state of TLS is longer than allowed.
pub fn read_handover(mut fields: Fields<'_>) -> Option<Handover> {
    let handover = Handover {
        listen: fields.u32()?,
        requests: fields.u64()?,
        idle_ms_left: fields.u64()?,
        opened_ms_ago: fields.u64()?,
        number: fields.u64()?,
        proxy: fields.vector16()?.into(),
        tls: TlsState(Zeroizing::new(fields.rest().to_vec())),
    };
    let fits = handover.proxy.len() <= PROXY_BYTES_MAX && handover.tls.0.len() <= TLS_BYTES_MAX;
    fits.then_some(handover)
}

/// Also for the link between two masters. A state that is too long for a message travels in memory of its own.
pub fn write_tunnel(tunnel: &MovedTunnel, out: &mut Vec<u8>) {
    out.extend_from_slice(&tunnel.listen.to_le_bytes());
    out.push(match tunnel.of {
        TunnelOf::Stream => 0,
        TunnelOf::Http => 1,
        TunnelOf::Mail => 2,
    });
    out.extend_from_slice(&tunnel.state.0[..tunnel.state.0.len().min(INLINE_BYTES_MAX)]);
}

pub fn read_tunnel(mut fields: Fields<'_>) -> Option<MovedTunnel> {
    let listen = fields.u32()?;
    let of = match fields.u8()? {
        0 => TunnelOf::Stream,
        1 => TunnelOf::Http,
        2 => TunnelOf::Mail,
        _ => return None,
    };
    let state = TunnelState(Zeroizing::new(fields.rest().to_vec()));
    (state.0.len() <= INLINE_BYTES_MAX).then_some(MovedTunnel { listen, of, state })
}

/// Also for the link between two masters.
pub fn write_session(session: &MovedSession, out: &mut Vec<u8>) {
    out.extend_from_slice(&session.listen.to_le_bytes());
    put_inet(out, &session.client);
    out.extend_from_slice(&session.state.0[..session.state.0.len().min(INLINE_BYTES_MAX)]);
}

pub fn read_session(mut fields: Fields<'_>) -> Option<MovedSession> {
    let (listen, client) = (fields.u32()?, take_inet(&mut fields)?);
    let state = TunnelState(Zeroizing::new(fields.rest().to_vec()));
    (state.0.len() <= INLINE_BYTES_MAX).then_some(MovedSession { listen, client, state })
}

/// Appends an internet address as text, which keeps an interface too.
pub fn put_inet(out: &mut Vec<u8>, address: &SocketAddr) {
    frame::put_vector16(out, address.to_string().as_bytes());
}

/// An address that [`put_inet`] has written, in the only form that it writes.
pub fn take_inet(fields: &mut Fields<'_>) -> Option<SocketAddr> {
    let text = std::str::from_utf8(fields.vector16()?).ok()?;
    text.parse().ok().filter(|address: &SocketAddr| address.to_string() == text)
}

fn write_slots(slots: &[SlotIndex], out: &mut Vec<u8>) {
    out.extend(slots.iter().take(SLOTS_MAX).flat_map(|slot| slot.to_le_bytes()));
}

fn read_slots(mut fields: Fields<'_>) -> Option<Vec<SlotIndex>> {
    let (slots, rest) = fields.rest().as_chunks();
    rest.is_empty().then(|| slots.iter().map(|slot| SlotIndex::from_le_bytes(*slot)).collect())
}

fn write_learned(learned: &Learned, out: &mut Vec<u8>) {
    out.extend_from_slice(&learned.group.to_le_bytes());
    out.extend_from_slice(&learned.server.to_le_bytes());
    for spot in learned.spots.iter().take(SPOTS_MAX) {
        let Address::Inet(address) = &spot.address else { continue };
        let (family, ip) = match address.ip() {
            IpAddr::V4(ip) => (4, u128::from(ip.to_bits())),
            IpAddr::V6(ip) => (6, ip.to_bits()),
        };
        out.extend_from_slice(&[family, u8::from(spot.is_backup)]);
        out.extend_from_slice(&spot.weight.unwrap_or(0).to_le_bytes());
        out.extend_from_slice(&address.port().to_le_bytes());
        out.extend_from_slice(&ip.to_le_bytes());
        for number in [spot.slot, spot.place] {
            out.extend_from_slice(&number.map_or(0, |number| number.saturating_add(1)).to_le_bytes());
        }
    }
}

fn write_edited(edited: &Edited, out: &mut Vec<u8>) {
    for value in [edited.group, edited.position, edited.id] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    out.push(u8::from(edited.is_removed));
    let line = &edited.line.as_bytes()[..edited.line.len().min(LINE_BYTES_MAX)];
    out.extend_from_slice(&(line.len() as u16).to_le_bytes());
    out.extend_from_slice(line);
    for (slot, place) in edited.shared.iter().take(SPOTS_MAX) {
        for number in [slot, place] {
            out.extend_from_slice(&number.map_or(0, |number| number.saturating_add(1)).to_le_bytes());
        }
    }
}

fn read_edited(mut fields: Fields<'_>) -> Option<Edited> {
    let (group, position, id, is_removed) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.flag()?);
    let line = fields.vector16().filter(|line| line.len() <= LINE_BYTES_MAX)?;
    let line = std::str::from_utf8(line).ok()?.into();
    let (numbers, rest) = fields.rest().as_chunks::<4>();
    if !rest.is_empty() || numbers.len() % 2 != 0 || numbers.len() > 2 * SPOTS_MAX {
        return None;
    }
    let number = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes).checked_sub(1);
    let shared = numbers.chunks(2).map(|pair| (number(&pair[0]), number(&pair[1]))).collect();
    Some(Edited { group, position, id, line, is_removed, shared })
}

fn write_listed(listed: &Listed, out: &mut Vec<u8>) {
    out.extend_from_slice(&listed.query.to_le_bytes());
    out.push(u8::from(listed.is_last));
    out.extend_from_slice(&listed.total.to_le_bytes());
    for row in listed.rows.iter().take(LISTED_MAX) {
        let Row { id, protocol, state, age_ms, requests, peer, local, request } = row;
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&[*protocol, *state]);
        out.extend_from_slice(&age_ms.to_le_bytes());
        out.extend_from_slice(&requests.to_le_bytes());
        for text in [peer, local, request] {
            let text = &text[..text.len().min(TEXT_BYTES_MAX)];
            out.extend_from_slice(&(text.len() as u16).to_le_bytes());
            out.extend_from_slice(text);
        }
    }
}

fn read_listed(mut fields: Fields<'_>) -> Option<Listed> {
    let (query, is_last, total) = (fields.u32()?, fields.flag()?, fields.u32()?);
    let mut rows = Vec::new();
    while !fields.0.is_empty() && rows.len() < LISTED_MAX {
        let (id, protocol, state) = (fields.u64()?, fields.u8()?, fields.u8()?);
        let (age_ms, requests) = (fields.u64()?, fields.u32()?);
        let is_known = usize::from(protocol) < PROTOCOLS.len() && usize::from(state) < STATES.len();
        let mut text = || fields.vector16().filter(|text| text.len() <= TEXT_BYTES_MAX).map(Box::from);
        let (peer, local, request) = (text()?, text()?, text()?);
        is_known.then_some(())?;
        rows.push(Row { id, protocol, state, age_ms, requests, peer, local, request });
    }
    fields.end(Listed { query, is_last, total, rows })
}

fn read_part(mut fields: Fields<'_>) -> Option<AnswerPart> {
    let (number, status, is_last) = (fields.u32()?, fields.u16()?, fields.flag()?);
    let body = fields.rest().to_vec();
    (body.len() <= PART_BYTES_MAX).then_some(AnswerPart { number, status, is_last, body })
}

impl Learned {
    /// Only the master assigns slots and places.
    fn has_no_place(&self) -> bool {
        self.spots.iter().all(|spot| spot.slot.is_none() && spot.place.is_none())
    }
}

fn read_learned(mut fields: Fields<'_>) -> Option<Learned> {
    let (group, server) = (fields.u32()?, fields.u32()?);
    let (spots, rest) = fields.rest().as_chunks::<SPOT_BYTES>();
    if !rest.is_empty() || spots.len() > SPOTS_MAX {
        return None;
    }
    let spots = spots.iter().map(|bytes| read_spot(Fields(bytes))).collect::<Option<_>>()?;
    Some(Learned { group, server, spots })
}

fn read_spot(mut fields: Fields<'_>) -> Option<Spot> {
    let (family, is_backup) = (fields.u8()?, fields.flag()?);
    let (weight, port) = (fields.u16()?, fields.u16()?);
    let bits = u128::from_le_bytes(fields.bytes()?);
    let (slot, place) = (fields.u32()?.checked_sub(1), fields.u32()?.checked_sub(1));
    let ip = match family {
        4 => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits).ok()?)),
        6 => IpAddr::V6(Ipv6Addr::from_bits(bits)),
        _ => return None,
    };
    let address = Address::Inet(SocketAddr::new(ip, port));
    fields.end(Spot { address, weight: (weight > 0).then_some(weight), is_backup, slot, place })
}

/// Properties that hold for any bytes, for the fuzz target `control` and the test here.
#[cfg(any(test, feature = "property"))]
pub mod property {
    use super::{ToMaster, ToWorker};

    /// Bytes are accepted as a message only if they are exactly the encoding of that message.
    pub fn one_form_each(bytes: &[u8]) {
        if let Some((sequence, message)) = ToMaster::from_bytes(bytes) {
            assert_eq!(message.to_bytes(sequence), bytes);
        }
        if let Some((sequence, message)) = ToWorker::from_bytes(bytes) {
            assert_eq!(message.to_bytes(sequence), bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::acme::challenges::Kind;
    use crate::shared::keyvals::What;

    fn handover() -> Handover {
        Handover {
            listen: 3,
            requests: 1,
            idle_ms_left: 2,
            opened_ms_ago: 3,
            number: 4,
            proxy: b"PROXY"[..].into(),
            tls: TlsState(Zeroizing::new(b"keys".to_vec())),
        }
    }

    fn tunnel(state: &[u8]) -> MovedTunnel {
        let state = TunnelState(Zeroizing::new(state.to_vec()));
        MovedTunnel { listen: 3, of: TunnelOf::Http, state }
    }

    fn to_master() -> Vec<ToMaster> {
        let address = |text: &str| Address::Inet(text.parse().expect("an address"));
        let spots = vec![
            Spot::from(address("10.0.0.1:80")),
            Spot { weight: Some(5), is_backup: true, ..Spot::from(address("[fe80::1]:8080")) },
        ];
        vec![
            ToMaster::Ready,
            ToMaster::HandOver(handover()),
            ToMaster::HandOverTunnel(tunnel(b"state")),
            ToMaster::HandOverTunnel(tunnel(b"")),
            ToMaster::HandOverSession(session(b"state")),
            ToMaster::Replace,
            ToMaster::Pong(70_000),
            ToMaster::Closed,
            ToMaster::Learned(Learned { group: 1, server: 2, spots }),
            ToMaster::Listed(Listed {
                query: 4,
                is_last: true,
                total: 1,
                rows: vec![Row {
                    id: 7,
                    protocol: 1,
                    state: 2,
                    request: b"GET /"[..].into(),
                    ..Row::default()
                }],
            }),
            ToMaster::Learned(Learned { group: 0, server: 0, spots: Vec::new() }),
            ToMaster::Challenge(challenge()),
        ]
    }

    fn challenge() -> Challenge {
        Challenge { kind: Kind::Tls, name: "a.test".into(), answer: b"answer"[..].into() }
    }

    fn session(state: &[u8]) -> MovedSession {
        let client =
            "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535".parse().expect("an address");
        MovedSession { listen: 3, client, state: TunnelState(Zeroizing::new(state.to_vec())) }
    }

    fn to_worker() -> Vec<ToWorker> {
        vec![
            ToWorker::Drain,
            ToWorker::Quit,
            ToWorker::Adopt(handover()),
            ToWorker::AdoptTunnel(tunnel(b"state")),
            ToWorker::AdoptSession(session(b"")),
            ToWorker::Receive,
            ToWorker::Lease(vec![1, 700]),
            ToWorker::Release(vec![]),
            ToWorker::Reopen,
            ToWorker::Pause(true),
            ToWorker::Ping,
            ToWorker::Certificate(7),
            ToWorker::Challenge(challenge()),
            ToWorker::List(9),
            ToWorker::End(9, u64::MAX),
            ToWorker::Keyval(News { zone: 3, what: What::Remove { key: b"key"[..].into() } }),
            ToWorker::Learned(Learned {
                group: 1,
                server: 2,
                spots: vec![Spot {
                    slot: Some(7),
                    place: Some(9),
                    ..Address::Inet("10.0.0.1:80".parse().expect("an address")).into()
                }],
            }),
        ]
    }

    #[test]
    fn messages_survive_the_journey() {
        for message in to_worker() {
            assert_eq!(ToWorker::from_bytes(&message.to_bytes(9)), Some((9, message)));
        }
        for message in to_master() {
            assert_eq!(ToMaster::from_bytes(&message.to_bytes(u32::MAX)), Some((u32::MAX, message)));
        }
    }

    #[test]
    fn no_part_of_a_message_is_one_and_none_has_a_tail() {
        // A shorter list is a list.
        let whole = |message: &&ToMaster| !matches!(message, ToMaster::Listed(_));
        for bytes in to_master().iter().filter(whole).map(|message| message.to_bytes(1)) {
            for length in 0..bytes.len() {
                assert_eq!(ToMaster::from_bytes(&bytes[..length]), None);
            }
            assert_eq!(ToMaster::from_bytes(&[&bytes[..], &[0]].concat()), None);
        }
    }

    #[test]
    fn the_longest_messages_fit_and_longer_ones_are_none() {
        let longest = |count: usize| Handover {
            proxy: vec![b'x'; count].into(),
            tls: TlsState(Zeroizing::new(vec![b'y'; TLS_BYTES_MAX])),
            ..handover()
        };
        let bytes = ToMaster::HandOver(longest(PROXY_BYTES_MAX)).to_bytes(1);
        assert!(bytes.len() <= BYTES_MAX && ToMaster::from_bytes(&bytes).is_some());
        let bytes = frame::write(b'H', 1, |out| {
            write_handover(&longest(PROXY_BYTES_MAX), out);
            out.push(b'x');
        });
        assert_eq!(ToMaster::from_bytes(&bytes), None);

        let bytes = ToMaster::HandOverTunnel(tunnel(&[7; INLINE_BYTES_MAX])).to_bytes(1);
        assert!(bytes.len() <= BYTES_MAX && ToMaster::from_bytes(&bytes).is_some());
        let bytes = frame::write(b'T', 1, |out| {
            write_tunnel(&tunnel(&[7; INLINE_BYTES_MAX]), out);
            out.push(7);
        });
        assert_eq!(ToMaster::from_bytes(&bytes), None);

        let longest = session(&[7; INLINE_BYTES_MAX]);
        assert!(longest.client.to_string().len() <= INET_BYTES_MAX);
        let bytes = ToMaster::HandOverSession(longest.clone()).to_bytes(1);
        assert!(bytes.len() <= BYTES_MAX && ToMaster::from_bytes(&bytes).is_some());
        let bytes = frame::write(b'S', 1, |out| {
            write_session(&longest, out);
            out.push(7);
        });
        assert_eq!(ToMaster::from_bytes(&bytes), None);

        let slots: Vec<SlotIndex> = (0..SLOTS_MAX as SlotIndex).map(|slot| slot * 1_000_003).collect();
        let bytes = ToWorker::Lease(slots.clone()).to_bytes(1);
        assert!((BYTES_MAX - size_of::<SlotIndex>()..=BYTES_MAX).contains(&bytes.len()));
        assert_eq!(ToWorker::from_bytes(&bytes), Some((1, ToWorker::Lease(slots))));

        let widest = Spot {
            address: Address::Inet(
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().expect("an address"),
            ),
            weight: Some(u16::MAX),
            is_backup: true,
            slot: None,
            place: None,
        };
        let learned = Learned { group: u32::MAX, server: u32::MAX, spots: vec![widest; 1000] };
        let bytes = ToMaster::Learned(learned).to_bytes(1);
        assert!(bytes.len() <= BYTES_MAX);
        let Some((_, ToMaster::Learned(read))) = ToMaster::from_bytes(&bytes) else { panic!("read") };
        assert_eq!(read.spots.len(), SPOTS_MAX);
    }

    #[test]
    fn a_client_s_address_has_one_form() {
        for (text, is_one) in [
            ("192.0.2.1:53", true),
            ("[::1]:53", true),
            ("[0::1]:53", false),
            ("192.0.2.1", false),
            ("", false),
        ] {
            let mut bytes = Vec::new();
            frame::put_vector16(&mut bytes, text.as_bytes());
            assert_eq!(take_inet(&mut Fields(&bytes)).is_some(), is_one, "{text}");
        }
    }

    #[test]
    fn an_address_has_one_form() {
        let spot = Spot::from(Address::Inet("10.0.0.1:80".parse().expect("an address")));
        let bytes = ToMaster::Learned(Learned { group: 0, server: 0, spots: vec![spot] }).to_bytes(1);
        let at = frame::HEAD_BYTES + 8;
        for (offset, byte, what) in
            [(0, 5, "a family that is none"), (1, 2, "a flag that is none"), (21, 1, "IPv4")]
        {
            let mut other = bytes.clone();
            other[at + offset] = byte;
            assert_eq!(ToMaster::from_bytes(&other), None, "{what}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_have_one_form_each(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            property::one_form_each(&bytes);
        }

        #[test]
        fn changed_messages_have_one_form_each(index in 0usize..12, at in 0usize..64, byte in any::<u8>()) {
            for mut bytes in [to_master()[index].to_bytes(1), to_worker()[index].to_bytes(1)] {
                let length = bytes.len();
                bytes[at % length] = byte;
                property::one_form_each(&bytes);
            }
        }
    }
}
