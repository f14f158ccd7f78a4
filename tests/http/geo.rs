//! Variables derived from addresses and shares: `geo` and `split_clients`.

use crate::support::{Daemon, Setup, fetch, get};

const CONF: &str = r#"
http {
    geo $client { default far; 127.0.0.0/8 near; 127.0.0.1 here; delete 127.0.0.1; }
    geo $arg_ip $by_argument { 10.0.0.0/8 ten; 10.1.0.0/16 ten-one; 2001:db8::/32 six; 255.255.255.255 none; include more.conf; include parts/*.conf; }
    geo $arg_ip $range { ranges; default other; 10.0.0.0-10.0.0.255 low; 10.0.0.7-10.0.0.7 seven; }
    geo $behind { proxy 127.0.0.0/8; default direct; 192.0.2.0/24 told; }
    geo $deep { proxy 127.0.0.0/8; proxy 192.0.2.9; proxy_recursive; default direct; 192.0.2.0/24 told; }
    geo $dollar { default "$"; }
    split_clients $arg_key $half { 50% a; * b; }
    split_clients "$arg_key-salt" $most { 0.5% few; 99.5% most; }
    split_clients $arg_key $some { 10% ten; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /geo { return 200 "$client $by_argument $range"; }
        location /proxy { return 200 "$behind $deep $dollar"; }
        location /split { return 200 "$half $most $some"; }
    }
}
"#;

fn start() -> Daemon {
    Setup::new(CONF)
        .file("more.conf", "172.16.0.0/12 included;\n")
        .file("parts/a.conf", "192.0.2.0/25 a;\n")
        .file("parts/b.conf", "192.0.2.128/25 b;\n")
        .start()
}

#[test]
fn addresses_are_found_in_networks_and_ranges() {
    let daemon = start();
    for (ip, expected) in [
        ("10.2.0.1", "near ten other"),
        ("10.1.0.1", "near ten-one other"),
        ("172.31.255.255", "near included other"),
        ("172.32.0.0", "near  other"),
        ("192.0.2.1", "near a other"),
        ("192.0.2.129", "near b other"),
        ("2001:db8::1", "near six other"),
        ("::ffff:10.1.0.1", "near ten-one other"),
        ("10.0.0.6", "near ten low"),
        ("10.0.0.7", "near ten seven"),
        ("10.0.0.256", "near none other"),
        ("nonsense", "near none other"),
        ("", "near none other"),
    ] {
        assert_eq!(get(daemon.port(0), &format!("/geo?ip={ip}")).text(), expected, "{ip}");
    }
    assert_eq!(get(daemon.port(0), "/geo").text(), "near none other");
}

/// As nginx 1.22 decides.
#[test]
fn ranges_come_before_everything_that_is_looked_up() {
    let conf = |entries: &str| {
        format!("http {{ geo $x {{ {entries} }} server {{ listen 127.0.0.1:%%PORT_0%%; return 200 $x; }} }}")
    };
    let message = "the \"ranges\" directive must be the first directive inside \"geo\" block";
    for entries in ["default a; ranges; 10.0.0.0-10.0.0.9 b;", "10.0.0.0/8 b; ranges;"] {
        let output = Setup::new(&conf(entries)).run(&["-t"]);
        assert!(!output.status.success(), "{entries}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(message), "{entries}");
    }
    for entries in [
        "volatile; ranges; default a;",
        "ranges; default a; ranges;",
        "ranges; default b; 127.0.0.0-127.0.0.9 a; ranges;",
    ] {
        let daemon = Setup::new(&conf(entries)).start();
        assert_eq!(get(daemon.port(0), "/").text(), "a", "{entries}");
    }
}

#[test]
fn a_trusted_proxy_tells_the_client() {
    let daemon = start();
    for (forwarded, expected) in [
        ("192.0.2.1", "told told $"),
        ("192.0.2.1, 10.0.0.1", "direct direct $"),
        ("10.0.0.1, 192.0.2.9", "told direct $"),
        ("192.0.2.1, 127.0.0.1", "direct told $"),
        ("nonsense", "direct direct $"),
        ("", "direct direct $"),
    ] {
        let request = format!(
            "GET /proxy HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {forwarded}\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(fetch(daemon.port(0), &request).text(), expected, "{forwarded}");
    }
}

#[test]
fn clients_are_divided_as_nginx_divides_them() {
    let daemon = start();
    let of = |key: &str| get(daemon.port(0), &format!("/split?key={key}")).text();
    // nginx 1.22's results
    for (key, expected) in [
        ("", "a most ten"),
        ("1", "a most "),
        ("3", "b most "),
        ("abc", "a most ten"),
        ("abcd", "a most "),
        ("127.0.0.1", "b most "),
        ("user-123", "b most "),
        ("79", "b few "),
        ("181", "a few "),
    ] {
        assert_eq!(of(key), expected, "{key}");
    }
    let count = (0..200).filter(|n| of(&n.to_string()).starts_with("a ")).count();
    assert!((70..130).contains(&count), "{count} of 200 are not about a half");
}

#[test]
fn what_is_wrong_is_said_in_nginx_s_words() {
    let cases = [
        ("geo $uri { }", "the duplicate \"uri\" variable"),
        ("geo remote $x { }", "invalid variable name \"remote\""),
        ("geo $x { 10.0.0.0/8; }", "invalid number of the geo parameters"),
        ("geo $x { 10.0.0/8 a; }", "invalid network \"10.0.0/8\""),
        ("geo $x { ranges; 10.0.0.9-10.0.0.1 a; }", "invalid range \"10.0.0.9-10.0.0.1\""),
        (
            "geo $x { 10.0.0.0/8 a; ranges; }",
            "the \"ranges\" directive must be the first directive inside \"geo\" block",
        ),
        (
            "geo $x { ranges; 10.0.0.1-10.0.0.5 a; 10.0.0.3-10.0.0.9 b; }",
            "range \"10.0.0.3-10.0.0.9\" overlaps",
        ),
        ("split_clients $arg_a $x { 60% a; 50% b; }", "percent total is greater than 100%"),
        ("split_clients $arg_a $x { ten a; }", "invalid percent value \"ten\""),
        ("split_clients $arg_a x { * a; }", "invalid variable name \"x\""),
    ];
    for (block, expected) in cases {
        let conf = format!("http {{ {block} server {{ listen 127.0.0.1:%%PORT_0%%; }} }}");
        let Err(exit) = Setup::new(&conf).try_start() else { panic!("{block}: it started") };
        assert!(exit.stderr.contains(expected), "{block}: {}", exit.stderr);
    }
}
