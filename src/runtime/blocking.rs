//! Work that may block (name resolution, files that are not in memory), on a few threads.
//!
//! The threads start on first use, so never in the master. A wake across threads costs about 10 µs: not for the
//! data path.

use std::any::Any;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

const THREADS_MAX: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue { jobs: VecDeque::new(), threads: 0, idle: 0 });
static WORK: Condvar = Condvar::new();

enum Slot<T> {
    Waiting(Option<Waker>),
    Done(T),
    Panicked(Box<dyn Any + Send>),
    Taken,
}

/// Runs `work` on another thread; here and now when no thread can be started.
///
/// Dropping the future does not stop the work; its result is then dropped. A panic of the work panics in the
/// task that waits.
pub fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> impl Future<Output = T> {
    let slot = Arc::new(Mutex::new(Slot::Waiting(None)));
    let result = slot.clone();
    let job: Job = Box::new(move || {
        let outcome = match catch_unwind(AssertUnwindSafe(work)) {
            Ok(value) => Slot::Done(value),
            Err(panic) => Slot::Panicked(panic),
        };
        let before = std::mem::replace(&mut *lock(&result), outcome);
        if let Slot::Waiting(Some(waker)) = before {
            waker.wake();
        }
    });
    if let Err(job) = submit(job) {
        job();
    }
    poll_fn(move |cx| {
        let mut slot = lock(&slot);
        if let Slot::Waiting(waker) = &mut *slot {
            *waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        match std::mem::replace(&mut *slot, Slot::Taken) {
            Slot::Done(value) => Poll::Ready(value),
            Slot::Panicked(panic) => resume_unwind(panic),
            Slot::Waiting(_) | Slot::Taken => Poll::Pending, // polled after its end
        }
    })
}

/// Queues a job. It comes back when there is no thread and none can be started.
fn submit(job: Job) -> Result<(), Job> {
    let mut queue = lock(&QUEUE);
    queue.jobs.push_back(job);
    if queue.idle >= queue.jobs.len() || queue.threads == THREADS_MAX {
        WORK.notify_one();
        return Ok(());
    }
    match std::thread::Builder::new().name("blocking".into()).stack_size(256 * 1024).spawn(work) {
        Ok(_) => queue.threads += 1,
        Err(_) if queue.threads > 0 => {} // those that run will come to it
        Err(_) => return queue.jobs.pop_back().map_or(Ok(()), Err),
    }
    Ok(())
}

fn work() {
    let mut queue = lock(&QUEUE);
    loop {
        match queue.jobs.pop_front() {
            Some(job) => {
                drop(queue);
                job();
                queue = lock(&QUEUE);
            }
            None => {
                queue.idle += 1;
                queue = WORK.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Runtime, timeout};

    #[test]
    fn results_come_back() {
        let mut runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let jobs: Vec<_> = (0..20).map(|n| run(move || n * n)).collect();
            for (n, job) in jobs.into_iter().enumerate() {
                assert_eq!(timeout(10_000, job).await, Ok(n * n));
            }
        });
    }
}
