//! The contents of a directory. For the blocking pool: reading may wait for the disk.
//!
//! Touches: the file system.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// One name in a directory.
#[derive(Debug)]
pub struct Item {
    pub name: Vec<u8>,
    pub kind: Kind,
    pub size: u64,
    /// Seconds since 1970.
    pub modified: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File,
    /// A FIFO, a socket, a device, or a dangling link.
    Other,
}

impl Item {
    fn new(name: Vec<u8>, metadata: &Metadata) -> Self {
        let kind = match () {
            () if metadata.is_dir() => Kind::Directory,
            () if metadata.is_file() => Kind::File,
            () => Kind::Other,
        };
        Self { name, kind, size: metadata.size(), modified: metadata.mtime() }
    }

    pub fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }
}

/// All names that do not begin with a dot: directories first, then in byte order. Entries that cannot be read
/// or have disappeared are left out.
pub fn read(path: &[u8]) -> io::Result<Vec<Item>> {
    let directory = Path::new(OsStr::from_bytes(path));
    let mut items = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        if name.as_bytes().first() == Some(&b'.') {
            continue;
        }
        let place = directory.join(&name);
        // a dangling link: the link itself
        let found = std::fs::metadata(&place).or_else(|_| std::fs::symlink_metadata(&place));
        if let Ok(metadata) = found {
            items.push(Item::new(name.as_bytes().to_vec(), &metadata));
        }
    }
    items.sort_by(|a, b| b.is_directory().cmp(&a.is_directory()).then_with(|| a.name.cmp(&b.name)));
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_first_and_dots_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b", "a", ".hidden", "Z"] {
            std::fs::write(folder.path().join(name), "12").unwrap();
        }
        std::fs::create_dir(folder.path().join("c")).unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("link")).unwrap();
        std::os::unix::fs::symlink("c", folder.path().join("to-c")).unwrap();
        let items = read(folder.path().as_os_str().as_bytes()).unwrap();
        let shown: Vec<_> =
            items.iter().map(|item| (String::from_utf8_lossy(&item.name).into_owned(), item.kind)).collect();
        let expected = [
            ("c", Kind::Directory),
            ("to-c", Kind::Directory),
            ("Z", Kind::File),
            ("a", Kind::File),
            ("b", Kind::File),
            ("link", Kind::Other),
        ];
        assert_eq!(shown, expected.map(|(name, kind)| (name.to_owned(), kind)));
        assert_eq!(items[3].size, 2);
        assert_eq!(read(b"/nowhere").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
