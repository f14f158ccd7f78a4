//! The cache manager as a process: it finds the files of a cache after a start, removes what is due, and lives as long as
//! there is a cache. The files are made by hand, under the names that keys would give them.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;

use crate::process::upgrade::upgrade;
use crate::support::daemon::{is_stand_in, send};
use crate::support::{Daemon, Origin, Setup, get, process, wait_for};

/// Files of 6 KB, 8 KiB on disk, as many as `count`; and the configuration of their cache.
fn setup(parameters: &str, count: usize) -> Setup {
    let conf = format!(
        "worker_processes 1; http {{
            proxy_cache_path %%DIR%%/cache levels=1:2 keys_zone=pages:64k {parameters};
            server {{ listen 127.0.0.1:%%PORT_0%%; location / {{ return 200 \"here\\n\"; }} }}
        }}"
    );
    let setup = Setup::new(&conf).level("info");
    (0..count).fold(setup, |setup, number| setup.file(&name(number), [b'x'; 6000]))
}

/// The file of a key, as levels=1:2 has it.
fn name(number: usize) -> String {
    let hex = format!("b7f54b2df7773722d382f4809d65{number:04x}");
    format!("cache/{}/{}/{hex}", &hex[31..], &hex[29..31])
}

/// The files of the cache that are there.
fn files(daemon: &Daemon) -> Vec<PathBuf> {
    let folders = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
    let outer = folders(daemon.path("cache")).flat_map(|entry| folders(entry.path()));
    outer.flat_map(|entry| folders(entry.path())).map(|entry| entry.path()).collect()
}

fn wait_files(daemon: &Daemon, count: usize) {
    wait_for("the files that are due to be removed", || (files(daemon).len() == count).then_some(()));
}

#[test]
fn files_of_the_last_run_are_found_and_removed_when_nothing_uses_them() {
    let old = SystemTime::now() - Duration::from_secs(2 * 24 * 3600);
    let abandoned = format!("{}.0000000001", name(1));
    let setup = setup("inactive=2s loader_files=2 loader_sleep=1ms", 5)
        .file(&abandoned, "x")
        .file(&format!("{}.0000000002", name(1)), "x")
        .file("cache/notes", "x");
    let file = std::fs::File::options().write(true).open(setup.folder().join(&abandoned)).expect("made");
    file.set_modified(old).expect("ours");
    let daemon = setup.start();
    if is_stand_in() {
        return; // it removes whatever it does not know
    }
    let line = daemon.wait_log("\\[notice\\].*cache \"pages\": loaded 5 files");
    assert!(line.contains("(40 KiB)"), "{line}");
    daemon.wait_log("cache \"pages\": removed 1 abandoned");
    daemon.wait_log("\\[warn\\].*cache\" has 1 files or folders of other kinds");
    wait_files(&daemon, 1);
    assert!(files(&daemon)[0].to_string_lossy().ends_with(".0000000002"), "it may be in use");
    assert!(daemon.path("cache/notes").exists());
    assert_eq!(daemon.complaints("error|crit|alert|emerg"), [] as [&str; 0]);
}

#[test]
fn a_cache_that_is_too_large_loses_files() {
    let daemon = setup("max_size=20k manager_files=1 manager_sleep=1ms", 9).start();
    wait_files(&daemon, 2);
    daemon.stop(Signal::SIGQUIT);
}

#[test]
fn a_cache_gives_way_while_the_disk_is_full() {
    let daemon = setup("min_free=1000000g", 3).start();
    wait_files(&daemon, 0);
}

#[test]
fn a_response_that_nothing_asks_for_goes_and_one_in_use_stays() {
    let origin = Origin::saying("x");
    let conf = "worker_processes 2; http {
        proxy_cache_path %%DIR%%/cache levels=1:2 keys_zone=pages:64k inactive=5s;
        server {
            listen 127.0.0.1:%%PORT_0%%;
            location / { proxy_pass http://%%ORIGIN%%; proxy_cache pages; proxy_cache_valid 1h; }
        } }";
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).level("info").start();
    for path in ["/used", "/unused"] {
        get(daemon.port(0), path);
    }
    wait_files(&daemon, 2);
    wait_for("one file to be removed", || {
        assert_eq!(get(daemon.port(0), "/used").text(), "x");
        (files(&daemon).len() == 1).then_some(())
    });
    assert_eq!(origin.requests().len(), 2, "it was served from the cache all the time");
    get(daemon.port(0), "/unused");
    assert_eq!(origin.requests().len(), 3);
    assert_eq!(daemon.complaints("error|crit|alert|emerg"), [] as [&str; 0]);
}

#[test]
fn the_folder_is_made_for_the_workers() {
    let daemon = setup("use_temp_path=off", 0).start();
    let folder = std::fs::metadata(daemon.path("cache")).expect("made");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&folder.permissions()) & 0o777, 0o700);
    if is_stand_in() {
        return;
    }
    daemon.wait_log("cache \"pages\": loaded 0 files");
    let title = process::title(daemon.cache_manager());
    assert!(title.starts_with("pronghorn: cache manager process (generation 1,"), "{title}");
}

