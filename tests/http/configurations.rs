//! Whole configurations as operators write them: `conf/examples/` and the layout of Debian's nginx package.
//!
//! Addresses, folders and users are replaced by the test's; everything else runs unchanged.

use crate::support::{Client, Daemon, Origin, Setup, fetch, get};

/// An example with the daemon's paths in it, and with the lines that support needs to follow the daemon.
pub fn example(name: &str, changes: &[(&str, &str)]) -> Setup {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/");
    let read = |path: String| std::fs::read_to_string(path).expect("it is shipped");
    let mut text = read(format!("{folder}examples/{name}"));
    for (from, to) in changes {
        assert!(text.contains(from), "{name} has {from:?}");
        text = text.replace(from, to);
    }
    let included = ["mime.types", "fastcgi_params", "fastcgi.conf", "uwsgi_params", "scgi_params"];
    let setup = Setup::new(&text).level("info");
    included.iter().fold(setup, |setup, file| setup.file(file, read(format!("{folder}{file}"))))
}

/// An origin that reports its own name and the request it received.
pub fn echo(name: &'static str) -> Origin {
    Origin::replying(move |request| {
        let host = request.header("host").unwrap_or("-");
        crate::support::origin::ok(format!("{name} {} {host}", request.target).as_bytes())
    })
}

pub fn ask(daemon: &Daemon, host: &str, path: &str) -> crate::support::message::Response {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    fetch(daemon.port(0), &request)
}

