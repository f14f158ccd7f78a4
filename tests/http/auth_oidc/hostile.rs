//! Browsers and providers that lie: no session comes of it, nothing crashes, nothing grows, and the log has a reason.

use super::provider::{Browser, Provider, arg, found};
use super::{COOKIE, setup, start};
use crate::support::origin::ok;
use crate::support::tls::Authority;
use crate::support::{Daemon, Setup, fetch, wait_for};

/// Follows a login up to the return to the daemon, whose target is given back.
fn up_to_return(browser: &mut Browser, daemon: &Daemon, provider: &Provider, target: &str) -> String {
    let port = daemon.port(0);
    let first = browser.ask(port, target);
    let url = first.header("location").unwrap_or_else(|| panic!("to the provider: {first:?}")).to_owned();
    let back =
        browser.ask(provider.port(), url.split_once(&provider.port().to_string()).expect("its port").1);
    let back = back.header("location").expect("back").to_owned();
    back.split_once(&port.to_string()).expect("our port").1.to_owned()
}

/// The status of a login.
fn log_in(daemon: &Daemon) -> u16 {
    let mut browser = Browser::default();
    let (response, ..) = browser.follow(daemon.port(0), "/page.txt");
    if response.status != 200 {
        assert_eq!(browser.cookie(COOKIE), None);
    }
    response.status
}

#[test]
fn a_state_is_good_in_its_own_browser_only() {
    let provider = Provider::start();
    let daemon = start(&provider, "");
    let port = daemon.port(0);
    let (mut user, mut eve) = (Browser::default(), Browser::default());
    let target = up_to_return(&mut eve, &daemon, &provider, "/page.txt");
    // The login of an attacker in the browser of a victim, with and without a login of its own.
    assert_eq!(user.ask(port, &target).status, 400);
    let own = up_to_return(&mut user, &daemon, &provider, "/page.txt?own");
    let again = user.ask(port, &target);
    assert_eq!((again.status, again.header("location")), (302, Some("/page.txt")), "it begins again");
    assert_eq!(user.cookie(COOKIE), None);
    assert_eq!(
        user.ask(port, &own).header("location"),
        Some("/page.txt?own"),
        "nor does that spoil its own login"
    );
    let session = user.cookie(COOKIE);
    assert!(session.is_some());
    assert_eq!(user.ask(port, &target).status, 302);
    assert_eq!(user.cookie(COOKIE), session, "a session stays what it is");
    daemon.wait_log("this browser has not begun a login");
    let state = arg(&target, "state").expect("a state");
    let forged = [
        target.replace(&state, ""),
        target.replace(&state, "x"),
        target.replace(&state, &state[..state.len() - 2]),
        target.replace(&state, &format!("{}AA", &state[..state.len() - 2])),
        target.replace("state=", "estate="),
        target.replace("code=", "ecode="),
        format!("/oidc_callback?{}", "x".repeat(3000)),
        "/oidc_callback".to_owned(),
    ];
    for target in forged {
        assert_eq!(eve.ask(port, &target).status, 400, "{target}");
    }
    assert_eq!(eve.ask(port, &target).status, 302, "the true one is still good");
    assert_eq!(provider.count("/token"), 2, "nothing else was worth a question");
    daemon.wait_log("\"state\" is not one of ours, or too old");
}

#[test]
fn logins_in_several_tabs_do_not_disturb_each_other() {
    let provider = Provider::start();
    let daemon = start(&provider, "");
    let port = daemon.port(0);
    // Two tabs are opened at once, before there is a cookie: the second one's replaces that of the first.
    let (mut first, mut second) = (Browser::default(), Browser::default());
    let one = up_to_return(&mut first, &daemon, &provider, "/page.txt?one");
    let two = up_to_return(&mut second, &daemon, &provider, "/page.txt?two");
    let mut browser = second;
    let (response, _, target) = browser.follow(port, &one);
    assert_eq!((response.status, &*target), (200, "/page.txt?one"), "{}", daemon.log());
    let (response, _, target) = browser.follow(port, &two);
    assert_eq!((response.status, &*target), (200, "/page.txt?two"), "{}", daemon.log());
    // Later ones share the cookie.
    let three = up_to_return_again(&mut browser, &daemon, &provider);
    let four = up_to_return_again(&mut browser, &daemon, &provider);
    assert_eq!(browser.ask(port, &four).status, 302);
    let codes = provider.count("/token");
    assert_eq!(browser.follow(port, &three).0.status, 200);
    assert_eq!(provider.count("/token"), codes + 1);
}

