//! Charsets in response heads, and recoded texts: from files and upstreams, in pieces, in subrequests.

use crate::support::{Client, Daemon, Origin, Setup, get};

const CONF: &str = r#"
http {
    types { text/html html; text/foo foo; }
    charset_map koi8-r utf-8 { C1 D0B0; C2 D0B1; 80 E282AC; }
    charset_map koi8-r windows-1251 { C1 E0; C2 E1; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%/pages;
        location /named/ { charset utf-8; return 200 a; }
        location /typed/ { charset utf-8; default_type text/foo; return 200 a; }
        location /typed/too { charset utf-8; charset_types text/foo; default_type text/foo; return 200 a; }
        location /typed/any { charset utf-8; charset_types *; default_type a/b; return 200 a; }
        location /variable { charset $arg_c; return 200 a; }
        location /off { charset utf-8; location /off/in { charset off; return 200 a; } }
        location /if { if ($arg_c) { charset utf-8; } return 200 a; }
        location /moved { charset utf-8; return 302 /a; }
        location /koi/ { charset utf-8; source_charset koi8-r; alias %%DIR%%/pages/; }
        location /utf/ { charset koi8-r; source_charset UTF-8; alias %%DIR%%/pages/; }
        location /win/ { charset windows-1251; source_charset koi8-r; alias %%DIR%%/pages/; }
        location /lost/ { charset utf-8; source_charset $arg_s; alias %%DIR%%/pages/; }
        location /include/ { charset utf-8; source_charset utf-8; ssi on; alias %%DIR%%/pages/; }
        location /part/ { source_charset koi8-r; alias %%DIR%%/pages/; }
        location /proxied/ { charset koi8-r; override_charset on; proxy_pass http://%%ORIGIN%%; }
        location /kept/ { charset koi8-r; proxy_pass http://%%ORIGIN%%; }
        location /accel/ { proxy_pass http://%%ORIGIN%%; }
        location /accel/ignored { proxy_ignore_headers X-Accel-Charset; proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

const UTF8: &str = "xа€б";
const KOI8: &[u8] = b"x\xc1\x80\xc2";

fn start() -> (Origin, Daemon) {
    let origin = Origin::start(|peer| {
        while let Some(request) = peer.request() {
            let more =
                if request.target.starts_with("/accel") { "X-Accel-Charset: windows-1251\r\n" } else { "" };
            peer.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n{more}Transfer-Encoding: chunked\r\n\r\n"
            ));
            for byte in UTF8.bytes() {
                peer.send([b"1\r\n", &[byte][..], b"\r\n"].concat());
            }
            peer.send("0\r\n\r\n");
        }
    });
    let setup = Setup::new(CONF).set("ORIGIN", origin.address());
    let setup = setup.file("pages/koi.html", KOI8).file("pages/utf.html", UTF8).file("pages/moved.html", "");
    let setup = setup.file("pages/include.html", "б<!--#include virtual=\"/part/koi.html\" -->б");
    (origin, setup.start())
}

#[test]
fn the_charset_is_told_with_the_type() {
    let (_origin, daemon) = start();
    let types = [
        ("/named/a.html", "text/html; charset=utf-8"),
        ("/named/a", "text/plain; charset=utf-8"),
        ("/typed/a", "text/foo"),
        ("/typed/too", "text/foo; charset=utf-8"),
        ("/typed/any", "a/b; charset=utf-8"),
        ("/variable?c=koi8-r", "text/plain; charset=koi8-r"),
        ("/variable?c=what", "text/plain; charset=what"),
        ("/off/in", "text/plain"),
        ("/if?c=1", "text/plain; charset=utf-8"),
        ("/if", "text/plain"),
        ("/moved", "text/html"),
        ("/koi/koi.html", "text/html; charset=utf-8"),
        ("/lost/koi.html?s=latin9", "text/html"),
        ("/lost/koi.html?s=utf-8", "text/html; charset=utf-8"),
        ("/proxied/", "text/html; charset=koi8-r"),
        ("/kept/", "text/html; charset=utf-8"),
        ("/accel/ignored", "text/html; charset=utf-8"),
        ("/koi/nowhere.html", "text/html; charset=utf-8"),
    ];
    for (path, expected) in types {
        assert_eq!(get(daemon.port(0), path).header("content-type"), Some(expected), "{path}");
    }
    daemon.wait_log("no \"charset_map\" between the charsets \"latin9\" and \"utf-8\"");
}

#[test]
fn text_is_recoded() {
    let (_origin, daemon) = start();
    let bodies: &[(&str, &[u8])] = &[
        ("/koi/koi.html", UTF8.as_bytes()),
        ("/utf/utf.html", KOI8),
        ("/win/koi.html", b"x\xe0?\xe1"),
        ("/lost/koi.html?s=latin9", KOI8),
        ("/proxied/", KOI8),
        ("/kept/", UTF8.as_bytes()),
        ("/include/include.html", "бxа€бб".as_bytes()),
    ];
    for (path, expected) in bodies {
        assert_eq!(get(daemon.port(0), path).body, *expected, "{path}");
    }
    let recoded = get(daemon.port(0), "/koi/koi.html");
    assert_eq!(recoded.header("content-length"), None);
    assert_eq!(recoded.header("accept-ranges"), None);
    assert!(recoded.header("last-modified").is_some());
    assert_eq!(get(daemon.port(0), "/win/koi.html").length(), Some(4), "bytes for bytes");
    let mut client = Client::connect(daemon.port(0));
    for _ in 0..2 {
        assert_eq!(client.get("/proxied/").body, KOI8, "the connection goes on");
    }
}

#[test]
fn an_upstream_may_name_the_charset() {
    let origin = Origin::replying(|request| {
        let named = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nX-Accel-Charset: koi8-r\r\n";
        match request.target.as_str() {
            "/accel/plain" => format!("{named}Content-Length: 1\r\n\r\nx").into_bytes(),
            "/accel/file" => {
                format!("{named}X-Accel-Redirect: /win/utf.html\r\nContent-Length: 1\r\n\r\nx").into_bytes()
            }
            _ => {
                let head = named.replace("text/html", "text/html; charset=utf-8");
                format!("{head}Content-Length: {}\r\n\r\n{UTF8}", UTF8.len()).into_bytes()
            }
        }
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).file("pages/utf.html", "x").start();
    let plain = get(daemon.port(0), "/accel/plain");
    assert_eq!(plain.header("content-type"), Some("text/html; charset=koi8-r"));
    assert_eq!(plain.header("x-accel-charset"), None);
    let recoded = get(daemon.port(0), "/accel/recoded");
    assert_eq!(recoded.header("content-type"), Some("text/html; charset=koi8-r"));
    assert_eq!(recoded.body, KOI8);
    let file = get(daemon.port(0), "/accel/file");
    assert_eq!(file.header("content-type"), Some("text/html; charset=koi8-r"));
    let ignored = get(daemon.port(0), "/accel/ignored");
    assert_eq!(ignored.header("content-type"), Some("text/html; charset=utf-8"));
}

#[test]
fn charsets_without_a_way_between_them_are_refused() {
    let refused = |text: &str| {
        let text = format!("http {{ server {{ listen 127.0.0.1:%%PORT_0%%; }} {text} }}");
        Setup::new(&text).try_start().err().expect("refused").stderr
    };
    let log = refused("charset utf-8; source_charset koi8-r;");
    assert!(log.contains("no \"charset_map\" between the charsets \"koi8-r\" and \"utf-8\""), "{log}");
    let log = refused("charset_map a A { }");
    assert!(log.contains("\"charset_map\" between the same charsets \"a\" and \"A\""), "{log}");
    let log = refused("charset_map a b { } charset_map b a { }");
    assert!(log.contains("duplicate \"charset_map\" between \"b\" and \"a\""), "{log}");
    let log = refused("charset_map a b { 1; }");
    assert!(log.contains("invalid parameters number"), "{log}");
}
