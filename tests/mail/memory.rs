//! The memory of sessions that are open and say nothing.

use super::{answer, greeted, setup_with};
use crate::support::{Client, Origin, process};

/// Per connection: the session, its task, and what the runtime keeps of each.
const IDLE_BYTES_MAX: usize = 4 * 1024;

#[test]
fn clients_that_have_not_logged_in_cost_little() {
    const COUNT: usize = 1_000;
    let auth = Origin::replying(|_| answer("Auth-Status: no\n"));
    let main = "worker_rlimit_nofile 8192; events { worker_connections 2048; }";
    let daemon = setup_with(main, "imap", &auth, "timeout 10m;").start();
    let open = |count: usize| -> Vec<Client> { (0..count).map(|_| greeted(&daemon)).collect() };
    let first = open(200);
    let before = process::private_kib(daemon.worker()) as usize;
    let others = open(COUNT);
    let held = (process::private_kib(daemon.worker()) as usize).saturating_sub(before) * 1024 / COUNT;
    assert!(held <= IDLE_BYTES_MAX, "{held} bytes for each");
    drop((first, others));
}
