//! A tunnel on its way to another process: the state that goes with its two connections.
//!
//! ```text
//! state    relay | client's connection | upstream's connection | group | peer | what the protocol adds
//! ```
//! The process that writes it may be hostile, so everything is checked where it arrives. Bytes that have been received
//! and not been sent on are part of it: nothing is lost, whatever a pipe held. Touches: the connections' sockets, sealed
//! memory for a state that is long.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use zeroize::{Zeroize, Zeroizing};

use super::{Half, Held, Paced, Tunneling};
use crate::base::frame::{Fields, put_option, put_vector16, put_vector32};
use crate::log;
use crate::net::clients::{Client, Protocol};
use crate::net::drain;
use crate::net::handover::{INLINE_BYTES_MAX, MovedTunnel, STATE_BYTES_MAX, TunnelOf, TunnelState};
use crate::net::open::{Guard, Place};
use crate::net::pace::Pace;
use crate::net::transport::Transport;
use crate::runtime::buffer::Buffer;
use crate::runtime::{self, Timer, now_ms};
use crate::shm::counter::Total;
use crate::sys::sealed;

/// A part of a state that is written before it is known whether the tunnel can move.
const SPARE_BYTES: usize = 16 * 1024;

/// The most bytes that one direction holds: a pipe's.
const HELD_BYTES_MAX: usize = 512 * 1024;

thread_local! {
    /// Where states are written before it is known how long they are. They may contain keys, so the space is erased after
    /// each use, as far as it was used: with thousands of tunnels, erasing all of it took longer than everything else.
    static SPACE: Cell<Zeroizing<Vec<u8>>> = Cell::default();
}

/// A tunnel that is about to leave this process.
pub struct Leaving<'a> {
    pub of: TunnelOf,
    pub listen: u32,
    pub client: &'a Transport,
    pub upstream: &'a Transport,
    /// The peer that serves it, and its group.
    pub group: &'a str,
    pub peer: &'a str,
}

impl Leaving<'_> {
    /// The message for a tunnel, and the memory of a state that is too long for it. `own` adds the protocol's part.
    ///
    /// `None`: it cannot move now. Nothing has changed then, and it can be tried again. Otherwise both connections are to
    /// be released ([`Transport::release`]) without anything read or written in between.
    pub fn pack(
        self,
        tunneling: &mut Tunneling,
        own: impl FnOnce(&mut Vec<u8>),
    ) -> Option<(MovedTunnel, Option<OwnedFd>)> {
        if !tunneling.empty_pipes() {
            return None;
        }
        let held = tunneling.forth.held_bytes() + tunneling.back.held_bytes();
        let room = usize::try_from(held).ok()?
            + self.client.saved_bytes_max()
            + self.upstream.saved_bytes_max()
            + SPARE_BYTES;
        let mut space = SPACE.take();
        // Large enough for all secrets, so that none is left behind where the bytes were before they grew.
        space.reserve(room);
        let packed = self.pack_into(&mut space, tunneling, own);
        space.as_mut_slice().zeroize();
        space.clear();
        if space.capacity() <= 2 * SPARE_BYTES {
            SPACE.set(space);
        }
        packed
    }

    fn pack_into(
        self,
        state: &mut Vec<u8>,
        tunneling: &Tunneling,
        own: impl FnOnce(&mut Vec<u8>),
    ) -> Option<(MovedTunnel, Option<OwnedFd>)> {
        tunneling.save(state);
        if !self.client.save(state) || !self.upstream.save(state) {
            return None;
        }
        put_vector16(state, self.group.as_bytes());
        put_vector16(state, self.peer.as_bytes());
        own(state);
        let (listen, of) = (self.listen, self.of);
        if state.len() <= INLINE_BYTES_MAX {
            let state = TunnelState(Zeroizing::new(state.to_vec()));
            return Some((MovedTunnel { listen, of, state }, None));
        }
        if state.len() > STATE_BYTES_MAX {
            return None;
        }
        let memory = sealed::seal("tunnel", state).ok()?;
        Some((MovedTunnel { listen, of, state: TunnelState::default() }, Some(memory)))
    }
}

