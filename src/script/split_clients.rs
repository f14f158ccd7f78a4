//! Variables that divide scopes (requests, sessions) into parts of given size (`split_clients`).
//!
//! Touches: the scope's variables.
//! Behaviour: nginx.org, ngx_http_split_clients_module; the hash is nginx's, so that clients stay in their part.

use crate::base::foreign;
use crate::config::{Diagnostic, Node};
use crate::script::value::Script;
use crate::script::{Compile, Scope, nested};

/// One `split_clients` block: the definition of the variable that it makes.
pub struct Split<S> {
    name: Box<str>,
    source: Script<S>,
    /// The hashes below the first number have the value; `None`: all that are left.
    parts: Vec<(Option<u32>, Box<str>)>,
    /// The slot that keeps the value.
    slot: usize,
}

/// All scopes, in hundredths of a percent.
const WHOLE: u32 = 10_000;

impl<S: Scope> Split<S> {
    /// Reads a block `split_clients SOURCE $name { SHARE VALUE; … }`.
    pub fn read(node: &Node, cx: &mut impl Compile<Scope = S>) -> Result<Self, Diagnostic> {
        let source = Script::compile(&node.args[0], cx)?;
        let (mut parts, mut sum, mut below) = (Vec::new(), 0u32, 0u32);
        for entry in node.children() {
            let [value] = &entry.args[..] else {
                let diagnostic =
                    Diagnostic::error(entry.span, "invalid number of the split_clients parameters");
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
        let name = node.arg(1).trim_start_matches('$').into();
        Ok(Self { name, source, parts, slot: cx.variables().new_slot() })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Appends the value, which the scope keeps.
    pub(super) fn evaluate(&'static self, scope: &mut S, out: &mut Vec<u8>) -> bool {
        if let Some(kept) = scope.slot(self.slot) {
            out.extend_from_slice(kept);
            return true;
        }
        let hash = murmur2(&nested(scope, &self.name, |scope| self.source.to_vec(scope)));
        let found = self.parts.iter().find(|(below, _)| below.is_none_or(|below| hash < below));
        let value = found.map_or("", |(_, value)| value);
        let value = foreign::bytes(value);
        out.extend_from_slice(&value);
        scope.set_slot(self.slot, value);
        true
    }
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
