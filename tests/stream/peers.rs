//! Streams between real programs: PostgreSQL with pgbench, Redis with redis-benchmark, and an MQTT broker with its clients,
//! over reloads and a binary upgrade. Each test says so and ends where its programs are not installed.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};
use tempfile::TempDir;

use crate::process::upgrade::upgrade;
use crate::support::daemon::send;
use crate::support::program::{Program, find};
use crate::support::{Client, Daemon, Setup, port, process, wait_for};

/// A folder that belongs to `user`, if the test runs as root: some programs refuse to.
fn folder_of(user: Option<&User>) -> TempDir {
    let folder = tempfile::Builder::new().prefix("pronghorn-peer-").tempdir().expect("a folder");
    if let Some(user) = user {
        let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
        std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).expect("we are root");
    }
    folder
}

fn command(program: &Path, user: Option<&User>) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/");
    if let Some(user) = user {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

fn is_up(mut program: Program, port: u16) -> Program {
    wait_for("the program to listen", || (process::is_listening(port) || program.has_ended()).then_some(()));
    assert!(!program.has_ended(), "it does not start");
    program
}

fn run(command: &mut Command) -> Output {
    let output = command.output().expect("it can be run");
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

/// Starts a load generator, whose output is read at its end.
fn start(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be run")
}

/// Waits for its end, while the daemon is reloaded, and upgraded once.
fn disturb(daemon: &Daemon, child: Child) -> Output {
    for _ in 0..3 {
        daemon.reload();
    }
    let old = daemon.pid();
    let new = upgrade(daemon);
    send(old, Signal::SIGQUIT);
    wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
    daemon.follow(new);
    daemon.reload();
    child.wait_with_output().expect("it ends")
}

/// A PostgreSQL with an empty cluster; `None` where it is not installed.
fn postgres() -> Option<(Program, TempDir, u16, PathBuf)> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    folders.retain(|folder| folder.join("pgbench").is_file() && folder.join("initdb").is_file());
    let Some(bin) = folders.pop() else {
        assert!(std::env::var_os("PRONGHORN_NEED_PEERS").is_none(), "PostgreSQL is not installed");
        eprintln!("PostgreSQL is not installed: not tested");
        return None;
    };
    let user = User::from_name("postgres").expect("users are known").filter(|_| Uid::effective().is_root());
    let folder = folder_of(user.as_ref());
    let data = folder.path().join("data");
    let mut initdb = command(&bin.join("initdb"), user.as_ref());
    run(initdb.arg("-D").arg(&data).args(["--no-sync", "-A", "trust", "-U", "bench", "-E", "UTF8"]));
    let own = port::free();
    let mut server = command(&bin.join("postgres"), user.as_ref());
    server.arg("-D").arg(&data).args(["-F", "-p", &own.to_string(), "-k", ""]);
    server.args(["-c", "listen_addresses=127.0.0.1", "-c", "shared_buffers=16MB"]);
    let program = is_up(Program::start(&mut server), own);
    Some((program, folder, own, bin))
}

#[test]
fn pgbench_loses_no_connection_over_reloads_and_an_upgrade() {
    let Some((_server, _folder, own, bin)) = postgres() else { return };
    // The check asks for TLS, which a server that is up refuses with a letter.
    let conf = r#"worker_processes 2;
    stream {
        match postgres { send "\x00\x00\x00\x08\x04\xd2\x16\x2f"; expect ~ "^[NS]$"; }
        upstream database { server 127.0.0.1:%%OWN%%; server 127.0.0.1:%%CLOSED%%; }
        server { listen 127.0.0.1:%%PORT_0%%; proxy_pass database; proxy_timeout 1h;
                 health_check match=postgres interval=200ms mandatory persistent; }
    }"#;
    let setup = Setup::new(conf).set("OWN", own).set("CLOSED", port::refusing());
    let daemon = setup.level("info").in_background().start();
    daemon.wait_log(&format!("peer is healthy while .* of peer 127.0.0.1:{own} "));
    let proxied = daemon.port(0).to_string();
    let pgbench = || {
        let mut pgbench = Command::new(bin.join("pgbench"));
        pgbench.args(["-h", "127.0.0.1", "-U", "bench", "-p", &proxied]).env_remove("PGPASSWORD");
        pgbench
    };
    wait_for("the database", || {
        let tried = pgbench().args(["-i", "-q", "postgres"]).output().expect("it can be run");
        tried.status.success().then_some(())
    });
    let load = start(pgbench().args(["-n", "-c", "4", "-j", "2", "-T", "4", "postgres"]));
    let output = disturb(&daemon, load);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(told.contains("number of failed transactions: 0 (0.000%)"), "{told}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!told.contains("aborted") && !told.contains("closed the connection"), "{told}");
    assert_eq!(daemon.complaints("emerg|alert|crit").len(), 0);
}

#[test]
fn redis_serves_through_reloads_and_is_found_again() {
    let (Some(server), Some(benchmark)) = (find(&["redis-server"]), find(&["redis-benchmark"])) else {
        return;
    };
    let folder = folder_of(None);
    let own = port::free();
    let redis = || {
        let mut redis = Command::new(&server);
        redis.args(["--bind", "127.0.0.1", "--save", "", "--port", &own.to_string()]);
        is_up(Program::start(redis.arg("--dir").arg(folder.path())), own)
    };
    let first = redis();
    let conf = r#"stream {
        match redis { send "PING\r\n"; expect "+PONG"; }
        upstream redis { server 127.0.0.1:%%OWN%%; server 127.0.0.1:%%CLOSED%% backup; }
        server { listen 127.0.0.1:%%PORT_0%%; proxy_pass redis; health_check match=redis interval=100ms mandatory persistent; }
    }"#;
    let setup = Setup::new(conf).set("OWN", own).set("CLOSED", port::refusing());
    let daemon = setup.level("info").in_background().start();
    daemon.wait_log("peer is healthy");
    let mut load = Command::new(benchmark);
    load.args([
        "-h",
        "127.0.0.1",
        "-p",
        &daemon.port(0).to_string(),
        "-q",
        "-c",
        "10",
        "-n",
        "20000",
        "-t",
        "set,get",
    ]);
    let output = disturb(&daemon, start(&mut load));
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("GET: "), "{output:?}");
    assert!(!told.contains("Error") && output.stderr.is_empty(), "{output:?}");
    drop(first);
    daemon.wait_log(&format!("peer is unhealthy while .* of peer 127.0.0.1:{own} "));
    let _second = redis();
    wait_for("redis to be found again", || {
        let mut client = Client::connect(daemon.port(0));
        client.send("PING\r\n");
        (client.some(16) == b"+PONG\r\n").then_some(())
    });
}

