//! Values, captures and definitions of variables, for a scope that is no request.

use super::regex::Pattern;
use super::registry::{Target, by_name};
use super::toy::{Cx, Script, Session};
use super::{Scope, nested};
use crate::config::{Span, Word};

fn text(script: &Script, session: &mut Session) -> String {
    String::from_utf8(script.to_vec(session)).expect("text")
}

fn word(text: &str) -> Word {
    Word { text: text.into(), span: Span::default(), quoted: false }
}

/// The value of a text in a configuration, for a client.
fn value(config: &str, peer: &str, of: &str) -> String {
    let mut cx = Cx::default();
    assert!(cx.read(config).is_empty(), "{config}");
    let script = cx.script(of);
    let (mut session, found) = cx.finish(peer);
    assert!(found.is_empty(), "{found:?}");
    let first = text(&script, &mut session);
    assert_eq!(text(&script, &mut session), first, "what is kept is what was found");
    first
}

#[test]
fn a_value_is_its_text_with_the_variables_in_it() {
    let cases = [
        ("", ""),
        ("text", "text"),
        ("<$remote_addr>", "<192.0.2.1>"),
        ("${protocol}s from $REMOTE_ADDR", "TCPs from 192.0.2.1"),
        ("$twice_ab,$twice_", "abab,"),
        ("$1$9", ""),
    ];
    for (of, expected) in cases {
        assert_eq!(value("", "192.0.2.1:5", of), expected, "{of}");
    }
}

#[test]
fn what_is_no_variable_is_refused() {
    for hostile in ["$", "a$ b", "${remote_addr", "${}", "$-"] {
        let mut cx = Cx::default();
        assert!(Script::compile_text(hostile, Span::default(), &mut cx).is_err(), "{hostile}");
    }
    let mut cx = Cx::default();
    let _ = cx.script("$remote_adr $protocol");
    assert_eq!(cx.finish("unix:").1, ["error: unknown \"remote_adr\" variable"]);
}

#[test]
fn groups_are_kept_by_number_and_by_name() {
    let mut cx = Cx::default();
    let pattern = Pattern::new("^/(?<dir>[a-z]+)/([0-9]+)", false, Span::default()).expect("valid");
    let regex = pattern.declare(&mut cx.registry);
    let script = cx.script("$1-$2-$3-$dir");
    let (mut session, found) = cx.finish("unix:");
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(text(&script, &mut session), "---");
    assert!(regex.find(&mut session, b"/abc/12/x").is_some());
    assert_eq!(text(&script, &mut session), "abc-12--abc");
    assert!(regex.find(&mut session, b"/ABC/12/x").is_none());
    assert_eq!(text(&script, &mut session), "abc-12--abc", "no match changes nothing");
    assert!(!session.values().gave_up);
}

#[test]
fn a_pattern_that_gives_up_is_noted_in_the_scope() {
    let mut cx = Cx::default();
    let pattern = Pattern::new(r"^((a+)+(?!c))+\1$", false, Span::default()).expect("valid");
    let regex = pattern.declare(&mut cx.registry);
    let (mut session, _) = cx.finish("unix:");
    let hostile = "a".repeat(8000) + "b";
    let found = regex.find(&mut session, hostile.as_bytes());
    assert!(found.is_none() && session.values().gave_up);
}

#[test]
fn a_variable_can_be_set_or_says_that_it_was_not() {
    let mut cx = Cx::default();
    let kept = cx.registry.set_target(&word("$mine")).expect("a name");
    let own = cx.registry.set_target(&word("$bytes")).expect("a module's that may change");
    assert!(matches!((kept, own), (Target::Slot(_), Target::By(_))));
    for (name, why) in [("mine", "invalid variable name"), ("$", "invalid"), ("$protocol", "the duplicate")] {
        let error = cx.registry.set_target(&word(name)).expect_err(name);
        assert!(error.message.starts_with(why), "{}", error.message);
    }
    let script = cx.script("$mine|$bytes");
    let (mut session, _) = cx.finish("unix:");
    assert_eq!(text(&script, &mut session), "|");
    assert_eq!(text(&script, &mut session), "|");
    assert_eq!(*session.early.borrow(), ["mine"], "it warns once");
    kept.put(&mut session, b"a".to_vec());
    own.put(&mut session, b"b".to_vec());
    assert_eq!(text(&script, &mut session), "a|b");
    assert_eq!(session.bytes, b"b");
}

