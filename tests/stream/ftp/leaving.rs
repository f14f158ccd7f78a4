//! Sessions over a reload, and operators' view of them.

use nix::sys::signal::Signal;

use super::{Ftp, origin, setup_with};
use crate::control::ctl;
use crate::support::wire::End;
use crate::support::{process, wait_for};

#[test]
fn a_session_stays_in_the_old_worker_for_as_long_as_that_may_take() {
    let origin = origin(|_, _, _| false);
    let daemon = setup_with(&origin, "control unix:%%DIR%%/ctl;", "").start();
    let old = daemon.worker();
    let mut ftp = Ftp::log_in(&daemon);
    let mut data = ftp.data();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log("cannot move to the new workers now");
    let (_, told, _) = ctl(&daemon, &["connections"]);
    assert!(told.contains("FTP") && told.contains(&old.to_string()), "the old worker is asked, too: {told}");
    assert_eq!(ftp.ask("RETR a"), "150 here it is");
    assert_eq!(data.rest(), (b"content of a".to_vec(), End::Closed));
    assert_eq!(ftp.reply(), "226 done");
    assert!(process::is_alive(old));
    assert_eq!(ftp.ask("QUIT"), "221 bye");
    wait_for("the old worker to leave", || (!process::is_alive(old)).then_some(()));
}

#[test]
fn an_idle_session_ends_with_421_when_the_time_is_over() {
    let origin = origin(|_, _, _| false);
    let daemon = setup_with(&origin, "worker_shutdown_timeout 300ms;", "").start();
    let mut ftp = Ftp::log_in(&daemon);
    daemon.signal(Signal::SIGHUP);
    assert_eq!(ftp.reply(), "421 The service is shutting down, closing control connection.");
    assert_eq!(ftp.0.expect_end(), End::Closed);
    daemon.wait_line("ftp.log", "^200 ");
}

#[test]
fn operators_see_that_it_is_ftp() {
    let origin = origin(|_, _, _| false);
    let daemon = setup_with(&origin, "control unix:%%DIR%%/ctl;", "").start();
    let mut ftp = Ftp::log_in(&daemon);
    ftp.ask("SITE IDLE 60");
    let (_, told, _) = ctl(&daemon, &["connections"]);
    assert!(told.contains("FTP") && told.contains("SITE IDLE 60"), "{told}");
    ftp.ask("PASS hidden");
    let (_, told, _) = ctl(&daemon, &["connections"]);
    assert!(!told.contains("hidden"), "{told}");
}