#[test]
fn a_broker_sees_the_names_that_are_set_and_messages_pass_over_a_reload() {
    let programs = [&["mosquitto"][..], &["mosquitto_sub"], &["mosquitto_pub"]].map(find);
    let [Some(broker), Some(subscriber), Some(publisher)] = programs else { return };
    let folder = folder_of(None);
    let (own, log) = (port::free(), folder.path().join("broker.log"));
    let text = format!(
        "listener {own} 127.0.0.1\nallow_anonymous true\nlog_type all\nlog_dest file {}\nuser root\n",
        log.display()
    );
    std::fs::write(folder.path().join("broker.conf"), text).expect("the folder is ours");
    let mut broker = Command::new(broker);
    let _broker = is_up(Program::start(broker.arg("-c").arg(folder.path().join("broker.conf"))), own);
    let conf = "stream {
        server { listen 127.0.0.1:%%PORT_0%%; proxy_pass 127.0.0.1:%%OWN%%; mqtt on; mqtt_preread on;
                 mqtt_set_connect clientid tenant-$mqtt_preread_clientid; mqtt_set_connect username $server_port; }
    }";
    let daemon = Setup::new(conf).set("OWN", own).level("info").start();
    let proxied = daemon.port(0).to_string();
    let client = |program: &Path, version: &str, id: &str| {
        let mut client = Command::new(program);
        client.args(["-h", "127.0.0.1", "-p", &proxied, "-V", version, "-i", id, "-t", "news", "-q", "1"]);
        client
    };
    let subscribed = start(client(&subscriber, "mqttv5", "reader").args(["-C", "2", "-W", "60"]));
    let logged =
        |what: &str| wait_for(what, || std::fs::read_to_string(&log).ok().filter(|log| log.contains(what)));
    let told = logged("Received SUBSCRIBE from tenant-reader");
    assert!(told.contains(&format!("as tenant-reader (p5, c1, k60, u'{proxied}')")), "{told}");
    run(client(&publisher, "mqttv311", "writer").args(["-m", "before"]));
    daemon.reload();
    run(client(&publisher, "mqttv311", "writer").args(["-m", "after"]));
    let output = subscribed.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "before\nafter\n", "{output:?}");
    assert!(logged("as tenant-writer (p2").contains("tenant-writer"));
}
