//! Directives of nginx that no module has yet, and what to do where a configuration has them.
//!
//! For messages and for `docs/from-nginx.md`: such a directive is an error like any unknown one, but no misspelling.
//! A module that brings one of these takes its name out here; a row always goes first.

/// Names, a `*` at the end standing for any rest, and what a user can do without.
const FAMILIES: &[(&[&str], &str)] = &[
    (
        &["ssl", "ssl_*", "http2", "http2_*", "http3", "http3_*", "quic_*"],
        "there is no TLS, HTTP/2 or HTTP/3: let something in front end TLS, and take this line out",
    ),
    (&["post_action"], "take this line out"),
    (&["proxy_ssl_*"], "there is no TLS to backends: take this line out, and use http:// in \"proxy_pass\""),
    (
        &["proxy_cache", "proxy_cache_*", "proxy_no_cache"],
        "there is no cache: without this line each request goes to the backend",
    ),
    (&["auth_jwt*"], "there is no access control: do not serve what this line protects"),
    (&["geoip_*"], "\"map\" may do instead"),
    (
        &["fastcgi_*", "uwsgi_*", "scgi_*", "grpc_*", "memcached_*"],
        "\"proxy_pass\" to a backend that speaks HTTP/1.1 is the only way to a backend",
    ),
    (&["dav_*", "create_full_put_path", "min_delete_depth"], "files are only read"),
    (
        &["image_filter*", "xslt_*", "xml_entities", "mp4*", "flv", "perl*", "js_*"],
        "answers are passed on as they are: take this line out",
    ),
    (&["stream", "mail"], "only \"http\" is served: leave this block to another program"),
    (
        &["health_check*", "match", "status_zone", "api"],
        "servers are watched by \"max_fails\" and \"fail_timeout\"",
    ),
];

/// All of them, for the page about coming from nginx: names, and what to do without.
pub fn families() -> impl Iterator<Item = (&'static [&'static str], &'static str)> {
    FAMILIES.iter().map(|(names, help)| (*names, *help))
}

/// What to do without this directive; `None` where nginx has none of that name either, or we have it.
pub fn help(name: &str) -> Option<&'static str> {
    let is_it = |pattern: &&str| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == *pattern,
    };
    FAMILIES.iter().find(|(names, _)| names.iter().any(is_it)).map(|(_, help)| *help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_families_are_found() {
        for name in ["ssl", "ssl_certificate", "auth_jwt"] {
            assert!(help(name).is_some(), "{name}");
        }
        for name in ["", "gzipp", "sslcertificate", "iff", "wibble"] {
            assert_eq!(help(name), None, "{name}");
        }
    }
}
