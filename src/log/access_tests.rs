//! The writer on real files, pipes and full disks.

use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::PathBuf;
use std::sync::MutexGuard;

use super::*;
use crate::log::{Lease, Level, Logger, Target, reopen, set_process};

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

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("reads")
    }

    fn open(&self, name: &str, buffer: Option<usize>, flush_ms: Option<u64>) -> File {
        File::open(&self.path(name), buffer, flush_ms).expect("opens")
    }

    /// Reopens all logs. Those of other tests may fail, since their directories are gone.
    fn reopen(&self) {
        let own = self.dir.path().to_string_lossy().into_owned();
        let errors = reopen(None).err().unwrap_or_default();
        assert!(errors.iter().all(|error| !error.path.starts_with(&own)), "{errors:?}");
    }

    /// Makes `error.log` the error log of the process.
    fn error_log(&self) -> Lease {
        let lease = Lease::begin();
        set_process(Logger::of(&[(Target::file(&self.path("error.log")), Level::Info)]));
        lease.open(None).expect("opens");
        lease
    }
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !done() {
        assert!(std::time::Instant::now() < deadline, "waited too long");
        std::thread::yield_now();
    }
}

#[test]
fn lines_of_a_turn_come_at_its_end() {
    let bench = Bench::new();
    let file = bench.open("a.log", None, None);
    file.write_line(b"one");
    file.write_line(b"two\n");
    assert_eq!((file.waiting().0, bench.text("a.log").as_str()), (8, ""));
    flush_turn();
    assert_eq!(bench.text("a.log"), "one\ntwo\n");
    assert_eq!(file.waiting(), (0, 0));
    assert_eq!(due_ms(), None);
}

#[test]
fn a_buffer_is_written_when_full_and_holds_whole_lines() {
    let bench = Bench::new();
    let file = bench.open("a.log", Some(10), None);
    file.write_line(b"1234");
    file.write_line(b"5678");
    flush_turn();
    assert_eq!(bench.text("a.log"), "");
    file.write_line(b"9");
    assert_eq!(bench.text("a.log"), "1234\n5678\n");
    flush_all();
    assert_eq!(bench.text("a.log"), "1234\n5678\n9\n");
}

#[test]
fn a_line_larger_than_the_buffer_is_written_at_once_and_in_order() {
    let bench = Bench::new();
    let file = bench.open("a.log", Some(10), None);
    file.write_line(b"first");
    file.write_line(b"longer than the buffer");
    assert_eq!(bench.text("a.log"), "first\nlonger than the buffer\n");
    let plain = bench.open("b.log", None, None);
    let long = vec![b'x'; 3 * WAITING_BYTES_MAX];
    plain.write_line(&long);
    assert_eq!(bench.text("b.log").len(), long.len() + 1);
    flush_turn();
}

#[test]
fn flush_bounds_how_long_a_line_waits() {
    let bench = Bench::new();
    let file = bench.open("a.log", Some(4096), Some(20));
    file.write_line(b"soon");
    flush_turn();
    assert!(due_ms().is_some_and(|ms| ms <= 20));
    wait_until(|| {
        flush_turn();
        bench.text("a.log") == "soon\n"
    });
    assert_eq!((file.waiting().0, due_ms()), (0, None));
}

#[test]
fn reopen_writes_old_lines_to_the_old_file() {
    let bench = Bench::new();
    let file = bench.open("a.log", Some(4096), None);
    file.write_line(b"old");
    std::fs::rename(bench.path("a.log"), bench.path("a.log.1")).expect("renames");
    bench.reopen();
    file.write_line(b"new");
    flush_all();
    assert_eq!((bench.text("a.log.1").as_str(), bench.text("a.log").as_str()), ("old\n", "new\n"));
}

#[test]
fn a_file_that_cannot_be_reopened_keeps_the_old_one() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("d")).expect("makes");
    let lease = Lease::begin();
    let file =
        File::declare("d/a.log", bench.dir.path(), Options::default(), &Names::default()).expect("declares");
    lease.open(None).expect("opens");
    std::fs::rename(bench.path("d"), bench.path("e")).expect("renames");
    let errors = reopen(None).expect_err("the directory is gone");
    assert!(
        errors
            .iter()
            .any(|error| error.to_string().ends_with("d/a.log\" failed (2: No such file or directory)"))
    );
    file.write_line(b"still here");
    flush_turn();
    assert_eq!(bench.text("e/a.log"), "still here\n");
}

