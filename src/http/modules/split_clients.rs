//! Variables that divide requests into parts of given size (`split_clients`).
//!
//! Touches: the request's variables.
//! Behaviour: nginx.org, ngx_http_split_clients_module; the hash is nginx's, so that clients stay in their part.

use crate::base::foreign;
use crate::config::directive::block;
use crate::config::{Arity, Context, Diagnostic, Merge, Node};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::scope::{Script, Variable};
use crate::script::variable::{Argument, Definition};
use crate::script::{Scope, nested};

/// One `split_clients` block.
#[derive(Debug)]
pub struct Split {
    name: Box<str>,
    source: Script,
    /// The hashes below the first number have the value; `None`: all that are left.
    parts: Vec<(Option<u32>, Box<str>)>,
    /// Where a request keeps the value.
    slot: usize,
}

#[derive(Debug, Default)]
pub struct Conf {}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    block("split_clients", Context::HTTP, Arity::exactly(2), split_clients,
        "Makes a variable that has one of several values, each for a share of the requests by the hash of a text: 0.5% value; * value;"),
];

pub static VARIABLES: &[Variable] = &[];

impl Merge for Conf {
    fn merge(&mut self, _: &Self) {}
}

impl BlockConf for Conf {}

/// All of the requests, in hundredths of a percent.
const WHOLE: u32 = 10_000;

fn split_clients(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let source = Script::compile(&node.args[0], cx)?;
    let (mut parts, mut sum, mut below) = (Vec::new(), 0u32, 0u32);
    for entry in node.children() {
        let [value] = &entry.args[..] else {
            let diagnostic = Diagnostic::error(entry.span, "invalid number of the split_clients parameters");
            return Err(diagnostic.help("a part is a share and a value: 10% text;"));
        };
        let share = match &*entry.name.text {
            "*" => None,
            text => Some(parse_percent(text).ok_or_else(|| {
                let message = format!("invalid percent value \"{text}\"");
                Diagnostic::error(entry.name.span, message)
                    .help("a share is 0.01% to 100%, or * for the rest")
            })?),
        };
        sum = share.map_or(WHOLE, |share| sum + share);
        if sum > WHOLE {
            return Err(Diagnostic::error(entry.name.span, "percent total is greater than 100%"));
        }
        let upper = share.filter(|_| sum < WHOLE).map(|share| {
            below += (u64::from(share) * u64::from(u32::MAX) / u64::from(WHOLE)) as u32;
            below
        });
        parts.push((upper, (&value.text).into()));
    }
    let slot = cx.variables.new_slot();
    cx.variables.declare(&node.args[1], Definition::Module(value, Argument::index(cx.splits.len())))?;
    let name = node.arg(1).trim_start_matches('$').into();
    cx.splits.push(Split { name, source, parts, slot });
    Ok(())
}

/// `12.5%` in hundredths of a percent.
fn parse_percent(text: &str) -> Option<u32> {
    let number = text.strip_suffix('%')?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 3 || fraction.len() > 2 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let share = whole.parse::<u32>().ok()? * 100 + format!("{fraction:0<2}").parse::<u32>().ok()?;
    (1..=WHOLE).contains(&share).then_some(share)
}

/// The value, kept for the request.
fn value(request: &mut Request, argument: &Argument, out: &mut Vec<u8>) -> bool {
    let config = request.config;
    let Some(split) = config.splits.get(argument.index) else { return false };
    if let Some(kept) = request.slot(split.slot) {
        out.extend_from_slice(kept);
        return true;
    }
    let hash = murmur2(&nested(request, &split.name, |request| split.source.to_vec(request)));
    let found = split.parts.iter().find(|(below, _)| below.is_none_or(|below| hash < below));
    let value = found.map_or("", |(_, value)| value);
    let value = foreign::bytes(value);
    out.extend_from_slice(&value);
    request.set_slot(split.slot, value);
    true
}

/// MurmurHash2 by Austin Appleby, with a seed of 0.
fn murmur2(bytes: &[u8]) -> u32 {
    const FACTOR: u32 = 0x5bd1_e995;
    let mut hash = bytes.len() as u32;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let mut mixed = u32::from_le_bytes(*word).wrapping_mul(FACTOR);
        mixed ^= mixed >> 24;
        hash = hash.wrapping_mul(FACTOR) ^ mixed.wrapping_mul(FACTOR);
    }
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(FACTOR);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(FACTOR);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_to_the_hundredth() {
        let cases = [
            ("10%", Some(1000)),
            ("0.5%", Some(50)),
            ("0.05%", Some(5)),
            ("51.25%", Some(5125)),
            ("100%", Some(10_000)),
            ("0%", None),
            ("100.01%", None),
            ("10", None),
            (".5%", None),
            ("1.234%", None),
            ("-1%", None),
            ("%", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_percent(text), expected, "{text}");
        }
    }

    #[test]
    fn the_hash_is_murmur2() {
        let cases = [
            ("", 0),
            ("a", 0x9268_5f5e),
            ("abc", 0x1357_7c9b),
            ("abcd", 0x2687_3021),
            ("127.0.0.1", 0xb613_1d91),
        ];
        for (text, expected) in cases {
            assert_eq!(murmur2(text.as_bytes()), expected, "{text}");
        }
    }
}
