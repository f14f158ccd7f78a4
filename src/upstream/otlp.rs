//! The spans of one worker on their way to the collector.
//!
//! A request that ends adds its span to the batch that gathers, and never waits. A batch is sent when it is full, or when
//! its first span has waited for `interval`; a task of the worker's loop sends one after the other (`otlp/call.rs`). Bounded:
//! the batches by `batch_count`, each by `batch_size` and [`BATCH_BYTES_MAX`]; what does not fit is dropped, and the log
//! says so once a second. A call that fails is tried [`TRIES_MAX`] times.
//!
//! A worker that leaves sends what it has at once, and does not exit meanwhile, for [`LEAVE_MS`] at most. One that ends at once
//! (TERM, `worker_shutdown_timeout`) sends nothing more, as nginx's. Either way the log says how many spans were lost. Touches:
//! the collector's connection.

mod call;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::log::{self, Logger};
use crate::net::drain::{self, Mode};
use crate::net::open::Background;
use crate::net::tls::client::Terms;
use crate::proto::otlp::Origin;
use crate::runtime::{self, Either, Timer};
use crate::upstream::GroupState;
use call::{Line, Refused};

/// A batch of this size is full: collectors take messages of 4 MiB, unless they are told otherwise.
const BATCH_BYTES_MAX: usize = 3 * 1024 * 1024;
/// How often a batch is sent.
const TRIES_MAX: u32 = 3;
/// The pause before the second try; each further one is twice as long.
const PAUSE_MS: u64 = 500;
/// How long a worker that leaves waits for the collector.
const LEAVE_MS: u64 = 3000;
/// How often the log tells that spans are dropped, at most.
const TELL_MS: u64 = 1000;
/// A batch's memory up to this size is kept for the next one.
const KEPT_BYTES_MAX: usize = 256 * 1024;

/// Where the spans go, and in which portions.
#[derive(Debug)]
pub struct Target {
    /// The index of the group whose servers are collectors.
    pub group: usize,
    /// For messages: as it is configured.
    pub endpoint: Box<str>,
    /// The terms of TLS; `None`: the connection is plain.
    pub terms: Option<Arc<Terms>>,
    /// The header block of each call.
    pub head: Vec<u8>,
    pub origin: Origin,
    pub interval_ms: u64,
    /// The most spans of a batch.
    pub spans_max: u64,
    /// The most batches at a time.
    pub batches_max: usize,
}

/// Spans that are sent together, encoded.
#[derive(Debug, Default)]
struct Batch {
    spans: Vec<u8>,
    count: u64,
    /// When the first one was added.
    since_ms: u64,
}

impl Batch {
    fn is_full(&self, target: &Target) -> bool {
        self.count >= target.spans_max || self.spans.len() >= BATCH_BYTES_MAX
    }
}

/// The spans of one worker that have not been sent.
#[derive(Debug)]
pub struct Exporter {
    target: &'static Target,
    log: Logger,
    gathering: RefCell<Batch>,
    full: RefCell<VecDeque<Batch>>,
    is_sending: Cell<bool>,
    /// Memory for the next batch.
    spare: RefCell<Vec<u8>>,
    task: RefCell<Option<Waker>>,
    /// Keeps the worker from exiting while there is a span.
    guard: RefCell<Option<Background>>,
    /// A worker that leaves gives up what it has at this time.
    leave_by_ms: Cell<Option<u64>>,
    /// Spans of the batch that was being sent when the time was over.
    given_up: Cell<u64>,
    /// Spans that were dropped since the log told it, and when it did.
    dropped: Cell<u64>,
    told_ms: Cell<Option<u64>>,
}

impl Exporter {
    /// Starts the task that sends a worker's spans to the servers of `group`. Called at the first span.
    pub fn start(target: &'static Target, group: Rc<GroupState>, log: Logger) -> Rc<Self> {
        let exporter = Rc::new(Self {
            target,
            log,
            gathering: RefCell::default(),
            full: RefCell::default(),
            is_sending: Cell::new(false),
            spare: RefCell::default(),
            task: RefCell::default(),
            guard: RefCell::default(),
            leave_by_ms: Cell::default(),
            given_up: Cell::new(0),
            dropped: Cell::new(0),
            told_ms: Cell::new(None),
        });
        runtime::spawn(Rc::clone(&exporter).run(Line::new(target, group)));
        exporter
    }

    /// Adds a span, which `write` appends in encoded form, unless there is no room for it.
    pub fn add(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(mut batch) = self.take_gathering() else { return self.drop_one() };
        // not under a borrow: the values of attributes are evaluated
        write(&mut batch.spans);
        batch.count += 1;
        let wakes = batch.count == 1 || batch.is_full(self.target);
        self.gathering.replace(batch);
        if wakes {
            self.wake();
        }
    }

    /// The batch to which a span may be added. `None`: all are full.
    fn take_gathering(&self) -> Option<Batch> {
        let mut gathering = self.gathering.borrow_mut();
        let mut full = self.full.borrow_mut();
        let others = full.len() + usize::from(self.is_sending.get());
        if gathering.is_full(self.target) {
            if others + 2 > self.target.batches_max {
                return None;
            }
            full.push_back(std::mem::take(&mut gathering));
        } else if gathering.count == 0 && others + 1 > self.target.batches_max {
            return None;
        }
        let mut batch = std::mem::take(&mut *gathering);
        if batch.count == 0 {
            batch.since_ms = runtime::now_ms();
            batch.spans = self.spare.take();
            batch.spans.clear();
            let guard = self.guard.take().or_else(|| Background::new(usize::MAX));
            self.guard.replace(guard);
        }
        Some(batch)
    }

