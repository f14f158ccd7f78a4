//! Modern and ancient browsers, told apart by `User-Agent` (`modern_browser`, `ancient_browser` and their
//! values).
//!
//! Touches: the request's field. Pure otherwise.
//! Behaviour: nginx.org, ngx_http_browser_module: the first known browser whose mark is found decides, by its
//! version.

use memchr::memmem;

use crate::config::directive::{custom, text};
use crate::config::inherit::{replace, together};
use crate::config::{Arity, Context, Diagnostic, Node, Setting, params, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::scope::Variable;
use crate::proto::header::Id;
use crate::script::variable::replaceable;

/// Index in [`KNOWN`].
const OPERA: usize = 0;

/// How to find the version of a browser: its name in the configuration, the number of bytes to skip before
/// searching, and the mark that precedes the version.
struct Known {
    name: &'static str,
    skip: usize,
    mark: &'static str,
}

/// In the order in which they are searched.
const KNOWN: &[Known] = &[
    Known { name: "opera", skip: 0, mark: "Opera " },
    Known { name: "msie", skip: "Mozilla/4.0 (compatible; ".len(), mark: "MSIE " },
    Known { name: "gecko", skip: "Mozilla/5.0 (".len(), mark: "rv:" },
    Known { name: "safari", skip: "Mozilla/5.0 (".len(), mark: "AppleWebKit/" },
    Known { name: "konqueror", skip: "Mozilla/5.0 (compatible; ".len(), mark: "Konqueror/" },
];

#[derive(Clone, Copy, Debug)]
struct Modern {
    /// Index in [`KNOWN`].
    browser: usize,
    /// See [`version`].
    version: u64,
}

settings! {
    #[derive(Debug)]
    pub struct Conf {
        modern: Vec<Modern> => together,
        /// Browsers that no line names are modern.
        is_unlisted_modern: bool => together,
        ancient: Vec<Box<str>> => together,
        is_netscape4_ancient: bool => together,
        modern_value: Setting<Box<str>> = "1".into(),
        ancient_value: Setting<Box<str>> = "1".into(),
    }
    then inherit_browsers
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("modern_browser", Context::ANY, Arity::between(1, 2), modern_browser,
        "Sets the version from which a browser (msie, gecko, opera, safari, konqueror) is modern. With unlisted, browsers that no line names are modern \
         too."),
    custom("ancient_browser", Context::ANY, Arity::at_least(1), ancient_browser,
        "Sets texts whose presence in User-Agent makes a browser an ancient one.").default("netscape4 for ^Mozilla/[1-4]"),
    text("modern_browser_value", Context::ANY, |c| &mut c.modern_value, "Sets the value of $modern_browser."),
    text("ancient_browser_value", Context::ANY, |c| &mut c.ancient_value, "Sets the value of $ancient_browser."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    replaceable("modern_browser", |request, _, out| {
        let conf: &'static Conf = &request.location.confs.browser;
        if conf.is_modern(request.header(Id::UserAgent)) {
            out.extend_from_slice(conf.modern_value.value().as_bytes());
        }
        true
    },
        "The value of modern_browser_value if the browser is modern, otherwise empty."),
    replaceable("ancient_browser", |request, _, out| {
        let conf: &'static Conf = &request.location.confs.browser;
        if !conf.is_modern(request.header(Id::UserAgent)) {
            out.extend_from_slice(conf.ancient_value.value().as_bytes());
        }
        true
    },
        "The value of ancient_browser_value if the browser is not modern, otherwise empty."),
    replaceable("msie", |request, _, out| { if is_msie(request) { out.push(b'1'); } true }, "1 if the browser is Internet Explorer, otherwise empty."),
];

impl BlockConf for Conf {}

fn inherit_browsers(conf: &mut Conf, outer: &Conf) {
    if conf.modern.is_empty() && !conf.is_unlisted_modern {
        replace(&mut conf.modern, &outer.modern);
        conf.is_unlisted_modern = outer.is_unlisted_modern;
    } else if !conf.modern.is_empty() && conf.modern.iter().all(|modern| modern.browser != OPERA) {
        // Opera may call itself MSIE too.
        conf.modern.insert(0, Modern { browser: OPERA, version: u64::MAX });
    }
    if conf.ancient.is_empty() && !conf.is_netscape4_ancient {
        replace(&mut conf.ancient, &outer.ancient);
        conf.is_netscape4_ancient = outer.is_netscape4_ancient;
    }
}

fn modern_browser(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let [name, number] = &node.args[..] else {
        if node.arg(0) != "unlisted" {
            return Err(params::invalid_parameter(&node.args[0], &["unlisted"]));
        }
        conf.is_unlisted_modern = true;
        return Ok(());
    };
    let Some(browser) = KNOWN.iter().position(|known| *known.name == *name.text) else {
        let message = format!("unknown browser name \"{}\"", name.text);
        let names: Vec<&str> = KNOWN.iter().map(|known| known.name).collect();
        return Err(Diagnostic::error(name.span, message).help(format!("one of {}", names.join(", "))));
    };
    if !number.text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        let message = format!("invalid browser version \"{}\"", number.text);
        return Err(Diagnostic::error(number.span, message).help("write it as 5.5"));
    }
    conf.modern.push(Modern { browser, version: version(number.text.as_bytes()) });
    conf.modern.sort_by_key(|modern| modern.browser);
    Ok(())
}

fn ancient_browser(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    for word in &node.args {
        match &*word.text {
            "netscape4" => conf.is_netscape4_ancient = true,
            text => conf.ancient.push(text.into()),
        }
    }
    Ok(())
}

impl Conf {
    fn is_modern(&self, agent: Option<&[u8]>) -> bool {
        let Some(agent) = agent else { return self.is_unlisted_modern };
        for modern in &self.modern {
            let Known { skip, mark, .. } = KNOWN[modern.browser];
            let rest = agent.get(skip..).unwrap_or(b"");
            if let Some(at) = memmem::find(rest, mark.as_bytes()) {
                return version(&rest[at + mark.len()..]) >= modern.version;
            }
        }
        let is_netscape4 = agent.len() > "Mozilla/4.72 ".len()
            && agent.starts_with(b"Mozilla/")
            && matches!(agent.get("Mozilla/".len()), Some(b'1'..=b'4'));
        if self.is_netscape4_ancient && is_netscape4 {
            return false;
        }
        if self.ancient.iter().any(|text| memmem::find(agent, text.as_bytes()).is_some()) {
            return false;
        }
        self.is_unlisted_modern
    }
}

/// Up to four numbers separated by dots, combined into one comparable number with two digits for each.
fn version(text: &[u8]) -> u64 {
    let end = text.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'.').unwrap_or(text.len());
    let numbers = text[..end].split(|byte| *byte == b'.').take(4);
    let mut scale = 1_000_000;
    numbers.fold(0, |version, number| {
        let number = number.iter().take(6).fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        let version = version + number * scale;
        scale /= 100;
        version
    })
}