#[test]
fn twenty_rotations_under_load_lose_no_line() {
    let bench = Bench::new();
    // Two names of one file have separate buffers, like two workers.
    let files = [bench.open("a.log", None, None), bench.open("./a.log", Some(1000), None)];
    let stop = AtomicBool::new(false);
    let written: usize = std::thread::scope(|scope| {
        // Stops the threads even when the test fails: the scope waits for them.
        let stopper = StopOnDrop(&stop);
        let writers: Vec<_> = files
            .iter()
            .map(|file| {
                scope.spawn(|| {
                    let mut count = 0;
                    while !stop.load(Ordering::Relaxed) {
                        file.write_line(format!("{} line {count}", "x".repeat(count % 90)).as_bytes());
                        count += 1;
                        if count % 7 == 0 {
                            flush_turn();
                        }
                    }
                    count
                })
            })
            .collect();
        for number in 0..20 {
            wait_until(|| std::fs::metadata(bench.path("a.log")).is_ok_and(|meta| meta.len() > 5000));
            std::fs::rename(bench.path("a.log"), bench.path(&format!("a.log.{number}"))).expect("renames");
            bench.reopen();
        }
        drop(stopper);
        writers.into_iter().map(|writer| writer.join().expect("joins")).sum()
    });
    flush_all();
    let mut found = 0;
    for entry in std::fs::read_dir(bench.dir.path()).expect("lists") {
        let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("reads");
        assert!(text.is_empty() || text.ends_with('\n'));
        for line in text.lines() {
            let (filler, rest) = line.split_once(" line ").expect("a whole line");
            assert!(filler.bytes().all(|byte| byte == b'x') && rest.parse::<usize>().is_ok(), "{line}");
            found += 1;
        }
    }
    assert_eq!(found, written);
}

#[test]
fn what_a_full_disk_does_not_take_is_written_when_there_is_room() {
    let bench = Bench::new();
    let _lease = bench.error_log();
    symlink("/dev/full", bench.path("a.log")).expect("links");
    let file = bench.open("a.log", None, None);
    for number in 0..200 {
        file.write_line(format!("line {number}").as_bytes());
        flush_turn();
    }
    let said = bench.text("error.log");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.contains("[crit]") && said.contains("failed (28: No space left on device), its lines are held"),
        "{said}"
    );
    assert!(file.waiting().0 > 0 && due_ms().is_some());
    // Room again: reopening does not wait for the second to end.
    std::fs::remove_file(bench.path("a.log")).expect("removes");
    bench.reopen();
    file.write_line(b"last");
    flush_turn();
    let expected: String =
        (0..200).map(|number| format!("line {number}\n")).chain(["last\n".to_owned()]).collect();
    assert_eq!(bench.text("a.log"), expected);
    assert_eq!((file.waiting(), due_ms()), ((0, 0), None));
    assert!(bench.text("error.log").contains("a.log\" can be written to again"));
    set_process(Logger::none());
}

#[test]
fn lines_beyond_what_can_be_held_are_counted_and_told_when_there_is_room() {
    let bench = Bench::new();
    let _lease = bench.error_log();
    symlink("/dev/full", bench.path("a.log")).expect("links");
    let file = bench.open("a.log", None, None);
    let line = [b'z'; 999];
    for _ in 0..3000 {
        file.write_line(&line);
        flush_turn();
    }
    let (held, lost) = file.waiting();
    assert!(held <= WAITING_BYTES_MAX && held > WAITING_BYTES_MAX / 2, "{held}");
    assert_eq!(held as u64 / 1000 + lost, 3000);
    std::fs::remove_file(bench.path("a.log")).expect("removes");
    bench.reopen();
    wait_until(|| {
        flush_turn();
        due_ms().is_none()
    });
    assert_eq!(bench.text("a.log").len(), held);
    let said = bench.text("error.log");
    assert!(said.contains(&format!("{lost} lines lost")), "{said}");
    assert_eq!(said.lines().filter(|line| line.contains("[crit]")).count(), 2, "{said}");
    set_process(Logger::none());
}

#[test]
fn a_short_write_completes_its_line_later() {
    let mut state = State { lines: b"first\nsecond\nthird\n".to_vec(), ..State::default() };
    state.fail(9, io::ErrorKind::WriteZero.into()); // "sec" is in the file
    assert_eq!((state.lines.as_slice(), state.torn, state.lost), (&b"ond\nthird\n"[..], true, 0));
    state.fail(0, io::ErrorKind::WriteZero.into()); // and not even the rest could be written
    assert_eq!((state.lines.as_slice(), state.torn), (&b"ond\nthird\n"[..], true));
    state.fail(4, io::ErrorKind::WriteZero.into());
    assert_eq!((state.lines.as_slice(), state.torn), (&b"third\n"[..], false));
}

