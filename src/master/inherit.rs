//! Descriptors inherited from the process that started this one: an older master, or a service manager.
//!
//! An older master names them in `PRONGHORN_FDS`, one a line: `link 5`, `lock 6`, `shm 7`, `generation 3`,
//! `background 1`, `edits 11`, `keyvals 12`, `slot 8 127.0.0.1:80`, `lent 9 127.0.0.1:81`, `zone 10 9f3a6c`. A service manager counts them in `LISTEN_FDS`
//! (sd_listen_fds(3)); those are lent, which an older master says of them too. Each number counts once.

use std::collections::HashSet;
use std::ffi::{CString, OsString};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::master::lanes::Lanes;
use crate::master::link::Link;
use crate::master::slots::Slots;
use crate::shm::named;
use crate::sys::address::SockAddr;
use crate::sys::{datagram, process, socket};

const VARIABLE: &str = "PRONGHORN_FDS";

/// Everything that was inherited.
#[derive(Debug)]
pub struct Inherited {
    pub slots: Slots,
    /// The link to the older master, while it lives.
    pub link: Option<Link>,
    /// The lanes of the shared memory that workers of this master may use.
    pub lanes: Lanes,
    pub lock: Option<OwnedFd>,
    pub shm: Option<OwnedFd>,
    pub generation: u64,
    /// The older master runs in the background.
    pub is_in_background: bool,
    /// The changes that the older master's operators have made.
    pub legacy: Legacy,
    /// Messages about descriptors that cannot be used.
    pub refused: Vec<String>,
}

/// The changes of an older master's operators, in sealed memory.
#[derive(Debug, Default)]
pub struct Legacy {
    /// Those of upstreams.
    pub edits: Option<OwnedFd>,
    /// The pairs of the key-value zones.
    pub keyvals: Option<OwnedFd>,
}

impl Inherited {
    /// Takes the descriptors that the environment names, and closes all others from 3 on. Must be called
    /// first of all.
    pub fn take() -> Self {
        let mut found = Self {
            slots: Slots::default(),
            link: None,
            lanes: Lanes::all(),
            lock: None,
            shm: None,
            generation: 0,
            is_in_background: false,
            legacy: Legacy::default(),
            refused: Vec::new(),
        };
        let text = std::env::var_os(VARIABLE).unwrap_or_default();
        let mut numbers = Numbers::default();
        let mut zones = Vec::new();
        for line in text.as_bytes().split(|byte| *byte == b'\n') {
            found.take_line(line, &mut numbers, &mut zones);
        }
        found.take_listen_fds(&mut numbers);
        match found.link.as_mut().map(Link::meet) {
            Some(Some(granted)) => found.lanes = Lanes::granted(&granted),
            // A master of another version assigns places in its memory differently: start with a fresh area.
            Some(None) => {
                found.shm = None;
                zones.clear();
            }
            None => {}
        }
        for (name, fd) in zones {
            // A zone with another layout is no loss: the configuration maps its own.
            let _ = named::adopt(name, fd);
        }
        process::close_others(&found.numbers());
        found
    }

    fn take_line(&mut self, line: &[u8], numbers: &mut Numbers, zones: &mut Vec<(u64, OwnedFd)>) {
        let mut words = line.splitn(3, |byte| *byte == b' ');
        let (Some(kind), Some(number)) = (words.next(), words.next()) else { return };
        let Some(number) = std::str::from_utf8(number).ok().and_then(|text| text.parse::<u64>().ok()) else {
            return;
        };
        match kind {
            b"generation" => return self.generation = number,
            b"background" => return self.is_in_background = number == 1,
            _ => {}
        }
        let Some(fd) = RawFd::try_from(number).ok().and_then(|number| numbers.take(number)) else { return };
        match kind {
            b"link" => self.link = Some(Link::new(fd)),
            b"lock" => self.lock = Some(fd),
            b"shm" => self.shm = Some(fd),
            b"edits" => self.legacy.edits = Some(fd),
            b"keyvals" => self.legacy.keyvals = Some(fd),
            b"zone" => {
                let name = words.next().and_then(|name| std::str::from_utf8(name).ok());
                zones.extend(name.and_then(|name| u64::from_str_radix(name, 16).ok()).map(|name| (name, fd)));
            }
            b"slot" | b"lent" => {
                // The kernel knows the address better than the text.
                if let Ok(address) = datagram::listener_addr(&fd) {
                    self.slots.adopt(address, fd, kind == b"lent");
                }
            }
            _ => {}
        }
    }

