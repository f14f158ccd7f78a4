//! Whole lines, and the targets that get them.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::MutexGuard;

use super::*;
use crate::log;

/// A temporary directory for logs.
struct Bench {
    dir: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    fn new() -> Bench {
        Bench { dir: tempfile::tempdir().expect("a directory"), _alone: lease::alone() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn target(&self, name: &str) -> Target {
        let target = Target::file(&self.path(name));
        target.open_early().expect("opens");
        target
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(name)).expect("reads");
        assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
        text.lines().map(str::to_owned).collect()
    }
}

/// The context of a proxied request.
struct Request;

impl Context for Request {
    fn connection(&self) -> Option<u64> {
        Some(7)
    }

    fn action(&self) -> Option<&str> {
        Some("connecting to upstream")
    }

    fn fields(&self, fields: &mut Fields<'_>) {
        fields
            .plain("client", "127.0.0.1")
            .plain("server", "a.test")
            .quoted("request", b"GET /\"\n HTTP/1.1");
        fields.quoted("upstream", b"http://127.0.0.1:1/").quoted("host", b"a.test");
    }
}

/// A line without its time, pid and tid.
fn rest(line: &str) -> String {
    let (time, rest) = line.split_at(20);
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    assert_eq!(shape, "9999/99/99 99:99:99 ");
    let id = format!(" {}#{}: ", std::process::id(), nix::unistd::gettid());
    assert!(rest.contains(&id), "{rest}");
    rest.replacen(&id, " ", 1)
}

#[test]
fn a_line_is_nginx_s() {
    let bench = Bench::new();
    let logger = Logger::of(&[(bench.target("e.log"), Level::Error)]);
    let error = std::io::Error::from_raw_os_error(111);
    log::error!(logger, &Request, "connect() failed {}", Cause(&error));
    log::crit!(logger, &(), "lost\nlines"; "count" => 5, "why" => %"x");
    log::warn!(logger, &(), "not wanted");
    let lines = bench.lines("e.log");
    assert_eq!(lines.len(), 2);
    assert_eq!(
        rest(&lines[0]),
        "[error] *7 connect() failed (111: Connection refused) while connecting to upstream, client: 127.0.0.1, \
         server: a.test, request: \"GET /\\x22\\x0A HTTP/1.1\", upstream: \"http://127.0.0.1:1/\", host: \"a.test\""
    );
    assert_eq!(rest(&lines[1]), "[crit] lost\\x0Alines, count: 5, why: x");
}

#[test]
fn each_target_has_its_level_and_a_file_named_twice_gets_two_lines() {
    let bench = Bench::new();
    let (a, b) = (bench.target("a.log"), bench.target("b.log"));
    let logger = Logger::of(&[(a, Level::Error), (b, Level::Info), (a, Level::Warn)]);
    for level in Level::ALL {
        log::at!(level, logger, &(), "said at {level}");
    }
    let count = |name: &str, level: &str| {
        bench.lines(name).iter().filter(|line| line.contains(&format!("[{level}] "))).count()
    };
    for (level, in_a, in_b) in [
        ("emerg", 2, 1),
        ("crit", 2, 1),
        ("error", 2, 1),
        ("warn", 1, 1),
        ("notice", 0, 1),
        ("info", 0, 1),
        ("debug", 0, 0),
    ] {
        assert_eq!((count("a.log", level), count("b.log", level)), (in_a, in_b), "{level}");
    }
}

#[test]
fn a_level_that_is_off_evaluates_nothing() {
    let bench = Bench::new();
    let logger = Logger::of(&[(bench.target("e.log"), Level::Warn)]);
    let mut evaluated = 0;
    let mut value = || {
        evaluated += 1;
        evaluated
    };
    log::notice!(logger, &(), "value {}", value());
    log::debug!(Logger::none(), &(), "value {}", value());
    log::emerg!(Logger::none(), &(), "value {}", value());
    log::warn!(logger, &(), "value {}", value());
    assert_eq!(bench.lines("e.log").len(), 1);
    assert_eq!(evaluated, 1);
    assert!(
        logger.accepts(Level::Warn)
            && !logger.accepts(Level::Notice)
            && !Logger::none().accepts(Level::Emerg)
    );
}

#[test]
fn equal_sets_are_one_logger_and_handles_stay_small() {
    let bench = Bench::new();
    let target = bench.target("e.log");
    assert_eq!(Logger::of(&[(target, Level::Warn)]), Logger::of(&[(bench.target("e.log"), Level::Warn)]));
    assert_ne!(Logger::of(&[(target, Level::Warn)]), Logger::of(&[(target, Level::Error)]));
    assert_eq!((size_of::<Logger>(), size_of::<access::File>()), (size_of::<usize>(), size_of::<usize>()));
}

#[test]
fn repeats_are_hidden_and_counted() {
    let bench = Bench::new();
    let logger = Logger::of(&[(bench.target("e.log"), Level::Debug)]);
    for number in 0..3000 {
        log::error!(logger, &(), "no live upstreams {number}");
    }
    log::error!(logger, &(), "something else");
    flush_all();
    let lines = bench.lines("e.log");
    assert!(lines.len() < 3000 && due_ms().is_none());
    assert_eq!(lines.iter().filter(|line| line.contains("something else")).count(), 1);
    let told = lines
        .iter()
        .filter_map(|line| line.split_once("no live upstreams ... (")?.1.strip_suffix(" more like this)"));
    let hidden: u64 = told.map(|count| count.parse::<u64>().expect("a count")).sum();
    let written =
        lines.iter().filter(|line| line.contains("no live upstreams") && !line.contains("...")).count();
    assert_eq!(written as u64 + hidden, 3000);
    for number in 0..1000 {
        log::debug!(logger, &(), "all of debug {number}");
    }
    assert_eq!(bench.lines("e.log").iter().filter(|line| line.contains("[debug]")).count(), 1000);
}

#[test]
fn the_limit_on_repeats_by_its_own_clock() {
    let _bench = Bench::new();
    let logger = Logger::of(&[(Target::stderr(), Level::Emerg)]);
    let admit = |now_ms| repeat::admit(logger, Level::Warn, 1, "text", now_ms);
    assert!((0..200).all(|_| admit(5000).0));
    assert!(!admit(5001).0 && !admit(5999).0);
    assert!(repeat::due_ms(5999).is_some_and(|ms| ms <= 1));
    let (write, summary) = admit(6000);
    assert!(write);
    assert_eq!(summary.map(|summary| (summary.hidden, summary.level)), Some((2, Level::Warn)));
    assert!(admit(7000).1.is_none());
}

#[test]
fn lines_of_many_threads_stay_whole() {
    let bench = Bench::new();
    let logger = Logger::of(&[(bench.target("e.log"), Level::Debug)]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..500).for_each(|n| log::debug!(logger, &Request, "n {n}; {}", "x".repeat(n))));
        }
    });
    let lines = bench.lines("e.log");
    assert_eq!(lines.len(), 2000);
    assert!(lines.iter().all(|line| line.contains(" [debug] ") && line.ends_with("host: \"a.test\"")));
}

