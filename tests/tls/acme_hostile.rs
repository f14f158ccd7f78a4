//! An authority that is slow, broken or hostile, a full disk, and a keeper of certificates that is killed: servers go on,
//! and what was asked for is not asked for again.

use std::os::unix::fs::PermissionsExt;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Uid, User};
use serde_json::Value;

use super::acme::{
    CONF, ask, client, setup, setup_with, wait_certificate, wait_obtained, wait_other, wait_other_after,
};
use crate::control::disk::Disk;
use crate::process::upgrade::upgrade;
use crate::support::acme::Trouble;
use crate::support::daemon::send;
use crate::support::tls::Authority;
use crate::support::{Acme, Daemon, get, process, wait_for};

/// The files of the state folder that end so.
fn state_files(daemon: &Daemon, end: &str) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(daemon.path("state")).expect("a folder").flatten().map(|it| it.path());
    files.filter(|path| path.to_string_lossy().ends_with(end)).collect()
}

/// The state that is kept of the only certificate.
fn memory(daemon: &Daemon) -> (std::path::PathBuf, Value) {
    let files = state_files(daemon, ".json").into_iter();
    let mut own = files.filter(|path| !path.to_string_lossy().contains("account-"));
    let path = own.next().expect("there is one");
    let text = std::fs::read_to_string(&path).expect("readable");
    (path, serde_json::from_str(&text).expect("JSON"))
}

#[test]
fn an_authority_that_fails_is_told_of_and_harms_nobody() {
    for (trouble, told) in [
        (
            Trouble::InvalidOrder,
            r"refuses the order: a\.test: as it was told \(urn.*unauthorized\): see that the name leads to",
        ),
        (Trouble::WrongKey, r"cannot be used: the private key does not belong"),
        (Trouble::LongChain, r"the answer is longer than 262144 bytes"),
        (Trouble::Garbage, r"the account could not be opened: .*JSON"),
        (Trouble::Cut, r"the account could not be opened: "),
        (Trouble::RateLimited(5000), r"too many orders.*nothing but waiting helps; next attempt in 5000 s"),
    ] {
        let acme = Acme::start();
        acme.trouble(trouble);
        let daemon = setup(&acme).start();
        daemon.wait_log(&format!(
            r#"\[error\].*acme: issuer "test" gave no certificate for a\.test, b\.test: .*{told}"#
        ));
        assert_eq!(get(daemon.port(0), "/").status, 301, "{trouble:?}");
        assert!(ask(daemon.port(1), &client(&acme), "a.test").is_none());
        assert_eq!(daemon.complaints("alert|emerg|crit"), Vec::<String>::new(), "{trouble:?}");
        assert_eq!(state_files(&daemon, ".pem").len(), 0, "{trouble:?}");
    }
}

/// The workers' user can put links and pipes into the folder of the state, and the master is root.
#[test]
fn the_master_follows_no_link_that_a_worker_can_make_and_waits_for_no_pipe() {
    let acme = Acme::start();
    let conf = if Uid::effective().is_root() { format!("user nobody;\n{CONF}") } else { CONF.to_owned() };
    let setup = setup_with(&acme, &conf, "", "");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(setup.folder(), open).expect("the folder is ours");
    let daemon = setup.start();
    let client = client(&acme);
    let first = wait_certificate(&daemon, &client);
    wait_obtained(&daemon, 1);
    let file = state_files(&daemon, ".pem")[0].clone();
    if Uid::effective().is_root() {
        let other = acme.authority().issue(&["a.test", "b.test"]);
        daemon.write("secret.pem", format!("{}{}", other.key, other.certificate));
        std::fs::remove_file(&file).expect("it is there");
        std::os::unix::fs::symlink(daemon.path("secret.pem"), &file).expect("a link");
        let owner = User::from_name("nobody").expect("users are known").expect("it is everywhere").uid;
        std::os::unix::fs::lchown(&file, Some(owner.as_raw()), None).expect("we are root");
        daemon.wait_log(
            r#"\[error\].*cannot read certificate ".*is a symbolic link that user \d+ can replace"#,
        );
        assert_eq!(ask(daemon.port(1), &client, "a.test").expect("a handshake").0, first);
        daemon.reload();
        assert!(ask(daemon.port(1), &client, "a.test").is_none_or(|(serial, _)| serial == first));
    }
    // The keeper may put the certificate back at any moment.
    let _ = std::fs::remove_file(&file);
    let _ = nix::unistd::mkfifo(&file, Mode::from_bits_truncate(0o666));
    daemon.reload();
    assert_eq!(get(daemon.port(0), "/").status, 301);
}

