//! The balancers besides round robin, and round robin of several workers: each with scripted origins that say
//! which one was asked.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::support::deadline::{deadline, wait_for};
use crate::support::origin::ok;
use crate::support::{Client, Daemon, Origin, Setup, port};

const CONF: &str = r#"
worker_processes 4;
http {
    set_real_ip_from 127.0.0.1;
    real_ip_header X-Real-IP;
    upstream turns { zone turns 64k; server %%A%% weight=5; server %%B%% weight=3; server %%C%% weight=2; }
    upstream least { zone least 64k; least_conn; server %%A%%; server %%B%%; server %%C%%; }
    upstream two { random two least_conn; server %%A%%; server %%B%%; server %%C%%; }
    upstream any { random; server %%A%%; server %%B%%; server %%C%% down; }
    upstream key { hash $arg_k; server %%A%%; server %%B%%; server %%C%%; }
    upstream ring { hash $arg_k consistent; server %%A%%; server %%B%%; server %%CLOSED%%; server %%C%%; }
    upstream hot { zone hot 64k; hash $arg_k consistent bounded=1.25; server %%A%%; server %%B%%; server %%C%%; }
    upstream network { ip_hash; server %%A%%; server %%B%%; server %%C%%; }
    upstream head { zone head 64k; least_time header; server %%SLOW%%; server %%B%%; }
    upstream whole { zone whole 64k; least_time last_byte inflight; server %%SLOW%%; server %%B%%; }
    upstream peak { zone peak 64k; least_time ewma; server %%SLOW%%; server %%B%%; }
    upstream two_times { zone two_times 64k; random two least_time=ewma; server %%SLOW%%; server %%B%%; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        add_header X-Worker $pid;
        location ~ ^/(\w+) { proxy_pass http://$1; }
    }
}
"#;

/// An origin that says `name`, and whose responses to `/…/held` wait for [`Scene::release`].
struct Held {
    origin: Origin,
    arrived: Receiver<()>,
    release: Sender<()>,
}

fn held(name: &'static str, pause: Duration) -> Held {
    let (release, released) = channel::<()>();
    let (arrive, arrived) = channel::<()>();
    let (released, arrive) = (Mutex::new(released), Mutex::new(arrive));
    let origin = Origin::start(move |peer| {
        while let Some(request) = peer.request() {
            if request.target.contains("held") {
                let _ = arrive.lock().unwrap().send(());
                let _ = released.lock().unwrap().recv_timeout(deadline());
            }
            std::thread::sleep(pause); // the time that a balancer measures
            peer.send(ok(name.as_bytes()));
        }
    });
    Held { origin, arrived, release }
}

struct Scene {
    origins: [Held; 4],
    daemon: Daemon,
}

fn start() -> Scene {
    let quick = Duration::ZERO;
    let origins =
        [held("a", quick), held("b", quick), held("c", quick), held("slow", Duration::from_millis(80))];
    let daemon = Setup::new(CONF)
        .level("warn")
        .set("A", origins[0].origin.address())
        .set("B", origins[1].origin.address())
        .set("C", origins[2].origin.address())
        .set("SLOW", origins[3].origin.address())
        .set("CLOSED", format!("127.0.0.1:{}", port::refusing()))
        .start();
    Scene { origins, daemon }
}

impl Scene {
    fn client(&self) -> Client {
        Client::connect(self.daemon.port(0))
    }

    /// The origins asked by requests on these connections, in turn.
    fn counts(&self, clients: &mut [Client], path: &str, count: usize) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for number in 0..count {
            let client = &mut clients[number % clients.len()];
            *counts.entry(client.get(path).text()).or_default() += 1;
        }
        counts
    }

    /// Sends requests on connections of their own, and waits until each has arrived at an origin. Returns the
    /// number at each of the first three.
    fn hold(&self, path: &str, count: usize) -> (Vec<Client>, [usize; 3]) {
        let mut arrived = [0; 3];
        let clients = (0..count).map(|_| {
            let mut client = self.client();
            client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            let looks = || (0..3).find(|&index| self.origins[index].arrived.try_recv().is_ok());
            arrived[wait_for("the request to arrive", looks)] += 1;
            client
        });
        (clients.collect(), arrived)
    }

    /// Lets all held requests be answered.
    fn release(&self, mut clients: Vec<Client>) {
        for origin in &self.origins {
            clients.iter().for_each(|_| _ = origin.release.send(()));
        }
        assert!(clients.iter_mut().all(|client| client.response().status == 200));
    }
}

