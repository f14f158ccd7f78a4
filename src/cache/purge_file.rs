//! The file of a cache's purges with `*`, which brings those whose files may still be on the disk over a restart.
//!
//! It lies in the folder of the cache. A line is a purge: milliseconds since 1970, and the prefix in hexadecimal digits,
//! since a key may have any bytes. The file is written under another name and renamed. Touches: that file. It belongs to
//! the workers, so the master, which reads it at a start, trusts nothing in it: a purge that is none makes responses be
//! fetched again, no more.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::base::number::{hex_digit, parse_u64};
use crate::shm::cache_purges::{Moment, PLACES, PREFIX_BYTES_MAX, Purge, Purges};
use crate::sys::{clock, random};

/// Its name in the folder of the cache. Those of files that are being written have a dot and digits behind it.
const NAME: &str = ".purges";

/// No file of ours is longer: a line for each place.
const BYTES_MAX: u64 = (PLACES * (PREFIX_BYTES_MAX * 2 + 32)) as u64;

/// How often a file is written again because the table has changed meanwhile.
const ATTEMPTS: usize = 16;

/// True for the names of this file and of those that become it.
pub fn is_ours(name: &[u8]) -> bool {
    name.strip_prefix(NAME.as_bytes()).is_some_and(|rest| rest.is_empty() || is_temporary(name))
}

/// True for the name of one that is being written.
pub fn is_temporary(name: &[u8]) -> bool {
    let digits = name.strip_prefix(NAME.as_bytes()).and_then(|rest| rest.strip_prefix(b"."));
    digits.is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
}

/// Fills the table after a start, once; does nothing if it has been in use before. Errors: the file cannot be read.
pub fn load(folder: &Path, purges: &Purges) -> io::Result<()> {
    if !purges.begin() {
        return Ok(());
    }
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let file = match File::options().read(true).custom_flags(flags).open(folder.join(NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let mut text = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut text)?;
    for (wall_ms, prefix) in parse(&text) {
        // If it does not fit there are more than we have ever written.
        let _ = purges.add(&prefix, Moment { wall_ms, monotonic_ms: clock::monotonic_ms() });
    }
    Ok(())
}

/// Writes the purges whose files are not gone yet. Blocks. Errors: the purges would not outlive a restart.
pub fn write(folder: &Path, purges: &Purges) -> io::Result<()> {
    let mut text = text_of(&purges.pending());
    for _ in 0..ATTEMPTS {
        put(folder, &text)?;
        // Not earlier: of several processes that write, the last one sees what all others have noted.
        let now = text_of(&purges.pending());
        if now == text {
            break;
        }
        text = now;
    }
    Ok(())
}

fn put(folder: &Path, text: &str) -> io::Result<()> {
    let path = folder.join(NAME);
    if text.is_empty() {
        return match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
    }
    let temporary = folder.join(format!("{NAME}.{}", random::number()));
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(temporary); // the error that is reported is the first one
    }
    written
}

fn text_of(purges: &[Purge]) -> String {
    let mut text = String::new();
    for purge in purges {
        let _ = write!(text, "{} ", purge.at.wall_ms);
        purge.prefix.iter().for_each(|byte| _ = write!(text, "{byte:02x}"));
        text.push('\n');
    }
    text
}

/// The purges of a file, the earliest first, in which order they were noted. A line that is none is skipped.
fn parse(text: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let line = |line: &[u8]| {
        let at = line.iter().position(|byte| *byte == b' ')?;
        let (wall_ms, digits) = (parse_u64(&line[..at])?, &line[at + 1..]);
        let byte = |pair: &[u8]| Some(hex_digit(pair[0])? << 4 | hex_digit(pair[1])?);
        let pairs = digits.chunks_exact(2);
        let is_whole = pairs.remainder().is_empty() && digits.len() <= PREFIX_BYTES_MAX * 2;
        let prefix = pairs.map(byte).collect::<Option<Vec<u8>>>().filter(|_| is_whole)?;
        Some((wall_ms, prefix))
    };
    let mut all: Vec<_> = text.split(|byte| *byte == b'\n').filter_map(line).collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::cache_purges::tests::purges;

    fn prefixes(purges: &Purges) -> Vec<(u64, Vec<u8>)> {
        let mut all: Vec<_> =
            purges.pending().into_iter().map(|purge| (purge.at.wall_ms, purge.prefix)).collect();
        all.sort();
        all
    }

    #[test]
    fn purges_come_back_after_a_restart_and_are_read_once() {
        let folder = tempfile::tempdir().expect("made");
        let before = purges();
        load(folder.path(), &before).expect("no file is no error");
        let all = [(5, &b"/a"[..]), (7, b"/a/b\n c\xff"), (8, b"")];
        for (count, (wall_ms, prefix)) in (1..).zip(all) {
            before.add(prefix, Moment { wall_ms, monotonic_ms: wall_ms }).expect("room");
            write(folder.path(), &before).expect("written");
            let after = purges();
            load(folder.path(), &after).expect("read");
            assert_eq!(prefixes(&after), prefixes(&before));
            assert_eq!(after.pending().len(), if count == 3 { 1 } else { count }, "the last one covers all");
            load(folder.path(), &after).expect("not read");
            before.pending().iter().for_each(|purge| assert!(after.cover(&purge.prefix, 1, 100)));
        }
        before.pending().iter().for_each(|purge| before.finish(purge, 100));
        write(folder.path(), &before).expect("removed");
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 0);
        write(folder.path(), &before).expect("it is gone already");
        assert!(write(&folder.path().join("none"), &purges()).is_ok());
    }

    #[test]
    fn later_purges_of_fewer_keys_are_not_lost() {
        assert_eq!(parse(b"9 2f61\n5 2f\n"), [(5, b"/".to_vec()), (9, b"/a".to_vec())]);
    }

    #[test]
    fn lines_that_are_no_purges_are_skipped() {
        let long = format!("1 {}\n", "ab".repeat(PREFIX_BYTES_MAX + 1));
        for none in
            ["", "\n", "1", " ", "x 2f", "1 2", "1 2g", "-1 2f", "99999999999999999999 2f", "1  2f", &long]
        {
            assert_eq!(parse(none.as_bytes()), [], "{none:?}");
        }
        assert_eq!(parse(b"junk\n1 \n2 2F"), [(1, vec![]), (2, b"/".to_vec())]);
    }

    #[test]
    fn names_are_told_apart() {
        assert!(is_ours(b".purges") && is_ours(b".purges.17") && is_temporary(b".purges.17"));
        for other in [&b".purge"[..], b".purges.", b".purges.x", b".purges17", b"purges", b""] {
            assert!(!is_ours(other));
        }
        assert!(!is_temporary(b".purges"));
    }

    #[test]
    fn a_file_of_another_kind_is_an_error_or_empty() {
        let folder = tempfile::tempdir().expect("made");
        fs::create_dir(folder.path().join(NAME)).expect("made");
        assert!(load(folder.path(), &purges()).is_err());
        let table = purges();
        table.add(b"/", Moment { wall_ms: 1, monotonic_ms: 1 }).expect("room");
        assert!(write(folder.path(), &table).is_err());
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 1, "no temporary file is left");
        fs::remove_dir(folder.path().join(NAME)).expect("removed");
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join(NAME)).expect("linked");
        assert!(load(folder.path(), &purges()).is_err());
    }
}
