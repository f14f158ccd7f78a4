//! `fastcgi_pass` with a scripted application: what it is told, and what becomes of its responses.

use std::sync::{Arc, Mutex};

use crate::support::fastcgi::{Call, end, out, said, whole};
use crate::support::origin::Peer;
use crate::support::{Client, Daemon, Origin, Setup, fetch, get, wait_for};

/// An application that answers each request with what `reply` makes of it, until the server closes the connection.
fn application(reply: impl Fn(&Call) -> Vec<u8> + Send + Sync + 'static) -> Origin {
    Origin::start(move |peer: &mut Peer| {
        while let Some(call) = Call::read(peer) {
            if peer.try_send(&reply(&call)).is_err() || !call.keeps {
                return;
            }
        }
    })
}

/// An application that shows its parameters, one a line, and the length of its body.
fn echo() -> Origin {
    application(|call| {
        let lines: String = call.params.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        whole(&format!("Content-Type: text/plain\n\n{lines}body={}", call.body.len()))
    })
}

fn start(conf: &str, origin: &Origin) -> Daemon {
    let text = format!("http {{ server {{ listen 127.0.0.1:%%PORT_0%%; {conf} }} }}");
    Setup::new(&text).set("APP", origin.address()).start()
}

/// The lines of a response that begin with one of these words.
fn lines(text: &str, starts: &[&str]) -> Vec<String> {
    let is_wanted = |line: &&str| starts.iter().any(|start| line.starts_with(start));
    text.lines().filter(is_wanted).map(ToOwned::to_owned).collect()
}

