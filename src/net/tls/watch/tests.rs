//! The decisions about changed certificates, without a clock.

use std::fs;
use std::io::Write;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::*;

fn stamp(number: u64) -> Stamp {
    let file = FileStamp { device: 1, inode: number, bytes: 1, modified: (0, 0), changed: (0, 0) };
    Stamp([Some(file), None, None, None])
}

fn watch() -> Watch {
    let mut watch = Watch::new([Some(stamp(1))].into_iter());
    assert_eq!(watch.due_ms(), Some(0));
    assert_eq!(watch.look(100, [stamp(1)].into_iter()), Look::default());
    assert_eq!(watch.due_ms(), Some(100 + LOOK_MS));
    watch
}

fn read(watch: &mut Watch, now_ms: u64, number: u64) -> Vec<usize> {
    watch.look(now_ms, [stamp(number)].into_iter()).read
}

fn error() -> Error {
    Error::Ocsp { path: "a".into() }
}

#[test]
fn a_changed_pair_is_read_when_it_has_been_quiet() {
    let mut watch = watch();
    watch.stir();
    assert_eq!(watch.due_ms(), Some(0));
    assert!(watch.look(5000, [stamp(2)].into_iter()).has_changed);
    assert_eq!(watch.due_ms(), Some(5000 + QUIET_MS));
    // The key comes half a second later.
    assert!(read(&mut watch, 5500, 3).is_empty());
    assert!(read(&mut watch, 6000, 3).is_empty());
    assert_eq!(watch.due_ms(), Some(5500 + QUIET_MS));
    assert_eq!(read(&mut watch, 6500, 3), [0]);
    assert_eq!(watch.due_ms(), Some(6500), "until it is answered");
    watch.taken(0, stamp(3));
    assert!(read(&mut watch, 6501, 3).is_empty());
    assert_eq!(watch.due_ms(), Some(100 + LOOK_MS));
}

#[test]
fn a_pair_that_is_as_it_was_is_not_read() {
    let mut watch = watch();
    assert!(read(&mut watch, 5000, 2).is_empty());
    assert!(read(&mut watch, 5500, 1).is_empty());
    assert!(read(&mut watch, 9000, 1).is_empty());
}

#[test]
fn a_fault_is_reported_once_and_only_if_it_stays() {
    let mut watch = watch();
    read(&mut watch, 5000, 2);
    assert_eq!(read(&mut watch, 6000, 2), [0]);
    watch.failed(0, stamp(2), 6000, &error());
    assert_eq!(watch.due_ms(), Some(6000 + FAULT_MS));
    // The other half comes in time: nothing is reported.
    read(&mut watch, 6800, 3);
    assert_eq!(read(&mut watch, 7800, 3), [0]);
    watch.failed(0, stamp(3), 7800, &error());
    assert_eq!(watch.look(11_000, [stamp(3)].into_iter()), Look::default());
    let faults = watch.look(12_800, [stamp(3)].into_iter()).faults;
    assert_eq!(faults, [(0, error().to_string())]);
    for minute in 1..5 {
        assert_eq!(watch.look(12_800 + minute * LOOK_MS, [stamp(3)].into_iter()), Look::default());
    }
    read(&mut watch, 400_000, 4);
    assert_eq!(read(&mut watch, 401_000, 4), [0], "other files");
}

#[test]
fn a_certificate_of_the_future_is_tried_every_minute_and_reported_once() {
    let mut watch = watch();
    let early = Error::Early { path: "a".into(), at_s: 0 };
    read(&mut watch, 5000, 2);
    assert_eq!(read(&mut watch, 6000, 2), [0]);
    watch.failed(0, stamp(2), 6000, &early);
    assert_eq!(watch.look(11_000, [stamp(2)].into_iter()).faults.len(), 1);
    for minute in 1..4 {
        let now_ms = 100 + minute * LOOK_MS;
        let look = watch.look(now_ms, [stamp(2)].into_iter());
        assert_eq!((look.read, look.faults.len()), (vec![0], 0));
        watch.failed(0, stamp(2), now_ms, &early);
    }
}

#[test]
fn many_pairs_are_read_in_parts() {
    let count = PAIRS_A_LOOK_MAX + 3;
    let mut watch = Watch::new((0..count).map(|_| None));
    assert!(watch.look(0, (0..count).map(|_| stamp(1))).read.is_empty());
    let first = watch.look(1000, (0..count).map(|_| stamp(1))).read;
    assert_eq!(first.len(), PAIRS_A_LOOK_MAX);
    first.iter().for_each(|index| watch.taken(*index, stamp(1)));
    assert_eq!(watch.due_ms(), Some(1000));
    assert_eq!(watch.look(1001, (0..count).map(|_| stamp(1))).read, [16, 17, 18]);
}

#[test]
fn without_certificates_nothing_is_due() {
    assert_eq!(Watch::new(std::iter::empty()).due_ms(), None);
}

