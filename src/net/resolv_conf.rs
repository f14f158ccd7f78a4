//! The system's name servers: `/etc/resolv.conf`, read again when it changes.
//!
//! Touches: that file. Behaviour: resolv.conf(5). What the C library takes from elsewhere (environment, /etc/hosts) is
//! not read.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The path of the file.
pub const PATH: &str = "/etc/resolv.conf";

/// The port of name servers (RFC 1035 §4.2).
const PORT: u16 = 53;
/// As many servers and domains as the C library uses.
const SERVERS_MAX: usize = 3;
const SEARCH_MAX: usize = 6;
/// A longer file is cut off.
const BYTES_MAX: usize = 64 * 1024;

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// At least one.
    pub servers: Vec<SocketAddr>,
    /// The domains in which names are looked for.
    search: Vec<String>,
    /// A name with fewer dots is looked for there first.
    ndots: usize,
    /// `timeout` and `attempts`: how long one server is waited for, and how often each is asked.
    timeout_s: u64,
    attempts: u64,
}

impl Default for System {
    fn default() -> Self {
        let servers = vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)];
        Self { servers, search: Vec::new(), ndots: 1, timeout_s: 5, attempts: 2 }
    }
}

impl System {
    /// Reads the text of the file; lines that make no sense are skipped.
    pub fn parse(text: &str) -> Self {
        let mut system = Self { servers: Vec::new(), ..Self::default() };
        for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") if system.servers.len() < SERVERS_MAX => {
                    system.servers.extend(words.next().and_then(server));
                }
                Some("domain") => system.search = words.take(1).map(str::to_owned).collect(),
                Some("search") => system.search = words.take(SEARCH_MAX).map(str::to_owned).collect(),
                Some("options") => words.for_each(|word| system.option(word)),
                _ => {}
            }
        }
        if system.servers.is_empty() {
            system.servers = Self::default().servers;
        }
        system
    }

    fn option(&mut self, word: &str) {
        let Some((name, value)) = word.split_once(':') else { return };
        let Ok(value) = value.parse::<u64>() else { return };
        match name {
            "ndots" => self.ndots = value.min(15) as usize,
            "timeout" => self.timeout_s = value.clamp(1, 30),
            "attempts" => self.attempts = value.clamp(1, 5),
            _ => {}
        }
    }

    /// The names to ask for, in this order, until one exists.
    pub fn candidates(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.to_owned()];
        }
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        let mut names: Vec<String> = self.search.iter().map(|domain| format!("{name}.{domain}")).collect();
        let at = if dots >= self.ndots { 0 } else { names.len() };
        names.insert(at, name.to_owned());
        names
    }

    /// The time after which the C library would give up.
    pub fn limit_ms(&self) -> u64 {
        self.timeout_s * 1000 * self.attempts * self.servers.len() as u64
    }
}

/// An address, perhaps with the scope of a link-local one (`fe80::1%eth0`), which is ignored if it is no number.
fn server(text: &str) -> Option<SocketAddr> {
    match text.split_once('%') {
        None => Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, PORT)),
        Some((ip, scope)) => {
            let scope = scope.parse().unwrap_or(0);
            Some(SocketAddr::V6(std::net::SocketAddrV6::new(ip.parse().ok()?, PORT, 0, scope)))
        }
    }
}

/// The file, and what it said when it was last read.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    stamp: Option<(SystemTime, u64)>,
    system: System,
}

impl File {
    /// Reads nothing yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), stamp: None, system: System::default() }
    }

    /// The present content, and whether it is another one than before. A file that cannot be read is as it was; at
    /// first, as an empty one.
    pub fn look(&mut self) -> (&System, bool) {
        let stamp =
            std::fs::metadata(&self.path).ok().and_then(|data| Some((data.modified().ok()?, data.len())));
        if stamp.is_none() || stamp == self.stamp {
            return (&self.system, false);
        }
        let Ok(mut bytes) = std::fs::read(&self.path) else { return (&self.system, false) };
        self.stamp = stamp;
        bytes.truncate(BYTES_MAX);
        let system = System::parse(&String::from_utf8_lossy(&bytes));
        let has_changed = system != self.system;
        self.system = system;
        (&self.system, has_changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_file_are_understood() {
        let system = System::parse(
            "# made by hand\nnameserver 10.0.0.1\nnameserver fe80::1%3\nnameserver x\nsearch a.test b.test\n\
             options ndots:2 timeout:3 attempts:9 rotate\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n",
        );
        let servers: Vec<String> = system.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.1:53", "[fe80::1%3]:53", "10.0.0.3:53"]);
        assert_eq!(system.candidates("www"), ["www.a.test", "www.b.test", "www"]);
        assert_eq!(system.candidates("www.x"), ["www.x.a.test", "www.x.b.test", "www.x"]);
        assert_eq!(system.candidates("a.b.c"), ["a.b.c", "a.b.c.a.test", "a.b.c.b.test"]);
        assert_eq!(system.candidates("www."), ["www."]);
        assert_eq!(system.limit_ms(), 3000 * 5 * 3);
        assert_eq!(System::parse(""), System::default());
        assert_eq!(System::default().candidates("www.x"), ["www.x"]);
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("resolv.conf");
        let mut file = File::new(&path);
        assert_eq!(file.look(), (&System::default(), false));
        std::fs::write(&path, "nameserver 10.0.0.1\n").expect("written");
        assert!(file.look().1 && !file.look().1);
        std::fs::write(&path, "nameserver 10.0.0.22\n").expect("written");
        assert_eq!(file.look().0.servers[0].to_string(), "10.0.0.22:53");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(file.look().0.servers[0].to_string(), "10.0.0.22:53", "the last one stays");
    }

    proptest::proptest! {
        #[test]
        fn any_text_has_servers(text in ".*") {
            let system = System::parse(&text);
            assert!((1..=SERVERS_MAX).contains(&system.servers.len()) && system.limit_ms() > 0);
            assert!(!system.candidates("a.b").is_empty());
        }
    }
}