#[test]
fn a_manager_that_is_killed_is_replaced_and_what_was_loaded_stays() {
    if is_stand_in() {
        return; // the lines are ours
    }
    let daemon = setup("inactive=1h", 3).start();
    daemon.wait_log("loaded 3 files");
    let first = daemon.cache_manager();
    send(first, Signal::SIGKILL);
    daemon.wait_log(&format!("cache manager process {first} exited on signal 9"));
    let second = wait_for("the next one", || Some(daemon.cache_manager()).filter(|pid| *pid != first));
    // Sizes are still known: they are in shared memory.
    daemon.rewrite(|text| text.replace("inactive=1h", "inactive=1h max_size=0"));
    daemon.reload();
    wait_files(&daemon, 0);
    assert_ne!(daemon.cache_manager(), second, "the next generation has its own");
    assert_eq!(daemon.log_count("loaded \\d+ files"), 1, "only once after a start");
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
}

#[test]
fn a_reload_that_would_lose_the_files_is_refused() {
    let daemon = setup("inactive=1h", 1).start();
    let refused = |from: &str, to: &str, words: &str| {
        daemon.rewrite(|text| text.replace(from, to));
        daemon.signal(Signal::SIGHUP);
        daemon.wait_log(&format!("\\[emerg\\].*{words}"));
        daemon.rewrite(|text| text.replace(to, from));
    };
    refused("levels=1:2", "levels=1:1", "cache \"pages\" had previously different levels");
    let words = "cache \"pages\" uses the \".*/elsewhere\" cache path while previously it used the \".*/cache\" cache path";
    refused("/cache levels", "/elsewhere levels", words);
    if is_stand_in() {
        return;
    }
    // Another size is another zone, which is loaded anew.
    daemon.wait_log("loaded 1 file");
    daemon.rewrite(|text| text.replace("levels=1:2 keys_zone=pages:64k", "levels=1:1 keys_zone=pages:96k"));
    daemon.reload();
    daemon.wait_log("loaded 0 files");
    daemon.wait_log("cache\" has 1 files or folders of other kinds or levels");
}

#[test]
fn a_configuration_without_caches_has_no_manager() {
    if is_stand_in() {
        return;
    }
    let daemon = setup("inactive=1h", 1).start();
    daemon.wait_log("loaded 1 file");
    daemon.rewrite(|text| text.replace("proxy_cache_path", "#proxy_cache_path"));
    daemon.reload();
    wait_for("the manager to end", || daemon.cache_managers_now().is_empty().then_some(()));
    assert_eq!(files(&daemon).len(), 1);
}

#[test]
fn after_an_upgrade_the_new_binary_manages_what_the_old_one_has_loaded() {
    if is_stand_in() {
        return;
    }
    let daemon = setup("inactive=1h", 2).start();
    daemon.wait_log("loaded 2 files");
    daemon.rewrite(|text| text.replace("inactive=1h", "inactive=1h max_size=0"));
    let (old, new) = (daemon.pid(), upgrade(&daemon));
    send(old, Signal::SIGQUIT);
    daemon.follow(new);
    wait_files(&daemon, 0);
    assert_eq!(daemon.log_count("loaded \\d+ files"), 1);
}

#[test]
fn without_a_master_the_only_process_manages() {
    if is_stand_in() {
        return;
    }
    let conf = "master_process off; http {
        proxy_cache_path %%DIR%%/cache levels=1:2 keys_zone=pages:64k inactive=1s;
        server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 \"here\\n\"; } } }";
    let daemon = Setup::new(conf).level("info").file(&name(1), "x").alone().start();
    daemon.wait_log("loaded 1 file");
    wait_files(&daemon, 0);
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
}
