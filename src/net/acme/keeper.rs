//! The work of the process that keeps certificates: for each issuer a task that asks for what is due.
//!
//! `instant-acme` needs tokio, which has a thread of its own here; the process's own loop talks to the master and looks
//! names up for it. Touches: what `order.rs` and `client.rs` touch, the error log.

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use instant_acme::{Account, CertificateIdentifier};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use crate::log;
use crate::net::acme::challenges::Challenge;
use crate::net::acme::client::Client;
use crate::net::acme::order::{self, Desk, Failure};
use crate::net::acme::schedule;
use crate::net::acme::state::{Folder, Lock, Memory};
use crate::net::acme::{Issuer, Plan, Wanted};
use crate::net::resolver::Resolvers;
use crate::net::tls::certificate::Certificate;
use crate::net::tls::watch as dates;
use crate::runtime;
use crate::sys::{clock, random};

/// How long the workers may take to hear of a challenge.
const ANNOUNCED: Duration = Duration::from_secs(30);
/// The longest wait between two looks at what is due: the clock may be set.
const LOOK_S: i64 = 600;
/// The wait for a folder that another process works with.
const LOCKED: Duration = Duration::from_secs(1);
/// The wait after an error that concerns no certificate.
const MENDED: Duration = Duration::from_secs(60);
/// The interval of asking when to renew, if the authority does not name one (RFC 9773 §4.3.2), and its bounds.
const WINDOW_S: i64 = 6 * 3600;
const WINDOW_S_RANGE: std::ops::RangeInclusive<i64> = 60..=24 * 3600;

/// A request of the thread of tokio to the process's loop.
enum Call {
    Announce(Challenge, Option<oneshot::Sender<()>>),
    Resolve(usize, String, oneshot::Sender<Option<Answer>>),
}

type Answer = Result<Vec<IpAddr>, String>;

/// The way from the thread of tokio to the process's loop.
#[derive(Clone)]
pub struct Line(mpsc::UnboundedSender<Call>);

impl Line {
    /// Has the workers answer a challenge. Errors: in words.
    pub async fn announce(&self, challenge: Challenge) -> Result<(), String> {
        let (done, is_done) = oneshot::channel();
        let _ = self.0.send(Call::Announce(challenge, Some(done)));
        match timeout(ANNOUNCED, is_done).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err("the workers have not heard of the challenge in time".into()),
        }
    }

    /// The same, without waiting.
    pub fn tell(&self, challenge: Challenge) {
        let _ = self.0.send(Call::Announce(challenge, None));
    }

    /// The addresses of a host by the issuer's `resolver`. `None`: it has none.
    pub async fn resolve(&self, issuer: usize, host: &str) -> Option<Answer> {
        let (answer, answered) = oneshot::channel();
        let _ = self.0.send(Call::Resolve(issuer, host.to_owned(), answer));
        answered.await.unwrap_or_else(|_| Some(Err("the process ends".into())))
    }
}

/// A challenge, and the order that waits for it.
type Waiting = (Challenge, oneshot::Sender<()>);

/// The work of this process.
#[derive(Clone, Debug)]
pub struct Keeper {
    /// The challenges that the master has not passed on yet.
    waiting: Rc<RefCell<Vec<Waiting>>>,
    is_paused: Rc<watch::Sender<bool>>,
}

impl Keeper {
    /// The master has passed a challenge on to all workers.
    pub fn heard(&self, challenge: &Challenge) {
        let mut waiting = self.waiting.borrow_mut();
        if let Some(index) = waiting.iter().position(|(known, _)| known == challenge) {
            let _ = waiting.remove(index).1.send(());
        }
    }

    /// Starts no orders, since workers of another master have the listeners too; or goes on.
    pub fn pause(&self, is_on: bool) {
        self.is_paused.send_replace(is_on);
    }
}

/// Starts the work, inside the process's loop, or with a pause. `tell` passes a challenge on; true: nobody else has to hear
/// of it.
pub fn start(plan: &'static Plan, begins_paused: bool, tell: impl Fn(Challenge) -> bool + 'static) -> Keeper {
    let (calls, mut called) = mpsc::unbounded_channel();
    let (is_paused, pauses) = watch::channel(begins_paused);
    let keeper = Keeper { waiting: Rc::default(), is_paused: Rc::new(is_paused) };
    tell(Challenge::clear()); // what a process before this one has left
    let own = keeper.clone();
    runtime::spawn(async move {
        let resolvers = Rc::new(Resolvers::default());
        while let Some(call) = called.recv().await {
            match call {
                Call::Announce(challenge, done) => match (tell(challenge.clone()), done) {
                    (true, Some(done)) => _ = done.send(()),
                    (false, Some(done)) => {
                        let mut waiting = own.waiting.borrow_mut();
                        waiting.retain(|(_, done)| !done.is_closed()); // those that were given up
                        waiting.push((challenge, done));
                    }
                    (_, None) => {}
                },
                Call::Resolve(issuer, host, answer) => {
                    let resolvers = Rc::clone(&resolvers);
                    runtime::spawn(async move {
                        let _ = answer.send(resolved(&plan.issuers[issuer], &host, &resolvers).await);
                    });
                }
            }
        }
    });
    let line = Line(calls);
    let spawned = std::thread::Builder::new().name("acme".into()).spawn(move || work(plan, &line, &pauses));
    if let Err(error) = spawned {
        let cause = log::Cause(&error);
        log::alert!(log::process(), &(), "no thread for certificates {cause}: raise the limit of processes");
    }
    keeper
}

