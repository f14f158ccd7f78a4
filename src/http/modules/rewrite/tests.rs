//! The parsing of conditions: what nginx accepts, and its messages for what it does not.

use std::path::Path;

use crate::config::{Diagnostics, load};
use crate::http::CompileOptions;
use crate::http::compile;
use crate::log::Logger;

fn findings(block: &str) -> Diagnostics {
    let text = format!("http {{ server {{ listen 127.0.0.1:1; location / {{ {block} }} }} }}");
    findings_of("test.conf", &text)
}

fn findings_of(name: &str, text: &str) -> Diagnostics {
    let (tree, mut out) = load::load_text(name, text, &load::LoadOptions::default());
    let options = CompileOptions {
        prefix: Path::new("/").into(),
        folder: Path::new("/").into(),
        error_log: Logger::none(),
        names: Default::default(),
        test_only: true,
    };
    compile(&tree.nodes[0], &options, &mut out);
    out
}

#[test]
fn conditions_are_read_as_nginx_reads_them() {
    for condition in [
        "($arg_a)",
        "( $arg_a )",
        "($arg_a = b)",
        "($arg_a = \"\")",
        "( $arg_a != b )",
        "($arg_a ~ ^x)",
        "($arg_a !~* \"a b\")",
        "(-f /etc/passwd)",
        "(!-d $document_root/x)",
    ] {
        let out = findings(&format!("if {condition} {{ return 204; }}"));
        assert!(out.0.is_empty(), "{condition}: {:?}", out.0);
    }
}

#[test]
fn conditions_are_read_in_the_other_spelling_too() {
    for condition in [
        r#""($arg_a)""#,
        r#"["(", "$arg_a", ")"]"#,
        r#"["($arg_a", "=", "b)"]"#,
        r#"["($arg_a", "~*", "a b", ")"]"#,
        r#"["($arg_a", "=", "", ")"]"#,
        r#"["(!-f", "/x)"]"#,
    ] {
        let text = format!(
            "[http.server]\nlisten = \"127.0.0.1:1\"\n[http.server.if]\nargs = {condition}\nreturn = 204\n"
        );
        let out = findings_of("test.toml", &text);
        assert!(out.0.is_empty(), "{condition}: {:?}", out.0);
    }
}

#[test]
fn wrong_conditions_have_nginx_s_words() {
    let cases = [
        ("$arg_a", "invalid condition \"$arg_a\""),
        ("($arg_a", "invalid condition \"$arg_a\""),
        ("(arg_a)", "invalid condition \"arg_a\""),
        ("($arg_a b)", "invalid condition \"$arg_a\""),
        ("($arg_a == b)", "unexpected \"==\" in condition"),
        ("(-f)", "invalid condition \"-f\""),
        ("(-g /x)", "invalid condition \"-g\""),
        ("(-f a b)", "invalid condition \"-f\""),
        ("()", "invalid condition"),
        ("($nobody_knows_it)", "unknown \"nobody_knows_it\" variable"),
    ];
    for (condition, expected) in cases {
        let out = findings(&format!("if {condition} {{ return 204; }}"));
        let first = out.0.first().map_or("", |diagnostic| &diagnostic.message);
        assert!(first.starts_with(expected), "{condition}: {first}");
    }
}

#[test]
fn some_built_in_variables_can_be_replaced_as_in_nginx() {
    for name in
        ["ssl_protocol", "ssl_client_verify", "proxy_host", "proxy_port", "msie", "invalid_referer", "args"]
    {
        let out = findings(&format!("set ${name} x; return 200 ${name};"));
        assert!(out.0.is_empty(), "{name}: {:?}", out.0);
    }
}

#[test]
fn wrong_steps_have_nginx_s_words() {
    let cases = [
        ("rewrite ^ \"\";", "empty replacement"),
        ("rewrite ^ /x lost;", "invalid parameter \"lost\""),
        ("rewrite ( /x;", "invalid regular expression"),
        ("set a b;", "invalid variable name \"a\""),
        ("set $uri b;", "the duplicate \"uri\" variable"),
        ("set $uid_got b;", "the duplicate \"uid_got\" variable"),
        ("if ($arg_a) { if ($arg_b) { return 204; } }", "\"if\" directive is not allowed here"),
        ("if ($arg_a) { location /x { } }", "\"location\" directive is not allowed here"),
        ("if ($arg_a) { proxy_pass http://127.0.0.1/x; }", "\"proxy_pass\" cannot have URI part"),
    ];
    for (block, expected) in cases {
        let out = findings(block);
        let first = out.0.first().map_or("", |diagnostic| &diagnostic.message);
        assert!(first.starts_with(expected), "{block}: {first}");
    }
}

#[test]
fn traps_are_told_and_harmless_uses_are_not() {
    let cases = [
        ("if ($arg_a) { return 204; } if ($arg_b) { add_header X y; }", ""),
        ("if ($arg_a) { add_header X y; }", ""),
        ("if ($arg_a) { set $a b; } if ($arg_b) { set $c d; }", ""),
        ("if ($arg_a) { return 204; } try_files $uri =404;", ""),
        ("if ($arg_a) { rewrite ^ /x last; } try_files $uri =404;", ""),
        ("if ($arg_a) { set $a b; } try_files $uri =404;", "where this \"if\" holds, the \"try_files\""),
        ("if ($arg_a) { add_header X y; } if ($arg_b) { return 204; }", ""),
        (
            "if ($arg_a) { add_header X y; } if ($arg_b) { set $a b; }",
            "where this \"if\" and an earlier one hold",
        ),
        (
            "if ($arg_a) { proxy_pass http://127.0.0.1; } if ($arg_b) { set $a b; }",
            "a request for which this \"if\" and an earlier one with \"proxy_pass\" hold",
        ),
    ];
    for (block, expected) in cases {
        let out = findings(block);
        let first = out.0.first().map_or("", |diagnostic| &diagnostic.message);
        assert!(first.starts_with(expected) && first.is_empty() == expected.is_empty(), "{block}: {first}");
    }
}
