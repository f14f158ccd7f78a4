//! A parked request on its way to another worker, with the tunnel that it has asked for.
//!
//! The new worker finds the server and the location as the old one did, by the listener, the host, and the location's name,
//! or else the path. What modules have noted of the request stays behind, except what `limit_conn` counts, and whether it
//! is traced. The old worker
//! may be hostile: it can make its own requests look different in the log, and nothing else. Touches: nothing.

use std::rc::Rc;

use super::texts::Texts;
use super::{Bare, Inner, Parked, Rare};
use crate::base::frame::{Fields, put_option, put_vector16, put_vector32};
use crate::http::Worker;
use crate::http::config::location::{Found, Kind, Location};
use crate::http::config::server::{Listen, Server};
use crate::http::modules::otel;
use crate::http::request::Request;
use crate::http::request::route::Rewriting;
use crate::net::handover::{STATE_BYTES_MAX, load_address, save_address};
use crate::net::proxy_header;
use crate::net::tls::Info;
use crate::net::transport::Probe;
use crate::proto::message::Method;
use crate::runtime;
use crate::script::Slots;
use crate::script::captures::Captures;
use crate::script::registry::{restore_slots, save_slots};
use crate::upstream::{GroupState, trace};

impl Parked {
    /// Appends the request.
    pub fn save(&self, out: &mut Vec<u8>) {
        if let Some(inner) = &self.0 {
            inner.save(out);
        }
    }

    /// Forgets the request: another worker writes its line in the log.
    pub fn forget(mut self) {
        if let Some(inner) = self.0.take() {
            let mut request = inner.restore();
            request.is_parked = true;
        }
    }

    /// The listener that has accepted the request's connection.
    pub fn listen(&self) -> Option<&'static Listen> {
        self.0.as_ref().map(|inner| inner.connection.listen)
    }

    /// Makes a request of what [`Parked::save`] has written, and the outcome of its limits (`limit_conn`). `None`: it is
    /// something else.
    pub fn load(bytes: &[u8], at: Whereabouts, group: Option<&GroupState>) -> Option<(Box<Request>, u8)> {
        let mut fields = Fields(bytes);
        let (inner, Noted { limited, is_traced }) = Inner::load(&mut fields, at, group)?;
        fields.end(())?;
        let mut request = inner.restore();
        if is_traced {
            otel::resume(&mut request);
        }
        Some((request, limited))
    }
}

/// The new place of a request.
#[derive(Debug)]
pub struct Whereabouts {
    pub worker: &'static Worker,
    pub listen: &'static Listen,
    /// Of the connection.
    pub number: u64,
    pub probe: Option<Probe>,
    pub tls: Option<Rc<Info>>,
}

/// The notes of modules about a request.
struct Noted {
    /// See [`limit_conn`](crate::http::modules::limit_conn).
    limited: u8,
    is_traced: bool,
}

/// The first byte of a location's kind, for [`place`].
fn kind(location: &Location) -> u8 {
    match location.kind {
        Kind::Server => 0,
        Kind::Exact => 1,
        Kind::Prefix => 2,
        Kind::PrefixFinal => 3,
        Kind::Regex(_) => 4,
        Kind::Named => 5,
    }
}

