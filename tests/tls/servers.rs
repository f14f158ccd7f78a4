//! Which certificate a client gets, protocols, and configurations that cannot work.

use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use rcgen::KeyPair;

use crate::support::daemon::is_stand_in;
use crate::support::tls::{Authority, TlsClient, client_config, trusting};
use crate::support::{Daemon, Setup, wait_for};

/// Runs a command with the standard input closed, and returns both its outputs.
pub fn output(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// What openssl s_client prints of a connection to this port.
pub fn s_client(port: u16, words: &[&str]) -> String {
    let address = format!("127.0.0.1:{port}");
    output("openssl", &[&["s_client", "-connect", &address][..], words].concat())
}

const NAMES: &str = r#"
http {
    server { listen 127.0.0.1:%%PORT_0%% ssl; server_name default.test; ssl_certificate default.pem; ssl_certificate_key default.key;
        return 200 "default $ssl_server_name"; }
    server { listen 127.0.0.1:%%PORT_0%% ssl; server_name exact.test; ssl_certificate exact.pem; ssl_certificate_key exact.key;
        return 200 exact; }
    server { listen 127.0.0.1:%%PORT_0%% ssl; server_name *.wild.test; ssl_certificate wild.pem; ssl_certificate_key wild.key;
        return 200 wild; }
    server { listen 127.0.0.1:%%PORT_0%% ssl; server_name ~^re[0-9]; ssl_certificate re.pem; ssl_certificate_key re.key; return 200 re; }
    server { listen 127.0.0.1:%%PORT_0%% ssl; server_name none.test; return 200 none; }
    server { listen 127.0.0.1:%%PORT_0%% ssl; server_name refused.test; ssl_reject_handshake on; }
}
"#;

#[test]
fn a_client_gets_the_certificate_of_the_name_it_asks_for() {
    let authority = Authority::new("test");
    let mut setup = Setup::new(NAMES);
    for (file, names) in [
        ("default", &["default.test", "none.test", "unknown.test"][..]),
        ("exact", &["exact.test"]),
        ("wild", &["*.wild.test"]),
        ("re", &["re1.test"]),
    ] {
        let pair = authority.issue(names);
        setup = setup.file(&format!("{file}.pem"), pair.certificate).file(&format!("{file}.key"), pair.key);
    }
    let daemon = setup.start();
    let config = trusting(&authority);
    // The client checks the name.
    for (name, text) in [
        ("default.test", "default default.test"),
        ("exact.test", "exact"),
        ("EXACT.test", "exact"),
        ("a.wild.test", "wild"),
        ("re1.test", "re"),
        ("none.test", "none"),
        ("unknown.test", "default unknown.test"),
    ] {
        let mut client = TlsClient::connect(daemon.port(0), &config, name);
        assert_eq!(client.get(name, "/").text(), text);
    }
    let error = TlsClient::try_connect(daemon.port(0), &config, "refused.test").err().expect("a refusal");
    assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    let shown = s_client(daemon.port(0), &["-noservername"]);
    assert!(shown.contains("CN = default.test"), "{shown}");
    daemon.wait_log("SSL handshake failed: no certificate for this name");
}

#[test]
fn a_certificate_of_a_command_takes_the_place_of_one_of_its_kind() {
    let authority = Authority::new("test");
    let conf = r#"http {
        server {
            listen 127.0.0.1:%%PORT_0%% ssl;
            ssl_certificate plain.pem; ssl_certificate_key plain.key;
            ssl_conf_command PrivateKey command.key;
            ssl_conf_command certificate command.pem;
            ssl_verify_client optional_no_ca;
            return 200 "$ssl_client_s_dn";
        }
        server {
            listen 127.0.0.1:%%PORT_1%% ssl;
            ssl_conf_command Certificate command.pem; ssl_conf_command PrivateKey command.key;
            location / {
                proxy_pass https://127.0.0.1:%%PORT_0%%;
                proxy_ssl_certificate plain.pem; proxy_ssl_certificate_key plain.key;
                proxy_ssl_conf_command Certificate client.pem; proxy_ssl_conf_command PrivateKey client.key;
            }
        }
    }"#;
    let mut setup = Setup::new(conf);
    for (file, name) in [("plain", "plain.test"), ("command", "command.test"), ("client", "client.test")] {
        let pair = authority.issue_with(&[name], |params| {
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
        });
        setup = setup.file(&format!("{file}.pem"), pair.certificate).file(&format!("{file}.key"), pair.key);
    }
    let daemon = setup.start();
    let config = trusting(&authority);
    for port in [daemon.port(0), daemon.port(1)] {
        assert!(TlsClient::try_connect(port, &config, "plain.test").is_err());
    }
    let mut client = TlsClient::connect(daemon.port(1), &config, "command.test");
    assert_eq!(client.get("command.test", "/").text(), "CN=client.test");
}

