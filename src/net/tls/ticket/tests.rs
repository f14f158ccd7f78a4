//! Tickets sealed and opened under all keys and contexts, and those that must be refused.

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, KeyIvInit};

use super::super::context::Settings;
use super::*;

const NOW: Now = Now { wall_s: 1_800_000_000, running_s: 1000 };

fn context(name: &str) -> Context {
    Context::new(&Settings { server: &[name.as_bytes()], ..Settings::default() })
}

/// A key file in which all bytes differ.
fn file(length: u8, seed: u8) -> Vec<u8> {
    (0..length).map(|index| index ^ seed).collect()
}

fn ticketer(files: &[Vec<u8>]) -> Ticketer {
    let keys = files.iter().map(|file| TicketKey::parse(file).expect("48 or 80 bytes")).collect();
    Ticketer::new(Keys::Files(keys), context("a"), 300)
}

fn after(seconds: i64) -> Now {
    Now { wall_s: NOW.wall_s.saturating_add_signed(seconds), ..NOW }
}

#[test]
fn tickets_have_the_form_of_openssl() {
    for (length, mac_key, aes_key) in [(48, 32..48, 16..32), (80, 16..48, 48..80)] {
        let file = file(length, 0x80);
        let ticket = ticketer(std::slice::from_ref(&file)).seal(b"session", NOW).expect("sealed");
        assert_eq!(ticket.len(), 16 + 16 + 16 + 32);
        assert_eq!(ticket[..16], file[..16]);
        let (sealed, mac) = ticket.split_at(ticket.len() - 32);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &file[mac_key]);
        hmac::verify(&key, &[context("a").as_bytes(), sealed].concat(), mac).expect("RFC 5077's MAC");
        let (aes_key, iv, mut text) = (&file[aes_key], &sealed[16..32], sealed[32..].to_vec());
        // Another implementation of AES-CBC than the one that has encrypted it.
        let plain = if length == 48 {
            let key = cbc::Decryptor::<aes::Aes128>::new_from_slices(aes_key, iv).expect("lengths");
            key.decrypt_padded::<Pkcs7>(&mut text).expect("padding").to_vec()
        } else {
            let key = cbc::Decryptor::<aes::Aes256>::new_from_slices(aes_key, iv).expect("lengths");
            key.decrypt_padded::<Pkcs7>(&mut text).expect("padding").to_vec()
        };
        assert_eq!(plain, [&NOW.wall_s.to_be_bytes()[..], b"session"].concat());
    }
}

#[test]
fn the_first_file_seals_and_all_open() {
    let (old, new, none) = (file(48, 1), file(80, 2), file(80, 3));
    let rotated = ticketer(&[new.clone(), old.clone()]);
    let from_old = ticketer(&[old]).seal(b"session", NOW).expect("sealed");
    assert_eq!(rotated.open(&from_old, NOW).as_deref(), Some(&b"session"[..]));
    let ticket = rotated.seal(b"session", NOW).expect("sealed");
    assert_eq!(ticket[..16], new[..16]);
    assert_eq!(ticketer(&[new]).open(&ticket, NOW).as_deref(), Some(&b"session"[..]));
    assert_eq!(ticketer(&[none]).open(&ticket, NOW), None);
    assert_eq!(ticketer(&[]).seal(b"session", NOW), None);
    let again = rotated.seal(b"session", NOW).expect("sealed");
    assert_ne!(again, ticket, "no IV comes twice");
}

#[test]
fn a_ticket_is_worthless_in_another_context() {
    let own = ticketer(&[file(80, 1)]);
    let ticket = own.seal(b"session", NOW).expect("sealed");
    let other = Ticketer { context: context("b"), ..ticketer(&[file(80, 1)]) };
    assert_eq!(other.open(&ticket, NOW), None);
    assert!(own.open(&ticket, NOW).is_some());
}

#[test]
fn a_ticket_ends_with_its_lifetime() {
    let own = ticketer(&[file(80, 1)]);
    let ticket = own.seal(b"session", NOW).expect("sealed");
    for (seconds, is_valid) in
        [(0, true), (299, true), (300, false), (-60, true), (-61, false), (i64::MIN, false)]
    {
        assert_eq!(own.open(&ticket, after(seconds)).is_some(), is_valid, "{seconds}");
    }
    let shorter = Ticketer { lifetime_s: 10, ..ticketer(&[file(80, 1)]) };
    assert!(shorter.open(&ticket, after(11)).is_none(), "a reload has shortened it");
    let longest = Ticketer::new(Keys::Files([].into()), context("a"), u32::MAX);
    assert_eq!(longest.lifetime(), 604_800);
}

