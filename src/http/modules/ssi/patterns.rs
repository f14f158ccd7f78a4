//! The regular expressions of SSI conditions, compiled once for all pages of a worker.
//!
//! Touches: the worker's store of expressions. They come from pages, so their size and number are bounded
//! more tightly than those of the configuration.

use std::cell::RefCell;
use std::rc::Rc;

use crate::config::Span;
use crate::script::regex::Pattern;

/// Maximum size of a compiled expression.
const BYTES_MAX: usize = 1024 * 1024;
/// Maximum number of expressions that a worker keeps, and their total size.
const KEPT_MAX: usize = 32;
const KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The most recently used expressions, the latest at the end.
#[derive(Debug, Default)]
struct Store(Vec<(Box<[u8]>, Rc<Pattern>)>);

thread_local! {
    static STORE: RefCell<Store> = const { RefCell::new(Store(Vec::new())) };
}

/// The compiled expression, and whether it had to be compiled. Errors: a message for the log.
pub fn compiled(pattern: &[u8]) -> Result<(Rc<Pattern>, bool), String> {
    STORE.with_borrow_mut(|store| store.get(pattern))
}

impl Store {
    fn get(&mut self, pattern: &[u8]) -> Result<(Rc<Pattern>, bool), String> {
        if let Some(at) = self.0.iter().rposition(|(known, _)| **known == *pattern) {
            let found = self.0.remove(at);
            let regex = Rc::clone(&found.1);
            self.0.push(found);
            return Ok((regex, false));
        }
        let text = String::from_utf8_lossy(pattern);
        let regex = Pattern::within(&text, false, Span::default(), BYTES_MAX)
            .map_err(|error| format!("{} in an SSI condition", error.message))?;
        let regex = Rc::new(regex);
        self.0.push((pattern.into(), Rc::clone(&regex)));
        while self.0.len() > KEPT_MAX || self.bytes() > KEPT_BYTES_MAX {
            self.0.remove(0);
        }
        Ok((regex, true))
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(|(pattern, regex)| pattern.len() + regex.bytes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_compiled_once() {
        let mut store = Store::default();
        assert!(store.get(b"^a").expect("it is one").1);
        assert!(!store.get(b"^a").expect("it is one").1);
        for number in 0..100 {
            store.get(format!("^b{number}").as_bytes()).expect("it is one");
            assert!(!store.get(b"^a").expect("it is one").1, "what is used stays");
        }
        assert_eq!(store.0.len(), KEPT_MAX);
        assert!(store.get(b"^b0").expect("it is one").1, "what is not used goes");
    }

    #[test]
    fn what_expressions_take_is_bounded() {
        let mut store = Store::default();
        assert!(store.get(b"(?:(?:a{1000}){100})").is_err(), "it is too large");
        assert!(store.get(b"(").is_err());
        for number in 0..50 {
            store.get(format!("(?:[a-z]{{700}}){number}").as_bytes()).expect("it fits");
            assert!(store.bytes() <= KEPT_BYTES_MAX);
        }
        assert!(store.0.len() > 1);
    }
}
