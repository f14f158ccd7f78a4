//! `proxy_set_header`, and the fields passed from client to origin and back.

use crate::support::{Client, Daemon, Origin, Setup, fetch, get};

const CONF: &str = r#"
http {
    upstream named { server %%ORIGIN%%; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        proxy_set_header X-Server server;
        location /default/ { proxy_set_header X-Own own; proxy_pass http://named; }
        location /inherited/ { proxy_pass http://%%ORIGIN%%; }
        location /own/ {
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header Accept-Encoding "";
            proxy_set_header X-Empty $arg_none;
            proxy_pass http://named;
        }
    }
}
"#;

#[test]
fn the_origin_gets_its_host_and_no_hop_by_hop_fields() {
    let origin = Origin::saying("x");
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    fetch(
        daemon.port(0),
        "GET /default/ HTTP/1.1\r\nHost: client.example\r\nX-Client: kept\r\nKeep-Alive: 5\r\nConnection: close\r\n\r\n",
    );
    let request = origin.last();
    assert_eq!(request.header("host"), Some("named"));
    assert_eq!(request.header("x-client"), Some("kept"));
    assert_eq!(request.header("x-own"), Some("own"));
    assert_eq!(request.header("x-server"), None, "its own replace those from above");
    assert_eq!(request.header("keep-alive"), None);
    assert_eq!(request.names().iter().filter(|name| *name == "host").count(), 1);

    get(daemon.port(0), "/inherited/");
    assert_eq!(origin.last().header("x-server"), Some("server"));
    assert_eq!(origin.last().header("host"), Some(origin.address().as_str()));
}

#[test]
fn fields_are_set_replaced_and_removed() {
    let origin = Origin::saying("x");
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    let request = concat!(
        "GET /own/ HTTP/1.1\r\nHost: client.example:81\r\nX-Real-IP: forged\r\nX-Forwarded-For: 1.2.3.4\r\n",
        "Accept-Encoding: gzip\r\nX-Empty: client\r\nConnection: close\r\n\r\n"
    );
    fetch(daemon.port(0), request);
    let request = origin.last();
    assert_eq!(request.header("host"), Some("client.example"));
    assert_eq!(request.header("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(request.header("x-forwarded-for"), Some("1.2.3.4, 127.0.0.1"));
    assert_eq!(request.header("accept-encoding"), None);
    assert_eq!(request.header("x-empty"), None, "an empty value sends nothing");
    assert_eq!(request.names().iter().filter(|name| *name == "x-real-ip").count(), 1);
}

#[test]
fn fields_of_the_answer_come_through_but_not_those_of_the_hop() {
    let origin = Origin::replying(|_| {
        concat!(
            "HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nSet-Cookie: a=1\r\n",
            "Set-Cookie: b=2\r\nX-Accel-Something: hidden\r\nKeep-Alive: timeout=5\r\nX-Kept: yes\r\n",
            "Content-Type: text/x-own\r\nContent-Length: 1\r\n\r\nx"
        )
        .as_bytes()
        .to_vec()
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    let response = get(daemon.port(0), "/default/");
    assert_eq!(response.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(response.header("x-kept"), Some("yes"));
    assert_eq!(response.header("content-type"), Some("text/x-own"));
    assert_eq!(response.all("date").len(), 1);
    assert_eq!(response.all("server").len(), 1);
    assert_ne!(response.header("server"), Some("origin"));
}

#[test]
fn proxy_pass_header_lets_the_origin_name_itself() {
    let origin = Origin::replying(|_| {
        b"HTTP/1.1 200 OK\r\nServer: theirs\r\nDate: Sat, 01 Jan 2000 00:00:00 GMT\r\nContent-Length: 1\r\n\r\nx".to_vec()
    });
    let conf = r#"
    http {
        server {
            listen 127.0.0.1:%%PORT_0%%;
            location / { proxy_pass http://%%ORIGIN%%; }
            location /passed { proxy_pass_header Server; proxy_pass_header Date; proxy_pass http://%%ORIGIN%%; }
        }
    }
    "#;
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).start();
    let response = get(daemon.port(0), "/passed");
    assert_eq!(response.all("server"), ["theirs"]);
    assert_eq!(response.all("date"), ["Sat, 01 Jan 2000 00:00:00 GMT"]);
    let response = get(daemon.port(0), "/");
    assert_eq!((response.all("server").len(), response.all("date").len()), (1, 1));
    assert_ne!(response.header("server"), Some("theirs"));
}

#[test]
fn proxy_pass_header_adds_nothing_of_ours_where_the_origin_is_silent() {
    let origin = Origin::replying(|request| match request.header("upgrade") {
        Some(_) => b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n".to_vec(),
        None => b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx".to_vec(),
    });
    let conf = r#"
    http {
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $http_connection;
        server {
            listen 127.0.0.1:%%PORT_0%%;
            location / { proxy_pass_header Server; proxy_pass http://%%ORIGIN%%; }
            location /both { proxy_pass_header Server; proxy_pass_header Date; proxy_pass http://%%ORIGIN%%; }
        }
    }
    "#;
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).start();
    let ours = |path: &str, fields: &str| {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        let head = client.response();
        (head.all("server").len(), head.all("date").len())
    };
    assert_eq!((ours("/", ""), ours("/both", "")), ((0, 1), (0, 0)));
    assert_eq!(ours("/both", "Connection: upgrade\r\nUpgrade: x\r\n"), (0, 0));
}

#[test]
fn a_line_that_sends_nothing_still_replaces_the_outer_block_s() {
    let origin = Origin::saying("x");
    let conf = r#"http { server {
        listen 127.0.0.1:%%PORT_0%%;
        proxy_set_header X-Outer 1;
        location / { proxy_set_header X-By: ""; proxy_pass http://ORIGIN; }
    } }"#;
    let daemon = Daemon::start(&conf.replace("ORIGIN", &origin.address()));
    assert_eq!(get(daemon.port(0), "/").status, 200);
    let request = origin.last();
    assert_eq!(request.header("x-outer"), None);
    assert!(
        request.names().iter().all(|name| !name.to_ascii_lowercase().starts_with("x-by")),
        "{:?}",
        request.names()
    );
}
