//! A small thread pool for work that blocks or takes long: files that are not in memory, the system's
//! resolver, password hashes, slow content codings, images.
//!
//! Each kind of work has its own lane, with its own queue and threads, so that a flood of passwords holds up
//! only passwords. Threads start on first use, so the master never has any. A job whose waiter has gone away
//! before its turn is skipped, and the queue is swept of such jobs. Waking a task from another thread costs
//! about 10 µs, so this is not for the data path.

use std::any::Any;
use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::sys::process;

/// The kinds of work; none waits for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Files and directories, which a disk or a network file system may delay.
    Files,
    /// Name lookups by the system's resolver.
    Names,
    /// Password checks, which are slow on purpose.
    Passwords,
    /// Steps of content codings that would make a turn of the loop too long.
    Codings,
    /// Changes of whole directory trees, which may take minutes.
    Trees,
    /// Images that are decoded, which takes up to seconds: their thread gives way to the loop.
    Images,
    /// Documents about all that runs, which take long and may wait: their thread gives way to the loop.
    Documents,
}

/// Maximum number of names waiting for the system's resolver, which two threads ask.
pub const NAMES_WAITING_MAX: usize = 64;
/// Maximum number of passwords waiting: about four seconds of bcrypt at cost 12.
pub const PASSWORDS_WAITING_MAX: usize = 16;

const STACK_BYTES: usize = 256 * 1024;
/// Encoders of images have their tables on the stack. Only what is used takes memory.
const IMAGE_STACK_BYTES: usize = 8 * 1024 * 1024;

impl Lane {
    fn pool(self) -> &'static Pool {
        static FILES: Pool = Pool::new(4, usize::MAX);
        static NAMES: Pool = Pool::new(2, NAMES_WAITING_MAX);
        static PASSWORDS: Pool = Pool::new(1, PASSWORDS_WAITING_MAX);
        static CODINGS: Pool = Pool::new(1, usize::MAX);
        static TREES: Pool = Pool::new(2, usize::MAX);
        static IMAGES: Pool = Pool::with(1, usize::MAX, true, IMAGE_STACK_BYTES);
        static DOCUMENTS: Pool = Pool::with(1, usize::MAX, true, STACK_BYTES);
        match self {
            Self::Files => &FILES,
            Self::Names => &NAMES,
            Self::Passwords => &PASSWORDS,
            Self::Codings => &CODINGS,
            Self::Trees => &TREES,
            Self::Images => &IMAGES,
            Self::Documents => &DOCUMENTS,
        }
    }

    /// True when more jobs wait than the lane has threads: a new one will not begin soon.
    pub fn is_crowded(self) -> bool {
        let pool = self.pool();
        lock(&pool.queue).waiting() > pool.threads_max
    }
}

/// The queue and the threads of one lane.
struct Pool {
    queue: Mutex<Queue>,
    work: Condvar,
    threads_max: usize,
    /// Maximum number of waiting jobs. A lane without one is used only by connections, whose number is
    /// limited.
    waiting_max: usize,
    /// Its threads run when the others of the process have nothing to do.
    gives_way: bool,
    stack_bytes: usize,
}

struct Queue {
    jobs: VecDeque<Arc<dyn Job>>,
    threads: usize,
    idle: usize,
    /// Queued jobs whose waiter has gone away, less those that a thread has just popped and skipped.
    abandoned: isize,
}

impl Queue {
    /// Queued jobs that will be run.
    fn waiting(&self) -> usize {
        self.jobs.len().saturating_add_signed(-self.abandoned)
    }
}

/// The lane's queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// Runs `work` on a thread of the lane, or at once on this thread when no thread can be started.
///
/// Dropping the future cancels work that has not begun; the result of work that has begun is discarded. A
/// panic in the work resumes in the task that awaits it. Use it for lanes without a limit, or where the
/// callers are few.
pub fn run<T: Send + 'static>(lane: Lane, work: impl FnOnce() -> T + Send + 'static) -> Waiting<T> {
    lane.pool().submit(Box::new(work))
}

/// Like [`run`], for work that clients can trigger. Fails when the lane's queue is full.
pub fn try_run<T: Send + 'static>(
    lane: Lane,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<Waiting<T>, Busy> {
    let pool = lane.pool();
    let is_full = lock(&pool.queue).waiting() >= pool.waiting_max;
    if is_full { Err(Busy) } else { Ok(pool.submit(Box::new(work))) }
}

