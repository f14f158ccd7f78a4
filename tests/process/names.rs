//! Names in a configuration: looked up in parallel, in a separate process, with one deadline for all of them.
//!
//! The daemon gets its own `resolv.conf` in a mount namespace, so that it asks the test's name server. That
//! needs root; without it these tests do nothing.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;

use crate::support::daemon::{binary, is_stand_in, send};
use crate::support::dns::{A, AAAA, Dns, Query, Reply};
use crate::support::{Daemon, Setup, get, process, wait_for};

const CONF: &str = r#"
worker_processes 2;
names_timeout 1h;
http {
    %%GROUPS%%
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { return 200 "version 0\n"; }
        # uses
    }
}
"#;

/// A name server that answers only once it is told to: every name is 127.0.0.1.
struct Scene {
    dns: Dns,
    answers: Arc<AtomicBool>,
}

impl Scene {
    fn new(answers: bool) -> Option<Self> {
        if is_stand_in() || !may_mount() {
            return None;
        }
        let answers = Arc::new(AtomicBool::new(answers));
        let asked = answers.clone();
        let script =
            move |query: &Query| if asked.load(Ordering::SeqCst) { reply(query) } else { Vec::new() };
        Some(Self { dns: Dns::for_the_system(script)?, answers })
    }

    /// `count` groups with one name each.
    fn setup(&self, count: usize) -> Setup {
        self.setup_within("1h", count)
    }

    /// The same with another `names_timeout`.
    fn setup_within(&self, timeout: &str, count: usize) -> Setup {
        let group = |index| format!("upstream u{index} {{ server n{index}.test:1; }} ");
        let conf = CONF.replace("1h", timeout);
        self.with(Setup::new(&conf).set("GROUPS", (0..count).map(group).collect::<String>()).level("notice"))
    }

    /// Makes the daemon ask this server, and wait for it longer than any test does.
    fn with(&self, setup: Setup) -> Setup {
        let resolv = format!("nameserver {}\noptions timeout:30 attempts:1\n", self.dns.ip());
        let folder = setup.folder().display().to_string();
        let script = format!(
            "#!/bin/sh\nexec unshare --mount sh -c 'mount --bind {folder}/resolv.conf /etc/resolv.conf && \
             mount --bind {folder}/nsswitch.conf /etc/nsswitch.conf && exec \"$0\" \"$@\"' '{}' \"$@\"\n",
            binary().display()
        );
        let wrapper = setup.folder().join("wrapper");
        let setup = setup
            .file("resolv.conf", resolv)
            .file("nsswitch.conf", "hosts: files dns\n")
            .file("wrapper", script);
        std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
        setup.program(&wrapper)
    }

    /// Waits until the addresses of the first names were asked for.
    fn wait_asked(&self, count: usize) {
        (0..count).for_each(|index| self.dns.wait_asked(&format!("n{index}.test"), A, 1));
    }

    /// Answers everything from now on, including earlier questions.
    fn answer(&self) {
        self.answers.store(true, Ordering::SeqCst);
        for query in self.dns.queries() {
            for reply in reply(&query) {
                if let Reply::Answer(bytes) = reply {
                    query.socket.send_to(&bytes, query.from).expect("sends");
                }
            }
        }
    }
}

fn reply(query: &Query) -> Vec<Reply> {
    let records = if query.kind == A { vec![query.a(60, "127.0.0.1")] } else { Vec::new() };
    query.reply(&records)
}

fn may_mount() -> bool {
    let output = Command::new("unshare").args(["--mount", "true"]).output();
    output.is_ok_and(|output| output.status.success())
}

/// The process that looks names up: it has closed everything but the pipe.
fn lookup(daemon: &Daemon) -> Option<i32> {
    let all = process::children(daemon.pid());
    let title = |pid: &i32| process::title(*pid).contains("worker process");
    all.into_iter().find(|pid| process::is_alive(*pid) && !title(pid))
}

