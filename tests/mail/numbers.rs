//! The numbers of mail: its servers on the status page and in the API, its clients among the connections, and the lookups of their
//! names.

use serde_json::{Value, json};

use super::{ask, greeted, knowing_me, line, pop3_server};
use crate::support::dns::{A, record, wire};
use crate::support::{Client, Daemon, Dns, Origin, Setup, get, process, wait_for};

const CONF: &str = "
    worker_processes 1;
    control unix:ctl;
    http { server { listen 127.0.0.1:%%PORT_3%%; location /json { status json; } location /text { status prometheus; }
        location /api { api; } } }
    mail {
        auth_http http://%%AUTH%%/auth;
        server_name mail.example.com;
        server { listen 127.0.0.1:%%PORT_0%%; protocol pop3; }
        server { listen 127.0.0.1:%%PORT_1%%; protocol imap; }
        server { listen 127.0.0.1:%%PORT_2%%; protocol smtp; resolver %%DNS%% ipv6=off status_zone=names; }
    }
";

fn start(auth: &Origin, dns: &Dns) -> Daemon {
    Setup::new(CONF).set("AUTH", auth.address()).set("DNS", dns.address()).start()
}

fn read(daemon: &Daemon, path: &str) -> Value {
    serde_json::from_str(&get(daemon.port(3), path).text()).expect("JSON")
}

/// The server of a protocol on the status page, once it is as expected: counts are written at the end of a turn.
fn wait_server(daemon: &Daemon, protocol: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    wait_for(protocol, || {
        let status = read(daemon, "/json");
        let found = status["mail"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|one| one["protocol"] == protocol)
            .cloned();
        found.filter(|server| is_it(server))
    })
}

fn connections(daemon: &Daemon) -> String {
    String::from_utf8_lossy(&daemon.run(&["ctl", "connections"]).stdout).into_owned()
}

#[test]
fn servers_show_their_sessions_and_logins_over_a_reload() {
    let server = pop3_server();
    let (auth, dns) = (knowing_me(server.port()), Dns::knowing(&[]));
    let daemon = start(&auth, &dns);
    let mut passed = greeted(&daemon);
    assert_eq!(ask(&mut passed, "USER me"), "+OK");
    assert_eq!(ask(&mut passed, "PASS secret"), "+OK welcome USER me");
    let mut refused = Client::connect(daemon.port(1));
    line(&mut refused);
    assert_eq!(ask(&mut refused, "a LOGIN me wrong"), "a NO Invalid login or password");

    let pop3 = wait_server(&daemon, "pop3", |server| server["logins"] == 1);
    let numbers = |of: &Value, keys: [&str; 5]| keys.map(|key| of[key].as_u64().expect("a number"));
    let keys = ["sessions", "sessions_active", "sessions_2xx", "sessions_4xx", "logins_failed"];
    assert_eq!(numbers(&pop3, keys), [0, 1, 0, 0, 0], "{pop3}");
    let address = format!("127.0.0.1:{}", daemon.port(0));
    assert_eq!((&pop3["name"], &pop3["address"]), (&json!("mail.example.com"), &json!(address)));
    let listed = connections(&daemon);
    assert!(listed.contains(" POP3 ") && listed.contains(" IMAP "), "{listed}");

    // A client that has not logged in stays in the old worker until it has.
    drop(refused);
    // The session moves, and is counted once.
    let old = daemon.worker();
    daemon.reload();
    wait_for("the old worker to leave", || (!process::is_alive(old)).then_some(()));
    assert_eq!(ask(&mut passed, "STAT"), "+ STAT");
    let listed = connections(&daemon);
    assert!(listed.contains(" POP3 "), "{listed}");
    let pop3 = wait_server(&daemon, "pop3", |server| server["sessions_active"] == 1);
    assert_eq!((&pop3["logins"], &pop3["sessions"]), (&json!(1), &json!(0)), "{pop3}");
    drop(passed);
    let pop3 = wait_server(&daemon, "pop3", |server| server["sessions"] == 1);
    assert_eq!(numbers(&pop3, keys), [1, 0, 1, 0, 0], "{pop3}");
    let bytes = ["received_bytes", "sent_bytes"].map(|key| pop3[key].as_u64().expect("a number"));
    // USER, PASS and STAT; the greeting and the replies.
    assert_eq!(bytes, [28, 16 + 5 + 21 + 8], "{pop3}");
    let imap = wait_server(&daemon, "imap", |server| server["sessions"] == 1);
    assert_eq!(numbers(&imap, keys), [1, 0, 0, 1, 1], "{imap}");

    let text = get(daemon.port(3), "/text").text();
    let labels = |port: u16, protocol: &str| {
        format!(r#"{{server="mail.example.com",address="127.0.0.1:{port}",protocol="{protocol}"}}"#)
    };
    for wanted in [
        format!("pronghorn_mail_server_logins_total{} 1", labels(daemon.port(0), "pop3")),
        format!("pronghorn_mail_server_logins_failed_total{} 1", labels(daemon.port(1), "imap")),
        format!("pronghorn_mail_server_sessions_active{} 0", labels(daemon.port(2), "smtp")),
    ] {
        assert!(text.contains(&wanted), "{wanted} in {text}");
    }
    let plus = read(&daemon, &format!("/api/9/mail/server_zones/{address}"));
    assert_eq!(
        (&plus["sessions"], &plus["logins"], &plus["processing"], &plus["protocol"]),
        (
            &json!({ "2xx": 1, "4xx": 0, "5xx": 0, "total": 1 }),
            &json!({ "passed": 1, "failed": 0 }),
            &json!(0),
            &json!("pop3")
        ),
        "{plus}"
    );
    assert!(read(&daemon, "/api/9").as_array().is_some_and(|parts| parts.contains(&json!("mail"))));
    assert_eq!(read(&daemon, "/api/9/mail"), json!(["server_zones"]));
    assert_eq!(read(&daemon, "/api/9/mail/server_zones").as_object().map(|all| all.len()), Some(3));
}

#[test]
fn lookups_of_names_of_addresses_are_counted() {
    let auth = knowing_me(1);
    let dns = Dns::start(|query| match query.kind {
        A => query.reply(&[query.a(60, "127.0.0.1")]),
        kind => query.reply(&[record(&query.name, kind, 60, &wire("client.test"))]),
    });
    let daemon = start(&auth, &dns);
    let mut client = Client::connect(daemon.port(2));
    assert_eq!(line(&mut client), "220 mail.example.com ESMTP ready");
    let found = wait_for("the counts", || {
        Some(read(&daemon, "/api/9/resolvers/names")).filter(|found| found["responses"]["noerror"] == 2)
    });
    assert_eq!(found["requests"], json!({ "name": 1, "srv": 0, "addr": 1 }));
    let status = read(&daemon, "/json");
    assert_eq!((&status["resolvers"][0]["hosts"], &status["resolvers"][0]["names"]), (&json!(1), &json!(1)));
    assert!(
        get(daemon.port(3), "/text").text().contains(r#"pronghorn_resolver_hosts_total{resolver="names"} 1"#)
    );
}
