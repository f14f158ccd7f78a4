//! gzip for clients that accept it, and the conditions for encoding a response at all.
//!
//! Runs on every response head if `gzip` is on. `http/response/coding.rs` decides which coding a response
//! gets.
//! Behaviour: nginx.org, ngx_http_gzip_module.

mod engine;

use std::sync::Arc;

use crate::base::gzip::{MEMORY_LEVEL, Shape, WINDOW_BITS};
use crate::config::directive::{Accepted, accepted, custom, flag, number, one_of, size};
use crate::config::inherit::replace;
use crate::config::{Arity, Context, Diagnostic, Merge, Node, Setting, params, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::response::coding::{self, Name, Offer};
use crate::http::scope::Variable;
use crate::proto::message::Version;
use crate::script::regex::Pattern;
use crate::script::variable::variable;
use engine::Gzip;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        pub offer: Offer,
        level: Setting<u64> = 1,
        window_bits: Setting<u8> = WINDOW_BITS,
        memory_level: Setting<u8> = MEMORY_LEVEL,
        http_version: Setting<Version> = Version::Http11,
        vary: Setting<bool> = false,
        proxied: Proxied,
        disable: Vec<Disabled> => replace,
    }
}

/// The responses to proxies that are encoded (`gzip_proxied`); an empty set means that the directive is not
/// set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proxied(u16);

impl Proxied {
    pub const OFF: Self = Self(1);
    pub const EXPIRED: Self = Self(1 << 1);
    pub const NO_CACHE: Self = Self(1 << 2);
    pub const NO_STORE: Self = Self(1 << 3);
    pub const PRIVATE: Self = Self(1 << 4);
    pub const NO_LAST_MODIFIED: Self = Self(1 << 5);
    pub const NO_ETAG: Self = Self(1 << 6);
    pub const AUTH: Self = Self(1 << 7);
    pub const ANY: Self = Self(1 << 8);

    /// In the order of the bits.
    const WORDS: &[&str] =
        &["off", "expired", "no-cache", "no-store", "private", "no_last_modified", "no_etag", "auth", "any"];

    pub fn has(self, word: Self) -> bool {
        self.0 & word.0 != 0
    }
}

/// Clients that get no encoded responses (`gzip_disable`).
#[derive(Clone, Debug)]
enum Disabled {
    /// Internet Explorer 4 to 6, except version 6 with SV1.
    Msie6,
    Agents(Arc<Pattern>),
}

const ONE: Arity = Arity::exactly(1);
const SOME: Arity = Arity::at_least(1);

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    flag("gzip", Context::ANY.or(Context::LOCATION_IF), |c| &mut c.offer.on,
        "Compresses responses with gzip for clients that accept it. If several codings are enabled, the client's preference decides, and between equals \
         the order zstd, br, gzip."),
    number("gzip_comp_level", Context::ANY, (1, 9), |c| &mut c.level,
        "Sets the compression level of gzip, from 1 (fastest) to 9 (smallest). Sizes match those of the levels of zlib."),
    custom("gzip_types", Context::ANY, SOME, |c: &mut Conf, cx, node| c.offer.add_types(cx, node),
        "Adds media types, besides text/html, that are compressed with gzip; * matches all.").default("text/html"),
    size("gzip_min_length", Context::ANY, |c| &mut c.offer.length_min,
        "Sets the minimum length of a response that is compressed with gzip. Responses of unknown length are compressed too."),
    custom("gzip_proxied", Context::ANY, SOME, proxied,
        "Selects which responses are compressed for requests with a Via field: expired, no-cache, no-store, private, no_last_modified, no_etag, auth, any \
         or off. Applies to all codings.").default("off"),
    one_of("gzip_http_version", Context::ANY, |c| &mut c.http_version,
        "Sets the minimum HTTP version of a request whose response is compressed. Applies to all codings."),
    custom("gzip_disable", Context::ANY, SOME, disable,
        "Disables compression for clients whose User-Agent matches a regular expression, or with msie6 for old versions of Internet Explorer. Applies to \
         all codings."),
    flag("gzip_vary", Context::ANY, |c| &mut c.vary, "Adds Vary: Accept-Encoding to responses that are compressed for some clients. Applies to all codings."),
    custom("gzip_window", Context::ANY, ONE, window, "Sets the window in which gzip looks for repetitions, a power of two from 512 to 32k.").default("32k"),
    custom("gzip_hash", Context::ANY, ONE, hash, "Sets the memory for the hash tables of gzip, a power of two from 512 to 128k.").default("64k"),
    accepted("gzip_buffers", Context::ANY, Arity::exactly(2), Accepted::Buffers, "Compressed data is sent at once.").default("32 4k"),
    accepted("postpone_gzipping", Context::ANY, ONE, Accepted::Size, "The memory of gzip is kept for the next response.").default("0"),
    accepted("gzip_no_buffer", Context::ANY, ONE, Accepted::Flag, "Compressed data is sent at once.").default("off"),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("gzip_ratio", |request, _, out| coding::ratio(request, Name::Gzip, out),
        "The compression ratio of gzip: 5.25 means that the response became a little smaller than a fifth."),
];