#[test]
fn a_certificate_must_have_all_names_and_addresses() {
    let acme = Acme::start();
    acme.trouble(Trouble::FewNames);
    let daemon = setup_with(&acme, CONF, "", "a.test 127.0.0.1").start();
    daemon.wait_log(
        r"\[error\].*gave no certificate for a\.test, 127\.0\.0\.1: .*certificate lacks 127\.0\.0\.1",
    );
    assert_eq!(state_files(&daemon, ".pem").len(), 0);
}

#[test]
fn an_address_gets_a_certificate_by_either_challenge() {
    for challenge in ["", "challenge tls-alpn-01;"] {
        let acme = Acme::start();
        let daemon = setup_with(&acme, CONF, challenge, "a.test 127.0.0.1").start();
        let client = client(&acme);
        wait_certificate(&daemon, &client);
        wait_obtained(&daemon, 1);
        assert!(ask(daemon.port(1), &client, "127.0.0.1").is_some(), "{challenge}");
    }
}

#[test]
fn an_order_that_is_never_decided_is_given_up_and_told_of() {
    let acme = Acme::start();
    acme.trouble(Trouble::Endless);
    let daemon = setup(&acme).start();
    wait_for("the order to be looked at", || (acme.asked("/order/") >= 3).then_some(()));
    assert_eq!(get(daemon.port(0), "/").status, 301);
    // A keeper that takes over goes on with the same order.
    let keeper = daemon.keeper();
    send(keeper, Signal::SIGKILL);
    let asked = acme.asked("/order/");
    wait_for("the order to be looked at again", || (acme.asked("/order/") > asked + 2).then_some(()));
    assert_eq!(acme.orders(), 1);
    daemon.stop(Signal::SIGTERM);
}

#[test]
fn a_chain_by_its_top_a_profile_and_an_account_elsewhere_are_asked_for() {
    let acme = Acme::start();
    let other = Authority::new("another root");
    acme.offers_chain(&other.certificate());
    acme.wants_external("account-7", b"a secret of thirty-two bytes or so");
    let key = "YSBzZWNyZXQgb2YgdGhpcnR5LXR3byBieXRlcyBvciBzbw";
    let issuer = format!(
        "external_account_key account-7 data:{key}; profile short require; preferred_chain 'another root';"
    );
    let daemon = setup_with(&acme, CONF, &issuer, "").start();
    wait_certificate(&daemon, &client(&acme));
    wait_obtained(&daemon, 1);
    assert_eq!(acme.profiles(), ["short"]);
    let text = std::fs::read_to_string(&state_files(&daemon, ".pem")[0]).expect("readable");
    assert!(text.ends_with(&other.certificate()), "the other chain: {text}");
}

