//! A session on its way to another worker: what the log and the limits need of it.
//!
//! Its connections and the bytes between them are the tunnel's (`net/tunnel/moved.rs`), or those of datagrams the
//! exchange's (`stream/proxy/exchange.rs`). The new worker finds the server
//! as the old one did, by the listener and the name that the client asked for; time limits and rates stay those with
//! which the session began. The old worker may be hostile: it can make its own sessions look different in the log, and
//! nothing else. Touches: the session.

use std::path::PathBuf;
use std::rc::Rc;

use crate::base::frame::{Fields, put_vector32};
use crate::net::handover::{TunnelState, load_address, save_address};
use crate::net::proxy_header;
use crate::net::tls::Info;
use crate::net::transport::Probe;
use crate::net::tunnel::moved::Arrived;
use crate::runtime;
use crate::script::Scope;
use crate::script::registry::{restore_slots, save_slots};
use crate::shared::tls::handshakes::judge;
use crate::stream::Listen;
use crate::stream::modules::{limit_conn, mqtt_preread, postgres_preread, realip, ssl_preread};
use crate::stream::proxy::Upstream;
use crate::stream::proxy::relay::Relaying;
use crate::stream::service::Service;
use crate::stream::session::Session;
use crate::sys::address::SockAddr;
use crate::upstream::{self, GroupState, Trace};

/// Appends a session.
pub fn save(session: &Session, out: &mut Vec<u8>) {
    let ago_us = runtime::now_us().saturating_sub(session.started_us);
    for number in [ago_us, session.received, session.sent] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&[session.hops, limit_conn::save(session)]);
    // A connection that has ended in both directions cannot be asked for its peer any more.
    save_address(Some(session.socket_peer()), out);
    save_address(Some(&session.local), out);
    let proxy = session.proxy.as_deref().map(proxy_header::for_handover).unwrap_or_default();
    put_vector32(out, &proxy);
    let hello = ssl_preread::hello_of(session);
    out.push(u8::from(hello.is_some()));
    if let Some(hello) = hello {
        hello.save(out);
    }
    mqtt_preread::save(session, out);
    postgres_preread::save(session, out);
    save_slots(session.variables(), session.values.slots(), out);
    session.upstream.save(out);
}

/// The client's side of a session that has arrived.
pub struct ClientSide {
    /// The session's number in this worker.
    pub number: u64,
    pub probe: Option<Probe>,
    pub tls: Option<Rc<Info>>,
}

/// Makes the session of a tunnel that has arrived. `None`: its state is damaged.
pub fn resume(service: Service, arrived: Arrived, listen: &'static Listen) -> Option<Relaying> {
    let Arrived { client, upstream, tunneling, group, peer, own: TunnelState(own), open, place } = arrived;
    let side = ClientSide {
        number: open.client().number(),
        probe: client.probe(),
        tls: client.tls().map(Rc::clone),
    };
    let (session, group) = restore(service, listen, side, &group, &own)?;
    let now_ms = runtime::now_ms();
    let course = group.as_deref().and_then(|group| upstream::Session::resume(group, &peer, now_ms));
    let upstream = Upstream::resumed(&session, upstream, place, course, group.as_deref());
    Some(Relaying::resume(service, session, (client, upstream), tunneling, open))
}

/// Makes a session out of what [`save`] has written, with the group of its peer if that is configured. `None`: the state
/// is damaged.
#[allow(clippy::type_complexity, reason = "two results, each named above")]
pub fn restore(
    service: Service,
    listen: &'static Listen,
    client: ClientSide,
    group: &str,
    own: &[u8],
) -> Option<(Box<Session>, Option<Rc<GroupState>>)> {
    let mut fields = Fields(own);
    let worker = service.worker();
    let (ago_us, received, sent) = (fields.u64()?, fields.count()?, fields.count()?);
    let (hops, limited) = (fields.u8()?, fields.u8()?);
    let from = load_address(&mut fields)?.unwrap_or_else(|| SockAddr::Unix(PathBuf::new()));
    let local = load_address(&mut fields)?;
    let proxy = proxy_header::of_handover(fields.vector32()?).ok()?;
    let hello = match fields.flag()? {
        true => Some(crate::proto::client_hello::ClientHello::restore(&mut fields)?),
        false => None,
    };
    let ClientSide { number, probe, tls } = client;
    let mut session = Box::new(Session::new(worker, listen, number, from, listen.address.clone()));
    session.is_moved = true; // until it is complete
    session.enter_server();
    mqtt_preread::restore(&mut session, &mut fields)?;
    postgres_preread::restore(&mut session, &mut fields)?;
    session.local = match local {
        Some(SockAddr::Inet(inet)) if session.is_udp() => SockAddr::Datagram(Box::new(inet)),
        local => local.unwrap_or_else(|| listen.address.clone()),
    };
    session.started_us = runtime::now_us().saturating_sub(ago_us);
    (session.received, session.sent, session.hops) = (received, sent, hops);
    session.probe = probe;
    session.proxy = proxy.map(Box::new);
    realip::find(&mut session);
    session.tls = tls;
    let name = session.tls.as_deref().map(|tls| tls.server_name().to_owned());
    let name = name.or_else(|| hello.as_ref().map(|hello| hello.server_name.to_string()));
    if let Some(name) = name {
        session.choose(name.as_bytes());
    }
    if let (Some(info), Some(tls)) = (session.tls.clone(), &session.server.tls) {
        judge(&info, tls);
    }
    ssl_preread::restore(&mut session, hello);
    session.values.set_slots(restore_slots(session.variables(), &mut fields)?);
    limit_conn::admit_again(&mut session, limited);
    let group = worker.upstreams.named(group);
    session.upstream = Trace::restore(&mut fields, group.as_deref())?;
    if !fields.0.is_empty() {
        return None;
    }
    session.action = "proxying connection";
    session.is_moved = false;
    Some((session, group))
}