async fn resolved(issuer: &Issuer, host: &str, resolvers: &Resolvers) -> Option<Answer> {
    let resolver = resolvers.get(issuer.resolver.as_ref()?);
    let found = resolver.addresses(host, issuer.resolver_timeout_ms).await;
    Some(found.map(|found| found.list.to_vec()).map_err(|failure| failure.to_string()))
}

/// The thread of tokio.
fn work(plan: &'static Plan, line: &Line, pauses: &watch::Receiver<bool>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let cause = log::Cause(&error);
            log::alert!(
                log::process(),
                &(),
                "no loop for certificates {cause}: raise the limit of open files"
            );
            return;
        }
    };
    let all = LocalSet::new();
    let tasks: Vec<_> = (0..plan.issuers.len())
        .filter(|index| plan.wanted.iter().any(|wanted| wanted.issuer == *index))
        .map(|index| all.spawn_local(keep(plan, index, line.clone(), pauses.clone())))
        .collect();
    let outcome = runtime.block_on(all.run_until(async {
        for task in tasks {
            task.await?;
        }
        Ok::<(), tokio::task::JoinError>(())
    }));
    if outcome.is_err() {
        log::alert!(log::process(), &(), "the work for certificates has panicked: the process is replaced");
        log::flush_all();
        std::process::exit(1);
    }
}

/// The state of the work for one issuer.
struct Keep<'a> {
    desk: Desk<'a>,
    account: Option<Account>,
    /// The certificates that were looked at since the start.
    known: HashSet<&'a str>,
    has_told_of_disk: bool,
}

/// Keeps the certificates of one issuer, without an end.
async fn keep(plan: &'static Plan, index: usize, line: Line, mut pauses: watch::Receiver<bool>) {
    let issuer = &plan.issuers[index];
    let name = &issuer.name;
    let client = loop {
        match Client::new(issuer, index, line.clone()) {
            Ok(client) => break client,
            Err(why) => log::error!(log::process(), &(), "acme: issuer \"{name}\" cannot be asked: {why}"),
        }
        sleep(MENDED).await;
    };
    let folder = Folder::new(&issuer.state_path);
    let desk = Desk { issuer, folder: &folder, client: &client, line: &line };
    let mut keep = Keep { desk, account: None, known: HashSet::new(), has_told_of_disk: false };
    let mut lock: Option<Lock> = None;
    let mut has_told = false;
    loop {
        if *pauses.borrow_and_update() {
            lock = None;
            if pauses.changed().await.is_err() {
                return;
            }
            continue;
        }
        if lock.is_none() {
            match folder.lock() {
                Ok(Some(taken)) => lock = Some(taken),
                Ok(None) => {
                    if !std::mem::replace(&mut has_told, true) {
                        let path = issuer.state_path.display();
                        let what = "another process works with it";
                        log::notice!(log::process(), &(), "acme: \"{path}\" is waited for: {what}");
                    }
                    sleep(LOCKED).await;
                    continue;
                }
                Err(error) => {
                    let (path, cause) = (issuer.state_path.display(), log::Cause(&error));
                    let remedy = "let the workers' user write there";
                    log::error!(log::process(), &(), "acme: \"{path}\" cannot be used {cause}: {remedy}");
                    sleep(MENDED).await;
                    continue;
                }
            }
        }
        let now_s = clock::wall_seconds();
        let mut next_s = now_s + LOOK_S;
        for wanted in plan.wanted.iter().filter(|wanted| wanted.issuer == index) {
            if *pauses.borrow() {
                break;
            }
            next_s = next_s.min(keep.look(wanted).await);
        }
        let wait_s = u64::try_from(next_s.saturating_sub(clock::wall_seconds())).unwrap_or(0).max(1);
        if let Ok(Err(_)) = timeout(Duration::from_secs(wait_s), pauses.changed()).await {
            return;
        }
    }
}

