//! `uwsgi_pass`: uwsgi itself with an application in Python, and scripted applications.

use std::process::Command;

use crate::support::packets;
use crate::support::program::{Program, find, wait_socket};
use crate::support::tls::self_signed;
use crate::support::{Client, Daemon, Origin, Setup, fetch, get};

const CONF: &str = r#"
http {
    client_body_buffer_size 1k;
    client_max_body_size 0;
    underscores_in_headers on;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        include uwsgi_params;
        location / { uwsgi_pass unix:%%DIR%%/app.sock; }
        location /scheme { uwsgi_pass uwsgi://unix:%%DIR%%/app.sock; }
        location /variable { set $to unix:%%DIR%%/app.sock; uwsgi_pass $to; }
        location /own { include uwsgi_params; uwsgi_param OWN it's; uwsgi_param EMPTY '' if_not_empty; uwsgi_pass unix:%%DIR%%/app.sock; }
    }
}
"#;

const APP: &str = r#"
def application(env, start_response):
    body = env['wsgi.input'].read()
    path = env['PATH_INFO']
    if path == '/missing':
        start_response('404 Not Here', [('X-App', 'py')])
        return [b'none']
    if path == '/large':
        start_response('200 OK', [('Content-Length', '3000000')])
        return [b'x' * 1000000] * 3
    if path == '/stream':
        start_response('200 OK', [])
        return [b'part ' + bytes(str(n), 'ascii') + b'\n' for n in range(3)]
    start_response('200 OK', [('Content-Type', 'text/plain')])
    names = ('REQUEST_METHOD', 'REQUEST_URI', 'QUERY_STRING', 'CONTENT_LENGTH', 'HTTP_X_A', 'HTTP_PROXY', 'OWN', 'EMPTY', 'HTTPS')
    return [(' '.join(name + '=' + env[name] for name in names if name in env) + ' body=' + str(len(body))).encode()]
"#;

/// The server, and uwsgi; `None` where it is not installed.
fn start() -> Option<(Daemon, Program)> {
    let uwsgi = find(&["uwsgi", "uwsgi-core"])?;
    let shipped =
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/uwsgi_params")).expect("it is shipped");
    let setup = Setup::new(CONF).file("uwsgi_params", shipped).file("app.py", APP);
    let folder = setup.folder().to_owned();
    let mut command = Command::new(uwsgi);
    command.current_dir(&folder).args([
        "--master",
        "--die-on-term",
        "--plugin",
        "python3",
        "--processes",
        "2",
        "--wsgi-file",
        "app.py",
    ]);
    let mut program = Program::start(command.arg("--socket").arg(folder.join("app.sock")));
    wait_socket(&folder.join("app.sock"), &mut program);
    Some((setup.start(), program))
}

#[test]
fn an_application_in_python_answers() {
    let Some((daemon, _uwsgi)) = start() else { return };
    let port = daemon.port(0);
    for path in ["/a", "/scheme", "/variable"] {
        let expected =
            format!("REQUEST_METHOD=GET REQUEST_URI={path}?x=1 QUERY_STRING=x=1 CONTENT_LENGTH= body=0");
        assert_eq!(get(port, &format!("{path}?x=1")).text(), expected);
    }
    let missing = get(port, "/missing");
    assert_eq!((missing.status, &*missing.reason, &*missing.text()), (404, "Not Here", "none"));
    assert_eq!(missing.header("x-app"), Some("py"));
    assert!(get(port, "/large").body == vec![b'x'; 3_000_000]);
    assert_eq!(get(port, "/stream").text(), "part 0\npart 1\npart 2\n");
    let fields = "X-A: 1\r\nX_A: sly\r\nProxy: evil\r\nX-A: 2\r\n";
    let own = fetch(port, &format!("GET /own HTTP/1.1\r\nHost: h\r\n{fields}\r\n")).text();
    assert_eq!(
        own,
        "REQUEST_METHOD=GET REQUEST_URI=/own QUERY_STRING= CONTENT_LENGTH= HTTP_X_A=1, 2 OWN=it's body=0"
    );
}

#[test]
fn bodies_have_a_length_however_they_come() {
    let Some((daemon, _uwsgi)) = start() else { return };
    for length in [0, 10, 500_000] {
        let mut client = Client::connect(daemon.port(0));
        client
            .send(format!("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n"))
            .send(vec![b'b'; length]);
        assert!(client.response().text().ends_with(&format!("CONTENT_LENGTH={length} body={length}")));
        let mut client = Client::connect(daemon.port(0));
        client.send("POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
        if length > 0 {
            client.send(format!("{length:x}\r\n")).send(vec![b'b'; length]).send("\r\n");
        }
        client.send("0\r\n\r\n");
        assert!(client.response().text().ends_with(&format!("CONTENT_LENGTH={length} body={length}")));
    }
}

#[test]
fn a_packet_has_its_modifiers_and_is_never_too_large() {
    let app = Origin::start(|peer| {
        let Some((modifiers, pairs)) = packets::uwsgi(peer) else { return };
        let names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
        peer.send(format!("HTTP/1.0 201 Made\r\n\r\n{modifiers:?} {}", names.join(",")));
    });
    let text = "http { server { listen 127.0.0.1:%%PORT_0%%; large_client_header_buffers 4 80k; uwsgi_param A b;
        location / { uwsgi_modifier1 7; uwsgi_modifier2 9; uwsgi_pass_request_headers off; uwsgi_pass %%APP%%; }
        location /fields { uwsgi_pass %%APP%%; } } }";
    let daemon = Setup::new(text).set("APP", app.address()).start();
    let answer = get(daemon.port(0), "/");
    assert_eq!((answer.status, &*answer.reason, &*answer.text()), (201, "Made", "(7, 9) A,HTTP_HOST"));
    let long = format!("GET /fields HTTP/1.1\r\nHost: h\r\nA: {0}\r\nB: {0}\r\n\r\n", "x".repeat(40_000));
    assert_eq!(fetch(daemon.port(0), &long).status, 500);
    daemon.wait_log("the parameters have 80[0-9]* bytes, at most 65535 can be sent");
}