/// A tunnel that has come from another process. It counts as a client's connection and an upstream's from now on.
#[derive(Debug)]
pub struct Arrived {
    pub client: Transport,
    pub upstream: Transport,
    pub tunneling: Box<Tunneling>,
    pub group: Box<str>,
    pub peer: Box<str>,
    /// The protocol's part.
    pub own: TunnelState,
    pub open: Guard,
    pub place: Place,
}

/// Takes over a tunnel, whose client gets this number. `None`: its state is damaged, or its connections cannot be watched.
pub fn arrive((number, of): (u64, TunnelOf), state: TunnelState, fds: Vec<OwnedFd>) -> Option<Arrived> {
    let mut fds = fds.into_iter();
    let (client, upstream) = (fds.next()?, fds.next()?);
    let state = match (state.0.is_empty(), fds.next()) {
        (true, Some(memory)) => sealed::read(memory, STATE_BYTES_MAX).ok()?,
        (false, None) => state.0,
        _ => return None,
    };
    let mut fields = Fields(&state);
    let tunneling = Box::new(Tunneling::restore(&mut fields)?);
    let client = Transport::restore(client, &mut fields)?;
    let upstream = Transport::restore(upstream, &mut fields)?;
    let mut name = || Some(Box::from(std::str::from_utf8(fields.vector16()?).ok()?));
    let (group, peer) = (name()?, name()?);
    let own = TunnelState(Zeroizing::new(fields.rest().to_vec()));
    let protocol = match of {
        TunnelOf::Stream | TunnelOf::Mail => Protocol::Tcp,
        TunnelOf::Http => Protocol::Http1,
    };
    let mut open = Guard::new(Client::new(number, protocol, client.probe()));
    open.turn(Total::Writing);
    Some(Arrived { client, upstream, tunneling, group, peer, own, open, place: Place::new() })
}

impl Arrived {
    /// Relays for a tunnel whose listener this configuration does not have any more. It ends like any other, but with
    /// a line in the error log only; at the next reload it moves on.
    pub async fn run_alone(mut self, give: impl Fn(MovedTunnel, Vec<OwnedFd>), of: TunnelOf) {
        let outcome = loop {
            match self.tunneling.run(&self.client, &self.upstream).await {
                Ended::Over(outcome) => break Some(outcome),
                Ended::Leaves => break None,
                Ended::MayMove => {}
            }
            let leaving = Leaving {
                of,
                listen: crate::net::handover::NO_LISTENER,
                client: &self.client,
                upstream: &self.upstream,
                group: &self.group,
                peer: &self.peer,
            };
            let own = &self.own.0;
            if let Some((tunnel, memory)) =
                leaving.pack(&mut self.tunneling, |out| out.extend_from_slice(own))
            {
                return give(tunnel, release([self.client, self.upstream], memory));
            }
        };
        let (sent, received) = self.tunneling.moved();
        let why = match outcome {
            Some(Ok(_)) => "its ends have closed it".into(),
            Some(Err(error)) => error.cause.to_string(),
            None => "the worker stops".into(),
        };
        let peer = &self.peer;
        log::info!(
            log::process(),
            &(),
            "a tunnel to {peer}, whose listener is not configured any more, has ended: {why}; {sent} bytes to the \
             upstream, {received} to the client"
        );
    }
}

/// The descriptors of a tunnel that has been packed, in the order of the message.
pub fn release(ends: [Transport; 2], memory: Option<OwnedFd>) -> Vec<OwnedFd> {
    ends.into_iter().filter_map(Transport::release).chain(memory).collect()
}

/// Why a tunnel does not go on here.
#[derive(Debug)]
pub enum Ended {
    Over(Result<(u64, u64), crate::runtime::relay::RelayError>),
    /// The worker must end.
    Leaves,
    /// A newer generation runs: another worker can have it.
    MayMove,
}

