//! `auth_basic` against the real daemon: every format of a stored password, `satisfy`, and invalid
//! credentials.

use crate::support::base64::encode;
use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Response, Setup, fetch, get, wait_for};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%;
        auth_basic_user_file users;
        location /closed { auth_basic "the area"; }
        location /open { auth_basic off; }
        location /off { set $realm off; auth_basic $realm; }
        location /none { auth_basic closed; auth_basic_user_file nowhere; }
        location /page { auth_basic closed; error_page 401 /why; }
        location /why { auth_basic off; return 200 "why"; }
        location /any { satisfy any; allow 127.0.0.1; deny all; auth_basic closed; }
        location /either { satisfy any; deny all; auth_basic closed; }
        location /both { allow 127.0.0.1; deny all; auth_basic closed; }
        location /neither { deny all; auth_basic closed; }
        location /reads { limit_except GET { auth_basic closed; } }
        location /slow { auth_basic closed; auth_delay 400ms; }
        location /slow-either { satisfy any; deny all; auth_basic closed; auth_delay 400ms; error_page 401 /why; }
        location /below { auth_basic closed; auth_basic_user_file sub/../sub/$arg_file; }
        location /by-variable { auth_basic closed; auth_basic_user_file $arg_file; }
    }
}
"#;

const USERS: &str = "# users\n\
    plain:{PLAIN}secret\n\
    sha:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n\
    ssha:{SSHA}gVK8WC9YyFT1gMsQHTGCgT3sSv5zYWx0\n\
    apr:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/:a comment\r\n\
    md5:$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1\n\
    sha256:$5$abcdefgh$gruCpC7VkOTspMQTTSAR8mtlO9Upms.fwqE5y16JVM.\n\
    sha512:$6$abcdefgh$ltjgWl6579NluT/Vi1nwEvcil.G5Nbc4NiXZaNGStk8PSwGfQv72N2CKPPrVACtLtip/cZ/1GM/O6IND4WQhG.\n\
    bcrypt:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n\
    last:{PLAIN}end";

fn start() -> Daemon {
    Setup::new(CONF).file("users", USERS).start()
}

fn ask(daemon: &Daemon, path: &str, authorization: &str) -> Response {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: {authorization}\r\nConnection: close\r\n\r\n"
    );
    fetch(daemon.port(0), &request)
}

fn enter(daemon: &Daemon, path: &str, user: &str, password: &str) -> u16 {
    ask(daemon, path, &format!("Basic {}", encode(format!("{user}:{password}").as_bytes()))).status
}