    #[cold]
    fn drop_one(&self) {
        self.dropped.set(self.dropped.get() + 1);
        self.tell_dropped();
    }

    /// Tells how many spans were dropped, unless the log did so a moment ago: then the next call does.
    fn tell_dropped(&self) {
        let now_ms = runtime::now_ms();
        let is_early = self.told_ms.get().is_some_and(|told_ms| now_ms < told_ms + TELL_MS);
        if self.dropped.get() == 0 || is_early {
            return;
        }
        self.told_ms.set(Some(now_ms));
        let count = self.dropped.take();
        let batches = self.target.batches_max;
        log::warn!(
            self.log,
            &(),
            "OTel dropped spans: {count}, since all {batches} batches wait for \"{}\"; raise \"batch_count\" or \"batch_size\" \
             in \"otel_exporter\", or trace fewer requests",
            self.target.endpoint
        );
    }

    fn wake(&self) {
        let task = self.task.take();
        if let Some(task) = task {
            task.wake();
        }
    }

    async fn run(self: Rc<Self>, mut line: Line) {
        let mut timer = Timer::new();
        while let Some(batch) = poll_fn(|cx| self.poll_due(cx, &mut timer)).await {
            self.is_sending.set(true);
            let sent = runtime::race(self.send(&batch, &mut line), self.out_of_time()).await;
            self.is_sending.set(false);
            match sent {
                Either::First(true) => {}
                Either::First(false) => self.lose(batch.count, "the collector does not take them"),
                Either::Second(()) => {
                    line.hang_up();
                    self.given_up.set(batch.count);
                    if drain::mode() != Mode::Now {
                        self.lose_all("this worker leaves, and the collector has not taken them in time");
                    }
                }
            }
            if batch.spans.capacity() <= KEPT_BYTES_MAX {
                self.spare.replace(batch.spans);
            }
            self.tell_dropped();
            self.rest();
        }
    }

    /// Reports the spans that are left, when everything in the worker has ended: the last of them came at that moment.
    pub fn end(&self) {
        self.lose_all("this worker ends at once");
    }

    /// Ready with a batch that must be sent now; `None`: the worker ends.
    fn poll_due(&self, cx: &mut Context<'_>, timer: &mut Timer) -> Poll<Option<Batch>> {
        if drain::mode() == Mode::Now {
            return Poll::Ready(None);
        }
        if let Some(batch) = self.full.borrow_mut().pop_front() {
            return Poll::Ready(Some(batch));
        }
        let mut gathering = self.gathering.borrow_mut();
        if gathering.count > 0 {
            timer.set(gathering.since_ms.saturating_add(self.target.interval_ms));
            let is_due = gathering.is_full(self.target)
                || drain::mode() > Mode::Serving
                || timer.poll_expired(cx).is_ready();
            if is_due {
                return Poll::Ready(Some(std::mem::take(&mut *gathering)));
            }
        } else {
            timer.cancel();
        }
        self.task.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Lets the worker exit if there is nothing to send.
    fn rest(&self) {
        if self.gathering.borrow().count == 0 && self.full.borrow().is_empty() {
            self.leave_by_ms.set(None);
            let guard = self.guard.take();
            drop(guard);
        }
    }

    /// Ready when a worker that leaves has waited long enough.
    async fn out_of_time(&self) {
        let mut timer = Timer::new();
        poll_fn(|cx| match drain::mode() {
            Mode::Serving => Poll::Pending, // a change of the mode wakes all tasks
            Mode::Now => Poll::Ready(()),
            Mode::HandOver | Mode::Close => {
                let by_ms = self.leave_by_ms.get().unwrap_or_else(|| runtime::now_ms() + LEAVE_MS);
                self.leave_by_ms.set(Some(by_ms));
                timer.set(by_ms);
                timer.poll_expired(cx)
            }
        })
        .await;
    }

    /// Sends a batch. False: it is lost, and the log says why.
    async fn send(&self, batch: &Batch, line: &mut Line) -> bool {
        let endpoint = &self.target.endpoint;
        let mut pause_ms = PAUSE_MS;
        for attempt in 1..=TRIES_MAX {
            match line.export(&batch.spans).await {
                Ok(None) => return true,
                Ok(Some((count, why))) => {
                    let why = log::Text(why.as_bytes());
                    log::warn!(
                        self.log,
                        &(),
                        "OTel collector \"{endpoint}\" has refused {count} spans: \"{why}\""
                    );
                    return true;
                }
                Err(Refused { why, is_final }) => {
                    if is_final || attempt == TRIES_MAX {
                        log::error!(self.log, &(), "OTel export failure: {why}, collector \"{endpoint}\"");
                        return false;
                    }
                    log::info!(self.log, &(), "OTel export is tried again: {why}, collector \"{endpoint}\"");
                }
            }
            runtime::sleep(pause_ms).await;
            pause_ms *= 2;
        }
        false
    }

    /// Reports spans as lost.
    fn lose(&self, count: u64, why: &str) {
        if count > 0 {
            log::error!(self.log, &(), "OTel lost spans: {count}, as {why}");
        }
    }

    /// Gives up all that has been gathered.
    fn lose_all(&self, why: &str) {
        let full = std::mem::take(&mut *self.full.borrow_mut());
        let last = std::mem::take(&mut *self.gathering.borrow_mut());
        let left: u64 = full.iter().chain([&last]).map(|batch| batch.count).sum();
        self.lose(self.given_up.take() + left, why);
    }
}