impl Merge for Proxied {
    fn merge(&mut self, outer: &Self) {
        if *self == Self::default() {
            *self = *outer;
        }
    }
}

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        self.offer.is_on()
    }
}

impl Conf {
    pub fn http_version(&self) -> Version {
        self.http_version.get()
    }

    pub fn vary(&self) -> bool {
        self.vary.get()
    }

    pub fn proxied(&self) -> Proxied {
        if self.proxied == Proxied::default() { Proxied::OFF } else { self.proxied }
    }

    /// True if clients with this `User-Agent` get no encoded responses.
    pub fn disables(&self, agent: Option<&[u8]>) -> bool {
        let Some(agent) = agent else { return false };
        self.disable.iter().any(|rule| match rule {
            Disabled::Msie6 => is_msie6(agent),
            Disabled::Agents(regex) => regex.is_match(agent).unwrap_or(true), // gave up: plain is safe
        })
    }

    fn shape(&self) -> Shape {
        Shape {
            level: self.level.get() as u8,
            window_bits: self.window_bits.get(),
            memory_level: self.memory_level.get(),
        }
    }
}

fn is_msie6(agent: &[u8]) -> bool {
    let Some(at) = memchr::memmem::find(agent, b"MSIE ") else { return false };
    match agent.get(at + 5..) {
        Some([b'4' | b'5', b'.', _, ..]) => true,
        Some([b'6', b'.', rest @ ..]) => !rest.is_empty() && memchr::memmem::find(rest, b"SV1").is_none(),
        _ => false,
    }
}

fn proxied(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    for index in 0..node.args.len() {
        let bit = 1 << params::keyword(node, index, Proxied::WORDS)?;
        if conf.proxied.0 & bit != 0 {
            cx.diagnostics.push(params::duplicate_value(node, index));
        }
        conf.proxied.0 |= bit;
    }
    Ok(())
}

fn disable(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    for word in &node.args {
        conf.disable.push(match &*word.text {
            "msie6" => Disabled::Msie6,
            pattern => Disabled::Agents(Arc::new(Pattern::new(pattern, true, word.span)?)),
        });
    }
    Ok(())
}

fn window(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let bits = power_of_two(node, 9, 15, "512, 1k, 2k, 4k, 8k, 16k, or 32k")?;
    conf.window_bits.put(bits, node)
}

fn hash(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let bits = power_of_two(node, 9, 17, "512, 1k, 2k, 4k, 8k, 16k, 32k, 64k, or 128k")?;
    conf.memory_level.put(bits - 8, node)
}

/// Reads a size as the exponent of a power of two, which must be in this range.
pub fn power_of_two(node: &Node, least: u8, most: u8, words: &str) -> Result<u8, Diagnostic> {
    let size = params::size(node, 0)?;
    (least..=most).find(|bits| size == 1 << bits).ok_or_else(|| {
        Diagnostic::error(node.arg_span(0), format!("\"{}\" directive must be {words}", node.name.text))
    })
}

/// Encodes the response if gzip is the coding chosen for it.
pub fn head(request: &mut Request) {
    let ways = |request: &Request| {
        let best = request.location.confs.gzip.shape();
        let least =
            Shape { window_bits: best.window_bits.min(12), memory_level: best.memory_level.min(5), ..best };
        [best, best, least].map(|shape| (shape, shape.state_bytes()))
    };
    coding::apply(request, Name::Gzip, ways, |_, shape| Gzip::new(shape));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_browsers_are_known() {
        let cases: &[(&str, bool)] = &[
            ("Mozilla/4.0 (compatible; MSIE 4.01; Windows 95)", true),
            ("Mozilla/4.0 (compatible; MSIE 5.5; Windows NT)", true),
            ("Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1)", true),
            ("Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1; SV1)", false),
            ("Mozilla/4.0 (compatible; MSIE 7.0)", false),
            ("MSIE 6", false),
            ("MSIE 6.", false),
            ("curl", false),
            ("", false),
        ];
        for (agent, expected) in cases {
            assert_eq!(is_msie6(agent.as_bytes()), *expected, "{agent}");
        }
    }
}
