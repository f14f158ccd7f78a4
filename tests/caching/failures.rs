//! Answers that end early, clients that leave or are slow, a full disk, killed workers, reloads and upgrades: what is
//! stored is whole.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{
    ask, files_in, setup, setup_at, setup_with, start, status, storable, stored, wait_idle, wait_stored,
};
use crate::support::daemon::{is_stand_in, send};
use crate::support::{Client, Daemon, Origin, deadline, get, wait_for};

const BIG: usize = 8 << 20;
const HALF: usize = BIG / 2;

/// An origin whose answer of 8 MiB stops in the middle until the test says how it goes on.
fn halting() -> (Sender<bool>, Origin) {
    let (go, wait) = channel();
    let wait = Mutex::new(wait);
    let origin = Origin::start(move |peer| {
        while peer.request().is_some() {
            let head = format!("HTTP/1.1 200 OK\r\nX-Accel-Expires: 3600\r\nContent-Length: {BIG}\r\n\r\n");
            let half = vec![b'x'; HALF];
            if peer.try_send(head.as_bytes()).is_err() || peer.try_send(&half).is_err() {
                return;
            }
            let goes_on = wait.lock().expect("not poisoned").recv_timeout(deadline()).unwrap_or(false);
            if !goes_on || peer.try_send(&half).is_err() {
                return;
            }
        }
    });
    (go, origin)
}

fn begin(daemon: &Daemon) -> Client {
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /p HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client
}

fn assert_whole_hit(daemon: &Daemon) {
    let response = get(daemon.port(0), "/p");
    assert_eq!((status(&response), response.body.len()), ("HIT", BIG));
    assert!(response.body.iter().all(|byte| *byte == b'x'));
}

#[test]
fn an_answer_that_ends_early_is_not_stored() {
    let origin = Origin::start(|peer| {
        let Some(request) = peer.request() else { return };
        let fields = "HTTP/1.1 200 OK\r\nX-Accel-Expires: 3600\r\n";
        match request.target.as_str() {
            "/length" => peer.send(format!("{fields}Content-Length: 10\r\n\r\nshort")),
            "/chunks" => peer.send(format!("{fields}Transfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n")),
            _ => peer.send(format!("{fields}Transfer-Encoding: chunked\r\n\r\n5\r\nwrongly framed")),
        };
    });
    let daemon = start(&origin, "proxy_http_version 1.1;");
    for path in ["/length", "/chunks", "/frames"] {
        for _ in 0..2 {
            let mut client = Client::connect(daemon.port(0));
            client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
            client.rest();
        }
    }
    wait_idle(&daemon);
    assert_eq!(stored(&daemon).len(), 0);
    assert_eq!(origin.requests().len(), 6);
}

