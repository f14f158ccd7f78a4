//! Listening sockets: several for an address, opened once and kept as long as the address is configured.
//!
//! Workers lease slots by index; a reload, another number of workers or an upgrade moves leases and closes
//! nothing, so no accept queue is lost. A unix address has one slot, which all workers watch.
//!
//! Slots opened by a reload are hidden (`sys/retire.rs`) until the workers for them are ready. Slots that it
//! removes are then hidden, and closed when no handshake is in progress and nothing waits in their queues. If
//! a parameter cannot be changed on a socket, the address gets new sockets in addition to those in use, in
//! the same way.

use std::cell::Cell;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use crate::net::listener::Listener;
use crate::sys::address::SockAddr;
use crate::sys::buffers::Buffers;
use crate::sys::retire;
use crate::sys::socket::{self, ListenOptions, Make};
use crate::sys::trusted::Place;

/// The slots of one address, in the order in which they began to listen (their indexes to `socket::steer`).
#[derive(Debug)]
pub struct Group {
    pub address: SockAddr,
    pub fds: Vec<OwnedFd>,
    /// Their options; `None`: another process has opened them.
    options: Option<ListenOptions>,
    /// No client reaches them before [`Slots::reveal`].
    is_hidden: bool,
    /// Device and inode of the socket's path, which may lead to another file later.
    file: Option<(u64, u64)>,
    /// The number of sockets, the first ones, that a service manager has lent: it goes on listening with
    /// them, so they are closed but never shut down, and their path is not ours.
    pub lent_count: usize,
    /// The kernel may count these sockets in another order, since one that had stopped listening was brought
    /// back.
    pub is_reordered: bool,
    /// A program of this master determines which of them get connections.
    pub is_steered: Cell<bool>,
    /// Of UDP: the number of sockets, the first ones, that clients' datagrams are distributed to
    /// ([`datagram::slot_of`](crate::sys::datagram::slot_of)).
    pub receiving_count: Cell<usize>,
}

/// A socket that a worker had changed: no other process can.
#[derive(Debug)]
pub struct Mended {
    pub address: SockAddr,
    /// The text of `socket::damage`.
    pub damage: &'static str,
    pub repair: Repair,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// The same socket is as it was, for all processes that have it.
    InPlace,
    /// A new one has taken its place, which living workers do not have.
    Anew,
    Failed,
}

impl Group {
    /// Sockets that clients can reach, none of them lent.
    fn new(address: SockAddr, fds: Vec<OwnedFd>, options: Option<ListenOptions>) -> Self {
        let file = address.path().and_then(file_at);
        let receiving_count = Cell::new(fds.len());
        Self {
            address,
            fds,
            options,
            is_hidden: false,
            file,
            lent_count: 0,
            is_reordered: false,
            is_steered: Cell::new(false),
            receiving_count,
        }
    }

    /// Checks each socket, and repairs the damaged ones.
    fn mend(&mut self, options: &ListenOptions, found: &mut Vec<Mended>) {
        let before = found.len();
        for index in 0..self.fds.len() {
            let fd = self.fds[index].as_fd();
            let Some(damage) = damage(fd) else { continue };
            let _ = retire::reveal(fd);
            let repair = if socket::revive(fd, options.backlog) && !retire::is_hidden(fd) {
                Repair::InPlace
            } else if index >= self.lent_count && self.open_anew(index, options) {
                Repair::Anew
            } else {
                Repair::Failed
            };
            found.push(Mended { address: self.address.clone(), damage, repair });
        }
        let count = found.len() - before;
        if count > 0 {
            // If all of them were brought back they are in their order again.
            self.is_reordered = count < self.fds.len();
        }
    }

    fn open_anew(&mut self, index: usize, options: &ListenOptions) -> bool {
        // It takes no more connections, and leaves the address to the new one.
        socket::shut_listener(self.fds[index].as_fd());
        let opened = open_one(&self.address, options);
        if let Ok(fd) = opened {
            self.fds[index] = fd;
            self.file = self.address.path().and_then(file_at);
            return true;
        }
        false
    }

