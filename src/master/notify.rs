//! Messages to the service manager (sd_notify(3)); without `NOTIFY_SOCKET` they go nowhere.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// True if a service manager listens.
pub fn is_wanted() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Reports that the daemon serves.
pub fn ready() {
    send("READY=1\nSTATUS=serving\n");
}

/// Reports that a reload begins; `ready` or `refused` ends it.
pub fn reloading() {
    send(&format!("RELOADING=1\nMONOTONIC_USEC={}\n", crate::sys::clock::monotonic_us()));
}

/// Reports that the reload was refused: the old configuration serves.
pub fn refused() {
    send("READY=1\nSTATUS=reload refused, see the error log; the old configuration serves\n");
}

pub fn stopping() {
    send("STOPPING=1\n");
}

/// Reports that another process is the main one from now on.
pub fn main_pid(pid: i32) {
    send(&format!("MAINPID={pid}\n"));
}

pub fn watchdog() {
    send("WATCHDOG=1\n");
}

/// The interval of `watchdog`, half of what the manager allows; `None` if it expects none.
pub fn watchdog_ms() -> Option<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|us| is_ours && *us > 0).map(|us| (us / 2000).max(1))
}

fn send(text: &str) {
    if let Some(name) = std::env::var_os("NOTIFY_SOCKET") {
        // If the manager is gone or does not read, that is no reason to stop serving.
        let _ = send_to(&name, text);
    }
}

fn send_to(name: &OsStr, text: &str) -> io::Result<()> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(text.as_bytes(), &address).map(drop)
}
