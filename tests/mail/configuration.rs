//! A `mail` block in `-t`, and its TOML spelling.

use super::{ask, greeted, knowing_me, pop3_server};
use crate::support::Setup;

fn tested(conf: &str) -> String {
    let output = Setup::new(conf).run(&["-t"]);
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_is_missing_or_wrong_is_told_with_its_line() {
    let cases = [
        ("server { listen 127.0.0.1:8143; protocol imap; }", "no \"auth_http\" is defined for server"),
        ("auth_http 127.0.0.1:1; server { listen 127.0.0.1:9999; }", "unknown mail protocol for server"),
        ("auth_http 127.0.0.1:1; server { protocol imap; }", "no \"listen\" is defined for server"),
        ("server { listen 127.0.0.1:143; protocol nntp; }", "unknown protocol \"nntp\""),
        ("auth_http http://; server { listen 127.0.0.1:143; }", "no host in auth_http \"\""),
        ("auth_http https://a; server { listen 127.0.0.1:143; }", "TLS is not available in auth_http"),
        (
            "imap_auth digest; auth_http 127.0.0.1:1; server { listen 127.0.0.1:143; }",
            "invalid value \"digest\"",
        ),
        (
            "starttls maybe; auth_http 127.0.0.1:1; server { listen 127.0.0.1:143; }",
            "invalid value \"maybe\"",
        ),
        (
            "auth_http 127.0.0.1:1; server { listen 127.0.0.1:143; starttls on; }",
            "no \"ssl_certificate\" is defined for the \"starttls\" directive",
        ),
        (
            "auth_http 127.0.0.1:1; server { listen 127.0.0.1:993 ssl; }",
            "no \"ssl_certificate\" is defined for the \"listen ... ssl\" directive",
        ),
        (
            "auth_http 127.0.0.1:1; server { listen 127.0.0.1:143; } server { listen 127.0.0.1:143; }",
            "duplicate \"127.0.0.1:143\" address and port pair",
        ),
        ("server { listen 127.0.0.1:143 udp; }", "invalid parameter \"udp\""),
        (
            "server { listen 127.0.0.1; protocol imap; }",
            "no port in \"127.0.0.1\" of the \"listen\" directive",
        ),
        ("auth_http_header X \"a\\r\\nb\";", "the value of a field is one line"),
        ("proxy_pass 127.0.0.1:1;", "\"proxy_pass\" directive is not allowed here"),
        ("protocol imap;", "\"protocol\" directive is not allowed here"),
    ];
    for (block, expected) in cases {
        let told = tested(&format!("mail {{ {block} }}"));
        assert!(told.contains(expected) && told.contains("pronghorn.conf:"), "{block}: {told}");
        assert!(told.contains("test failed"), "{told}");
    }
}

#[test]
fn ports_tell_the_protocol() {
    let listens = ["25", "465", "587", "110", "995", "143", "993"];
    let servers: String =
        listens.iter().map(|port| format!("server {{ listen 127.0.0.1:{port}; }}")).collect();
    let told = tested(&format!("mail {{ auth_http 127.0.0.1:1; {servers} }}"));
    assert!(told.contains("test is successful"), "{told}");
}

#[test]
fn an_address_belongs_to_one_block() {
    let told = tested(
        "mail { auth_http 127.0.0.1:1; server { listen 127.0.0.1:8143; protocol imap; } }
         stream { server { listen 127.0.0.1:8143; return x; } }",
    );
    assert!(told.contains("duplicate \"127.0.0.1:8143\" address and port pair"), "{told}");
    assert!(told.contains("a server of the stream block listens there already"), "{told}");
}

#[test]
fn toml_says_the_same() {
    let server = pop3_server();
    let auth = knowing_me(server.port());
    let text = "daemon = false\npid = \"%%DIR%%/pronghorn.pid\"\nerror_log = [\"%%DIR%%/error.log\", \"info\"]\n%%USER%%\n[events]\n\
        [mail]\nauth_http = \"http://%%AUTH%%/auth\"\n\
        [[mail.server]]\nlisten = \"127.0.0.1:%%PORT_0%%\"\nprotocol = \"pop3\"\npop3_capabilities = [\"TOP\", \"X-TOML\"]\n";
    let user = if nix::unistd::geteuid().is_root() { "user = \"root\"" } else { "" };
    let setup = Setup::new(text).set("AUTH", auth.address()).set("USER", user).bare().named("pronghorn.toml");
    let daemon = setup.start();
    let mut client = greeted(&daemon);
    client.send("CAPA\r\n");
    let listed: Vec<String> = (0..3).map(|_| super::line(&mut client)).collect();
    assert_eq!(listed[1..], ["TOP", "X-TOML"]);
    for _ in 0..2 {
        super::line(&mut client);
    }
    assert_eq!(ask(&mut client, "USER me"), "+OK");
    assert_eq!(ask(&mut client, "PASS secret"), "+OK welcome USER me");
}