#[test]
fn a_default_server_may_refuse_all_unknown_names() {
    let authority = Authority::new("test");
    let pair = authority.issue(&["known.test"]);
    let conf = r#"http {
        server { listen 127.0.0.1:%%PORT_0%% ssl default_server; ssl_reject_handshake on; }
        server { listen 127.0.0.1:%%PORT_0%% ssl; server_name known.test; ssl_certificate a.pem; ssl_certificate_key a.key; return 200 ok; }
    }"#;
    let daemon = Setup::new(conf).file("a.pem", &pair.certificate).file("a.key", &pair.key).start();
    let config = trusting(&authority);
    assert_eq!(TlsClient::connect(daemon.port(0), &config, "known.test").get("known.test", "/").text(), "ok");
    assert!(TlsClient::try_connect(daemon.port(0), &config, "other.test").is_err());
    assert!(s_client(daemon.port(0), &["-noservername"]).contains("unrecognized name"));
}

const ONE: &str = r#"
http {
    ssl_certificate site.pem;
    ssl_certificate_key site.key;
    server { listen 127.0.0.1:%%PORT_0%% ssl; server_name site.test; %%MORE%%
        return 200 "$ssl_protocol $ssl_cipher $ssl_session_reused\n"; }
}
"#;

fn start(more: &str) -> (Daemon, Authority) {
    let authority = Authority::new("test");
    let pair = authority.issue(&["site.test", "127.0.0.1"]);
    let setup = Setup::new(ONE).set("MORE", more).file("ca.pem", authority.certificate());
    (setup.file("site.pem", pair.certificate).file("site.key", pair.key).start(), authority)
}

#[test]
fn other_implementations_are_served_with_both_versions() {
    let (daemon, _) = start("");
    let (port, ca) = (daemon.port(0), daemon.path("ca.pem").display().to_string());
    let url = format!("https://site.test:{port}/");
    let resolve = format!("site.test:{port}:127.0.0.1");
    for (words, expected) in [
        (&["--tlsv1.2", "--tls-max", "1.2"][..], "TLSv1.2 ECDHE-ECDSA-"),
        (&["--tlsv1.3"], "TLSv1.3 TLS_AES_"),
        (
            &["--tlsv1.3", "--tls13-ciphers", "TLS_CHACHA20_POLY1305_SHA256"],
            "TLSv1.3 TLS_CHACHA20_POLY1305_SHA256 .",
        ),
        (
            &["--tls-max", "1.2", "--ciphers", "ECDHE-ECDSA-CHACHA20-POLY1305"],
            "TLSv1.2 ECDHE-ECDSA-CHACHA20-POLY1305 .",
        ),
        (
            &["--tls-max", "1.2", "--ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256"],
            "TLSv1.2 ECDHE-ECDSA-AES128-GCM-SHA256 .",
        ),
    ] {
        let text =
            output("curl", &[&["-sS", "--cacert", &ca, "--resolve", &resolve, &url][..], words].concat());
        assert!(text.starts_with(expected), "{words:?}: {text}");
    }
    for (priority, expected) in [("NORMAL:-VERS-ALL:+VERS-TLS1.2", "TLS1.2"), ("NORMAL", "TLS1.3")] {
        let words = ["--x509cafile", &ca, "--verify-hostname", "site.test", "--sni-hostname", "site.test"];
        let port = port.to_string();
        let more = ["--priority", priority, "-p", &port, "127.0.0.1"];
        let text = output("gnutls-cli", &[&words[..], &more].concat());
        let is_good = text.contains("Status: The certificate is trusted") && text.contains(expected);
        assert!(is_good && text.contains("Handshake was completed"), "{priority}: {text}");
    }
}