#[test]
fn a_map_finds_exact_keys_then_wildcards_then_expressions() {
    let config = r#"map $twice_a $x { default none; aa "$protocol"; }
        map $remote_addr $y { hostnames; default "[$x]"; 192.0.2.1 exact; ~^(?<net>10\.)(.*) "$net and $2"; ~* never; }
        map $remote_addr $z { volatile; ~. ""; }"#;
    for (peer, expected) in
        [("192.0.2.1:5", "exact"), ("10.0.0.9:5", "10. and 0.0.9"), ("9.9.9.9:5", "[TCP]")]
    {
        assert_eq!(value(&config.replace(" ~* never;", ""), peer, "$y$z"), expected, "{peer}");
    }
}

#[test]
fn a_geo_knows_networks_and_ranges_and_no_proxies() {
    let networks = "geo $x { default far; 10.0.0.0/8 near; 10.1.0.0/16 here; 2001:db8::/32 six; }";
    let ranges = "geo $x { ranges; default far; 10.0.0.0-10.0.0.255 near; }";
    for (config, peer, expected) in [
        (networks, "10.1.2.3:5", "here"),
        (networks, "10.2.2.3:5", "near"),
        (networks, "[2001:db8::1]:5", "six"),
        (networks, "unix:", "far"),
        (ranges, "10.0.0.7:5", "near"),
        (ranges, "10.0.1.7:5", "far"),
        ("geo $protocol $x { default no; 10.0.0.0/8 yes; }", "10.0.0.1:5", "no"),
    ] {
        assert_eq!(value(config, peer, "$x"), expected, "{config} {peer}");
    }
    let mut cx = Cx::default();
    cx.read("geo $x { proxy 10.0.0.0/8; }");
    assert_eq!(cx.finish("unix:").1, ["error: invalid network \"proxy\""], "only HTTP has a field for it");
}

#[test]
fn a_split_gives_each_hash_its_share() {
    let config = "split_clients $remote_addr $x { 0.01% rare; * often; }";
    assert_eq!(value(config, "192.0.2.1:5", "$x"), "often");
    assert_eq!(
        value("split_clients $bytes $x { 50% low; }", "192.0.2.1:5", "$x"),
        "low",
        "the hash of nothing is 0"
    );
}

#[test]
fn variables_that_lead_back_to_themselves_end() {
    let config = "map $b $a { default \"<$b>\"; } map $a $b { default $a; }";
    let got = value(config, "unix:", "$a");
    assert!(got.len() < 2000, "{} bytes", got.len());
    let (mut session, _) = Cx::default().finish("unix:");
    fn deeper(session: &mut Session, depth: u32) -> u32 {
        nested(session, "x", |session| deeper(session, depth + 1)).max(depth)
    }
    assert_eq!(deeper(&mut session, 0), 100);
    assert_eq!(nested(&mut session, "x", |_| 1), 1, "and the scope is as before");
}

#[test]
fn a_page_asks_by_name() {
    let mut cx = Cx::default();
    let _ = cx.script("$protocol");
    let (mut session, _) = cx.finish("192.0.2.1:5");
    let mut get = |name: &str| {
        let mut out = Vec::new();
        by_name(&mut session, name, &mut out).then(|| String::from_utf8(out).expect("text"))
    };
    assert_eq!(get("Protocol").as_deref(), Some("TCP"));
    assert_eq!(get("twice_Z").as_deref(), Some("zz"), "no configuration names it");
    assert_eq!(get("nothing"), None);
}
