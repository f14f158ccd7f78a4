//! The first bytes of a client choose its server: `mqtt_preread` and `postgres_preread`. Scripted clients and servers.

use crate::support::{Client, Daemon, Origin, Setup};

/// A server that tells its name, and then what it gets.
fn named(name: &'static str) -> Origin {
    Origin::start(move |peer| {
        peer.send(name);
        loop {
            let bytes = peer.some(4096);
            if bytes.is_empty() || peer.try_send(&bytes).is_err() {
                return;
            }
        }
    })
}

fn start(directive: &str, key: &str) -> (Origin, Origin, Daemon) {
    let (one, other) = (named("one"), named("two"));
    let conf = "stream {
        map $%%KEY%% $server { special %%ONE%%; default %%OTHER%%; }
        log_format names '[$mqtt_preread_clientid] [$mqtt_preread_username] [$postgres_preread_user] [$postgres_preread_database]';
        access_log %%DIR%%/names.log names;
        server { listen 127.0.0.1:%%PORT_0%%; %%DIRECTIVE%% on; proxy_pass $server; }
    }";
    let setup = Setup::new(conf).set("ONE", one.address()).set("OTHER", other.address());
    let daemon = setup.set("DIRECTIVE", directive).set("KEY", key).level("info").start();
    (one, other, daemon)
}

/// Sends a first message in pieces, and then more. Returns the name of the server, which must get all of it.
fn talk(daemon: &Daemon, pieces: &[&[u8]], is_moved: bool) -> String {
    let mut client = Client::connect(daemon.port(0));
    pieces.iter().for_each(|piece| {
        client.send(piece);
    });
    let name = client.exactly(3);
    let all = pieces.concat();
    assert_eq!(client.exactly(all.len()), all, "it is passed on unchanged");
    if is_moved {
        daemon.reload();
    }
    client.send("more");
    assert_eq!(client.exactly(4), b"more");
    String::from_utf8(name).expect("a name")
}

fn mqtt(client_id: &str, username: &str) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x05\xc2\0\x3c\0".to_vec();
    for text in [client_id, username, "password"] {
        body.extend_from_slice(&(text.len() as u16).to_be_bytes());
        body.extend_from_slice(text.as_bytes());
    }
    [&[0x10, body.len() as u8][..], &body].concat()
}

fn postgres(user: &str, database: &str) -> Vec<u8> {
    let body = format!("\0\x03\0\0user\0{user}\0database\0{database}\0\0");
    [&(body.len() as u32 + 4).to_be_bytes()[..], body.as_bytes()].concat()
}

#[test]
fn an_mqtt_client_is_led_by_its_names() {
    let (_one, _other, daemon) = start("mqtt_preread", "mqtt_preread_clientid");
    let (special, plain) = (mqtt("special", "ann"), mqtt("other", "bob"));
    assert_eq!(talk(&daemon, &[&special[..5], &special[5..]], false), "one");
    assert_eq!(daemon.wait_line("names.log", "special"), "[special] [ann] [-] [-]");
    assert_eq!(talk(&daemon, &[&plain], true), "two");
    assert_eq!(daemon.wait_line("names.log", "other"), "[other] [bob] [-] [-]", "also after a reload");
    assert_eq!(talk(&daemon, &[b"GET / HTTP/1.1\r\n\r\n"], false), "two", "another protocol is passed on");
}

#[test]
fn a_client_of_postgresql_is_led_by_its_database() {
    let (_one, _other, daemon) = start("postgres_preread", "postgres_preread_database");
    let (special, plain) = (postgres("ann", "special"), postgres("bob", "shop"));
    assert_eq!(talk(&daemon, &[&special[..3], &special[3..20], &special[20..]], true), "one");
    assert_eq!(daemon.wait_line("names.log", "special"), "[-] [-] [ann] [special]");
    assert_eq!(talk(&daemon, &[&plain], false), "two");
    assert_eq!(daemon.wait_line("names.log", "shop"), "[-] [-] [bob] [shop]");
    let ask_for_tls = [0, 0, 0, 8, 4, 210, 22, 47];
    assert_eq!(talk(&daemon, &[&ask_for_tls], false), "two", "the server answers it");
}
