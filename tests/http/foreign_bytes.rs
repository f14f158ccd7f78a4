//! Configurations in encodings older than UTF-8: every byte is kept as it is, as in nginx.

use crate::support::{Client, Setup};

/// Latin-1 text as its bytes.
fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|char| u8::try_from(u32::from(char)).expect("Latin-1")).collect()
}

const MAIN: &str = r#"
http {
    access_log %%DIR%%/latin.log;
    include http.inc;
    server { listen 127.0.0.1:%%PORT_0%%; include server.inc; location /alias- { return 404; } }
}
"#;

const HTTP: &str = r#"
# Garçons
map $arg_k $mapped { "é" "mappé"; ~^x\xe9 "régex"; default none; }
"#;

const SERVER: &str = r#"
add_header X-Site "café" always;
location / { return 404; }
location /été { return 200 "l'été\n"; }
location = /exact-é { set $a "ü"; return 200 "$a"; }
location ~ ^/ré(.*)$ { return 200 "<$1>"; }
location /k { set $b é; if ($b = "é") { return 200 "é!"; } return 200 "$mapped"; }
location /m { set $args k=é; return 200 "$mapped"; }
rewrite ^/Äpfel$ /été last;
"#;

#[test]
fn bytes_that_are_no_utf_8_stand_for_themselves() {
    let alias = "location /alias-é/ { alias %%DIR%%/files/; }";
    let setup = Setup::new(MAIN).file("files/a.txt", "file").file("http.inc", latin1(HTTP));
    let alias = alias.replace("%%DIR%%", &setup.folder().display().to_string());
    let daemon = setup.file("server.inc", latin1(&format!("{SERVER}{alias}\n"))).start();
    let ask = |target: &str| {
        let mut wire = Client::connect(daemon.port(0)).into_wire();
        wire.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
        wire.rest().0
    };
    let has = |answer: &[u8], text: &str| {
        let wanted = latin1(text);
        answer.windows(wanted.len()).any(|part| part == wanted)
    };
    for (target, expected) in [
        ("/%e9t%e9", "l'été\n"),
        ("/exact-%e9", "ü"),
        ("/r%e9x", "<x>"),
        ("/k", "é!"),
        ("/m", "mappé"),
        ("/%c4pfel", "l'été\n"),
        ("/alias-%e9/a.txt", "file"),
        ("/nothing", "X-Site: café\r\n"),
    ] {
        let answer = ask(target);
        assert!(has(&answer, expected), "{target}: {}", String::from_utf8_lossy(&answer));
    }
}
