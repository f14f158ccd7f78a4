//! `scripts/dev-certificate`: a certificate that works, files that only their owner reads, a CA that stays.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::place::{has, run, shipped};
use crate::support::Setup;

const CONF: &str = r#"
http {
    server { listen 127.0.0.1:%%PORT_0%% ssl; ssl_certificate dev/cert.pem; ssl_certificate_key dev/key.pem; return 200 "fine"; }
}
"#;

#[test]
fn the_certificate_is_accepted_by_a_client_that_trusts_the_authority() {
    let setup = Setup::new(CONF);
    let folder = setup.folder().join("dev");
    let make = |words: &[&str]| {
        let script = Command::new(shipped("scripts/dev-certificate"));
        let mut command = script;
        command.arg(format!("--directory={}", folder.display())).args(words);
        run(&mut command)
    };
    let made = make(&[]);
    assert_eq!((made.code, made.err.as_str()), (Some(0), ""));
    for line in [
        format!("ssl_certificate     {}/cert.pem;", folder.display()),
        format!("ssl_certificate_key {}/key.pem;", folder.display()),
        format!("curl --cacert {}/ca.pem https://localhost/", folder.display()),
    ] {
        assert!(made.out.contains(&line), "{line}: {}", made.out);
    }
    let mode = |name: &str| {
        let file = std::fs::metadata(folder.join(name)).expect("it was made");
        file.permissions().mode() & 0o777
    };
    assert_eq!((mode(""), mode("ca.key"), mode("key.pem"), mode("cert.pem")), (0o700, 0o600, 0o600, 0o644));
    assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 4, "nothing else is left");
    let read = |name: &str| std::fs::read(folder.join(name)).expect("it was made");
    let (ca, key) = (read("ca.pem"), read("key.pem"));
    let again = make(&["--days=30", "localhost", "*.app.test", "127.0.0.1", "::1"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(read("ca.pem") == ca && read("key.pem") != key, "the authority stays, the certificate is new");

    let daemon = setup.start();
    for host in ["localhost", "127.0.0.1", "one.app.test"] {
        let outcome = run(Command::new("curl")
            .args(["-sS", "--cacert"])
            .arg(folder.join("ca.pem"))
            .args(["--resolve", &format!("{host}:{}:127.0.0.1", daemon.port(0))])
            .arg(format!("https://{host}:{}/", daemon.port(0))));
        assert_eq!((outcome.out.as_str(), outcome.err.as_str()), ("fine", ""), "{host}");
    }
    let folder_text = folder.join("ca.pem").display().to_string();
    let strict = run(Command::new("openssl")
        .args(["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", &folder_text])
        .arg(folder.join("cert.pem")));
    assert_eq!(strict.code, Some(0), "{strict:?}");
}

#[test]
fn mistakes_change_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    for words in
        [&["a.test,DNS:evil"][..], &["--days=0"], &["--days=x"], &["--what"], &["a b"], &["-x"], &[""]]
    {
        let mut command = Command::new(shipped("scripts/dev-certificate"));
        let outcome = run(command.current_dir(folder.path()).args(words));
        assert_eq!(outcome.code, Some(1), "{words:?}");
        assert!(outcome.err.starts_with("dev-certificate: "), "{outcome:?}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
    let help = run(Command::new(shipped("scripts/dev-certificate")).arg("--help"));
    assert!(help.code == Some(0) && help.out.contains("--directory=DIR"), "{help:?}");
}

#[test]
fn shellcheck_finds_nothing() {
    if has("shellcheck") {
        let outcome = run(Command::new("shellcheck").arg(shipped("scripts/dev-certificate")));
        assert_eq!((outcome.code, outcome.out.as_str()), (Some(0), ""));
    }
}
