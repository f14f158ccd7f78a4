//! Values in SSI commands: text with variables, and the conditions of `if`.
//!
//! Touches: the request's variables and captures. Syntax: nginx.org, ngx_http_ssi_module, "if".

use std::rc::Rc;

use super::patterns;
use super::store::VALUE_BYTES_MAX;
use crate::http::request::Request;
use crate::script::regex::{BACKTRACK_LIMIT, Groups, Pattern};
use crate::script::registry;

/// The value of a variable: one set by `set`, a capture, or a server variable.
pub fn value(request: &mut Request, name: &[u8]) -> Option<Vec<u8>> {
    if let [digit @ b'0'..=b'9'] = name {
        return Some(request.values.captures.group(digit - b'0').to_vec());
    }
    if let Some(value) = request.states.ssi.as_ref().and_then(|state| state.variables.get(name)) {
        return Some(value.to_vec());
    }
    let mut out = Vec::new();
    registry::by_name(request, std::str::from_utf8(name).ok()?, &mut out).then_some(out)
}

/// Replaces the variables (`$name`, `${name}`) in a text; `\$` is a dollar. Errors: the result gets too long.
pub fn evaluate(request: &mut Request, text: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memchr2(b'$', b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix(b"\\$") {
            out.push(b'$');
            rest = after;
            continue;
        }
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let (name, after) = match rest {
            [b'$', b'{', braced @ ..] => match memchr::memchr(b'}', braced) {
                Some(end) => (&braced[..end], &braced[end + 1..]),
                None => (&b""[..], rest),
            },
            [b'$', bare @ ..] => bare.split_at(bare.iter().take_while(|byte| is_name(byte)).count()),
            _ => (&b""[..], rest),
        };
        if name.is_empty() {
            out.push(rest[0]);
            rest = &rest[1..];
            continue;
        }
        out.extend_from_slice(&value(request, &name.to_ascii_lowercase()).unwrap_or_default());
        bound(&out)?;
        rest = after;
    }
    out.extend_from_slice(rest);
    bound(&out)?;
    Ok(out)
}

/// Errors: the value is too long.
fn bound(value: &[u8]) -> Result<(), String> {
    match value.len() {
        0..=VALUE_BYTES_MAX => Ok(()),
        _ => Err(format!(
            "too long value in an SSI command: with its variables more than {VALUE_BYTES_MAX} bytes"
        )),
    }
}

/// Evaluates a condition: `$variable`, `$variable = text`, `!= text`, `= /expression/`, `!= /expression/`.
pub fn is_true(request: &mut Request, expression: &[u8]) -> Result<bool, String> {
    let Some(at) = memchr::memchr(b'=', expression) else {
        return Ok(!evaluate(request, expression.trim_ascii())?.is_empty());
    };
    let (left, right) = (&expression[..at], expression[at + 1..].trim_ascii());
    let (left, is_wanted) = match left.strip_suffix(b"!") {
        Some(left) => (left, false),
        None => (left, true),
    };
    let left = evaluate(request, left.trim_ascii())?;
    let matches = match right {
        [b'/', pattern @ .., b'/'] => match captures(request, pattern, &left)? {
            Some((regex, groups)) => {
                request.values.captures.set(&left, groups.iter().cloned());
                for (name, group) in regex.names() {
                    let value = groups.get(*group).and_then(|range| left.get(range.clone()));
                    super::set(request, &name.to_ascii_lowercase().into_bytes(), value.unwrap_or(b""))?;
                }
                true
            }
            None => false,
        },
        _ => left == evaluate(request, right)?,
    };
    Ok(matches == is_wanted)
}

/// Limits for a request: expressions to compile, and expressions that reach their step limit. Both take
/// milliseconds.
const COMPILED_MAX: u16 = 256;
const GIVEN_UP_MAX: u16 = 8;

/// Matches the expression of a condition. Errors: it is invalid, or a limit is reached.
fn captures(
    request: &mut Request,
    pattern: &[u8],
    subject: &[u8],
) -> Result<Option<(Rc<Pattern>, Groups)>, String> {
    let state = request.states.ssi.get_or_insert_default();
    if state.compiled >= COMPILED_MAX || state.given_up >= GIVEN_UP_MAX {
        return Err(format!(
            "too many expressions in SSI conditions: a request has {COMPILED_MAX} of them, and {GIVEN_UP_MAX} that give up"
        ));
    }
    let (regex, is_new) = patterns::compiled(pattern).inspect_err(|_| state.compiled += 1)?;
    state.compiled += u16::from(is_new);
    match regex.captures(subject) {
        Ok(groups) => Ok(groups.map(|groups| (regex, groups))),
        Err(_) => {
            state.given_up += 1;
            let pattern = String::from_utf8_lossy(pattern);
            Err(format!(
                "the expression \"{pattern}\" of an SSI condition gave up after {BACKTRACK_LIMIT} steps"
            ))
        }
    }
}
