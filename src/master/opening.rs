//! Opening a configuration that was read: its logs, folders and addresses.
//!
//! Nothing of the running cycle is touched before all of the next one is open.

use std::path::Path;
use std::time::Duration;

use crate::config::Tree;
use crate::cycle::{self, Config, Cycle, Loaded, Source};
use crate::log;
use crate::master::pid::PidFile;
use crate::master::problem;
use crate::master::slots::{BindError, Cause, Slots};
use crate::sys::{terminal, trusted};

/// nginx tries to bind to a port in use five times, every half second.
const BIND_TRIES: u32 = 5;
const BIND_WAIT: Duration = Duration::from_millis(500);

/// Reads and opens the first cycle, reporting on stderr and, with `-e`, in that file. `None`: it was refused.
///
/// The pid file is claimed before anything is bound, so that a second start reports the running daemon.
pub fn start(
    source: &Source,
    slots: &mut Slots,
    claim: impl FnOnce(&Path) -> Result<PidFile, String>,
) -> Option<(Cycle, Option<PidFile>)> {
    let early = cycle::early_log(source.error_log.as_deref(), &source.prefix);
    let tell = |line: &str| {
        terminal::tell(format_args!("pronghorn: [emerg] {line}"));
        log::emerg!(early, &(), "{line}");
    };
    let loaded = cycle::read(source, false);
    loaded.report(early, false);
    let cycle = Cycle { config: loaded.config?, lease: loaded.lease };
    let pid_file = match cycle.pid_path(source) {
        None => None,
        Some(path) => {
            let refused = |why| tell(&problem::pid(why, &loaded.tree));
            Some(claim(&path).map_err(refused).ok()?)
        }
    };
    if !open(&cycle, slots, &loaded.tree, &tell) {
        pid_file.iter().for_each(PidFile::give_up);
        if source.embedded.is_some_and(|embedded| embedded.is_demo) {
            terminal::tell(format_args!(
                "pronghorn: the demonstration needs its ports: stop what listens there, or copy conf/demo.conf, \
                 change them and start it with \"-c\""
            ));
        }
        return None;
    }
    Some((cycle, pid_file))
}

/// Opens the logs and addresses of the first cycle; false if that failed, and was reported.
fn open(cycle: &Cycle, slots: &mut Slots, tree: &Tree, tell: &dyn Fn(&str)) -> bool {
    let mut problems = open_logs(cycle, tree);
    problems.append(&mut make_folders(cycle, tree));
    problems.iter().for_each(|line| tell(line));
    if !problems.is_empty() {
        return false;
    }
    cycle.lease.take();
    log::set_process(cycle.config.settings.error_log());
    for attempt in 0..BIND_TRIES {
        if attempt > 0 {
            std::thread::sleep(BIND_WAIT); // its last user may be about to exit
        }
        let Err(error) = slots.open(cycle.config.listeners()) else { return true };
        tell(&bind_line(&error, tree));
        if !error.may_pass() {
            return false;
        }
    }
    tell("still could not bind()");
    false
}

/// Opens the next cycle, which was read, in addition to the one in force, and reports to that one's log.
/// `None`: it was refused.
///
/// An upstream whose names do not resolve is accepted at a start, where nothing is lost. Here it is an error,
/// unless it was so before: requests that are served now would fail.
pub fn next(loaded: Loaded, slots: &mut Slots, current: &Config) -> Option<Cycle> {
    for (level, line) in loaded.lines() {
        if !log::process().accepts(level) {
            log::capture(level, &format_args!("{line}")); // whoever has asked for the reload wants to know
        }
        log::at!(level, log::process(), &(), "{line}");
    }
    let cycle = Cycle { config: loaded.config?, lease: loaded.lease };
    let mut problems = open_logs(&cycle, &loaded.tree);
    problems.append(&mut make_folders(&cycle, &loaded.tree));
    let unreachable = cycle.config.newly_unreachable(current);
    problems.extend(unreachable.map(|server| problem::upstream(server, &loaded.tree)));
    let moved = cycle.config.moved_caches(current);
    problems.extend(moved.map(|(span, why)| problem::moved_cache(&why, span, &loaded.tree)));
    if problems.is_empty()
        && let Err(error) = slots.open_beside(cycle.config.listeners())
    {
        problems.push(bind_line(&error, &loaded.tree));
    }
    for line in &problems {
        log::emerg!(log::process(), &(), "{line}");
    }
    if !problems.is_empty() {
        return None;
    }
    cycle.lease.take();
    Some(cycle)
}

fn open_logs(cycle: &Cycle, tree: &Tree) -> Vec<String> {
    let errors = cycle.lease.open(cycle.config.owner()).err().unwrap_or_default();
    errors.iter().map(|error| problem::log(error, &cycle.config, tree)).collect()
}

fn make_folders(cycle: &Cycle, tree: &Tree) -> Vec<String> {
    let owner = cycle.config.owner();
    for (path, what) in cycle.config.wanted_folders() {
        if let Err(error) = trusted::make_directory(path, owner) {
            let (path, cause) = (path.display(), log::Cause(&error));
            log::warn!(log::process(), &(), "mkdir() \"{path}\" failed {cause} {what}");
        }
    }
    let made = cycle.config.folders().map(|path| (path, trusted::make_directory(path, owner)));
    made.filter_map(|(path, made)| Some(problem::folder(path, &made.err()?, &cycle.config, tree))).collect()
}

fn bind_line(error: &BindError, tree: &Tree) -> String {
    match &error.cause {
        Cause::Failed(call, cause) => problem::address(&error.listener, call, cause, tree),
        Cause::NeedsRestart(name) => problem::needs_restart(&error.listener, name, tree),
    }
}
