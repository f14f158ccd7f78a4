//! The functions that a process is in, as it has written them down when the master asked (`sys/whereabouts.rs`).
//!
//! A piece of shared memory for each lane, apart from the area: a new binary does not adopt it, since it has processes
//! of its own. Its contents are text for the error log, and nothing is decided by them. Another worker may have written
//! them, so they are made readable here, whatever they are.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use super::lanes::{LANES, Lane};
use super::zone::Zone;
use crate::sys::whereabouts::{self, WORDS};

/// The most functions in a line of the log.
const TOLD_MAX: usize = 20;
/// The innermost functions, which are told whatever they are; of the others only our own.
const INNERMOST: usize = 5;

static ZONE: OnceLock<Zone> = OnceLock::new();

/// Maps the memory. For the master, before its first fork.
pub fn open() -> io::Result<()> {
    if ZONE.get().is_none() {
        let _ = ZONE.set(Zone::map(LANES * WORDS * size_of::<u64>())?);
    }
    Ok(())
}

pub(super) fn descriptor() -> Option<RawFd> {
    ZONE.get().map(|zone| zone.as_fd().as_raw_fd())
}

/// The words of a lane; `None`: nothing is mapped, as with `master_process off`.
pub fn words(lane: Lane) -> Option<&'static [AtomicU64; WORDS]> {
    ZONE.get()?.words().get(lane.number() * WORDS..)?.first_chunk()
}

/// The report of a process: its functions, the innermost first. `None`: there is none yet.
pub fn told(lane: Lane) -> Option<String> {
    let text = whereabouts::read(words(lane)?)?;
    Some(readable(&text))
}

/// Names of functions as their authors have written them, in one line of printable characters.
fn readable(text: &[u8]) -> String {
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let name = |line: &[u8]| {
        let name: String =
            line.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' }).collect();
        format!("{:#}", rustc_demangle::demangle(&name))
    };
    let mut names: Vec<String> = Vec::new();
    let mut is_left_out = false;
    for (index, name) in lines.map(name).enumerate() {
        let is_told = index < INNERMOST || name.contains("pronghorn::");
        if is_told {
            names.push(name);
        } else if !is_left_out {
            names.push("...".into());
        }
        is_left_out = !is_told;
        if names.len() == TOLD_MAX {
            break;
        }
    }
    names.join(" < ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_as_they_were_written() {
        let text = b"_ZN9pronghorn6script5regex5Regex8captures17h0123456789abcdefE\n0x1f0e\nmain\n";
        assert_eq!(readable(text), "pronghorn::script::regex::Regex::captures < 0x1f0e < main");
    }

    #[test]
    fn of_the_outer_functions_only_our_own_are_told() {
        let text = b"a\nb\nc\nd\ne\nf\ng\npronghorn::run\nh\ni\n";
        assert_eq!(readable(text), "a < b < c < d < e < ... < pronghorn::run < ...");
        let many = b"pronghorn::x\n".repeat(100);
        assert_eq!(readable(&many).matches("pronghorn::x").count(), TOLD_MAX);
    }

    #[test]
    fn any_bytes_become_one_line() {
        let hostile = [b"a\x1b[31m\r\x00b\xff".as_slice(), &b"\nx".repeat(100)].concat();
        let told = readable(&hostile);
        assert_eq!(told, "a?[31m??b? < x < x < x < x < ...");
        assert_eq!(readable(b""), "");
        for start in ["_ZN", "_R", "_ZN99999999999999999999999a", "_RNvCs"] {
            let told = readable(start.as_bytes());
            assert!(told.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{told}");
        }
    }

    #[test]
    fn each_lane_has_words_of_its_own() {
        open().expect("mapped");
        let lane = |number| Lane::of_number(number).expect("a lane");
        let first = words(lane(LANES - 2)).expect("mapped");
        let last = words(lane(LANES - 1)).expect("mapped");
        assert_eq!(told(lane(LANES - 1)), None);
        last[1].store(u64::from_le_bytes(*b"main\nrun"), std::sync::atomic::Ordering::Relaxed);
        last[0].store(8, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(told(lane(LANES - 1)).as_deref(), Some("main < run"));
        assert_eq!((told(lane(LANES - 2)), first.len()), (None, WORDS));
    }
}
