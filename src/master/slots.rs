//! Listening sockets: several for an address, opened once and kept as long as the address is configured.
//!
//! Workers lease slots by index; a reload, another number of workers or an upgrade moves leases and closes
//! nothing, so no accept queue is lost. A unix address has one slot, which all workers look at.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::http::Listen;
use crate::sys::address::SockAddr;
use crate::sys::socket::{self, ListenOptions};
use crate::sys::trusted::Place;

/// The slots of one address, in the order in which they began to listen (their indexes to `socket::steer`).
#[derive(Debug)]
pub struct Group {
    pub address: SockAddr,
    pub fds: Vec<OwnedFd>,
    /// What they were opened with, as far as this process knows.
    options: ListenOptions,
    /// How many of them, the first ones, a service manager has lent: it listens with them when we are gone, so
    /// they are closed but never ended, and their path is not ours.
    pub lent_count: usize,
}

impl Group {
    /// The path that goes with the address.
    fn own_path(&self) -> Option<&std::path::Path> {
        self.address.path().filter(|_| self.lent_count == 0)
    }
}

/// All slots by their addresses, of which there may be thousands.
#[derive(Debug, Default)]
pub struct Slots(HashMap<SockAddr, Group>);

/// An address that could not be opened.
#[derive(Debug)]
pub struct BindError {
    pub address: SockAddr,
    pub call: &'static str,
    pub cause: io::Error,
}

impl Slots {
    /// Takes over a socket that another process has opened. Those of an address come in their order.
    pub fn adopt(&mut self, address: SockAddr, fd: OwnedFd, is_lent: bool) {
        let lent_count = usize::from(is_lent);
        match self.0.entry(address) {
            Entry::Occupied(mut known) => {
                let group = known.get_mut();
                group.fds.push(fd);
                group.lent_count += lent_count;
            }
            Entry::Vacant(free) => {
                let (address, options) = (free.key().clone(), ListenOptions::default());
                free.insert(Group { address, fds: vec![fd], options, lent_count });
            }
        }
    }

    /// Opens one slot for each address that has none yet; what it could not open. Nothing stays open of a
    /// call that fails.
    pub fn open(&mut self, listens: &[Listen]) -> Result<(), BindError> {
        let mut ports: HashSet<Option<u16>> = self.0.keys().map(SockAddr::port).collect();
        let mut opened = Vec::new();
        for Listen { address, options, .. } in listens {
            if self.group(address).is_some() {
                continue;
            }
            match open_first(address, options, ports.insert(address.port())) {
                Ok(fd) => {
                    let (address, options) = (address.clone(), options.clone());
                    opened.push(Group { address, fds: vec![fd], options, lent_count: 0 });
                }
                Err(error) => {
                    unlink(&opened);
                    return Err(error);
                }
            }
        }
        self.add(opened);
        Ok(())
    }

    pub fn add(&mut self, groups: Vec<Group>) {
        self.0.extend(groups.into_iter().map(|group| (group.address.clone(), group)));
    }

    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.0.values()
    }

    pub fn groups_mut(&mut self) -> impl Iterator<Item = &mut Group> {
        self.0.values_mut()
    }

    pub fn take_all(&mut self) -> Vec<Group> {
        self.0.drain().map(|(_, group)| group).collect()
    }

    /// Gives the sockets of each address the options that are configured now.
    ///
    /// Best effort: an option that the kernel takes at the opening only waits for the next start.
    pub fn change(&mut self, listens: &[Listen]) {
        for listen in listens {
            let Some(group) = self.0.get_mut(&listen.address) else { continue };
            if group.options != listen.options {
                for fd in &group.fds[group.lent_count..] {
                    let _ = socket::change(fd.as_fd(), &group.address, &group.options, &listen.options);
                }
                group.options = listen.options.clone();
            }
        }
    }

    /// Brings each address to at least `count` slots. An address that cannot have more keeps what it has.
    pub fn grow(&mut self, listens: &[Listen], count: usize) {
        for listen in listens.iter().filter(|listen| !listen.address.is_unix()) {
            let Some(group) = self.0.get_mut(&listen.address) else { continue };
            while group.fds.len() < count {
                match socket::listen(&group.address, &listen.options) {
                    Ok(fd) => group.fds.push(fd),
                    Err(_) => break,
                }
            }
        }
    }

    /// Takes out the addresses that are not configured any more.
    pub fn remove_others(&mut self, listens: &[Listen]) -> Vec<Group> {
        let wanted: HashSet<&SockAddr> = listens.iter().map(|listen| &listen.address).collect();
        let gone = self.0.extract_if(|address, _| !wanted.contains(address));
        gone.map(|(_, group)| group).collect()
    }

    /// The same sockets once more.
    pub fn try_clone(&self) -> Self {
        let copy = |group: &Group| Group {
            address: group.address.clone(),
            options: group.options.clone(),
            fds: group.fds.iter().filter_map(|fd| fd.try_clone().ok()).collect(),
            lent_count: group.lent_count,
        };
        Self(self.0.iter().map(|(address, group)| (address.clone(), copy(group))).collect())
    }

    pub fn group(&self, address: &SockAddr) -> Option<&Group> {
        self.0.get(address)
    }

    pub fn group_mut(&mut self, address: &SockAddr) -> Option<&mut Group> {
        self.0.get_mut(address)
    }

    /// Removes the paths of unix sockets.
    pub fn unlink(&self) {
        unlink(self.groups());
    }
}