#[test]
fn workers_with_a_zone_take_turns_together() {
    let scene = start();
    let mut clients: Vec<Client> = (0..40).map(|_| scene.client()).collect();
    let workers: std::collections::BTreeSet<String> = clients
        .iter_mut()
        .map(|client| client.get("/turns").header("X-Worker").unwrap().to_owned())
        .collect();
    assert!(workers.len() > 1, "forty connections, and only one of four workers");
    let counts = scene.counts(&mut clients, "/turns", 1000);
    for (name, share) in [("a", 500usize), ("b", 300), ("c", 200)] {
        assert!(counts[name].abs_diff(share) * 100 <= share, "{counts:?}");
    }
}

#[test]
fn least_conn_counts_the_connections_of_all_workers() {
    let scene = start();
    let (clients, arrived) = scene.hold("/least/held", 15);
    assert_eq!(arrived, [5, 5, 5]);
    scene.release(clients);
}

#[test]
fn the_better_of_two_has_fewer_connections() {
    let scene = start();
    let (clients, arrived) = scene.hold("/two/held", 12);
    assert!(arrived.iter().all(|&count| (1..=8).contains(&count)), "{arrived:?}");
    scene.release(clients);
}

#[test]
fn random_uses_every_server_that_is_not_down() {
    let scene = start();
    let counts = scene.counts(&mut [scene.client()], "/any", 200);
    assert!(counts["a"] > 50 && counts["b"] > 50 && !counts.contains_key("c"), "{counts:?}");
}

#[test]
fn a_key_stays_with_its_server_on_every_worker() {
    let scene = start();
    let mut seen = BTreeMap::new();
    for group in ["key", "ring"] {
        for key in 0..30 {
            let path = format!("/{group}?k={key}");
            let counts = scene.counts(&mut [scene.client(), scene.client(), scene.client()], &path, 6);
            assert_eq!(counts.len(), 1, "{path}: {counts:?}");
            *seen.entry((group, counts.into_keys().next().unwrap())).or_insert(0) += 1;
        }
    }
    assert_eq!(seen.len(), 6, "all servers have keys: {seen:?}");
}

#[test]
fn a_hot_key_spills_over_to_the_next_server() {
    let scene = start();
    let (clients, arrived) = scene.hold("/hot/held?k=hot", 12);
    assert_eq!(arrived.iter().max(), Some(&5), "a share is 4: {arrived:?}");
    scene.release(clients);
    // A request that was released counts until its worker has noticed its end.
    crate::support::wait_for("requests one after the other to stay", || {
        (scene.counts(&mut [scene.client()], "/hot?k=hot", 20).len() == 1).then_some(())
    });
}

#[test]
fn a_network_stays_with_its_server() {
    let scene = start();
    let mut client = scene.client();
    let mut ask = |ip: &str| {
        client.send(format!("GET /network HTTP/1.1\r\nHost: a\r\nX-Real-IP: {ip}\r\n\r\n"));
        client.response().text()
    };
    let mut servers = std::collections::BTreeSet::new();
    for network in 0..40 {
        let first = ask(&format!("10.0.{network}.1"));
        assert_eq!(ask(&format!("10.0.{network}.200")), first);
        assert_eq!(ask(&format!("::ffff:10.0.{network}.7")), ask(&format!("::ffff:10.0.{network}.7")));
        servers.insert(first);
    }
    assert_eq!(servers.len(), 3);
}

#[test]
fn the_quicker_server_gets_the_requests() {
    let scene = start();
    for group in ["head", "whole", "peak", "two_times"] {
        let path = format!("/{group}");
        let mut clients: Vec<Client> = (0..8).map(|_| scene.client()).collect();
        // each server is asked at least once, and from then on all workers know
        let mut rounds = 0;
        while !scene.counts(&mut clients, &path, 8).contains_key("slow") && rounds < 20 {
            rounds += 1;
        }
        let counts = scene.counts(&mut clients, &path, 40);
        assert!(counts["b"] >= 38, "{group}: {counts:?}");
    }
}