/// Queues work whose result is not needed.
pub fn detach(lane: Lane, work: impl FnOnce() + Send + 'static) {
    run(lane, work).is_detached = true;
}

/// A job, with the type of its result erased.
trait Job: Send + Sync {
    /// Does the work; false if its waiter had gone away, so that nothing was done.
    fn run(&self) -> bool;
    fn is_waiting(&self) -> bool;
}

type Work<T> = Box<dyn FnOnce() -> T + Send>;

enum State<T> {
    Waiting {
        work: Work<T>,
        waker: Option<Waker>,
    },
    Running(Option<Waker>),
    Done(T),
    Panicked(Box<dyn Any + Send>),
    /// The result was taken, or the waiter has gone away.
    Over,
}

struct Slot<T>(Mutex<State<T>>);

impl<T: Send> Job for Slot<T> {
    fn run(&self) -> bool {
        let mut state = lock(&self.0);
        let work = match std::mem::replace(&mut *state, State::Over) {
            State::Waiting { work, waker } => {
                *state = State::Running(waker);
                work
            }
            other => {
                *state = other;
                return false;
            }
        };
        drop(state);
        let outcome = match catch_unwind(AssertUnwindSafe(work)) {
            Ok(value) => State::Done(value),
            Err(panic) => State::Panicked(panic),
        };
        let mut state = lock(&self.0);
        if let State::Running(waker) = &mut *state {
            let waker = waker.take();
            *state = outcome;
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        } else {
            drop(state); // a result may have a destructor of its own: run it unlocked
            drop(outcome);
        }
        true
    }

    fn is_waiting(&self) -> bool {
        matches!(*lock(&self.0), State::Waiting { .. })
    }
}

/// The result of a job: a future, ready when the job is done.
pub struct Waiting<T> {
    slot: Arc<Slot<T>>,
    pool: &'static Pool,
    /// Dropping it does not cancel the work.
    is_detached: bool,
}

impl<T> Future for Waiting<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut state = lock(&self.slot.0);
        if let State::Waiting { waker, .. } | State::Running(waker) = &mut *state {
            *waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        match std::mem::replace(&mut *state, State::Over) {
            State::Done(value) => Poll::Ready(value),
            State::Panicked(panic) => resume_unwind(panic),
            State::Waiting { .. } | State::Running(_) | State::Over => Poll::Pending, // polled again after completion
        }
    }
}

impl<T> Drop for Waiting<T> {
    fn drop(&mut self) {
        if self.is_detached {
            return;
        }
        let state = std::mem::replace(&mut *lock(&self.slot.0), State::Over);
        if matches!(state, State::Waiting { .. }) {
            self.pool.abandon();
        }
        drop(state); // unlocked: it owns the work or its result
    }
}

impl Pool {
    const fn new(threads_max: usize, waiting_max: usize) -> Self {
        Self::with(threads_max, waiting_max, false, STACK_BYTES)
    }

    const fn with(threads_max: usize, waiting_max: usize, gives_way: bool, stack_bytes: usize) -> Self {
        let queue = Mutex::new(Queue { jobs: VecDeque::new(), threads: 0, idle: 0, abandoned: 0 });
        let work = Condvar::new();
        Self { queue, work, threads_max, waiting_max, gives_way, stack_bytes }
    }