#[test]
fn the_application_gets_the_parameters_and_the_fields_of_the_client() {
    let app = echo();
    let daemon = start(
        "underscores_in_headers on;
         fastcgi_param SCRIPT_FILENAME /srv$fastcgi_script_name; fastcgi_param PATH_INFO $fastcgi_path_info;
         fastcgi_param EMPTY ''; fastcgi_param NOT '' if_not_empty; fastcgi_param HTTP_X_SET ours;
         location / { fastcgi_index index.php; fastcgi_pass %%APP%%; }
         location ~ \\.php(/|$) { fastcgi_split_path_info ^(.+\\.php)(/.*)$; fastcgi_pass %%APP%%; }
         location /none { fastcgi_pass_request_headers off; fastcgi_pass %%APP%%; }
         location /own { fastcgi_param ONLY this; fastcgi_pass %%APP%%; }
         location /off { fastcgi_pass_request_body off; fastcgi_pass %%APP%%; }",
        &app,
    );
    let port = daemon.port(0);
    let starts = ["SCRIPT", "PATH", "EMPTY", "NOT", "ONLY", "HTTP_X", "HTTP_P", "HTTP_COOKIE", "body"];
    let ask = |path: &str, fields: &str| {
        let text =
            fetch(port, &format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n{fields}\r\nabc"))
                .text();
        lines(&text, &starts)
    };
    assert_eq!(
        ask(
            "/dir/",
            "X-A: 1\r\nX-Set: theirs\r\nX_A: sly\r\nProxy: http://evil\r\nCookie: a=1\r\nx-a: 2\r\nCookie: b=2\r\n"
        ),
        [
            "SCRIPT_FILENAME=/srv/dir/index.php",
            "PATH_INFO=",
            "EMPTY=",
            "HTTP_X_SET=ours",
            "HTTP_X_A=1, 2",
            "HTTP_COOKIE=a=1; b=2",
            "body=3"
        ]
    );
    assert_eq!(
        ask("/a.php/more%20path", "X_A: 1\r\n"),
        [
            "SCRIPT_FILENAME=/srv/a.php",
            "PATH_INFO=/more path",
            "EMPTY=",
            "HTTP_X_SET=ours",
            "HTTP_X_A=1",
            "body=3"
        ]
    );
    assert_eq!(
        ask("/none", "X-A: 1\r\n"),
        ["SCRIPT_FILENAME=/srv/none", "PATH_INFO=", "EMPTY=", "HTTP_X_SET=ours", "body=3"]
    );
    assert_eq!(ask("/own", "X-A: 1\r\n"), ["ONLY=this", "HTTP_X_A=1", "body=3"]);
    assert_eq!(ask("/off", "")[4], "body=0");
}

#[test]
fn many_fields_are_joined_as_few_are() {
    let app = echo();
    let daemon = start("location / { fastcgi_pass %%APP%%; } large_client_header_buffers 8 64k;", &app);
    let many: String = (0..90).map(|n| format!("X-{n}: {n}\r\n")).collect();
    let text =
        fetch(daemon.port(0), &format!("GET / HTTP/1.1\r\nHost: h\r\nX-A: 1\r\n{many}x-a: 2\r\n\r\n")).text();
    assert_eq!(lines(&text, &["HTTP_X_A"]), ["HTTP_X_A=1, 2"]);
    assert_eq!(lines(&text, &["HTTP_X_"]).len(), 91);
}

#[test]
fn long_parameters_take_several_records_and_one_that_fits_none_is_refused() {
    let app = echo();
    let daemon = start(
        "large_client_header_buffers 4 80k;
         location / { fastcgi_param A $http_long; fastcgi_param B $http_long; fastcgi_pass %%APP%%; }",
        &app,
    );
    let ask = |length: usize| {
        fetch(daemon.port(0), &format!("GET / HTTP/1.1\r\nHost: h\r\nLong: {}\r\n\r\n", "x".repeat(length)))
    };
    for length in [127, 128, 40_000] {
        let text = ask(length).text();
        for name in ["A", "B", "HTTP_LONG"] {
            assert_eq!(
                lines(&text, &[&format!("{name}=")]),
                [format!("{name}={}", "x".repeat(length))],
                "{length}"
            );
        }
    }
    assert_eq!(ask(70_000).status, 500);
    daemon.wait_log("the parameter \"A\" has 70006 bytes, at most 65535 can be sent");
}

#[test]
fn the_status_and_the_fields_are_the_application_s() {
    let app = application(|call| {
        whole(match call.param("URI").expect("it is set") {
            "/status" => "Status: 404 Not There\r\nX-A: b\r\n\r\nnone",
            "/location" => "Location: /elsewhere\r\n\r\n",
            "/server" => "Server: app\r\nDate: never\r\nX-Accel-Expires: 5\r\n\r\n",
            "/accel" => {
                "X-Accel-Redirect: /inside/file?a=b\r\nContent-Type: text/x-own\r\nStatus: 500\r\n\r\nno"
            }
            "/named" => "X-Accel-Redirect: @named\r\n\r\n",
            "/error" => "Status: 503 Busy\r\n\r\nbusy",
            _ => "\r\nplain",
        })
    });
    let daemon = start(
        "fastcgi_param URI $document_uri; error_page 503 /page;
         location / { fastcgi_pass %%APP%%; }
         location /error { fastcgi_intercept_errors on; fastcgi_pass %%APP%%; }
         location /inside/ { internal; return 200 'inside $uri $args'; }
         location /page { return 200 page; }
         location @named { return 200 named; }",
        &app,
    );
    let port = daemon.port(0);
    let ask = |path: &str| get(port, path);
    let found = ask("/status");
    assert_eq!((found.status, &*found.reason, &*found.text()), (404, "Not There", "none"));
    assert_eq!((found.header("x-a"), found.header("status")), (Some("b"), None));
    assert_eq!((ask("/location").status, ask("/location").header("location")), (302, Some("/elsewhere")));
    let server = ask("/server");
    assert_eq!((server.all("server"), server.all("date")), (vec!["app"], vec!["never"]));
    assert_eq!(server.header("x-accel-expires"), None);
    let plain = ask("/");
    assert!(
        plain.header("server").is_some() && plain.header("date").is_some(),
        "ours, as the application has none"
    );
    assert_eq!((plain.status, &*plain.text()), (200, "plain"));
    let inside = ask("/accel");
    assert_eq!(
        (inside.status, &*inside.text(), inside.header("content-type")),
        (200, "inside /inside/file a=b", Some("text/x-own"))
    );
    assert_eq!(ask("/named").text(), "named");
    let error = ask("/error");
    assert_eq!((error.status, &*error.text()), (503, "page"));
}

#[test]
fn a_connection_is_kept_only_if_both_sides_say_so() {
    let app = application(|call| whole(&format!("\r\n{}", call.keeps)));
    let daemon = start(
        "location / { fastcgi_pass %%APP%%; }
         location /kept { fastcgi_keep_conn on; fastcgi_pass %%APP%%; }",
        &app,
    );
    let port = daemon.port(0);
    for _ in 0..3 {
        assert_eq!(get(port, "/").text(), "false");
    }
    assert_eq!(app.accepted(), 3);
    for _ in 0..3 {
        assert_eq!(get(port, "/kept").text(), "true");
    }
    assert_eq!(app.accepted(), 4);
}

#[test]
fn a_connection_of_another_protocol_is_not_used() {
    let app = Origin::start(|peer| {
        if peer.index == 0 {
            Call::read(peer).expect("a request");
            peer.send(whole("\r\nfastcgi"));
            assert!(peer.some(1).is_empty(), "nothing else comes here");
            return;
        }
        peer.request().expect("a request");
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhttp");
    });
    let text = "http { upstream u { server %%APP%%; keepalive 4; } server { listen 127.0.0.1:%%PORT_0%%;
        location / { fastcgi_keep_conn on; fastcgi_pass u; } location /http { proxy_pass http://u; } } }";
    let daemon = Setup::new(text).set("APP", app.address()).start();
    assert_eq!(get(daemon.port(0), "/").text(), "fastcgi");
    assert_eq!(get(daemon.port(0), "/http").text(), "http");
    assert_eq!(app.accepted(), 2);
}

#[test]
fn the_next_application_is_asked_after_a_fault() {
    let bad = application(|call| match call.param("URI").expect("it is set") {
        "/overloaded" => end(2),
        "/status" => whole("Status: 503\r\n\r\nbusy"),
        "/caught" => [said("PHP Fatal error: out of memory"), whole("\r\nhalf a page")].concat(),
        "/short" => whole("Content-Length: 10\r\n\r\nhalf"),
        _ => Vec::new(),
    });
    let good = application(|_| whole("\r\ngood"));
    let text = "http { upstream u { server %%BAD%% max_fails=0; server %%GOOD%% backup; } fastcgi_param URI $document_uri;
        server { listen 127.0.0.1:%%PORT_0%%; fastcgi_next_upstream error timeout invalid_header http_503;
        fastcgi_catch_stderr 'PHP Fatal error'; location / { fastcgi_pass u; }
        location /one { fastcgi_next_upstream off; fastcgi_pass u; } } }";
    let daemon = Setup::new(text).set("BAD", bad.address()).set("GOOD", good.address()).start();
    for path in ["/overloaded", "/status", "/caught", "/closed", "/short"] {
        let answer = get(daemon.port(0), path);
        assert_eq!((answer.status, &*answer.text()), (200, "good"), "{path}");
    }
    assert_eq!(get(daemon.port(0), "/one").status, 502);
    let log = daemon.log();
    for expected in [
        "upstream refused the request: it is overloaded (FCGI_OVERLOADED) while reading response header from upstream",
        "FastCGI sent in stderr: \"PHP Fatal error: out of memory\" while reading response header from upstream",
        "upstream reported an error that \"fastcgi_catch_stderr\" names",
        &format!("upstream: \"fastcgi://{}\"", bad.address()),
    ] {
        assert!(log.contains(expected), "{expected}\n{log}");
    }
}

#[test]
fn a_complete_body_whose_end_is_not_announced_is_no_fault() {
    let first = Origin::start(|peer| {
        if Call::read(peer).is_some() {
            peer.send(out("Content-Length: 4\r\n\r\nbo"));
            peer.send(out("dy"));
        }
    });
    let second = application(|_| whole("\r\nnot this"));
    let text = "http { upstream u { server %%FIRST%%; server %%SECOND%% backup; } server { listen 127.0.0.1:%%PORT_0%%;
        location / { fastcgi_pass u; } } }";
    let daemon = Setup::new(text).set("FIRST", first.address()).set("SECOND", second.address()).start();
    for _ in 0..3 {
        assert_eq!(get(daemon.port(0), "/").text(), "body");
    }
    assert_eq!((first.accepted(), second.accepted()), (3, 0));
}

