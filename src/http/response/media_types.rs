//! The types of responses that a filter changes (`gzip_types`, `sub_filter_types` and related directives).
//!
//! Pure data. Behaviour: nginx's `*_types` directives. The first default type always stays in the list; `*`
//! matches any type, and a response without one; parameters after `;` are ignored.

use crate::config::{Diagnostic, Diagnostics, Merge, Node};

/// The first default type of all these directives.
const ALWAYS: &str = "text/html";

/// The value of such a directive in one block.
#[derive(Clone, Debug, Default)]
pub struct MediaTypes(Setting);

#[derive(Clone, Debug, Default)]
enum Setting {
    #[default]
    Unset,
    All,
    /// In lower case.
    Listed(Vec<Box<str>>),
}

impl MediaTypes {
    /// Adds the arguments of a directive, which may occur more than once in a block.
    pub fn add(&mut self, node: &Node, out: &mut Diagnostics) {
        for word in &node.args {
            let name: Box<str> = word.text.to_ascii_lowercase().into();
            match &mut self.0 {
                Setting::All => {}
                setting if &*name == "*" => *setting = Setting::All,
                setting => {
                    if let Setting::Unset = setting {
                        *setting = Setting::Listed(Vec::new());
                    }
                    let Setting::Listed(list) = setting else { continue };
                    if &*name == ALWAYS || list.contains(&name) {
                        let message = format!("duplicate MIME type \"{}\"", word.text);
                        out.push(Diagnostic::warning(word.span, message));
                    } else {
                        list.push(name);
                    }
                }
            }
        }
    }

    /// True if responses with this content type, or without one (`None`), are included. The first of
    /// `defaults` is always included, the others only if no types are configured.
    pub fn has(&self, content_type: Option<&[u8]>, defaults: &[&str]) -> bool {
        let plain = content_type.and_then(|value| value.split(|byte| *byte == b';').next()).unwrap_or(b"");
        let plain = plain.trim_ascii();
        let is = |name: &str| plain.eq_ignore_ascii_case(name.as_bytes());
        match &self.0 {
            Setting::All => true,
            Setting::Unset => defaults.iter().any(|name| is(name)),
            Setting::Listed(list) => {
                defaults.first().is_some_and(|name| is(name)) || list.iter().any(|name| is(name))
            }
        }
    }
}

/// Inherits the outer block's list if this block has none.
impl Merge for MediaTypes {
    fn merge(&mut self, outer: &Self) {
        if matches!(self.0, Setting::Unset) {
            self.0.clone_from(&outer.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Span, Word};

    fn of(words: &[&str]) -> (MediaTypes, usize) {
        let word = |text: &&str| Word { text: (*text).into(), span: Span::default(), quoted: false };
        let args = words.iter().map(word).collect();
        let node = Node { name: word(&"gzip_types"), args, block: None, span: Span::default() };
        let (mut types, mut warnings) = (MediaTypes::default(), Diagnostics::default());
        types.add(&node, &mut warnings);
        (types, warnings.0.len())
    }

    #[test]
    fn the_first_default_stays_and_a_star_is_any() {
        const DEFAULTS: &[&str] = &["text/html", "text/xml"];
        type Case<'a> = (&'a [&'a str], Option<&'a [u8]>, bool);
        let cases: &[Case] = &[
            (&[], Some(b"text/html"), true),
            (&[], Some(b"Text/XML; charset=utf-8"), true),
            (&[], Some(b"text/plain"), false),
            (&[], None, false),
            (&["text/PLAIN"], Some(b"text/plain;x=y"), true),
            (&["text/plain"], Some(b"text/html"), true),
            (&["text/plain"], Some(b"text/xml"), false),
            (&["text/plain"], None, false),
            (&["*"], None, true),
            (&["text/plain", "*"], Some(b"image/png"), true),
        ];
        for (words, kind, expected) in cases {
            let has = of(words).0.has(*kind, DEFAULTS);
            assert_eq!(has, *expected, "{words:?} {kind:?}");
        }
    }

    #[test]
    fn a_type_that_stands_twice_is_a_warning() {
        assert_eq!(of(&["a/b", "A/B"]).1, 1);
        assert_eq!(of(&["a/b", "a/c"]).1, 0);
        assert_eq!(of(&["Text/HTML"]).1, 1, "it is in the list without being written");
    }
}