    fn take_listen_fds(&mut self, numbers: &mut Numbers) {
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
        if number("LISTEN_PID") != Some(process::pid()) {
            return;
        }
        let count = number("LISTEN_FDS").unwrap_or(0).clamp(0, 1024);
        for fd in (3..3 + count).filter_map(|number| numbers.take(number)) {
            let is_listener = socket2::SockRef::from(&fd).is_listener().unwrap_or(false);
            match socket::local_addr(&fd) {
                Ok(address) if is_listener => {
                    let _ = socket2::SockRef::from(&fd).set_nonblocking(true);
                    self.slots.adopt(address, fd, true);
                }
                _ => self.refused.push(format!("descriptor {} of LISTEN_FDS", fd.as_raw_fd())),
            }
        }
    }

    fn numbers(&self) -> Vec<RawFd> {
        let link = self.link.as_ref().map(|link| &link.fd);
        let Legacy { edits, keyvals } = &self.legacy;
        let single = [link, self.lock.as_ref(), self.shm.as_ref(), edits.as_ref(), keyvals.as_ref()];
        let slots = self.slots.groups().flat_map(|group| &group.fds);
        let zones = named::all().into_iter().map(|(_, fd)| fd.as_raw_fd());
        single.into_iter().flatten().chain(slots).map(AsRawFd::as_raw_fd).chain(zones).collect()
    }
}

/// The descriptors that were taken over, by number. An environment may name one twice, but it has only one
/// owner.
#[derive(Debug, Default)]
struct Numbers(HashSet<RawFd>);

impl Numbers {
    fn take(&mut self, number: RawFd) -> Option<OwnedFd> {
        if self.0.insert(number) { process::inherited(number) } else { None }
    }
}

/// The descriptors for a new master and the environment that names them.
pub fn bequeath<'a>(
    slots: &'a Slots,
    link: BorrowedFd<'a>,
    lock: Option<BorrowedFd<'a>>,
    legacy: &'a Legacy,
    shm: BorrowedFd<'a>,
    generation: u64,
) -> (Vec<BorrowedFd<'a>>, Vec<CString>) {
    use std::fmt::Write;
    use std::os::fd::AsFd;
    let mut fds = vec![link, shm];
    let mut text = format!("link {}\nshm {}\ngeneration {generation}\n", link.as_raw_fd(), shm.as_raw_fd());
    if let Some(lock) = lock {
        fds.push(lock);
        let _ = writeln!(text, "lock {}", lock.as_raw_fd());
    }
    for (kind, fd) in [("edits", &legacy.edits), ("keyvals", &legacy.keyvals)] {
        if let Some(fd) = fd {
            fds.push(fd.as_fd());
            let _ = writeln!(text, "{kind} {}", fd.as_raw_fd());
        }
    }
    for (name, fd) in named::all() {
        fds.push(fd);
        let _ = writeln!(text, "zone {} {name:x}", fd.as_raw_fd());
    }
    for group in slots.groups() {
        for (index, fd) in group.fds.iter().enumerate() {
            fds.push(fd.as_fd());
            let kind = if index < group.lent_count { "lent" } else { "slot" };
            let _ = writeln!(text, "{kind} {} {}", fd.as_raw_fd(), name(&group.address));
        }
    }
    if crate::log::has_stderr() {
        text.push_str("background 1\n");
    }
    let others = std::env::vars_os().filter(|(name, _)| name != VARIABLE && !is_of_this_process(name));
    let own = (OsString::from(VARIABLE), OsString::from(text));
    let environment = others.chain([own]).filter_map(|(name, value)| {
        let line = [name.into_vec(), b"=".to_vec(), value.into_vec()].concat();
        CString::new(line).ok()
    });
    (fds, environment.collect())
}

/// Variables of a service manager that are meant for the process it has started. Without `WATCHDOG_PID` the
/// watchdog applies to whichever process is the main one.
fn is_of_this_process(name: &std::ffi::OsStr) -> bool {
    ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID"].iter().any(|ours| name == *ours)
}

/// The address for people who read the environment; an abstract unix name may have bytes that no environment
/// can hold.
fn name(address: &SockAddr) -> String {
    address.to_string().replace('\0', "@")
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn a_number_that_is_named_twice_has_one_owner() {
        let number = tempfile::tempfile().expect("a file").into_raw_fd();
        let mut numbers = Numbers::default();
        let owner = numbers.take(number);
        assert!(owner.is_some() && numbers.take(number).is_none());
        assert!(numbers.take(1).is_none(), "a standard stream has its owner");
    }
}
