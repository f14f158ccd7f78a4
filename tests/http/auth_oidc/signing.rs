//! Tokens signed with the client's secret, encrypted tokens, and keys that are none: against the real daemon.

use super::provider::{Browser, Provider};
use super::{COOKIE, Daemon, setup, start};
use crate::support::base64::encode_url;
use crate::support::origin::ok;

/// The status of a login.
fn log_in(daemon: &Daemon) -> u16 {
    Browser::default().follow(daemon.port(0), "/page.txt").0.status
}

#[test]
fn the_clients_secret_signs_only_if_the_configuration_says_so() {
    for (algorithm, bytes) in [("HS256", 32), ("HS384", 48), ("HS512", 64)] {
        let secret = "k".repeat(bytes);
        let provider = Provider::start();
        provider.state().secret = secret.clone();
        provider.state().secret_signs = Some((algorithm, secret.clone().into_bytes()));
        let daemon = start(&provider, &format!("id_token_signed_response_alg {algorithm};"));
        assert_eq!(log_in(&daemon), 200, "{}", daemon.log());
        assert_eq!(provider.count("/keys"), 0, "published keys do not matter");
        // Another secret, another algorithm, a public key.
        provider.state().secret_signs = Some((algorithm, b"guessed-guessed-guessed-guessed".to_vec()));
        assert_eq!(log_in(&daemon), 502);
        daemon.wait_log("its ID token is rejected: its signature is wrong");
        let other = if algorithm == "HS256" { "HS512" } else { "HS256" };
        provider.state().secret_signs = Some((other, secret.into_bytes()));
        assert_eq!(log_in(&daemon), 502);
        daemon.wait_log(&format!("its ID token is rejected: its algorithm \"{other}\" is not accepted"));
        provider.state().secret_signs = None;
        assert_eq!(log_in(&daemon), 502);
        daemon.wait_log("its ID token is rejected: its algorithm \"ES256\" is not accepted");
    }
    // Without the directive the secret signs nothing.
    let secret = "k".repeat(64);
    let provider = Provider::start();
    provider.state().secret = secret.clone();
    provider.state().secret_signs = Some(("HS256", secret.into_bytes()));
    let daemon = start(&provider, "");
    assert_eq!(log_in(&daemon), 502);
    daemon.wait_log("its ID token is rejected: there is no key for HS256");
}

/// A secret that anybody can read, and a public key taken for a secret, sign nothing.
#[test]
fn what_a_provider_publishes_is_no_secret() {
    let provider = Provider::start();
    let known = b"a secret that anybody can read!!".to_vec();
    let point = provider.state().point();
    let (x, y) = (encode_url(&point[1..33]), encode_url(&point[33..65]));
    let keys = format!(
        r#"{{"keys":[{{"kty":"oct","k":"{}"}},{{"kty":"EC","crv":"P-256","kid":"one","x":"{x}","y":"{y}"}}]}}"#,
        encode_url(&known)
    );
    provider.state().answers.insert("/keys".into(), ok(keys.as_bytes()));
    let daemon = start(&provider, "");
    for secret in [known, point, keys.into_bytes()] {
        provider.state().secret_signs = Some(("HS256", secret));
        assert_eq!(log_in(&daemon), 502);
    }
    daemon.wait_log("its ID token is rejected: there is no key for HS256");
    provider.state().secret_signs = None;
    assert_eq!(log_in(&daemon), 200);
}

#[test]
fn one_algorithm_may_be_demanded_of_published_keys_too() {
    let provider = Provider::start();
    let daemon = start(&provider, "id_token_signed_response_alg RS256;");
    assert_eq!(log_in(&daemon), 502);
    daemon.wait_log("its algorithm \"ES256\" is not accepted");
    let daemon = start(&provider, "id_token_signed_response_alg ES256;");
    assert_eq!(log_in(&daemon), 200);
}

#[test]
fn encrypted_tokens_are_decrypted_and_others_refused() {
    let provider = Provider::start();
    let key = [7; 32];
    let set = format!(r#"{{"keys":[{{"kty":"oct","use":"enc","k":"{}"}}]}}"#, encode_url(&key));
    provider.state().encrypts_with = Some(key);
    provider.state().expires_in = 1;
    let more = "id_token_key_file own.json; backchannel_logout_uri /ended; logout_token_hint on;";
    let daemon = setup(&provider, more, 1).file("own.json", set).start();
    let port = daemon.port(0);
    let mut browser = Browser::default();
    let (response, ..) = browser.follow(port, "/nested.txt");
    assert_eq!(
        (response.status, response.header("x-city")),
        (200, Some("Z\u{fc}rich|joe")),
        "its claims are those of the token inside: {}",
        daemon.log()
    );
    // A refresh brings another one, and the logout names the signed token that was inside.
    crate::support::wait_for("a refresh", || {
        assert_eq!(browser.ask(port, "/page.txt").status, 200, "{}", daemon.log());
        (provider.count("/token") > 1).then_some(())
    });
    let asked = browser.ask(port, "/logout");
    let hint = super::arg(asked.header("location").expect("to the provider"), "id_token_hint");
    assert_eq!(hint.expect("a hint").split('.').count(), 3);

    provider.state().encrypts_with = Some([8; 32]);
    assert_eq!(log_in(&daemon), 502);
    daemon.wait_log("its ID token is rejected: no key decrypts it");
    provider.state().encrypts_with = None;
    let mut browser = Browser::default();
    assert_eq!(browser.follow(port, "/page.txt").0.status, 502);
    assert_eq!(browser.cookie(COOKIE), None);
    daemon.wait_log(
        "its ID token is rejected: it does not have five parts in base64url, and must be encrypted",
    );
}

#[test]
fn an_encrypted_token_without_a_key_file_is_refused() {
    let provider = Provider::start();
    provider.state().encrypts_with = Some([7; 32]);
    let daemon = start(&provider, "");
    assert_eq!(log_in(&daemon), 502);
    daemon.wait_log("its ID token is rejected: it is encrypted, and there is no \"id_token_key_file\"");
}
