//! The executor: one loop per thread, tasks in a slab, ready tasks in a queue.
//!
//! A turn polls the ready tasks, including those that become ready meanwhile, and then asks epoll. It polls
//! at most 64 times, and starts no poll after it has lasted for [`TURN_US`]. Each poll has a budget of work,
//! which I/O operations and long computations spend. A task that has spent it wakes itself, and a task that
//! wakes itself is polled again only in the next turn, after everything that epoll has reported. So one task
//! never holds a turn for longer than its budget and one step of work.
//!
//! No cell of the runtime is borrowed while a future is polled or dropped.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Context;

use crate::runtime::reactor::Reactor;
use crate::runtime::timer::Wheel;
use crate::runtime::waker::{LOOP_ID_MAX, TaskId};
use crate::sys::clock;
use crate::sys::epoll::Epoll;
use crate::sys::event::Event;

/// Maximum number of polls between two calls of epoll_wait.
const POLLS_PER_TURN: usize = 64;
/// Budget of one poll, in units of work of about a microsecond each.
pub const POLL_WORK: u32 = 1024;
/// Charge for an I/O operation: a poll may do 32.
const IO_WORK: u32 = POLL_WORK / 32;
/// Work after which a turn reads the clock. Turns that do less are short anyway, and save the call.
const CLOCK_WORK: u32 = POLL_WORK;
/// A turn that has lasted this long, in microseconds, starts no further poll: it is time to ask epoll.
const TURN_US: u64 = 5_000;
/// How long no descriptor has had an event in a loop that is at rest, in milliseconds (see [`at_rest`]).
pub const REST_MS: u64 = 500;
/// A turn this long is reported every time, not only when it is the longest so far (see [`set_turn_hook`]).
pub const LONG_TURN_US: u64 = 250_000;
/// The eventfd's token in epoll.
pub(super) const REMOTE_TOKEN: u64 = u64::MAX;

type BoxedFuture = Pin<Box<dyn Future<Output = ()>>>;

struct Task {
    /// `None` while the task is being polled, and in a free slot.
    future: Option<BoxedFuture>,
    generation: u32,
    is_live: bool,
    is_queued: bool,
}

#[derive(Default)]
struct Tasks {
    slab: Vec<Task>,
    free: Vec<u32>,
}

/// Wakes that come from other threads.
pub(super) struct Remote {
    loop_id: u64,
    woken: Mutex<Vec<TaskId>>,
    event: Event,
}

static REMOTES: Mutex<Vec<Arc<Remote>>> = Mutex::new(Vec::new());

impl Remote {
    /// Gives a new loop an id that no living loop has, and registers it so that other threads can find it.
    /// The id may have been used by an earlier loop; a waker left over from that one causes a spurious poll,
    /// as any stale waker does.
    fn enlist(event: Event) -> io::Result<Arc<Self>> {
        let mut all = REMOTES.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = |id: &u64| all.iter().all(|remote| remote.loop_id != *id);
        let Some(loop_id) = (1..=LOOP_ID_MAX).find(is_free) else {
            return Err(io::Error::other(format!("more than {LOOP_ID_MAX} event loops in one process")));
        };
        let remote = Arc::new(Self { loop_id, woken: Mutex::new(Vec::new()), event });
        all.push(remote.clone());
        Ok(remote)
    }
}