#[test]
fn an_account_that_must_be_proved_and_a_profile_that_is_not_there_are_told_of() {
    for (issuer, told) in [
        ("profile long require;", r#"the authority has no profile "long": correct "profile""#),
        ("external_account_key account-7 data:AAAA;", r#"prove your account.*: set "external_account_key""#),
        ("", r#"prove your account.*: set "external_account_key""#),
    ] {
        let acme = Acme::start();
        if !issuer.starts_with("profile") {
            acme.wants_external("account-7", b"a secret");
        }
        let daemon = setup_with(&acme, CONF, issuer, "").start();
        daemon.wait_log(&format!(r"\[error\].*gave no certificate for a\.test, b\.test: .*{told}"));
        assert_eq!(acme.orders(), 0);
    }
    let acme = Acme::start();
    let daemon = setup_with(&acme, CONF, "profile long; preferred_chain 'none such';", "").start();
    wait_certificate(&daemon, &client(&acme));
    assert_eq!(acme.profiles(), [Value::Null], "a profile that is not required is left out");
}

#[test]
fn an_authority_that_is_slow_or_refuses_nonces_is_borne_with() {
    for trouble in [Trouble::Slow(150), Trouble::BadNonce] {
        let acme = Acme::start();
        acme.trouble(trouble);
        let daemon = setup(&acme).start();
        wait_certificate(&daemon, &client(&acme));
        assert_eq!(acme.orders(), 1, "{trouble:?}");
    }
}

#[test]
fn a_name_that_is_refused_is_told_with_a_remedy() {
    let acme = Acme::start();
    let daemon = setup_with(&acme, CONF, "", "a.test b.forbidden").start();
    daemon.wait_log(r#"\[error\].*no certificate for b\.forbidden.*remove the name from "acme_certificate""#);
}

#[test]
fn a_wait_that_the_authority_asks_for_is_kept_and_not_longer() {
    let acme = Acme::start();
    acme.trouble(Trouble::RateLimited(3));
    let daemon = setup(&acme).start();
    daemon.wait_log("next attempt in 3 s");
    let asked = acme.asked("/order");
    acme.trouble(Trouble::None);
    let keeper = daemon.keeper();
    send(keeper, Signal::SIGKILL);
    wait_for("another keeper", || (daemon.keepers_now().first().copied()? != keeper).then_some(()));
    let (_, memory) = memory(&daemon);
    wait_certificate(&daemon, &client(&acme));
    let obtained = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs().cast_signed();
    assert!(obtained >= memory["retry_at_s"].as_i64().expect("a time"), "it came too early");
    assert!(asked <= 1 && acme.orders() == 1);
}

#[test]
fn a_keeper_that_is_killed_at_any_moment_asks_for_nothing_twice() {
    let acme = Acme::start();
    acme.trouble(Trouble::Slow(60));
    let daemon = setup(&acme).start();
    let client = client(&acme);
    for count in [2, 5, 9, 13, 18, 22] {
        wait_for("requests", || (acme.asked("/") >= count || acme.issued() > 0).then_some(()));
        if let [keeper] = daemon.keepers_now()[..] {
            send(keeper, Signal::SIGKILL);
        }
    }
    acme.trouble(Trouble::None);
    wait_certificate(&daemon, &client);
    wait_obtained(&daemon, 1);
    // An answer that a killed process did not read cannot be remembered: that may be an account, and an order.
    assert!(acme.accounts().len() <= 3 && acme.orders() <= 3, "{} {}", acme.accounts().len(), acme.orders());
    assert_eq!(acme.issued(), 1);
    assert_eq!(state_files(&daemon, ".pem").len(), 1);
}

#[test]
fn a_full_disk_keeps_what_works_and_asks_for_nothing() {
    let acme = Acme::start();
    acme.lifetime_s(12);
    let setup = setup(&acme);
    let Some(disk) = Disk::mount(setup.folder().join("state")) else { return };
    let daemon = setup.start();
    let client = client(&acme);
    let first = wait_certificate(&daemon, &client);
    wait_obtained(&daemon, 1);
    let file = state_files(&daemon, ".pem")[0].clone();
    let kept = std::fs::read(&file).expect("readable");
    let filler = disk.fill();
    daemon.wait_log(
        r#"\[error\].*cannot be written \(28: No space left on device\): make room in "state_path""#,
    );
    assert_eq!((std::fs::read(&file).expect("readable"), acme.orders()), (kept, 1));
    acme.lifetime_s(100_000);
    std::fs::remove_file(filler).expect("ours");
    let keeper = daemon.keeper();
    send(keeper, Signal::SIGKILL);
    wait_for("another keeper", || (daemon.keepers_now().first().copied()? != keeper).then_some(()));
    // On a loaded machine the first one has ended by now, and clients refuse it.
    wait_other_after(&daemon, &client, &first);
    assert_eq!(acme.issued(), 2);
}

#[test]
fn the_authority_may_say_when_to_renew() {
    let acme = Acme::start();
    acme.suggest(-20, -10);
    let daemon = setup(&acme).start();
    let client = client(&acme);
    let first = wait_certificate(&daemon, &client);
    wait_obtained(&daemon, 1);
    wait_for("a question for the window", || (acme.asked("/ari/") >= 1).then_some(()));
    assert_eq!(acme.orders(), 1, "a suggestion does not renew what is new");
    // The certificate came long ago.
    wait_for("the window to be remembered", || memory(&daemon).1["renew_at_s"].as_i64());
    let keeper = daemon.keeper();
    let (path, mut own) = memory(&daemon);
    own["issued_at_s"] = 0.into();
    std::fs::write(path, own.to_string()).expect("ours");
    send(keeper, Signal::SIGKILL);
    wait_other(&daemon, &client, &first);
    assert_eq!((acme.orders(), acme.replaced().len()), (2, 1));
    assert!(acme.replaced()[0].contains('.'), "{:?}", acme.replaced());
}

#[test]
fn servers_that_want_the_same_share_one_certificate() {
    let acme = Acme::start();
    let second = r#"server { listen 127.0.0.1:%%PORT_2%% ssl; server_name b.test a.test; acme_certificate test;
        ssl_certificate $acme_certificate; ssl_certificate_key $acme_certificate_key; location / { return 200 $pid; } } }"#;
    let conf = format!("{}{second}", CONF.trim_end().strip_suffix('}').expect("the end of http"));
    let daemon = setup_with(&acme, &conf, "", "").start();
    let client = client(&acme);
    let one = wait_certificate(&daemon, &client);
    let other = wait_for("the other server", || ask(daemon.port(2), &client, "b.test")).0;
    assert_eq!((one == other, acme.orders()), (true, 1));
}

#[test]
fn an_upgrade_asks_for_nothing_while_two_masters_serve() {
    let acme = Acme::start();
    acme.trouble(Trouble::RateLimited(1));
    let daemon = setup(&acme).start();
    daemon.wait_log("next attempt in 1 s");
    let old = daemon.pid();
    let new = upgrade(&daemon);
    wait_for("both keepers to give the folder up", || {
        let lock = std::fs::File::open(daemon.path("state/lock")).expect("it is there");
        Flock::lock(lock, FlockArg::LockExclusiveNonblock).ok().map(drop)
    });
    acme.trouble(Trouble::None);
    let (asked, due_s) = (acme.asked("/order"), memory(&daemon).1["retry_at_s"].as_i64().expect("a time"));
    wait_for("the time of the next attempt to pass", || {
        let now_s = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs().cast_signed();
        (now_s > due_s + 2).then_some(())
    });
    assert_eq!((acme.asked("/order"), acme.orders()), (asked, 0), "asked while two masters serve");
    send(old, Signal::SIGQUIT);
    wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
    daemon.follow(new);
    wait_certificate(&daemon, &client(&acme));
    assert_eq!((acme.orders(), acme.accounts().len()), (1, 1));
    daemon.stop(Signal::SIGQUIT);
}

#[test]
fn a_process_without_a_master_does_it_too() {
    let acme = Acme::start();
    let daemon = setup_with(&acme, &format!("master_process off; {CONF}"), "", "").alone().start();
    wait_for("a certificate", || ask(daemon.port(1), &client(&acme), "a.test"));
    assert_eq!(acme.orders(), 1);
}

#[test]
fn what_is_wrong_is_told_before_anything_is_asked_for() {
    let acme = Acme::start();
    let check = |issuer: &str, wanted: &str| {
        let output = setup_with(&acme, CONF, issuer, wanted).run(&["-t"]);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for (issuer, wanted, told) in [
        ("", "*.a.test", "\"acme_certificate\": invalid server name: *.a.test"),
        ("", "~^a", "invalid server name: ~^a"),
        ("", "a..test", "invalid server name: a..test"),
        ("", "key=dsa", "invalid \"key\" value \"dsa\""),
        ("challenge dns-01;", "", "unsupported challenge: dns-01"),
        ("account_key rsa:1024;", "", "unsupported key size in \"rsa:1024\""),
        ("account_key ecdsa:234;", "", "unsupported curve in \"ecdsa:234\""),
        ("account_key rsa:2048;", "", "account keys of the kind \"rsa:2048\" are not supported"),
        ("account_key missing.key;", "", "cannot load account key"),
        ("external_account_key id data:!;", "", "invalid base64url encoded value"),
        ("uri https://b/dir;", "", "\"uri\" directive is duplicate"),
        ("profile a b;", "", "invalid parameter \"b\""),
        ("state_path off;", "", "\"state_path off\" is not supported"),
    ] {
        let said = check(issuer, wanted);
        assert!(said.contains(told), "{issuer}{wanted}: {said}");
    }
    let said = check("", "");
    assert!(said.contains("[warn] no server has \"listen 80;\", which the challenge http-01"), "{said}");
    assert!(said.contains("test is successful"), "{said}");
    for (conf, told) in [
        (CONF.replace("accept_terms_of_service;", ""), "does not accept the terms"),
        (CONF.replace("acme_certificate test", "acme_certificate other"), "issuer \"other\" is missing"),
        (CONF.replace("uri %%URI%%;", ""), "\"uri\" is not set"),
        (CONF.replace("acme_certificate test %%WANTED%%;", ""), "need each other, and \"acme_certificate\""),
        (CONF.replace("server_name %%NAMES%%;", ""), "no identifiers found in \"server_name\""),
        (CONF.replace("%%NAMES%%", "~^x a.test"), "unsupported regular expression in server_name: ~^x"),
        (
            CONF.replacen("http {", "http { acme_issuer b { uri https://b/; state_path %%DIR%%/state; }", 1),
            "is that of \"b\"",
        ),
        (CONF.replacen("http {", "http { acme_shared_zone bad;", 1), "must have \"zone\" parameter"),
        (CONF.replacen("http {", "http { acme_shared_zone zone=a:b;", 1), "invalid zone size"),
    ] {
        let output = setup_with(&acme, &conf, "", "").run(&["-t"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(told), "{told}: {said}");
    }
    assert_eq!(acme.asked("/"), 0);
}
