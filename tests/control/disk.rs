//! A disk that becomes full under the files in which changes survive: what was accepted is kept, the rest is refused.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{control, servers};
use crate::support::daemon::is_stand_in;
use crate::support::{Daemon, Origin, Setup, get};

const CONF: &str = r#"
worker_processes 1;
control unix:%%DIR%%/ctl;
control_state %%DIR%%/disk/state;
http {
    keyval_zone zone=k:1m state=%%DIR%%/disk/pairs;
    keyval $arg_k $value zone=k;
    upstream u { zone u 64k; server %%ORIGIN%%; }
    server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://u; } location /value { return 200 "<$value>"; } }
}
"#;

const SERVERS: &str = "/api/9/http/upstreams/u/servers";
const PAIRS: &str = "/api/9/http/keyvals/k";

/// A disk of 64 KiB.
pub struct Disk(PathBuf);

impl Disk {
    /// `None`: this user must not mount anything.
    pub fn mount(path: PathBuf) -> Option<Self> {
        std::fs::create_dir(&path).expect("a folder");
        let words = ["-t", "tmpfs", "-o", "size=64k", "tmpfs"];
        let made = Command::new("mount").args(words).arg(&path).output().ok()?;
        made.status.success().then(|| Self(path))
    }

    /// Fills it to the last byte.
    pub fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = File::create(&path).expect("created");
        for size in [4096, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// Makes changes until one is refused. Returns how many were accepted.
fn until_refused(mut change: impl FnMut(usize) -> u16) -> usize {
    for number in 0..1000 {
        match change(number) {
            201 => {}
            507 => return number,
            status => panic!("{status}"),
        }
    }
    panic!("nothing was refused");
}

fn add_server(daemon: &Daemon, number: usize) -> u16 {
    let body = json!({ "server": format!("127.0.0.1:{}", 1 + number), "down": true }).to_string();
    control(daemon, "POST", SERVERS, &body).status
}

fn add_pair(daemon: &Daemon, number: usize) -> u16 {
    let body = json!({ format!("key{number}"): "v".repeat(500) }).to_string();
    control(daemon, "POST", PAIRS, &body).status
}

fn pairs(daemon: &Daemon) -> usize {
    let Value::Object(all) = control(daemon, "GET", PAIRS, "").json() else { panic!("no object") };
    assert!(all.values().all(|value| value.as_str().is_some_and(|value| value.len() == 500)), "whole values");
    all.len()
}

fn lines(path: &Path) -> usize {
    let text = std::fs::read_to_string(path).expect("a state file");
    assert!(text.is_empty() || text.ends_with('\n'), "no half line: {text}");
    text.lines().count()
}

#[test]
fn a_full_disk_refuses_changes_and_loses_none() {
    if is_stand_in() {
        return;
    }
    let origin = Origin::saying("one");
    let setup = Setup::new(CONF).set("ORIGIN", origin.address()).level("notice").in_background();
    let Some(disk) = Disk::mount(setup.folder().join("disk")) else { return };
    let daemon = setup.start();
    assert_eq!((add_server(&daemon, 0), add_pair(&daemon, 0)), (201, 201));
    let filler = disk.fill();
    // The files' last pages may have room.
    let (more_servers, more_pairs) = (
        until_refused(|number| add_server(&daemon, 1 + number)),
        until_refused(|number| add_pair(&daemon, 1 + number)),
    );
    let is_whole = |daemon: &Daemon, more: usize| {
        assert_eq!(
            servers(daemon, "u").len(),
            2 + more_servers + more,
            "the configured one, and those accepted"
        );
        assert_eq!(pairs(daemon), 1 + more_pairs + more);
        assert_eq!(get(daemon.port(0), "/").text(), "one");
        assert_eq!(get(daemon.port(0), "/value?k=key0").text().len(), 502);
        let lost = get(daemon.port(0), &format!("/value?k=key{}", 2 + more_pairs)).text();
        assert_eq!(lost, "<>", "a refused pair is nowhere");
    };
    is_whole(&daemon, 0);
    assert_eq!(
        (lines(&disk.0.join("state")), lines(&disk.0.join("pairs"))),
        (1 + more_servers, 1 + more_pairs)
    );
    // A reload, and a restart, with the disk still full.
    assert_eq!(control(&daemon, "PATCH", "/1/control/config", "").status, 200);
    is_whole(&daemon, 0);
    daemon.stop(Signal::SIGQUIT);
    let again = daemon.run(&[]);
    assert!(again.status.success(), "{again:?}");
    daemon.follow(daemon.read("pronghorn.pid").trim().parse().expect("a pid"));
    is_whole(&daemon, 0);
    // Once there is room, changes are accepted again.
    std::fs::remove_file(filler).expect("removed");
    assert_eq!((add_server(&daemon, 500), add_pair(&daemon, 1 + more_pairs)), (201, 201));
    is_whole(&daemon, 1);
}