#[test]
fn websocket() {
    let origin = Origin::start(|peer| {
        while let Some(request) = peer.request() {
            if request.header("upgrade").is_none() {
                assert_eq!(request.header("connection"), None, "a plain request keeps the connection");
                peer.send(crate::support::origin::ok(b"plain"));
                continue;
            }
            assert_eq!(request.header("connection"), Some("upgrade"));
            peer.send(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            );
            let asked = peer.exactly(5);
            peer.send([b"echo ", &asked[..]].concat());
            return;
        }
    });
    let changes = [("127.0.0.1:3000", &*origin.address()), ("listen 80", "listen 127.0.0.1:%%PORT_0%%")];
    let daemon = example("websocket.conf", &changes).start();
    let mut client = Client::connect(daemon.port(0));
    assert_eq!(client.get("/").text(), "plain");
    client.send("GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
    assert_eq!(client.response_head().status, 101);
    client.send("hello");
    assert_eq!(client.exactly(10), b"echo hello");
    assert_eq!(origin.accepted(), 1, "the plain request's connection served the tunnel");
}

#[test]
fn balanced() {
    let busy = Origin::replying(|_| b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_vec());
    let good = Origin::replying(|request| match request.target.as_str() {
        "/missing" => b"HTTP/1.1 404 No\r\nContent-Length: 6\r\n\r\ntheirs".to_vec(),
        _ => crate::support::origin::ok(b"good"),
    });
    let changes = [
        ("127.0.0.1:3001", &*busy.address()),
        ("127.0.0.1:3002", &*good.address()),
        ("127.0.0.1:3003", "127.0.0.1:%%PORT_1%%"),
        ("listen      80 default_server", "listen 127.0.0.1:%%PORT_0%%"),
        ("127.0.0.1:8081", "127.0.0.1:%%PORT_1%%"),
        ("root        errors", "root %%DIR%%/errors"),
    ];
    let daemon = example("balanced.conf", &changes)
        .file("errors/404.html", "<p>Not here</p>\n")
        .file("errors/50x.html", "<p>Sorry</p>\n")
        .start();
    for _ in 0..6 {
        let response = get(daemon.port(0), "/");
        assert_eq!((response.status, response.text().as_str()), (200, "good"), "the other server is asked");
        assert!(response.header("x-served-by").is_some_and(|by| by.ends_with(&good.address())));
    }
    let missing = get(daemon.port(0), "/missing");
    assert_eq!((missing.status, missing.text().as_str()), (404, "<p>Not here</p>\n"));
    assert_eq!(missing.header("content-type"), Some("text/html"));
    let reports = get(daemon.port(0), "/reports/2026");
    assert_eq!((reports.status, reports.header("retry-after")), (503, Some("3600")));
    assert!(reports.text().starts_with("The reports are being rebuilt"));
    assert!(!reports.header("server").is_some_and(|server| server.contains('/')), "no version is told");
    assert!(get(daemon.port(1), "/status").text().starts_with("Active connections: "));
}

#[test]
fn vhosts() {
    let origin = echo("application");
    let changes = [
        ("listen      80 default_server", "listen 127.0.0.1:%%PORT_0%% default_server"),
        ("listen      80;", "listen 127.0.0.1:%%PORT_0%%;"),
        ("127.0.0.1:3000", &*origin.address()),
        ("root        sites", "root %%DIR%%/sites"),
    ];
    let daemon = example("vhosts.conf", &changes)
        .file("sites/example.com/index.html", "home\n")
        .file("sites/example.com/app/logo.svg", "<svg/>")
        .file("sites/example.com/images/a.png", "png")
        .file("sites/example.com/.git/config", "secret")
        .file("sites/customers/acme/index.html", "acme\n")
        .start();
    for (host, path, status, body) in [
        ("example.com", "/", 200, "home\n"),
        ("example.com", "/app/logo.svg", 200, "<svg/>"),
        ("example.com", "/app/orders?id=7", 200, "application /app/orders?id=7 example.com"),
        ("acme.example.com", "/", 200, "acme\n"),
    ] {
        let response = ask(&daemon, host, path);
        assert_eq!((response.status, response.text().as_str()), (status, body), "{host} {path}");
    }
    let api = ask(&daemon, "example.com", "/api/users?x=1").text();
    assert_eq!(api, format!("application /v1/users?x=1 {}", origin.address()));
    assert_eq!(ask(&daemon, "example.com", "/.git/config").status, 404);
    let image = ask(&daemon, "example.com", "/images/a.png");
    assert_eq!(image.header("cache-control"), Some("public, max-age=86400"));
    assert_eq!(image.header("content-type"), Some("image/png"));
    assert_eq!(ask(&daemon, "acme.example.com", "/").header("x-customer"), Some("acme"));
    let moved = ask(&daemon, "www.example.com", "/a?b");
    assert_eq!((moved.status, moved.header("location")), (301, Some("http://example.com/a?b")));
    let mut stranger = Client::connect(daemon.port(0));
    stranger.send("GET / HTTP/1.1\r\nHost: elsewhere\r\n\r\n");
    assert_eq!(stranger.head_or_end(), None, "444 closes without an answer");
}

#[test]
fn container() {
    let origin = echo("application");
    let changes = [
        ("daemon off;", ""),
        ("user root;", ""),
        ("pid /tmp/pronghorn.pid;", ""),
        ("error_log /dev/stderr notice;", ""),
        ("listen 80", "listen 127.0.0.1:%%PORT_0%%"),
        ("application:3000", &*origin.address()),
    ];
    let daemon = example("container.conf", &changes).prelude("exec >stdout;").start();
    assert_eq!(get(daemon.port(0), "/healthz").text(), "ok\n");
    assert_eq!(get(daemon.port(0), "/a?b=%22").text(), "application /a?b=%22 localhost");
    let line = daemon.wait_line("stdout", r"^\{.*\}$");
    assert!(line.contains(r#""uri":"/a?b=%22","status":200,"bytes":30,"#), "{line}");
    assert!(!daemon.read("stdout").contains("healthz"));
}

#[test]
fn the_layout_of_debian() {
    let origin = echo("application");
    let conf = r"
user root;
worker_processes auto;
pid %%DIR%%/pronghorn.pid;
error_log %%DIR%%/error.log info;
include %%DIR%%/modules-enabled/*.conf;

events {
	worker_connections 768;
	# multi_accept on;
}

http {

	##
	# Basic Settings
	##

	sendfile on;
	tcp_nopush on;
	types_hash_max_size 2048;
	# server_tokens off;

	# server_names_hash_bucket_size 64;

	include %%DIR%%/mime.types;
	default_type application/octet-stream;

	access_log %%DIR%%/logs/access.log;

	##
	# Virtual Host Configs
	##

	include %%DIR%%/conf.d/*.conf;
	include %%DIR%%/sites-enabled/*;

	# PORT %%PORT_0%%
}
";
    let site = "
server {
	listen 127.0.0.1:PORT default_server;
	listen [::1]:PORT default_server;

	root DIR/html;
	index index.html index.htm index.nginx-debian.html;

	server_name _;

	location / {
		proxy_pass http://app;
		include proxy_params;
	}

	location ~* \\.(?:png|ico)$ {
		access_log off;
		log_not_found off;
		add_header Cache-Control public;
	}

	location /docs/ {
		alias DIR/documents/;
	}

	location ~ /\\.ht {
		return 403;
	}
}
";
    let params = "proxy_set_header Host $http_host;\nproxy_set_header X-Real-IP $remote_addr;\n\
                  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
                  proxy_set_header X-Forwarded-Proto $scheme;\n";
    let types = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/mime.types"));
    let setup = Setup::new(conf).bare().arguments(&["-g", "daemon off;"]);
    let (folder, port) = (setup.folder().display().to_string(), setup.port(0).to_string());
    let setup = setup
        .file("mime.types", types.expect("it is shipped"))
        .file("proxy_params", params)
        .file("conf.d/app.conf", format!("upstream app {{ server {}; }}\n", origin.address()))
        .file("sites-available/app", site.replace("DIR", &folder).replace("PORT", &port))
        .file("html/a.png", "png")
        .file("documents/index.html", "<p>documents</p>\n");
    std::fs::create_dir(setup.folder().join("sites-enabled")).expect("the folder is ours");
    std::os::unix::fs::symlink("../sites-available/app", setup.folder().join("sites-enabled/app"))
        .expect("the folder is ours");
    let daemon = setup.start();
    assert_eq!(get(daemon.port(0), "/x").text(), "application /x localhost");
    assert_eq!(origin.last().header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(get(daemon.port(0), "/a.png").header("cache-control"), Some("public"));
    assert_eq!(get(daemon.port(0), "/docs/").text(), "<p>documents</p>\n");
    assert_eq!(get(daemon.port(0), "/.htaccess").status, 403);
    assert_eq!(get(daemon.port(0), "/none.png").status, 404);
    daemon.wait_line("logs/access.log", r#""GET /\.htaccess HTTP/1\.1" 403"#);
    assert!(!daemon.read("logs/access.log").contains("png") && !daemon.log().contains("none.png"));
}
