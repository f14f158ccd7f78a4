//! Watches the workers: one that makes no progress gets no new connections, and a sibling accepts those that
//! wait for it. A full worker is treated alike.
//!
//! ```text
//! moving ─no answer to a ping for 450 ms→ stuck ─answers→ moving
//!                                            └─worker_watchdog→ killed, replaced
//! starting ─worker_watchdog→ killed, replaced
//! with room ─its word in shared memory says "full"→ relieved ─the word is gone, a second later at least→ with room
//! ```
//! A worker is pinged when its heartbeat says that it has been in one turn for long, or while connections
//! wait in its queues: one that sleeps because it has nothing to do, or that has paused at its limit, is
//! never considered stuck. Every worker can write every heartbeat, so that word decides only about the ping,
//! never about the answer.
//!
//! A worker says that it is full when all its places are taken by connections that do not give way, or when
//! it has no descriptors (`worker/accept.rs`), and takes that back once a sixteenth of its places is free.
//! New connections are then steered away from it, and a sibling with room accepts those in its queues. If all
//! are full, all keep their shares. The word is a hint: a worker that lies gives its share away, or keeps one
//! that it does not serve.

use crate::master::notice::Notice;
use crate::master::rules::State;
use crate::master::supervisor::{Action, Asked, Member, Sight, Stuck, Supervisor, WorkerId};
use crate::shm::heartbeat;
use crate::worker::messages::SlotIndex;

/// Intervals between looks at the workers: normally, and while one has not answered.
const LOOK_MS: u64 = 250;
const LOOK_AGAIN_MS: u64 = 50;
/// The interval while all workers sleep; a new connection ends that at once.
const QUIET_LOOK_MS: u64 = 10_000;
/// Number of looks that must first find all workers asleep.
const QUIET_LOOKS: u32 = 4;
/// A worker that has been in one turn for this long is pinged. It is longer than turns are (5 ms), and short,
/// since only the answer counts and clients wait meanwhile.
const LONG_TURN_MS: u64 = 20;
/// A worker that has not answered for this long is stuck.
const STUCK_MS: u64 = 450;
/// The silence after which a worker is asked where it is: the answer should be there when it counts as stuck.
const LOCATED_MS: u64 = 200;
/// The shortest time for which a full worker is relieved, so that one at its limit does not turn the steering
/// on and off.
const RELIEVED_MIN_MS: u64 = 1000;

impl Supervisor {
    pub fn next_look_ms(&self) -> u64 {
        let is_asking = self.members.iter().any(|member| member.asked.is_some() && member.stuck.is_none());
        let after_ms = match is_asking {
            true => LOOK_AGAIN_MS,
            false if self.is_quiet() => QUIET_LOOK_MS,
            false => LOOK_MS,
        };
        self.looked_ms + after_ms
    }

    /// True if all workers have been asleep for a while, and no connection waits for any of them.
    pub fn is_quiet(&self) -> bool {
        self.quiet_looks >= QUIET_LOOKS
    }

    /// The slots whose queues a look at this worker includes: its own, unless it was pinged already.
    pub fn queues_to_look_at(&self, worker: WorkerId) -> &[SlotIndex] {
        let is_one = |member: &&Member| self.is_watched(member) && member.stuck.is_none();
        let member = self.member(worker).filter(is_one).filter(|member| member.asked.is_none());
        member.map_or(&[], |member| &member.leased)
    }

    fn is_watched(&self, member: &Member) -> bool {
        member.generation == self.generation && member.state == State::Ready
    }

    fn note_signs(&mut self, sights: &[(WorkerId, Sight)]) {
        let mut signs: u64 = 0;
        let mut is_quiet = self.switch.is_none();
        for (worker, Sight { beat, .. }) in sights {
            // A prober is at work as long as it lives, and clients do not wait for it.
            let Some(member) = self.member(*worker).filter(|it| it.place.role.accepts()) else { continue };
            signs =
                signs.wrapping_mul(31).wrapping_add(beat.since_ms).wrapping_add(u64::from(beat.pid) << 20);
            let is_asleep = beat.state == heartbeat::State::Asleep;
            is_quiet &=
                is_asleep && member.asked.is_none() && member.stuck.is_none() && member.full.is_none();
        }
        is_quiet &= std::mem::replace(&mut self.last_signs, signs) == signs;
        self.quiet_looks = if is_quiet { self.quiet_looks.saturating_add(1) } else { 0 };
    }

    /// Takes one look at every worker.
    pub(super) fn look(&mut self, sights: &[(WorkerId, Sight)], now_ms: u64) {
        self.looked_ms = now_ms;
        self.note_signs(sights);
        let limit_ms = self.limits.watchdog_ms;
        for (worker, sight) in sights {
            let Some(index) = self.index(*worker) else { continue };
            let member = &self.members[index];
            let (pid, role) = (member.pid, member.place.role);
            if member.state == State::Starting && limit_ms > 0 && now_ms >= member.born_ms + limit_ms {
                // A change of generations waits for it, and a reload for that.
                self.act(Action::Tell(Notice::NeverStarted { pid, role, limit_ms }));
                self.act(Action::Kill(*worker));
            }
            let member = &self.members[index];
            if !self.is_watched(member) {
                continue;
            }
            match &member.stuck {
                None => {
                    if let Some(silent_ms) = self.silence(index, sight, now_ms) {
                        self.rescue(index, sight, now_ms, silent_ms);
                    } else {
                        self.relieve(index, sight, now_ms);
                    }
                }
                Some(stuck) if limit_ms > 0 && now_ms - stuck.since_ms >= limit_ms => {
                    self.act(Action::Tell(Notice::KilledStuck { pid, role, limit_ms }));
                    self.act(Action::Kill(*worker));
                }
                Some(_) => {
                    self.ask(index, now_ms);
                    self.assign_helper(index);
                }
            }
        }
    }