#[test]
fn every_kind_of_password_lets_its_user_in_and_no_other() {
    let daemon = start();
    for user in ["plain", "sha", "ssha", "apr", "md5", "sha256", "sha512", "bcrypt"] {
        // twice: a correct password is remembered
        for _ in 0..2 {
            assert_eq!(enter(&daemon, "/closed", user, "secret"), 404, "{user}");
            assert_eq!(enter(&daemon, "/closed", user, "wrong"), 401, "{user}");
            assert_eq!(enter(&daemon, "/closed", user, ""), 401, "{user}");
        }
    }
    assert_eq!(enter(&daemon, "/closed", "last", "end"), 404);
    assert_eq!(enter(&daemon, "/closed", "stranger", "secret"), 401);
    daemon.wait_log("user \"bcrypt\": password mismatch");
    daemon.wait_log(r#"user "stranger" was not found in ".*/users""#);
}

#[test]
fn who_says_nothing_is_asked() {
    let daemon = start();
    let response = get(daemon.port(0), "/closed");
    assert_eq!(
        (response.status, response.header("www-authenticate")),
        (401, Some("Basic realm=\"the area\""))
    );
    daemon.wait_log("no user/password was provided for basic authentication");
    let plain = format!("basic   {}", encode(b"plain:secret"));
    assert_eq!(ask(&daemon, "/closed", &plain).status, 404, "in any case, with any spaces");
    for bad in [
        "",
        "Basic",
        "Basic ",
        "Basic !!!",
        "Bearer x",
        "Basic cGxhaW4=",
        &format!("Basic {}", "A".repeat(6000)),
    ] {
        assert_eq!(ask(&daemon, "/closed", bad).status, 401, "{bad}");
    }
    assert_eq!(get(daemon.port(0), "/open").status, 404);
    assert_eq!(get(daemon.port(0), "/off").status, 404);
    assert_eq!(enter(&daemon, "/none", "plain", "secret"), 403);
    let page = get(daemon.port(0), "/page");
    assert_eq!((page.status, page.text().as_str()), (401, "why"));
    assert_eq!(page.header("www-authenticate"), Some("Basic realm=\"closed\""));
}

#[test]
fn satisfy_decides_what_is_enough() {
    let daemon = start();
    assert_eq!(get(daemon.port(0), "/any").status, 404);
    assert_eq!(get(daemon.port(0), "/any").header("www-authenticate"), None);
    assert_eq!(get(daemon.port(0), "/either").status, 401);
    for user in ["plain", "bcrypt"] {
        assert_eq!(enter(&daemon, "/either", user, "secret"), 404, "{user}");
        assert_eq!(enter(&daemon, "/both", user, "secret"), 404, "{user}");
        assert_eq!(enter(&daemon, "/neither", user, "secret"), 403, "{user}");
    }
    assert_eq!(get(daemon.port(0), "/both").status, 401);
    assert_eq!(get(daemon.port(0), "/neither").status, 403);
    let post = "POST /reads HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!([get(daemon.port(0), "/reads").status, fetch(daemon.port(0), post).status], [404, 401]);
}

#[test]
fn a_slow_check_holds_nobody_up() {
    let daemon = start();
    // 2^13 rounds take most of a second
    let users = USERS.replace("$2y$05$", "$2y$13$");
    daemon.write("slow", users);
    if is_stand_in() {
        return; // its worker blocks
    }
    let mut slow = Client::connect(daemon.port(0));
    let authorization = encode(b"bcrypt:secret");
    slow.send(format!(
        "GET /by-variable?file=slow HTTP/1.1\r\nHost: a\r\nAuthorization: Basic {authorization}\r\n\r\n"
    ));
    for _ in 0..20 {
        assert_eq!(get(daemon.port(0), "/open").status, 404);
    }
    assert_eq!(slow.response().status, 401, "another cost is another password");
}

#[test]
fn who_tries_passwords_waits_and_who_knows_one_does_not() {
    let daemon = start();
    // The clock of the loop is read once a turn, so a delay of 400 ms may seem shorter by one.
    for path in ["/slow", "/slow-either"] {
        let since = std::time::Instant::now();
        assert_eq!(get(daemon.port(0), path).status, 401, "{path}");
        assert!(since.elapsed().as_millis() >= 390, "{path}: {:?}", since.elapsed());
        assert_eq!(enter(&daemon, path, "plain", "wrong"), 401, "{path}");
        assert!(since.elapsed().as_millis() >= 780, "{path}: {:?}", since.elapsed());
        let since = std::time::Instant::now();
        assert_eq!(enter(&daemon, path, "plain", "secret"), 404, "{path}");
        assert!(since.elapsed().as_millis() < 400, "{path}: {:?}", since.elapsed());
    }
}

#[test]
fn a_file_of_users_that_would_be_waited_for_stops_nobody() {
    if is_stand_in() {
        return;
    }
    let daemon = start();
    nix::unistd::mkfifo(&daemon.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::File::create(daemon.path("large")).unwrap().set_len((4 << 20) + 1).unwrap();
    for (name, why) in
        [("fifo", "not a regular file"), ("large", "larger than 4194304 bytes"), ("", "regular file")]
    {
        assert_eq!(enter(&daemon, &format!("/by-variable?file={name}"), "plain", "secret"), 500, "{name}");
        daemon.wait_log(&format!("open\\(\\) \".*/{name}\" failed .*{why}"));
    }
    assert_eq!(enter(&daemon, "/by-variable?file=users", "plain", "secret"), 404);
}

#[test]
fn no_client_names_a_file_of_users_above_the_directory() {
    if is_stand_in() {
        return;
    }
    let daemon = Setup::new(CONF).file("users", USERS).file("sub/users", USERS).start();
    assert_eq!(enter(&daemon, "/below?file=users", "plain", "secret"), 404);
    assert_eq!(enter(&daemon, "/below?file=../users", "plain", "secret"), 403);
    daemon.wait_log("\"sub/../sub/../users\" leads out of its directory");
}

#[test]
fn passwords_that_are_slow_to_check_wait_for_each_other_and_nobody_else() {
    if is_stand_in() {
        return;
    }
    const USERS: &str = "slow:$5$rounds=60000$abcdefgh$gruCpC7VkOTspMQTTSAR8mtlO9Upms.fwqE5y16JVM.\n";
    let daemon = Setup::new(CONF).file("users", USERS).start();
    let ask = |password: &str| {
        let mut client = Client::connect(daemon.port(0));
        let credentials = encode(format!("slow:{password}").as_bytes());
        let head = "GET /closed HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Basic";
        client.send(format!("{head} {credentials}\r\n\r\n"));
        client
    };
    // more than may wait: the last of them are refused before the first is checked
    let mut clients: Vec<Client> = (0..30).map(|number| ask(&number.to_string())).collect();
    daemon.wait_log("user \"slow\": 16 passwords are already waiting to be checked: \"limit_req\" here");
    let last = clients.last_mut().expect("thirty");
    assert_eq!(last.response().status, 503);
    // a path that is not cached yet is looked up by another thread
    assert_eq!(get(daemon.port(0), "/a-name-that-is-new").status, 404);
    // the same password again is checked once: it waits for the first one's result
    assert_eq!(ask("0").response().status, 401);
    // clients that leave make room: nothing is checked for them
    drop(clients);
    wait_for("room for another password", || (ask("new").response().status == 401).then_some(()));
}