impl<'a> Keep<'a> {
    /// Does what is due for a certificate, and returns when to look next, in seconds since 1970.
    async fn look(&mut self, wanted: &'a Wanted) -> i64 {
        let folder = self.desk.folder;
        let read =
            || Ok::<_, std::io::Error>((folder.memory(&wanted.stem)?, folder.certificate(&wanted.stem)?));
        let (mut memory, certificate) = match read() {
            Ok(read) => read,
            Err(error) => {
                self.tell_of_disk("read", &error);
                return clock::wall_seconds() + MENDED.as_secs().cast_signed();
            }
        };
        let now_s = clock::wall_seconds();
        if self.known.insert(&wanted.stem) {
            memory.set_failed(memory.failed().after_start(now_s));
        }
        if let Some(certificate) = &certificate
            && memory.ask_window_at_s <= now_s
        {
            self.ask_window(certificate, &mut memory).await;
            self.remember(wanted, &memory);
        }
        let valid = certificate.as_ref().map(|it| (it.not_before_s(), it.not_after_s()));
        let due_s = schedule::due_s(valid, memory.issued_at_s, memory.renew_at_s, memory.failed());
        if due_s > now_s {
            let ask_s = certificate.map_or(i64::MAX, |_| memory.ask_window_at_s);
            return due_s.min(ask_s);
        }
        match self.obtain(wanted, &mut memory, certificate.as_ref()).await {
            Ok(certificate) => {
                let (name, names) = (&self.desk.issuer.name, wanted.names());
                let until = dates::date(certificate.not_after_s());
                let what = "gave a certificate for";
                log::notice!(
                    log::process(),
                    &(),
                    "acme: issuer \"{name}\" {what} {names}, valid until {until}"
                );
                memory = Memory { issued_at_s: clock::wall_seconds(), ..Memory::default() };
            }
            Err(failure) => self.note(wanted, &mut memory, &failure),
        }
        self.remember(wanted, &memory);
        if memory.failures > 0 { memory.retry_at_s } else { clock::wall_seconds() }
    }

    async fn obtain(
        &mut self,
        wanted: &Wanted,
        memory: &mut Memory,
        old: Option<&Certificate>,
    ) -> Result<Certificate, Failure> {
        let account = match &self.account {
            Some(account) => account.clone(),
            None => self.account.insert(order::account(&self.desk).await?).clone(),
        };
        order::obtain(&self.desk, &account, wanted, memory, old).await
    }

    /// Notes why there is no certificate.
    fn note(&mut self, wanted: &Wanted, memory: &mut Memory, failure: &Failure) {
        let now_s = clock::wall_seconds();
        memory.set_failed(memory.failed().again(now_s, failure.retry_after));
        let wait_s = memory.retry_at_s - now_s;
        let (name, names, text) = (&self.desk.issuer.name, wanted.names(), &failure.text);
        let what = "gave no certificate for";
        log::error!(
            log::process(),
            &(),
            "acme: issuer \"{name}\" {what} {names}: {text}; next attempt in {wait_s} s"
        );
        memory.error = Some(failure.text.clone());
        if failure.ends_order {
            memory.order = None;
        }
        if failure.ends_account {
            self.desk.folder.remove_account(&self.desk.issuer.uri);
        }
        // The directory may have other URLs by then.
        self.account = None;
    }

    /// Asks when to renew a certificate (RFC 9773 §4).
    async fn ask_window(&mut self, certificate: &Certificate, memory: &mut Memory) {
        let now_s = clock::wall_seconds();
        memory.ask_window_at_s = now_s + WINDOW_S;
        let Some(id) = certificate.chain().first().and_then(|der| CertificateIdentifier::try_from(der).ok())
        else {
            return;
        };
        if self.account.is_none() {
            self.account = order::account(&self.desk).await.ok();
        }
        let Some(account) = &self.account else { return };
        let Ok((info, wait)) = account.renewal_info(&id).await else {
            // The last suggestion may be out of date, and two thirds of the lifetime are not.
            memory.renew_at_s = None;
            return;
        };
        let wait_s = i64::try_from(wait.as_secs()).unwrap_or(i64::MAX);
        memory.ask_window_at_s = now_s + wait_s.clamp(*WINDOW_S_RANGE.start(), *WINDOW_S_RANGE.end());
        let window = info.suggested_window;
        let window = (window.start.unix_timestamp(), window.end.unix_timestamp());
        // The time that was chosen stays as long as the window has it (§4.2).
        if memory.renew_at_s.is_none_or(|it| !(window.0..=window.1).contains(&it)) {
            memory.renew_at_s = Some(schedule::chosen_s(window, random::number()));
        }
    }

    fn remember(&mut self, wanted: &Wanted, memory: &Memory) {
        match self.desk.folder.set_memory(&wanted.stem, memory) {
            Ok(()) => self.has_told_of_disk = false,
            Err(error) => self.tell_of_disk("written to", &error),
        }
    }

    fn tell_of_disk(&mut self, what: &str, error: &std::io::Error) {
        if !std::mem::replace(&mut self.has_told_of_disk, true) {
            let (path, cause) = (self.desk.issuer.state_path.display(), log::Cause(error));
            let remedy = "make room there, and let the workers' user read and write it";
            log::error!(log::process(), &(), "acme: \"{path}\" cannot be {what} {cause}: {remedy}");
        }
    }
}