#[test]
fn whose_order_of_suites_counts() {
    if is_stand_in() {
        return;
    }
    const AES_128: &str = "ECDHE-ECDSA-AES128-GCM-SHA256";
    const AES_256: &str = "ECDHE-ECDSA-AES256-GCM-SHA384";
    const CHACHA: &str = "ECDHE-ECDSA-CHACHA20-POLY1305";
    for (more, expected) in [
        ("", [AES_256, AES_256, CHACHA]),
        ("ssl_prefer_server_ciphers on;", [AES_256; 3]),
        ("ssl_prefer_server_ciphers off;", [AES_256, AES_128, CHACHA]),
        ("ssl_conf_command Options ServerPreference;", [AES_256; 3]),
        (
            "ssl_prefer_server_ciphers on; ssl_conf_command Options PrioritizeChaCha;",
            [AES_256, AES_256, CHACHA],
        ),
        (
            "ssl_prefer_server_ciphers off; ssl_conf_command Options PrioritizeChaCha;",
            [AES_256, AES_128, CHACHA],
        ),
    ] {
        let (daemon, _) = start(more);
        let offers = [[AES_256, AES_128, CHACHA], [AES_128, CHACHA, AES_256], [CHACHA, AES_128, AES_256]];
        for (offer, expected) in offers.iter().zip(expected) {
            let url = format!("https://127.0.0.1:{}/", daemon.port(0));
            let text = output("curl", &["-sSk", "--tls-max", "1.2", "--ciphers", &offer.join(":"), &url]);
            assert_eq!(text, format!("TLSv1.2 {expected} .\n"), "{more}: {offer:?}");
        }
        let (first, other) = ("TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_256_GCM_SHA384");
        let url = format!("https://127.0.0.1:{}/", daemon.port(0));
        let text = output("curl", &["-sSk", "--tls13-ciphers", &format!("{first}:{other}"), &url]);
        let chosen = if expected[2] == CHACHA { first } else { other };
        assert_eq!(text, format!("TLSv1.3 {chosen} .\n"), "{more}");
    }
}

#[test]
fn clients_without_a_common_version_or_suite_are_told() {
    let (daemon, _) = start("ssl_protocols TLSv1.3;");
    let text = s_client(daemon.port(0), &["-tls1_2"]);
    assert!(text.contains("alert protocol version"), "{text}");
    let (daemon, _) = start("");
    let text = s_client(daemon.port(0), &["-tls1_1", "-cipher", "ALL@SECLEVEL=0"]);
    assert!(text.contains("alert protocol version"), "{text}");
    let text = s_client(daemon.port(0), &["-tls1_2", "-cipher", "AES128-SHA"]);
    assert!(text.contains("alert handshake failure"), "{text}");
}

#[test]
fn certificates_of_two_kinds_serve_clients_of_both() {
    let authority = Authority::new("test");
    let conf = r#"http { server { listen 127.0.0.1:%%PORT_0%% ssl; server_name site.test;
        ssl_certificate rsa.pem; ssl_certificate_key rsa.key;
        ssl_certificate ec.pem; ssl_certificate_key ec.key; return 200 "$ssl_cipher"; } }"#;
    let key =
        output("openssl", &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-quiet"]);
    let key = &key[key.find("-----BEGIN").expect("a key")..];
    let rsa = authority.issue_for(&KeyPair::from_pem(key).expect("a key"), &["site.test"], |_| {});
    let ec = authority.issue(&["site.test"]);
    let setup = Setup::new(conf).file("rsa.pem", rsa.certificate).file("rsa.key", rsa.key);
    let daemon = setup.file("ec.pem", ec.certificate).file("ec.key", ec.key).start();
    for (words, expected) in [
        (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"][..], "Peer signature type: RSA"),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], "Peer signature type: ECDSA"),
        (&["-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256"], "Peer signature type: RSA-PSS"),
        (&["-tls1_3", "-sigalgs", "ecdsa_secp256r1_sha256"], "Peer signature type: ECDSA"),
    ] {
        let text = s_client(daemon.port(0), words);
        assert!(text.contains(expected), "{words:?}: {text}");
    }
}

#[test]
fn the_last_certificate_of_a_kind_counts() {
    let authority = Authority::new("test");
    let mut setup = Setup::new(
        r#"http { server { listen 127.0.0.1:%%PORT_0%% ssl;
        ssl_certificate first.test.pem; ssl_certificate_key first.test.key;
        ssl_certificate last.test.pem; ssl_certificate_key last.test.key; return 200 ok; } }"#,
    );
    for name in ["first.test", "last.test"] {
        let pair = authority.issue(&[name]);
        setup = setup.file(&format!("{name}.pem"), pair.certificate).file(&format!("{name}.key"), pair.key);
    }
    let daemon = setup.start();
    let config = trusting(&authority);
    assert!(TlsClient::try_connect(daemon.port(0), &config, "first.test").is_err());
    assert_eq!(TlsClient::connect(daemon.port(0), &config, "last.test").get("last.test", "/").text(), "ok");
}

