//! Sessions over a reload and a graceful stop: they go on in the worker that has them, which leaves with the last one.

use nix::sys::signal::Signal;

use crate::support::wire::End;
use crate::support::{Client, Daemon, Origin, Setup, process, wait_for};

fn echo() -> Origin {
    Origin::start(|peer| {
        loop {
            let bytes = peer.some(4096);
            if bytes.is_empty() || peer.try_send(&bytes).is_err() {
                return;
            }
        }
    })
}

fn start(origin: &Origin, main: &str) -> Daemon {
    let conf = "%%MAIN%%
        stream {
            upstream app { server %%ORIGIN%%; }
            server { listen 127.0.0.1:%%PORT_0%%; proxy_pass app; }
            server { listen 127.0.0.1:%%PORT_1%%; return before; }
        }";
    Setup::new(conf).set("ORIGIN", origin.address()).set("MAIN", main).start()
}

fn ping(client: &mut Client, text: &str) {
    client.send(text);
    assert_eq!(client.exactly(text.len()), text.as_bytes());
}

#[test]
fn a_session_outlives_a_reload_and_its_worker_leaves_after_it() {
    let origin = echo();
    let daemon = start(&origin, "");
    let old = daemon.worker();
    let mut client = Client::connect(daemon.port(0));
    ping(&mut client, "one");
    daemon.rewrite(|text| text.replace("return before", "return after"));
    daemon.signal(Signal::SIGHUP);
    wait_for("the new configuration", || {
        (Client::connect(daemon.port(1)).rest().0 == b"after").then_some(())
    });
    ping(&mut client, "two");
    let mut other = Client::connect(daemon.port(0));
    ping(&mut other, "three");
    assert!(process::is_alive(old), "its session is open");
    drop(client);
    wait_for("the old worker to leave", || (!process::is_alive(old)).then_some(()));
    ping(&mut other, "four");
}

#[test]
fn a_graceful_stop_waits_for_sessions_up_to_its_timeout() {
    let origin = echo();
    let daemon = start(&origin, "worker_shutdown_timeout 300ms;");
    let mut client = Client::connect(daemon.port(0));
    ping(&mut client, "one");
    daemon.signal(Signal::SIGQUIT);
    assert_eq!(client.expect_end(), End::Closed);
    assert_eq!(daemon.wait_end().and_then(|status| status.code()), Some(0));
}
