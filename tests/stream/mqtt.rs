//! `mqtt` and `mqtt_set_connect`: the names that a client connects with are replaced, and nothing else is. The broker is
//! scripted, and says what it has got.

use crate::support::{Client, Daemon, Origin, Setup};

fn start(origin: &Origin, settings: &str) -> Daemon {
    let conf = "stream {
        log_format session '$status $bytes_received [$mqtt_preread_clientid]';
        access_log %%DIR%%/session.log session;
        map $remote_addr $tenant { 127.0.0.1 home; default away; }
        server { listen 127.0.0.1:%%PORT_0%%; proxy_pass %%ORIGIN%%; mqtt on; mqtt_preread on; %%SETTINGS%% }
    }";
    let setup = Setup::new(conf).set("ORIGIN", origin.address()).set("SETTINGS", settings);
    setup.level("info").start()
}

fn vector(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// A message of version 3.1.1 with a will, or of 5.0 with properties.
fn connect(level: u8, client_id: &str, username: Option<&str>, password: Option<&[u8]>) -> Vec<u8> {
    let has = |is_there: bool, bit: u8| if is_there { bit } else { 0 };
    let will = if level == 4 { 4 } else { 0 };
    let flags = 2 | will | has(username.is_some(), 0x80) | has(password.is_some(), 0x40);
    let mut body = [&b"\0\x04MQTT"[..], &[level, flags, 0, 60]].concat();
    if level == 5 {
        body.extend_from_slice(&[5, 0x11, 0, 0, 0, 10]);
    }
    body.extend(vector(client_id.as_bytes()));
    if level == 4 {
        body.extend([vector(b"last/will"), vector(b"gone")].concat());
    }
    username.iter().for_each(|name| body.extend(vector(name.as_bytes())));
    password.iter().for_each(|password| body.extend(vector(password)));
    let mut head = vec![0x10];
    let mut length = body.len();
    while length > 0x7f {
        head.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    head.push(length as u8);
    [head, body].concat()
}

/// Sends pieces, and expects these bytes at the broker.
fn expect(client: &mut Client, pieces: &[&[u8]], expected: &[u8]) {
    pieces.iter().for_each(|piece| {
        client.send(piece);
    });
    assert_eq!(client.exactly(expected.len()), expected);
}

const PING: &[u8] = b"\xc0\0";

#[test]
fn names_are_set_and_everything_else_passes() {
    let origin = Origin::echo();
    let settings =
        r#"mqtt_set_connect clientid "$tenant-$mqtt_preread_clientid"; mqtt_set_connect username $tenant;"#;
    let daemon = start(&origin, settings);
    for level in [4, 5] {
        let sent = connect(level, "sensor", None, None);
        let expected = connect(level, "home-sensor", Some("home"), None);
        let mut client = Client::connect(daemon.port(0));
        expect(&mut client, &[&sent[..1], &sent[1..12], &sent[12..]], &expected);
        expect(&mut client, &[PING], PING);
        // The same in one packet with what follows, which looks like another CONNECT and is none of ours.
        let mut client = Client::connect(daemon.port(0));
        let sent = connect(level, "sensor", Some("ann"), Some(b"secret"));
        let expected = connect(level, "home-sensor", Some("home"), Some(b"secret"));
        expect(&mut client, &[&[&*sent, PING, &*sent].concat()], &[&*expected, PING, &*sent].concat());
        drop(client);
    }
    let length = connect(4, "sensor", None, None).len() + PING.len();
    assert_eq!(daemon.wait_line("session.log", &format!(" {length} ")), format!("200 {length} [sensor]"));
    // A session goes on in the next worker.
    let sent = connect(5, "sensor", None, None);
    let mut client = Client::connect(daemon.port(0));
    expect(&mut client, &[&sent], &connect(5, "home-sensor", Some("home"), None));
    daemon.reload();
    expect(&mut client, &[PING], PING);
}

#[test]
fn an_empty_value_removes_a_name_and_a_password_has_one() {
    let origin = Origin::echo();
    let daemon = start(&origin, "mqtt_set_connect username ''; mqtt_set_connect password '';");
    let sent = connect(4, "sensor", Some("ann"), Some(b"secret"));
    expect(&mut Client::connect(daemon.port(0)), &[&sent], &connect(4, "sensor", None, None));
    let daemon = start(&origin, "mqtt_set_connect password token;");
    let sent = connect(4, "sensor", None, None);
    expect(&mut Client::connect(daemon.port(0)), &[&sent], &connect(4, "sensor", Some(""), Some(b"token")));
    let daemon = start(&origin, "");
    let sent = connect(4, "sensor", Some("ann"), Some(b"secret"));
    expect(&mut Client::connect(daemon.port(0)), &[&sent], &sent);
}

#[test]
fn long_messages_pass_up_to_the_limit() {
    let origin = Origin::echo();
    let daemon = start(&origin, "mqtt_set_connect clientid x;");
    let token = vec![b't'; 60_000];
    let sent = connect(4, "sensor", Some("ann"), Some(&token));
    expect(&mut Client::connect(daemon.port(0)), &[&sent], &connect(4, "x", Some("ann"), Some(&token)));
    let daemon = start(&origin, "mqtt_set_connect clientid a-longer-name; mqtt_buffers 1 64;");
    let sent = connect(5, "sensor", Some("ann"), Some(&[b'p'; 20]));
    assert!(sent.len() < 64);
    expect(
        &mut Client::connect(daemon.port(0)),
        &[&sent],
        &connect(5, "a-longer-name", Some("ann"), Some(&[b'p'; 20])),
    );
    let accepted = origin.accepted();
    let mut client = Client::connect(daemon.port(0));
    client.send(sent_of(100));
    client.expect_end();
    daemon.wait_log("MQTT CONNECT of \\d+ bytes is too long: raise \"mqtt_buffers\"");
    // As long as it comes it fits, and with the other name it does not.
    let mut client = Client::connect(daemon.port(0));
    client.send(sent_of(29));
    client.expect_end();
    daemon.wait_log("MQTT CONNECT of 69 bytes is too long");
    assert_eq!(origin.accepted(), accepted);
    assert_eq!(daemon.log_count("panicked"), 0);
}

/// A message with a password of this length.
fn sent_of(length: usize) -> Vec<u8> {
    connect(5, "sensor", Some("ann"), Some(&vec![b'p'; length]))
}

#[test]
fn other_protocols_and_broken_messages_end_with_400() {
    let origin = Origin::echo();
    let daemon = start(&origin, "mqtt_set_connect username someone;");
    let good = connect(4, "sensor", None, None);
    let mut trailing = good.clone();
    trailing[1] += 1;
    trailing.push(0);
    let mut reserved = good.clone();
    reserved[9] |= 1;
    for bytes in
        [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"\x10\xff\xff\xff\xff\xff", &trailing, &reserved, PING]
    {
        let mut client = Client::connect(daemon.port(0));
        client.send(bytes);
        client.expect_end();
        daemon.wait_line("session.log", &format!("^400 {} ", bytes.len()));
    }
    assert_eq!(origin.accepted(), 0, "no broker has seen any of it");
    assert!(daemon.log_count("client sent invalid MQTT CONNECT") >= 5);
}

#[test]
fn what_is_wrong_with_the_configuration_is_said() {
    for (text, message) in [
        ("mqtt_set_connect topic a;", "invalid value \"topic\""),
        ("mqtt_set_connect clientid a; mqtt_set_connect clientid b;", "duplicate field \"clientid\""),
        ("mqtt_set_connect clientid $nothing;", "unknown \"nothing\" variable"),
        ("mqtt_buffers 0 1k;", "\"mqtt_buffers\" directive invalid value"),
        ("mqtt maybe;", "it must be \"on\" or \"off\""),
        ("mqtt_rewrite_buffer_size x;", "\"mqtt_rewrite_buffer_size\" directive invalid value"),
    ] {
        let conf = format!("stream {{ server {{ listen 127.0.0.1:1; proxy_pass 127.0.0.1:2; {text} }} }}");
        let output = Setup::new(&conf).run(&["-t"]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && told.contains(message), "{text}: {told}");
    }
}