/// What is in a pipe can be read once: several servers name it, with relative and absolute names.
#[test]
fn a_file_is_read_once_for_a_configuration() {
    let authority = Authority::new("test");
    let pair = authority.issue(&["site.test"]);
    let conf = r#"http {
        server { listen 127.0.0.1:%%PORT_0%% ssl; ssl_certificate crt; ssl_certificate_key key;
                 ssl_verify_client on; ssl_client_certificate ca; return 200 "$ssl_client_verify"; }
        server { listen 127.0.0.1:%%PORT_1%% ssl; ssl_certificate %%DIR%%/crt; ssl_certificate_key %%DIR%%/key;
            location / { proxy_pass https://127.0.0.1:%%PORT_0%%; proxy_ssl_verify on; proxy_ssl_name site.test;
                         proxy_ssl_trusted_certificate %%DIR%%/ca; proxy_ssl_certificate crt; proxy_ssl_certificate_key key; } }
    }"#;
    let setup = Setup::new(conf);
    let writers: Vec<_> = [("crt", pair.certificate), ("key", pair.key), ("ca", authority.certificate())]
        .into_iter()
        .map(|(name, content)| {
            let path = setup.folder().join(name);
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("the folder is ours");
            std::thread::spawn(move || std::fs::write(path, content).expect("read by the daemon"))
        })
        .collect();
    let daemon = setup.start();
    writers.into_iter().for_each(|writer| writer.join().expect("a reader"));
    let mut client = TlsClient::connect(daemon.port(1), &trusting(&authority), "site.test");
    assert_eq!(client.get("site.test", "/").text(), "SUCCESS");
}

