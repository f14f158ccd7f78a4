//! Forks workers and the processes beside them: which of the master's descriptors and facts it gets.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;

use crate::log;
use crate::master::certificates::Certificates;
use crate::master::roles::{Place, Role};
use crate::master::rules::Ledger;
use crate::master::seat::{Name, Roster, Worker};
use crate::master::supervisor::{Event, WorkerId};
use crate::master::upgrade::OtherWorkers;
use crate::master::{Master, notify, slots};
use crate::net::acme::Plan;
use crate::net::listener::Listener;
use crate::net::tls::key_log;
use crate::shm::{lanes, peers};
use crate::sys::process::{self, Forked};
use crate::sys::signal::{Blocked, Signals};
use crate::sys::{msg, signal, socket, terminal};
use crate::upstream::groups::Followed;
use crate::worker::messages::SlotIndex;
use crate::worker::{self, Duty, Seat, Slot};

impl Master {
    /// Forks the process of a place. A failure leaves the place vacant for a while.
    pub(super) fn fork(&mut self, worker: WorkerId, place: Place, generation: u64) -> Event {
        let Place { role, number } = place;
        let leased = self.leases(place);
        let waits = self.do_others_receive();
        if role == Role::Prober && self.probed_generation.replace(generation) != Some(generation) {
            self.cycle.config.forget_health(true);
            peers::begin_checks(generation);
        }
        let mut call = "socketpair()";
        let outcome = (|| {
            let (control, far_end) = msg::pair()?;
            call = "fork()";
            let _blocked = Blocked::new()?;
            let lane = self.lanes.take().ok_or_else(|| std::io::Error::other("too many workers live"))?;
            let worker = if role.accepts() { number as u32 } else { lanes::NO_WORKER };
            lanes::prepare(lane, worker, generation);
            match process::fork().inspect_err(|_| self.give_lane(lane))? {
                Forked::Parent { child } => Ok((child, lane, control, far_end)),
                Forked::Child => {
                    drop(control);
                    // First of all: until then a signal for this process would reach the master's socket.
                    drop(self.signals.take());
                    lanes::enter(lane);
                    let seat = Seat { waits, ..self.become_seat(place, generation, far_end, leased.clone()) };
                    // Signals stay blocked until the worker can handle them.
                    let code = self.serve(seat);
                    std::process::exit(code);
                }
            }
        })();
        match outcome {
            Ok((pid, lane, control, far_end)) => {
                log::notice!(log::process(), &(), "start {} {pid}", role.title());
                let roster = Rc::clone(&self.roster);
                let ledger = Ledger::default();
                self.workers.push(Worker {
                    id: worker,
                    pid,
                    role,
                    roster,
                    lane,
                    control,
                    far_end,
                    ledger,
                    sent: 0,
                    unsent: Default::default(),
                    news: BTreeSet::new(),
                    edited: BTreeSet::new(),
                    keyvals: Default::default(),
                    challenges: Default::default(),
                    is_full: false,
                    adopted: 0,
                    receives: !waits,
                    is_sought: false,
                    is_paused: role == Role::Keeper,
                });
                Event::Forked { worker, pid, leased }
            }
            Err(error) => {
                let what = role.title();
                let why = format!("{call} failed while spawning a {what} {}", log::Cause(&error));
                log::alert!(log::process(), &(), "{why}");
                let remedy = match error.raw_os_error() {
                    Some(nix::libc::EAGAIN) => {
                        ": raise the limit of processes (ulimit -u, pids.max of the container)"
                    }
                    Some(nix::libc::EMFILE) => ": raise the limit of open files (ulimit -n)",
                    _ => "",
                };
                Event::NotForked { worker, leased, why: format!("{why}{remedy}") }
            }
        }
    }

    /// The listeners and names that messages of this generation's workers can refer to.
    pub(super) fn roster(&self) -> Roster {
        let addresses = self.listeners().iter().map(|listen| listen.address.clone()).collect();
        let servers = self.cycle.config.followed_servers();
        let index = |index| u32::try_from(index).unwrap_or(u32::MAX);
        let name = |it: Followed| {
            let name = Name { key: it.key, group: it.group_name, is_placed: it.is_placed };
            ((index(it.group), index(it.server)), name)
        };
        let names = servers.map(name).collect();
        let is_dual_stack =
            |listen: &&Listener| socket::Make::wanted(&listen.address, &listen.options).is_dual_stack;
        let ports = self.listeners().iter().filter(is_dual_stack).filter_map(|listen| listen.address.port());
        let connections_max = self.settings().worker_connections() as u64;
        let allowed = self.cycle.config.allowed_orders();
        let mut roster = Roster::new(addresses, names, connections_max, allowed);
        roster.facts.asked_names = self.cycle.config.acme().map(Plan::asked_names).unwrap_or_default();
        roster.with_dual_stack(ports)
    }

    /// Gives back the lane of a worker that is gone.
    pub(super) fn give_lane(&mut self, lane: lanes::Lane) {
        lanes::collect(lane);
        self.lanes.give(lane);
    }