/// The state of one thread's loop.
pub(super) struct Loop {
    id: u64,
    tasks: RefCell<Tasks>,
    ready: RefCell<VecDeque<TaskId>>,
    /// Tasks that woke themselves while they were being polled: ready in the next turn.
    later: RefCell<Vec<TaskId>>,
    pub(super) reactor: RefCell<Reactor>,
    pub(super) wheel: RefCell<Wheel>,
    epoll: RefCell<Epoll>,
    now_ms: Cell<u64>,
    now_us: Cell<u64>,
    /// Work left in the budget of the current poll.
    budget: Cell<u32>,
    /// Turns longer than this are reported to the hook: the longest so far, at most [`LONG_TURN_US`].
    notable_us: Cell<u64>,
    live: Cell<usize>,
    /// The task of `block_on`, as a word.
    main: Cell<u64>,
    /// The future of `block_on` has finished: wait for nothing more.
    is_done: Cell<bool>,
    /// Sockets that are dropped stay open: see [`leave_sockets_open`].
    leaves_open: Cell<bool>,
    last_event: Cell<u64>,
    remote: Arc<Remote>,
    /// Empty between two waits; kept for its capacity.
    woken: Cell<Vec<(u64, u64)>>,
    turn_end: RefCell<Vec<fn()>>,
    asleep: Cell<Option<fn()>>,
    awake: Cell<Option<fn()>>,
    at_rest: Cell<Option<fn()>>,
    /// When the loop is at rest, if nothing happens until then; `u64::MAX`: it is, or nobody wants to know.
    rest_at_ms: Cell<u64>,
    on_turn: Cell<Option<fn(u64)>>,
    on_panic: Cell<Option<fn(&str)>>,
    /// The time of a test that skips its waits ([`skip_waits`]).
    #[cfg(test)]
    virtual_us: Cell<Option<u64>>,
}

scoped_tls::scoped_thread_local! {
    /// This thread's loop, set while it runs.
    static CURRENT: Loop
}

/// Calls `f` with this thread's loop. Panics outside of [`Runtime::block_on`].
#[inline]
pub(super) fn with<R>(f: impl FnOnce(&Loop) -> R) -> R {
    CURRENT.with(f)
}

/// Like [`with`], but does nothing when no loop runs: for destructors.
#[inline]
pub(super) fn try_with(f: impl FnOnce(&Loop)) {
    if CURRENT.is_set() {
        CURRENT.with(f);
    }
}

/// An event loop with its tasks, timers and registered descriptors; a thread runs at most one at a time.
///
/// A worker creates it and calls [`Runtime::block_on`] once. The free functions of this module act on the
/// loop that the current thread runs. A task that panics ends alone (see [`on_panic`]).
pub struct Runtime {
    inner: Box<Loop>,
}

impl Runtime {
    /// Creates epoll and the eventfd through which other threads wake the loop.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let event = Event::new()?;
        epoll.add_level(event.as_fd(), REMOTE_TOKEN)?;
        let remote = Remote::enlist(event)?;
        let id = remote.loop_id;
        let now_us = clock::monotonic_us();
        let now = now_us / 1000;
        let inner = Loop {
            id,
            tasks: RefCell::default(),
            ready: RefCell::default(),
            later: RefCell::default(),
            reactor: RefCell::default(),
            wheel: RefCell::new(Wheel::new(now)),
            epoll: RefCell::new(epoll),
            now_ms: Cell::new(now),
            now_us: Cell::new(now_us),
            budget: Cell::new(POLL_WORK),
            notable_us: Cell::new(0),
            live: Cell::new(0),
            main: Cell::new(u64::MAX),
            is_done: Cell::new(false),
            leaves_open: Cell::new(false),
            last_event: Cell::new(0),
            remote,
            woken: Cell::default(),
            turn_end: RefCell::default(),
            asleep: Cell::new(None),
            awake: Cell::new(None),
            at_rest: Cell::new(None),
            rest_at_ms: Cell::new(u64::MAX),
            on_turn: Cell::new(None),
            on_panic: Cell::new(None),
            #[cfg(test)]
            virtual_us: Cell::new(None),
        };
        Ok(Self { inner: Box::new(inner) })
    }

    /// Runs the loop until `future` is ready. Unfinished tasks are kept for the next call, or dropped with
    /// the runtime. Whenever `future` has been woken it is polled before all other tasks: a worker obeys at once, however
    /// many connections have something to do.
    ///
    /// Panics when `future` panics, and when this thread already runs a loop.
    pub fn block_on<F: Future + 'static>(&mut self, future: F) -> F::Output
    where
        F::Output: 'static,
    {
        assert!(!CURRENT.is_set(), "this thread runs a loop already");
        let output = Rc::new(Cell::new(None));
        let sink = output.clone();
        self.inner.is_done.set(false);
        let main = self.inner.spawn(async move {
            let outcome = CatchPanic(Box::pin(future)).await;
            sink.set(Some(outcome));
            with(|current| current.is_done.set(true));
        });
        self.inner.main.set(main.bits());
        self.inner.now_us.set(self.inner.clock_us()); // the first turn begins here
        CURRENT.set(&self.inner, || {
            while !self.inner.is_done.get() {
                self.inner.turn();
            }
        });
        let outcome = output.take().expect("set before is_done");
        outcome.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // A future may spawn or wake tasks while it is dropped: repeat until nothing is left.
        CURRENT.set(&self.inner, || {
            loop {
                let mut tasks = self.inner.tasks.borrow_mut();
                let left: Vec<BoxedFuture> =
                    tasks.slab.iter_mut().filter_map(|task| task.future.take()).collect();
                drop(tasks);
                if left.is_empty() {
                    break;
                }
                drop(left);
            }
        });
        *self.inner.tasks.borrow_mut() = Tasks::default();
        REMOTES
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|remote| remote.loop_id != self.inner.id);
    }
}

