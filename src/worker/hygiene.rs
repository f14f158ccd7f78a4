//! The settings of a worker's own process before it serves: limits, priority, processors, user, directory.

use crate::cycle::Config;
use crate::sys::process;

/// Settles the process. `number`: the worker's, by which it has its processors; the processes beside workers have none.
///
/// Errors: what failed, in nginx's words; running on as the wrong user is not an option.
pub fn settle(config: &Config, number: Option<usize>) -> Result<(), String> {
    let settings = &config.settings;
    let why = |call: &str, error: std::io::Error| format!("{call} failed {}", crate::log::Cause(&error));
    match settings.worker_rlimit_nofile() {
        Some(count) => {
            process::set_nofile(count).map_err(|e| why(&format!("setrlimit(RLIMIT_NOFILE, {count})"), e))?;
        }
        // Without an order the soft limit is raised to the hard one, which costs nothing.
        None => process::raise_nofile(),
    }
    if let Some(nice) = settings.worker_priority() {
        process::set_priority(nice).map_err(|e| why(&format!("setpriority({nice})"), e))?;
    }
    if let Some(cpus) = number.and_then(|number| settings.cpus(number))
        && let Err(error) = process::set_affinity(cpus)
    {
        // A mask written for another machine: the worker runs anywhere, as nginx's does.
        crate::log::alert!(
            crate::log::process(),
            &(),
            "sched_setaffinity() failed {}",
            crate::log::Cause(&error)
        );
    }
    if process::is_root()
        && let Some(identity) = settings.user()
    {
        let keeps_raw = config.is_transparent();
        process::become_user(identity, keeps_raw)
            .map_err(|e| why(&format!("becoming user \"{}\"", identity.user.to_string_lossy()), e))?;
    }
    match settings.worker_rlimit_core() {
        // The operator wants core files, even if there are keys in them.
        Some(bytes) => {
            process::set_core(bytes).map_err(|e| why(&format!("setrlimit(RLIMIT_CORE, {bytes})"), e))?;
        }
        None if config.has_keys() => process::hide_memory().map_err(|e| why("prctl(PR_SET_DUMPABLE)", e))?,
        None => {}
    }
    if let Some(directory) = settings.working_directory() {
        std::env::set_current_dir(directory).map_err(|e| why(&format!("chdir(\"{directory}\")"), e))?;
    }
    Ok(())
}
