//! Values inside SSI commands: text with variables, and the conditions of `if`.
//!
//! Touches: the request's variables and captures. Syntax: nginx.org, ngx_http_ssi_module, "if".

use crate::config::Span;
use crate::http::modules::core;
use crate::http::regex::Regex;
use crate::http::request::Request;
use crate::http::variable;

/// The value of a variable by its name: one that `set` made, a capture, or one of the server's.
pub fn value(request: &mut Request, name: &[u8]) -> Option<Vec<u8>> {
    if let [digit @ b'0'..=b'9'] = name {
        return Some(request.captures.group(digit - b'0').to_vec());
    }
    let set = request.ssi.as_ref().and_then(|state| state.variables.iter().find(|(known, _)| known == name));
    if let Some((_, value)) = set {
        return Some(value.clone());
    }
    let mut out = Vec::new();
    variable::by_name(request, std::str::from_utf8(name).ok()?, &mut out).then_some(out)
}

/// Text with its variables (`$name`, `${name}`) replaced; `\$` is a dollar.
pub fn evaluate(request: &mut Request, text: &[u8]) -> Vec<u8> {
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
        rest = after;
    }
    out.extend_from_slice(rest);
    out
}

/// Whether a condition holds: `$variable`, `$variable = text`, `!= text`, `= /expression/`, `!= /expression/`.
pub fn is_true(request: &mut Request, expression: &[u8]) -> Result<bool, String> {
    let Some(at) = memchr::memchr(b'=', expression) else {
        return Ok(!evaluate(request, expression.trim_ascii()).is_empty());
    };
    let (left, right) = (&expression[..at], expression[at + 1..].trim_ascii());
    let (left, is_wanted) = match left.strip_suffix(b"!") {
        Some(left) => (left, false),
        None => (left, true),
    };
    let left = evaluate(request, left.trim_ascii());
    let matches = match right {
        [b'/', pattern @ .., b'/'] => {
            let pattern = String::from_utf8_lossy(pattern);
            let regex = Regex::new(&pattern, false, Span::default())
                .map_err(|_| format!("invalid expression \"{pattern}\" in an SSI condition"))?;
            match core::captures(request, &regex, &left) {
                Some(groups) => {
                    request.captured(&left, &groups);
                    for (name, group) in regex.names() {
                        let value = groups.get(*group).and_then(|range| left.get(range.clone()));
                        super::set(request, &name.to_ascii_lowercase().into_bytes(), value.unwrap_or(b"").to_vec());
                    }
                    true
                }
                None => false,
            }
        }
        _ => left == evaluate(request, right),
    };
    Ok(matches == is_wanted)
}