#[test]
fn files_that_cannot_work_are_named_with_their_line() {
    let authority = Authority::new("test");
    let (one, other) = (authority.issue(&["site.test"]), authority.issue(&["site.test"]));
    let folder = tempfile::tempdir().expect("a folder");
    let clear = folder.path().join("clear.key");
    std::fs::write(&clear, &one.key).expect("a file");
    let clear = clear.display().to_string();
    let locked = output("openssl", &["pkcs8", "-topk8", "-in", &clear, "-passout", "pass:secret"]);
    let (pem, key) = (one.certificate.as_str(), one.key.as_str());
    for (certificate, key, line, message) in [
        (None, Some(key), 3, "cannot load certificate"),
        (Some(pem), None, 4, "cannot load certificate key"),
        (Some(pem), Some(other.key.as_str()), 4, "cannot load certificate key"),
        (Some(pem), Some(locked.as_str()), 4, "cannot load certificate key"),
        (Some(pem), Some("no key"), 4, "cannot load certificate key"),
        (Some("no certificate"), Some(key), 3, "cannot load certificate"),
    ] {
        let conf = "http { server {\n listen 127.0.0.1:%%PORT_0%% ssl;\n ssl_certificate site.pem;\n ssl_certificate_key site.key;\n} }";
        let mut setup = Setup::new(conf).named("lines.conf").bare();
        for (name, content) in [("site.pem", certificate), ("site.key", key)] {
            if let Some(content) = content {
                setup = setup.file(name, content);
            }
        }
        let output = setup.run(&[]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        let place = format!("lines.conf:{line}");
        assert!(text.contains(message) && text.contains(&place), "{message} {place}: {text}");
        assert_shows_no_key(&text, key.unwrap_or_default());
    }
    for (directives, message) in [
        ("", "no \"ssl_certificate\" is defined"),
        ("ssl_conf_command Certificate a.pem;", "no \"PrivateKey\" command for this \"Certificate\" command"),
        ("ssl_conf_command PrivateKey a.key;", "no \"Certificate\" command for this \"PrivateKey\" command"),
    ] {
        let conf = format!("http {{ server {{ listen 127.0.0.1:%%PORT_0%% ssl; {directives} }} }}");
        let output = Setup::new(&conf).run(&["-t"]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && text.matches(message).count() == 1, "{text}");
    }
}

/// Fails if a line of the key's text is in `text`.
fn assert_shows_no_key(text: &str, key: &str) {
    let lines = key.lines().filter(|line| line.len() > 30 && !line.starts_with("-----"));
    for line in lines {
        assert!(!text.contains(&line[..30]), "a key in {text}");
    }
}

#[test]
fn keys_are_never_shown() {
    let (daemon, authority) = start("");
    let key = daemon.read("site.key");
    let shown = daemon.run(&["-T"]);
    assert!(shown.status.success());
    assert_shows_no_key(&String::from_utf8_lossy(&[shown.stdout, shown.stderr].concat()), &key);
    let config = client_config(&authority, None, &[&rustls::version::TLS12]);
    TlsClient::connect(daemon.port(0), &config, "site.test").get("site.test", "/");
    s_client(daemon.port(0), &["-tls1_1", "-cipher", "ALL@SECLEVEL=0"]);
    daemon.wait_log("SSL handshake failed");
    assert_shows_no_key(&daemon.log(), &key);
    // Written into the configuration itself, a key is in its text, and nowhere else.
    let pem = daemon.read("site.pem");
    let conf = format!(
        "http {{ server {{ listen 127.0.0.1:%%PORT_0%% ssl; ssl_certificate \"data:{pem}\"; ssl_certificate_key \"data:{}\"; }} }}",
        key.replace("-----BEGIN", "-----BEGIN WRONG")
    );
    let output = Setup::new(&conf).run(&["-t"]);
    assert!(!output.status.success());
    assert_shows_no_key(&String::from_utf8_lossy(&output.stderr), &key);
}

#[test]
fn key_logs_are_reopened_like_other_logs() {
    let authority = Authority::new("test");
    let pair = authority.issue(&["site.test"]);
    let conf = "worker_processes 1; http { server { listen 127.0.0.1:%%PORT_0%% ssl; server_name site.test; \
                ssl_certificate site.pem; ssl_certificate_key site.key; ssl_key_log %%DIR%%/keys; return 200 ok; } }";
    let setup = Setup::new(conf).file("site.pem", pair.certificate).file("site.key", pair.key);
    let daemon = setup.start();
    let config = trusting(&authority);
    let visit = || TlsClient::connect(daemon.port(0), &config, "site.test").get("site.test", "/").text();
    assert_eq!(visit(), "ok");
    let before = daemon.read("keys");
    assert!(before.contains("SERVER_TRAFFIC_SECRET_0 "));
    std::fs::rename(daemon.path("keys"), daemon.path("keys.1")).expect("the file is there");
    daemon.signal(Signal::SIGUSR1);
    // The worker reopens it a moment after the master.
    wait_for("secrets in the new file", || {
        assert_eq!(visit(), "ok");
        (!daemon.read("keys").is_empty()).then_some(())
    });
    let (moved, since) = (daemon.read("keys.1"), daemon.read("keys"));
    assert!(moved.starts_with(&before) && !moved.contains(&since));
}

const SWITCH: &str = r#"
http {
    ssl_certificate a.pem; ssl_certificate_key a.key;
    server { listen 127.0.0.1:%%PORT_0%%; ssl on; server_name a.test; return 200 "$https $server_port"; }
    server { listen 127.0.0.1:%%PORT_0%%; server_name b.test; return 200 "b $https"; }
    server { listen 127.0.0.1:%%PORT_1%%; ssl off; return 200 plain$https; }
}
"#;

/// nginx removed the directive in 1.25; sites that are older than that still have it.
#[test]
fn the_old_switch_makes_the_addresses_of_a_default_server_speak_tls() {
    let authority = Authority::new("test");
    let pair = authority.issue(&["a.test", "b.test"]);
    let setup = Setup::new(SWITCH).file("a.pem", pair.certificate).file("a.key", pair.key);
    let daemon = setup.start();
    let config = trusting(&authority);
    let get = |name: &str| TlsClient::connect(daemon.port(0), &config, name).get(name, "/").text().to_owned();
    assert_eq!(get("a.test"), format!("on {}", daemon.port(0)));
    assert_eq!(get("b.test"), "b on");
    assert_eq!(crate::support::get(daemon.port(1), "/").text(), "plain");
    daemon.wait_log(r#"the "ssl" directive is deprecated, use the "listen \.\.\. ssl" directive"#);
}
