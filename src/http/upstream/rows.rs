//! The rows of the directives that every upstream family has.
//!
//! Constants only. Behaviour: nginx.org, ngx_http_proxy_module and its like.

/// The table of one family: its own rows, and the shared rows with its prefix.
///
/// `upstream_rows!("fastcgi_", Conf, upstream, [relay, whole], [own rows])`, where `upstream` is the field of the
/// family's settings (`Conf`) that contains [`super::conf::Conf`]. Every family has the rows about its peers; the
/// list names further parts: `fields` (responses with fields), `relay` (the same, and bodies in both directions), `whole` or `streamed` (whether
/// bodies of requests are read first by default), `http` (HTTP/1 only), `tls`. It is a macro because a row is a
/// constant: the compiler joins its name and text, and the manual, the diagnostics and the conversion read it like any
/// other row.
macro_rules! upstream_rows {
    ($prefix:literal, $conf:ident, $field:ident, [$($part:ident),*], [$($own:expr),* $(,)?]) => {
        $crate::http::upstream::rows::upstream_rows!(@add [peers $($part)*] [$($own,)*] $prefix $conf $field)
    };
    (@add [peers $($rest:ident)*] [$($done:tt)*] $prefix:literal $conf:ident $field:ident) => {
        $crate::http::upstream::rows::upstream_rows!(@add [$($rest)*] [$($done)*
            custom(concat!($prefix, "next_upstream"), ANY, MANY, |c: &mut $conf, cx, node| conf::next_upstream(&mut c.$field, cx, node),
                "Selects the faults after which another server is tried.").default("error timeout"),
            number(concat!($prefix, "next_upstream_tries"), ANY, (0, u32::MAX as u64), |c| &mut c.$field.set.next_tries,
                "Limits how many servers are tried for one request; 0 tries all."),
            millis(concat!($prefix, "next_upstream_timeout"), ANY, |c| &mut c.$field.set.next_timeout,
                "Limits the time during which another server may be tried; 0 sets no limit."),
            custom(concat!($prefix, "bind"), ANY, Arity::between(1, 2), |c: &mut $conf, cx, node| conf::bind(&mut c.$field, cx, node),
                "Sets the local address of connections to upstreams, with an optional port. With transparent it may be any address, such as \
                 $remote_addr.").default("off"),
            flag(concat!($prefix, "bind_dynamic"), ANY, |c| &mut c.$field.set.bind_dynamic,
                concat!("Evaluates the variables of ", $prefix, "bind for each server that is tried, instead of once for a request.")),
            flag(concat!($prefix, "request_dynamic"), ANY, |c| &mut c.$field.set.request_dynamic,
                "Makes the request anew for each server that is tried, so that it may depend on the server: $upstream_last_addr, \
                 $upstream_last_server_name."),
            custom(concat!($prefix, "allow_upstream"), ANY, MANY, |c: &mut $conf, cx, node| conf::allow(&mut c.$field, cx, node),
                concat!("Permits a connection to the server that was chosen only if all the strings are neither empty nor 0. A server that is denied \
                 counts as failed; another one is tried if ", $prefix, "next_upstream has denied.")),
            size(concat!($prefix, "buffer_size"), ANY, |c| &mut c.$field.set.buffer_size, "Limits the size of a response head."),
            millis(concat!($prefix, "connect_timeout"), ANY, |c| &mut c.$field.set.connect_timeout, "Limits the time for connecting to an upstream."),
            millis(concat!($prefix, "send_timeout"), ANY, |c| &mut c.$field.set.send_timeout, "Limits the time between two writes to the upstream."),
            millis(concat!($prefix, "read_timeout"), ANY, |c| &mut c.$field.set.read_timeout,
                "Limits the time between two reads from the upstream, and that for the whole of a short response whose server could still be replaced."),
            millis(concat!($prefix, "hedge_after"), ANY, |c| &mut c.$field.set.hedge_after,
                "Sends GET, HEAD and OPTIONS requests without a body to a second server too if the first one has not answered by then; the first \
                response is used. At most a tenth of the requests to a group are sent twice, and none to a group with sticky. 0: never."),
            millis(concat!($prefix, "timeout_total"), ANY, |c| &mut c.$field.set.timeout_total,
                "Limits the time from choosing the first upstream to the end of the response, over all tries; 0 sets no limit."),
            flag(concat!($prefix, "socket_keepalive"), ANY, |c| &mut c.$field.set.socket_keepalive, "Sends TCP keepalive probes to upstreams."),
            size(concat!($prefix, "socket_rcvbuf"), ANY, |c| &mut c.$field.set.socket_rcvbuf,
                "Sets the size of the receive buffer (SO_RCVBUF) of connections to upstreams, at most net.core.rmem_max; 0: the kernel chooses it, and \
                 lets it grow as needed."),
            size(concat!($prefix, "socket_sndbuf"), ANY, |c| &mut c.$field.set.socket_sndbuf,
                "Sets the size of the send buffer (SO_SNDBUF) of connections to upstreams, at most net.core.wmem_max; 0: the kernel chooses it, and lets \
                 it grow as needed."),
        ] $prefix $conf $field)
    };
    (@add [fields $($rest:ident)*] [$($done:tt)*] $prefix:literal $conf:ident $field:ident) => {
        $crate::http::upstream::rows::upstream_rows!(@add [$($rest)*] [$($done)*
            custom(concat!($prefix, "hide_header"), ANY, ONE, |c, _, node| conf::push(&mut c.$field.set.hide, node),
                "Hides a response field from the client."),
            custom(concat!($prefix, "pass_header"), ANY, ONE, |c, _, node| conf::push(&mut c.$field.set.pass, node),
                "Passes a response field to the client that is hidden by default. With Server and Date the client gets the upstream's field, or none."),
            custom(concat!($prefix, "ignore_headers"), ANY, MANY, |c, cx, node| conf::ignore_headers(&mut c.$field, cx, node),
                "Names response fields that are passed on but have no effect."),
            flag(concat!($prefix, "intercept_errors"), ANY, |c| &mut c.$field.set.intercept_errors,
                "Sends responses with status 300 and above through error_page."),
        ] $prefix $conf $field)
    };
    (@add [relay $($rest:ident)*] [$($done:tt)*] $prefix:literal $conf:ident $field:ident) => {
        $crate::http::upstream::rows::upstream_rows!(@add [fields $($rest)*] [$($done)*
            flag(concat!($prefix, "force_ranges"), ANY, |c: &mut $conf| &mut c.$field.set.force_ranges,
                "Serves ranges of upstream responses, whatever they say about ranges themselves."),
            flag(concat!($prefix, "ignore_client_abort"), ANY, |c| &mut c.$field.set.ignore_client_abort,
                "Keeps waiting for the upstream's response after the client has closed its connection."),
            flag(concat!($prefix, "pass_request_headers"), ANY, |c| &mut c.$field.set.pass_request_headers,
                "Passes on the header fields of the client's request."),
            flag(concat!($prefix, "pass_request_body"), ANY, |c| &mut c.$field.set.pass_request_body, "Passes on the body of the client's request."),
            flag(concat!($prefix, "buffering"), ANY, |c| &mut c.$field.set.buffering,
                concat!("Reads responses ahead of a slower client, as far as ", $prefix, "buffers. While ", $prefix, "next_upstream permits \
                another server, a response of at most 16k is passed on once it is complete, so that one that breaks off can be replaced.")),
            custom(concat!($prefix, "buffers"), ANY, Arity::exactly(2), |c: &mut $conf, _, node| conf::buffers(&mut c.$field, node),
                "Sets the number and size of buffers; their product limits how much is read ahead.").default("8 4k"),
            size(concat!($prefix, "max_temp_file_size"), ANY, |c| &mut c.$field.set.temp_file_max,
                "Limits how much of a response may wait in a temporary file when the buffers are full; 0 disables such files."),
            custom(concat!($prefix, "limit_rate"), ANY, ONE,
                |c: &mut $conf, cx, node| $crate::http::modules::limit_rate::size(&mut c.$field.set.limit_rate, cx, node),
                "Limits the rate at which one response is read from an upstream, in bytes a second; 0 sets no limit.").default("0"),
            custom(concat!($prefix, "temp_path"), ANY, Arity::between(1, 4), |c: &mut $conf, cx, node| conf::temp_path(&mut c.$field, cx, node),
                "Sets the directory for temporary files of responses, and up to three levels of subdirectories.")
                .default(concat!($prefix, "temp")),
            custom(concat!($prefix, "store"), ANY, ONE, |c: &mut $conf, cx, node| store::place(&mut c.$field.set.store, cx, node),
                "Stores responses with status 200 as files: on (below root), or under a path with variables.").default("off"),
            custom(concat!($prefix, "store_access"), ANY, Arity::between(1, 3), |c: &mut $conf, _, node| store::access(&mut c.$field.set.store_access, node),
                "Sets who may read and write these files: user:rw group:r all:r.").default("user:rw"),
            custom(concat!($prefix, "cache_path"), Context::HTTP, Arity::at_least(2),
                |_: &mut $conf, cx, node| $crate::http::modules::cache::cache_path(cx, node),
                "Declares a cache: the directory of its files, and keys_zone=NAME:SIZE, the memory for its keys, 21 thousand in a megabyte. levels=1:2 \
                 spreads the files over subdirectories. Files that were not used for inactive=TIME (10m) are removed, and the least recently used ones \
                 while all take more than max_size= or less than min_free= is free on the disk. The cache manager does so in steps of manager_files= (100) \
                 files or manager_threshold= (200ms), with pauses of manager_sleep= (50ms); after a start it finds the files that are there, in steps of \
                 loader_files=, loader_threshold= and loader_sleep=. use_temp_path=off writes a file where it will be, instead of in the directory for \
                 temporary files. purger=on removes the files of a purge with * from the disk, in steps of purger_files= (10) files or purger_threshold= \
                 (50ms), with pauses of purger_sleep= (50ms); otherwise such a file goes when it is asked for, or has been inactive."),
            custom(concat!($prefix, "cache"), ANY, ONE, |c: &mut $conf, cx, node| cache::place(&mut c.$field.set.cache, cx, node),
                concat!("Stores responses in this zone, which ", $prefix, "cache_path declares, and serves them from there. Variables are allowed."))
                .default("off"),
            custom(concat!($prefix, "cache_key"), ANY, ONE, |c: &mut $conf, cx, node| cache::key(&mut c.$field.set.cache, cx, node),
                "Sets the key under which responses are stored. The default is the URL that an HTTP upstream is asked for; applications need one."),
            custom(concat!($prefix, "cache_valid"), ANY, MANY, |c: &mut $conf, _, node| cache::valid(&mut c.$field.set.cache, node),
                "Sets how long responses with these statuses are valid, if they do not say so themselves: [STATUS … | any] TIME; without statuses 200, 301 \
                 and 302. Others are not stored."),
            custom(concat!($prefix, "cache_methods"), ANY, MANY, |c: &mut $conf, cx, node| cache::methods(&mut c.$field.set.cache, cx, node),
                "Sets the methods of requests whose responses are stored: GET, HEAD, POST; GET and HEAD always are.").default("GET HEAD"),
            number(concat!($prefix, "cache_min_uses"), ANY, (0, u32::MAX as u64), |c| &mut c.$field.set.cache.min_uses,
                "Stores a response from this number of requests for it on."),
            custom(concat!($prefix, "cache_bypass"), ANY, MANY, |c: &mut $conf, cx, node| cache::bypass(&mut c.$field.set.cache, cx, node),
                concat!("Asks the upstream, although a response may be stored, if one of the strings is neither empty nor 0. The answer is stored unless ",
                $prefix, "no_cache says otherwise.")),
            custom(concat!($prefix, "no_cache"), ANY, MANY, |c: &mut $conf, cx, node| cache::no_store(&mut c.$field.set.cache, cx, node),
                "Does not store the response if one of the strings is neither empty nor 0."),
            custom(concat!($prefix, "cache_purge"), ANY, MANY, |c: &mut $conf, cx, node| cache::purge(&mut c.$field.set.cache, cx, node),
                "Removes the response with the request's key and all its variants, instead of answering with it, if one of the strings is neither empty nor 0: \
                 204, or 404 if there was none. A key that ends in * stands for all keys that begin like it: 204."),
            custom(concat!($prefix, "cache_use_stale"), ANY, MANY, |c: &mut $conf, cx, node| cache::use_stale(&mut c.$field.set.cache, cx, node),
                concat!("Sends an expired response after one of these faults of the upstream (those of ", $prefix, "next_upstream), and with updating while \
                another request updates it.")).default("off"),
            flag(concat!($prefix, "cache_background_update"), ANY, |c| &mut c.$field.set.cache.background_update,
                concat!("Updates an expired response in a request of its own, while the client gets the expired one; ", $prefix,
                "cache_use_stale must have updating, or the response stale-while-revalidate.")),
            flag(concat!($prefix, "cache_lock"), ANY, |c| &mut c.$field.set.cache.lock,
                "Sends only one of several requests for a response that is not stored to the upstream; the others wait for it."),
            millis(concat!($prefix, "cache_lock_timeout"), ANY, |c| &mut c.$field.set.cache.lock_timeout,
                "Limits that time; then a request goes to the upstream, and its response is not stored."),
            millis(concat!($prefix, "cache_lock_age"), ANY, |c| &mut c.$field.set.cache.lock_age,
                "Sends another one of the waiting requests to the upstream if the first one has not been answered by then."),
            flag(concat!($prefix, "cache_revalidate"), ANY, |c| &mut c.$field.set.cache.revalidate,
                "Asks for expired responses with If-Modified-Since and If-None-Match."),
            custom(concat!($prefix, "cache_max_range_offset"), ANY, ONE,
                |c: &mut $conf, _, node| cache::max_range_offset(&mut c.$field.set.cache, node),
                "Passes requests for a range that begins at this offset, or later, to the upstream without storing the response. Otherwise the whole response \
                 is asked for and stored."),
            accepted(concat!($prefix, "busy_buffers_size"), ANY, ONE, Accepted::Size, "Data is always sent as soon as it arrives."),
            accepted(concat!($prefix, "temp_file_write_size"), ANY, ONE, Accepted::Size, "Temporary files are written one buffer at a time."),
        ] $prefix $conf $field)
    };
    (@add [whole $($rest:ident)*] [$($done:tt)*] $prefix:literal $conf:ident $field:ident) => {
        $crate::http::upstream::rows::upstream_rows!(@add [$($rest)*] [$($done)*
            flag(concat!($prefix, "request_buffering"), ANY, |c: &mut $conf| &mut c.$field.set.request_buffering,
                "Reads the whole request body before choosing an upstream, in memory or into a file (on), or passes it on as it comes (off).")
                .default("on"),
        ] $prefix $conf $field)
    };
    (@add [streamed $($rest:ident)*] [$($done:tt)*] $prefix:literal $conf:ident $field:ident) => {
        $crate::http::upstream::rows::upstream_rows!(@add [$($rest)*] [$($done)*
            flag(concat!($prefix, "request_buffering"), ANY, |c| &mut c.$field.set.request_buffering, concat!(
                "Reads the request body before choosing an upstream: all of it (on), or nothing (off). If this is not set, reads up to \
                 client_body_buffer_size, and all of a body that may have to be sent to another server (", $prefix, "next_upstream) or to the proxied \
                 location of an error_page.")),
        ] $prefix $conf $field)
    };
    (@add [http $($rest:ident)*] [$($done:tt)*] $prefix:literal $conf:ident $field:ident) => {
        $crate::http::upstream::rows::upstream_rows!(@add [$($rest)*] [$($done)*
            flag(concat!($prefix, "pass_trailers"), ANY, |c| &mut c.$field.set.pass_trailers,
                "Passes the trailer fields of a chunked response on to HTTP/1.1 clients."),
            flag(concat!($prefix, "cache_convert_head"), ANY, |c| &mut c.$field.set.cache.convert_head,
                concat!("Sends HEAD to the upstream as GET, so that one stored response serves both. Otherwise ", $prefix, "cache_key should contain \
                $request_method.")),
            accepted(concat!($prefix, "send_lowat"), ANY, ONE, Accepted::Size, "Data is never held back to fill a packet.").default("0"),
        ] $prefix $conf $field)
    };
    (@add [tls $($rest:ident)*] [$($done:tt)*] $prefix:literal $conf:ident $field:ident) => {
        $crate::http::upstream::rows::upstream_rows!(@add [$($rest)*] [$($done)*
            tls_rows::session_reuse(concat!($prefix, "ssl_session_reuse"), ANY),
            tls_rows::protocols(concat!($prefix, "ssl_protocols"), ANY),
            tls_rows::ciphers(concat!($prefix, "ssl_ciphers"), ANY),
            tls_rows::conf_command(concat!($prefix, "ssl_conf_command"), ANY),
            tls_rows::name(concat!($prefix, "ssl_name"), ANY, concat!(
                "Sets the name that the upstream's certificate must be for, and that is sent with ", $prefix, "ssl_server_name."), "$proxy_host"),
            tls_rows::server_name(concat!($prefix, "ssl_server_name"), ANY),
            tls_rows::verify(concat!($prefix, "ssl_verify"), ANY, concat!(
                "Checks upstreams' certificates with ", $prefix, "ssl_trusted_certificate; one that is refused is answered with 502.")),
            tls_rows::verify_depth(concat!($prefix, "ssl_verify_depth"), ANY),
            tls_rows::trusted_certificate(concat!($prefix, "ssl_trusted_certificate"), ANY),
            tls_rows::crl(concat!($prefix, "ssl_crl"), ANY),
            tls_rows::certificate(concat!($prefix, "ssl_certificate"), ANY),
            tls_rows::certificate_key(concat!($prefix, "ssl_certificate_key"), ANY),
            tls_rows::certificate_caches(concat!($prefix, "ssl_certificate_cache"), ANY),
            tls_rows::password_file(concat!($prefix, "ssl_password_file"), ANY),
            tls_rows::key_log(concat!($prefix, "ssl_key_log"), ANY),
            tls_rows::alpn(concat!($prefix, "ssl_alpn"), ANY),
        ] $prefix $conf $field)
    };
    (@add [] [$($rows:tt)*] $prefix:literal $conf:ident $field:ident) => {{
        #[allow(unused_imports)] // some families lack some kinds
        use $crate::config::directive::{Accepted, accepted, custom, flag, millis, number, size, text};
        use $crate::config::{Arity, Context};
        #[allow(unused_imports)]
        use $crate::http::upstream::{cache::conf as cache, conf, store};
        #[allow(unused_imports)]
        use $crate::shared::tls::upstream_rows as tls_rows;
        const ANY: Context = Context::ANY;
        #[allow(dead_code)]
        const ONE: Arity = Arity::exactly(1);
        #[allow(dead_code)]
        const MANY: Arity = Arity::at_least(1);
        &[$($rows)*]
    }};
}
pub(crate) use upstream_rows;
