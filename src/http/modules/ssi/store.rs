//! What SSI commands keep for later commands: variables and blocks, within limits for each request.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::net::budget::{self, Part, Share};
use crate::runtime;

/// Maximum length of a value made by `set`, or of any text with its variables replaced.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;
/// Maximum number of variables of a request, and bytes of their names and values.
const VARIABLES_MAX: usize = 1000;
const VARIABLE_BYTES_MAX: usize = 1024 * 1024;
/// Maximum bytes of the blocks of a page.
const BLOCK_BYTES_MAX: usize = 1024 * 1024;

/// The variables of a request. Copying is free until one of the copies changes.
#[derive(Clone, Debug, Default)]
pub struct Variables(Rc<Table>);

#[derive(Clone, Debug, Default)]
struct Table {
    values: HashMap<Rc<[u8]>, Rc<[u8]>>,
    bytes: usize,
    share: Share,
}

impl Variables {
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.values.get(name).map(|value| &**value)
    }

    /// Sets a variable, replacing its previous value. Errors: a limit would be exceeded; the previous value
    /// is kept.
    pub fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), String> {
        let before = self.0.values.get(name).map(|old| name.len() + old.len());
        let bytes = self.0.bytes - before.unwrap_or(0) + name.len() + value.len();
        let name_text = || String::from_utf8_lossy(name).into_owned();
        if before.is_none() && self.0.values.len() >= VARIABLES_MAX {
            return Err(format!(
                "too many SSI variables: \"{}\" is one more than {VARIABLES_MAX}",
                name_text()
            ));
        }
        if bytes > VARIABLE_BYTES_MAX {
            let name = name_text();
            return Err(format!(
                "too long SSI variables: with \"{name}\" more than {VARIABLE_BYTES_MAX} bytes in a request"
            ));
        }
        let table = Rc::make_mut(&mut self.0);
        if bytes > table.share.bytes() {
            draw(&mut table.share, bytes)?;
        }
        table.values.insert(name.into(), value.into());
        table.bytes = bytes;
        Ok(())
    }
}

/// Draws memory up to this many bytes. Errors: the worker's memory budget is used up; the text is empty if
/// that was logged recently.
fn draw(share: &mut Share, bytes: usize) -> Result<(), String> {
    if share.grow(bytes - share.bytes(), Part::Whole) {
        return Ok(());
    }
    let why = budget::degrade(runtime::now_ms());
    Err(why.map_or_else(String::new, |why| format!("an SSI command has no memory: {why}")))
}

/// The finished blocks of a page by name, which the pages that it includes may use too.
#[derive(Debug, Default)]
pub struct Texts {
    own: RefCell<HashMap<Vec<u8>, Rc<[u8]>>>,
    /// Those of the page that includes this one.
    outer: Option<Rc<Texts>>,
}

impl Texts {
    fn get(&self, name: &[u8]) -> Option<Rc<[u8]>> {
        let outer = self.outer.as_ref().and_then(|outer| outer.get(name));
        outer.or_else(|| self.own.borrow().get(name).cloned())
    }
}

/// The blocks of one page.
#[derive(Debug, Default)]
pub struct Blocks {
    texts: Rc<Texts>,
    bytes: usize,
    /// The block being read: its name and text; the text is `None` once it is too long.
    open: Option<(Vec<u8>, Option<Vec<u8>>)>,
    share: Share,
}

impl Blocks {
    /// Those of a page that is included by one with these blocks.
    pub fn within(outer: Option<Rc<Texts>>) -> Self {
        Self { texts: Rc::new(Texts { outer, ..Texts::default() }), ..Self::default() }
    }

    /// The blocks for included pages.
    pub fn texts(&self) -> Rc<Texts> {
        Rc::clone(&self.texts)
    }

    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub fn open(&mut self, name: &[u8]) {
        self.open = Some((name.to_vec(), Some(Vec::new())));
    }

    /// Appends text to the open block. Errors: it is too long now, reported once; the block is dropped.
    pub fn push(&mut self, text: &[u8]) -> Result<(), String> {
        let Some((name, kept)) = &mut self.open else { return Ok(()) };
        let Some(bytes) = kept.as_ref().map(|kept| self.bytes + name.len() + kept.len() + text.len()) else {
            return Ok(());
        };
        if bytes <= BLOCK_BYTES_MAX {
            if bytes > self.share.bytes() {
                draw(&mut self.share, bytes).inspect_err(|_| *kept = None)?;
            }
            kept.get_or_insert_default().extend_from_slice(text);
            return Ok(());
        }
        *kept = None;
        let name = String::from_utf8_lossy(name);
        Err(format!(
            "too long SSI block \"{name}\": the blocks of a page have at most {BLOCK_BYTES_MAX} bytes"
        ))
    }

    /// Closes the open block. Of two blocks with the same name the first is kept.
    pub fn close(&mut self) {
        if let Some((name, Some(text))) = self.open.take()
            && self.texts.get(&name).is_none()
        {
            self.bytes += name.len() + text.len();
            self.texts.own.borrow_mut().insert(name, text.into());
        }
    }

    pub fn get(&self, name: &[u8]) -> Option<Rc<[u8]>> {
        self.texts.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_have_bounds() {
        let mut variables = Variables::default();
        for number in 0..VARIABLES_MAX {
            variables.set(format!("v{number}").as_bytes(), b"1").expect("there is room");
        }
        assert!(variables.set(b"more", b"1").is_err());
        assert!(variables.set(b"v0", b"2").is_ok(), "a known one may change");
        assert_eq!((variables.get(b"v0"), variables.get(b"more")), (Some(&b"2"[..]), None));

        let mut variables = Variables::default();
        let value = vec![b'x'; VALUE_BYTES_MAX];
        let kept =
            (0..100).filter(|number| variables.set(format!("v{number}").as_bytes(), &value).is_ok()).count();
        assert_eq!(kept, VARIABLE_BYTES_MAX / (VALUE_BYTES_MAX + 3));
        for _ in 0..100 {
            variables.set(b"v0", &value).expect("it has its room already");
        }
    }

    #[test]
    fn a_copy_does_not_see_what_is_set_later() {
        let mut variables = Variables::default();
        variables.set(b"a", b"1").expect("there is room");
        let copy = variables.clone();
        variables.set(b"a", b"2").expect("there is room");
        assert_eq!((copy.get(b"a"), variables.get(b"a")), (Some(&b"1"[..]), Some(&b"2"[..])));
    }

    #[test]
    fn blocks_have_a_bound_that_is_told_once() {
        let mut blocks = Blocks::default();
        for name in ["a", "b", "a"] {
            blocks.open(name.as_bytes());
            let told = (0..4096).filter(|_| blocks.push(&[b'x'; 1024]).is_err()).count();
            blocks.close();
            assert_eq!(told, 1, "{name}");
            assert_eq!(blocks.get(name.as_bytes()), None);
        }
        blocks.open(b"c");
        blocks.push(b"first").expect("there is room");
        blocks.close();
        blocks.open(b"c");
        blocks.push(b"second").expect("there is room");
        blocks.close();
        assert_eq!(blocks.get(b"c").as_deref(), Some(&b"first"[..]));
        assert!(!blocks.is_open());
    }
}