    /// `master_process off`: serves in this process.
    pub(super) fn serve_alone(&mut self) -> i32 {
        self.cycle.config.forget_health(true);
        let leased = self.leases(Place { role: Role::Worker, number: 0 });
        let prepared = msg::pair().and_then(|pair| Ok((pair, Blocked::new()?)));
        let ((_master_end, far_end), _blocked) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                let why = format!("socketpair() failed {}", log::Cause(&error));
                log::emerg!(log::process(), &(), "{why}");
                terminal::tell(format_args!("pronghorn: [emerg] {why}"));
                return 1;
            }
        };
        let starter = self.starter.take();
        // Deliver the signals received so far once more, now that the worker will handle them.
        for signal in self.signals.take().iter_mut().flat_map(Signals::take) {
            let _ = signal::send(process::pid(), signal.number);
        }
        let pid_file = self.pid_file.take();
        let paths = std::mem::take(&mut self.slots);
        let copies = paths.try_clone();
        let slots = self.seat_slots(copies);
        let leaves_terminal = false; // the starter is told here, before it serves
        let duty = Duty::Alone;
        let (number, generation, waits) = (0, 1, false);
        peers::begin_checks(generation);
        let seat = Seat { number, generation, control: far_end, slots, leased, waits, leaves_terminal, duty };
        if let Some(starter) = starter {
            starter.ready();
        }
        notify::ready();
        let code = self.serve(seat);
        paths.unlink();
        if let Some(file) = pid_file {
            file.remove(false);
        }
        code
    }

    /// In a child: keeps the descriptors that its role needs.
    fn become_seat(
        &mut self,
        Place { role, number }: Place,
        generation: u64,
        control: OwnedFd,
        leased: Vec<SlotIndex>,
    ) -> Seat {
        self.workers.clear();
        self.pending.clear();
        self.removed.clear();
        self.reading = None;
        self.certificates = Certificates::default();
        self.pid_file = None;
        self.elder = None;
        self.successor = None;
        let leaves_terminal = self.starter.take().is_some();
        self.change = None;
        self.others = OtherWorkers::default();
        let slots = std::mem::take(&mut self.slots);
        let slots = match role {
            Role::Worker | Role::Controller => self.seat_slots(slots),
            Role::Prober | Role::CacheManager | Role::Keeper => {
                drop(slots); // before they are closed below
                Vec::new()
            }
        };
        // Close everything else, wherever the master got it from: a worker starts with the descriptors on
        // this list.
        let mut keep: Vec<RawFd> = slots.iter().map(|slot| slot.fd.as_raw_fd()).collect();
        keep.push(control.as_raw_fd());
        keep.extend(log::descriptors());
        keep.extend(key_log::descriptors());
        keep.extend(crate::shm::descriptors());
        process::close_others(&keep);
        let duty = match role {
            Role::Worker => Duty::Serve,
            Role::Prober => Duty::Probe,
            Role::CacheManager => Duty::ManageCaches,
            Role::Controller => Duty::Control,
            Role::Keeper => Duty::KeepCertificates,
        };
        Seat { number, generation, control, slots, leased, waits: false, leaves_terminal, duty }
    }

    /// The list of slots that leases index: address by address, slot by slot.
    fn seat_slots(&self, mut slots: slots::Slots) -> Vec<Slot> {
        let mut list = Vec::new();
        for (listen, Listener { address, .. }) in self.listeners().iter().enumerate() {
            let Some(group) = slots.group_mut(address) else { continue };
            let lent_count = group.lent_count;
            let slot = |(index, fd)| Slot { listen, fd, is_lent: index < lent_count };
            list.extend(group.fds.drain(..).enumerate().map(slot));
        }
        list
    }

    fn serve(&mut self, seat: Seat) -> i32 {
        process::set_environment(&self.environment());
        log::format::read_zone();
        worker::run(std::mem::take(&mut self.cycle.config), seat)
    }

    /// As in nginx, the environment has only TZ and the variables that `env` lists.
    fn environment(&self) -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
        let listed = self.settings().environment.iter().map(|(name, value)| (&**name, value.as_deref()));
        let kept = |(name, value): (&str, Option<&str>)| {
            let value = value.map(Into::into).or_else(|| std::env::var_os(name))?;
            Some((name.into(), value))
        };
        [("TZ", None), ("RUST_BACKTRACE", None)].into_iter().chain(listed).filter_map(kept).collect()
    }

    /// The slots that a process accepts from. A worker: every `workers`-th of each address, but at least one; the
    /// controller: those of the control socket.
    fn leases(&self, Place { role, number }: Place) -> Vec<SlotIndex> {
        let workers = self.settings().worker_processes().max(1);
        let mut leased = Vec::new();
        let mut first = 0;
        for listen in self.listeners() {
            let count = self.slots.group(&listen.address).map_or(0, |group| group.fds.len());
            let is_mine = |slot: &usize| match role {
                Role::Worker if listen.serves.is_control() => false,
                Role::Worker => slot % workers == number || number % count == *slot,
                Role::Controller => listen.serves.is_control(),
                Role::Prober | Role::CacheManager | Role::Keeper => false,
            };
            leased.extend((0..count).filter(is_mine).map(|slot| (first + slot) as SlotIndex));
            first += count;
        }
        leased
    }

    /// The list of slots that leases index.
    pub(super) fn listed_slots(&self) -> Vec<BorrowedFd<'_>> {
        let groups = self.listeners().iter().filter_map(|listen| self.slots.group(&listen.address));
        groups.flat_map(|group| &group.fds).map(AsFd::as_fd).collect()
    }
}
