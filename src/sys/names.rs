//! The host names of a configuration and their addresses: collected while it is compiled, looked up all at
//! once.
//!
//! Compiling never waits. It asks this table; a name that is not in it yet is noted and counts as
//! unresolvable. If names were noted, they are looked up (`sys/lookup.rs`) and the configuration is compiled
//! once more.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

/// The result of looking up one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The addresses, with port 0: IPv4 first as in nginx, without duplicates, at least one.
    Found(Vec<SocketAddr>),
    /// The name does not exist, or no server could be asked.
    NotFound,
    /// No answer came in time.
    Silent,
}

/// The answers so far, and the names that were asked for without an answer.
///
/// Every setter that reads an address asks [`Names::find`]. The caller of the compiler takes the unknown
/// names, looks them up, and passes the results to [`Names::learn`].
#[derive(Debug, Default)]
pub struct Names {
    answers: RefCell<HashMap<Box<str>, Answer>>,
    asked: RefCell<HashSet<Box<str>>>,
}

impl Names {
    /// The addresses of a name, with this port. `None`: the name is unknown so far (and noted), or has no
    /// address.
    pub fn find(&self, name: &str, port: u16) -> Option<Vec<SocketAddr>> {
        match self.answers.borrow().get(name) {
            Some(Answer::Found(addresses)) => {
                let with_port = addresses.iter().map(|&address| {
                    let mut address = address;
                    address.set_port(port);
                    address
                });
                Some(with_port.collect())
            }
            Some(Answer::NotFound | Answer::Silent) => None,
            None => {
                self.asked.borrow_mut().insert(name.into());
                None
            }
        }
    }

    /// Takes the names that were asked for and are unknown, each once.
    pub fn take_asked(&self) -> Vec<Box<str>> {
        let mut asked: Vec<_> = self.asked.borrow_mut().drain().collect();
        asked.sort();
        asked
    }

    pub fn learn(&self, answers: impl IntoIterator<Item = (Box<str>, Answer)>) {
        self.answers.borrow_mut().extend(answers);
    }

    /// The names for which no answer came in time.
    pub fn silent(&self) -> Vec<Box<str>> {
        let answers = self.answers.borrow();
        let silent = answers.iter().filter(|(_, answer)| **answer == Answer::Silent);
        let mut names: Vec<Box<str>> = silent.map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }
}

/// The name of the machine, in lower case.
pub fn hostname() -> &'static str {
    static NAME: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    NAME.get_or_init(|| nix::unistd::gethostname().unwrap_or_default().to_string_lossy().to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_asked_for_once_and_then_known() {
        let names = Names::default();
        for name in ["b.test", "a.test", "b.test"] {
            assert_eq!(names.find(name, 80), None);
        }
        assert_eq!(names.take_asked(), ["a.test".into(), "b.test".into()]);
        let address: SocketAddr = "192.0.2.1:0".parse().expect("an address");
        names.learn([("a.test".into(), Answer::Found(vec![address])), ("b.test".into(), Answer::Silent)]);
        assert_eq!(names.find("a.test", 81), Some(vec!["192.0.2.1:81".parse().expect("an address")]));
        assert_eq!((names.find("b.test", 81), names.silent()), (None, vec!["b.test".into()]));
        assert_eq!(names.take_asked(), [""; 0].map(Box::from));
    }
}
