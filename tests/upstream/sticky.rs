//! `sticky`: a client stays at one server, in all workers, over reloads and upgrades.
//!
//! Each origin says its name. Four workers serve, and clients connect anew for each request where it matters
//! that any of them does.

use nix::sys::signal::Signal;

use crate::process::upgrade::{upgrade, workers_of};
use crate::support::daemon::send;
use crate::support::origin::ok;
use crate::support::{Client, Daemon, Origin, Response, Setup, fetch, get, process, wait_for};

/// Origins a, b, c, one that breaks its responses off, and a daemon with these `upstream` blocks and locations.
struct Scene {
    origins: [Origin; 3],
    _cut: Origin,
    daemon: Daemon,
}

fn scene(upstreams: &str, locations: &str) -> Scene {
    let origins = ["a", "b", "c"].map(|name| Origin::replying(move |request| reply(name, &request.target)));
    let cut = Origin::start(|peer| {
        peer.request();
        let _ = peer.try_send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut");
    });
    let conf = format!(
        "worker_processes 4;\nhttp {{\n set_real_ip_from 127.0.0.1; real_ip_header My-Client;\n{upstreams}\n\
         server {{ listen 127.0.0.1:%%PORT_0%%; {locations} }}\n}}\n"
    );
    let [a, b, c] = &origins;
    let setup = Setup::new(&conf).set("A", a.address()).set("B", b.address()).set("C", c.address());
    let setup = setup.set("CUT", cut.address());
    let setup = setup.set("CLOSED", format!("127.0.0.1:{}", crate::support::port::refusing()));
    let daemon = setup.level("warn").in_background().start();
    Scene { origins, _cut: cut, daemon }
}

/// The origin's name; `/session-x` makes the session x, `/accel` leads elsewhere.
fn reply(name: &str, target: &str) -> Vec<u8> {
    let of =
        |fields: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n{fields}\r\n{name}").into_bytes();
    if let Some(session) = target.strip_prefix("/session-") {
        return of(&format!("Set-Cookie: app={session}; path=/\r\n"));
    }
    match target.split('?').next().unwrap_or_default() {
        "/accel" => of("X-Accel-Redirect: /inner\r\nSet-Cookie: app=1\r\n"),
        "/switch" => {
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: upgrade\r\n\r\n".to_vec()
        }
        "/only-b" | "/long-b" if name != "b" => {
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()
        }
        "/long-b" => ok(&[b'b'; 40_000]), // arrives in pieces
        _ => ok(name.as_bytes()),
    }
}

