//! `state` in an `upstream` block: the servers are those of a file, which each change writes anew.

use nix::sys::signal::Signal;
use serde_json::json;

use super::disk::Disk;
use super::{control, ctl};
use crate::process::upgrade::upgrade;
use crate::support::daemon::{is_stand_in, send};
use crate::support::{Daemon, Origin, Setup, get, process, wait_for};

const CONF: &str = r#"
worker_processes 2;
control unix:%%DIR%%/ctl;
control_state changes;
http {
    upstream u { zone u 64k; state disk/u.servers; }
    server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://u; } }
}
stream {
    upstream s { zone s 64k; state disk/s.servers; }
    server { listen 127.0.0.1:%%PORT_1%%; proxy_pass s; }
}
"#;

const HTTP: &str = "/api/9/http/upstreams/u/servers";
const STREAM: &str = "/api/9/stream/upstreams/s/servers";

fn add(daemon: &Daemon, path: &str, server: &str) -> u16 {
    control(daemon, "POST", path, &json!({ "server": server }).to_string()).status
}

/// Waits until both workers answer so.
fn answers(daemon: &Daemon, port: usize, text: &str) {
    wait_for(text, || (0..8).all(|_| get(daemon.port(port), "/").text() == text).then_some(()));
}

#[test]
fn changes_are_kept_in_the_file_over_a_reload_an_upgrade_and_a_restart() {
    if is_stand_in() {
        return;
    }
    let (one, two) = (Origin::saying("one"), Origin::saying("two"));
    let setup = Setup::new(CONF).level("notice").in_background();
    std::fs::create_dir(setup.folder().join("disk")).expect("a folder");
    let daemon = setup.start();
    assert_eq!(get(daemon.port(0), "/").status, 502, "without a file there are no servers");
    assert_eq!((add(&daemon, HTTP, &one.address()), add(&daemon, STREAM, &two.address())), (201, 201));
    answers(&daemon, 0, "one");
    answers(&daemon, 1, "two");
    assert_eq!(daemon.read("disk/u.servers"), format!("server {};\n", one.address()));
    assert_eq!(daemon.read("disk/s.servers"), format!("server {};\n", two.address()));
    assert_eq!(add(&daemon, HTTP, &two.address()), 201);
    let path = format!("{HTTP}/0");
    assert_eq!(control(&daemon, "PATCH", &path, r#"{"down": true, "weight": 3}"#).status, 200);
    let both = format!("server {} weight=3 down;\nserver {};\n", one.address(), two.address());
    let is_kept = || {
        assert_eq!(daemon.read("disk/u.servers"), both);
        answers(&daemon, 0, "two");
        answers(&daemon, 1, "two");
        let (_, told, _) = ctl(&daemon, &["diff"]);
        assert_eq!(told, "nothing is different from the configuration\n", "the file is a part of it");
    };
    is_kept();
    assert_eq!(control(&daemon, "PATCH", "/1/control/config", "").status, 200);
    is_kept();
    let old = daemon.pid();
    let new = upgrade(&daemon);
    send(old, Signal::SIGQUIT);
    wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
    daemon.follow(new);
    is_kept();
    daemon.stop(Signal::SIGQUIT);
    let again = daemon.run(&[]);
    assert!(again.status.success(), "{again:?}");
    daemon.follow(daemon.read("pronghorn.pid").trim().parse().expect("a pid"));
    is_kept();
    for id in [0, 1] {
        assert_eq!(control(&daemon, "DELETE", &format!("{HTTP}/{id}"), "").status, 200);
    }
    assert_eq!(daemon.read("disk/u.servers"), "");
    wait_for("no server", || (0..8).all(|_| get(daemon.port(0), "/").status == 502).then_some(()));
    assert_eq!(daemon.read("changes"), "", "they are not among the other changes");
}

#[test]
fn a_full_disk_refuses_changes_and_keeps_the_file() {
    if is_stand_in() {
        return;
    }
    let origin = Origin::saying("one");
    let setup = Setup::new(CONF).level("crit");
    let Some(disk) = Disk::mount(setup.folder().join("disk")) else { return };
    let daemon = setup.start();
    let (address, backup) = (origin.address(), json!({ "server": "127.0.0.1:2", "backup": true }));
    assert_eq!(add(&daemon, HTTP, &address), 201);
    assert_eq!(control(&daemon, "POST", HTTP, &backup.to_string()).status, 201);
    let before = daemon.read("disk/u.servers");
    let filler = disk.fill();
    assert_eq!(add(&daemon, HTTP, "127.0.0.1:1"), 507);
    assert_eq!(control(&daemon, "DELETE", &format!("{HTTP}/0"), "").status, 507);
    assert_eq!(daemon.read("disk/u.servers"), before);
    answers(&daemon, 0, "one");
    std::fs::remove_file(filler).expect("removed");
    assert_eq!(control(&daemon, "DELETE", &format!("{HTTP}/0"), "").status, 200);
    assert_eq!(daemon.read("disk/u.servers"), "server 127.0.0.1:2 backup;\n");
}

#[test]
fn what_cannot_be_right_is_refused_with_its_place() {
    let refused = |upstreams: &str, file: &str| {
        let conf = format!(
            "http {{ {upstreams} server {{ listen 127.0.0.1:%%PORT_0%%; location / {{ proxy_pass http://u; }} }} }}"
        );
        let output = Setup::new(&conf).file("u.servers", file).run(&["-t"]);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let cases = [
        ("upstream u { state u.servers; server 127.0.0.1:1; }", "", "cannot both be in an upstream"),
        ("upstream u { server 127.0.0.1:1; state u.servers; }", "", "cannot both be in an upstream"),
        ("upstream u { state u.servers; state v.servers; }", "", "directive is duplicate"),
        (
            "upstream u { state u.servers; } upstream v { state u.servers; }",
            "",
            "is the state of upstream \"u\" in \"http\" already",
        ),
        (
            "upstream u { state u.servers; } upstream v { state ./u.servers; }",
            "",
            "is the state of upstream \"u\" in \"http\" already",
        ),
        (
            "upstream u { state u.servers; }",
            "server 127.0.0.1:1;\nserver 127.0.0.1:2 weight=x;\n",
            "u.servers:2",
        ),
    ];
    for (upstreams, file, message) in cases {
        let (is_good, text) = refused(upstreams, file);
        assert!(
            !is_good && text.contains(message) && text.contains("pronghorn.conf:"),
            "{upstreams}: {text}"
        );
    }
    let (is_good, text) = refused("upstream u { state none/u.servers; }", "");
    assert!(is_good && text.contains("changes of this upstream cannot be kept"), "{text}");
}

#[test]
fn one_file_for_two_parts_is_refused_with_both_places() {
    let conf = "http {\nupstream u {\nstate u.servers;\n}\nserver { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://u; } }\n}\n\
                stream {\nupstream v {\nstate u.servers;\n}\nserver { listen 127.0.0.1:%%PORT_1%%; proxy_pass v; }\n}\n";
    for file in ["server 127.0.0.1:1;\n", ""] {
        let setup = Setup::new(conf).file("u.servers", file);
        if file.is_empty() {
            std::fs::remove_file(setup.folder().join("u.servers")).expect("removed");
        }
        let output = setup.run(&["-t"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let line_of = |word: &str| {
            let conf = std::fs::read_to_string(setup.folder().join("pronghorn.conf")).expect("it is there");
            let after = conf.find(word).expect("it is in it");
            conf[..after].lines().count() + 1
        };
        let (first, second) = (line_of("upstream u") + 1, line_of("upstream v") + 1);
        let found = "is the state of upstream \"u\" in \"http\" already";
        assert!(!output.status.success() && text.contains(found), "{text}");
        assert!(text.contains(&format!("pronghorn.conf:{second}\n")), "{second}: {text}");
        assert!(text.contains(&format!("pronghorn.conf:{first}: give each")), "{first}: {text}");
    }
}
