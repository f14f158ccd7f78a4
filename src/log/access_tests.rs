//! The writer on real files, pipes and full disks.

use std::path::PathBuf;

use super::*;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        Bench { dir: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("reads")
    }
}

#[test]
fn lines_of_a_turn_come_at_its_end() {
    let bench = Bench::new();
    let file = File::open(&bench.path("a.log"), None, None).expect("opens");
    file.write_line(b"one");
    file.write_line(b"two\n");
    assert_eq!(file.waiting().0, 8);
    flush_turn();
    assert_eq!(bench.text("a.log"), "one\ntwo\n");
    assert_eq!(file.waiting(), (0, 0));
}
