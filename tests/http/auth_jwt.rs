//! `auth_jwt` against the real daemon: tokens that another program has made (`auth_jwt/`), forged ones, and the ways to the
//! keys.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};

use aws_lc_rs::hmac;

use crate::support::base64::encode_url;
use crate::support::origin::ok;
use crate::support::{Client, Daemon, Origin, Response, Setup, deadline, fetch, get, wait_for};

const KEYS: &str = include_str!("auth_jwt/keys.json");
const TOKENS: &str = include_str!("auth_jwt/tokens.txt");

const CONF: &str = r#"
http {
    map $jwt_claim_iss $is_known { python 1; self 1; }
    map $jwt_claim_level $is_high { 7 1; default 0; }
    auth_jwt_claim_set $city address locality;
    auth_jwt_claim_set $lines address lines;
    auth_jwt_claim_set $mail e-mail;
    auth_jwt_header_set $type typ;
    log_format claims '$uri $status $jwt_claim_sub';
    access_log %%DIR%%/access.log claims;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%;
        auth_jwt_key_file keys.json;
        add_header X-Sub $jwt_claim_sub always;
        location /closed { auth_jwt "the area"; }
        location /quoted { auth_jwt "a \"b\" $arg_r"; }
        location /open { auth_jwt off; }
        location /cookie { auth_jwt x token=$cookie_auth_token; }
        location /both { allow 127.0.0.1; deny all; auth_jwt x; }
        location /neither { deny all; auth_jwt x; }
        location /any { satisfy any; deny all; auth_jwt x; }
        location /allowed { satisfy any; allow 127.0.0.1; deny all; auth_jwt x; }
        location /basic { satisfy any; auth_basic b; auth_basic_user_file users; auth_jwt x; }
        location /reads { limit_except POST { auth_jwt x; } }
        location /late { auth_jwt x; auth_jwt_leeway 1h; }
        location /page { auth_jwt x; error_page 401 /why; }
        location /why { add_header X-Sub "why[$jwt_claim_sub]" always; }
        location /before { auth_jwt x; if ($jwt_claim_sub = joe) { rewrite ^ /then; } }
        location /then { auth_jwt x; }
        location /known { auth_jwt x; auth_jwt_require $is_known; }
        location /high { auth_jwt x; auth_jwt_require $is_known $is_high error=403; }
        location /values {
            auth_jwt x;
            add_header X-Values "$city|$lines|$mail|$type|$jwt_header_alg|$jwt_claim_admin|$jwt_claim_aud|$jwt_claim_none" always;
            add_header X-Payload $jwt_payload always;
        }
        location /asks { auth_jwt x; auth_request /asked; }
        location = /asked { internal; proxy_pass http://%%ORIGIN%%; proxy_set_header X-Sub $jwt_claim_sub; }
        location /by-claim { auth_jwt x; auth_jwt_key_file $jwt_claim_iss.json; }
        location /no-keys-file { auth_jwt x; auth_jwt_key_file nowhere-$arg_x.json; }
        location /fetched { auth_jwt x; auth_jwt_key_request /keys; }
        location /kept { auth_jwt x; auth_jwt_key_request /keys; auth_jwt_key_cache 1h; }
        location /two { auth_jwt x; auth_jwt_key_request /keys; auth_jwt_key_file keys.json; auth_jwt_key_request /keys; }
        location /keys { internal; proxy_pass http://%%ORIGIN%%/jwks; }
        location /bad { auth_jwt x; auth_jwt_key_request /$arg_what; }
        location /broken { auth_jwt x; auth_jwt_key_request /$arg_what; error_page 500 /why; }
        location /missing { internal; return 404; }
        location /nonsense { internal; return 200 "nonsense"; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        location / { auth_jwt x; }
    }
}
"#;

/// Serves the key set, padded so that it is parsed on another thread if `is_long`.
fn origin() -> Origin {
    Origin::replying(|request| match request.target.as_str() {
        "/jwks" => ok(KEYS.replace("\n]}", &format!("{}\n]}}", " ".repeat(9000))).as_bytes()),
        _ => ok(b""),
    })
}

fn start(origin: &Origin) -> Daemon {
    Setup::new(CONF)
        .file("keys.json", KEYS)
        .file("python.json", KEYS)
        .file("users", "joe:{PLAIN}secret\n")
        .set("ORIGIN", origin.address())
        .level("info")
        .start()
}

fn token(algorithm: &str) -> &'static str {
    let line = TOKENS.lines().find(|line| line.starts_with(algorithm));
    line.and_then(|line| line.split_once(' ')).expect("a token for each algorithm").1
}

fn ask(daemon: &Daemon, path: &str, token: &str) -> Response {
    with(daemon, path, &format!("Authorization: Bearer {token}\r\n"))
}

fn with(daemon: &Daemon, path: &str, fields: &str) -> Response {
    fetch(daemon.port(0), &format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}Connection: close\r\n\r\n"))
}

fn challenge(response: &Response) -> (u16, Vec<&str>) {
    (response.status, response.all("www-authenticate"))
}

const SECRET: [u8; 32] = [7; 32];

/// A set with the secret of [`sign`].
pub fn own_keys() -> String {
    format!(r#"{{"keys":[{{"kty":"oct","k":"{}"}}]}}"#, encode_url(&SECRET))
}

/// A token with the signature of HS256.
pub fn sign(claims: &str) -> String {
    let signed = format!("{}.{}", encode_url(br#"{"alg":"HS256"}"#), encode_url(claims.as_bytes()));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &SECRET), signed.as_bytes());
    format!("{signed}.{}", encode_url(signature.as_ref()))
}

/// The token of another program with other claims, under its old signature.
fn forged() -> String {
    let mut parts = token("ES256").split('.');
    let (header, _, signature) = (parts.next().unwrap(), parts.next(), parts.next().unwrap());
    format!("{header}.{}.{signature}", encode_url(br#"{"sub":"root","iss":"python","level":7}"#))
}

#[test]
fn tokens_of_another_program_let_a_client_in() {
    let daemon = start(&origin());
    assert_eq!(TOKENS.lines().count(), 13);
    for line in TOKENS.lines() {
        let (algorithm, token) = line.split_once(' ').unwrap();
        let response = ask(&daemon, "/closed", token);
        assert_eq!((response.status, response.header("x-sub")), (404, Some("joe")), "{algorithm}");
        let (signed, _) = token.rsplit_once('.').unwrap();
        for wrong in [format!("{signed}."), format!("{signed}.AAAA"), signed.to_owned(), format!("{token}.")]
        {
            let response = ask(&daemon, "/closed", &wrong);
            let expected = (401, vec!["Bearer realm=\"the area\",error=\"invalid_token\""]);
            assert_eq!(challenge(&response), expected, "{algorithm}");
            assert_eq!(response.header("x-sub"), None);
        }
    }
    daemon.wait_log("JSON web token rejected: its signature is wrong");
    daemon.wait_log("JSON web token rejected: it does not have three parts in base64url");
}

#[test]
fn a_request_without_a_token_is_told_what_to_bring() {
    let daemon = start(&origin());
    for fields in
        ["", "Authorization: Basic YTpi\r\n", "Authorization: Bearer\r\n", "Authorization: Bearer  \r\n"]
    {
        let response = with(&daemon, "/closed", fields);
        assert_eq!(challenge(&response), (401, vec!["Bearer realm=\"the area\""]), "{fields}");
    }
    daemon.wait_log("no JSON web token was provided");
    let response = get(daemon.port(0), "/quoted?r=1");
    assert_eq!(challenge(&response), (401, vec!["Bearer realm=\"a \\\"b\\\" 1\""]));
    let (good, cookie) = (token("RS256"), |text: &str| format!("Cookie: auth_token={text}\r\n"));
    assert_eq!(with(&daemon, "/cookie", &cookie(good)).status, 404);
    assert_eq!(with(&daemon, "/cookie", &cookie(&forged())).status, 401);
    assert_eq!(ask(&daemon, "/cookie", good).status, 401, "the token is elsewhere");
    assert_eq!(with(&daemon, "/closed", &format!("authorization: bEARER   {good} \r\n")).status, 404);
    assert_eq!(get(daemon.port(0), "/open").status, 404);
    // CONNECT apart, a response with another status has no challenge.
    assert_eq!(challenge(&ask(&daemon, "/closed", good)), (404, vec![]));
    // A server without keys lets nobody in.
    let request =
        format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {good}\r\nConnection: close\r\n\r\n");
    assert_eq!(fetch(daemon.port(1), &request).status, 500);
    daemon.wait_log("there are no keys for JSON web tokens");
}

#[test]
fn other_access_modules_count_too() {
    let daemon = start(&origin());
    let (good, forged) = (token("EdDSA"), forged());
    let post = |path: &str| {
        fetch(daemon.port(0), &format!("POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
    };
    for (path, with_good, with_forged) in [
        ("/both", 404, 401),
        ("/neither", 403, 403),
        ("/any", 404, 401),
        ("/allowed", 404, 404),
        ("/reads", 404, 401),
    ] {
        assert_eq!(ask(&daemon, path, good).status, with_good, "{path}");
        assert_eq!(ask(&daemon, path, &forged).status, with_forged, "{path}");
    }
    assert_ne!(post("/reads").status, 401, "only other methods need a token");
    let response = get(daemon.port(0), "/basic");
    assert_eq!(challenge(&response), (401, vec!["Basic realm=\"b\"", "Bearer realm=\"x\""]));
    assert_eq!(with(&daemon, "/basic", "Authorization: Basic am9lOnNlY3JldA==\r\n").status, 404);
    assert_eq!(ask(&daemon, "/basic", good).status, 404);
}

/// Claims that nobody has signed must not get anywhere behind the access phase.
#[test]
fn variables_have_only_verified_claims() {
    let origin = origin();
    let daemon = start(&origin);
    let (good, forged) = (token("PS384"), forged());
    let sub = |path: &str, token: &str| ask(&daemon, path, token).header("x-sub").map(str::to_owned);
    assert_eq!(sub("/closed", good).as_deref(), Some("joe"));
    for path in ["/closed", "/any", "/open", "/allowed", "/neither", "/reads"] {
        assert_eq!(sub(path, &forged), None, "{path}");
    }
    // Another way in does not make the token a good one.
    assert_eq!(sub("/allowed", good), None, "nobody has looked at the token");
    assert_eq!(sub("/page", &forged).as_deref(), Some("why[]"), "the page of the error");
    assert_eq!(sub("/broken?what=missing", &forged).as_deref(), Some("why[]"));
    // Before the access phase there is what the client says, as in nginx.
    assert_eq!((ask(&daemon, "/before", good).status, sub("/before", good).as_deref()), (404, Some("joe")));
    daemon.wait_line("access.log", "/then 404 joe");
    let response = ask(&daemon, "/values", good);
    assert_eq!(response.header("x-values"), Some("Köln|x,y|joe@example.com|JWT|PS384|true|a,b|"));
    assert!(
        response
            .header("x-payload")
            .is_some_and(|text| text.starts_with(r#"{"iss": "python", "sub": "joe""#))
    );
    assert_eq!(ask(&daemon, "/values", &forged).header("x-values"), Some("|||||||"));
    // Subrequests know the same.
    assert_eq!(ask(&daemon, "/asks", good).status, 404);
    assert_eq!(origin.last().header("x-sub"), Some("joe"));
    assert_eq!(ask(&daemon, "/asks", &forged).status, 401);
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn a_claim_with_line_breaks_splits_no_message() {
    let origin = origin();
    let daemon = start(&origin);
    daemon.write("self.json", own_keys());
    let token = sign(r#"{"iss":"self","sub":"a\r\nInjected: yes\r\n\r\n"}"#);
    let response = ask(&daemon, "/by-claim", &token);
    assert!(response.header("injected").is_none() && response.status == 404, "{}", response.status);
}

#[test]
fn requirements_are_met_or_the_request_is_refused() {
    let daemon = start(&origin());
    daemon.write("keys.json", own_keys());
    daemon.reload();
    let of = |issuer: &str, level: u32| sign(&format!(r#"{{"iss":"{issuer}","level":{level},"sub":"me"}}"#));
    for (path, issuer, level, status) in [
        ("/known", "self", 1, 404),
        ("/known", "other", 1, 401),
        ("/high", "self", 7, 404),
        ("/high", "self", 6, 403),
        ("/high", "other", 7, 403),
    ] {
        let response = ask(&daemon, path, &of(issuer, level));
        let expected =
            if status == 401 { vec!["Bearer realm=\"x\",error=\"invalid_token\""] } else { vec![] };
        assert_eq!(challenge(&response), (status, expected), "{path} {issuer} {level}");
        assert_eq!(response.header("x-sub"), (status == 404).then_some("me"));
    }
    daemon.wait_log("JSON web token rejected: a requirement is not met, in ");
    // Times, and clocks that differ.
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    let (exp, nbf) = (
        |at_s: i64| sign(&format!(r#"{{"exp":{at_s}}}"#)),
        |at_s: i64| sign(&format!(r#"{{"nbf":{at_s}}}"#)),
    );
    for (path, token, status) in [
        ("/closed", exp(now_s + 600), 404),
        ("/closed", exp(now_s - 600), 401),
        ("/closed", nbf(now_s - 600), 404),
        ("/closed", nbf(now_s + 600), 401),
        ("/late", exp(now_s - 600), 404),
        ("/late", nbf(now_s + 600), 404),
        ("/late", exp(now_s - 4000), 401),
        ("/late", nbf(now_s + 4200), 401),
    ] {
        assert_eq!(ask(&daemon, path, &token).status, status, "{path}");
    }
    daemon.wait_log("JSON web token rejected: it has expired");
    daemon.wait_log("JSON web token rejected: it is not valid yet");
}

#[test]
fn keys_come_from_files_and_subrequests() {
    let origin = origin();
    let daemon = start(&origin);
    let good = token("ES512");
    assert_eq!(ask(&daemon, "/by-claim", good).status, 404);
    assert_eq!(ask(&daemon, "/by-claim", &sign(r#"{"iss":"self"}"#)).status, 500, "there is no such file");
    daemon.wait_log("cannot use the keys in \".*self.json\": it cannot be read \\(2: No such file");
    assert_eq!(ask(&daemon, "/no-keys-file?x=../keys", good).status, 500);
    daemon.write("self.json", r#"{"keys":[{"kty":"oct","kid":"weak","k":"AA"}]}"#);
    assert_eq!(ask(&daemon, "/by-claim", &sign(r#"{"iss":"self"}"#)).status, 500);
    daemon.wait_log("cannot use the keys in \".*self.json\": key 1 \\(\"weak\"\\): the secret has 1 bytes");
    daemon.write("self.json", own_keys());
    assert_eq!(ask(&daemon, "/by-claim", &sign(r#"{"iss":"self"}"#)).status, 404);

    for issuer in ["../self", "a/../self", ".."] {
        assert_eq!(
            ask(&daemon, "/by-claim", &sign(&format!(r#"{{"iss":"{issuer}"}}"#))).status,
            500,
            "{issuer}"
        );
    }
    daemon.wait_log("its name has \"\\.\\.\"");

    let encoded = |path: &str| {
        let fields = "Accept-Encoding: gzip\r\nRange: bytes=0-0\r\nIf-None-Match: \"x\"\r\n";
        with(&daemon, path, &format!("Authorization: Bearer {good}\r\n{fields}"))
    };
    for count in 1..=3 {
        assert_eq!(encoded("/fetched").status, 404);
        assert_eq!(origin.requests().len(), count, "each request asks");
        let asked = origin.last();
        assert_eq!(asked.target, "/jwks");
        for name in ["accept-encoding", "range", "if-none-match"] {
            assert_eq!(asked.header(name), None);
        }
    }
    let post =
        format!("POST /fetched HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {good}\r\nContent-Length: 4\r\n");
    assert_eq!(fetch(daemon.port(0), &format!("{post}Connection: close\r\n\r\nbody")).status, 404);
    assert_eq!((&*origin.last().method, origin.last().length()), ("GET", None));
    assert_eq!(ask(&daemon, "/fetched", &forged()).status, 401);
    let before = origin.requests().len();
    let workers = daemon.workers().len();
    for _ in 0..20 {
        assert_eq!(ask(&daemon, "/kept", good).status, 404);
    }
    assert!(origin.requests().len() <= before + workers, "a worker asks once");
    let before = origin.requests().len();
    assert_eq!(ask(&daemon, "/two", good).status, 404);
    assert_eq!(origin.requests().len(), before + 2);
    for (what, expected) in [("missing", "status 404"), ("nonsense", "it is no JSON Web Key Set")] {
        let response = ask(&daemon, &format!("/bad?what={what}"), good);
        assert_eq!(response.status, 500);
        daemon.wait_log(&format!("cannot use the keys of \"/{what}\": {expected}"));
    }
}

/// An origin whose `number`th answer with keys waits for the channel, and is `gated`.
fn gated(number: usize, gated: Vec<u8>) -> (Sender<()>, Origin) {
    let (go, wait) = channel();
    let (wait, asked) = (Mutex::new(wait), AtomicUsize::new(0));
    let origin = Origin::replying(move |_| {
        if asked.fetch_add(1, Ordering::SeqCst) != number {
            return ok(KEYS.as_bytes());
        }
        let _ = wait.lock().expect("not poisoned").recv_timeout(deadline());
        gated.clone()
    });
    (go, origin)
}

fn asking(daemon: &Daemon, path: &str) -> Client {
    let mut client = Client::connect(daemon.port(0));
    let good = token("ES512");
    client.send(format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {good}\r\nConnection: close\r\n\r\n"
    ));
    client
}

#[test]
fn requests_that_come_while_keys_are_asked_for_wait_for_them() {
    let (go, origin) = gated(0, ok(KEYS.as_bytes()));
    let daemon = start(&origin);
    assert_eq!(daemon.workers().len(), 1);
    let mut clients: Vec<Client> = (0..10).map(|_| asking(&daemon, "/kept")).collect();
    origin.wait_requests(1);
    // A request on its own connection is answered after those that came before it have begun.
    assert_eq!(ask(&daemon, "/open", "").status, 404);
    go.send(()).expect("the origin waits");
    for client in &mut clients {
        assert_eq!(client.response().status, 404);
    }
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn a_request_that_cannot_get_the_keys_takes_no_other_with_it() {
    let (go, origin) = gated(0, b"HTTP/1.1 431 Too Large\r\nContent-Length: 0\r\n\r\n".to_vec());
    let daemon = start(&origin);
    let mut first = asking(&daemon, "/kept");
    origin.wait_requests(1);
    let mut others: Vec<Client> = (0..5).map(|_| asking(&daemon, "/kept")).collect();
    assert_eq!(ask(&daemon, "/open", "").status, 404);
    go.send(()).expect("the origin waits");
    assert_eq!(first.response().status, 500);
    for client in &mut others {
        assert_eq!(client.response().status, 404);
    }
    daemon.wait_log("cannot use the keys of \"/keys\": status 431");
}

#[test]
fn a_client_that_leaves_while_it_asks_for_keys_passes_its_turn_on() {
    let (go, origin) = gated(0, ok(KEYS.as_bytes()));
    let daemon = start(&origin);
    let first = asking(&daemon, "/kept");
    origin.wait_requests(1);
    let mut others: Vec<Client> = (0..5).map(|_| asking(&daemon, "/kept")).collect();
    assert_eq!(ask(&daemon, "/open", "").status, 404);
    first.reset_on_close();
    drop(first);
    for client in &mut others {
        assert_eq!(client.response().status, 404);
    }
    assert_eq!(origin.requests().len(), 2, "one of the others has asked");
    drop(go);
}

#[test]
fn a_key_set_without_an_end_is_not_read_to_its_end() {
    let origin = Origin::replying(|_| ok(&vec![b' '; 2 * 1024 * 1024]));
    let daemon = start(&origin);
    assert_eq!(ask(&daemon, "/fetched", token("ES512")).status, 500);
    daemon.wait_log("cannot use the keys of \"/keys\": it broke off, or is longer than 1048576 bytes");
}

#[test]
fn new_workers_use_a_changed_file_and_keep_the_old_keys_of_a_faulty_one() {
    let daemon = start(&origin());
    assert_eq!(ask(&daemon, "/closed", &sign("{}")).status, 401);
    daemon.write("keys.json", "{}");
    daemon
        .wait_log("cannot use the keys in \".*keys.json\": it is no JSON Web Key Set: there is no \"keys\"");
    assert_eq!(ask(&daemon, "/closed", token("RS512")).status, 404);
    daemon.write("keys.json", own_keys());
    wait_for("the new keys", || (ask(&daemon, "/closed", &sign("{}")).status == 404).then_some(()));
    wait_for("the end of the old ones", || {
        (ask(&daemon, "/closed", token("RS512")).status == 401).then_some(())
    });
}

#[test]
fn faulty_lines_are_reported_with_their_remedy() {
    let weak = r#"{"keys":[{"kty":"RSA","kid":"old","e":"AQAB","n":"uJqrRXRcuuBAe-dqP3fW-tzYOvZEvqWwEOO3n-tQaRCPpZRXobfkzkFgHXr4kjP0YwjUQIskxvm81I96Zp14MxH5atqOpcSU3K33QuJ6uelH5ondsqibNuicVEZ2PssRfxiOztHhNZEqzWbF8cWF4XAgrdYAc33IMNJ9yNJf0mE"}]}"#;
    for (line, expected) in [
        ("auth_jwt x on;", "invalid parameter \"on\""),
        ("auth_jwt x token=abc;", "invalid parameter \"token=abc\""),
        ("auth_jwt_type other;", "invalid value \"other\""),
        ("auth_jwt_require x;", "invalid value \"x\""),
        ("auth_jwt_require $uri error=404;", "invalid value \"404\" in \"error\" parameter"),
        ("auth_jwt_require error=403;", "invalid value \"error=403\""),
        ("auth_jwt_claim_set $a;", "invalid number of arguments in \"auth_jwt_claim_set\" directive"),
        ("auth_jwt_claim_set a b;", "invalid variable name \"a\""),
        ("auth_jwt_key_file none.json;", "No such file"),
        (
            "auth_jwt_key_file weak.json;",
            "key 1 (\"old\"): the RSA modulus has 1024 bits: from 2048 to 8192 are allowed",
        ),
    ] {
        let conf = format!("http {{ {line} server {{ listen 127.0.0.1:%%PORT_0%%; }} }}");
        let output = Setup::new(&conf).file("weak.json", weak).run(&["-t"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(expected), "{line}: {text}");
    }
    // That of nginx's own guide.
    let short = r#"{"keys":[{"k":"ZmFudGFzdGljand0","kty":"oct","kid":"0001"}]}"#;
    let conf = "http { auth_jwt_key_file short.json; server { listen 127.0.0.1:%%PORT_0%%; } }";
    let output = Setup::new(conf).file("short.json", short).run(&["-t"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && text.contains("key 1 (\"0001\"): the secret has 12 bytes"), "{text}");
    let fine = "http { auth_jwt_type signed; auth_jwt off; server { listen 127.0.0.1:%%PORT_0%%; } }";
    assert!(Setup::new(fine).run(&["-t"]).status.success());
}

const SEALED: &str = r#"
http {
    access_log off;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%;
        auth_jwt_key_file encrypted_keys.json;
        location /encrypted { auth_jwt x; auth_jwt_type encrypted; add_header X-Payload $jwt_payload always; }
        location /nested { auth_jwt x; auth_jwt_type nested; add_header X-Claims "$jwt_claim_sub" always; }
        location /signed { auth_jwt x; }
        location /early { auth_jwt x; auth_jwt_type encrypted; if ($jwt_claim_sub) { return 204; } }
    }
}
"#;

#[test]
fn encrypted_and_nested_tokens_let_a_client_in() {
    let tokens = include_str!("auth_jwt/encrypted.txt");
    let sealed = |name: &str| {
        let line = tokens.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name}"))
    };
    let setup = Setup::new(SEALED).file("encrypted_keys.json", include_str!("auth_jwt/encrypted_keys.json"));
    let files = ["encrypted", "nested", "signed", "early"];
    let daemon =
        files.iter().fold(setup, |setup, name| setup.file(&format!("{name}.txt"), "")).level("info").start();
    let ask = |path: &str, name: &str| {
        let response = ask(&daemon, path, sealed(name));
        let claims = response.header("x-claims").unwrap_or("-").to_owned();
        (response.status, claims)
    };
    for name in ["dir/A256GCM", "A128KW/A256CBC-HS512", "RSA-OAEP/A128CBC-HS256"] {
        assert_eq!(ask("/early.txt", name).0, 200, "nothing of it is known before it is decrypted");
        let response = self::ask(&daemon, "/encrypted.txt", sealed(name));
        assert_eq!(response.status, 200, "{name}: {}", daemon.log());
        assert_eq!(response.header("x-payload"), Some(r#"{"sub": "joe", "iss": "python", "level": 7}"#));
    }
    assert_eq!(ask("/nested.txt", "nested"), (200, "joe".to_owned()), "{}", daemon.log());
    for (path, name, why) in [
        ("/signed.txt", "dir/A256GCM", "it is encrypted: \"auth_jwt_type\" is signed"),
        ("/nested.txt", "dir/A256GCM", "it does not have three parts in base64url"),
        ("/nested.txt", "nested-forged", "its signature is wrong"),
        ("/encrypted.txt", "nested", "its claims are malformed"),
        ("/encrypted.txt", "expired", "it has expired"),
        ("/encrypted.txt", "zip", "its content is compressed"),
    ] {
        assert_eq!(ask(path, name).0, 401, "{path} {name}");
        daemon.wait_log(why);
    }
    let response = with(&daemon, "/encrypted.txt", &format!("Authorization: Bearer {}\r\n", token("ES256")));
    assert_eq!(response.status, 401);
    daemon.wait_log("it does not have five parts in base64url");
}