/// Turns a panic of the inner future into an error value.
struct CatchPanic<F>(Pin<Box<F>>);

impl<F: Future> Future for CatchPanic<F> {
    type Output = Result<F::Output, Box<dyn Any + Send>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> std::task::Poll<Self::Output> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => std::task::Poll::Ready(Err(panic)),
        }
    }
}

impl Loop {
    fn spawn(&self, future: impl Future<Output = ()> + 'static) -> TaskId {
        let id = {
            let mut tasks = self.tasks.borrow_mut();
            let future: BoxedFuture = Box::pin(future);
            match tasks.free.pop() {
                Some(index) => {
                    let task = &mut tasks.slab[index as usize];
                    (task.future, task.is_live, task.is_queued) = (Some(future), true, true);
                    TaskId::new(self.id, task.generation, index)
                }
                None => {
                    let index = tasks.slab.len() as u32;
                    tasks.slab.push(Task {
                        future: Some(future),
                        generation: 0,
                        is_live: true,
                        is_queued: true,
                    });
                    TaskId::new(self.id, 0, index)
                }
            }
        };
        self.live.set(self.live.get() + 1);
        self.ready.borrow_mut().push_back(id);
        id
    }

    fn wake(&self, id: TaskId) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(task) = tasks.slab.get_mut(id.index()) else { return };
        let same = TaskId::new(self.id, task.generation, id.index() as u32) == id;
        if same && task.is_live && !task.is_queued {
            task.is_queued = true;
            if task.future.is_none() {
                self.later.borrow_mut().push(id); // it woke itself: the other tasks and epoll come first
            } else if id.bits() == self.main.get() {
                self.ready.borrow_mut().push_front(id);
            } else {
                self.ready.borrow_mut().push_back(id);
            }
        }
    }

    /// Polls the ready tasks, then asks epoll; waits there only if there is nothing left to do.
    fn turn(&self) {
        let mut worked = 0;
        for _ in 0..POLLS_PER_TURN {
            let Some(id) = self.ready.borrow_mut().pop_front() else { break };
            self.poll(id);
            worked += POLL_WORK - self.budget.get();
            if worked >= CLOCK_WORK {
                worked = 0;
                if self.clock_us().saturating_sub(self.now_us.get()) >= TURN_US {
                    break;
                }
            }
        }
        // Iterate by index: a hook may add another one, and copying the list would allocate every turn.
        for index in 0.. {
            let Some(hook) = self.turn_end.borrow().get(index).copied() else { break };
            hook();
        }
        let has_later = !self.later.borrow().is_empty();
        let is_idle = !has_later && self.ready.borrow().is_empty() && !self.is_done.get();
        self.wait(is_idle);
        if has_later {
            self.ready.borrow_mut().extend(self.later.borrow_mut().drain(..));
        }
    }

    fn poll(&self, id: TaskId) {
        let index = id.index();
        let future = {
            let mut tasks = self.tasks.borrow_mut();
            let Some(task) = tasks.slab.get_mut(index) else { return };
            if !task.is_live || TaskId::new(self.id, task.generation, index as u32) != id {
                return; // it was woken while it ended; the slot may belong to another task by now
            }
            task.is_queued = false;
            task.future.take()
        };
        let Some(mut future) = future else { return };
        self.budget.set(POLL_WORK);
        let waker = id.waker();
        let polled =
            catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut Context::from_waker(&waker))));
        if matches!(polled, Ok(std::task::Poll::Pending)) {
            if let Some(task) = self.tasks.borrow_mut().slab.get_mut(index) {
                task.future = Some(future);
            }
            return;
        }
        // A destructor that panics must not take the loop down.
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(future)));
        for panic in [polled.err(), dropped.err()].into_iter().flatten() {
            if let Some(report) = self.on_panic.get() {
                report(panic_text(&*panic));
            }
        }
        self.live.set(self.live.get() - 1);
        let mut tasks = self.tasks.borrow_mut();
        let task = &mut tasks.slab[index];
        (task.is_live, task.is_queued, task.generation) =
            (false, false, task.generation.wrapping_add(1) & 0xF_FFFF);
        tasks.free.push(index as u32);
    }

    fn wait(&self, is_idle: bool) {
        let timeout = if is_idle {
            #[cfg(test)]
            self.skip_wait();
            let now_us = self.clock_us();
            self.measure(now_us);
            self.next_ms().map(|at| at.saturating_sub(now_us / 1000))
        } else {
            Some(0)
        };
        if timeout != Some(0)
            && let Some(asleep) = self.asleep.get()
        {
            asleep();
        }
        let mut remote = false;
        // Collect the waiters first: waking them needs the cells that are borrowed while the events are read.
        let mut woken = self.woken.take();
        let outcome = self.epoll.borrow_mut().wait(timeout, |event| {
            if event.token == REMOTE_TOKEN {
                remote = true;
            } else {
                self.last_event.set(event.token);
                woken.push(self.reactor.borrow_mut().apply(event));
            }
        });
        let now_us = self.clock_us();
        if !is_idle {
            self.measure(now_us);
        }
        self.now_us.set(now_us);
        self.now_ms.set(now_us / 1000);
        // Also after a wait that could not block: a busy loop that keeps asking epoll is not stuck.
        if let Some(awake) = self.awake.get() {
            awake();
        }
        if let Err(error) = outcome {
            // EBADF or EINVAL: our own descriptor is broken, so nothing can be served any more.
            panic!("epoll_wait() failed: {error}");
        }
        if woken.is_empty() {
            self.look_for_rest();
        } else if self.at_rest.get().is_some() {
            self.rest_at_ms.set(now_us / 1000 + REST_MS);
        }
        for (reader, writer) in woken.drain(..) {
            self.wake_bits(reader);
            self.wake_bits(writer);
        }
        self.woken.set(woken);
        if remote {
            self.remote.event.clear();
            let list = mem::take(&mut *self.remote.woken.lock().unwrap_or_else(PoisonError::into_inner));
            for id in list {
                self.wake(id);
            }
        }
        let now = self.now_ms.get();
        self.wheel.borrow_mut().advance(now, |waiter| self.wake_bits(waiter));
    }

    /// When the loop has something to do even if no event comes; `None`: never.
    #[inline]
    fn next_ms(&self) -> Option<u64> {
        let timer = self.wheel.borrow().next_ms().unwrap_or(u64::MAX);
        Some(timer.min(self.rest_at_ms.get())).filter(|at| *at != u64::MAX)
    }

    /// Calls the hook once if no descriptor has had an event for [`REST_MS`].
    fn look_for_rest(&self) {
        if self.now_ms.get() >= self.rest_at_ms.get() {
            self.rest_at_ms.set(u64::MAX);
            if let Some(at_rest) = self.at_rest.get() {
                at_rest();
            }
        }
    }

    #[inline]
    fn clock_us(&self) -> u64 {
        #[cfg(test)]
        if let Some(now_us) = self.virtual_us.get() {
            return now_us;
        }
        clock::monotonic_us()
    }

    /// Jumps to the next timer if waits are skipped. Called when there is nothing else to do.
    #[cfg(test)]
    fn skip_wait(&self) {
        if let (Some(now_us), Some(at_ms)) = (self.virtual_us.get(), self.next_ms()) {
            self.virtual_us.set(Some(now_us.max(at_ms * 1000)));
        }
    }

    /// Measures the turn that began at the loop's `now_us` and has just ended.
    #[inline]
    fn measure(&self, ended_us: u64) {
        let took_us = ended_us.saturating_sub(self.now_us.get());
        if took_us > self.notable_us.get() {
            self.notable(took_us);
        }
    }

    #[cold]
    fn notable(&self, took_us: u64) {
        self.notable_us.set(took_us.min(LONG_TURN_US - 1));
        if let Some(hook) = self.on_turn.get() {
            hook(took_us);
        }
    }

    pub(super) fn wake_bits(&self, bits: u64) {
        if bits != u64::MAX {
            self.wake(TaskId::from_bits(bits));
        }
    }

    #[inline]
    pub(super) fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    pub(super) fn leaves_open(&self) -> bool {
        self.leaves_open.get()
    }

    pub(super) fn epoll(&self) -> std::cell::Ref<'_, Epoll> {
        self.epoll.borrow()
    }

    /// Charges one I/O operation to the task being polled. False if its budget is spent: it must yield.
    pub(super) fn spend(&self) -> bool {
        match self.budget.get() {
            0 => false,
            left => {
                self.budget.set(left.saturating_sub(IO_WORK));
                true
            }
        }
    }

    /// Charges work that was done. False if the budget is now spent.
    pub(super) fn charge(&self, work: u32) -> bool {
        let left = self.budget.get().saturating_sub(work);
        self.budget.set(left);
        left > 0
    }
}

