//! Directives that no module here has: nginx's own, and those of third-party modules that sites use.
//!
//! For messages and for `docs/from-nginx.md`. A line that would do something is an error, whose help says how
//! to do without it; a mere setting of a feature that is not in use is a warning, as it has no effect in
//! nginx either. A module that implements one of these directives removes its name here; until then, its row
//! takes precedence.

use crate::config::Node;

/// A feature that a configuration may use but that does not exist here.
#[derive(Debug)]
pub struct Feature {
    /// For messages: `TLS: 14 lines, 25 to 48`.
    pub name: &'static str,
    /// Its directives; a `*` matches any text.
    names: &'static [&'static str],
    /// The directives that do something; the others are only settings.
    acting: &'static [&'static str],
    /// The remedy: how to do without it.
    pub help: &'static str,
    /// It comes from a third-party module: nginx alone does not know its directives.
    pub is_foreign: bool,
}

const fn own(
    name: &'static str,
    names: &'static [&'static str],
    acting: &'static [&'static str],
    help: &'static str,
) -> Feature {
    Feature { name, names, acting, help, is_foreign: false }
}

const fn foreign(name: &'static str, names: &'static [&'static str], help: &'static str) -> Feature {
    Feature { name, names, acting: &["*"], help, is_foreign: true }
}

const TAKE_OUT: &str = "responses are passed on unchanged: remove this line";

const BACKENDS: &str = "a backend must speak HTTP, gRPC, FastCGI, uwsgi, SCGI or memcached's protocol";
const TO_ELSEWHERE: &str =
    "only \"http\", \"stream\" and \"mail\" are supported: leave this block to another program";
const UNPROTECTED: &str = "this access control is not available: do not serve what this line protects";
const FOREIGN: &str = "a third-party module that is not available: remove this line";

pub static HTTP3: Feature = own(
    "HTTP/0.9 over QUIC",
    &["http3_hq"],
    &[],
    "a protocol for tests of interoperability: remove this line",
);
/// The first pattern that matches counts.
static FEATURES: &[&Feature] = &[
    &foreign(
        "Lua",
        &["*_by_lua", "*_by_lua_block", "*_by_lua_file", "lua_*", "rewrite_by_lua_no_postpone"],
        "Lua is not available: \"map\", \"auth_request\" and \"rewrite\" can do some of its work, a backend the rest",
    ),
    &HTTP3,
    &own(
        "Encrypted Client Hello",
        &["ssl_ech_file", "ssl_encrypted_hello_key"],
        &[],
        "clients connect without it, and the name that they ask for can be read on the way",
    ),
    &own(
        "OpenSSL engines",
        &["ssl_engine"],
        &[],
        "the processor's own instructions are used, and keys come from files: remove this line",
    ),
    &own(
        "event methods of other systems",
        &["kqueue_*", "devpoll_*", "eventport_*", "iocp_threads", "acceptex_read", "post_acceptex"],
        &[],
        "events come from epoll: remove this line",
    ),
    &own(
        "degradation",
        &["degradation", "degrade"],
        &["degrade"],
        "the memory of a request is bounded: remove these lines, and limit the requests with \"limit_conn\" and \"worker_connections\"",
    ),
    &own(
        "Google Performance Tools",
        &["google_perftools_profiles"],
        &[],
        "perf(1) can profile a worker that runs: remove this line",
    ),
    &foreign("dav-ext", &["dav_ext_*"], "\"dav_methods\" has PUT, DELETE, MKCOL, COPY and MOVE"),
    &own("XSLT", &["xslt_*", "xml_entities", "xml_external_entities"], &["xslt_stylesheet"], TAKE_OUT),
    &own("Perl", &["perl*"], &["perl", "perl_set"], TAKE_OUT),
    &own(
        "njs",
        &["js_*"],
        &[
            "js_access",
            "js_body_filter",
            "js_content",
            "js_header_filter",
            "js_periodic",
            "js_set",
            "js_shared_dict_zone",
            "js_var",
        ],
        TAKE_OUT,
    ),
    &foreign("ModSecurity", &["modsecurity*"], "this firewall is not available: filter in front"),
    &foreign(
        "NAXSI",
        &[
            "SecRulesEnabled",
            "SecRulesDisabled",
            "LearningMode",
            "DeniedUrl",
            "MainRule",
            "BasicRule",
            "CheckRule",
            "LibInjection*",
        ],
        "this firewall is not available: filter in front",
    ),
    &foreign("LDAP", &["auth_ldap*", "ldap_server"], UNPROTECTED),
    &foreign("PAM", &["auth_pam*"], UNPROTECTED),
    &foreign("Kerberos", &["auth_gss*", "auth_spnego*"], UNPROTECTED),
    &foreign("echo", &["echo", "echo_*"], "\"return\" can send a text"),
    &foreign("RTMP", &["rtmp", "rtmp_*"], TO_ELSEWHERE),
    &foreign("VOD", &["vod", "vod_*", "hls*", "f4f*"], TAKE_OUT),
    &foreign("PageSpeed", &["pagespeed"], TAKE_OUT),
    &foreign("Passenger", &["passenger_*"], BACKENDS),
    &foreign("Nchan", &["nchan_*", "push_stream_*"], FOREIGN),
    &foreign("fancyindex", &["fancyindex*"], "\"autoindex\" lists directories"),
    &foreign("substitutions", &["subs_filter*"], "\"sub_filter\" replaces texts"),
    &foreign(
        "uploads",
        &["upload_*", "upload_progress", "track_uploads", "report_uploads"],
        "bodies go to the backend: remove this line",
    ),
    &foreign("statistics", &["vhost_traffic_status*", "stream_server_traffic_status*"], FOREIGN),
    &foreign(
        "tracing",
        &["opentracing*", "opentelemetry*"],
        "\"otel_trace\" traces requests by OpenTelemetry",
    ),
    &foreign("checks of backends", &["check", "check_*"], "\"health_check\" and \"match\" do the same"),
    &foreign(
        "set-misc",
        &[
            "set_escape_uri",
            "set_unescape_uri",
            "set_*_base64",
            "set_*_base32",
            "set_quote_*",
            "set_random",
            "set_md5",
            "set_sha1",
            "set_hmac_*",
            "set_secure_random_*",
            "set_if_empty",
            "set_local_today",
            "set_formatted_*",
            "set_rotate",
        ],
        FOREIGN,
    ),
    &foreign("sessions", &["encrypted_session_*", "session_log*", "testcookie*"], FOREIGN),
    &foreign(
        "databases",
        &["drizzle_*", "postgres_*", "redis_*", "redis2_*", "memc_*", "srcache_*", "rds_*"],
        FOREIGN,
    ),
    &foreign("key values", &["zone_sync*", "mgmt"], FOREIGN),
    &foreign(
        "maps of numbers",
        &["num_map"],
        "\"map\" can tell ranges of numbers apart by regular expressions",
    ),
    &foreign("App Protect", &["app_protect_*"], "this firewall is not available: filter in front"),
    &foreign("Cookie-Flag", &["set_cookie_flag"], "\"proxy_cookie_flags\" does the same"),
    &foreign(
        "NDK and others",
        &[
            "iconv_*",
            "array_*",
            "xss_*",
            "lower",
            "upper",
            "req_status*",
            "sysguard*",
            "slowfs_*",
            "secure_token*",
            "dyups*",
            "upsync*",
        ],
        FOREIGN,
    ),
];

/// All of them, for the page on migrating from nginx.
pub fn features() -> impl Iterator<Item = &'static Feature> {
    FEATURES.iter().copied()
}

