//! `auth_oidc` against the real daemon and a provider of our own (`auth_oidc/provider.rs`): logins, sessions in all workers
//! and after a reload, logouts, refreshes. Hostile browsers and providers are in `auth_oidc/hostile.rs`.

mod back_channel;
mod hostile;
pub mod provider;
mod signing;

use provider::{Browser, CLIENT, Provider, SECRET, arg};

use nix::sys::signal::Signal;

use crate::process::upgrade::{upgrade, workers_of};
use crate::support::daemon::send;
use crate::support::process::is_alive;
use crate::support::{Daemon, Response, Setup, get, wait_for};

const CONF: &str = r#"
worker_processes %%WORKERS%%;
http {
    log_format user '$uri $status $oidc_claim_sub';
    access_log %%DIR%%/access.log user;
    keyval_zone zone=small:64k;
    auth_jwt_claim_set $city address locality;
    oidc_provider idp {
        issuer %%ISSUER%%;
        client_id %%CLIENT%%;
        client_secret "%%SECRET%%";
        logout_uri /logout;
        frontchannel_logout_uri /gone;
        request_timeout 1s;
        %%MORE%%
    }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%;
        auth_oidc idp;
        add_header X-Sub "$oidc_claim_sub" always;
        add_header X-Roles "$oidc_claim_roles" always;
        add_header X-Mail "$oidc_claim_email" always;
        add_header X-Access "$oidc_access_token" always;
        add_header X-Worker $pid always;
        location /open { auth_oidc off; }
        location /nested { auth_jwt off token=$oidc_id_token; add_header X-City "$city|$jwt_claim_sub" always; }
        location /by { auth_oidc $arg_by; }
        location /out.txt { auth_oidc off; }
    }
}
"#;

/// The daemon, with more directives for its provider.
fn start(provider: &Provider, more: &str) -> Daemon {
    setup(provider, more, 1).start()
}

fn setup(provider: &Provider, more: &str, workers: usize) -> Setup {
    let state = provider.state();
    Setup::new(&CONF.replace("%%MORE%%", more))
        .set("WORKERS", workers)
        .set("ISSUER", &state.issuer)
        .set("CLIENT", CLIENT)
        .set("SECRET", &state.secret)
        .file("page.txt", "a page")
        .file("open.txt", "open")
        .file("nested.txt", "nested")
        .file("out.txt", "out")
        .file("by.txt", "by")
        .level("info")
}

fn worker(response: &Response) -> String {
    response.header("x-worker").expect("it is always there").to_owned()
}

const COOKIE: &str = "NGX_OIDC_SESSION";

#[test]
fn a_user_logs_in_and_returns_to_the_first_uri_in_all_workers_and_after_a_reload() {
    let provider = Provider::start();
    let daemon = setup(&provider, "", 2).start();
    let port = daemon.port(0);
    let mut browser = Browser::default();
    let first = browser.ask(port, "/page.txt?a=b%20c&d=/e");
    assert_eq!(first.status, 302);
    assert_eq!(first.header("cache-control"), Some("no-store"));
    let url = first.header("location").expect("to the provider");
    assert!(url.starts_with(&format!("{}/authorize?", provider.state().issuer)), "{url}");
    assert!(!url.contains("page.txt"), "the provider does not learn where the user comes from: {url}");
    assert_eq!(arg(url, "redirect_uri"), Some(format!("http://127.0.0.1:{port}/oidc_callback")));
    assert_eq!(arg(url, "code_challenge_method").as_deref(), Some("S256"));
    let cookie = first.header("set-cookie").expect("a cookie").to_owned();
    assert!(cookie.starts_with("NGX_OIDC_SESSION_LOGIN="), "{cookie}");
    assert!(cookie.contains("; HttpOnly; SameSite=Lax") && !cookie.contains("Secure"), "{cookie}");

    let (response, at, target) = browser.follow(port, "/page.txt?a=b%20c&d=/e");
    assert_eq!((response.status, at, &*target), (200, port, "/page.txt?a=b%20c&d=/e"), "{}", daemon.log());
    assert_eq!(response.header("x-sub"), Some("joe"));
    assert_eq!(response.header("x-roles"), Some("a,b"));
    assert!(response.header("x-access").is_some_and(|token| token.starts_with("access-")));
    let session = browser.cookie(COOKIE).expect("a session");
    assert_eq!(session.len(), 43, "256 bits");

    // Every worker knows the session.
    let mut seen = vec![worker(&response)];
    wait_for("the other worker", || {
        let again = browser.ask(port, "/page.txt");
        assert_eq!((again.status, again.header("x-sub")), (200, Some("joe")));
        seen.push(worker(&again));
        seen.iter().any(|pid| *pid != seen[0]).then_some(())
    });
    daemon.reload();
    let again = browser.ask(port, "/page.txt");
    assert_eq!((again.status, again.header("x-sub")), (200, Some("joe")), "sessions survive a reload");
    assert!(!seen.contains(&worker(&again)));
    assert_eq!(provider.count("/token"), 1);
    daemon.wait_line("access.log", "/page.txt 200 joe");

    // Another browser has nothing of it, and a location without auth_oidc needs nothing.
    assert_eq!(Browser::default().ask(port, "/page.txt").status, 302);
    let open = Browser::default().ask(port, "/open.txt");
    assert_eq!((open.status, open.header("set-cookie"), open.header("x-sub")), (200, None, None));
}