#[test]
fn expiry_is_told_on_its_days() {
    let mut expiry = Expiry::new(1);
    let end_s = 100 * DAY_S;
    let told: Vec<i64> = (0..104 * 24)
        .filter(|hour| expiry.is_due(0, hour * 3600, end_s))
        .map(|hour| hour / 24 - 100)
        .collect();
    assert_eq!(told, [-14, -7, -1, 0, 1, 2, 3]);
    assert!(!expiry.is_due(0, 105 * DAY_S, 200 * DAY_S), "renewed");
    assert!(expiry.is_due(0, 190 * DAY_S, 200 * DAY_S));
    assert!(!expiry.is_due(1, 0, 0), "an index that is none");
}

/// A certificate for `a.test`, valid from one year to the other, in files.
fn pair(folder: &Path, years: (i32, i32)) -> Files {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["a.test".to_owned()]).expect("a name");
    params.not_before = date_time_ymd(years.0, 1, 1);
    params.not_after = date_time_ymd(years.1, 1, 1);
    let certificate = params.self_signed(&key).expect("a certificate");
    let files = Files {
        certificate: folder.join("pem"),
        key: folder.join("key"),
        passwords: None,
        ocsp: None,
        is_issued: false,
    };
    fs::write(&files.certificate, certificate.pem()).expect("ours");
    fs::write(&files.key, key.serialize_pem()).expect("ours");
    files
}

/// The begin of 2025.
const NOW_S: i64 = 1_735_689_600;

#[test]
fn a_pair_is_taken_only_if_it_can_serve_now() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let refusal = |files: &Files| load(files, NOW_S).err().expect("a refusal").to_string();

    let files = pair(folder, (2024, 2026));
    let loaded = load(&files, NOW_S).expect("a pair");
    let parcel = parcel::read(&loaded.parcel).expect("a parcel");
    assert!(is_same(&parcel, &loaded.certificate));

    assert!(refusal(&pair(folder, (2020, 2024))).contains("expired on 2024-01-01 00:00 UTC: renew it"));
    assert!(refusal(&pair(folder, (2026, 2027))).contains("not valid before 2026-01-01"));

    let first = pair(folder, (2024, 2026));
    let key = fs::read(&first.key).expect("ours");
    let other = pair(folder, (2024, 2026));
    fs::write(&other.key, key).expect("ours");
    let text = refusal(&other);
    assert!(text.contains("cannot load certificate key") && text.contains("belongs to it"), "{text}");

    fs::remove_file(&other.key).expect("ours");
    assert!(refusal(&other).contains("No such file or directory): put it back"));
    fs::create_dir(&other.key).expect("ours");
    assert!(refusal(&other).contains("it is not a file"));
    fs::remove_dir(&other.key).expect("ours");

    let ocsp = Some(folder.join("ocsp"));
    let files = Files { ocsp, ..pair(folder, (2024, 2026)) };
    fs::write(folder.join("ocsp"), [0x30, 3, 0x0a, 1, 6]).expect("ours");
    assert!(refusal(&files).contains("no successful OCSP response"), "unauthorized");
    fs::write(folder.join("ocsp"), [0x30, 3, 0x0a, 1, 0]).expect("ours");
    let stapled = load(&files, NOW_S).expect("a pair").certificate;
    assert_eq!(stapled.certified_key().ocsp.as_deref(), Some(&[0x30, 3, 0x0a, 1, 0][..]));
}

#[test]
fn a_named_pipe_does_not_stop_the_master() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = pair(folder.path(), (2024, 2026));
    fs::remove_file(&files.certificate).expect("ours");
    nix::unistd::mkfifo(&files.certificate, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    assert!(load(&files, NOW_S).is_err());
    // A program writes into it: that is no change to read.
    let (before, own) = (Stamp::of(&files), Stamp::of_file(&files.certificate));
    let mut pipe = fs::OpenOptions::new().read(true).write(true).open(&files.certificate).expect("opens");
    let modified = fs::metadata(&files.certificate).expect("there").modified().expect("known");
    while fs::metadata(&files.certificate).expect("there").modified().expect("known") == modified {
        pipe.write_all(b"x").expect("room");
    }
    assert_eq!((Stamp::of(&files), Stamp::of_file(&files.certificate)), (before, own));
    // A file in its place is one.
    fs::remove_file(&files.certificate).expect("ours");
    fs::write(&files.certificate, "new").expect("written");
    assert_ne!(Stamp::of(&files), before);
}

#[test]
fn what_ends_soon_says_when() {
    let folder = tempfile::tempdir().expect("a folder");
    let certificate = load(&pair(folder.path(), (2024, 2026)), NOW_S).expect("a pair").certificate;
    let end_s = certificate.not_after_s();
    let text = |left_s: i64| ending(Path::new("f"), &certificate, end_s - left_s).map(|ending| ending.text);
    assert_eq!(text(15 * DAY_S), None);
    let expected = "certificate \"f\" (a.test) expires in 7 days, on 2026-01-01 00:00 UTC";
    assert_eq!(text(7 * DAY_S).as_deref(), Some(expected));
    assert_eq!(text(6 * DAY_S + 1).as_deref(), Some(expected));
    assert!(text(DAY_S).is_some_and(|text| text.contains("expires within a day")));
    assert!(text(-1).is_some_and(|text| text.contains("has expired on 2026-01-01")));
    assert!(ending(Path::new("f"), &certificate, end_s + 1).is_some_and(|ending| ending.is_expired));
}
