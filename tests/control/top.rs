//! `pronghorn top` in a terminal of its own: what it draws, another size, and the terminal afterwards.
//!
//! The terminal is a pseudo-terminal whose other end the test reads and types at.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::Signal;
use nix::sys::termios::{Termios, tcgetattr};

use crate::support::daemon::{binary, is_stand_in, send};
use crate::support::{Daemon, Origin, Setup, wait_for};

const CONF: &str = r#"
worker_processes 1;
control unix:%%DIR%%/ctl;
http {
    upstream shown { zone shown 64k; server %%ORIGIN%%; server 127.0.0.1:1 down; }
    server { listen 127.0.0.1:%%PORT_0%%; status_zone site; location / { proxy_pass http://shown; } }
}
"#;

struct Terminal {
    child: Child,
    keys: File,
    /// The programs' end.
    far: OwnedFd,
    before: Termios,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn start(daemon: &Daemon, (columns, rows): (u16, u16)) -> Self {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).expect("a terminal");
        let before = tcgetattr(&pty.slave).expect("its modes");
        let end = || Stdio::from(pty.slave.try_clone().expect("a copy"));
        // The terminal must be the program's own: the kernel tells it about another size then.
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(binary()).args(["top", "--socket"]).arg(daemon.path("ctl"));
        let child =
            command.env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end()).spawn().expect("setsid");
        let keys = File::from(pty.master);
        let mut screen = keys.try_clone().expect("a copy");
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let log = Arc::clone(&written);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut buffer) {
                log.lock().expect("no reader panics").extend_from_slice(&buffer[..count]);
            }
        });
        Self { child, keys, far: pty.slave, before, written }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.written.lock().expect("no writer panics")).into_owned()
    }

    fn wait(&self, parts: &[&str]) {
        wait_for(&format!("{parts:?} on the screen"), || {
            let text = self.text();
            parts.iter().all(|part| text.contains(part)).then_some(())
        });
    }

    fn resize(&self, columns: u16, rows: u16) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let status = Command::new("stty")
            .args(["cols", &columns, "rows", &rows])
            .stdin(self.far.try_clone().expect("a copy"))
            .status();
        assert!(status.expect("stty").success());
    }

    /// Waits for the end: the screen, the cursor and the modes are as before.
    fn assert_left(mut self) {
        let status = wait_for("the end of top", || self.child.try_wait().expect("its status"));
        assert!(status.success(), "{status:?} {}", self.text());
        self.wait(&["\u{1b}[?1049l", "\u{1b}[?25h"]);
        assert_eq!(tcgetattr(self.far.as_fd()).expect("its modes"), self.before);
    }
}

fn start() -> (Origin, Daemon) {
    let origin = Origin::saying("x");
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("notice").start();
    (origin, daemon)
}

#[test]
fn it_draws_in_any_size_and_q_leaves_the_terminal_as_it_was() {
    if is_stand_in() {
        return;
    }
    let (origin, daemon) = start();
    for _ in 0..3 {
        crate::support::get(daemon.port(0), "/");
    }
    let mut terminal = Terminal::start(&daemon, (80, 24));
    let address = origin.address();
    // The first bytes take the whole screen; what does not change is not drawn again.
    terminal.wait(&[
        "\u{1b}[?1049h",
        "pronghorn",
        "shown",
        &address,
        "site",
        "down",
        "worker",
        "\u{1b}[24;1H",
    ]);
    terminal.resize(200, 60);
    terminal.wait(&["\u{1b}[60;1H"]);
    terminal.keys.write_all(b"\x1b[B\x1b[Ajk").expect("keys");
    terminal.keys.write_all(b"q").expect("a key");
    terminal.assert_left();
}

#[test]
fn control_c_and_sigterm_leave_the_terminal_as_it_was() {
    if is_stand_in() {
        return;
    }
    let (_origin, daemon) = start();
    let mut terminal = Terminal::start(&daemon, (200, 60));
    terminal.wait(&["pronghorn", "shown"]);
    terminal.keys.write_all(b"\x03").expect("a key");
    terminal.assert_left();

    let terminal = Terminal::start(&daemon, (80, 24));
    terminal.wait(&["pronghorn", "shown"]);
    let setsid = terminal.child.id() as i32;
    let top = wait_for("the program", || {
        let children = crate::support::process::children(setsid);
        children.first().copied().or(Some(setsid))
    });
    send(top, Signal::SIGTERM);
    terminal.assert_left();
}

#[test]
fn a_daemon_that_goes_is_told_and_without_a_terminal_nothing_is_drawn() {
    if is_stand_in() {
        return;
    }
    let (_origin, daemon) = start();
    let output = daemon.run(&["top"]);
    assert!(output.status.code() == Some(2) && output.stdout.is_empty(), "{output:?}");
    let mut terminal = Terminal::start(&daemon, (80, 24));
    terminal.wait(&["pronghorn", "shown"]);
    daemon.stop(Signal::SIGTERM);
    terminal.wait(&["no answer"]);
    terminal.keys.write_all(b"q").expect("a key");
    terminal.assert_left();
}