/// Opens an address; `is_alone`: no socket of ours has its port.
fn open_first(address: &SockAddr, options: &ListenOptions, is_alone: bool) -> Result<OwnedFd, BindError> {
    let refused = |call, cause| BindError { address: address.clone(), call, cause };
    match address {
        SockAddr::Inet(_) => {
            // Sockets of ours on this port would refuse the probe; then only the kernel's own rules count.
            if is_alone {
                // SO_REUSEPORT would let us in beside another server of the same user. Without it the
                // kernel says honestly that somebody listens there.
                socket::probe(address).map_err(|cause| refused("bind()", cause))?;
            }
        }
        SockAddr::Unix(_) => {
            if let Some(path) = address.path() {
                socket::probe(address).map_err(|cause| refused("bind()", cause))?;
                remove_stale(path);
            }
        }
    }
    socket::listen(address, options).map_err(|cause| refused("bind()", cause))
}

/// A socket file that nobody listens on is a leftover of a process that was killed.
fn remove_stale(path: &std::path::Path) {
    // Not to wait for: whoever accepts nobody lives nevertheless.
    let refused = || {
        socket::connect_nonblocking(&SockAddr::Unix(path.into()), None, false)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    };
    if refused() {
        remove_socket(path);
    }
}

/// Ends listening for all processes that share these sockets.
pub fn shut(groups: &[Group]) {
    for group in groups {
        for fd in &group.fds[group.lent_count..] {
            socket::shut_listener(fd.as_fd());
        }
    }
    unlink(groups);
}

fn unlink<'a>(groups: impl IntoIterator<Item = &'a Group>) {
    for path in groups.into_iter().filter_map(Group::own_path) {
        remove_socket(path);
    }
}

/// Removes a socket's file; anything else that has its name by now stays.
fn remove_socket(path: &std::path::Path) {
    if let Ok(place) = Place::of(path)
        && place.is_socket()
    {
        let _ = place.remove();
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn listen(port: u16) -> Listen {
        Listen::new(SockAddr::Inet(([127, 0, 0, 1], port).into()), ListenOptions::default(), 0)
    }

    #[test]
    fn an_address_keeps_its_slots_and_never_shrinks() {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("free").port();
        let listens = [listen(port)];
        let mut slots = Slots::default();
        slots.open(&listens).expect("opens");
        slots.grow(&listens, 4);
        slots.grow(&listens, 2);
        slots.open(&listens).expect("has it already");
        assert_eq!(slots.group(&listens[0].address).map(|group| group.fds.len()), Some(4));
        assert_eq!(slots.remove_others(&[]).len(), 1);
        assert!(slots.0.is_empty());
    }

    #[test]
    fn another_server_s_port_is_refused_and_nothing_stays_open() {
        let holder = TcpListener::bind("127.0.0.1:0").expect("free");
        let taken = holder.local_addr().expect("bound").port();
        let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("free").port();
        let mut slots = Slots::default();
        let error = slots.open(&[listen(free), listen(taken)]).expect_err("taken");
        assert_eq!((error.address.port(), error.cause.kind()), (Some(taken), io::ErrorKind::AddrInUse));
        assert!(slots.0.is_empty());
    }
}