    /// Pings a worker, or tries again if there was no room for the ping.
    fn ask(&mut self, index: usize, now_ms: u64) {
        let member = &mut self.members[index];
        let (since_ms, is_located) = match member.asked {
            None => (now_ms, false),
            Some(Asked { is_unsent: true, since_ms, is_located }) => (since_ms, is_located),
            Some(_) => return,
        };
        member.asked = Some(Asked { since_ms, is_unsent: false, is_located });
        let worker = member.id;
        self.act(Action::Ping(worker));
    }

    /// The time for which the worker has been silent, once that is too long.
    fn silence(&mut self, index: usize, sight: &Sight, now_ms: u64) -> Option<u64> {
        if let Some(Asked { since_ms, .. }) = self.members[index].asked {
            // A full socket means that the worker does not read: that counts as silence too.
            self.ask(index, now_ms);
            let silent_ms = now_ms.saturating_sub(since_ms);
            let member = &mut self.members[index];
            let (worker, asked) = (member.id, member.asked.as_mut().filter(|asked| !asked.is_located));
            if let Some(asked) = asked.filter(|_| silent_ms >= LOCATED_MS) {
                asked.is_located = true;
                self.act(Action::Locate(worker));
            }
            return Some(silent_ms).filter(|silent_ms| *silent_ms >= STUCK_MS);
        }
        let beat = &sight.beat;
        let is_long_awake =
            beat.state == heartbeat::State::Awake && now_ms.saturating_sub(beat.since_ms) >= LONG_TURN_MS;
        if is_long_awake || sight.has_queue {
            self.ask(index, now_ms);
        }
        None
    }

    fn rescue(&mut self, index: usize, sight: &Sight, now_ms: u64, silent_ms: u64) {
        if let Some(full) = self.members[index].full.take() {
            self.release_helper(full);
        }
        let member = &mut self.members[index];
        member.stuck = Some(Stuck { since_ms: now_ms - silent_ms, helper: None });
        let (pid, place, beat) = (member.pid, member.place, sight.beat);
        self.act(Action::Tell(Notice::Stuck { pid, place, silent_ms, beat }));
        if place.role.accepts() {
            self.act(Action::Steer);
            self.assign_helper(index);
        }
    }

    /// Lets a sibling accept from the slots of a stuck worker, unless a living one does already.
    fn assign_helper(&mut self, index: usize) {
        let Some(Stuck { helper, .. }) = &self.members[index].stuck else { return };
        let is_helped = helper.as_ref().is_some_and(|loan| self.can_lend(loan.helper));
        if is_helped || !self.members[index].place.role.accepts() {
            return;
        }
        let leased = self.members[index].leased.clone();
        let helper = self.lend(&leased);
        if let Some(stuck) = &mut self.members[index].stuck {
            stuck.helper = helper;
        }
    }

    /// Handles the answer to a ping.
    pub(super) fn has_moved(&mut self, worker: WorkerId, now_ms: u64) {
        let Some(member) = self.member_mut(worker) else { return };
        member.asked = None;
        member.left_stuck = false;
        let Some(stuck) = member.stuck.take() else { return };
        let (pid, role) = (member.pid, member.place.role);
        let after_ms = now_ms.saturating_sub(stuck.since_ms);
        self.act(Action::Tell(Notice::MovesAgain { pid, role, after_ms }));
        self.release_helper(stuck);
        self.act(Action::Steer);
    }

    /// Checks whether a worker that makes progress has room.
    fn relieve(&mut self, index: usize, sight: &Sight, now_ms: u64) {
        if self.limits.worker_count < 2 || !self.members[index].place.role.accepts() {
            return; // there is no sibling to take them
        }
        let member = &mut self.members[index];
        let (pid, number, is_full) = (member.pid, member.place.number, sight.beat.is_full);
        match &member.full {
            None if is_full => {
                member.full = Some(Stuck { since_ms: now_ms, helper: None });
                self.act(Action::Tell(Notice::Full { pid, number }));
                self.act(Action::Steer);
            }
            Some(full) if !is_full && now_ms >= full.since_ms + RELIEVED_MIN_MS => {
                if let Some(full) = member.full.take() {
                    self.release_helper(full);
                }
                self.act(Action::Tell(Notice::HasRoom { pid }));
                self.act(Action::Steer);
            }
            _ => {}
        }
        self.assign_relief(index);
    }

    /// Lets a sibling with room accept from the slots of a full worker, unless one does already.
    fn assign_relief(&mut self, index: usize) {
        let Some(full) = &mut self.members[index].full else { return };
        let helper = full.helper.take();
        let generation = self.generation;
        let has_room = |member: &Member| member.can_take(generation) && member.full.is_none();
        if let Some(loan) = helper {
            if self.member(loan.helper).is_some_and(has_room) {
                if let Some(full) = &mut self.members[index].full {
                    full.helper = Some(loan);
                }
                return;
            }
            self.take_back(&loan);
        }
        if self.members.iter().any(has_room) {
            let leased = self.members[index].leased.clone();
            let helper = self.lend(&leased);
            if let Some(full) = &mut self.members[index].full {
                full.helper = helper;
            }
        }
    }
}
