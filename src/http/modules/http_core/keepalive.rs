//! Browsers whose connections are not kept (`keepalive_disable`).
//!
//! Pure. Behaviour: nginx.org, ngx_http_core_module.

use memchr::memmem;

use crate::config::{Diagnostic, Diagnostics, Node, params};
use crate::proto::message::Method;

/// The browsers whose connections are not kept (`keepalive_disable`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Browsers {
    msie6: bool,
    safari: bool,
    none: bool,
}

impl Browsers {
    pub(super) const DEFAULT: Self = Self { msie6: true, safari: false, none: false };

    /// Adds the words of one directive; several directives of a block form one list.
    pub fn add(&mut self, node: &Node, out: &mut Diagnostics) -> Result<(), Diagnostic> {
        for index in 0..node.args.len() {
            let word = match params::keyword(node, index, &["msie6", "safari", "none"])? {
                0 => &mut self.msie6,
                1 => &mut self.safari,
                _ => &mut self.none,
            };
            if std::mem::replace(word, true) {
                out.push(params::duplicate_value(node, index));
            }
        }
        Ok(())
    }

    /// True if the browser can matter for a request with this method.
    pub fn may_contain(self, method: Method) -> bool {
        self.safari || (self.msie6 && method == Method::Post)
    }

    pub fn contain(self, user_agent: &[u8], method: Method) -> bool {
        (self.msie6 && method == Method::Post && is_old_msie(user_agent))
            || (self.safari && is_mac_safari(user_agent))
    }
}

fn has(user_agent: &[u8], part: &str) -> bool {
    memmem::find(user_agent, part.as_bytes()).is_some()
}

/// Internet Explorer 4 to 6, except version 6 on Windows XP with its second service pack.
fn is_old_msie(user_agent: &[u8]) -> bool {
    let Some(at) = memmem::find(user_agent, b"MSIE ") else { return false };
    match user_agent.get(at + 5..at + 8) {
        _ if has(user_agent, "Opera") => false,
        Some([b'4' | b'5', b'.', _]) => true,
        Some([b'6', b'.', _]) => !has(&user_agent[at + 8..], "SV1"),
        _ => false,
    }
}

fn is_mac_safari(user_agent: &[u8]) -> bool {
    let others = ["MSIE ", "Opera", "Gecko/", "Chrome/"];
    has(user_agent, "Safari/")
        && has(user_agent, "Mac OS X")
        && !others.into_iter().any(|other| has(user_agent, other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_are_told_by_their_names() {
        let both = Browsers { msie6: true, safari: true, none: false };
        let (get, post) = (Method::Get, Method::Post);
        let cases = [
            ("Mozilla/4.0 (compatible; MSIE 5.0; Windows NT)", post, true),
            ("Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1)", post, true),
            ("Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1)", get, false),
            ("Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1; SV1)", post, false),
            ("Mozilla/4.0 (compatible; MSIE 7.0; Windows NT 5.1)", post, false),
            ("Mozilla/4.0 (compatible; MSIE 6.0; X11) Opera 8.5", post, false),
            ("MSIE 6.0", post, true),
            ("MSIE 5", post, false),
            ("Mac OS X Safari/7534.48.3", get, true),
            ("Mac OS X Chrome/100 Safari/537.36", get, false),
            ("Windows Safari/537.36", get, false),
            ("", post, false),
        ];
        for (name, method, expected) in cases {
            assert_eq!(both.contain(name.as_bytes(), method), expected, "{name} {method:?}");
        }
        let neither = Browsers::default();
        assert!(!neither.contain(b"Mac OS X Safari/7534.48.3", Method::Get));
    }
}
