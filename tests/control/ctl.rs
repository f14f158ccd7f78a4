//! `pronghorn ctl`.

use super::{ctl, servers};
use crate::support::daemon::is_stand_in;
use crate::support::{Origin, Setup, get};

const CONF: &str = r#"
worker_processes 1;
control unix:%%DIR%%/ctl;
http {
    upstream u { zone u 64k; server %%ORIGIN%%; }
    server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://u; } }
}
"#;

#[test]
fn each_command() {
    if is_stand_in() {
        return;
    }
    let (one, two) = (Origin::saying("one"), Origin::saying("two"));
    let daemon = Setup::new(CONF).set("ORIGIN", one.address()).level("notice").start();
    let (first, second) = (one.address(), two.address());
    let run = |words: &[&str]| {
        let (code, out, err) = ctl(&daemon, words);
        assert_eq!(code, 0, "{words:?} {out} {err}");
        out
    };
    assert_eq!(run(&["diff"]), "nothing is different from the configuration\n");
    assert_eq!(run(&["add", "u", &second, "weight=2"]), format!("server \"{second}\" is added\n"));
    let list = run(&["list", "u"]);
    assert!(list.starts_with("UPSTREAM  ID  SERVER") && list.contains(&second), "{list}");
    run(&["disable", "u", &first]);
    assert_eq!(get(daemon.port(0), "/").text(), "two");
    assert!(run(&["list"]).contains("down"));
    run(&["enable", "u", &first]);
    run(&["drain", "u", "1"]);
    assert!(run(&["list"]).contains("draining"));
    run(&["weigh", "u", &second, "9"]);
    run(&["set", "u", &second, "max_conns=5", "drain=off"]);
    let diff = run(&["diff"]);
    assert!(diff.contains(&format!("+ upstream u: server {second} weight=9 max_conns=5;")), "{diff}");
    assert!(diff.contains(&format!("~ upstream u: server {first};")), "{diff}");
    let all: serde_json::Value = serde_json::from_str(&run(&["--json", "list"])).expect("JSON");
    assert_eq!(all["u"]["peers"][1]["weight"], 9);
    run(&["remove", "u", &second]);
    assert_eq!(servers(&daemon, "u"), [first]);
    assert!(run(&["processes"]).contains("worker process"));
    assert!(run(&["status"]).contains("\"upstreams\""));
    run(&["reload"]);
    assert!(run(&["help"]).contains("Commands:"));
}

#[test]
fn a_failure_says_why_and_has_its_exit_code() {
    if is_stand_in() {
        return;
    }
    let one = Origin::saying("one");
    let daemon = Setup::new(CONF).set("ORIGIN", one.address()).level("notice").start();
    for (words, code, text) in [
        (&["remove", "u", "127.0.0.1:1"][..], 1, "upstream \"u\" has no server \"127.0.0.1:1\""),
        (&["list", "none"], 1, "upstream not found"),
        (&["add", "u", "name.test"], 1, "is a name"),
        (&["add", "u", "127.0.0.1:1", "color=red"], 2, "unknown parameter \"color=red\""),
        (&["weigh", "u", "0", "x"], 2, "invalid weight"),
        (&["frobnicate"], 2, "unknown command"),
        (&["--socket", "/nowhere/ctl", "list"], 1, "is the daemon running?"),
    ] {
        let (found, out, err) = ctl(&daemon, words);
        assert!(found == code && err.contains(text) && out.is_empty(), "{words:?}: {found} {out} {err}");
    }
    daemon.rewrite(|text| text.replace("return", "retrun").replace("proxy_pass", "proxy_pas"));
    let (code, _, err) = ctl(&daemon, &["reload"]);
    assert!(code == 1 && err.contains("proxy_pas"), "{code} {err}");
}