/// Internet Explorer of any version, but not Opera, which may call itself MSIE.
fn is_msie(request: &Request) -> bool {
    let Some(agent) = request.header(Id::UserAgent) else { return false };
    let is_opera = || memmem::find(agent, b"Opera").is_some();
    memmem::find(agent, b"MSIE ").is_some_and(|at| at + 7 < agent.len()) && !is_opera()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_number_by_number() {
        let ordered = ["1", "1.0.1", "1.2", "1.12", "2.0.0.1", "10"];
        for pair in ordered.windows(2) {
            assert!(version(pair[0].as_bytes()) < version(pair[1].as_bytes()), "{pair:?}");
        }
        assert_eq!(version(b"5.5; Windows"), version(b"5.5"));
        assert_eq!(version(b""), 0);
    }

    #[test]
    fn the_first_known_mark_decides() {
        let modern = |name: &str, number: &str| Modern {
            browser: KNOWN.iter().position(|known| known.name == name).expect("known"),
            version: version(number.as_bytes()),
        };
        let conf = Conf {
            modern: vec![modern("opera", "9"), modern("gecko", "1.0.1"), modern("msie", "5.5")],
            ancient: vec!["Lynx".into()],
            is_netscape4_ancient: true,
            is_unlisted_modern: true,
            ..Conf::default()
        };
        let cases = [
            ("Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1)", true),
            ("Mozilla/4.0 (compatible; MSIE 5.01; Windows)", false),
            ("Mozilla/5.0 (X11; U; Linux; rv:1.0.2) Gecko", true),
            ("Mozilla/5.0 (X11; U; Linux; rv:0.9) Gecko", false),
            ("Mozilla/4.0 (compatible; MSIE 6.0; Windows) Opera 8.5", false),
            ("Mozilla/4.72 [en] (X11)", false),
            ("Lynx/2.8", false),
            ("curl/8", true),
        ];
        for (agent, expected) in cases {
            assert_eq!(conf.is_modern(Some(agent.as_bytes())), expected, "{agent}");
        }
        assert!(conf.is_modern(None));
    }
}
