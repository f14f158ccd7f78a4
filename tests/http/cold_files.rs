//! Files that are not in the page cache: another thread reads them, and the client gets the same.
//!
//! The test evicts files from the page cache and looks at the worker's threads: the pool has none before it
//! is first needed. On a memory file system nothing can be evicted; the test then only compares.

use std::fs::{self, File};
use std::path::Path;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Setup, fetch};

const CONF: &str = r#"
worker_processes 1;
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%/site;
        location / { }
        location /copied/ { sendfile off; alias %%DIR%%/site/; }
    }
}
"#;

fn content(length: usize) -> Vec<u8> {
    (0..length as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

/// Writes a file to the disk and evicts it from memory.
fn write_cold(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
}

/// The kernel takes an eviction as advice, and keeps pages that a processor still has in its list of new ones.
const ATTEMPTS_MAX: usize = 100;

/// The number of the worker's threads, except its first.
fn pool_threads(daemon: &Daemon) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.worker())).unwrap();
    let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
    names.filter(|name| name.trim_end() == "blocking").count()
}

fn check(path: &str, file: &str, length: usize, fields: &str, expected: std::ops::Range<usize>) {
    let daemon = Setup::new(CONF).file("site/warm.bin", "warm").start();
    assert_eq!(Client::connect(daemon.port(0)).get("/warm.bin").text(), "warm");
    assert_eq!(pool_threads(&daemon), 0, "nothing to read from a disk yet");
    let content = content(length);
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
    let can_evict = statfs(daemon.folder()).unwrap().filesystem_type() != TMPFS_MAGIC && !is_stand_in();
    let mut is_read_by_another_thread = false;
    for _ in 0..if can_evict { ATTEMPTS_MAX } else { 1 } {
        write_cold(&daemon.path(file), &content);
        let response = fetch(daemon.port(0), &request);
        assert!(response.body == content[expected.clone()], "{path}");
        is_read_by_another_thread = pool_threads(&daemon) > 0;
        if is_read_by_another_thread {
            break;
        }
    }
    assert!(!can_evict || is_read_by_another_thread, "{path} was read in the loop");
}

#[test]
fn a_large_file_is_read_by_another_thread() {
    check("/cold.bin", "site/cold.bin", 6_000_000, "", 0..6_000_000);
}

#[test]
fn a_part_of_one_is_too() {
    check("/cold.bin", "site/cold.bin", 6_000_000, "Range: bytes=4000000-4900000\r\n", 4_000_000..4_900_001);
}

#[test]
fn a_small_file_is_too() {
    check("/small.bin", "site/small.bin", 3000, "", 0..3000);
}

#[test]
fn a_file_that_is_copied_is_too() {
    check("/copied/cold.bin", "site/cold.bin", 700_000, "", 0..700_000);
}
