//! `scripts/logrotate/pronghorn`: logs are rotated under load, and each request has its line in one of the files.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::place::{Place, has, run, shipped};
use crate::support::daemon::is_stand_in;
use crate::support::{Client, wait_for};

/// The shipped file with this place's folder, user and scripts.
fn text(place: &Place, postrotate: &str) -> String {
    let text = std::fs::read_to_string(shipped("scripts/logrotate/pronghorn")).expect("it is shipped");
    let name = |flag: &str| run(Command::new("id").arg(flag)).out.trim().to_owned();
    let folder = place.path("logs");
    let mut told = text.replace("/var/log/pronghorn/*.log", &format!("\"{}/*.log\"", folder.display()));
    told = told.replace("create 0640 www-data adm", &format!("create 0640 {} {}", name("-un"), name("-gn")));
    told = told.replace("invoke-rc.d pronghorn rotate >/dev/null 2>&1", postrotate);
    let program = format!("'{}' -p '{}'", place.path("pronghorn").display(), place.path("").display());
    told = told.replace("/usr/sbin/pronghorn", &program);
    assert!(!told.contains("/var/") && !told.contains("/usr/sbin"), "{told}");
    told
}

/// The commands between `postrotate` and `endscript`.
fn postrotate(text: &str) -> &str {
    let (_, rest) = text.split_once("postrotate\n").expect("it has one");
    rest.split_once("endscript").expect("it ends").0
}

#[test]
fn no_request_loses_its_line() {
    if is_stand_in() {
        return;
    }
    let place =
        Place::new("worker_processes 2;", "location = /seen { access_log off; return 200; } return 200 x;");
    place.expect("start", 0);
    let settings = place.path("settings");
    let script = shipped("scripts/init.d/pronghorn");
    let by_script = format!("PRONGHORN_DEFAULTS='{}' '{}' rotate", settings.display(), script.display());
    let sent = Arc::new(AtomicUsize::new(0));
    let is_over = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (sent, is_over, port) = (sent.clone(), is_over.clone(), place.port());
            std::thread::spawn(move || {
                let mut client = Client::connect(port);
                while is_over.load(Ordering::Relaxed) == 0 {
                    if client.get("/").closes() {
                        client = Client::connect(port);
                    }
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let log = place.path("logs/access.log");
    // Both ways: by the init script, and by the program if there is none.
    for (round, way) in [by_script.as_str(), "false"].into_iter().enumerate() {
        wait_for("a log with lines", || {
            std::fs::metadata(&log).is_ok_and(|file| file.len() > 0).then_some(())
        });
        let conf = text(&place, way);
        if has("logrotate") {
            place.write("rotate", &conf);
            let mut command = Command::new("logrotate");
            command.arg("-f").arg("-s").arg(place.path("state")).arg(place.path("rotate"));
            let outcome = run(&mut command);
            assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""), "round {round}");
        } else {
            eprintln!("logrotate is not here: only its script is run");
            let older = place.path(&format!("logs/access.log.{}", 2 - round));
            std::fs::rename(&log, older).expect("it is there");
            let outcome = run(Command::new("sh").arg("-c").arg(postrotate(&conf)));
            assert_eq!(outcome.code, Some(0), "round {round}: {outcome:?}");
        }
        wait_for("lines in the new log", || {
            std::fs::metadata(&log).is_ok_and(|file| file.len() > 0).then_some(())
        });
        let before = sent.load(Ordering::Relaxed);
        wait_for("more requests", || (sent.load(Ordering::Relaxed) > before + 20).then_some(()));
    }
    is_over.store(1, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().expect("every request is answered"));
    place.expect("stop", 0);
    let all = format!(
        "cd '{}' && {{ cat access.log access.log.1; if [ -e access.log.2.gz ]; then gzip -dc access.log.2.gz; \
         else cat access.log.2; fi; }} | grep -c 'GET / HTTP/1.1. 200'",
        place.path("logs").display()
    );
    let lines = run(Command::new("sh").arg("-c").arg(all)).out;
    assert_eq!(lines.trim(), sent.load(Ordering::Relaxed).to_string());
}

#[test]
fn where_nothing_runs_there_is_nothing_to_do() {
    if is_stand_in() {
        return;
    }
    let place = Place::new("", "return 200 x;");
    let outcome = run(Command::new("sh").arg("-c").arg(postrotate(&text(&place, "false"))));
    assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""));
}
