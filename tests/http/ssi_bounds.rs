//! Pages whose commands would take unlimited memory or time: loops of includes, values and blocks that grow.

use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Origin, Setup, get};

const CONF: &str = "worker_processes 1;
http { server { listen 127.0.0.1:%%PORT_0%%; root %%DIR%%/pages; ssi on; log_not_found off;
    location /ok { return 200 ok; }
    location /missing { return 404; } } }";

const ERROR: &str = "[an error occurred while processing the directive]";

fn start(pages: &[(&str, &str)]) -> Daemon {
    let setup = Setup::new(CONF).level("info");
    pages.iter().fold(setup, |setup, (name, text)| setup.file(&format!("pages/{name}"), text)).start()
}

#[test]
fn includes_of_a_page_in_itself_end_at_the_depth_with_the_error_text() {
    let stub = "<!--#block name=\"x\" -->(<!--#include virtual=\"/missing\" stub=\"x\" -->)<!--#endblock -->";
    let daemon = start(&[
        ("insert.html", "[<!--#include virtual=\"/insert.html\" -->]"),
        ("wait.html", "[<!--#include virtual=\"/wait.html\" wait=\"yes\" -->]"),
        ("stub.html", &format!("{stub}a<!--#include virtual=\"/missing\" stub=\"x\" -->z")),
    ]);
    for name in ["insert", "wait"] {
        let text = get(daemon.port(0), &format!("/{name}.html")).text();
        assert_eq!(text, format!("{}{ERROR}{}", "[".repeat(52), "]".repeat(52)), "{name}");
        daemon.wait_log(&format!("subrequests cycle while processing \"/{name}.html\""));
    }
    let text = get(daemon.port(0), "/stub.html").text();
    assert_eq!(text, format!("a{}{ERROR}{}z", "(".repeat(51), ")".repeat(51)));
    daemon.wait_log("subrequests cycle while processing \"/missing\"");
    assert_eq!(daemon.log_count("subrequests cycle"), 3, "each is told once");
}

#[test]
fn a_page_that_includes_itself_twice_ends_at_the_count() {
    if is_stand_in() {
        return; // takes nginx very long
    }
    let include = "<!--#include virtual=\"/a.html\" -->";
    let daemon = start(&[("a.html", &format!("({include}{include})"))]);
    let text = get(daemon.port(0), "/a.html").text();
    assert_eq!(text.matches('(').count(), 4096 + 1);
    assert_eq!(text.matches('(').count(), text.matches(')').count());
    assert_eq!(text.matches(ERROR).count(), 4096 + 2, "each page has two, one more than it was included for");
    assert_eq!(daemon.log_count("subrequests cycle|too many subrequests"), 1);
    assert_eq!(get(daemon.port(0), "/ok").text(), "ok");
}

#[test]
fn a_page_may_have_thousands_of_includes() {
    let include = "<!--#include virtual=\"/ok\" -->".repeat(3000);
    let daemon = start(&[("a.html", &include)]);
    assert_eq!(get(daemon.port(0), "/a.html").text(), "ok".repeat(3000));
}

#[test]
fn values_that_grow_fail_at_a_bound() {
    if is_stand_in() {
        return; // nginx takes all memory
    }
    let set = |value: &str| format!("<!--#set var=\"a\" value=\"{value}\" -->");
    let page = set(&"x".repeat(200)) + &set(&"$a".repeat(100)).repeat(4) + "<!--#echo var=\"a\" -->";
    // with an address space too small for the request
    let setup = Setup::new(CONF).prelude("ulimit -v 2000000;");
    let daemon = setup.file("pages/a.html", &page).start();
    let worker = daemon.worker();
    let text = get(daemon.port(0), "/a.html").text();
    assert_eq!(text, ERROR.repeat(3) + &"x".repeat(20_000));
    daemon.wait_log("too long value in an SSI command: with its variables more than 65536 bytes");
    assert_eq!(daemon.worker(), worker);
}

