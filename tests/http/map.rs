//! `map`: exact keys, host names, expressions, files, and values made of variables.

use crate::support::{Daemon, Setup, get};

const CONF: &str = r#"
http {
    map $arg_k $plain {
        default   other;
        One       first;
        "two w"   second;
        \default  word;
        ""        empty;
        \*.x      star;
    }
    map $arg_h $host_name {
        hostnames;
        default            none;
        exact.org          exact;
        .example.com       dot;
        *.deep.example.com deeper;
        www.example.*      tail;
        ~^www\.            regex;
    }
    map $arg_k $by_regex {
        ~^(?<first>\d+)-(?<second>\d+)$ "$second-$first";
        ~*^ABC(.*)$                     "caseless:$1";
        ~^abcd                          never;
        "~^a b"                         spaced;
        default                         "$plain/$arg_k";
    }
    map $arg_k $from_file { include keys*.map; default unknown; }
    map $arg_k$arg_h $joined { ab yes; }
    map $arg_k $kept { ~. "$arg_v"; }
    map $arg_k $fresh { volatile; ~. "$arg_v"; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /plain { return 200 "$plain"; }
        location /host { return 200 "$host_name"; }
        location /regex { return 200 "$by_regex $first"; }
        location /file { return 200 "$from_file"; }
        location /joined { return 200 "[$joined]"; }
        location /kept { set $a $kept$fresh; set $args "k=1&v=new"; return 200 "$a $kept $fresh"; }
        location /set { set $plain mine; return 200 "$plain"; }
    }
}
"#;

fn start() -> Daemon {
    Setup::new(CONF).file("keys1.map", "one 1;\n# no\ntwo 2;\n").file("keys2.map", "~^thr 3;\n").start()
}

#[test]
fn every_key_finds_its_value() {
    let daemon = start();
    for (path, expected) in [
        ("/plain?k=one", "first"),
        ("/plain?k=ONE", "first"),
        ("/plain?k=", "empty"),
        ("/plain", "empty"),
        ("/plain?k=default", "word"),
        ("/plain?k=*.x", "star"),
        ("/plain?k=a.x", "other"),
        ("/host?h=exact.org", "exact"),
        ("/host?h=EXAMPLE.com.", "dot"),
        ("/host?h=a.example.com", "dot"),
        ("/host?h=a.b.example.com", "dot"),
        ("/host?h=a.deep.example.com", "deeper"),
        ("/host?h=www.example.org", "tail"),
        ("/host?h=www.other.org", "regex"),
        ("/host?h=other.org", "none"),
        ("/host", "none"),
        ("/regex?k=12-34", "34-12 12"),
        ("/regex?k=abcdef", "caseless:def "),
        ("/regex?k=one", "first/one "),
        ("/file?k=two", "2"),
        ("/file?k=three", "3"),
        ("/file?k=four", "unknown"),
        ("/joined?k=a&h=b", "[yes]"),
        ("/joined?k=b&h=a", "[]"),
        ("/kept?k=1&v=old", "oldold old new"),
        ("/set?k=one", "mine"),
    ] {
        assert_eq!(get(daemon.port(0), path).text(), expected, "{path}");
    }
    let long = "x".repeat(7000);
    assert_eq!(get(daemon.port(0), &format!("/plain?k={long}")).text(), "other");
}

#[test]
fn wrong_entries_are_named() {
    let cases = [
        ("map $arg_a $x { a b c; }", "invalid number of the map parameters"),
        ("map $arg_a $x { a 1; a 2; }", "conflicting parameter \"a\""),
        ("map $arg_a $x { default 1; default 2; }", "duplicate default map parameter"),
        ("map $arg_a $x { ~( 1; }", "("),
        ("map $arg_a x { a 1; }", "invalid variable name \"x\""),
        ("map $arg_a $uri { a 1; }", "the duplicate \"uri\" variable"),
        ("map $nobody $x { a 1; }", "unknown \"nobody\" variable"),
    ];
    for (block, expected) in cases {
        let conf = format!("http {{ {block} server {{ listen 127.0.0.1:%%PORT_0%%; }} }}");
        let Err(exit) = Setup::new(&conf).try_start() else { panic!("{block}: it started") };
        assert!(exit.stderr.contains(expected), "{block}: {}", exit.stderr);
    }
}
