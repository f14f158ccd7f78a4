//! Directives reach their setters, and the right errors are reported for those that do not.

use super::*;
use crate::config::directive::{accepted, block, buffers, custom, flag, millis, number, one_of, size, text};
use crate::config::inherit::{own, replace};
use crate::config::{Diagnostics, Inherit, LoadOptions, Setting, keywords, load_text, settings};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Linger {
    Off,
    Always,
}
#[derive(Clone, Copy, Debug, PartialEq)]
enum Satisfy {
    All,
    Any,
}
keywords!(Satisfy { "all" => All, "any" => Any });

keywords!(Linger { "off" => Off, "always" => Always });

settings! {
    struct Http {
        sendfile: Setting<bool> = true,
        connections_max: Inherit<u64>,
        requests_max: Setting<u64> = 1000,
        buffer_bytes: Setting<u64> = 8192,
        output: Setting<(u64, u64)> = (2, 32 * 1024),
        timeout_ms: Setting<u64> = 60_000,
        kind: Setting<Box<str>> = "text/plain".into(),
        satisfy: Setting<Satisfy> = Satisfy::All,
        linger: Setting<Linger> = Linger::Always,
        headers: Vec<String> => replace,
        servers: Vec<Http> => own,
    }
}

static HTTP: Slot<Http, Http, Diagnostics> = Slot {
    name: "core",
    rows: &[
        flag("sendfile", Context::ANY, |c| &mut c.sendfile, "Sends files without copying."),
        number("connections", Context::HTTP, (1, 9), |c| &mut c.connections_max, "Most connections."),
        number("requests", Context::HTTP, (1, 9000), |c| &mut c.requests_max, "Most requests."),
        size("buffer", Context::ANY, |c| &mut c.buffer_bytes, "Bytes of a buffer."),
        buffers("output", Context::ANY, |c| &mut c.output, "Number and size of buffers."),
        millis("timeout", Context::ANY, |c| &mut c.timeout_ms, "How long to wait."),
        text("kind", Context::ANY, |c| &mut c.kind, "The type of a file."),
        one_of("linger", Context::ANY, |c| &mut c.linger, "Whether to wait for the client."),
        one_of("satisfy", Context::ANY, |c| &mut c.satisfy, "Who may pass."),
        custom("add_header", Context::ANY, Arity::between(2, 3), add_header, "Adds a header.")
            .default("none"),
        block("server", Context::HTTP, Arity::exactly(0), server, "A virtual server.")
            .opens(&[(Context::HTTP, Context::SERVER)])
            .inherits(Inherits::Nowhere),
        accepted("buffers", Context::ANY, Arity::exactly(2), Accepted::Buffers, "No effect."),
    ],
    conf: |partial| partial,
    inherits: Inherits::Everywhere,
};

static UPSTREAM: Slot<Http, Http, Diagnostics> = Slot {
    name: "upstream",
    rows: &[custom("server", Context::UPSTREAM, Arity::at_least(1), add_header, "A peer.")],
    conf: |partial| partial,
    inherits: Inherits::Everywhere,
};

fn table() -> Table<Http, Diagnostics> {
    Table::new(vec![&HTTP, &UPSTREAM])
}

fn add_header(conf: &mut Http, _: &mut Diagnostics, node: &Node) -> Result<(), Diagnostic> {
    conf.headers.push(node.arg(0).into());
    Ok(())
}

fn server(conf: &mut Http, cx: &mut Diagnostics, node: &Node) -> Result<(), Diagnostic> {
    let mut server = Http::default();
    table().apply_all(node.children(), Context::SERVER, &mut server, cx);
    conf.servers.push(server);
    Ok(())
}

fn compile(text: &str, context: Context) -> (Http, Vec<String>) {
    let (tree, mut found) = load_text("t.conf", text, &LoadOptions::default());
    let mut http = Http::default();
    table().apply_all(&tree.nodes, context, &mut http, &mut found);
    found.report_needs();
    let line = |found: Diagnostic| match found.help {
        Some(help) => format!("{} | {help}", found.message),
        None => found.message,
    };
    (http, found.0.into_iter().map(line).collect())
}

#[test]
fn values_reach_their_slots() {
    let text = "sendfile ON; connections 9; buffer 8k; timeout '1m 30s'; satisfy any; add_header a b;
                server { sendfile off; add_header c d; } server { } buffers 4 8k;
                output 1 4k; linger off; kind text/html;";
    let (http, found) = compile(text, Context::HTTP);
    assert_eq!(found, [""; 0]);
    assert!(http.sendfile.get() && http.sendfile.is_set());
    assert_eq!(http.connections_max.as_ref(), Some(&9));
    assert_eq!((http.buffer_bytes.get(), http.timeout_ms.get()), (8192, 90_000));
    assert_eq!((http.output.get(), http.linger.get()), ((1, 4096), Linger::Off));
    assert_eq!(&**http.kind.value(), "text/html");
    assert_eq!(http.satisfy.get(), Satisfy::Any);
    assert_eq!(http.headers, ["a"]);
    assert!(!http.servers[0].sendfile.get());
    assert_eq!(http.servers[0].headers, ["c"]);
    assert!(!http.servers[1].sendfile.is_set());
}

