//! Unix sockets for a `proxy_pass` with variables: only those that the configuration names. A client that
//! controls the text must not reach any other socket of the machine. The backend is a socket of the test.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use crate::support::{Daemon, Setup, get};

const CONF: &str = r#"
http {
    upstream named { server unix:%%DIR%%/named.sock; }
    map $arg_m $mapped { default ""; known unix:%%DIR%%/mapped.sock; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /arg { proxy_pass http://$arg_to; }
        location /map { proxy_pass http://$mapped:/; }
        location /set { set $to unix:%%DIR%%/set.sock; proxy_pass http://$to; }
        location /literal { proxy_pass http://unix:%%DIR%%/$arg_name.sock:/; }
    }
}
"#;

/// Answers every request on a socket in the daemon's folder with its name.
fn listen(daemon: &Daemon, name: &'static str) {
    let listener = UnixListener::bind(daemon.path(name)).expect("a socket");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let _ = stream.read(&mut [0; 4096]);
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{name}",
                name.len()
            );
            let _ = stream.write_all(answer.as_bytes());
        }
    });
}

#[test]
fn a_client_reaches_only_sockets_that_are_written_down() {
    let daemon = Setup::new(CONF).start();
    for name in ["secret.sock", "named.sock", "mapped.sock", "set.sock"] {
        listen(&daemon, name);
    }
    let folder = daemon.folder().display().to_string();
    let ask = |path: &str| {
        let response = get(daemon.port(0), path);
        (response.status, response.text())
    };
    let ok = |name: &str| (200, name.to_owned());
    assert_eq!(ask("/map?m=known"), ok("mapped.sock"));
    assert_eq!(ask("/set"), ok("set.sock"));
    assert_eq!(ask("/arg?to=named"), ok("named.sock"), "a group by its name");
    assert_eq!(ask("/literal?name=secret"), ok("secret.sock"), "written as a socket");
    assert_eq!(ask(&format!("/arg?to=unix:{folder}/mapped.sock:/")), ok("mapped.sock"), "written as a value");
    for path in [
        format!("/arg?to=unix:{folder}/secret.sock:/"),
        format!("/arg?to=unix:{folder}/secret.sock"),
        format!("/arg?to=unix:{folder}/named.sock:/"),
        format!("/arg?to=unix:{folder}/./mapped.sock/../secret.sock"),
        "/literal?name=../x/secret".to_owned(),
    ] {
        assert_eq!(ask(&path).0, 500, "{path}");
    }
    daemon
        .wait_log(r#"\[error\].*"proxy_pass" has become "http://unix:.*secret\.sock:/", a unix socket that"#);
}

#[test]
fn a_host_that_a_client_chooses_is_warned_of() {
    let said = |pass: &str| {
        let conf = format!(
            "http {{ server {{ listen 127.0.0.1:%%PORT_0%%; location ~ (.) {{ proxy_pass {pass}; }} }} }}"
        );
        let output = Setup::new(&conf).run(&["-t"]);
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for pass in ["http://$arg_to", "http://$1-cdn.example.com", "http://${http_x_to}/", "http://$host:8080"] {
        assert!(said(pass).contains("which a client chooses"), "{pass}");
    }
    for pass in ["http://127.0.0.1/$arg_to", "http://cdn-$1.example.com", "http://$scheme.example.com"] {
        assert!(!said(pass).contains("which a client chooses"), "{pass}");
    }
}