impl Scene {
    /// A request on a connection of its own, with these fields.
    fn ask(&self, path: &str, fields: &str) -> Response {
        let port = self.daemon.port(0);
        fetch(port, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n"))
    }

    /// The names of the origins that answer `count` such requests.
    fn answers(&self, path: &str, fields: &str, count: usize) -> String {
        (0..count).map(|_| self.ask(path, fields).text()).collect()
    }

    /// The same, over one connection: one worker answers all.
    fn turns(&self, path: &str, count: usize) -> String {
        let mut client = Client::connect(self.daemon.port(0));
        (0..count).map(|_| client.get(path).text()).collect()
    }
}

/// The values of `Set-Cookie` up to the first attribute.
fn cookies(response: &Response) -> Vec<&str> {
    response.all("set-cookie").iter().map(|cookie| cookie.split(';').next().unwrap_or_default()).collect()
}

const COOKIE: &str = "
    upstream named {
        server %%A%% route=a; server %%B%% route=b; server %%C%% route=c;
        sticky cookie srv expires=1h domain=.example.com path=/ httponly secure samesite=lax;
    }
    upstream plain { server %%A%%; server %%B%%; sticky cookie srv; }
    upstream other { server %%C%% route=c; sticky cookie srv2 path=/other; }
    upstream closed { server %%CLOSED%% route=x; sticky cookie srv; }
    upstream failing { server %%CLOSED%% route=x; server %%A%% route=a; sticky cookie srv; }
    upstream down { server %%A%% route=a down; server %%B%% route=b; sticky cookie srv; }
    upstream none { server %%A%% route=a down; sticky cookie srv; }
";
const LOCATIONS: &str = "
    error_page 502 /502; location = /502 { return 200 page; }
    location /named/ { proxy_pass http://named/; }
    location /plain/ { proxy_pass http://plain/; }
    location /closed/ { proxy_pass http://closed/; }
    location /failing/ { proxy_pass http://failing/; }
    location /down/ { proxy_pass http://down/; }
    location /none/ { proxy_pass http://none/; }
    location /hidden/ { proxy_hide_header Set-Cookie; proxy_pass http://named/; }
    location /variable/ { proxy_pass http://$arg_to/; }
    location /chat/ { proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; proxy_pass http://named/; }
    location = /inner { proxy_pass http://other/; }
";

#[test]
fn a_cookie_names_the_server_and_leads_back_to_it() {
    let scene = scene(COOKIE, LOCATIONS);
    let first = scene.ask("/named/", "");
    let cookie = first.header("set-cookie").expect("always set").to_owned();
    let attributes: Vec<&str> = cookie.split("; ").collect();
    assert_eq!(attributes[0], format!("srv={}", first.text()));
    assert!(attributes[1].starts_with("expires=") && attributes[1].ends_with(" GMT"), "{cookie}");
    assert_eq!(
        attributes[2..],
        ["max-age=3600", "domain=.example.com", "httponly", "secure", "samesite=lax", "path=/"]
    );
    for (route, count) in [("b", 8), ("c", 8), ("a", 8)] {
        let answers = scene.answers("/named/", &format!("Cookie: x=1; SRV={route}; y=2\r\n"), count);
        assert_eq!(answers, route.repeat(count), "any worker");
    }
    assert_eq!(
        scene.ask("/named/", "Cookie: srv=c\r\n").all("set-cookie").len(),
        1,
        "also for a known client"
    );

    let plain = scene.ask("/plain/", "");
    let digest =
        plain.header("set-cookie").expect("set").strip_prefix("srv=").expect("no attributes").to_owned();
    assert!(
        digest.len() == 32 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
        "{digest}"
    );
    let cookie = format!("Cookie: srv={digest}\r\n");
    assert_eq!(scene.answers("/plain/", &cookie, 8), plain.text().repeat(8));
    scene.daemon.rewrite(|conf| {
        conf.replace("keepalive_timeout", "").replace("plain { server", "plain { keepalive 1; server")
    });
    scene.daemon.reload();
    assert_eq!(
        scene.answers("/plain/", &cookie, 8),
        plain.text().repeat(8),
        "the digest is that of the address"
    );
    assert_eq!(scene.answers("/variable/?to=plain", &cookie, 4), plain.text().repeat(4));
    assert_eq!(scene.daemon.complaints("error|crit|alert|emerg"), [""; 0]);
}

#[test]
fn the_cookie_goes_out_with_whatever_response_there_is() {
    let scene = scene(COOKIE, LOCATIONS);
    let page = scene.ask("/closed/", "");
    assert_eq!((page.text(), cookies(&page)), ("page".to_owned(), vec!["srv=x"]), "an error page");
    for _ in 0..6 {
        let next = scene.ask("/failing/", "Cookie: srv=x\r\n");
        assert_eq!(
            (next.text(), cookies(&next)),
            ("a".to_owned(), vec!["srv=a"]),
            "of the last server tried"
        );
    }
    let redirected = scene.ask("/named/accel", "Cookie: srv=b\r\n");
    assert_eq!(redirected.text(), "c", "an internal redirect to another group");
    assert_eq!(cookies(&redirected), ["srv=b", "srv2=c", "app=1"]);
    let none = scene.ask("/none/", "Cookie: srv=a\r\n");
    assert_eq!((none.text(), cookies(&none)), ("page".to_owned(), vec![]), "no server was chosen");
    let hidden = scene.ask("/hidden/session-1", "Cookie: srv=b\r\n");
    assert_eq!(cookies(&hidden), ["srv=b"], "proxy_hide_header means those of the application");
    let upgraded = "Upgrade: chat\r\nConnection: upgrade\r\nCookie: srv=b\r\n";
    let mut client = Client::connect(scene.daemon.port(0));
    client.send(format!("GET /chat/switch HTTP/1.1\r\nHost: localhost\r\n{upgraded}\r\n"));
    let switched = client.response_head();
    assert_eq!((switched.status, cookies(&switched)), (101, vec!["srv=b"]), "a tunnel");
    let both = scene.ask("/named/session-1", "Cookie: srv=b\r\n");
    assert_eq!(cookies(&both), ["srv=b", "app=1"]);
}

#[test]
fn cookies_that_lead_nowhere_give_way_to_new_ones() {
    let scene = scene(COOKIE, LOCATIONS);
    let long = "x".repeat(6000);
    for cookie in ["z", "", "A", "a b", "\"a\"", "a%00", "5958c386bf5e9109ac10d2a628645aea", &long] {
        let response = scene.ask("/named/", &format!("Cookie: srv={cookie}\r\n"));
        assert_eq!((response.status, cookies(&response)), (200, vec![&*format!("srv={}", response.text())]));
    }
    assert_eq!(scene.answers("/down/", "Cookie: srv=a\r\n", 4), "bbbb");
    scene.daemon.rewrite(|conf| conf.replace(" route=c; sticky", "; sticky").replacen(" route=c;", ";", 1));
    scene.daemon.reload();
    let gone = scene.ask("/named/", "Cookie: srv=c\r\n");
    assert_ne!(cookies(&gone), ["srv=c"]);
}

#[test]
fn a_draining_server_keeps_its_clients_and_gets_no_others() {
    let upstreams =
        "upstream u { server %%A%% route=a; server %%B%% route=b; sticky route $arg_r $cookie_r; }";
    let scene = scene(upstreams, "location / { proxy_pass http://u; }");
    assert_eq!(scene.turns("/", 4), "abab");
    assert_eq!(scene.answers("/?r=a", "", 4), "aaaa");
    assert_eq!(scene.answers("/", "Cookie: r=a\r\n", 4), "aaaa", "the first value that is not empty");
    assert_eq!(scene.answers("/?r=b", "Cookie: r=a\r\n", 4), "bbbb");
    scene.daemon.rewrite(|conf| conf.replace("route=a;", "route=a drain;"));
    scene.daemon.reload();
    assert_eq!(scene.answers("/", "", 8), "bbbbbbbb");
    assert_eq!(scene.answers("/?r=a", "", 8), "aaaaaaaa");
    let port = scene.origins[1].port();
    scene.daemon.rewrite(|conf| conf.replace(&format!("server 127.0.0.1:{port} route=b;"), ""));
    scene.daemon.reload();
    assert_eq!(scene.answers("/?r=a", "", 4), "aaaa", "also when it is the only one");
    assert_eq!(scene.ask("/?r=b", "").status, 502);
}

const LEARN: &str = "
    upstream u {
        server %%A%%; server %%B%%; server %%C%%;
        sticky learn create=$upstream_cookie_app lookup=$cookie_app lookup=$arg_app zone=sessions:64k timeout=1h;
    }
";

#[test]
fn a_session_is_learned_by_all_workers_and_outlives_a_reload() {
    let scene = scene(LEARN, "location / { proxy_pass http://u; }");
    let server = scene.ask("/session-1", "").text();
    let bound = |count| scene.answers("/", "Cookie: app=1\r\n", count);
    assert_eq!(bound(8), server.repeat(8));
    assert_eq!(scene.answers("/?app=1", "", 4), server.repeat(4), "by another variable");
    let unknown = scene.answers("/", "Cookie: app=2\r\n", 40);
    assert!(unknown.matches(&server).count() < 40, "{unknown}");
    scene.daemon.rewrite(|conf| conf.replace("timeout=1h", "timeout=2h"));
    scene.daemon.reload();
    assert_eq!(bound(8), server.repeat(8));

    // Its server goes: another one takes the session over.
    let index = "abc".find(&server).expect("one of them");
    let address = scene.origins[index].address();
    scene.daemon.rewrite(|conf| conf.replace(&format!("server {address};"), ""));
    scene.daemon.reload();
    let next = bound(1);
    assert_ne!(next, server);
    assert_eq!(bound(8), next.repeat(8), "renewed with the server that answered");

    // Another size is another table.
    scene.daemon.rewrite(|conf| conf.replace("sessions:64k", "sessions:128k"));
    scene.daemon.reload();
    let answers = bound(40);
    assert!(answers.chars().any(|name| name.to_string() != next), "{answers}");
    assert_eq!(scene.daemon.complaints("error|crit|alert|emerg"), [""; 0]);
}

#[test]
fn a_session_outlives_an_upgrade() {
    let scene = scene(LEARN, "location / { proxy_pass http://u; }");
    let server = scene.ask("/session-1", "").text();
    let old = scene.daemon.pid();
    let new = upgrade(&scene.daemon);
    send(old, Signal::SIGWINCH);
    wait_for("the old workers to end", || workers_of(old, new).is_empty().then_some(()));
    assert_eq!(scene.answers("/", "Cookie: app=1\r\n", 8), server.repeat(8));
    send(old, Signal::SIGQUIT);
    wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
    scene.daemon.follow(new);
    assert_eq!(scene.answers("/", "Cookie: app=1\r\n", 8), server.repeat(8));
    scene.daemon.stop(Signal::SIGQUIT);
}

#[test]
fn a_killed_worker_takes_no_session_with_it() {
    let scene = scene(LEARN, "location / { proxy_pass http://u; }");
    let server = scene.ask("/session-1", "").text();
    let old = scene.daemon.workers();
    old.iter().for_each(|pid| send(*pid, Signal::SIGKILL));
    wait_for("other workers", || {
        let now = scene.daemon.workers_now();
        (now.len() == 4 && now.iter().all(|pid| !old.contains(pid))).then_some(())
    });
    assert_eq!(scene.answers("/", "Cookie: app=1\r\n", 8), server.repeat(8));
}

#[test]
fn the_server_that_answers_in_the_end_is_the_one_that_is_learned() {
    let upstreams = "
        upstream u { server %%A%%; server %%B%%; sticky learn create=$arg_s lookup=$arg_s zone=u:32k; }
        upstream cut { server %%CUT%% max_fails=0; server %%A%%; sticky learn create=$arg_s lookup=$arg_s zone=cut:32k; }";
    let locations = "location / { proxy_next_upstream http_404; proxy_pass http://u; }
        location /cut { proxy_pass http://cut; }";
    let scene = scene(upstreams, locations);
    assert_eq!(scene.turns("/?s=1", 4), "aaaa");
    assert_eq!(scene.ask("/only-b?s=1", "").text(), "b", "the other one answered 404");
    assert_eq!(scene.answers("/?s=1", "", 4), "bbbb");
    // A client that has the whole response, short or long, finds its session learned at once, in any worker.
    for session in 2..12 {
        let (target, path) = (format!("/?s={session}"), if session % 2 == 0 { "/only-b" } else { "/long-b" });
        let was = scene.ask(&target, "").text();
        let length = scene.ask(&format!("{path}?s={session}"), "").body.len();
        assert_eq!(
            (length > 1, scene.ask(&target, "").text()),
            (session % 2 == 1, "b".into()),
            "after {was}"
        );
    }
    // A response that is broken off teaches nothing: some later request goes to the other server, and stays.
    for _ in 0..8 {
        let mut client = Client::connect(scene.daemon.port(0));
        client.send("GET /cut?s=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        client.rest();
    }
    assert_eq!(scene.answers("/cut?s=1", "", 4), "aaaa");
}

#[test]
fn a_full_table_names_its_size_and_goes_on() {
    let upstreams = "upstream u { server %%A%%; server %%B%%; \
        sticky learn create=$arg_s lookup=$arg_s zone=small:32k timeout=1h header; }";
    let scene = scene(upstreams, "location / { proxy_pass http://u; }");
    let mut client = Client::connect(scene.daemon.port(0));
    for number in 0..2200 {
        if number % 500 == 0 {
            client = Client::connect(scene.daemon.port(0)); // keepalive_requests
        }
        assert_eq!(client.get(&format!("/?s={number}")).status, 200);
    }
    scene.daemon.wait_log("sticky zone \"small\" is too small: .* give \"sticky\" more than zone=small:32k");
    assert!(scene.daemon.log_count("is too small") <= 4, "once in a minute for each worker");
    let last = client.get("/?s=2199").text();
    assert_eq!(scene.answers("/?s=2199", "", 4), last.repeat(4));
}

#[test]
fn a_client_is_known_by_its_address() {
    let upstreams = "
        upstream u { server %%A%%; server %%B%%; server %%C%%; sticky source zone=clients:32k; }
        upstream wide { server %%A%%; server %%B%%; sticky source zone=wide:32k prefix4=24 prefix6=48; }";
    let scene =
        scene(upstreams, "location / { proxy_pass http://u; } location /w { proxy_pass http://wide; }");
    let of =
        |path: &str, client: &str, count| scene.answers(path, &format!("My-Client: {client}\r\n"), count);
    let mut seen = String::new();
    for client in
        ["10.0.0.1", "10.0.0.2", "10.0.0.3", "2001:db8::1", "2001:db8:0:1::1", "10.0.0.4", "10.0.1.1"]
    {
        let server = of("/", client, 1);
        assert_eq!(of("/", client, 6), server.repeat(6), "{client}");
        seen.push_str(&server);
    }
    assert!(seen.chars().any(|name| !seen.starts_with(name)), "not all at one: {seen}");
    assert_eq!(of("/w", "10.0.0.1", 1).repeat(3), of("/w", "10.0.0.200", 3));
    assert_eq!(of("/w", "2001:db8::1", 1).repeat(3), of("/w", "2001:db8:0:ffff::1", 3));

    // A server that drains keeps its clients; one that is gone hands them over.
    let server = of("/", "10.0.0.1", 1);
    let address = scene.origins["abc".find(&server).expect("one of them")].address();
    scene
        .daemon
        .rewrite(|conf| conf.replacen(&format!("server {address};"), &format!("server {address} drain;"), 1));
    scene.daemon.reload();
    assert_eq!(of("/", "10.0.0.1", 6), server.repeat(6));
    for number in 0..6 {
        assert_ne!(of("/", &format!("10.9.9.{number}"), 1), server, "a new client");
    }
    scene.daemon.rewrite(|conf| conf.replacen(&format!("server {address} drain;"), "", 1));
    scene.daemon.reload();
    let next = of("/", "10.0.0.1", 1);
    assert_ne!(next, server);
    assert_eq!(of("/", "10.0.0.1", 6), next.repeat(6));
}

#[test]
fn a_client_is_forgotten_when_its_time_is_over() {
    let upstreams =
        "upstream u { server %%A%%; server %%B%%; sticky source zone=clients:32k timeout=100ms; }";
    let scene = scene(upstreams, "location / { proxy_pass http://u; }");
    let first = get(scene.daemon.port(0), "/").text();
    wait_for("another server", || {
        // Each request binds the client anew, so leave it alone for longer than its time.
        std::thread::sleep(std::time::Duration::from_millis(400));
        (get(scene.daemon.port(0), "/").text() != first).then_some(())
    });
}