#[test]
fn a_client_that_leaves_does_not_stop_the_storing() {
    let (go, origin) = halting();
    let daemon = start(&origin, "");
    let mut client = begin(&daemon);
    assert_eq!(client.response_head().length(), Some(BIG));
    client.exactly(1 << 20);
    client.reset_on_close();
    drop(client);
    go.send(true).expect("the origin waits");
    wait_stored(&daemon, 1);
    assert_whole_hit(&daemon);
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn a_slow_client_does_not_delay_the_others() {
    let (go, origin) = halting();
    let daemon = start(&origin, "");
    let mut slow = begin(&daemon);
    origin.wait_requests(1);
    go.send(true).expect("the origin waits");
    wait_stored(&daemon, 1);
    assert_whole_hit(&daemon);
    let response = slow.response();
    assert_eq!((status(&response), response.body.len()), ("MISS", BIG));
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn a_worker_killed_while_it_stores_leaves_nothing_that_is_served() {
    let (go, origin) = halting();
    let daemon = start(&origin, "");
    let mut client = begin(&daemon);
    client.response_head();
    client.exactly(1 << 20);
    let worker = daemon.worker();
    send(worker, Signal::SIGKILL);
    client.rest();
    wait_for("another worker", || {
        let now = daemon.workers_now();
        (!now.is_empty() && !now.contains(&worker)).then_some(())
    });
    go.send(false).expect("the origin waits");
    assert!(stored(&daemon).is_empty());
    if !is_stand_in() {
        // nginx leaves its temporary file there.
        assert_eq!(files_in(&daemon.path("under-way")).len(), 0);
    }
    go.send(true).expect("the origin will wait");
    let response = get(daemon.port(0), "/p");
    assert_eq!((status(&response), response.body.len()), ("MISS", BIG));
    wait_stored(&daemon, 1);
    assert_whole_hit(&daemon);
}

/// An origin whose answer of 8 MiB is stale at once, and confirmed with another field each time.
fn confirming() -> Origin {
    let body: Vec<u8> = (0..BIG).map(|at| (at / 4096) as u8).collect();
    let count = std::sync::atomic::AtomicUsize::new(0);
    Origin::replying(move |request| {
        let count = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let fields = format!("X-Accel-Expires: @1\r\nETag: \"a\"\r\nX-Count: {count}\r\n");
        match request.header("if-none-match") {
            Some(_) => format!("HTTP/1.1 304 Not Modified\r\n{fields}\r\n").into_bytes(),
            None => {
                let head = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {BIG}\r\n\r\n");
                [head.as_bytes(), &body].concat()
            }
        }
    })
}

/// A worker that is killed after it has named a file, and before it tells the index, leaves one that is not counted. Nobody can
/// kill it in these microseconds, so the test leaves what it would.
#[test]
fn a_file_that_the_index_does_not_know_of_goes_with_its_key() {
    if is_stand_in() {
        return; // its file stays until it is started again
    }
    let origin = storable();
    let setup = setup_with(&origin, "proxy_cache_min_uses 2;", "inactive=1s").level("notice");
    let daemon = setup.start();
    daemon.wait_log("cache \"c\": loaded 0 files");
    // The key is known from its first use on.
    assert_eq!(ask(&daemon, "/p").0, "MISS");
    wait_stored(&daemon, 0);
    let name = "b86493d2ae255a02bb7ea61e7fb77c10"; // printf /p | md5sum
    let folder = daemon.path("cache").join(&name[31..]).join(&name[29..31]);
    std::fs::create_dir_all(&folder).expect("the folder is ours");
    std::fs::write(folder.join(name), "left behind").expect("the folder is ours");
    let folders = [folder.clone(), folder.parent().expect("a folder").into(), daemon.path("cache")];
    for folder in folders {
        // The manager may be another user.
        std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("ours");
    }
    wait_stored(&daemon, 0);
}

#[test]
fn a_worker_killed_while_it_writes_new_fields_leaves_the_old_ones() {
    let origin = confirming();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("cache");
    let daemon = setup_at(&origin, "proxy_cache_revalidate on;", &path).start();
    if is_stand_in() {
        return; // it writes no new fields
    }
    let whole = get(daemon.port(0), "/p").body;
    assert_eq!(whole.len(), BIG);
    let files = || files_in(&path).into_iter().map(|path| path.metadata().map(|file| file.ino()).ok());
    let stored = || files().collect::<Vec<_>>();
    // A file that is being written has no name yet.
    let is_new =
        |path: &Path| path.starts_with(folder.path()) && path.to_string_lossy().ends_with(" (deleted)");
    let writes = |worker: i32| {
        let open = std::fs::read_dir(format!("/proc/{worker}/fd")).into_iter().flatten().flatten();
        open.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|path| is_new(&path))
    };
    let killed = wait_for("a worker that dies in the middle", || {
        let worker = daemon.worker();
        let before = stored();
        let mut client = begin(&daemon);
        // It takes a few milliseconds, so there is no time to sleep.
        let end = Instant::now() + Duration::from_secs(1);
        while !writes(worker) && Instant::now() < end {}
        let is_seen = writes(worker);
        send(worker, Signal::SIGKILL);
        client.rest();
        wait_for("another worker", || {
            let now = daemon.workers_now();
            (!now.is_empty() && !now.contains(&worker)).then_some(())
        });
        (is_seen && stored() == before).then_some(worker)
    });
    assert_eq!(stored().len(), 1, "nothing but the response that was there");
    assert!(!daemon.workers_now().contains(&killed));
    let response = get(daemon.port(0), "/p");
    assert_eq!(status(&response), "REVALIDATED");
    assert!(response.body == whole);
}

#[test]
fn hits_go_on_over_a_reload() {
    let origin = storable();
    let daemon = start(&origin, "");
    ask(&daemon, "/p");
    wait_stored(&daemon, 1);
    daemon.reload();
    assert_eq!(ask(&daemon, "/p"), ("HIT".into(), "/p 1".into()));
}

#[test]
fn a_reload_finishes_what_is_being_stored() {
    let (go, origin) = halting();
    let daemon = start(&origin, "");
    let mut client = begin(&daemon);
    client.response_head();
    client.exactly(1 << 20);
    let old = daemon.worker();
    daemon.signal(Signal::SIGHUP);
    wait_for("a new worker", || daemon.workers_now().iter().any(|pid| *pid != old).then_some(()));
    go.send(true).expect("the origin waits");
    client.exactly(BIG - (1 << 20));
    wait_stored(&daemon, 1);
    wait_for("the old worker to end", || (!daemon.workers_now().contains(&old)).then_some(()));
    assert_whole_hit(&daemon);
}

#[test]
fn a_restart_finds_the_files() {
    let origin = storable();
    let cache = tempfile::tempdir().expect("a temporary directory");
    let path = cache.path().join("cache");
    for (expected, count) in [("MISS", 1), ("HIT", 1)] {
        let daemon = setup_at(&origin, "", &path).start();
        assert_eq!(ask(&daemon, "/p"), (expected.into(), format!("/p {count}")));
        wait_for("the file", || (files_in(&path).len() == 1).then_some(()));
    }
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn hits_go_on_over_an_upgrade() {
    let origin = storable();
    let daemon = setup(&origin, "").in_background().start();
    ask(&daemon, "/p");
    wait_stored(&daemon, 1);
    let (old, new) = (daemon.pid(), upgrade(&daemon));
    for _ in 0..8 {
        assert_eq!(ask(&daemon, "/p"), ("HIT".into(), "/p 1".into()), "either of the two answers");
    }
    send(old, Signal::SIGQUIT);
    wait_for("the old master to end", || (!crate::support::process::is_alive(old)).then_some(()));
    daemon.follow(new);
    assert_eq!(ask(&daemon, "/p"), ("HIT".into(), "/p 1".into()));
    assert_eq!(origin.requests().len(), 1);
    daemon.stop(Signal::SIGQUIT);
}

/// Starts the new binary; its process id.
fn upgrade(daemon: &Daemon) -> i32 {
    let old = daemon.pid();
    daemon.signal(Signal::SIGUSR2);
    wait_for("a new master with a worker", || {
        let new: i32 = daemon.read("pronghorn.pid").trim().parse().ok()?;
        let works = !crate::support::process::children(new).is_empty();
        (new != old && works).then_some(new)
    })
}

#[test]
fn an_upgrade_finishes_what_is_being_stored() {
    let (go, origin) = halting();
    let daemon = setup(&origin, "").in_background().start();
    let mut client = begin(&daemon);
    client.response_head();
    client.exactly(1 << 20);
    let (old, new) = (daemon.pid(), upgrade(&daemon));
    send(old, Signal::SIGQUIT);
    go.send(true).expect("the origin waits");
    client.exactly(BIG - (1 << 20));
    wait_stored(&daemon, 1);
    wait_for("the old master to end", || (!crate::support::process::is_alive(old)).then_some(()));
    daemon.follow(new);
    assert_whole_hit(&daemon);
    assert_eq!(origin.requests().len(), 1);
    daemon.stop(Signal::SIGQUIT);
}

/// A small disk.
struct Disk(tempfile::TempDir);

impl Disk {
    /// `None`: this user must not mount anything.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let words = ["-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs"];
        let made = Command::new("mount").args(words).arg(folder.path()).output().ok()?;
        made.status.success().then(|| Self(folder))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[test]
fn a_full_disk_costs_clients_nothing() {
    if is_stand_in() {
        return; // nginx breaks the answer off
    }
    let Some(disk) = Disk::mount() else { return };
    let (go, origin) = halting();
    let path = disk.0.path().join("cache");
    let daemon = setup_at(&origin, "", &path).start();
    for _ in 0..2 {
        go.send(true).expect("the origin will wait");
        let response = get(daemon.port(0), "/p");
        assert_eq!((status(&response), response.body.len()), ("MISS", BIG));
        wait_for("the file to be gone", || files_in(&path).is_empty().then_some(()));
    }
    daemon.wait_log("No space left on device|ENOSPC|no space");
}