#[test]
fn variables_and_commands_are_counted() {
    if is_stand_in() {
        return;
    }
    let set = |number: usize| format!("<!--#set var=\"v{number}\" value=\"{number}\" -->");
    let many: String = (0..1500).map(set).collect();
    let echo = "<!--#echo var=\"v999\" --> <!--#echo var=\"v1000\" -->";
    let long: String = (0..51_000).map(|_| "<!--#set var=\"a\" value=\"1\" -->").collect();
    let daemon = start(&[("a.html", &(many + echo)), ("b.html", &(long + "end"))]);
    // First the page with one line in the log, since some of the other page's 500 may be left out.
    assert_eq!(get(daemon.port(0), "/b.html").text(), ERROR.repeat(1000) + "end");
    assert_eq!(daemon.log_count("too many SSI commands: a request has at most 50000"), 1);
    assert_eq!(get(daemon.port(0), "/a.html").text(), ERROR.repeat(500) + "999 (none)");
    daemon.wait_log("too many SSI variables: \"v1000\" is one more than 1000");
}

#[test]
fn a_block_without_an_end_is_not_kept() {
    if is_stand_in() {
        return;
    }
    let origin = Origin::start(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\nbegin<!--#block name=\"x\" -->");
        for _ in 0..64 {
            peer.send([b'y'; 64 * 1024]);
        }
        peer.send("<!--#endblock --><!--#include virtual=\"/missing\" stub=\"x\" -->end");
    });
    let conf =
        "http { server { listen 127.0.0.1:%%PORT_0%%; ssi on; location / { proxy_pass http://%%ORIGIN%%; }
        location /missing { return 404; } } }";
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).level("info").start();
    assert_eq!(get(daemon.port(0), "/").text(), format!("begin{ERROR}{ERROR}end"));
    daemon.wait_log("too long SSI block \"x\": the blocks of a page have at most 1048576 bytes");
}

#[test]
fn conditions_inside_one_another_have_a_bound_and_their_ends_stay_theirs() {
    if is_stand_in() {
        return; // nginx has one level
    }
    let open = "<!--#if expr=\"1\" -->".repeat(60);
    let close = "<!--#endif -->".repeat(60);
    let daemon = start(&[(
        "a.html",
        &format!("{open}in{close}<!--#if expr=\"\" -->no<!--#else -->out<!--#endif -->"),
    )]);
    assert_eq!(get(daemon.port(0), "/a.html").text(), format!("{}inout", ERROR.repeat(10)));
}

#[test]
fn expressions_that_give_up_are_tried_a_few_times() {
    if is_stand_in() {
        return; // nginx tries for longer
    }
    let hostile = "<!--#if expr=\"$arg_x = /^((a+)+(?!c))+\\1$/\" -->yes<!--#endif -->";
    let daemon = start(&[("a.html", &(hostile.repeat(30) + "end"))]);
    let text = get(daemon.port(0), &format!("/a.html?x={}b", "a".repeat(2000))).text();
    assert!(text.ends_with("end") && text.matches(ERROR).count() >= 30, "{text}");
    assert_eq!(daemon.log_count("of an SSI condition gave up after"), 8);
}

/// The long output of short commands is sent before more is produced.
#[test]
fn a_page_of_long_values_is_sent_as_it_is_made() {
    if is_stand_in() {
        return;
    }
    let set = |value: &str| format!("<!--#set var=\"a\" value=\"{value}\" -->");
    let page = set(&"x".repeat(250))
        + &set(&"$a".repeat(120))
        + &set("$a$a")
        + &"<!--#echo var=\"a\" -->".repeat(40_000);
    // a gigabyte and more; the client does not read it
    let daemon = start(&[("a.html", &page)]);
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /a.html HTTP/1.1\r\nHost: a\r\n\r\n");
    client.response_head();
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.worker())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kb: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kb < 40_000, "{peak}");
    assert_eq!(get(daemon.port(0), "/ok").text(), "ok");
}
