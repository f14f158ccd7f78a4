//! A file in which changes survive a restart: JSON objects, a line each, of which later ones undo earlier ones.
//!
//! A change is one line at the end; from time to time the file is replaced by one that has only what is in force. It is
//! the master's alone: whoever can write to it decides what is served after the next start.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::log;

#[derive(Debug)]
pub struct StateFile {
    pub path: PathBuf,
    file: File,
    /// The lines that it has.
    pub lines: usize,
}

impl StateFile {
    /// Replaces the file as a whole, so that a full disk leaves the old one.
    pub fn create(path: PathBuf, text: &[u8], lines: usize) -> Result<Self, (PathBuf, io::Error)> {
        let write = || {
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(".new");
            let next = path.with_file_name(name);
            let _ = std::fs::remove_file(&next);
            let mut options = File::options();
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut file = options.append(true).create_new(true).open(&next)?;
            let written = file.write_all(text).and_then(|()| std::fs::rename(&next, &path));
            if written.is_err() {
                let _ = std::fs::remove_file(&next); // what it takes of a full disk is needed
            }
            written.map(|()| file)
        };
        match write() {
            Ok(file) => Ok(Self { lines, file, path }),
            Err(error) => Err((path, error)),
        }
    }

    /// Appends lines; if only a part of them finds room, it is taken back.
    pub fn append(&mut self, text: &[u8], lines: usize) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        let appended = self.file.write_all(text);
        if appended.is_err() {
            let _ = self.file.set_len(length);
        } else {
            self.lines += lines;
        }
        appended
    }
}

/// The contents of a state file; `None`: there is none, or it cannot be read, which was reported. `otherwise` says what
/// is in force then.
pub fn read(path: &Path, bytes_max: usize, otherwise: &str) -> Option<Vec<u8>> {
    let read = std::fs::metadata(path).and_then(|file| {
        if file.len() > bytes_max as u64 {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        std::fs::read(path)
    });
    match read {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            let (shown, cause) = (path.display(), log::Cause(&error));
            log::alert!(
                log::process(),
                &(),
                "reading the state file \"{shown}\" failed {cause}: {otherwise}"
            );
            set_aside(path);
            None
        }
    }
}

/// Gives each line of a state file to `take`, as the value that it is. Lines that are none, or that are not taken for a
/// reason, are reported and left out. False: there were such lines.
pub fn each<T: DeserializeOwned>(
    text: &[u8],
    path: &Path,
    mut take: impl FnMut(T) -> Result<(), String>,
) -> bool {
    let mut is_whole = true;
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        let read = serde_json::from_slice(line).map_err(|error| error.to_string());
        if let Err(why) = read.and_then(&mut take) {
            is_whole = false;
            let (path, number) = (path.display(), index + 1);
            log::alert!(log::process(), &(), "line {number} of the state file \"{path}\" is ignored: {why}");
        }
    }
    is_whole
}

/// Keeps a state file of which something could not be used under another name, before it is written anew.
pub fn set_aside(path: &Path) {
    let mut name = path.as_os_str().to_owned();
    name.push(".old");
    match std::fs::rename(path, &name) {
        Ok(()) => {
            log::warn!(log::process(), &(), "the state file is kept as \"{}\"", Path::new(&name).display())
        }
        Err(error) => {
            let (path, cause) = (path.display(), log::Cause(&error));
            log::alert!(log::process(), &(), "rename() of the state file \"{path}\" failed {cause}");
        }
    }
}