/// The module or feature that a directive belongs to; `None` if no known one has it.
pub fn feature(name: &str) -> Option<&'static Feature> {
    features().find(|feature| is_among(name, feature.names))
}

/// The missing feature that a variable belongs to.
pub fn feature_of_variable(name: &str) -> Option<&'static Feature> {
    const PREFIXES: [&str; 3] = ["modsecurity", "vod_", "echo_"];
    let of = |directive: &str| features().find(|feature| is_among(directive, feature.names));
    match name {
        _ if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) => of(name).or_else(|| of("echo")),
        _ => None,
    }
}

/// The name of the feature in a module's file name, which comes without `ngx_http_` and `_module.so`.
pub fn module(file: &str) -> Option<&'static str> {
    const MODULES: &[(&str, &str)] = &[
        ("xslt", "XSLT"),
        ("perl", "Perl"),
        ("lua", "Lua"),
        ("js_", "njs"),
        ("auth_pam", "PAM"),
        ("auth_ldap", "LDAP"),
        ("spnego", "Kerberos"),
        ("dav_ext", "dav-ext"),
        ("echo", "echo"),
        ("fancyindex", "fancyindex"),
        ("nchan", "Nchan"),
        ("subs_filter", "substitutions"),
        ("uploadprogress", "uploads"),
        ("modsecurity", "ModSecurity"),
        ("naxsi", "NAXSI"),
        ("rtmp", "RTMP"),
        ("vhost_traffic_status", "statistics"),
        ("opentracing", "tracing"),
        ("pagespeed", "PageSpeed"),
        ("passenger", "Passenger"),
    ];
    MODULES.iter().find(|(part, _)| file.contains(part)).map(|(_, name)| *name)
}

impl Feature {
    /// True if its directives only choose how something is done that is done anyway.
    pub fn never_acts(&self) -> bool {
        self.acting.is_empty()
    }

    /// True if the line would do something: not if the directive is `off`.
    pub fn acts(&self, node: &Node) -> bool {
        let is_off = node.args.len() == 1 && node.arg(0) == "off";
        is_among(&node.name.text, self.acting) && !is_off
    }

    pub fn names(&self) -> &'static [&'static str] {
        self.names
    }
}

fn is_among(name: &str, patterns: &[&str]) -> bool {
    patterns.iter().any(|pattern| match pattern.split_once('*') {
        Some((start, end)) => {
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        }
        None => name == *pattern,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_families_are_found() {
        for (name, expected) in [
            ("http3_hq", "HTTP/0.9 over QUIC"),
            ("kqueue_changes", "event methods of other systems"),
            ("degrade", "degradation"),
            ("ssl_engine", "OpenSSL engines"),
            ("google_perftools_profiles", "Google Performance Tools"),
            ("ssl_certificate_by_lua_block", "Lua"),
            ("content_by_lua", "Lua"),
            ("auth_ldap_url", "LDAP"),
            ("dav_ext_methods", "dav-ext"),
            ("set_encode_base64", "set-misc"),
        ] {
            assert_eq!(feature(name).map(|feature| feature.name), Some(expected), "{name}");
        }
        for name in ["", "gzipp", "sslcertificate", "iff", "wibble", "set", "mapp"] {
            assert!(feature(name).is_none(), "{name}");
        }
    }
}