    /// The path that goes with the address.
    fn own_path(&self) -> Option<&std::path::Path> {
        self.address.path().filter(|_| self.lent_count == 0)
    }

    /// The sockets that are ours to change, hide and shut down.
    fn own_fds(&self) -> &[OwnedFd] {
        &self.fds[self.lent_count..]
    }

    /// True if clients that connect to the path now reach these sockets.
    fn is_at_its_path(&self) -> bool {
        self.own_path().is_none_or(|path| self.file.is_some() && self.file == file_at(path))
    }

    /// True if its sockets have all those properties of these options that cannot be changed later.
    fn is_as(&self, options: &ListenOptions) -> bool {
        let wanted = Make::wanted(&self.address, options);
        self.fds.first().is_none_or(|fd| Make::of(fd.as_fd()) == wanted)
    }

    /// Stops new clients from reaching them; those on their way still come.
    pub fn retire(&self) {
        if let (Some(any), 1..) = (self.fds.first(), self.lent_count) {
            let lent: Vec<u32> = (0..self.lent_count as u32).collect();
            let _ = socket::steer(any.as_fd(), &lent);
        }
        self.own_fds().iter().for_each(|fd| retire::retire(fd.as_fd()));
    }

    /// Leaves these sockets to the workers that have connections there.
    pub fn leave(&self) {
        self.own_fds().iter().for_each(|fd| drop(retire::leave(fd.as_fd())));
    }

    /// True if workers that leave go on receiving at these sockets.
    pub fn has_connections(&self) -> bool {
        self.options.as_ref().is_some_and(|options| options.has_connections)
    }

    /// Splits off the sockets that a service manager has lent, which are not ours to shut down.
    pub fn split_lent(&mut self) -> Option<Self> {
        let own = self.fds.split_off(self.lent_count);
        let lent = std::mem::replace(&mut self.fds, own);
        let lent_count = std::mem::take(&mut self.lent_count);
        (lent_count > 0).then(|| Self {
            lent_count,
            file: None,
            ..Self::new(self.address.clone(), lent, None)
        })
    }
}

/// All slots.
#[derive(Debug, Default)]
pub struct Slots {
    /// By address; there may be thousands.
    groups: HashMap<SockAddr, Group>,
    /// Groups whose address has got new sockets in the current reload.
    displaced: Vec<Group>,
    /// Ports of sockets that are being retired and are no longer in `groups`.
    leaving: HashSet<(bool, Option<u16>)>,
    /// Ports of sockets that only workers of earlier generations have.
    left: HashSet<(bool, Option<u16>)>,
}

/// An address that could not be opened.
#[derive(Debug)]
pub struct BindError {
    pub listener: Box<Listener>,
    pub cause: Cause,
}