fn add_names(daemon: &Daemon, version: usize, count: usize) {
    daemon.rewrite(|text| {
        let group = |index| format!("upstream u{index} {{ server n{index}.test:1; }} ");
        let groups: String = (0..count).map(group).collect();
        let text = text.replace("version 0", &format!("version {version}"));
        text.replace("http {", &format!("http {{ {groups}"))
    });
}

#[test]
fn a_start_asks_for_all_names_before_any_is_answered() {
    let Some(scene) = Scene::new(false) else { return };
    let daemon = scene.setup(20).spawn();
    scene.wait_asked(20);
    assert_eq!(daemon.workers_now().len(), 1, "the one that asks");
    scene.answer();
    wait_for("both workers", || (daemon.log_count("start worker process \\d") == 2).then_some(()));
    wait_for("the daemon", || process::is_listening(daemon.port(0)).then_some(()));
    assert_eq!(get(daemon.port(0), "/").text(), "version 0\n");
    assert_eq!(daemon.complaints("emerg|alert|crit|error"), [""; 0]);
}

#[test]
fn a_start_goes_on_at_the_deadline_and_names_those_without_an_answer() {
    let Some(scene) = Scene::new(false) else { return };
    let daemon = scene.setup_within("300ms", 25).spawn();
    wait_for("the daemon", || process::is_listening(daemon.port(0)).then_some(()));
    let line = daemon.wait_log("no answer within 300 ms");
    assert!(line.contains("n0.test, n1.test, n10.test") && line.contains(" and 5 more"), "{line}");
    assert!(line.contains("\"names_timeout\""), "{line}");
    assert_eq!(daemon.log_count("host not found in upstream \"n\\d+.test:1\""), 25);
    assert_eq!(get(daemon.port(0), "/").text(), "version 0\n");
}

#[test]
fn a_signal_ends_a_start_that_waits_for_names() {
    let Some(scene) = Scene::new(false) else { return };
    for (done, signal) in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT].into_iter().enumerate() {
        let daemon = scene.setup(3).spawn();
        // Each daemon asks anew. Before it does, the process may still be the shell that starts it.
        scene.dns.wait_asked("n2.test", A, done + 1);
        wait_for("the lookup", || lookup(&daemon));
        daemon.stop(signal);
        assert!(!daemon.path("pronghorn.pid").exists());
    }
}

#[test]
fn a_reload_that_waits_for_names_keeps_the_master_at_work() {
    let Some(scene) = Scene::new(false) else { return };
    let daemon = scene.setup(0).start();
    let descriptors = process::fd_count(daemon.pid());
    add_names(&daemon, 1, 20);
    daemon.signal(Signal::SIGHUP);
    scene.wait_asked(20);
    let asking = lookup(&daemon).expect("it asks");
    assert!(process::fd_count(asking) <= 4 + 20, "it keeps nothing but its pipe and the resolver's sockets");

    // A worker that dies is replaced.
    let before = daemon.workers();
    let workers: Vec<i32> = before.into_iter().filter(|pid| *pid != asking).collect();
    send(workers[0], Signal::SIGKILL);
    wait_for("another worker", || (daemon.log_count("start worker process \\d") == 3).then_some(()));
    assert_eq!(get(daemon.port(0), "/").text(), "version 0\n");

    // Another reload follows after this one.
    daemon.rewrite(|text| text.replace("version 1", "version 2"));
    daemon.signal(Signal::SIGHUP);
    wait_for("both reloads", || (daemon.log_count("reconfiguring") == 2).then_some(()));
    assert_eq!(get(daemon.port(0), "/").text(), "version 0\n");
    scene.answer();
    wait_for("the last version", || (get(daemon.port(0), "/").text() == "version 2\n").then_some(()));
    wait_for("the lookups to be gone", || lookup(&daemon).is_none().then_some(()));
    wait_for("no descriptor more", || (process::fd_count(daemon.pid()) == descriptors).then_some(()));
    assert_eq!(daemon.complaints("emerg|crit|error"), [""; 0]);
}

