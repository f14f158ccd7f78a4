//! Logout tokens, which the provider sends itself: whose sessions end, and everything that must end none.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::provider::{Browser, Provider};
use super::{Daemon, setup, start};
use crate::support::{Response, fetch};

/// Sends a logout token as a provider does.
pub fn post(port: u16, path: &str, token: &str) -> Response {
    let body = format!("logout_token={token}");
    let length = body.len();
    fetch(
        port,
        &format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        ),
    )
}

fn logged_in(daemon: &Daemon) -> Browser {
    let mut browser = Browser::default();
    assert_eq!(browser.follow(daemon.port(0), "/page.txt").0.status, 200, "{}", daemon.log());
    browser
}

fn is_in(browser: &mut Browser, daemon: &Daemon) -> bool {
    browser.ask(daemon.port(0), "/page.txt").status == 200
}

#[test]
fn sessions_end_by_the_providers_session_or_by_user() {
    let provider = Provider::start();
    let daemon = setup(&provider, "backchannel_logout_uri /ended;", 2).start();
    let port = daemon.port(0);
    let (mut one, mut two) = (logged_in(&daemon), logged_in(&daemon));
    provider.state().sid = "sid-2".into();
    let mut other_session = logged_in(&daemon);
    provider.state().replace = vec![("\"sub\":\"joe\"".into(), "\"sub\":\"eve\"".into())];
    let mut eve = logged_in(&daemon);

    let token = provider.state().logout_token(r#""sid":"sid-1""#, &[]);
    let response = post(port, "/ended", &token);
    assert_eq!((response.status, response.header("cache-control")), (200, Some("no-store")));
    assert!(!is_in(&mut one, &daemon) && !is_in(&mut two, &daemon));
    assert!(is_in(&mut other_session, &daemon) && is_in(&mut eve, &daemon));

    // Of a session and a user, both must fit.
    let token = provider.state().logout_token(r#""sid":"sid-2","sub":"joe""#, &[]);
    assert_eq!(post(port, "/ended", &token).status, 200);
    assert!(!is_in(&mut other_session, &daemon) && is_in(&mut eve, &daemon));

    provider.state().replace.clear();
    provider.state().sid = "sid-3".into();
    let (mut one, mut two) = (logged_in(&daemon), logged_in(&daemon));
    let token = provider.state().logout_token(r#""sub":"joe""#, &[]);
    assert_eq!(post(port, "/ended", &token).status, 200);
    assert!(!is_in(&mut one, &daemon) && !is_in(&mut two, &daemon) && is_in(&mut eve, &daemon));
    // Nobody has a session of this name: that is no error.
    let token = provider.state().logout_token(r#""sub":"nobody""#, &[]);
    assert_eq!(post(port, "/ended", &token).status, 200);
}

/// The list by which a logout finds its sessions lives as long as a session does, and has to be renewed with it.
#[test]
fn a_session_is_found_by_the_providers_session_also_when_a_later_id_token_does_not_name_it() {
    let provider = Provider::start();
    provider.state().expires_in = 0;
    let daemon = setup(&provider, "backchannel_logout_uri /ended; session_timeout 5s;", 2).start();
    let mut browser = logged_in(&daemon);
    provider.state().replace = vec![(",\"sid\":\"sid-1\"".into(), String::new())];
    // Each request is a refresh; they go on until the first list has ended.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(6) {
        assert!(is_in(&mut browser, &daemon), "{}", daemon.log());
        sleep(Duration::from_millis(100));
    }
    assert!(provider.count("/token") > 2, "it was refreshed");
    let token = provider.state().logout_token(r#""sid":"sid-1""#, &[]);
    assert_eq!(post(daemon.port(0), "/ended", &token).status, 200);
    assert!(!is_in(&mut browser, &daemon));
}

#[test]
fn a_token_ends_sessions_once() {
    let provider = Provider::start();
    let daemon = setup(&provider, "backchannel_logout_uri /ended;", 2).start();
    let port = daemon.port(0);
    let mut browser = logged_in(&daemon);
    let token = provider.state().logout_token(r#""sub":"joe""#, &[]);
    assert_eq!(post(port, "/ended", &token).status, 200);
    assert!(!is_in(&mut browser, &daemon));
    let mut browser = logged_in(&daemon);
    for _ in 0..4 {
        let again = post(port, "/ended", &token);
        assert_eq!((again.status, &*again.text()), (400, "{\"error\":\"invalid_request\"}"));
    }
    daemon.wait_log("logout refused for OpenID provider \"idp\": its \"jti\" has come before");
    assert!(is_in(&mut browser, &daemon), "in no worker");
}

#[test]
fn other_tokens_and_requests_end_nothing() {
    let provider = Provider::start();
    let daemon = start(&provider, "backchannel_logout_uri /ended;");
    let port = daemon.port(0);
    let mut browser = logged_in(&daemon);
    let about = r#""sub":"joe","sid":"sid-1""#;
    let cases = [
        ("\"iss\":\"http", "\"iss\":\"https", "its issuer is"),
        ("\"aud\":\"me\"", "\"aud\":\"you\"", "it is for another client"),
        ("\"exp\":", "\"exp\":1,\"x\":", "it has expired"),
        ("\"iat\":", "\"iat\":99999999999,\"x\":", "it was issued in the future"),
        ("\"iat\":", "\"iat\":1,\"x\":", "it was issued more than a day ago"),
        ("\"jti\":", "\"x\":", "its claim \"jti\" is missing"),
        ("\"events\":", "\"x\":", "its claim \"events\" is missing"),
        ("event/backchannel-logout", "event/other", "its claim \"events\" is missing"),
        ("\"jti\":", "\"nonce\":\"n\",\"jti\":", "it has a \"nonce\""),
        ("\"sub\":\"joe\",\"sid\":\"sid-1\"", "\"x\":1", "it has neither \"sub\" nor \"sid\""),
        ("logout+jwt", "at+jwt", "its type is \"at+jwt\""),
    ];
    for (from, to, expected) in cases {
        let token = provider.state().logout_token(about, &[(from, to)]);
        let response = post(port, "/ended", &token);
        assert_eq!(response.status, 400, "{to}");
        daemon
            .wait_log(&format!("logout refused for OpenID provider \"idp\": .*{}", regex::escape(expected)));
    }
    provider.state().is_unsigned = true;
    let unsigned = provider.state().logout_token(about, &[]);
    provider.state().is_unsigned = false;
    let good = provider.state().logout_token(about, &[]);
    let point = provider.state().point();
    provider.state().secret_signs = Some(("HS256", point));
    let by_public_key = provider.state().logout_token(about, &[]);
    provider.state().secret_signs = None;
    let mut changed = good.clone();
    let flipped = if changed.pop() == Some('A') { "B" } else { "A" };
    changed.insert_str(good.rfind('.').expect("a signature") + 1, flipped);
    for token in [&*unsigned, &by_public_key, &changed, "", "a.b.c", "%ff", "..."] {
        assert_eq!(post(port, "/ended", token).status, 400, "{token}");
    }
    let long = "x".repeat(100_000);
    assert_eq!(post(port, "/ended", &long).status, 400);
    assert_eq!(crate::support::get(port, &format!("/ended?logout_token={good}")).status, 400);
    let json = format!(
        "POST /ended HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\nlogout_token={good}",
        good.len() + 13
    );
    assert_eq!(fetch(port, &json).status, 400);
    assert!(is_in(&mut browser, &daemon), "{}", daemon.log());
    assert_eq!(post(port, "/ended", &good).status, 200);
    assert!(!is_in(&mut browser, &daemon));
}

#[test]
fn forged_tokens_do_not_have_the_keys_fetched_again_and_again() {
    let provider = Provider::start();
    let daemon = start(&provider, "backchannel_logout_uri /ended;");
    let port = daemon.port(0);
    let good = provider.state().logout_token(r#""sub":"joe""#, &[]);
    assert_eq!(post(port, "/ended", &good).status, 200);
    assert_eq!(provider.count("/keys"), 1);
    provider.state().change_key("another");
    for _ in 0..10 {
        let token = provider.state().logout_token(r#""sub":"joe""#, &[]);
        assert_eq!(post(port, "/ended", &token).status, 400);
    }
    assert_eq!(provider.count("/keys"), 1);
}

#[test]
fn a_user_with_many_sessions_is_logged_out_of_all() {
    let provider = Provider::start();
    let daemon = start(&provider, "backchannel_logout_uri /ended;");
    let mut all: Vec<Browser> = (0..70).map(|_| logged_in(&daemon)).collect();
    let (old, new) = all.split_at_mut(6);
    assert!(old.iter_mut().all(|browser| !is_in(browser, &daemon)), "the oldest have made room");
    assert!(new.iter_mut().all(|browser| is_in(browser, &daemon)));
    let token = provider.state().logout_token(r#""sub":"joe""#, &[]);
    assert_eq!(post(daemon.port(0), "/ended", &token).status, 200);
    assert!(new.iter_mut().all(|browser| !is_in(browser, &daemon)));
}