#[derive(Debug)]
pub enum Cause {
    /// The call that failed.
    Failed(&'static str, io::Error),
    /// A parameter that this process cannot change while the address is served.
    NeedsRestart(&'static str),
}

impl BindError {
    /// True if the address is in use, perhaps by a process that is about to exit.
    pub fn may_pass(&self) -> bool {
        matches!(&self.cause, Cause::Failed(_, error) if error.kind() == io::ErrorKind::AddrInUse)
    }
}

impl Slots {
    /// Takes over a socket opened by another process. Those of an address come in their order.
    pub fn adopt(&mut self, address: SockAddr, fd: OwnedFd, is_lent: bool) {
        let lent_count = usize::from(is_lent);
        match self.groups.entry(address) {
            Entry::Occupied(mut known) => {
                let group = known.get_mut();
                group.fds.push(fd);
                group.receiving_count.set(group.fds.len());
                group.lent_count += lent_count;
            }
            Entry::Vacant(free) => {
                let address = free.key().clone();
                let is_hidden = retire::is_hidden(fd.as_fd());
                free.insert(Group { is_hidden, lent_count, ..Group::new(address, vec![fd], None) });
            }
        }
    }

    /// Opens one slot for each address that has none yet. Fails with the address that could not be opened,
    /// and leaves nothing open in that case.
    pub fn open(&mut self, listeners: &[Listener]) -> Result<(), BindError> {
        self.open_where(listeners, false, |group, _| Ok(group.is_some()))
    }

    /// The same next to addresses that are being served. Where permitted, sockets that could take clients
    /// from those are hidden until [`reveal`](Self::reveal), and an address whose sockets cannot be changed
    /// gets new ones.
    pub fn open_beside(&mut self, listeners: &[Listener]) -> Result<(), BindError> {
        let may_hide = retire::can_reveal();
        self.open_where(listeners, may_hide, |group, listener| is_usable(group, listener, may_hide))
    }

    /// Opens the addresses whose sockets, according to `is_usable`, do not fit these options.
    fn open_where(
        &mut self,
        listeners: &[Listener],
        is_hidden: bool,
        is_usable: impl Fn(Option<&Group>, &Listener) -> Result<bool, BindError>,
    ) -> Result<(), BindError> {
        let mut ports: HashSet<(bool, Option<u16>)> = self.groups.keys().map(port_of).collect();
        ports.extend(self.leaving.iter().chain(&self.left));
        let mut opened = Vec::new();
        for listener in listeners {
            let address = &listener.address;
            let outcome = match is_usable(self.group(address), listener) {
                Ok(true) => continue,
                Ok(false) => {
                    let is_alone = ports.insert(port_of(address));
                    open_first(listener, is_alone, is_hidden && !is_alone)
                }
                Err(error) => Err(error),
            };
            match outcome {
                Ok(group) => opened.push(group),
                Err(error) => {
                    unlink(&opened);
                    return Err(error);
                }
            }
        }
        for group in opened {
            self.displaced.extend(self.groups.insert(group.address.clone(), group));
        }
        Ok(())
    }

    /// Notes which sockets are being retired: they still occupy their ports, but they are ours.
    pub fn note_leaving(&mut self, groups: &[Group]) {
        self.leaving = groups.iter().map(|group| port_of(&group.address)).collect();
    }

    /// Leaves sockets to the workers that have connections there: they occupy their port for as long as one of those lives.
    pub fn leave(&mut self, group: &Group) {
        group.leave();
        self.left.insert(port_of(&group.address));
    }

    /// No worker of an earlier generation lives, so that another program's sockets are at such a port, if there are any.
    pub fn forget_left(&mut self) {
        self.left.clear();
    }

    pub fn add(&mut self, group: Group) {
        self.groups.insert(group.address.clone(), group);
    }

    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    pub fn groups_mut(&mut self) -> impl Iterator<Item = &mut Group> {
        self.groups.values_mut()
    }

    pub fn take_all(&mut self) -> Vec<Group> {
        self.groups.drain().map(|(_, group)| group).chain(self.displaced.drain(..)).collect()
    }

    /// Lets clients reach the sockets that a reload has opened: its workers are ready.
    pub fn reveal(&mut self) {
        for group in self.groups.values_mut().filter(|group| group.is_hidden) {
            group.is_hidden = group.fds.iter().any(|fd| retire::reveal(fd.as_fd()).is_err());
        }
    }

    /// Takes the sockets that were displaced by new ones and are no longer needed.
    pub fn take_displaced(&mut self) -> Vec<Group> {
        std::mem::take(&mut self.displaced)
    }

    /// Puts the displaced sockets back; returns those that had replaced them.
    pub fn put_displaced_back(&mut self) -> Vec<Group> {
        let displaced = std::mem::take(&mut self.displaced);
        let back = displaced.into_iter().filter_map(|group| self.groups.insert(group.address.clone(), group));
        back.collect()
    }

    /// Sets the configured options on the sockets of each address; returns messages about those that could
    /// not be set.
    ///
    /// The sockets of a service manager are left alone: it sets their options.
    pub fn change(&mut self, listeners: &[Listener]) -> Vec<String> {
        let mut complaints = Vec::new();
        for listener in listeners {
            let Some(group) = self.groups.get_mut(&listener.address) else { continue };
            if group.options.as_ref() == Some(&listener.options) {
                continue;
            }
            let address = &group.address;
            let change = |fd: &OwnedFd| socket::change(fd.as_fd(), address, &listener.options);
            if let Some((name, error)) = group.own_fds().iter().find_map(|fd| change(fd).err()) {
                complaints.push(format!(
                    "\"{name}\" of \"listen\" for {address} could not be changed {}: it holds from the next start on",
                    crate::log::Cause(&error)
                ));
            }
            let is_other = !group.is_as(&listener.options);
            let is_told = group.options.is_some() || listener.options != ListenOptions::default();
            if is_other && group.lent_count == 0 {
                // They are another master's too, as long as an upgrade can be undone.
                complaints.push(format!(
                    "\"ipv6only\" or \"multipath\" of \"listen\" for {address} is not what the inherited sockets have: \
                     reload once more when the upgrade is done"
                ));
            }
            if group.lent_count > 0 && (is_told || is_other) {
                complaints.push(format!(
                    "the socket of {address} is the service manager's: the parameters of its \"listen\" hold for \
                     it as far as the socket unit says the same"
                ));
            }
            group.options = Some(listener.options.clone());
        }
        complaints
    }

    /// Checks that all sockets still are as they were opened, and repairs the damaged ones. Every worker has
    /// them all, and could shut them down, or have the kernel drop what comes, for all other processes and
    /// all later ones. Sockets that a reload has just opened are hidden on purpose, and no worker has them
    /// yet.
    pub fn mend(&mut self, listeners: &[Listener]) -> Vec<Mended> {
        let mut found = Vec::new();
        for listener in listeners {
            if let Some(group) = self.groups.get_mut(&listener.address).filter(|group| !group.is_hidden) {
                group.mend(&listener.options, &mut found);
            }
        }
        found
    }

    /// Brings each address to at least `count` slots. An address that cannot have more keeps those it has.
    pub fn grow(&mut self, listeners: &[Listener], count: usize) {
        for listener in listeners.iter().filter(|listener| !listener.address.is_unix()) {
            let Some(group) = self.groups.get_mut(&listener.address) else { continue };
            while group.fds.len() < count {
                match open_inet(&group.address, &listener.options, group.is_hidden) {
                    Ok(fd) => group.fds.push(fd),
                    Err(_) => break,
                }
            }
        }
    }

    /// Removes the addresses that are no longer configured.
    pub fn remove_others(&mut self, listeners: &[Listener]) -> Vec<Group> {
        let wanted: HashSet<&SockAddr> = listeners.iter().map(|listener| &listener.address).collect();
        let gone = self.groups.extract_if(|address, _| !wanted.contains(address));
        gone.map(|(_, group)| group).collect()
    }

    /// Duplicates all sockets.
    pub fn try_clone(&self) -> Self {
        let copy = |group: &Group| {
            let fds = group.fds.iter().filter_map(|fd| fd.try_clone().ok()).collect();
            let (is_hidden, file, lent_count) = (group.is_hidden, group.file, group.lent_count);
            let copy = Group::new(group.address.clone(), fds, group.options.clone());
            Group { is_hidden, file, lent_count, ..copy }
        };
        let groups = self.groups.iter().map(|(address, group)| (address.clone(), copy(group)));
        Self { groups: groups.collect(), ..Self::default() }
    }

    pub fn group(&self, address: &SockAddr) -> Option<&Group> {
        self.groups.get(address)
    }

    pub fn group_mut(&mut self, address: &SockAddr) -> Option<&mut Group> {
        self.groups.get_mut(address)
    }

    /// Removes the paths of unix sockets.
    pub fn unlink(&self) {
        unlink(self.groups());
    }
}

/// The port of an address, among those of UDP or of TCP.
fn port_of(address: &SockAddr) -> (bool, Option<u16>) {
    (address.is_datagram(), address.port())
}

/// True if an address has sockets that can get the options of a reload. Fails if it has others, and no more
/// can be opened next to them.
fn is_usable(group: Option<&Group>, listener: &Listener, may_hide: bool) -> Result<bool, BindError> {
    let Some(group) = group else { return Ok(false) };
    if group.lent_count > 0 || group.is_as(&listener.options) {
        return Ok(group.is_at_its_path());
    }
    // Sockets that differ in this are in separate groups anyway, so those in use keep their clients.
    let is_dual_stack = group.fds.first().is_some_and(|fd| Make::of(fd.as_fd()).is_dual_stack);
    if may_hide || is_dual_stack != Make::wanted(&listener.address, &listener.options).is_dual_stack {
        return Ok(false);
    }
    Err(BindError { listener: Box::new(listener.clone()), cause: Cause::NeedsRestart("multipath") })
}

/// Opens an address; `is_alone`: no socket of ours has its port.
fn open_first(listener: &Listener, is_alone: bool, is_hidden: bool) -> Result<Group, BindError> {
    let Listener { address, options, .. } = listener;
    let refused =
        |call, cause| BindError { listener: Box::new(listener.clone()), cause: Cause::Failed(call, cause) };
    match address {
        SockAddr::Inet(_) | SockAddr::Datagram(_) => {
            // Sockets of ours on this port would refuse the probe; then only the kernel's own rules count.
            if is_alone {
                // SO_REUSEPORT would let us share the port with another server of the same user. Without it
                // the kernel reports that another process listens there.
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
    let is_hidden = is_hidden && !address.is_unix();
    let opened = open_inet(address, options, is_hidden).map_err(|cause| refused("bind()", cause))?;
    Ok(Group { is_hidden, ..Group::new(address.clone(), vec![opened], Some(options.clone())) })
}

fn open_inet(address: &SockAddr, options: &ListenOptions, is_hidden: bool) -> io::Result<OwnedFd> {
    if is_hidden { socket::listen_hidden(address, options) } else { socket::listen(address, options) }
}

/// Device and inode of the file that a path leads to.
fn file_at(path: &std::path::Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// The damage that another process has done to a listening socket.
fn damage(listener: BorrowedFd<'_>) -> Option<&'static str> {
    socket::damage(listener).or_else(|| retire::is_hidden(listener).then_some("is hidden from clients"))
}

/// Opens one more socket for an address that is already ours.
fn open_one(address: &SockAddr, options: &ListenOptions) -> io::Result<OwnedFd> {
    address.path().into_iter().for_each(remove_socket);
    socket::listen(address, options)
}

/// Removes a socket file without a listener: a leftover of a process that was killed.
fn remove_stale(path: &std::path::Path) {
    // Without blocking: a process whose queue is full is alive all the same.
    let refused = || {
        socket::connect_nonblocking(&SockAddr::Unix(path.into()), None, false, false, Buffers::default())
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    };
    if refused() {
        remove_socket(path);
    }
}

/// Ends listening for all processes that share these sockets.
pub fn shut(groups: &[Group]) {
    for group in groups {
        for fd in group.own_fds() {
            socket::shut_listener(fd.as_fd());
        }
    }
    unlink(groups);
}

/// True if no client is on its way to these addresses any more, which were retired `for_ms` milliseconds ago.
pub fn are_drained(groups: &[Group], for_ms: u64) -> bool {
    retire::are_drained(groups.iter().flat_map(Group::own_fds).map(AsFd::as_fd), for_ms)
}

fn unlink<'a>(groups: impl IntoIterator<Item = &'a Group>) {
    // Another socket may be at the path by now.
    let is_there = |group: &&Group| group.is_at_its_path();
    for path in groups.into_iter().filter(is_there).filter_map(Group::own_path) {
        remove_socket(path);
    }
}

/// Removes a socket's file; any other file that has its name by now stays.
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
    use crate::net::listener::Serves;

    fn of(address: SockAddr) -> Listener {
        let (options, span, serves) = (ListenOptions::default(), None, Serves::Http(0));
        Listener { address, options, span, serves }
    }

    fn listen(port: u16) -> Listener {
        of(SockAddr::Inet(([127, 0, 0, 1], port).into()))
    }

    #[test]
    fn an_address_keeps_its_slots_and_never_shrinks() {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("free").port();
        let listeners = [listen(port)];
        let mut slots = Slots::default();
        slots.open(&listeners).expect("opens");
        slots.grow(&listeners, 4);
        slots.grow(&listeners, 2);
        slots.open(&listeners).expect("has it already");
        assert_eq!(slots.group(&listeners[0].address).map(|group| group.fds.len()), Some(4));
        assert_eq!(slots.remove_others(&[]).len(), 1);
        assert!(slots.groups.is_empty());
    }

    #[test]
    fn sockets_that_stopped_listening_are_brought_back() {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("free").port();
        let listeners = [listen(port)];
        let mut slots = Slots::default();
        slots.open(&listeners).expect("opens");
        slots.grow(&listeners, 3);
        assert!(slots.mend(&listeners).is_empty());
        let group = slots.group(&listeners[0].address).expect("open");
        // A copy, like a worker's.
        let copy = group.fds[1].try_clone().expect("a descriptor");
        socket::shut_listener(copy.as_fd());
        socket::shut_listener(copy.as_fd());
        let mended = slots.mend(&listeners);
        assert_eq!(mended.iter().map(|it| it.repair).collect::<Vec<_>>(), [Repair::InPlace]);
        assert!(slots.mend(&listeners).is_empty() && socket::damage(copy.as_fd()).is_none());
        assert!(slots.group(&listeners[0].address).is_some_and(|group| group.is_reordered));
        slots
            .group(&listeners[0].address)
            .expect("open")
            .fds
            .iter()
            .for_each(|fd| socket::shut_listener(fd.as_fd()));
        assert_eq!(slots.mend(&listeners).len(), 3);
        assert!(slots.group(&listeners[0].address).is_some_and(|group| !group.is_reordered), "all anew");
        // A connection is complete on both sides, whichever of the three sockets gets it.
        let _client = std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listeners");
        let group = slots.group(&listeners[0].address).expect("open");
        let accepted = loop {
            if let Some((fd, _)) = group.fds.iter().find_map(|fd| socket::accept(fd.as_fd()).ok()) {
                break fd;
            }
            std::thread::yield_now();
        };
        let read = socket::receive(accepted.as_fd(), &mut [0; 1]);
        assert_eq!(read, Err(nix::Error::EAGAIN), "nothing has come, and it has not ended");
    }

    #[test]
    fn sockets_that_cannot_be_brought_back_are_opened_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        let address = SockAddr::Unix(path.clone());
        let listeners = [of(address.clone())];
        let mut slots = Slots::default();
        slots.open(&listeners).expect("opens");
        socket::shut_listener(slots.group(&address).expect("open").fds[0].as_fd());
        assert!(std::os::unix::net::UnixStream::connect(&path).is_err());
        let mended = slots.mend(&listeners);
        assert_eq!(mended.iter().map(|it| it.repair).collect::<Vec<_>>(), [Repair::Anew]);
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok() && slots.mend(&listeners).is_empty());
    }

    #[test]
    fn another_server_s_port_is_refused_and_nothing_stays_open() {
        let holder = TcpListener::bind("127.0.0.1:0").expect("free");
        let taken = holder.local_addr().expect("bound").port();
        let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("free").port();
        let mut slots = Slots::default();
        let error = slots.open(&[listen(free), listen(taken)]).expect_err("taken");
        assert_eq!((error.listener.address.port(), error.may_pass()), (Some(taken), true));
        assert!(slots.groups.is_empty());
    }
}