#[test]
fn a_code_is_good_once() {
    let provider = Provider::start();
    let daemon = start(&provider, "");
    let mut browser = Browser::default();
    let target = up_to_return(&mut browser, &daemon, &provider, "/page.txt");
    assert_eq!(browser.ask(daemon.port(0), &target).status, 302);
    let session = browser.cookie(COOKIE);
    assert_eq!(browser.ask(daemon.port(0), &target).status, 403);
    assert_eq!(browser.cookie(COOKIE), session, "the session stays");
    daemon.wait_log("the provider answers \"invalid_grant\"");
}

#[test]
fn id_tokens_for_something_else_are_rejected() {
    let provider = Provider::start();
    let daemon = start(&provider, "");
    let cases = [
        ("\"nonce\":\"", "\"nonce\":\"x", "its \"nonce\" is not that of this login"),
        ("\"nonce\"", "\"once\"", "its \"nonce\" is not that of this login"),
        ("\"iss\":\"http", "\"iss\":\"https", "its issuer is \"https://127.0.0.1"),
        ("\"aud\":\"me\"", "\"aud\":\"you\"", "it is for another client"),
        ("\"aud\":\"me\"", "\"aud\":[\"me\",\"you\"],\"azp\":\"you\"", "it was issued to another client"),
        ("\"exp\":", "\"exp\":1,\"x\":", "it has expired"),
        ("\"iat\":", "\"iat\":99999999999,\"x\":", "it was issued in the future"),
        ("\"sub\":\"joe\"", "\"sub\":7", "its claim \"sub\" is missing or malformed"),
    ];
    for (from, to, expected) in cases {
        provider.state().replace = vec![(from.into(), to.into())];
        assert_eq!(log_in(&daemon), 502, "{to}");
        daemon.wait_log(expected);
    }
    provider.state().replace.clear();
    provider.state().is_unsigned = true;
    assert_eq!(log_in(&daemon), 502);
    daemon.wait_log("its ID token is rejected: its algorithm \"none\" is not accepted");
    provider.state().is_unsigned = false;
    assert_eq!(log_in(&daemon), 200);
}

#[test]
fn a_signature_of_another_key_is_rejected_after_one_more_look() {
    let provider = Provider::start();
    let daemon = start(&provider, "");
    assert_eq!(log_in(&daemon), 200);
    let keys = provider.count("/keys");
    // The keys stay as they were, and the tokens are signed with another one.
    let old = crate::support::get(provider.port(), "/keys");
    provider.state().change_key("one");
    provider.state().answers.insert("/keys".into(), ok(&old.body));
    assert_eq!(log_in(&daemon), 502);
    daemon.wait_log("its ID token is rejected: its signature is wrong");
    assert!(provider.count("/keys") <= keys + 3, "{}", provider.count("/keys"));
}