#[test]
fn bodies_arrive_whole_however_they_are_kept() {
    let calls = Arc::<Mutex<Vec<Call>>>::default();
    let theirs = Arc::clone(&calls);
    let app = application(move |call| {
        theirs.lock().unwrap().push(call.clone());
        whole("\r\nok")
    });
    let daemon = start(
        "client_body_buffer_size 1k; fastcgi_param CONTENT_LENGTH $content_length;
         location / { fastcgi_pass %%APP%%; client_max_body_size 0; }
         location /large { client_body_buffer_size 1m; fastcgi_pass %%APP%%; }
         location /stream { fastcgi_request_buffering off; fastcgi_pass %%APP%%; }",
        &app,
    );
    let body: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    let last = || calls.lock().unwrap().last().cloned().expect("a call");
    for (path, length) in
        [("/", 0), ("/", 1), ("/", 1000), ("/", 300_000), ("/large", 300_000), ("/stream", 300_000)]
    {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n"));
        client.send(&body[..length]);
        assert_eq!(client.response().text(), "ok", "{path} {length}");
        let call = last();
        assert!(call.body == body[..length], "{path} {length}");
        assert_eq!(call.param("CONTENT_LENGTH"), Some(&*length.to_string()), "{path}");
    }
    // in chunks: with a length once all of it has arrived, without one if it is passed on before
    for (path, length) in [("/", "300000"), ("/large", "300000"), ("/stream", "")] {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!("POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"));
        for part in body.chunks(50_000) {
            client.send(format!("{:x}\r\n", part.len())).send(part).send("\r\n");
        }
        client.send("0\r\n\r\n");
        assert_eq!(client.response().text(), "ok", "{path}");
        let call = last();
        assert!(call.body == body, "{path}");
        assert_eq!(call.param("CONTENT_LENGTH"), Some(length), "{path}");
    }
}