    fn submit<T: Send + 'static>(&'static self, work: Work<T>) -> Waiting<T> {
        let slot = Arc::new(Slot(Mutex::new(State::Waiting { work, waker: None })));
        if !self.push(slot.clone()) {
            slot.run();
        }
        Waiting { slot, pool: self, is_detached: false }
    }

    /// Queues a job; false if the lane has no thread and none can be started.
    fn push(&'static self, job: Arc<dyn Job>) -> bool {
        let mut queue = lock(&self.queue);
        queue.jobs.push_back(job);
        if queue.idle >= queue.waiting() || queue.threads == self.threads_max {
            self.work.notify_one();
            return true;
        }
        let thread = std::thread::Builder::new().name("blocking".into()).stack_size(self.stack_bytes);
        match thread.spawn(|| self.serve()) {
            Ok(_) => queue.threads += 1,
            Err(_) if queue.threads > 0 => {} // the running threads will get to it
            Err(_) => {
                queue.jobs.pop_back();
                return false;
            }
        }
        true
    }

    fn serve(&self) {
        if self.gives_way {
            process::give_way();
        }
        let mut queue = lock(&self.queue);
        loop {
            match queue.jobs.pop_front() {
                Some(job) => {
                    drop(queue);
                    let was_wanted = job.run();
                    drop(job);
                    queue = lock(&self.queue);
                    queue.abandoned -= isize::from(!was_wanted);
                }
                None => {
                    queue.idle += 1;
                    queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
                    queue.idle -= 1;
                }
            }
        }
    }

    /// Notes that a waiting job was cancelled. Once cancelled jobs are half of the queue they are removed, so
    /// that clients that come and go cannot make it grow.
    fn abandon(&self) {
        let mut queue = lock(&self.queue);
        queue.abandoned += 1;
        if queue.abandoned.unsigned_abs() * 2 > queue.jobs.len() {
            let before = queue.jobs.len();
            queue.jobs.retain(|job| job.is_waiting());
            queue.abandoned -= (before - queue.jobs.len()) as isize;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;
    use crate::runtime::{Runtime, timeout};

    /// A pool for one test, not shared with other tests.
    fn pool(threads_max: usize, waiting_max: usize) -> &'static Pool {
        Box::leak(Box::new(Pool::new(threads_max, waiting_max)))
    }

    /// Occupies one thread of the pool until the returned sender is dropped.
    fn hold(pool: &'static Pool) -> (mpsc::Sender<()>, Waiting<()>) {
        let (open, gate) = mpsc::channel::<()>();
        let (begun, wait) = mpsc::channel::<()>();
        let held = pool.submit(Box::new(move || {
            drop(begun);
            let _ = gate.recv();
        }));
        let _ = wait.recv();
        (open, held)
    }

    #[test]
    fn results_come_back() {
        let mut runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let jobs: Vec<_> = (0..20).map(|n| run(Lane::Files, move || n * n)).collect();
            for (n, job) in jobs.into_iter().enumerate() {
                assert_eq!(timeout(10_000, job).await, Ok(n * n));
            }
        });
    }

    #[test]
    fn a_job_that_nobody_waits_for_is_not_begun_and_leaves_the_queue() {
        static DONE: AtomicUsize = AtomicUsize::new(0);
        let pool = pool(1, usize::MAX);
        let (open, held) = hold(pool);
        let count = || DONE.fetch_add(1, Ordering::Relaxed);
        let abandoned: Vec<_> = (0..100).map(|_| pool.submit(Box::new(count))).collect();
        let wanted = pool.submit(Box::new(count));
        drop(abandoned);
        let queue = lock(&pool.queue);
        assert_eq!(queue.waiting(), 1);
        assert!(queue.jobs.len() <= 2, "{}", queue.jobs.len());
        drop((queue, open));
        Runtime::new().unwrap().block_on(async move {
            held.await;
            assert_eq!(wanted.await, 0);
        });
        assert_eq!(DONE.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn documents_are_made_behind_everything_else() {
        let niceness = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            // After the name: state is field 3, nice is field 19 (proc_pid_stat(5)).
            stat[stat.rfind(')').unwrap() + 2..].split(' ').nth(16).unwrap().parse::<i32>().unwrap()
        };
        let before = niceness();
        Runtime::new().unwrap().block_on(async move {
            assert_eq!(run(Lane::Files, niceness).await, before);
            assert_eq!(run(Lane::Documents, niceness).await, (before + 10).min(19));
        });
        assert_eq!(niceness(), before);
    }

    #[test]
    fn what_is_detached_is_done() {
        let (done, wait) = mpsc::channel();
        detach(Lane::Files, move || done.send(5).unwrap());
        assert_eq!(wait.recv(), Ok(5));
    }

    #[test]
    fn a_lane_that_is_full_holds_up_no_other_and_refuses() {
        // Names: no other test in this process uses that lane.
        let (open, held) = hold(Lane::Names.pool());
        let (open_too, held_too) = hold(Lane::Names.pool());
        let waiting: Vec<_> = (0..NAMES_WAITING_MAX).map(|n| try_run(Lane::Names, move || n)).collect();
        assert!(waiting.iter().all(Result::is_ok) && Lane::Names.is_crowded());
        assert!(matches!(try_run(Lane::Names, || 0), Err(Busy)));
        Runtime::new().unwrap().block_on(async move {
            assert_eq!(run(Lane::Files, || 1).await, 1);
            assert!(!Lane::Files.is_crowded());
            drop((open, open_too));
            held.await;
            held_too.await;
            for (n, job) in waiting.into_iter().enumerate() {
                assert_eq!(job.ok().unwrap().await, n);
            }
            assert_eq!(try_run(Lane::Names, || 7).ok().unwrap().await, 7);
        });
    }
}
