//! `proxy_hedge_after`: a second server is asked when the first one takes long.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::support::deadline::deadline;
use crate::support::origin::ok;
use crate::support::{Client, Daemon, Origin, Setup, get};

const CONF: &str = r#"
http {
    log_format turns "$request_method $status $upstream_addr $upstream_status";
    access_log %%DIR%%/access.log turns;
    upstream pair { server %%SLOW%%; server %%OTHER%% backup; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        proxy_hedge_after 50ms;
        location / { proxy_pass http://pair; }
        location /never { proxy_hedge_after 0; proxy_pass http://pair; }
    }
}
"#;

/// A server that answers each request when the channel has a word: the body, or nothing to break off.
fn on_demand() -> (Sender<&'static str>, Origin) {
    let (go, wait): (_, Receiver<&'static str>) = channel();
    let wait = Mutex::new(wait);
    let origin = Origin::start(move |peer| {
        while peer.request().is_some() {
            match wait.lock().expect("not poisoned").recv_timeout(deadline()) {
                Ok("") | Err(_) => return,
                Ok(body) if peer.try_send(&ok(body.as_bytes())).is_err() => return,
                Ok(_) => {}
            }
        }
    });
    (go, origin)
}

fn start(slow: &Origin, other: &Origin) -> Daemon {
    Setup::new(CONF).set("SLOW", slow.address()).set("OTHER", other.address()).level("info").start()
}

fn line(daemon: &Daemon) -> String {
    daemon.wait_line("access.log", "GET")
}

#[test]
fn the_faster_answer_is_used_and_the_other_exchange_ends() {
    let ((go, slow), fast) = (on_demand(), Origin::saying("fast"));
    let daemon = start(&slow, &fast);
    assert_eq!(get(daemon.port(0), "/").text(), "fast");
    daemon.wait_log("a second server is asked after 50 ms");
    let turns = format!("GET 200 {}, {} -, 200", slow.address(), fast.address());
    assert!(line(&daemon).contains(&turns), "{}", line(&daemon));
    drop(go);
    slow.wait_ended(1);
    assert!(!daemon.log().contains("temporarily disabled"), "slow is not failed: {}", daemon.log());
}

#[test]
fn the_first_server_may_still_win() {
    let ((go, slow), (other_go, other)) = (on_demand(), on_demand());
    let daemon = start(&slow, &other);
    let mut client = Client::connect(daemon.port(0));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    other.wait_requests(1);
    go.send("slow").expect("it waits");
    assert_eq!(client.response().text(), "slow");
    let turns = format!("GET 200 {}, {} -, 200", other.address(), slow.address());
    assert!(line(&daemon).contains(&turns), "{}", line(&daemon));
    // The connection of the answer was kept, the other one was not.
    go.send("again").expect("it waits");
    assert_eq!(client.get("/").text(), "again");
    drop(other_go);
    other.wait_ended(1);
    assert_eq!((slow.accepted(), other.accepted()), (1, 1));
}

#[test]
fn each_of_them_stands_in_for_the_other_when_it_fails() {
    for first_fails in [true, false] {
        let ((go, slow), (other_go, other)) = (on_demand(), on_demand());
        let daemon = start(&slow, &other);
        let mut client = Client::connect(daemon.port(0));
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        other.wait_requests(1);
        let (fails, answers) = if first_fails { (&go, &other_go) } else { (&other_go, &go) };
        fails.send("").expect("it waits");
        if first_fails {
            slow.wait_ended(1);
        } else {
            other.wait_ended(1);
        }
        answers.send("whole").expect("it waits");
        assert_eq!(client.response().text(), "whole", "{first_fails}");
        daemon.wait_log("upstream prematurely closed connection while reading response header");
    }
}

#[test]
fn both_may_fail() {
    let ((go, slow), (other_go, other)) = (on_demand(), on_demand());
    let daemon = start(&slow, &other);
    let mut client = Client::connect(daemon.port(0));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    other.wait_requests(1);
    go.send("").expect("it waits");
    slow.wait_ended(1);
    other_go.send("").expect("it waits");
    // Another try is left, and no server for it: both have just failed.
    assert_eq!(client.response().status, 502);
}

#[test]
fn what_changes_something_or_has_a_body_is_sent_once() {
    let ((go, slow), fast) = (on_demand(), Origin::saying("fast"));
    let daemon = start(&slow, &fast);
    let requests = [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "DELETE / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
        "GET /never HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    for request in requests {
        let mut client = Client::connect(daemon.port(0));
        client.send(request);
        std::thread::sleep(std::time::Duration::from_millis(150)); // three times the limit
        go.send("slow").expect("it waits");
        assert_eq!(client.response().text(), "slow", "{request}");
    }
    assert_eq!(fast.requests().len(), 0);
}

#[test]
fn a_client_that_leaves_ends_both_exchanges() {
    let ((go, slow), (other_go, other)) = (on_demand(), on_demand());
    let daemon = start(&slow, &other);
    let mut client = Client::connect(daemon.port(0));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    other.wait_requests(1);
    drop(client);
    assert!(line(&daemon).contains("GET 499"), "{}", line(&daemon));
    drop((go, other_go));
    slow.wait_ended(1);
    other.wait_ended(1);
}

#[test]
fn a_group_that_is_slow_as_a_whole_is_not_asked_twice_for_ever() {
    let answer = |peer: &mut crate::support::origin::Peer| {
        while peer.request().is_some() {
            std::thread::sleep(std::time::Duration::from_millis(500));
            if peer.try_send(&ok(b"slow")).is_err() {
                return;
            }
        }
    };
    let (slow, other) = (Origin::start(answer), Origin::start(answer));
    let daemon = start(&slow, &other);
    let clients: Vec<_> = (0..40)
        .map(|_| {
            let port = daemon.port(0);
            std::thread::spawn(move || get(port, "/").text())
        })
        .collect();
    clients.into_iter().for_each(|client| assert_eq!(client.join().expect("answered"), "slow"));
    daemon.wait_log("no second server is asked: more than 10 % of the requests to \"pair\" are slow");
    assert!(other.requests().len() <= 20, "{}", other.requests().len());
}

#[test]
fn a_second_exchange_without_room_leaves_the_first_alone() {
    let ((go, slow), (_other_go, other)) = (on_demand(), on_demand());
    // The listener, two clients and their connections to the slow server: none is left.
    let conf = format!("events {{ worker_connections 5; }}\n{CONF}");
    let daemon =
        Setup::new(&conf).set("SLOW", slow.address()).set("OTHER", other.address()).level("info").start();
    let mut clients = ["/never", "/"].map(|path| {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client
    });
    slow.wait_requests(2);
    daemon.wait_log("a second server is asked after 50 ms");
    clients.iter().for_each(|_| go.send("slow").expect("it waits"));
    clients.iter_mut().for_each(|client| assert_eq!(client.response().text(), "slow"));
    daemon.wait_log("no second server is asked: .*worker_connections are not enough");
    assert_eq!(other.requests().len(), 0);
}

#[test]
fn a_hedge_that_fails_is_one_of_the_tries() {
    let ((go, first), (other_go, second)) = (on_demand(), on_demand());
    let third = Origin::saying("third");
    let conf = "http {
        upstream three { keepalive 0; server %%FIRST%% max_fails=0; server %%SECOND%% max_fails=0;
                         server %%THIRD%% max_fails=0; }
        server { listen 127.0.0.1:%%PORT_0%%; proxy_hedge_after 50ms; proxy_next_upstream_tries 2;
                 location / { proxy_pass http://three; } }
    }";
    let addresses = [("FIRST", first.address()), ("SECOND", second.address()), ("THIRD", third.address())];
    let setup = addresses.iter().fold(Setup::new(conf), |setup, (name, address)| setup.set(name, address));
    let daemon = setup.level("info").start();
    let mut client = Client::connect(daemon.port(0));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    second.wait_requests(1);
    go.send("").expect("it waits");
    other_go.send("").expect("it waits");
    assert_eq!(client.response().status, 502);
    let asked = [&first, &second, &third].map(|origin| origin.requests().len());
    assert_eq!(asked, [1, 1, 0]);
}
