//! Files of the cache that are no stored answers, or no longer: none is served, and each is replaced.

use std::os::unix::fs::PermissionsExt;

use super::{ask, start, storable, stored, wait_idle, wait_stored};
use crate::support::daemon::is_stand_in;
use crate::support::{Daemon, Origin};

/// Stores an answer and replaces its file; the next answer must be the origin's, the one after that a hit.
fn replaced(name: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let origin = storable();
    let daemon = start(&origin, "");
    assert_eq!(ask(&daemon, "/p"), ("MISS".into(), "/p 1".into()));
    wait_stored(&daemon, 1);
    let path = stored(&daemon).remove(0);
    let file = std::fs::read(&path).expect("it is there");
    std::fs::write(&path, change(file)).expect("it is there");
    let (status, text) = ask(&daemon, "/p");
    assert_ne!(status, "HIT", "{name}");
    assert_eq!(text, "/p 2", "{name}");
    wait_idle(&daemon);
    assert_eq!(ask(&daemon, "/p"), ("HIT".into(), "/p 2".into()), "{name}");
    assert_eq!(stored(&daemon), [path], "{name}");
}

#[test]
fn files_that_are_no_stored_answers_are_replaced() {
    replaced("empty", |_| Vec::new());
    replaced("text", |_| b"something else entirely\n".repeat(100));
    replaced("zeros", |file| vec![0; file.len()]);
    replaced("half a fixed part", |file| file[..100].to_vec());
    replaced("no head", |file| file[..345].to_vec());
    replaced("version", |mut file| {
        file[0] = 4;
        file
    });
    replaced("checksum", |mut file| {
        file[48] ^= 1;
        file
    });
    replaced("key", |mut file| {
        file[343] = b'q';
        file
    });
}

#[test]
fn heads_that_do_not_end_are_replaced() {
    if is_stand_in() {
        return; // nginx reads past them
    }
    replaced("head cut", |file| file[..file.len() - 10].to_vec());
    replaced("body position", |mut file| {
        file[56..58].copy_from_slice(&[0xff, 0xff]);
        file
    });
    replaced("a stored answer of FastCGI", |mut file| {
        file[345..349].copy_from_slice(&[1, 6, 0, 1]);
        file
    });
}

#[test]
fn numbers_that_cannot_be_do_no_harm() {
    let origin = storable();
    let daemon = start(&origin, "");
    ask(&daemon, "/p");
    wait_stored(&daemon, 1);
    let path = stored(&daemon).remove(0);
    for number in [i64::MIN, -1, i64::MAX] {
        let mut file = std::fs::read(&path).expect("it is there");
        // all times but the lifetime
        for at in [16, 24, 32, 40] {
            file[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        std::fs::write(&path, file).expect("it is there");
        assert_eq!(ask(&daemon, "/p"), ("HIT".into(), "/p 1".into()), "{number}");
    }
    assert_eq!(daemon.complaints("crit|alert|emerg"), Vec::<String>::new());
}

#[test]
fn a_file_that_is_gone_is_fetched_again() {
    let origin = storable();
    let daemon = start(&origin, "");
    ask(&daemon, "/p");
    wait_stored(&daemon, 1);
    std::fs::remove_file(&stored(&daemon)[0]).expect("it is there");
    assert_eq!(ask(&daemon, "/p"), ("MISS".into(), "/p 2".into()));
    wait_stored(&daemon, 1);
    assert_eq!(ask(&daemon, "/p"), ("HIT".into(), "/p 2".into()));
}

#[test]
fn a_whole_folder_that_is_gone_is_made_again() {
    let origin = storable();
    let daemon = start(&origin, "");
    ask(&daemon, "/p");
    wait_stored(&daemon, 1);
    for entry in std::fs::read_dir(daemon.path("cache")).expect("a folder").flatten() {
        std::fs::remove_dir_all(entry.path()).expect("it is ours");
    }
    assert_eq!(ask(&daemon, "/p").1, "/p 2");
    wait_stored(&daemon, 1);
    assert_eq!(ask(&daemon, "/p"), ("HIT".into(), "/p 2".into()));
}

#[test]
fn folders_in_the_place_of_files_do_no_harm() {
    if is_stand_in() {
        return; // nginx answers 500
    }
    let origin = storable();
    let daemon: Daemon = start(&origin, "");
    ask(&daemon, "/p");
    wait_stored(&daemon, 1);
    let path = stored(&daemon).remove(0);
    std::fs::remove_file(&path).expect("it is there");
    std::fs::create_dir(&path).expect("its name is free");
    for count in 2..4 {
        assert_eq!(ask(&daemon, "/p").1, format!("/p {count}"));
    }
    std::fs::remove_dir(&path).expect("it is empty");
    assert_eq!(ask(&daemon, "/p").1, "/p 4");
    wait_stored(&daemon, 1);
    assert_eq!(ask(&daemon, "/p"), ("HIT".into(), "/p 4".into()));
}

#[test]
fn stored_answers_are_for_the_worker_alone() {
    let origin: Origin = storable();
    let daemon = start(&origin, "");
    ask(&daemon, "/p");
    wait_stored(&daemon, 1);
    let path = stored(&daemon).remove(0);
    let folder = path.parent().expect("a level");
    for (path, mode) in [(path.as_path(), 0o600), (folder, 0o700), (&daemon.path("cache"), 0o700)] {
        let found = std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(found, mode, "{}", path.display());
    }
}