/// Makes a task ready; from another thread by way of its loop's eventfd. Ignored if the task has ended.
pub(super) fn wake(id: TaskId) {
    if CURRENT.is_set() && with(|current| current.id == id.loop_id()) {
        return with(|current| current.wake(id));
    }
    let remotes = REMOTES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(remote) = remotes.iter().find(|remote| remote.loop_id == id.loop_id()) {
        remote.woken.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        remote.event.signal();
    }
}

/// True if this thread runs a loop.
pub fn is_running() -> bool {
    CURRENT.is_set()
}

/// Adds a task to this thread's loop.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    with(|current| {
        current.spawn(future);
    });
}

/// Number of tasks that have not ended.
pub fn task_count() -> usize {
    with(|current| current.live.get())
}

/// Polls every task once, so that each notices changes outside its own I/O.
pub fn wake_all() {
    with(|current| {
        let ids: Vec<TaskId> = {
            let tasks = current.tasks.borrow();
            let live = tasks.slab.iter().enumerate().filter(|(_, task)| task.is_live);
            live.map(|(index, task)| TaskId::new(current.id, task.generation, index as u32)).collect()
        };
        for id in ids {
            current.wake(id);
        }
    });
}

/// Leaves sockets open when they are dropped from now on, in a process that is about to end.
///
/// Its end closes them all, which costs less than closing each, and which no signal can interrupt. What the tasks have told
/// the log can be written before, so that a client that sees the end finds its connection there.
pub fn leave_sockets_open() {
    with(|current| current.leaves_open.set(true));
}