#[test]
fn userinfo_of_another_user_is_rejected() {
    let provider = Provider::start();
    let daemon = start(&provider, "userinfo on;");
    provider.state().answers.insert("/userinfo".into(), ok(br#"{"sub":"eve"}"#));
    assert_eq!(log_in(&daemon), 502);
    daemon.wait_log("it is about another user than the ID token");
}

#[test]
fn errors_of_the_provider_do_not_get_into_the_page() {
    let provider = Provider::start();
    let daemon = start(&provider, "");
    provider.state().denies = Some("error=access_denied&error_description=%3Cscript%3Ealert(1)%0a".into());
    let (response, ..) = Browser::default().follow(daemon.port(0), "/page.txt");
    assert_eq!(response.status, 403);
    assert!(!response.text().contains("script"), "{}", response.text());
    let line = daemon.wait_log("login refused by OpenID provider \"idp\": error");
    assert!(line.contains("access_denied"), "{line}");
}

#[test]
fn an_answer_must_come_from_the_issuer() {
    let provider = Provider::start();
    let named = r#"],"authorization_response_iss_parameter_supported":true}"#;
    provider.state().metadata = vec![("]}".into(), named.into())];
    let daemon = start(&provider, "");
    let mut browser = Browser::default();
    let target = up_to_return(&mut browser, &daemon, &provider, "/page.txt");
    assert_eq!(browser.ask(daemon.port(0), &target).status, 403, "it names none");
    assert_eq!(browser.ask(daemon.port(0), &format!("{target}&iss=http://evil")).status, 403);
    let issuer = provider.state().issuer.clone();
    assert_eq!(browser.ask(daemon.port(0), &format!("{target}&iss={issuer}")).status, 302);
}

#[test]
fn a_login_never_leads_to_another_server() {
    let provider = Provider::start();
    let daemon = start(&provider, "");
    let port = daemon.port(0);
    for (target, expected) in [
        ("//evil.test/x?y", "/evil.test/x"),
        ("/\\evil.test", "/%5Cevil.test"),
        ("///evil.test", "/evil.test"),
        ("/.//evil.test", "/.//evil.test"),
    ] {
        let mut browser = Browser::default();
        let target = up_to_return(&mut browser, &daemon, &provider, target);
        let response = browser.ask(port, &target);
        assert_eq!((response.status, response.header("location")), (302, Some(expected)));
    }
}

#[test]
fn a_session_is_never_one_that_the_browser_has_brought() {
    let provider = Provider::start();
    let daemon = start(&provider, "");
    let port = daemon.port(0);
    let mut browser = Browser::default();
    let planted = "A".repeat(43);
    browser.set(port, COOKIE, &planted);
    assert_eq!(browser.follow(port, "/page.txt").0.status, 200);
    let session = browser.cookie(COOKIE).expect("a session");
    assert_ne!(session, planted);
    let mut eve = Browser::default();
    eve.set(port, COOKIE, &planted);
    assert_eq!(eve.ask(port, "/page.txt").status, 302);
    // A second login ends the first session of this browser.
    let target = up_to_return_again(&mut browser, &daemon, &provider);
    assert_eq!(browser.ask(port, &target).status, 302);
    assert_ne!(browser.cookie(COOKIE).as_deref(), Some(&*session));
    eve.set(port, COOKIE, &session);
    assert_eq!(eve.ask(port, "/page.txt").status, 302);
}

/// A login in another tab, begun before the session was there.
fn up_to_return_again(browser: &mut Browser, daemon: &Daemon, provider: &Provider) -> String {
    let session = browser.cookie(COOKIE).expect("a session");
    browser.set(daemon.port(0), COOKIE, "x");
    let target = up_to_return(browser, daemon, provider, "/page.txt");
    browser.set(daemon.port(0), COOKIE, &session);
    target
}

#[test]
fn strange_cookies_are_no_session() {
    let provider = Provider::start();
    let daemon = start(&provider, "");
    for value in ["", "x", &"=".repeat(43), &"\u{ff}".repeat(20), &"A".repeat(3000)] {
        let mut browser = Browser::default();
        browser.set(daemon.port(0), COOKIE, value);
        browser.set(daemon.port(0), "NGX_OIDC_SESSION_LOGIN", value);
        assert_eq!(browser.ask(daemon.port(0), "/page.txt").status, 302);
    }
    let mut browser = Browser::default();
    browser.set(daemon.port(0), COOKIE, &"A".repeat(64 * 1024));
    assert_eq!(browser.ask(daemon.port(0), "/page.txt").status, 400, "the head is too large for any request");
}

#[test]
fn logins_that_are_never_finished_take_no_memory_and_ask_nobody() {
    let provider = Provider::start();
    let daemon = start(&provider, "session_store small;");
    let port = daemon.port(0);
    let mut user = Browser::default();
    assert_eq!(user.follow(port, "/page.txt").0.status, 200);
    let asked = provider.origin.requests().len();
    for _ in 0..1000 {
        let head = format!("GET /page.txt HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
        assert_eq!(fetch(port, &head).status, 302);
    }
    assert_eq!(user.ask(port, "/page.txt").status, 200, "the session is still in its 64 KB");
    assert!(provider.origin.requests().len() <= asked + 1, "at most the metadata for the other worker");
}

#[test]
fn sessions_have_a_bound() {
    let provider = Provider::start();
    let daemon = start(&provider, "session_store small;");
    let port = daemon.port(0);
    let mut first = Browser::default();
    first.follow(port, "/page.txt");
    for _ in 0..150 {
        assert_eq!(log_in(&daemon), 200);
    }
    assert_eq!(first.ask(port, "/page.txt").status, 302, "the oldest has made room");
    daemon
        .wait_log("sessions of auth_oidc had to go before their time: the memory of zone small is too small");
}

#[test]
fn a_session_that_is_too_large_is_refused() {
    let provider = Provider::start();
    let daemon = start(&provider, "");
    provider.state().replace = vec![("\"sub\"".into(), format!("\"x\":\"{}\",\"sub\"", "y".repeat(20_000)))];
    assert_eq!(log_in(&daemon), 500);
    daemon.wait_log("and at most 16384 are kept: have the provider put fewer claims into its tokens");
}

#[test]
fn a_provider_that_is_dead_slow_or_endless_is_an_error_and_no_more() {
    let provider = Provider::start();
    let daemon = start(&provider, "");
    let port = daemon.port(0);
    let document = "/.well-known/openid-configuration";
    // Its metadata: one question for many clients, then none for a while.
    provider
        .state()
        .answers
        .insert(document.into(), b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_vec());
    for _ in 0..20 {
        assert_eq!(Browser::default().ask(port, "/page.txt").status, 502);
    }
    assert!(provider.count(document) <= 2, "once for each worker");
    daemon.wait_log("cannot use the metadata of OpenID provider \"idp\": status 500");
    provider.state().answers.clear();
    // The worker asks again after some seconds.
    wait_for("the provider's return", || {
        (Browser::default().ask(port, "/page.txt").status == 302).then_some(())
    });

    let mut browser = Browser::default();
    let target = up_to_return(&mut browser, &daemon, &provider, "/page.txt");
    let huge = ok(&vec![b' '; 10_000_000]);
    let wrong = ok(&[0xff; 100]);
    for (answer, expected) in [
        (huge, "its token endpoint: the response has more than 131072 bytes"),
        (wrong, "malformed answer"),
        (found("http://127.0.0.1:1/"), "its token endpoint: status 302"),
        (b"garbage\r\n\r\n".to_vec(), "its token endpoint: invalid response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}".to_vec(), "no response within 1000 ms"),
    ] {
        provider.state().answers.insert("/token".into(), answer);
        assert_eq!(browser.ask(port, &target).status, 502, "{expected}");
        daemon.wait_log(expected);
    }
    provider.state().answers.clear();
    provider.state().silent.push("/token".into());
    let waiting = std::thread::spawn({
        let (mut browser, target) = (browser.clone(), target.clone());
        move || browser.ask(port, &target).status
    });
    wait_for("the question", || (provider.count("/token") >= 6).then_some(()));
    assert_eq!(crate::support::get(port, "/open.txt").status, 200, "the loop goes on");
    assert_eq!(waiting.join().expect("no panic"), 502);
    provider.state().silent.clear();
    assert_eq!(browser.ask(port, &target).status, 302, "the code was never used");
    drop(provider);
    assert_eq!(browser.ask(port, "/page.txt").status, 200, "a session needs no provider");
    let mut browser = Browser::default();
    let first = browser.ask(port, "/page.txt");
    assert_eq!(first.status, 302, "nor does the way to it");
    assert_eq!(daemon.complaints("alert|emerg|crit"), Vec::<String>::new());
}

#[test]
fn metadata_of_another_issuer_are_refused() {
    let provider = Provider::start();
    let issuer = provider.state().issuer.clone();
    provider.state().metadata =
        vec![(format!("\"issuer\":\"{issuer}\""), "\"issuer\":\"https://evil\"".into())];
    let daemon = start(&provider, "");
    assert_eq!(Browser::default().ask(daemon.port(0), "/page.txt").status, 502);
    daemon.wait_log("its issuer is \"https://evil\"");
}

const FRONT: &str = r#"
http {
    access_log off;
    server {
        listen 127.0.0.1:%%PORT_0%% ssl;
        ssl_certificate own.pem;
        ssl_certificate_key own.key;
        location / { proxy_pass http://%%PROVIDER%%; }
    }
}
"#;

/// A provider at a loopback address may be asked without TLS, and no other: the client's secret would go over the wire.
#[test]
fn endpoints_elsewhere_are_not_asked_without_encryption() {
    let provider = Provider::start();
    let port = provider.port();
    for (endpoint, path) in
        [("token_endpoint", "token"), ("jwks_uri", "keys"), ("userinfo_endpoint", "userinfo")]
    {
        let own = format!("\"{endpoint}\":\"http://127.0.0.1:{port}/{path}\"");
        // A name may lead anywhere, although this one does not.
        let elsewhere = own.replace("127.0.0.1", "localhost");
        provider.state().metadata = vec![(own, elsewhere)];
        let daemon = start(&provider, "userinfo on;");
        let asked = provider.count(&format!("/{path}"));
        assert_eq!(log_in(&daemon), 502, "{endpoint}");
        daemon.wait_log(&format!("\"{endpoint}\" is no https:// URL"));
        assert_eq!(provider.count(&format!("/{path}")), asked);
    }
}

#[test]
fn a_provider_is_who_its_certificate_says() {
    let provider = Provider::start();
    let (authority, other) = (Authority::new("idp"), Authority::new("other"));
    let pair = authority.issue_with(&["localhost"], |params| params.serial_number = Some(7.into()));
    let front = Setup::new(FRONT)
        .set("PROVIDER", provider.origin.address())
        .file("own.pem", &pair.certificate)
        .file("own.key", &pair.key)
        .start();
    let log_in = |host: &str, trusted: &Authority, revoked: u64| {
        provider.state().issuer = format!("https://{host}:{}", front.port(0));
        let more = "ssl_trusted_certificate %%DIR%%/ca.pem; ssl_crl %%DIR%%/crl.pem;";
        let setup = setup(&provider, more, 1).file("ca.pem", trusted.certificate());
        let daemon = setup.file("crl.pem", trusted.revoke(&[revoked])).start();
        let mut browser = Browser::default();
        let first = browser.ask(daemon.port(0), "/page.txt");
        let Some(url) = first.header("location") else { return (first.status, daemon.log()) };
        let target = url.split_once(&front.port(0).to_string()).expect("its port").1.to_owned();
        let back = browser.ask(provider.port(), &target).header("location").expect("back").to_owned();
        browser.ask(daemon.port(0), back.split_once(&daemon.port(0).to_string()).expect("our port").1);
        (browser.ask(daemon.port(0), "/page.txt").status, daemon.log())
    };
    let (status, log) = log_in("localhost", &authority, 8);
    assert_eq!(status, 200, "{log}");
    for (host, trusted, revoked) in
        [("localhost", &other, 8), ("127.0.0.1", &authority, 8), ("localhost", &authority, 7)]
    {
        let (status, log) = log_in(host, trusted, revoked);
        assert_eq!(status, 502, "{host}");
        assert!(log.contains("its certificate is refused: "), "{log}");
    }
}