#[test]
fn a_body_in_a_file_is_sent_again_to_the_next_application() {
    let bad = Origin::start(|peer| {
        peer.exactly(100_000);
    });
    let good = echo();
    let text = "http { upstream u { server %%BAD%%; server %%GOOD%% backup; } server { listen 127.0.0.1:%%PORT_0%%;
        client_body_buffer_size 1k; fastcgi_next_upstream error non_idempotent; location / { fastcgi_pass u; } } }";
    let daemon = Setup::new(text).set("BAD", bad.address()).set("GOOD", good.address()).start();
    let mut client = Client::connect(daemon.port(0));
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 500000\r\n\r\n").send(vec![b'x'; 500_000]);
    let answer = client.response();
    assert_eq!((answer.status, lines(&answer.text(), &["body"])), (200, vec!["body=500000".to_owned()]));
}

/// The host is the one by which the server was chosen, whatever the `Host` field says.
#[test]
fn the_application_is_told_the_host_that_is_asked() {
    let app = echo();
    let daemon = start(
        "server_name own.test;
         location / { fastcgi_pass %%APP%%; }
         location /none { fastcgi_pass_request_headers off; fastcgi_pass %%APP%%; }
         location /set { fastcgi_param HTTP_HOST forced; fastcgi_pass %%APP%%; }
         location /never { fastcgi_param HTTP_HOST ''; fastcgi_pass %%APP%%; }",
        &app,
    );
    for (request, expected) in [
        ("GET / HTTP/1.1\r\nHost: Asked.test:8080\r\n", &["HTTP_HOST=asked.test:8080"][..]),
        ("GET http://asked.test:81/ HTTP/1.1\r\nHost: other.test:82\r\n", &["HTTP_HOST=asked.test:81"]),
        ("GET http://asked.test/ HTTP/1.1\r\nHost: other.test:82\r\n", &["HTTP_HOST=asked.test"]),
        ("GET / HTTP/1.0\r\n", &["HTTP_HOST=own.test"]),
        ("GET /none HTTP/1.1\r\nHost: asked.test\r\n", &["HTTP_HOST=asked.test"]),
        ("GET /set HTTP/1.1\r\nHost: asked.test\r\n", &["HTTP_HOST=forced"]),
        ("GET /never HTTP/1.1\r\nHost: asked.test\r\n", &[]),
    ] {
        let text = fetch(daemon.port(0), &format!("{request}X: y\r\n\r\n")).text();
        assert_eq!(lines(&text, &["HTTP_HOST"]), expected, "{request}");
    }
}

#[test]
fn a_unix_socket_a_group_and_a_variable_lead_to_the_application() {
    let app = application(|call| whole(&format!("\r\n{}", call.param("HTTP_HOST").unwrap_or(""))));
    let text = "http { upstream php { server %%APP%%; } map $arg_to $to { php php; direct %%APP%%; none nowhere; }
        server { listen 127.0.0.1:%%PORT_0%%; location /group { fastcgi_pass php; }
        location /variable { fastcgi_pass $to; } location /socket { fastcgi_pass unix:%%DIR%%/none.sock; } } }";
    let daemon = Setup::new(text).set("APP", app.address()).start();
    let port = daemon.port(0);
    for path in ["/group", "/variable?to=php", "/variable?to=direct"] {
        assert_eq!(get(port, path).status, 200, "{path}");
    }
    assert_eq!(get(port, "/variable?to=none").status, 500);
    assert_eq!(get(port, "/socket").status, 502);
    let log = daemon.log();
    for expected in ["no port in upstream \"nowhere\"", "/none.sock\"", "upstream: \"fastcgi://unix:"] {
        assert!(log.contains(expected), "{expected}\n{log}");
    }
}