/// Milliseconds of the monotonic clock, read once per turn.
pub fn now_ms() -> u64 {
    with(|current| current.now_ms.get())
}

/// Microseconds of the same clock, read at the same moment.
pub fn now_us() -> u64 {
    with(|current| current.now_us.get())
}

/// The token of the last event: it helps to find out where a worker is stuck.
pub fn last_event() -> u64 {
    with(|current| current.last_event.get())
}

/// Stops this loop's clock, which from now on jumps to the next timer when there is nothing else to do: a test of an
/// hour's timeout takes no time, and a slow machine changes nothing. Only for tests that wait for no other thread or
/// process: the clock would not wait for it.
#[cfg(test)]
pub fn skip_waits() {
    with(|current| current.virtual_us.set(Some(current.clock_us())));
}

/// Calls `hook` at the end of every turn, before epoll is asked.
pub fn at_turn_end(hook: fn()) {
    with(|current| current.turn_end.borrow_mut().push(hook));
}

/// Calls `asleep` before a wait that may block, and `awake` after every wait.
pub fn set_wait_hooks(asleep: fn(), awake: fn()) {
    with(|current| {
        current.asleep.set(Some(asleep));
        current.awake.set(Some(awake));
    });
}

/// Calls `hook` once whenever no descriptor has had an event for [`REST_MS`]: memory that was kept for more of the same
/// can be given back. Each rest costs one more turn of the loop.
pub fn at_rest(hook: fn()) {
    with(|current| current.at_rest.set(Some(hook)));
}

