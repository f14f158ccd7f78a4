//! Rewrites the targets of upstream redirects (`proxy_redirect`), and selects the response fields that are
//! rewritten at all.
//!
//! The first rule that matches a `Location` or the URL of a `Refresh` applies. Touches: the request's
//! variables.
//! Behaviour: nginx.org, ngx_http_proxy_module.

use crate::config::inherit::duplicate;
use crate::config::{Diagnostic, Node};
use crate::http::config::compile::Cx;
use crate::http::modules::proxy::Conf;
use crate::http::request::Request;
use crate::http::response::redirect;
use crate::http::scope::Script;
use crate::proto::header::Id;
use crate::script::regex::{Pattern, Regex};

/// One `proxy_redirect`.
#[derive(Clone, Debug)]
pub enum Redirect {
    Off,
    /// From the URL of `proxy_pass` to the location's name.
    Default,
    Prefix {
        from: Script,
        to: Script,
    },
    Regex {
        from: Regex,
        to: Script,
    },
}

/// Reads one directive.
pub fn read(rules: &mut Vec<Redirect>, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if rules.iter().any(|rule| matches!(rule, Redirect::Off)) {
        return Err(duplicate(node));
    }
    let rule = match (node.args.len(), node.arg(0)) {
        (1, "off") if rules.is_empty() => Redirect::Off,
        (1, "off") => return Err(duplicate(node)),
        (1, "default") => Redirect::Default,
        (1, other) => {
            return Err(Diagnostic::error(node.arg_span(0), format!("invalid parameter \"{other}\"")));
        }
        (_, pattern) => {
            let to = Script::compile(&node.args[1], cx)?;
            let span = node.arg_span(0);
            match pattern.strip_prefix('~') {
                Some(pattern) => {
                    let (pattern, is_caseless) =
                        pattern.strip_prefix('*').map_or((pattern, false), |pattern| (pattern, true));
                    Redirect::Regex {
                        from: Pattern::new(pattern, is_caseless, span)?.declare(&mut cx.variables),
                        to,
                    }
                }
                None => Redirect::Prefix { from: Script::compile(&node.args[0], cx)?, to },
            }
        }
    };
    rules.push(rule);
    Ok(())
}

/// The new value of a `Location` or `Refresh` that `proxy_redirect` changes, or of a cookie.
pub fn rewritten(
    request: &mut Request,
    id: Option<Id>,
    value: &[u8],
    first: &mut Option<Id>,
) -> Option<Vec<u8>> {
    let conf: &'static Conf = &request.location.confs.proxy;
    let prefix = match id {
        Some(Id::Location) => 0,
        Some(Id::Refresh) => {
            let lower = value.to_ascii_lowercase();
            memchr::memmem::find(&lower, b"url=")? + b"url=".len()
        }
        Some(Id::SetCookie) => return conf.cookies()?.rewrite(request, value),
        _ => return None,
    };
    let url = &value[prefix..];
    let new = conf.redirects().iter().find_map(|rule| apply(request, rule, url))?;
    if prefix > 0 {
        return Some([&value[..prefix], &new].concat());
    }
    // a path on this server is made absolute, as in our own redirects
    let absolute = redirect::response(request, 302, &new);
    *first = absolute.first;
    Some(absolute.headers.get(Id::Location).map_or(new, <[u8]>::to_vec))
}

fn apply(request: &mut Request, rule: &'static Redirect, url: &[u8]) -> Option<Vec<u8>> {
    match rule {
        Redirect::Off => None,
        Redirect::Default => {
            let target = request.location.confs.proxy_pass.target()?;
            let with_slash;
            let (from, to) = match &target.uri {
                Some(_) => (&*target.url, &*request.location.name),
                None => {
                    with_slash = format!("{}/", target.url);
                    (&*with_slash, "/")
                }
            };
            let rest = url.strip_prefix(from.as_bytes())?;
            Some([to.as_bytes(), rest].concat())
        }
        Redirect::Prefix { from, to } => {
            let from = from.to_vec(request);
            let rest = url.strip_prefix(&*from)?;
            let mut new = to.to_vec(request);
            new.extend_from_slice(rest);
            Some(new)
        }
        Redirect::Regex { from, to } => {
            from.find(request, url)?;
            Some(to.to_vec(request))
        }
    }
}
