//! Messages to the service manager (sd_notify(3)); without `NOTIFY_SOCKET` they go nowhere.

use sd_notify::NotifyState;

/// It serves.
pub fn ready() {
    send(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// A reload begins; `ready` or `refused` ends it.
pub fn reloading() {
    let now = i128::from(crate::sys::clock::monotonic_us());
    send(&[NotifyState::Reloading, NotifyState::MonotonicUsec(now)]);
}

/// The reload was refused: the old configuration serves on.
pub fn refused() {
    send(&[
        NotifyState::Ready,
        NotifyState::Status("reload refused, see the error log; the old configuration serves"),
    ]);
}

pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Another process is the main one from now on.
pub fn main_pid(pid: i32) {
    send(&[NotifyState::MainPid(pid as u32)]);
}

pub fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

/// How often `watchdog` must be told, half of what the manager allows; `None`: never.
pub fn watchdog_ms() -> Option<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|_| is_ours).map(|us| (us / 2000).max(1))
}

fn send(states: &[NotifyState<'_>]) {
    // Nobody listens, or the manager is gone: neither is a reason to stop serving.
    let _ = sd_notify::notify(states);
}
