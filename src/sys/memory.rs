//! The memory that this process has, and the memory that it may have.
//!
//! Source: proc(5), cgroups(7).

use std::fs;
use std::path::Path;

/// The memory that all processes of a machine, or of a container, may have together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub bytes: u64,
    pub of: Holder,
}

/// The holder of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    Machine,
    /// A control group, as containers and units of systemd are.
    Group,
}

/// The memory of the machine, or of this process' control group if that has less. `None`: /proc says nothing.
pub fn limit() -> Option<Limit> {
    limit_in(Path::new("/"))
}

/// Bytes of memory of this process that come from no file, those that it shares with its parent included.
pub fn own_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    kib_of(&status, "RssAnon:").unwrap_or(0).saturating_mul(1024)
}

fn limit_in(root: &Path) -> Option<Limit> {
    let machine = fs::read_to_string(root.join("proc/meminfo")).ok();
    let machine = machine.and_then(|text| kib_of(&text, "MemTotal:")).map(|kib| kib.saturating_mul(1024));
    let machine = machine.map(|bytes| Limit { bytes, of: Holder::Machine });
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let groups = groups.lines().filter_map(|line| group_bytes(root, line));
    let group = groups.min().map(|bytes| Limit { bytes, of: Holder::Group });
    machine.into_iter().chain(group).min_by_key(|limit| limit.bytes)
}

/// The number of a line such as `MemTotal:  24683656 kB`.
fn kib_of(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The least limit of a control group and those around it. `line`: `number:controllers:path`, which version 2 writes
/// with neither number nor controllers.
fn group_bytes(root: &Path, line: &str) -> Option<u64> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let (base, file) = match controllers {
        "" => ("sys/fs/cgroup", "memory.max"),
        names if names.split(',').any(|name| name == "memory") => {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return None,
    };
    let base = root.join(base);
    // In a container the path may be the host's, of which only the last part, the base itself, is mounted here.
    let inner = Path::new(path.trim_start_matches('/'));
    let folders = inner.ancestors().map(|part| base.join(part));
    // "max", or version 1's largest number, is no limit.
    folders.filter_map(|folder| fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn root(files: &[(&str, &str)]) -> (tempfile::TempDir, Option<Limit>) {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        }
        let limit = limit_in(folder.path());
        (folder, limit)
    }

    #[test]
    fn the_least_limit_counts() {
        let machine = ("proc/meminfo", "MemTotal:       1048576 kB\nMemFree: 5 kB\n");
        let limit = |bytes, of| Some(Limit { bytes, of });
        let cases: [(&[(&str, &str)], _); 6] = [
            (&[machine], limit(1024 * MIB, Holder::Machine)),
            (
                &[machine, ("proc/self/cgroup", "0::/a/b\n"), ("sys/fs/cgroup/a/memory.max", "104857600\n")],
                limit(100 * MIB, Holder::Group),
            ),
            (
                &[machine, ("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "max\n")],
                limit(1024 * MIB, Holder::Machine),
            ),
            (
                &[
                    machine,
                    ("proc/self/cgroup", "4:cpu,memory:/docker/x\n1:cpu:/\n0::/\n"),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "52428800\n"),
                    ("sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "9223372036854771712\n"),
                ],
                limit(50 * MIB, Holder::Group),
            ),
            (&[machine, ("proc/self/cgroup", "nonsense\n::\n")], limit(1024 * MIB, Holder::Machine)),
            (&[], None),
        ];
        for (files, expected) in cases {
            assert_eq!(root(files).1, expected, "{files:?}");
        }
    }

    #[test]
    fn this_process_has_memory_and_may_have_more() {
        let own = own_bytes();
        assert!(own > 0 && limit().is_some_and(|limit| limit.bytes > own), "{own} {:?}", limit());
    }
}