#[test]
fn each_error_has_nginx_words_and_help() {
    let cases = [
        ("sendfil on;", "unknown directive \"sendfil\" | did you mean \"sendfile\"?"),
        ("wibble;", "unknown directive \"wibble\""),
        (
            "xslt_stylesheet;",
            "the \"xslt_stylesheet\" directive is not available yet \
             | responses are passed on unchanged: remove this line",
        ),
        (
            "sendfile maybe;",
            "invalid value \"maybe\" in \"sendfile\" directive, it must be \"on\" or \"off\"",
        ),
        ("sendfile on; sendfile off;", "\"sendfile\" directive is duplicate"),
        ("sendfile on {}", "directive \"sendfile\" is not terminated by \";\" | it has no block"),
        ("server;", "directive \"server\" has no opening \"{\""),
        (
            "server a {}",
            "invalid number of arguments in \"server\" directive | \"server\" takes no arguments",
        ),
        (
            "add_header a;",
            "invalid number of arguments in \"add_header\" directive | \"add_header\" takes 2 to 3 arguments",
        ),
        (
            "buffer 1k\n timeout 1s;",
            "invalid number of arguments in \"buffer\" directive | is \";\" missing before \"timeout\"?",
        ),
        ("connections x;", "\"connections\" directive invalid number"),
        ("connections 10;", "value must be between 1 and 9 | \"connections\" is a number from 1 to 9"),
        ("satisfy al;", "invalid value \"al\" | did you mean \"all\"?"),
        ("linger alway;", "invalid value \"alway\" | did you mean \"always\"?"),
        ("linger on;", "invalid value \"on\" | one of: off, always"),
        ("linger off; linger off;", "\"linger\" directive is duplicate"),
        (
            "output 0 4k;",
            "\"output\" directive invalid value | a number of buffers, and the size of one: 8 4k",
        ),
        ("output 1 0;", "\"output\" directive invalid value"),
        ("satisfy nobody;", "invalid value \"nobody\" | one of: all, any"),
        (
            "timeout 1q;",
            "\"timeout\" directive invalid value \
             | a time is seconds, or numbers with units: 500ms, 30s, 1h 30m",
        ),
        (
            "buffers 4 q;",
            "\"buffers\" directive invalid value \
             | a size is a number of bytes, or ends in k, m or g: 8k, 1m",
        ),
        (
            "server { connections 1; }",
            "\"connections\" directive is not allowed here | \"connections\" belongs in http",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(compile(text, Context::HTTP).1, [expected], "{text}");
    }
}

#[test]
fn a_default_is_told_as_the_configuration_would_say_it() {
    let table = table();
    let default = |name: &str| table.find(name, Context::HTTP).and_then(|row| row.default.as_deref());
    for (name, expected) in [
        ("sendfile", Some("on")),
        ("connections", None),
        ("requests", Some("1000")),
        ("buffer", Some("8k")),
        ("output", Some("2 32k")),
        ("timeout", Some("60s")),
        ("kind", Some("text/plain")),
        ("satisfy", Some("all")),
        ("linger", Some("always")),
        ("add_header", Some("none")),
        ("server", None),
        ("buffers", None),
    ] {
        assert_eq!(default(name), expected, "{name}");
    }
}

#[test]
fn a_row_inherits_like_its_module_unless_it_says_otherwise() {
    let table = table();
    let row = |name: &str| table.find(name, Context::HTTP).expect("it is there");
    assert_eq!(row("timeout").inherits, Inherits::Everywhere);
    assert_eq!(row("server").inherits, Inherits::Nowhere);
    assert_eq!(row("server").inside(Context::HTTP), Some(Context::SERVER));
    assert_eq!(row("server").inside(Context::SERVER), None, "a server within a server is none");
    assert_eq!(row("timeout").inside(Context::HTTP), None);
}

#[test]
fn all_errors_are_found_at_once() {
    let (_, found) = compile("a; server { b; sendfile x; } c; sendfile on", Context::HTTP);
    assert_eq!(found.len(), 5);
}

#[test]
fn a_name_means_what_its_context_says() {
    let (upstream, found) = compile("server 127.0.0.1;", Context::UPSTREAM);
    assert_eq!(found, [""; 0]);
    assert_eq!(upstream.headers, ["127.0.0.1"]);
    let (_, found) = compile("server 127.0.0.1;", Context::LOCATION);
    assert_eq!(found, ["\"server\" directive is not allowed here | \"server\" belongs in http or upstream"]);
}