#[test]
fn a_stop_does_not_wait_for_names() {
    let Some(scene) = Scene::new(false) else { return };
    for signal in [Signal::SIGTERM, Signal::SIGQUIT] {
        let daemon = scene.setup(0).start();
        add_names(&daemon, 1, 2);
        daemon.signal(Signal::SIGHUP);
        wait_for("the lookup", || lookup(&daemon));
        let status = daemon.stop(signal);
        assert_eq!(status.and_then(|status| status.code()), Some(0));
        assert_eq!(daemon.log_count("the configuration that was being read is given up"), 1);
    }
}

#[test]
fn a_reload_none_of_whose_names_is_answered_is_refused_and_the_next_one_is_done() {
    let Some(scene) = Scene::new(true) else { return };
    let daemon = scene.setup(1).start();
    scene.answers.store(false, Ordering::SeqCst);
    add_names(&daemon, 1, 0);
    daemon.rewrite(|text| {
        text.replace("names_timeout 1h", "names_timeout 300ms")
            .replace("n0.test:1", "n1.test:1; server n2.test:1")
    });
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log("no answer within 300 ms .* for the names n1.test, n2.test");
    daemon
        .wait_log(r#"\[emerg\] .*host not found in upstream "n1.test:1", the configuration in force stays"#);
    assert_eq!(get(daemon.port(0), "/").text(), "version 0\n");
    scene.answers.store(true, Ordering::SeqCst);
    daemon.reload();
    assert_eq!(get(daemon.port(0), "/").text(), "version 1\n");
}

#[test]
fn every_directive_with_a_name_is_asked_for_at_once() {
    let Some(scene) = Scene::new(false) else { return };
    let conf = r#"
        names_timeout 1h;
        error_log syslog:server=n0.test;
        http {
            resolver n1.test n2.test;
            access_log syslog:server=n3.test:515;
            upstream u { server n4.test; server n5.test:81; }
            upstream own { resolver n6.test; server 127.0.0.1:1; }
            limit_req_zone $uri zone=z:1m rate=1r/s;
            server {
                listen n8.test:%%PORT_0%%;
                set_real_ip_from n9.test;
                access_log %%DIR%%/buffered.log combined buffer=8k;
                location / { return 200 "version 0\n"; }
                location /own { limit_req zone=z; proxy_pass http://own; }
                location /one { proxy_pass http://n10.test; }
                location /set { resolver n11.test; set $h n12.test; proxy_pass http://$h; }
            }
            server { listen n8.test:%%PORT_0%%; server_name x; access_log %%DIR%%/buffered.log combined buffer=8k; }
        }
    "#;
    let daemon = scene.with(Setup::new(conf).level("notice")).spawn();
    for index in (0..12).filter(|index| *index != 7) {
        scene.dns.wait_asked(&format!("n{index}.test"), A, 1);
        scene.dns.wait_asked(&format!("n{index}.test"), AAAA, 1);
    }
    scene.answer();
    wait_for("the daemon", || process::is_listening(daemon.port(0)).then_some(()));
    assert_eq!(get(daemon.port(0), "/").text(), "version 0\n");
    let asked = scene.dns.queries();
    assert!(asked.iter().all(|query| query.name != "n12.test"), "only a request asks for it");
    assert_eq!(scene.dns.asked("n8.test", A), 1, "it is one name, however often it is written");
    assert_eq!(daemon.complaints("emerg|alert|crit|error"), [""; 0]);
}

#[test]
fn a_test_of_the_configuration_asks_in_the_same_way() {
    let Some(scene) = Scene::new(false) else { return };
    let setup = scene.setup(20);
    let answering = std::thread::scope(|scope| {
        scope.spawn(|| {
            scene.wait_asked(20);
            scene.answer();
        });
        setup.run(&["-t"])
    });
    let errors = String::from_utf8_lossy(&answering.stderr).into_owned();
    assert!(answering.status.success() && !errors.contains("[warn]"), "{errors}");
}