#[test]
fn a_text_of_its_own_follows_the_parameters() {
    let app = Origin::start(|peer| {
        let head = peer.exactly(4);
        let packet = peer.exactly(u16::from_le_bytes([head[1], head[2]]).into());
        let body = peer.exactly(4);
        peer.send([b"HTTP/1.0 200 OK\r\n\r\n", &packet[..], b"|", &body].concat());
    });
    let text = "http { server { listen 127.0.0.1:%%PORT_0%%; uwsgi_pass_request_headers off; uwsgi_param HTTP_HOST ''; uwsgi_string outer;
        location / { uwsgi_param HTTP_HOST ''; uwsgi_param A b; uwsgi_pass %%APP%%; }
        location /own { uwsgi_string 'import this'; uwsgi_pass %%APP%%; }
        location /none { uwsgi_string ''; uwsgi_param HTTP_HOST ''; uwsgi_param A b; uwsgi_pass %%APP%%; } } }";
    let daemon = Setup::new(text).set("APP", app.address()).start();
    for (path, expected) in
        [("/", "\x01\0A\x01\0bouter|body"), ("/own", "import this|body"), ("/none", "\x01\0A\x01\0b|body")]
    {
        let request = format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody");
        assert_eq!(fetch(daemon.port(0), &request).text(), expected, "{path}");
    }
}

#[test]
fn responses_of_another_length_than_announced() {
    let app = Origin::start(|peer| {
        let Some((_, pairs)) = packets::uwsgi(peer) else { return };
        peer.send(match packets::value(&pairs, "U").unwrap_or("") {
            "/long" => "Content-Length: 4\r\n\r\nbodyguard",
            "/short" => "Content-Length: 4000\r\n\r\nbody",
            "/bad" => "no head\r\n\r\n",
            "/interim" => "HTTP/1.1 100 Continue\r\n\r\n",
            "/two" => "Content-Length: 4\r\nContent-Length: 5\r\n\r\nbody",
            _ => "",
        });
    });
    let text = "http { server { listen 127.0.0.1:%%PORT_0%%; uwsgi_param U $uri; location / { uwsgi_pass %%APP%%; uwsgi_buffering off; } } }";
    let daemon = Setup::new(text).set("APP", app.address()).start();
    let port = daemon.port(0);
    assert_eq!(get(port, "/long").text(), "body");
    daemon.wait_log("upstream sent more data than specified in \"Content-Length\" header");
    let mut client = Client::connect(port);
    client.send("GET /short HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((client.response_head().length(), client.rest().0), (Some(4000), b"body".to_vec()));
    for (path, reason) in [
        ("/bad", "upstream sent invalid header name"),
        ("/interim", "upstream sent invalid status line"),
        ("/two", "upstream sent duplicate \"Content-Length\" header"),
        ("/none", "upstream prematurely closed connection while reading response header from upstream"),
    ] {
        assert_eq!(get(port, path).status, 502, "{path}");
        daemon.wait_log(reason);
    }
    assert!(daemon.log().contains(&format!("upstream: \"uwsgi://{}\"", app.address())));
}

#[test]
fn suwsgi_is_encrypted() {
    let Some(uwsgi) = find(&["uwsgi", "uwsgi-core"]) else { return };
    let pair = self_signed("app.test");
    let text = "http { uwsgi_ssl_server_name on; uwsgi_ssl_name app.test; uwsgi_ssl_trusted_certificate cert.pem;
        server { listen 127.0.0.1:%%PORT_0%%; include uwsgi_params;
        location / { uwsgi_ssl_verify on; uwsgi_pass suwsgi://127.0.0.1:%%PORT_1%%; }
        location /other { uwsgi_ssl_verify on; uwsgi_ssl_name other.test; uwsgi_pass suwsgi://127.0.0.1:%%PORT_1%%; } } }";
    let shipped =
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/uwsgi_params")).expect("it is shipped");
    let setup = Setup::new(&text.replace("127.0.0.1:%%PORT_1%%", "127.0.0.1:%%APP%%"))
        .file("uwsgi_params", shipped)
        .file("app.py", APP)
        .file("cert.pem", &pair.certificate)
        .file("key.pem", &pair.key);
    let folder = setup.folder().to_owned();
    let app = crate::support::port::free();
    let mut command = Command::new(uwsgi);
    command.current_dir(&folder).args([
        "--master",
        "--die-on-term",
        "--plugin",
        "python3",
        "--wsgi-file",
        "app.py",
    ]);
    command.arg("--suwsgi-socket").arg(format!("127.0.0.1:{app},cert.pem,key.pem"));
    let mut program = Program::start(&mut command);
    crate::support::wait_for("uwsgi", || {
        (crate::support::process::is_listening(app) || program.has_ended()).then_some(())
    });
    if program.has_ended() {
        return; // built without TLS
    }
    let daemon = setup.set("APP", app).start();
    let _program = program;
    assert!(get(daemon.port(0), "/x").text().starts_with("REQUEST_METHOD=GET REQUEST_URI=/x "));
    assert_eq!(get(daemon.port(0), "/other").status, 502);
    assert!(daemon.log().contains("upstream: \"suwsgi://"));
}