/// The location of this kind and name, or else the one that the path leads to.
fn place(server: &'static Server, (wanted, name): (u8, &str), uri: &[u8]) -> &'static Location {
    let is_it = |location: &&'static Location| kind(location) == wanted && *location.name == *name;
    let found = match server.root.find(uri) {
        Found::Location(found, _) => found,
        Found::AddSlash(found) | Found::GaveUp(found, _) => found,
    };
    if is_it(&found) {
        return found;
    }
    server.locations().into_iter().find(is_it).unwrap_or(found)
}

impl Inner {
    fn save(&self, out: &mut Vec<u8>) {
        let now_us = runtime::now_us();
        let ago_us = |at_us: u64| now_us.saturating_sub(at_us);
        let Bare { requests, opened_ms, is_pipelined, .. } = &self.connection;
        put_vector32(out, self.texts.as_bytes());
        out.push(kind(self.location));
        put_vector16(out, self.location.name.as_bytes());
        put_vector16(out, self.method.name().unwrap_or_default().as_bytes());
        out.extend_from_slice(&self.status.to_le_bytes());
        put_option(out, self.error_status.map(u64::from));
        out.push(match self.rewriting {
            Rewriting::Original => 0,
            Rewriting::Replaced { left_location: false } => 1,
            Rewriting::Replaced { left_location: true } => 2,
            Rewriting::Pending { left_location: false } => 3,
            Rewriting::Pending { left_location: true } => 4,
        });
        out.extend_from_slice(&[u8::from(self.is_internal), u8::from(*is_pipelined)]);
        let opened_ago_ms = runtime::now_ms().saturating_sub(*opened_ms);
        let (started, headed) = (ago_us(self.started_us), ago_us(self.headed_us));
        for number in
            [self.bytes_sent, self.head_bytes_sent, self.received, started, headed, *requests, opened_ago_ms]
        {
            out.extend_from_slice(&number.to_le_bytes());
        }
        put_option(out, self.answered_us.map(ago_us));
        let proxy = self.connection.proxy.as_deref().map(proxy_header::for_handover).unwrap_or_default();
        put_vector32(out, &proxy);
        let rare = self.rare.as_deref();
        save_address(rare.and_then(|rare| rare.socket_peer.as_deref()), out);
        let id = rare.and_then(|rare| rare.id);
        put_option(out, id.map(|(high, _)| high));
        put_option(out, id.map(|(_, low)| low));
        put_vector16(out, rare.map_or(&[], |rare| &rare.reason));
        let (host, port) = rare
            .and_then(|rare| rare.upstream_host.as_ref())
            .map_or((&[][..], &[][..]), |it| (&it.0[..], &it.1[..]));
        put_vector16(out, host);
        put_vector16(out, port);
        put_vector32(out, rare.map_or(&[], |rare| &rare.trailers));
        let states = rare.and_then(|rare| rare.states.as_deref());
        out.push(states.map_or(0, |states| states.limit_conn.number()));
        out.push(u8::from(states.is_some_and(|states| otel::is_traced(&states.otel))));
        save_slots(&self.worker.config.variables, rare.map_or(&Slots::new(), |rare| &rare.slots), out);
        self.upstream.save(out);
    }

    /// Returns the request, and what modules have noted of it.
    fn load(
        fields: &mut Fields<'_>,
        at: Whereabouts,
        group: Option<&GroupState>,
    ) -> Option<(Box<Self>, Noted)> {
        let Whereabouts { worker, listen, number, probe, tls } = at;
        let config = worker.config;
        let now_us = runtime::now_us();
        let texts = Texts::from_bytes(fields.vector32()?, STATE_BYTES_MAX)?;
        let location = (fields.u8()?, std::str::from_utf8(fields.vector16()?).ok()?);
        let method = Method::of(fields.vector16()?);
        let status = fields.u16().filter(|status| *status <= 999)?;
        let error_status = fields.option()?.and_then(|status| u16::try_from(status).ok());
        let rewriting = match fields.u8()? {
            0 => Rewriting::Original,
            1 => Rewriting::Replaced { left_location: false },
            2 => Rewriting::Replaced { left_location: true },
            3 => Rewriting::Pending { left_location: false },
            4 => Rewriting::Pending { left_location: true },
            _ => return None,
        };
        let (is_internal, is_pipelined) = (fields.flag()?, fields.flag()?);
        let (bytes_sent, head_bytes_sent, received) = (fields.count()?, fields.count()?, fields.count()?);
        let started_us = now_us.saturating_sub(fields.u64()?);
        let headed_us = now_us.saturating_sub(fields.u64()?);
        let (requests, opened_ago_ms) = (fields.count()?, fields.u64()?);
        let answered_us = fields.option()?.map(|ago_us| now_us.saturating_sub(ago_us));
        let proxy = proxy_header::of_handover(fields.vector32()?).ok()?.map(Rc::new);
        let socket_peer = load_address(fields)?.map(Box::new);
        let id = fields.option()?.zip(fields.option()?);
        let reason = fields.vector16()?.to_vec();
        let (host, port) = (fields.vector16()?.to_vec(), fields.vector16()?.to_vec());
        let trailers = fields.vector32()?.to_vec();
        let (limited, is_traced) = (fields.u8()?, fields.flag()?);
        let slots = restore_slots(&config.variables, fields)?;
        let upstream = trace::Parked::restore(fields, group)?;
        let connection = Bare {
            number,
            probe,
            proxy,
            tls,
            listen,
            requests: requests.max(1),
            opened_ms: runtime::now_ms().saturating_sub(opened_ago_ms),
            is_pipelined,
        };
        let rare = Rare {
            captures: Captures::default(),
            slots,
            states: None,
            id,
            socket_peer,
            reason,
            upstream_host: (!host.is_empty()).then_some((host, port)),
            trailers,
        };
        let mut inner = Box::new(Self {
            worker,
            server: &config.servers[listen.default],
            location: &config.servers[listen.default].root,
            connection,
            texts,
            status,
            error_status,
            method,
            rewriting,
            is_internal,
            bytes_sent,
            head_bytes_sent,
            received,
            started_us,
            headed_us,
            answered_us,
            action: None,
            upstream,
            processing: None,
            rare: (!rare.is_empty()).then(|| Box::new(rare)),
        });
        let index = listen.server_for(&inner.text(super::HOST)).map_or(listen.default, |(index, _)| index);
        inner.server = &config.servers[index];
        inner.processing = Request::zone_of(inner.server);
        inner.location = place(inner.server, location, &inner.text(super::URI));
        Some((inner, Noted { limited, is_traced }))
    }
}
