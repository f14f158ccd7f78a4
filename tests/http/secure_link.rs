//! `secure_link`: links with a hash and an expiry, and those of the older form; each result here is also
//! nginx 1.22's.

use crate::support::{Daemon, Setup, get};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /hash {
            secure_link $arg_h,$arg_e;
            secure_link_md5 "$secure_link_expires$uri SECRET";
            return 200 "[$secure_link] [$secure_link_expires]";
        }
        location /endless {
            secure_link $arg_h;
            secure_link_md5 "/endless SECRET";
            return 200 "[$secure_link] [$secure_link_expires]";
        }
        location /p/ { secure_link_secret word; return 200 "[$secure_link]"; }
        location /plain { return 200 "[$secure_link]"; }
    }
}
"#;

#[test]
fn links_are_right_over_or_wrong() {
    let daemon = Daemon::start(CONF);
    let port = daemon.port(0);
    for (path, expected) in [
        // printf '2147483647/hash SECRET' | openssl md5 -binary | base64 | tr +/ -_ | tr -d =
        ("/hash?h=LATER&e=2147483647", "[1] [2147483647]"),
        ("/hash?h=PAST&e=1000", "[0] [1000]"),
        ("/hash?h=LATER&e=2147483646", "[] [2147483646]"),
        ("/hash?h=LATER&e=0", "[] []"),
        ("/hash?h=LATER&e=x", "[] []"),
        ("/hash?h=LATER", "[] []"),
        ("/hash?h=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA&e=2147483647", "[] [2147483647]"),
        ("/endless?h=ENDLESS", "[1] []"),
        ("/endless?h=ENDLES", "[] []"),
        ("/endless", "[] []"),
        ("/p/SECRETHASH/a/link?x", "[a/link?x]"),
        ("/p/SECRETHASH/a/link", "[]"),
        ("/p/SECRETHASH/", "[]"),
        ("/p/0/a/link?x", "[]"),
        ("/plain?h=ENDLESS", "[]"),
    ] {
        let mut path = path.to_owned();
        for (name, hash) in HASHES {
            path = path.replace(name, hash);
        }
        assert_eq!(get(port, &path).text(), expected, "{path}");
    }
}

const HASHES: [(&str, &str); 4] = [
    ("LATER", "q59_eNBAP6P_LSlvZNIGRA"),
    ("PAST", "GuWqxmmKibLZ0quR-7jy-Q"),
    ("ENDLESS", "296Exyg5RBjQ5oYtO0R_uw"),
    ("SECRETHASH", "885662d5fe6b1857664890168a1b5d76"),
];

#[test]
fn the_two_forms_are_not_mixed() {
    let conf = "http { server { listen 127.0.0.1:%%PORT_0%%; location / {
        secure_link $arg_h; secure_link_secret word; } } }";
    let exit = Setup::new(conf).try_start().err().expect("it does not start");
    assert!(exit.stderr.contains("cannot be mixed"), "{exit:?}");
}