/// Calls `hook` with the duration in microseconds of each turn that was longer than all before it, and of
/// each that took at least [`LONG_TURN_US`]. A turn lasts from one return of epoll_wait to the next call.
pub fn set_turn_hook(hook: fn(u64)) {
    with(|current| {
        current.notable_us.set(0);
        current.on_turn.set(Some(hook));
    });
}

/// Calls `hook` with the message when a task panics. Only that task ends.
pub fn on_panic(hook: fn(&str)) {
    with(|current| current.on_panic.set(Some(hook)));
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Io, sleep};

    /// A task's word has room for 4,095 loop ids; over its life a process may create more loops than that.
    #[test]
    fn ids_of_loops_are_given_again() {
        for _ in 0..=LOOP_ID_MAX {
            let mut runtime = Runtime::new().expect("epoll and eventfd");
            assert!((1..=LOOP_ID_MAX).contains(&runtime.inner.id));
            assert_eq!(runtime.block_on(async { 7 }), 7);
        }
    }

    #[test]
    fn the_main_future_comes_before_tasks_that_were_ready_earlier() {
        let (polled, polled_tasks) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let main: Rc<RefCell<Option<std::task::Waker>>> = Rc::default();
        let (count, waker, tasks) = (polled.clone(), main.clone(), polled_tasks.clone());
        let mut runtime = Runtime::new().expect("epoll and eventfd");
        let before = runtime.block_on(async move {
            for _ in 0..1000 {
                let (waker, tasks) = (waker.clone(), tasks.clone());
                spawn(async move {
                    tasks.set(tasks.get() + 1);
                    // The first one wakes it, when all others are ready.
                    let main = waker.take();
                    main.into_iter().for_each(std::task::Waker::wake);
                });
            }
            std::future::poll_fn(|cx| {
                count.set(count.get() + 1);
                *waker.borrow_mut() = Some(cx.waker().clone());
                if count.get() == 2 { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
            })
            .await;
            tasks.get()
        });
        assert_eq!((polled.get(), before), (2, 1));
    }

    #[test]
    fn a_loop_is_at_rest_once_after_each_time_of_events() {
        thread_local! {
            static RESTS: Cell<u32> = const { Cell::new(0) };
        }
        let mut runtime = Runtime::new().expect("epoll and eventfd");
        runtime.block_on(async {
            skip_waits();
            at_rest(|| RESTS.set(RESTS.get() + 1));
            sleep(10 * REST_MS).await;
            assert_eq!(RESTS.get(), 0, "it had nothing to do yet");
            let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("two sockets");
            let ours = Io::register(ours.into()).expect("a socket");
            for rests in 1..=3 {
                std::io::Write::write_all(&mut &theirs, b"x").expect("room");
                ours.read(&mut [0; 8]).await.expect("a byte");
                sleep(REST_MS - 1).await;
                assert_eq!(RESTS.get(), rests - 1);
                sleep(10 * REST_MS).await;
                assert_eq!(RESTS.get(), rests);
            }
        });
    }

    #[test]
    fn loops_that_live_at_once_have_different_ids() {
        let runtimes: Vec<Runtime> = (0..16).map(|_| Runtime::new().expect("epoll and eventfd")).collect();
        let mut ids: Vec<u64> = runtimes.iter().map(|runtime| runtime.inner.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 16);
    }
}