#[test]
fn a_line_has_an_end() {
    let bench = Bench::new();
    let logger = Logger::of(&[(bench.target("e.log"), Level::Info)]);
    log::info!(logger, &(), "{}", "x".repeat(1 << 20));
    let lines = bench.lines("e.log");
    assert_eq!(lines.len(), 1);
    assert!(lines[0].len() <= 16 * 1024);
}

#[test]
fn a_lease_opens_and_closes_what_it_names() {
    let bench = Bench::new();
    let logger = |name| {
        Logger::of(&[(
            Target::parse(name, bench.dir.path(), &Names::default()).expect("a path"),
            Level::Info,
        )])
    };
    let old = Lease::begin();
    let (stays, goes) = (logger("stays.log"), logger("goes.log"));
    assert!(!bench.path("stays.log").exists());
    old.open(None).expect("opens");
    let new = Lease::begin();
    let comes = logger("comes.log");
    assert_eq!(logger("stays.log"), stays);
    new.open(None).expect("opens");
    drop(old);
    for one in [stays, goes, comes] {
        log::info!(one, &(), "hello");
    }
    let counts = ["stays.log", "goes.log", "comes.log"].map(|name| bench.lines(name).len());
    assert_eq!(counts, [1, 0, 1]);
    // A reload that fails closes only the files that it opened.
    let failed = Lease::begin();
    let (never, missing) = (logger("never.log"), logger("missing/e.log"));
    assert_eq!(logger("stays.log"), stays);
    let errors = failed.open(None).expect_err("no such directory");
    let expected =
        format!("open() \"{}\" failed (2: No such file or directory)", bench.path("missing/e.log").display());
    assert_eq!(errors.iter().map(OpenError::to_string).collect::<Vec<_>>(), [expected]);
    drop(failed);
    for one in [stays, never, missing] {
        log::info!(one, &(), "hello again");
    }
    assert_eq!((bench.lines("stays.log").len(), bench.lines("never.log").len()), (2, 0));
    drop(new);
}