#[test]
fn what_is_wrong_in_a_configuration_is_said() {
    let errors = |conf: &str| {
        let text = format!("http {{ server {{ listen 127.0.0.1:%%PORT_0%%; {conf} }} }}");
        let outcome = Setup::new(&text).run(&["-t"]);
        String::from_utf8_lossy(&outcome.stderr).into_owned()
    };
    for (conf, expected) in [
        ("location / { fastcgi_pass php; }", "no port in upstream \"php\""),
        ("location / { fastcgi_pass 127.0.0.1:9x; }", "invalid port in upstream \"127.0.0.1:9x\""),
        ("location / { fastcgi_pass a:1; fastcgi_pass b:2; }", "\"fastcgi_pass\" directive is duplicate"),
        ("fastcgi_param A;", "invalid number of arguments in \"fastcgi_param\" directive"),
        ("fastcgi_param A b c;", "invalid parameter \"c\""),
        ("fastcgi_split_path_info ^(.+)$;", "pattern \"^(.+)$\" must have 2 captures"),
        ("fastcgi_pass a:1;", "\"fastcgi_pass\" directive is not allowed here"),
        ("fastcgi_buffers 1 4k;", "there must be at least 2 \"fastcgi_buffers\""),
    ] {
        assert!(errors(conf).contains(expected), "{conf}: {}", errors(conf));
    }
    let trap = "is passed to the application as a script, whether it exists or not";
    let script =
        "fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name; fastcgi_pass 127.0.0.1:9;";
    for (inner, is_trap) in [
        (script.to_owned(), true),
        (format!("fastcgi_split_path_info ^(.+\\.php)(/.*)$; {script}"), true),
        (format!("try_files $uri =404; {script}"), false),
        (format!("if (!-f $request_filename) {{ return 404; }} {script}"), false),
        (
            "fastcgi_param SCRIPT_FILENAME $document_root/index.php; fastcgi_pass 127.0.0.1:9;".to_owned(),
            false,
        ),
        (script.replace("fastcgi_pass 127.0.0.1:9", "proxy_pass http://127.0.0.1:9"), false),
    ] {
        let text = errors(&format!("location ~ \\.php$ {{ {inner} }}"));
        assert_eq!(text.contains(trap), is_trap, "{inner}: {text}");
    }
}

#[test]
fn a_range_is_cut_out_and_a_response_stored() {
    let app = application(|_| whole("Content-Length: 10\r\n\r\n0123456789"));
    let daemon = start(
        "root %%DIR%%/kept; location / { fastcgi_pass %%APP%%; fastcgi_store on; }
         location /force { fastcgi_force_ranges on; fastcgi_pass %%APP%%; }",
        &app,
    );
    let ask = |path: &str| {
        fetch(daemon.port(0), &format!("GET {path} HTTP/1.1\r\nHost: h\r\nRange: bytes=2-4\r\n\r\n"))
    };
    assert_eq!((ask("/force").status, ask("/force").text()), (206, "234".to_owned()));
    assert_eq!(ask("/a").status, 200);
    wait_for("the stored response", || {
        std::fs::read(daemon.path("kept/a")).is_ok_and(|bytes| bytes == b"0123456789").then_some(())
    });
}

#[test]
fn an_application_is_checked_in_its_own_protocol() {
    let sick = application(|call| match call.param("URI") {
        Some("/ping") => whole("Status: 500\r\n\r\n"),
        _ => whole("\r\nsick"),
    });
    let well = application(|call| whole(&format!("\r\nwell {}", call.param("METHOD").unwrap_or(""))));
    let text = "http { upstream u { zone u 64k; server %%SICK%%; server %%WELL%%; } server { listen 127.0.0.1:%%PORT_0%%;
        location / { fastcgi_param URI $uri; fastcgi_param METHOD $request_method; fastcgi_pass u;
            health_check uri=/ping interval=60 fails=1 passes=1; } } }";
    let daemon = Setup::new(text).set("SICK", sick.address()).set("WELL", well.address()).start();
    daemon.wait_log(&format!("peer is unhealthy .* of peer {}", sick.address()));
    for _ in 0..4 {
        assert_eq!(get(daemon.port(0), "/").text(), "well GET");
    }
}

#[test]
fn unbuffered_output_arrives_as_it_is_written() {
    let app = Origin::start(|peer| {
        let call = Call::read(peer).expect("a request");
        assert!(!call.keeps);
        peer.send(out("Content-Type: text/plain\r\n\r\nfirst\n"));
        // the client tells that it has it by another request
        assert!(peer.some(1).is_empty(), "the server leaves when the client does");
    });
    let daemon = start("location / { fastcgi_buffering off; fastcgi_pass %%APP%%; }", &app);
    let mut client = Client::connect(daemon.port(0));
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.response_head().status, 200);
    assert_eq!((client.line(), client.line()), (b"6".to_vec(), b"first".to_vec()));
    drop(client);
    app.wait_ended(1);
}