#[test]
fn a_ticket_with_any_bit_changed_or_cut_anywhere_is_refused() {
    for length in [48, 80] {
        let own = ticketer(&[file(length, 1)]);
        let ticket = own.seal(&[5; 100], NOW).expect("sealed");
        for index in 0..ticket.len() {
            for bit in 0..8 {
                let mut changed = ticket.clone();
                changed[index] ^= 1 << bit;
                assert_eq!(own.open(&changed, NOW), None, "{index} {bit}");
            }
            assert_eq!(own.open(&ticket[..index], NOW), None, "{index}");
            assert_eq!(own.open(&[&ticket[..index], &[0], &ticket[index..]].concat(), NOW), None, "{index}");
        }
    }
}

/// Somebody with the MAC key, but no idea of what we seal: nothing in it may panic.
#[test]
fn any_text_under_a_valid_mac_is_parsed_without_panic() {
    let own = ticketer(&[file(80, 1)]);
    let Keys::Files(keys) = &own.keys else { unreachable!("made of files") };
    let key = &keys[0];
    for length in 0..100 {
        let head = [&key.name[..], &vec![0x11; length]].concat();
        let mac = key.mac(&own.context, &head);
        assert_eq!(own.open(&[&head[..], mac.as_ref()].concat(), NOW), None, "{length}");
    }
}

#[test]
fn a_session_too_long_for_a_ticket_makes_none() {
    let own = ticketer(&[file(80, 1)]);
    assert!(own.seal(&vec![0; 65_000], NOW).is_some());
    assert_eq!(own.seal(&vec![0; 65_536], NOW), None);
    assert_eq!(own.open(&vec![0; 1 << 20], NOW), None);
}

#[test]
fn files_of_another_size_are_refused_with_words() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("ticket.key");
    for length in [0, 16, 47, 49, 79, 81, 4096] {
        std::fs::write(&path, vec![1; length]).expect("written");
        let error = TicketKey::read(&path).expect_err("another size");
        assert_eq!(error.to_string(), format!("must be 48 or 80 bytes, not {length}"));
        assert!(TicketKey::parse(&vec![1; length]).is_err());
    }
    for (length, name) in [(48, "TicketKey(AES-128)"), (80, "TicketKey(AES-256)")] {
        std::fs::write(&path, file(length, 1)).expect("written");
        let key = TicketKey::read(&path).expect("a key");
        assert_eq!(format!("{key:?}"), name, "and nothing of its bytes");
    }
    let error = TicketKey::read(&directory.path().join("absent")).expect_err("absent");
    assert_eq!(error.to_string(), "cannot be read (2: No such file or directory)");
}

#[test]
fn shared_keys_rotate_while_tickets_go_on() {
    let keys = || Arc::new(SharedKeys::new(4001)); // a period that no other test has
    let own = Ticketer::new(Keys::Shared(keys()), context("a"), 4001);
    assert_eq!(own.seal(b"session", NOW), None, "without memory, as with -t");
    let open = || {
        let keys = keys();
        keys.open_at(NOW.running_s).expect("maps");
        Ticketer::new(Keys::Shared(keys), context("a"), 4001)
    };
    let (own, reloaded) = (open(), open());
    let at =
        |seconds: u32| Now { wall_s: NOW.wall_s + u64::from(seconds), running_s: NOW.running_s + seconds };
    let first = own.seal(b"session", at(0)).expect("sealed");
    assert_eq!(reloaded.open(&first, at(4000)).as_deref(), Some(&b"session"[..]));
    let second = reloaded.seal(b"session", at(4001)).expect("sealed");
    assert_ne!(first[..16], second[..16], "another period, another key");
    assert!(own.open(&second, at(8000)).is_some());
    assert_eq!(own.open(&first, at(4001)), None);
    let other = Ticketer { context: context("b"), ..open() };
    assert_eq!(other.open(&second, at(4001)), None);
    assert_ne!(SharedKeys::new(300).id(), SharedKeys::new(301).id());
    assert_eq!([0, 2, u32::MAX].map(|timeout_s| SharedKeys::new(timeout_s).period_s()), [1, 2, 604_800]);
}

#[test]
fn what_holds_for_all_tickets_holds_for_these() {
    for bytes in [&b""[..], b"a", &[0; 80], &[7; 80], &[0xff; 300], &file(200, 9), &vec![3; 70_000]] {
        property::opens_its_own_only(bytes);
    }
}