#[test]
fn a_file_that_was_moved_away_is_followed_by_a_new_one_once_the_lease_is_taken() {
    let bench = Bench::new();
    let logger = || Logger::of(&[(Target::file(&bench.path("e.log")), Level::Info)]);
    let first = Lease::begin();
    let log = logger();
    first.open(None).expect("opens");
    fs::rename(bench.path("e.log"), bench.path("e.log.1")).expect("renames");
    // The files of a configuration that is refused in the end are not used.
    let refused = Lease::begin();
    logger();
    refused.open(None).expect("opens");
    drop(refused);
    log::info!(log, &(), "one");
    let second = Lease::begin();
    logger();
    second.open(None).expect("opens");
    log::info!(log, &(), "two");
    second.take();
    drop(first);
    log::info!(log, &(), "three");
    let texts = |name| bench.lines(name).iter().map(|line| rest(line).to_owned()).collect::<Vec<_>>();
    assert_eq!(texts("e.log.1"), ["[info] one", "[info] two"]);
    assert_eq!(texts("e.log"), ["[info] three"]);
    drop(second);
}

#[test]
fn a_syslog_server_that_moves_is_another_target() {
    let bench = Bench::new();
    let parse = |word: &str| Target::parse(word, bench.dir.path(), &Names::default()).expect("parses");
    assert_eq!(parse("syslog:server=127.0.0.1:514"), parse("syslog:server=127.0.0.1:514"));
    let settings = |text: &str| super::syslog::Settings::parse(text, &Names::default()).expect("parses");
    // The same word, whose name has another address later.
    let (one, other) = (settings("server=127.0.0.1:514"), settings("server=127.0.0.2:514"));
    assert_ne!(one.key("syslog:server=name"), other.key("syslog:server=name"));
}

#[test]
fn rotation_and_a_full_disk_for_the_error_log() {
    let bench = Bench::new();
    symlink("/dev/full", bench.path("e.log")).expect("links");
    let lease = Lease::begin();
    let logger = Logger::of(&[(Target::file(&bench.path("e.log")), Level::Info)]);
    lease.open(None).expect("opens");
    for number in 0..50 {
        log::info!(logger, &(), "lost {number}");
    }
    fs::remove_file(bench.path("e.log")).expect("removes");
    // Logs of other tests may fail, since their directories are gone.
    let _ = reopen(None);
    log::info!(logger, &(), "kept");
    let lines = bench.lines("e.log");
    assert_eq!(
        lines.iter().map(|line| rest(line)).collect::<Vec<_>>(),
        ["[info] kept", "[warn] 50 lines of this log were lost"]
    );
    fs::rename(bench.path("e.log"), bench.path("e.log.1")).expect("renames");
    log::info!(logger, &(), "still the old file");
    let _ = reopen(None);
    log::info!(logger, &(), "the new file");
    assert_eq!((bench.lines("e.log.1").len(), bench.lines("e.log").len()), (3, 1));
}

#[test]
fn the_early_log_is_the_process_s_own() {
    let bench = Bench::new();
    let logger = early("early.log", bench.dir.path(), &Names::default()).expect("opens");
    assert_eq!(process(), logger);
    log::notice!(process(), &(), "before any configuration");
    log::info!(process(), &(), "too quiet");
    assert_eq!(bench.lines("early.log").len(), 1);
    let error = early("no/such/early.log", bench.dir.path(), &Names::default()).expect_err("no directory");
    assert_eq!(error.to_string(), "open() \"no/such/early.log\" failed (2: No such file or directory)");
    set_process(Logger::none());
}