#[test]
fn sessions_and_logins_in_progress_survive_an_upgrade_of_the_binary() {
    let provider = Provider::start();
    let daemon = setup(&provider, "backchannel_logout_uri /ended;", 2).in_background().start();
    let port = daemon.port(0);
    let (mut browser, mut late) = (Browser::default(), Browser::default());
    assert_eq!(browser.follow(port, "/page.txt").0.status, 200);
    assert_eq!(late.ask(port, "/page.txt").status, 302, "its login has begun");

    let old = daemon.pid();
    let before = workers_of(old, 0);
    let new = upgrade(&daemon);
    send(old, Signal::SIGQUIT);
    daemon.follow(new);
    wait_for("the old master to end", || (!is_alive(old)).then_some(()));
    let again = browser.ask(port, "/page.txt");
    assert_eq!((again.status, again.header("x-sub")), (200, Some("joe")));
    assert!(!before.contains(&worker(&again).parse().expect("a pid")), "a worker of the new binary");
    assert_eq!(provider.count("/token"), 1, "nobody has logged in again");
    // The lists of sessions have come along, and so have the keys of logins in progress.
    let token = provider.state().logout_token(r#""sub":"joe""#, &[]);
    assert_eq!(back_channel::post(port, "/ended", &token).status, 200);
    assert_eq!(browser.ask(port, "/page.txt").status, 302);
    assert_eq!(late.follow(port, "/page.txt").0.status, 200);
}

#[test]
fn the_provider_of_a_location_may_have_variables() {
    let provider = Provider::start();
    let daemon = start(&provider, "");
    assert_eq!(get(daemon.port(0), "/by.txt?by=off").status, 200);
    assert_eq!(get(daemon.port(0), "/by.txt?by=idp").status, 302);
    assert_eq!(get(daemon.port(0), "/by.txt?by=other").status, 500);
    daemon.wait_log("there is no oidc_provider \"other\"");
}

#[test]
fn a_provider_may_take_the_secret_in_the_form_and_know_no_pkce() {
    let provider = Provider::start();
    let more = r#"],"token_endpoint_auth_methods_supported":["client_secret_post"]}"#;
    provider.state().metadata = vec![("\"S256\"".into(), String::new()), ("]}".into(), more.into())];
    let daemon = start(&provider, "scope profile openid; extra_auth_args prompt=login&x=y;");
    let (response, ..) = Browser::default().follow(daemon.port(0), "/page.txt");
    assert_eq!(response.status, 200, "{}", daemon.log());
    let asked = provider.last("/authorize").target;
    assert!(asked.ends_with("&prompt=login&x=y") && !asked.contains("code_challenge"), "{asked}");
    assert!(asked.contains("scope=openid%20profile"), "{asked}");
    assert_eq!(provider.last("/token").header("authorization"), None);
}

#[test]
fn claims_inside_of_others_are_those_of_the_login() {
    let provider = Provider::start();
    let daemon = start(&provider, "");
    let mut browser = Browser::default();
    let before = browser.ask(daemon.port(0), "/nested.txt");
    assert_eq!((before.status, before.header("x-city")), (302, Some("|")));
    let (response, ..) = browser.follow(daemon.port(0), "/nested.txt");
    assert_eq!(
        (response.status, response.header("x-city")),
        (200, Some("Z\u{fc}rich|joe")),
        "{}",
        daemon.log()
    );
    let conf = "http { server { listen 127.0.0.1:%%PORT_0%%; auth_jwt off token=$cookie_t; } }";
    let output = Setup::new(conf).run(&["-t"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("\"off\" with a token that nobody has checked"), "{said}");
}

#[test]
fn a_time_of_zero_is_an_error() {
    let provider = Provider::start();
    for directive in ["session_timeout 0;", "request_timeout 0;"] {
        let issuer = provider.state().issuer.clone();
        let conf = "http { oidc_provider p { issuer %%I; client_id a; %%T } server { listen 127.0.0.1:%%PORT_0%%; } }";
        let output = Setup::new(&conf.replace("%%I", &issuer).replace("%%T", directive)).run(&["-t"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("of oidc_provider \"p\" is zero"), "{said}");
    }
}

#[test]
fn userinfo_adds_claims() {
    let provider = Provider::start();
    let daemon = start(&provider, "userinfo on; pkce on;");
    let (response, ..) = Browser::default().follow(daemon.port(0), "/page.txt");
    assert_eq!((response.status, response.header("x-mail")), (200, Some("joe@test")), "{}", daemon.log());
}

#[test]
fn a_logout_ends_the_session_here_and_leads_to_the_provider() {
    let provider = Provider::start();
    let daemon = start(&provider, "post_logout_uri /out.txt; logout_token_hint on;");
    let port = daemon.port(0);
    let mut browser = Browser::default();
    browser.follow(port, "/page.txt");
    let thief = browser.clone();
    let (response, at, target) = browser.follow(port, "/logout");
    assert_eq!((response.status, at, &*target, &*response.text()), (200, port, "/out.txt", "out"));
    let end = provider.last("/end").target;
    assert_eq!(arg(&end, "client_id").as_deref(), Some(CLIENT));
    assert!(arg(&end, "id_token_hint").is_some_and(|token| token.split('.').count() == 3), "{end}");
    assert_eq!(browser.cookie(COOKIE), None);
    assert_eq!(thief.clone().ask(port, "/page.txt").status, 302, "a copy of the cookie is worth nothing");
}

#[test]
fn a_provider_without_a_logout_leaves_the_user_with_a_page() {
    let provider = Provider::start();
    provider.state().metadata = vec![("end_session_endpoint".into(), "other".into())];
    let daemon = start(&provider, "");
    let mut browser = Browser::default();
    browser.follow(daemon.port(0), "/page.txt");
    let response = browser.ask(daemon.port(0), "/logout");
    assert_eq!(response.status, 200);
    assert!(response.text().contains("logged out"));
    assert_eq!(browser.ask(daemon.port(0), "/page.txt").status, 302);
}

#[test]
fn the_provider_ends_all_sessions_of_one_of_its_own() {
    let provider = Provider::start();
    let daemon = start(&provider, "");
    let port = daemon.port(0);
    let (mut one, mut two, mut other) = (Browser::default(), Browser::default(), Browser::default());
    one.follow(port, "/page.txt");
    two.follow(port, "/page.txt");
    provider.state().sid = "sid-2".into();
    other.follow(port, "/page.txt");
    let issuer = provider.state().issuer.clone();
    assert_eq!(get(port, "/gone?iss=http://evil&sid=sid-1").status, 400);
    assert_eq!(get(port, "/gone?sid=sid-1").status, 400, "neither an issuer nor a cookie");
    assert_eq!(one.ask(port, "/page.txt").status, 200);
    assert_eq!(get(port, &format!("/gone?iss={issuer}&sid=sid-1")).status, 200);
    assert_eq!((one.ask(port, "/page.txt").status, two.ask(port, "/page.txt").status), (302, 302));
    assert_eq!(other.ask(port, "/page.txt").status, 200);
    assert_eq!(other.ask(port, "/gone").status, 200, "by its cookie");
    assert_eq!(other.ask(port, "/page.txt").status, 302);
}

#[test]
fn a_session_ends_after_its_time() {
    let provider = Provider::start();
    let daemon = start(&provider, "session_timeout 2s;");
    let mut browser = Browser::default();
    let (response, ..) = browser.follow(daemon.port(0), "/page.txt");
    assert_eq!(response.status, 200);
    wait_for("the session's end", || (browser.ask(daemon.port(0), "/page.txt").status == 302).then_some(()));
}

#[test]
fn an_expired_access_token_is_refreshed_once() {
    let provider = Provider::start();
    provider.state().expires_in = 0;
    let daemon = start(&provider, "");
    let port = daemon.port(0);
    let mut browser = Browser::default();
    provider.state().expires_in = 0;
    let first = browser.ask(port, "/page.txt");
    let url = first.header("location").expect("to the provider").to_owned();
    let back =
        browser.ask(provider.port(), url.split_once(&provider.port().to_string()).expect("its port").1);
    let back = back.header("location").expect("back").to_owned();
    browser.ask(port, back.split_once(&port.to_string()).expect("our port").1);
    provider.state().expires_in = 3600;
    let response = browser.ask(port, "/page.txt");
    assert_eq!((response.status, response.header("x-access")), (200, Some("access-3")), "{}", daemon.log());
    for _ in 0..5 {
        assert_eq!(browser.ask(port, "/page.txt").header("x-access"), Some("access-3"));
    }
    assert_eq!(provider.count("/token"), 2, "one login, one refresh");
}

#[test]
fn a_refused_refresh_ends_the_session_and_a_failed_one_does_not() {
    let provider = Provider::start();
    provider.state().expires_in = 0;
    let daemon = start(&provider, "");
    let port = daemon.port(0);
    let log_in = || {
        let mut browser = Browser::default();
        let first = browser.ask(port, "/page.txt");
        let url = first.header("location").expect("to the provider").to_owned();
        let back =
            browser.ask(provider.port(), url.split_once(&provider.port().to_string()).expect("a port").1);
        let back = back.header("location").expect("back").to_owned();
        assert_eq!(browser.ask(port, back.split_once(&port.to_string()).expect("a port").1).status, 302);
        browser
    };
    let mut browser = log_in();
    let answer = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_vec();
    provider.state().answers.insert("/token".into(), answer);
    for _ in 0..3 {
        assert_eq!(browser.ask(port, "/page.txt").status, 200, "the old tokens go on");
    }
    assert_eq!(provider.count("/token"), 2, "a provider that has failed is left alone for a while");
    daemon
        .wait_log("a session cannot be refreshed by OpenID provider \"idp\": its token endpoint: status 503");
    provider.state().answers.clear();
    let mut browser = log_in();
    let answer = b"HTTP/1.1 400 Bad\r\nContent-Length: 25\r\n\r\n{\"error\":\"invalid_grant\"}".to_vec();
    provider.state().answers.insert("/token".into(), answer);
    assert_eq!(browser.ask(port, "/page.txt").status, 302, "the user has to log in again");
    daemon.wait_log(
        "a session is not refreshed by OpenID provider \"idp\": the provider answers \"invalid_grant\"",
    );
}

#[test]
fn another_key_of_the_provider_is_fetched() {
    let provider = Provider::start();
    let daemon = start(&provider, "");
    let (response, ..) = Browser::default().follow(daemon.port(0), "/page.txt");
    assert_eq!(response.status, 200);
    provider.state().change_key("two");
    for _ in 0..4 {
        let (response, ..) = Browser::default().follow(daemon.port(0), "/page.txt");
        assert_eq!(response.status, 200, "{}", daemon.log());
    }
    assert!(provider.count("/keys") <= 4, "once for each worker and key");
}

#[test]
fn contradictions_are_found_before_a_start() {
    let provider = Provider::start();
    let issuer = provider.state().issuer.clone();
    let cases = [
        (
            "oidc_provider p { issuer %%I; client_id a; id_token_signed_response_alg none; }",
            "invalid value \"none\" in \"id_token_signed_response_alg\" directive",
        ),
        (
            "oidc_provider p { issuer %%I; client_id a; id_token_signed_response_alg HS256; }",
            "tokens of HS256 are signed with \"client_secret\", which has 0 bytes: it needs 32 at least",
        ),
        (
            "oidc_provider p { issuer %%I; client_id a; client_secret 0123456789012345678901234567890123456789; \
             id_token_signed_response_alg HS384; }",
            "which has 40 bytes: it needs 48 at least",
        ),
        (
            "oidc_provider p { issuer %%I; client_id a; id_token_key_file none.json; }",
            "it cannot be read (2: No such file or directory)",
        ),
        (
            "oidc_provider p { issuer %%I; client_id a; backchannel_logout_uri x; }",
            "invalid value \"x\" in \"backchannel_logout_uri\" directive",
        ),
        ("oidc_provider p { client_id a; }", "\"issuer\" is not set in oidc_provider \"p\""),
        ("oidc_provider p { issuer %%I; }", "\"client_id\" is not set in oidc_provider \"p\""),
        ("oidc_provider p { issuer http://idp.test; client_id a; }", "invalid value \"http://idp.test\""),
        ("oidc_provider p { issuer %%I; client_id a; redirect_uri //evil; }", "invalid value \"//evil\""),
        ("oidc_provider p { issuer %%I; client_id a; cookie_name \"a;b\"; }", "invalid value \"a;b\""),
        (
            "oidc_provider p { issuer %%I; client_id a; session_store none; }",
            "zero size shared memory zone \"none\"",
        ),
        ("oidc_provider off { issuer %%I; client_id a; }", "invalid name of oidc_provider \"off\""),
        ("auth_oidc p;", "oidc_provider \"p\" is not defined"),
        ("oidc_provider p { issuer %%I; issuer %%I; client_id a; }", "\"issuer\" directive is duplicate"),
    ];
    for (text, expected) in cases {
        let conf =
            format!("http {{ {} server {{ listen 127.0.0.1:%%PORT_0%%; }} }}", text.replace("%%I", &issuer));
        let output = Setup::new(&conf).run(&["-t"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(expected), "{text}: {said}");
    }
    let more =
        "session_store small; redirect_uri https://app.test/back; ssl_trusted_certificate %%DIR%%/none;";
    let output = Setup::new(&CONF.replace("%%MORE%%", more))
        .set("ISSUER", &issuer)
        .set("CLIENT", CLIENT)
        .set("SECRET", SECRET)
        .set("WORKERS", 1)
        .run(&["-t"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("No such file"), "{output:?}");
}