impl Tunneling {
    /// Relays until the tunnel is over, or is to leave this process. After [`Ended::MayMove`] it can be called again: it
    /// returns once something has happened.
    pub fn run(&mut self, a: &Transport, b: &Transport) -> impl Future<Output = Ended> {
        let mut has_waited = false;
        std::future::poll_fn(move |cx| self.poll_run(a, b, &mut has_waited, cx))
    }

    /// The poll function of [`Tunneling::run`]. `has_waited` is false at first, and belongs to the call.
    pub fn poll_run(
        &mut self,
        a: &Transport,
        b: &Transport,
        has_waited: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<Ended> {
        let was_told = std::mem::replace(&mut self.was_told, false);
        *has_waited |= !was_told;
        match self.poll(a, b, cx) {
            Poll::Ready(outcome) => Poll::Ready(Ended::Over(outcome)),
            Poll::Pending if drain::mode() >= drain::Mode::Now => Poll::Ready(Ended::Leaves),
            Poll::Pending if drain::mode() == drain::Mode::HandOver && *has_waited => {
                self.was_told = true;
                Poll::Ready(Ended::MayMove)
            }
            Poll::Pending => {
                *has_waited = true;
                Poll::Pending
            }
        }
    }

    /// Reads what the pipes hold into memory. False: that failed.
    fn empty_pipes(&mut self) -> bool {
        [&mut self.forth, &mut self.back].into_iter().all(|half| {
            if let Some(Held::Pipe(pipe)) = &mut half.held {
                match pipe.take_bytes() {
                    Ok(bytes) => half.held = Some(Held::Buffer(Buffer::of(bytes))),
                    Err(_) => return false,
                }
            }
            true
        })
    }

    fn save(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.idle_ms.to_le_bytes());
        out.extend_from_slice(&self.timer.left_ms().to_le_bytes());
        out.push(u8::from(self.ends_together));
        self.forth.save(out);
        self.back.save(out);
    }

    fn restore(fields: &mut Fields<'_>) -> Option<Self> {
        let (idle_ms, left_ms) = (fields.u64()?, fields.u64()?);
        let ends_together = fields.flag()?;
        let mut timer = Timer::new();
        timer.set(now_ms().saturating_add(left_ms.min(idle_ms)));
        let (forth, back) = (Half::restore(fields)?, Half::restore(fields)?);
        Some(Self { forth, back, timer, idle_ms, ends_together, was_told: false })
    }
}

impl Half {
    fn save(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.moved.to_le_bytes());
        let first_us = (self.first_us > 0).then(|| runtime::now_us().saturating_sub(self.first_us));
        put_option(out, first_us);
        for is_set in [self.is_done, self.keeps_open, self.paced.is_some()] {
            out.push(u8::from(is_set));
        }
        if let Some(paced) = &self.paced {
            paced.pace.save(out);
        }
        put_vector32(
            out,
            match &self.held {
                Some(Held::Buffer(buffer)) => buffer.data(),
                Some(Held::Pipe(_)) | None => &[],
            },
        );
    }

    fn restore(fields: &mut Fields<'_>) -> Option<Self> {
        let moved = fields.count()?;
        let first_us = fields.option()?.map_or(0, |ago_us| runtime::now_us().saturating_sub(ago_us).max(1));
        let (is_done, keeps_open, is_paced) = (fields.flag()?, fields.flag()?, fields.flag()?);
        let paced = match is_paced {
            true => Some(Box::new(Paced { pace: Pace::restore(fields)?, timer: Timer::new() })),
            false => None,
        };
        let bytes = fields.vector32().filter(|bytes| bytes.len() <= HELD_BYTES_MAX)?;
        let held = (!bytes.is_empty()).then(|| Held::Buffer(Buffer::of(bytes.to_vec())));
        Some(Self { held, moved, first_us, paced, is_done, is_bulk: false, keeps_open })
    }
}