#[test]
fn targets_parse_as_nginx_reads_them() {
    let bench = Bench::new();
    let parse = |word: &str| Target::parse(word, bench.dir.path(), &Names::default());
    assert_eq!(parse("stderr"), Ok(Target::stderr()));
    assert_eq!(parse("logs/e.log"), Ok(Target::file(&bench.path("logs/e.log"))));
    assert_eq!(parse("/abs/e.log").expect("a path").name(), "/abs/e.log");
    assert!(parse("memory:32k").is_ok());
    for (word, error) in [
        ("memory:x", "invalid buffer size \"x\""),
        ("", "the name of a log file is empty"),
        ("syslog:tag=a", "no syslog server specified"),
        ("syslog:server=127.0.0.1,facility=x", "unknown syslog facility \"x\""),
        ("syslog:server=127.0.0.1,severity=x", "unknown syslog severity \"x\""),
        ("syslog:server=127.0.0.1,colour=red", "unknown syslog parameter \"colour=red\""),
        (
            "syslog:server=127.0.0.1,tag=a-b",
            "syslog \"tag\" only allows alphanumeric characters and underscore",
        ),
        ("syslog:server=127.0.0.1,tag=a,tag=b", "duplicate syslog \"tag\""),
        ("syslog:server=127.0.0.1:0", "invalid port in syslog server \"127.0.0.1:0\""),
        ("syslog:server=unix:", "no path in syslog server \"unix:\""),
    ] {
        assert_eq!(parse(word).expect_err(word), error);
    }
    assert!(parse("syslog:server=[::1]:5514,nohostname").is_ok());
    assert!(parse("syslog:server=[::1]").is_ok());
    assert!(parse("syslog:server=::1").is_ok());
}

#[test]
fn memory_keeps_the_last_lines_in_bounds() {
    let bench = Bench::new();
    let target = Target::parse("memory:1k", bench.dir.path(), &Names::default()).expect("parses");
    let logger = Logger::of(&[(target, Level::Debug)]);
    for number in 0..1000 {
        log::debug!(logger, &(), "line {number}");
    }
    let kept = target.ring();
    assert_eq!(kept.len(), 1024);
    assert!(String::from_utf8_lossy(&kept).ends_with("line 999\n"));
}

#[test]
fn syslog_gets_nginx_s_datagram_and_survives_a_restart_of_the_server() {
    let bench = Bench::new();
    let receive = |server: &UnixDatagram| {
        let mut datagram = [0; 2000];
        let length = server.recv(&mut datagram).expect("receives");
        String::from_utf8_lossy(&datagram[..length]).into_owned()
    };
    let server = UnixDatagram::bind(bench.path("s")).expect("binds");
    let word = format!("syslog:server=unix:{},facility=user,tag=tag_1,nohostname", bench.path("s").display());
    let logger = Logger::of(&[(
        Target::parse(&word, bench.dir.path(), &Names::default()).expect("parses"),
        Level::Info,
    )]);
    log::error!(logger, &Request, "bad");
    let text = receive(&server);
    let (head, line) = text.split_once(" tag_1: ").expect("a tag");
    // user is 1, error is 3; the time has 15 bytes.
    assert!(head.starts_with("<11>") && head.len() == 4 + 15, "{text}");
    assert!(
        rest(line).starts_with("[error] *7 bad while connecting to upstream, client: 127.0.0.1"),
        "{line}"
    );
    drop(server);
    fs::remove_file(bench.path("s")).expect("removes");
    let server = UnixDatagram::bind(bench.path("s")).expect("binds");
    log::info!(logger, &(), "after the restart");
    assert!(receive(&server).starts_with("<14>"));
}

#[test]
fn syslog_over_udp_names_the_host() {
    let bench = Bench::new();
    let server = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
    let word = format!("syslog:server={}", server.local_addr().expect("bound"));
    let logger = Logger::of(&[(
        Target::parse(&word, bench.dir.path(), &Names::default()).expect("parses"),
        Level::Info,
    )]);
    log::warn!(logger, &(), "hello");
    let mut datagram = [0; 2000];
    let length = server.recv(&mut datagram).expect("receives");
    let text = String::from_utf8_lossy(&datagram[..length]);
    let host = nix::unistd::gethostname().expect("a host name");
    // local7 is 23, warn is 4.
    assert!(text.starts_with("<188>"), "{text}");
    assert!(text[5 + 15..].starts_with(&format!(" {} nginx: ", host.to_string_lossy())), "{text}");
    assert!(text.ends_with(": hello"));
}
