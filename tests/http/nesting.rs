//! Variables whose values lead back to themselves: nginx's line in the log and an empty value, and the worker
//! continues.

use crate::support::daemon::is_stand_in;
use crate::support::{Daemon, Setup, get};

const CONF: &str = r#"
worker_processes 1;
http {
    map $uri $a { default $b; }
    map $uri $b { default $a; }
    map $uri $to_root { default $document_root; }
    map $own $own { default "x$own"; }
    map $to $fro { default "<$to>"; }
    map $fro $to { default "($fro$fro)"; }
    map $own_volatile $own_volatile { volatile; default "$own_volatile$own_volatile"; }
    map $limit_rate $rate { default $limit_rate; }
    geo $geo $geo { default 1; }
    split_clients $split $split { * s; }
    log_format a "$uri [$a]";
    access_log %%DIR%%/access.log a;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%/html;
        location /ok { return 200 ok; }
        location /map { return 200 "[$a]"; }
        location /set { set $c "$a$b"; return 200 "[$c]"; }
        location /own { return 200 "[$own]"; }
        location /to { return 200 "[$to]"; }
        location /volatile { return 200 "[$own_volatile]"; }
        location /geo { return 200 "[$geo]"; }
        location /split { return 200 "[$split]"; }
        location /link { secure_link $secure_link; secure_link_md5 $secure_link_expires; return 200 "[$secure_link]"; }
        location /expires { secure_link $secure_link_expires; secure_link_md5 x; return 200 "[$secure_link_expires]"; }
        location /field { add_header X-A "[$a]"; return 200 ""; }
        location /rate { limit_rate $limit_rate; }
        location /mapped-rate { limit_rate $rate; }
        location /if { if ($a) { return 200 yes; } return 200 no; }
        location /root { root $to_root; }
        location /file { root $request_filename; }
        location /twice { root $request_filename$request_filename; }
        location /try { root $request_filename; try_files $uri =404; }
    }
}
"#;

#[test]
fn variables_that_lead_back_to_themselves_have_no_value() {
    let files = ["rate", "mapped-rate"];
    let setup =
        files.iter().fold(Setup::new(CONF), |setup, name| setup.file(&format!("html/{name}"), "file"));
    let daemon = setup.start();
    let worker = daemon.worker();
    let cases = [
        ("map", "[]", "[ab]"),
        ("set", "[]", "[ab]"),
        ("geo", "[1]", "geo"),
        ("split", "[s]", "split"),
        ("link", "[]", "secure_link(_expires)?"),
        ("expires", "[]", "secure_link_expires"),
        ("field", "", "[ab]"),
        ("rate", "file", "limit_rate"),
        ("mapped-rate", "file", "limit_rate|rate"),
        ("if", "no", "[ab]"),
    ];
    for (path, expected, name) in cases {
        let name = if is_stand_in() { "[a-z_]*" } else { name }; // nginx names the variable at the limit's depth
        let before = daemon.log_count("cycle while evaluating");
        let response = get(daemon.port(0), &format!("/{path}"));
        assert_eq!((response.status, &*response.text()), (200, expected), "{path}");
        if path == "field" {
            assert_eq!(response.header("x-a"), Some("[]"));
        }
        daemon.wait_log(&format!("cycle while evaluating variable \"({name})\".* \"GET /{path} "));
        assert!(daemon.log_count("cycle while evaluating") > before, "{path}");
    }
    let own = get(daemon.port(0), "/own").text();
    assert!(own.starts_with("[xxxx") && own.len() < 110, "{own}");
    for path in ["root", "file", "try"] {
        assert_eq!(get(daemon.port(0), &format!("/{path}")).status, 404, "{path}");
    }
    if !is_stand_in() {
        // there are 2^100 paths, and nginx tries each
        assert_eq!(get(daemon.port(0), "/volatile").text(), "[]");
        assert_eq!(get(daemon.port(0), "/twice").status, 404);
        let to = get(daemon.port(0), "/to").text();
        assert!(to.len() < 4000, "two references on each level do not double the value: {} bytes", to.len());
    }
    assert_eq!(get(daemon.port(0), "/ok").text(), "ok");
    daemon.wait_line("access.log", "^/ok \\[\\]");
    assert_eq!(daemon.worker(), worker, "the worker has lived through all of it");
}

#[test]
fn a_long_way_that_ends_has_its_value() {
    let maps: String = (0..90).map(|n| format!("map $uri $m{n} {{ default $m{}; }}\n", n + 1)).collect();
    let conf = format!(
        "http {{ map $uri $m90 {{ default end; }} {maps} server {{ listen 127.0.0.1:%%PORT_0%%;
            location / {{ return 200 $m0; }} }} }}"
    );
    let daemon = Daemon::start(&conf);
    assert_eq!(get(daemon.port(0), "/").text(), "end");
    assert_eq!(daemon.log_count("cycle while evaluating"), 0);
}

/// nginx completes them with its prefix; an empty one must not open `/`.
#[test]
fn a_root_of_variables_that_is_not_absolute_lies_below_the_prefix() {
    let conf = "http { server { listen 127.0.0.1:%%PORT_0%%;
        location / { root $arg_root; }
        location /alias/ { alias $arg_root; }
        location /name { set $folder html; root $folder; return 200 \"$document_root $request_filename\"; } } }";
    let daemon = Setup::new(conf).file("html/a", "a").file("b", "b").start();
    let folder = daemon.folder().display().to_string();
    assert_eq!(get(daemon.port(0), "/a?root=html").text(), "a");
    assert_eq!(get(daemon.port(0), "/b").text(), "b");
    assert_eq!(get(daemon.port(0), &format!("/a?root={folder}/html")).text(), "a");
    assert_eq!(get(daemon.port(0), "/alias/a?root=html/").text(), "a");
    assert_eq!(get(daemon.port(0), &format!("{folder}/b")).status, 404, "below the prefix, not below /");
    assert_eq!(get(daemon.port(0), "/name").text(), format!("{folder}/html {folder}/html/name"));
}

#[test]
fn a_root_is_not_made_from_itself() {
    for (directive, name) in [
        ("root $document_root/x;", "document_root"),
        ("root /a${realpath_root};", "realpath_root"),
        ("location /a/ { alias /x$document_root; }", "document_root"),
        ("location /a/ { alias $realpath_root; }", "realpath_root"),
    ] {
        let conf = format!("http {{ server {{ listen 127.0.0.1:%%PORT_0%%; {directive} }} }}");
        let told = Setup::new(&conf).run(&["-t"]);
        let kind = if directive.contains("alias") { "alias" } else { "root" };
        let wanted = format!("the ${name} variable cannot be used in the \"{kind}\" directive in ");
        let text = String::from_utf8_lossy(&told.stderr);
        assert!(!told.status.success() && text.contains(&wanted), "{text}");
    }
}