#[test]
fn a_slow_pipe_gets_all_lines_in_order_and_never_blocks() {
    let bench = Bench::new();
    nix::unistd::mkfifo(&bench.path("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    let mut options = std::fs::OpenOptions::new();
    let mut reader =
        options.read(true).custom_flags(libc::O_NONBLOCK).open(bench.path("fifo")).expect("opens");
    let file = bench.open("fifo", None, None);
    let mut expected = String::new();
    for number in 0..5000 {
        let line = format!("{number} {}\n", "y".repeat(60));
        file.write_line(line.as_bytes());
        expected.push_str(&line);
        flush_turn();
    }
    assert!(expected.len() > 200_000 && due_ms().is_some_and(|ms| ms <= RETRY_MS));
    let (mut got, mut page) = (Vec::new(), [0; 4096]);
    wait_until(|| {
        flush_turn();
        while let Ok(count @ 1..) = reader.read(&mut page) {
            got.extend_from_slice(&page[..count]);
        }
        got.len() == expected.len()
    });
    assert!(got == expected.as_bytes());
    assert_eq!(file.waiting(), (0, 0));
}

#[test]
fn a_pipe_without_reader_has_a_bound() {
    let bench = Bench::new();
    let _lease = bench.error_log();
    nix::unistd::mkfifo(&bench.path("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    let file = bench.open("fifo", None, None);
    let line = [b'z'; 999];
    for _ in 0..3000 {
        file.write_line(&line);
    }
    let (waiting, lost) = file.waiting();
    assert!(waiting <= WAITING_BYTES_MAX && waiting > WAITING_BYTES_MAX / 2, "{waiting}");
    assert!(lost > 1000);
    lock(&file.0.state).lines.clear();
    flush_turn();
    assert!(bench.text("error.log").contains(&format!("{lost} lines lost")));
    set_process(Logger::none());
}

fn unpacked(bytes: &[u8]) -> std::io::Result<String> {
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(bytes).read_to_string(&mut text).map(|_| text)
}

#[test]
fn gzip_makes_a_member_of_each_buffer() {
    let bench = Bench::new();
    let lease = Lease::begin();
    let options = Options { buffer: Some(4096), flush_ms: Some(5), gzip: Some(1) };
    let file = File::declare("a.gz", bench.dir.path(), options, &Names::default()).expect("declares");
    lease.open(None).expect("opens");
    let mut expected = String::new();
    for number in 0..200 {
        let line = format!("{number} {}\n", "y".repeat(60));
        file.write_line(line.as_bytes());
        expected.push_str(&line);
    }
    let packed = || std::fs::read(bench.path("a.gz")).expect("reads");
    assert!(!packed().is_empty(), "a full buffer is written at once");
    wait_until(|| {
        flush_turn();
        unpacked(&packed()).is_ok_and(|text| text == expected)
    });
    assert!(packed().len() < expected.len() / 4, "{}", packed().len());
    let members = packed().windows(3).filter(|bytes| *bytes == [0x1f, 0x8b, 8]).count();
    assert!(members >= 3, "{members}");
}

#[test]
fn a_slow_pipe_gets_whole_gzip_members() {
    let bench = Bench::new();
    nix::unistd::mkfifo(&bench.path("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    let mut open = std::fs::OpenOptions::new();
    let mut reader = open.read(true).custom_flags(libc::O_NONBLOCK).open(bench.path("fifo")).expect("opens");
    let lease = Lease::begin();
    let options = Options { buffer: Some(4096), flush_ms: Some(1), gzip: Some(1) };
    let file = File::declare("fifo", bench.dir.path(), options, &Names::default()).expect("declares");
    lease.open(None).expect("opens");
    let mut expected = String::new();
    let mut number = 1_u64;
    // Hard to compress, so that the pipe fills, but less than the bound.
    while expected.len() < 400_000 {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let line = format!("{number:x}{:x}\n", number.swap_bytes());
        file.write_line(line.as_bytes());
        expected.push_str(&line);
    }
    assert!(!lock(&file.0.state).packed.bytes.is_empty(), "the pipe is full within a member");
    let (mut got, mut page) = (Vec::new(), [0; 4096]);
    wait_until(|| {
        flush_turn();
        while let Ok(count @ 1..) = reader.read(&mut page) {
            got.extend_from_slice(&page[..count]);
        }
        unpacked(&got).is_ok_and(|text| text.len() == expected.len())
    });
    assert!(unpacked(&got).expect("whole members") == expected);
    assert_eq!(file.waiting(), (0, 0));
}

#[test]
fn one_file_has_one_set_of_parameters_in_a_cycle() {
    let bench = Bench::new();
    let declare = |buffer| {
        File::declare("a.log", bench.dir.path(), Options { buffer, ..Options::default() }, &Names::default())
    };
    let first = Lease::begin();
    let file = declare(Some(100)).expect("declares");
    assert_eq!(declare(Some(100)), Ok(file));
    let error = declare(None).expect_err("differs");
    assert!(error.contains("already defined with conflicting parameters"), "{error}");
    // The next configuration may have other parameters.
    let second = Lease::begin();
    assert_eq!(declare(None), Ok(file));
    drop(first);
    second.open(None).expect("opens");
    file.write_line(b"unbuffered now");
    flush_turn();
    assert_eq!(bench.text("a.log"), "unbuffered now\n");
}

#[test]
fn a_cycle_that_is_refused_changes_no_file_and_no_parameter() {
    let bench = Bench::new();
    let declare = |buffer| {
        File::declare("a.log", bench.dir.path(), Options { buffer, ..Options::default() }, &Names::default())
    };
    let first = Lease::begin();
    let file = declare(None).expect("declares");
    first.open(None).expect("opens");
    fs::rename(bench.path("a.log"), bench.path("a.log.1")).expect("renames");
    let refused = Lease::begin();
    assert_eq!(declare(Some(4096)), Ok(file));
    assert!(declare(None).is_err(), "two sets of parameters in one cycle");
    refused.open(None).expect("opens");
    drop(refused);
    file.write_line(b"one");
    flush_turn();
    let second = Lease::begin();
    assert_eq!(declare(Some(4096)), Ok(file));
    second.open(None).expect("opens");
    file.write_line(b"two");
    flush_turn();
    second.take();
    drop(first);
    file.write_line(b"three");
    flush_turn();
    assert_eq!((bench.text("a.log.1"), bench.text("a.log")), ("one\ntwo\n".into(), String::new()));
    drop(second);
    assert_eq!(bench.text("a.log"), "three\n");
    flush_all();
}

#[test]
fn a_dropped_lease_flushes_and_closes() {
    let bench = Bench::new();
    let lease = Lease::begin();
    let options = Options { buffer: Some(4096), ..Options::default() };
    let file = File::declare("a.log", bench.dir.path(), options, &Names::default()).expect("declares");
    lease.open(None).expect("opens");
    file.write_line(b"last words");
    drop(lease);
    assert_eq!(bench.text("a.log"), "last words\n");
    assert!(lock(&file.0.state).file.is_none());
    flush_all();
}

#[test]
fn ten_thousand_files_share_a_few_buffers() {
    let bench = Bench::new();
    let files: Vec<File> = (0..200).map(|n| bench.open(&format!("{n}.log"), None, None)).collect();
    for file in &files {
        file.write_line(b"line");
    }
    flush_turn();
    let held: usize = files.iter().map(|file| lock(&file.0.state).lines.capacity()).sum();
    assert_eq!(held, 0);
    assert!(lock(&SPARE).len() <= SPARE_MAX);
    assert!((0..200).all(|n| bench.text(&format!("{n}.log")) == "line\n"));
}

#[test]
fn lines_go_to_syslog_with_their_severity() {
    let bench = Bench::new();
    let server = std::os::unix::net::UnixDatagram::bind(bench.path("log")).expect("binds");
    let word = format!("syslog:server=unix:{},severity=notice,tag=web", bench.path("log").display());
    assert!(
        File::declare(
            &word,
            Path::new(""),
            Options { buffer: Some(1), ..Options::default() },
            &Names::default()
        )
        .is_err()
    );
    let file = File::declare(&word, Path::new(""), Options::default(), &Names::default()).expect("declares");
    file.write_line(b"GET / 200\n");
    let mut datagram = [0; 1000];
    let length = server.recv(&mut datagram).expect("receives");
    let text = String::from_utf8_lossy(&datagram[..length]);
    assert!(text.starts_with("<189>") && text.ends_with(" web: GET / 200"), "{text}");
}
