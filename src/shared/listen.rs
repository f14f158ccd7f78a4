//! The parameters of `listen` that set options of its sockets.
//!
//! Touches: asks the kernel whether it supports Multipath TCP.
//! Behaviour: nginx.org, `listen` of ngx_http_core_module and ngx_stream_core_module.

use crate::base::number::{parse_millis, parse_size};
use crate::config::{Diagnostic, Diagnostics, Word};
use crate::sys::address::SockAddr;
use crate::sys::socket::{self, ListenOptions, Probes};

/// Reads one parameter into the options. `Ok(false)`: it is not one of the socket's.
pub fn socket_parameter(
    word: &Word,
    addresses: &[SockAddr],
    options: &mut ListenOptions,
    out: &mut Diagnostics,
) -> Result<bool, Diagnostic> {
    let (text, span) = (&*word.text, word.span);
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    let invalid = || Diagnostic::error(span, format!("invalid {name} \"{text}\""));
    let positive = |value: &str| value.parse().ok().filter(|number: &i32| *number > 0).ok_or_else(invalid);
    let bytes =
        |value: &str| parse_size(value).and_then(|size| usize::try_from(size).ok()).ok_or_else(invalid);
    match (name, value) {
        ("bind" | "reuseport", None) => {} // always the case here
        ("backlog", Some(value)) => options.backlog = positive(value)?,
        ("rcvbuf", Some(value)) => options.rcvbuf = Some(bytes(value)?),
        ("sndbuf", Some(value)) => options.sndbuf = Some(bytes(value)?),
        ("fastopen", Some(value)) => options.fastopen = Some(positive(value)?),
        ("deferred", None) => options.deferred = true,
        ("ipv6only", Some(value)) => {
            if let Some(address) = addresses.iter().find(|it| !it.ip().is_some_and(|ip| ip.is_ipv6())) {
                return Err(Diagnostic::error(
                    span,
                    format!("ipv6only is not supported on addr \"{address}\""),
                ));
            }
            options.ipv6only = match value {
                "on" => true,
                "off" => false,
                _ => return Err(Diagnostic::error(span, format!("invalid ipv6only flags \"{value}\""))),
            };
        }
        ("so_keepalive", Some(value)) => {
            let probes = probes(value);
            let help =
                "on, off, or TCP_KEEPIDLE:TCP_KEEPINTVL:TCP_KEEPCNT with any of them left out: 30m::10";
            let message = || format!("invalid so_keepalive value: \"{value}\"");
            options.keepalive = probes.ok_or_else(|| Diagnostic::error(span, message()).help(help))?;
        }
        ("multipath", None) if socket::has_multipath() => options.multipath = true,
        ("multipath", None) => {
            let message = "the kernel has no Multipath TCP, \"multipath\" ignored";
            out.push(Diagnostic::warning(span, message));
        }
        ("setfib", Some(_)) => {
            let message = "Linux has no routing tables for sockets, \"setfib\" ignored";
            out.push(Diagnostic::warning(span, message));
        }
        ("accept_filter", Some(value)) => {
            let message = format!("accept filters \"{value}\" are not supported on this platform, ignored");
            out.push(Diagnostic::warning(span, message).help("on Linux use \"deferred\""));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Parses `on`, `off`, or `idle:interval:count`, where some parts but not all may be missing.
fn probes(text: &str) -> Option<Option<Probes>> {
    match text {
        "on" => return Some(Some(Probes::default())),
        "off" => return Some(None),
        _ => {}
    }
    let mut parts = text.split(':');
    let (idle, interval, count) = (parts.next()?, parts.next()?, parts.next()?);
    let seconds = |text: &str| match text {
        "" => Some(None),
        // A bare number is seconds; the kernel accepts nothing shorter.
        _ => parse_millis(text).and_then(|ms| u32::try_from(ms / 1000).ok()).filter(|s| *s > 0).map(Some),
    };
    let count = match count {
        "" => None,
        _ => Some(count.parse().ok().filter(|count| *count > 0)?),
    };
    let probes = Probes { idle_s: seconds(idle)?, interval_s: seconds(interval)?, count };
    (parts.next().is_none() && probes != Probes::default()).then_some(Some(probes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepalive_values_are_nginx_s() {
        let some = |idle_s, interval_s, count| Some(Some(Probes { idle_s, interval_s, count }));
        for (text, expected) in [
            ("on", Some(Some(Probes::default()))),
            ("off", Some(None)),
            ("30m::10", some(Some(1800), None, Some(10))),
            (":5:", some(None, Some(5), None)),
            ("60:10:3", some(Some(60), Some(10), Some(3))),
            ("::", None),
            ("", None),
            ("1:2", None),
            ("1:2:3:4", None),
            ("x:2:3", None),
            ("1:2:-3", None),
            ("0:2:3", None),
            ("500ms:2:3", None),
        ] {
            assert_eq!(probes(text), expected, "{text}");
        }
    }
}
