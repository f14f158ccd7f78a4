//! One generation of configuration with what it owns: compiled, its logs and addresses open.
//!
//! Nothing of the running cycle is touched before all of the next one is open.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::Tree;
use crate::cycle::config::{self, Config, Loaded, Source};
use crate::http::temp_file;
use crate::log::{self, Lease};
use crate::master::pid::PidFile;
use crate::master::problem;
use crate::master::slots::{BindError, Cause, Slots};
use crate::sys::names::Names;
use crate::sys::terminal;

/// nginx tries a port that is taken five times, every half second.
const BIND_TRIES: u32 = 5;
const BIND_WAIT: Duration = Duration::from_millis(500);

/// A configuration in force, and its claim on its logs.
#[derive(Debug)]
pub struct Cycle {
    pub config: Config,
    pub lease: Lease,
}

/// Reads and opens the first cycle, telling on stderr and, with `-e`, in that file. `None`: it was refused.
///
/// The pid file is claimed before anything is bound, so that a second start is told whom it meets.
pub fn start(
    source: &Source,
    slots: &mut Slots,
    claim: impl FnOnce(&Path) -> Result<PidFile, String>,
) -> Option<(Cycle, Option<PidFile>)> {
    let early = config::early_log(source.error_log.as_deref(), &source.prefix);
    let tell = |line: &str| {
        terminal::tell(format_args!("pronghorn: [emerg] {line}"));
        log::emerg!(early, &(), "{line}");
    };
    let loaded = config::read(source, false);
    loaded.report(early, false);
    let config = loaded.config?;
    let pid_file = match pid_path(&config, source) {
        None => None,
        Some(path) => {
            let refused = |why| tell(&problem::pid(why, &loaded.tree));
            Some(claim(&path).map_err(refused).ok()?)
        }
    };
    let cycle = Cycle { config, lease: loaded.lease };
    if !open(&cycle, slots, &loaded.tree, &loaded.names, &tell) {
        pid_file.iter().for_each(PidFile::give_up);
        if source.embedded.is_some() {
            terminal::tell(format_args!(
                "pronghorn: the demonstration needs its ports: stop what listens there, or copy conf/demo.conf, \
                 change them and start it with \"-c\""
            ));
        }
        return None;
    }
    Some((cycle, pid_file))
}

/// Opens logs and addresses of the first cycle; false when that was not possible, and told.
fn open(cycle: &Cycle, slots: &mut Slots, tree: &Tree, names: &Names, tell: &dyn Fn(&str)) -> bool {
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
            std::thread::sleep(BIND_WAIT); // its last user may be about to leave
        }
        let Err(error) = slots.open(listens(&cycle.config)) else { return true };
        tell(&bind_line(&error, tree, names));
        if !error.may_pass() {
            return false;
        }
    }
    tell("still could not bind()");
    false
}

/// Opens the next cycle, which was read, beside the one in force, telling its log. `None`: it was refused.
///
/// An upstream whose names do not resolve is no error at a start, where nothing is lost. Here it is, unless it was
/// so before: what is served now would become errors.
pub fn next(loaded: Loaded, slots: &mut Slots, current: &Config) -> Option<Cycle> {
    for (level, line) in loaded.lines() {
        log::at!(level, log::process(), &(), "{line}");
    }
    let cycle = Cycle { config: loaded.config?, lease: loaded.lease };
    let mut problems = open_logs(&cycle, &loaded.tree);
    problems.append(&mut make_folders(&cycle, &loaded.tree));
    let unreachable = newly_unreachable(&cycle.config, current);
    problems.extend(unreachable.map(|server| problem::upstream(server, &loaded.tree)));
    if problems.is_empty()
        && let Err(error) = slots.open_beside(listens(&cycle.config))
    {
        problems.push(bind_line(&error, &loaded.tree, &loaded.names));
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

/// Where the process id goes; the demonstration leaves no file.
pub fn pid_path(config: &Config, source: &Source) -> Option<PathBuf> {
    source.embedded.is_none().then(|| config.settings.pid(&config.prefix))
}

/// The addresses of a configuration.
pub fn listens(config: &Config) -> &[crate::http::Listen] {
    config.http.as_ref().map_or(&[], |http| &http.listens)
}

/// The user that files shall belong to.
pub fn owner(config: &Config) -> Option<log::Owner> {
    config.settings.user().map(|identity| (identity.uid, identity.gid))
}

fn open_logs(cycle: &Cycle, tree: &Tree) -> Vec<String> {
    let errors = cycle.lease.open(owner(&cycle.config)).err().unwrap_or_default();
    errors.iter().map(|error| problem::log(error, &cycle.config, tree)).collect()
}

fn make_folders(cycle: &Cycle, tree: &Tree) -> Vec<String> {
    let folders = cycle.config.http.iter().flat_map(|http| &http.folders);
    let wanted = cycle.config.http.iter().flat_map(|http| &http.wanted_folder);
    for path in wanted {
        if let Err(error) = temp_file::make_folder(path, owner(&cycle.config)) {
            let what = "long request bodies go to one upstream only";
            let (path, cause) = (path.display(), log::Cause(&error));
            log::warn!(
                log::process(),
                &(),
                "mkdir() \"{path}\" failed {cause} (client_body_temp_path): {what}"
            );
        }
    }
    let made = folders.map(|path| (path, temp_file::make_folder(path, owner(&cycle.config))));
    made.filter_map(|(path, made)| Some(problem::folder(path, &made.err()?, &cycle.config, tree))).collect()
}

/// A server of each upstream that nobody could reach now, and could before.
fn newly_unreachable<'a>(next: &'a Config, current: &'a Config) -> impl Iterator<Item = &'a str> {
    let was_so = |name: &str| {
        let groups = current.http.iter().flat_map(|http| http.upstreams.unreachable());
        groups.into_iter().any(|group| *group.name == *name)
    };
    let groups = next.http.iter().flat_map(|http| http.upstreams.unreachable());
    groups.filter(move |group| !was_so(&group.name)).filter_map(|group| Some(&*group.servers.first()?.name))
}

fn bind_line(error: &BindError, tree: &Tree, names: &Names) -> String {
    match &error.cause {
        Cause::Failed(call, cause) => problem::address(&error.address, call, cause, tree, names),
        Cause::NeedsRestart(name) => problem::needs_restart(&error.address, name, tree, names),
    }
}
