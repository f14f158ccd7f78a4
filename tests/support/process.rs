//! Processes as shown by /proc: children, open descriptors, memory, title.

use std::collections::BTreeSet;
use std::path::Path;

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

pub use super::listening::is_listening;

/// Limits the number of descriptors of a process.
pub fn limit_descriptors(pid: i32, count: u32) {
    let limit = format!("--nofile={count}:");
    let status = std::process::Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status();
    assert!(status.expect("prlimit runs").success());
}

/// Limits a process to the descriptors that it has now.
pub fn close_table(pid: i32) {
    let is_free = |number: &u32| !Path::new(&format!("/proc/{pid}/fd/{number}")).exists();
    limit_descriptors(pid, (0..).find(is_free).expect("some number is free"));
}

/// The direct children of a process, lowest pid first.
pub fn children(pid: i32) -> Vec<i32> {
    let mut found = BTreeSet::new();
    for task in entries(&format!("/proc/{pid}/task")) {
        let text = read(&format!("/proc/{pid}/task/{task}/children"));
        found.extend(text.split_whitespace().filter_map(|word| word.parse::<i32>().ok()));
    }
    found.into_iter().collect()
}

/// The process, its children, their children and so on.
pub fn tree(pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    let mut next = 0;
    while next < all.len() {
        for child in children(all[next]) {
            if !all.contains(&child) {
                all.push(child);
            }
        }
        next += 1;
    }
    all
}

/// True if the process runs; a zombie does not.
pub fn is_alive(pid: i32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

/// The state letter of `/proc/PID/stat`: R running, S sleeping, T stopped, Z zombie.
pub fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat[stat.rfind(')')? + 1..].trim_start().chars().next()
}

/// The number of file descriptors that the process has open.
pub fn fd_count(pid: i32) -> usize {
    entries(&format!("/proc/{pid}/fd")).len()
}

/// Resident memory in KiB.
pub fn rss_kib(pid: i32) -> u64 {
    status(pid, "VmRSS:")
}

/// Resident memory that is neither backed by a file nor shared with another process, in KiB.
pub fn private_kib(pid: i32) -> u64 {
    let text = read(&format!("/proc/{pid}/smaps_rollup"));
    let line = |key: &str| -> u64 {
        let found = text.lines().find_map(|line| line.strip_prefix(key));
        found.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    line("Private_Clean:") + line("Private_Dirty:")
}

/// The title: the command line with its words joined by spaces.
pub fn title(pid: i32) -> String {
    read(&format!("/proc/{pid}/cmdline")).trim_end_matches('\0').replace('\0', " ")
}

/// User and system time in clock ticks (100 a second on Linux).
pub fn cpu_ticks(pid: i32) -> u64 {
    let stat = read(&format!("/proc/{pid}/stat"));
    let rest = stat.rfind(')').map_or("", |end| &stat[end + 1..]);
    // After the name: state is field 3, utime is field 14, stime field 15 (proc_pid_stat(5)).
    rest.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum()
}

/// True if the process has a descriptor or its working directory under `folder`.
pub fn touches(pid: i32, folder: &Path) -> bool {
    let under = |link: String| std::fs::read_link(link).is_ok_and(|target| target.starts_with(folder));
    under(format!("/proc/{pid}/cwd"))
        || entries(&format!("/proc/{pid}/fd")).iter().any(|fd| under(format!("/proc/{pid}/fd/{fd}")))
}

/// Reaps an ended process that has become our child, except `started`, whose status belongs to its
/// `std::process::Child`.
pub fn reap_other(pid: i32, started: i32) {
    if pid != started {
        let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
    }
}

fn status(pid: i32, key: &str) -> u64 {
    let text = read(&format!("/proc/{pid}/status"));
    let found = text.lines().find_map(|line| line.strip_prefix(key));
    found.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn entries(folder: &str) -> Vec<String> {
    let Ok(found) = std::fs::read_dir(folder) else { return Vec::new() };
    found.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn read(path: &str) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}
