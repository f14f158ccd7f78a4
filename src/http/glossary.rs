//! What each variable holds, in a line, for the manual. A test below keeps it complete.
//!
//! Touches: nothing. Truth: the modules' `VARIABLES`.

/// By name; families end with an underscore.
pub static VARIABLES: &[(&str, &str)] = &[
    ("ancient_browser", "The value of ancient_browser_value where the browser is no modern one, else empty."),
    ("arg_", "The argument of this name in the request line."),
    ("args", "The arguments in the request line."),
    ("binary_remote_addr", "The client's address in 4 or 16 bytes, for keys."),
    ("body_bytes_sent", "Bytes sent to the client, without the head."),
    ("brotli_ratio", "How much smaller brotli made the answer: 5.25 is a little less than a fifth."),
    ("bytes_sent", "Bytes sent to the client."),
    ("connection", "The number of the connection, unique in its worker."),
    ("connection_requests", "Requests so far over the connection, this one included."),
    ("connection_time", "How long the connection has been open, in seconds."),
    ("connections_active", "Client connections of all workers, those that wait included."),
    ("connections_reading", "Connections whose request head is being read."),
    (
        "connections_reused",
        "Connections that were waiting and were asked to close since others needed their places.",
    ),
    ("connections_waiting", "Connections that wait for their next request."),
    ("connections_writing", "Connections whose request is being answered."),
    ("content_length", "The request's Content-Length."),
    ("content_type", "The request's Content-Type."),
    ("cookie_", "The cookie of this name."),
    ("date_gmt", "The time in GMT, as config timefmt says."),
    ("date_local", "The local time, as config timefmt says."),
    ("document_root", "The directory of root or alias."),
    ("document_uri", "The same as $uri."),
    ("fastcgi_path_info", "What follows the script in the path, by fastcgi_split_path_info."),
    (
        "fastcgi_script_name",
        "The path of the script: the first group of fastcgi_split_path_info, else $uri, with fastcgi_index behind a slash.",
    ),
    ("gzip_ratio", "How much smaller gzip made the answer: 5.25 is a little less than a fifth."),
    (
        "host",
        "The host in the request line, else that of Host, else the first name of the server; lower case, no port.",
    ),
    ("hostname", "The name of the machine."),
    ("http2", "The protocol of HTTP/2; empty, since it is not available."),
    ("http3", "The protocol of HTTP/3; empty, since it is not available."),
    ("http_", "The request's field of this name, in lower case and with underscores."),
    ("https", "on over TLS, else empty."),
    ("invalid_referer", "1 where Referer is none of valid_referers, else empty."),
    ("is_args", "A question mark where the request has arguments, else empty."),
    ("is_request_port", "A colon where $request_port has a value, else empty."),
    ("limit_conn_status", "What limit_conn made of the request: PASSED, REJECTED or REJECTED_DRY_RUN."),
    ("limit_rate", "The rate in bytes a second at which the answer is sent; it can be set."),
    ("limit_req_status", "What limit_req made of the request: PASSED, DELAYED, REJECTED, or with _DRY_RUN."),
    (
        "longest_turn",
        "The longest turn of the event loop of any worker now running, since it started, in seconds with milliseconds: as long other \
         connections of that worker had to wait.",
    ),
    (
        "memory_degraded",
        "Requests of all workers that had to make do with less memory (worker_memory_budget).",
    ),
    ("memory_drawn", "Bytes of memory that the requests of all workers have drawn from their budgets now."),
    ("modern_browser", "The value of modern_browser_value where the browser is a modern one, else empty."),
    ("msec", "The time in seconds since 1970, with milliseconds."),
    ("msie", "1 for Internet Explorer, else empty."),
    ("nginx_version", "The version of pronghorn."),
    ("parent_id", "The span of the client in its traceparent; no value where the trace begins here."),
    ("pid", "The process id of the worker."),
    ("pipe", "p for a pipelined request, else a dot."),
    ("pronghorn_version", "The version of pronghorn."),
    ("proxy_add_x_forwarded_for", "The request's X-Forwarded-For with the client's address appended."),
    ("proxy_host", "The name and port of proxy_pass."),
    ("proxy_port", "The port of proxy_pass, or its protocol's."),
    ("proxy_protocol_addr", "The client's address from the PROXY header."),
    ("proxy_protocol_port", "The client's port from the PROXY header."),
    ("proxy_protocol_server_addr", "The address that the client connected to, from the PROXY header."),
    ("proxy_protocol_server_port", "The port that the client connected to, from the PROXY header."),
    ("proxy_protocol_tlv_", "The field of this name or number in the PROXY header."),
    ("query_string", "The same as $args."),
    ("realip_remote_addr", "The address that the connection came from, before set_real_ip_from."),
    ("realip_remote_port", "The port that the connection came from, before set_real_ip_from."),
    ("realpath_root", "The directory of root or alias, its symbolic links resolved."),
    ("remote_addr", "The client's address."),
    ("remote_port", "The client's port."),
    ("remote_user", "The user of Basic authentication."),
    ("request", "The request line as it came."),
    ("request_body", "The request's body where it was read into memory."),
    ("request_body_file", "The file of the request's body."),
    ("request_body_time", "From the end of the request's head to the end of its body, in seconds."),
    ("request_completion", "OK where the answer was sent whole, else empty."),
    ("request_filename", "The path of the file for the request."),
    ("request_head_time", "From the first byte of the request's head to its last, in seconds."),
    ("request_id", "16 random bytes in hexadecimal, for this request."),
    ("request_length", "Bytes of the request: line, head and body."),
    ("request_method", "The method: GET, POST."),
    ("request_port", "The port in the request line, else that of Host."),
    (
        "request_time",
        "From the first byte of the request to now, in the log to the last byte of the answer; in seconds.",
    ),
    ("request_uri", "The URI with its arguments as it came."),
    ("response_send_time", "From the head of the answer to now, in the log to its last byte; in seconds."),
    ("response_wait_time", "From the first byte of the request to the head of the answer, in seconds."),
    ("scheme", "http or https."),
    (
        "secure_link",
        "1 for a link that is right, 0 where its time is over, else empty; with secure_link_secret the link.",
    ),
    ("secure_link_expires", "The second of the end of the link."),
    ("sent_http_", "The answer's field of this name, in lower case and with underscores."),
    ("sent_trailer_", "The field of this name behind the answer's body."),
    ("server_addr", "The address that took the request."),
    ("server_name", "The first name of the server that took the request."),
    ("server_port", "The port that took the request."),
    ("server_protocol", "HTTP/1.0 or HTTP/1.1."),
    ("slice_range", "The part of an answer that is asked for with slice, as a Range: bytes=0-1048575."),
    ("span_id", "The span of this request, for its traceparent."),
    ("ssl_alpn_protocol", "The protocol that ALPN chose; no value without TLS."),
    ("ssl_cipher", "The cipher of the connection; no value without TLS."),
    ("ssl_ciphers", "The ciphers that the client supports; no value without TLS."),
    ("ssl_client_cert", "The client's certificate with its lines indented; no value without TLS."),
    ("ssl_client_escaped_cert", "The client's certificate, escaped for a URL; no value without TLS."),
    ("ssl_client_fingerprint", "The SHA-1 of the client's certificate; no value without TLS."),
    ("ssl_client_i_dn", "The issuer of the client's certificate; no value without TLS."),
    (
        "ssl_client_i_dn_legacy",
        "The issuer of the client's certificate in the old form; no value without TLS.",
    ),
    ("ssl_client_raw_cert", "The client's certificate; no value without TLS."),
    ("ssl_client_s_dn", "The subject of the client's certificate; no value without TLS."),
    (
        "ssl_client_s_dn_legacy",
        "The subject of the client's certificate in the old form; no value without TLS.",
    ),
    ("ssl_client_serial", "The number of the client's certificate; no value without TLS."),
    ("ssl_client_sigalg", "The signature algorithm of the client's certificate; no value without TLS."),
    ("ssl_client_v_end", "When the client's certificate ends; no value without TLS."),
    ("ssl_client_v_remain", "Days until the client's certificate ends; no value without TLS."),
    ("ssl_client_v_start", "When the client's certificate begins; no value without TLS."),
    ("ssl_client_verify", "Whether the client's certificate is valid; no value without TLS."),
    ("ssl_curve", "The curve of the key exchange; no value without TLS."),
    ("ssl_curves", "The curves that the client supports; no value without TLS."),
    ("ssl_early_data", "1 for TLS 1.3 early data; no value without TLS."),
    ("ssl_ech_outer_server_name", "The public name of Encrypted Client Hello; no value without TLS."),
    ("ssl_ech_status", "What became of Encrypted Client Hello; no value without TLS."),
    ("ssl_protocol", "The version of TLS; no value without TLS."),
    ("ssl_server_name", "The name that the client asked for by SNI; no value without TLS."),
    ("ssl_session_id", "The id of the TLS session; no value without TLS."),
    ("ssl_session_reused", "r for a session that goes on, else a dot; no value without TLS."),
    ("ssl_sigalg", "The signature algorithm of the connection; no value without TLS."),
    ("ssl_sigalgs", "The signature algorithms that the client supports; no value without TLS."),
    ("status", "The status of the answer."),
    ("tcpinfo_rcv_space", "The window for what the client sends, in bytes."),
    ("tcpinfo_rtt", "The round trip time of the client's connection, in microseconds."),
    ("tcpinfo_rttvar", "How much the round trip time varies, in microseconds."),
    ("tcpinfo_snd_cwnd", "The congestion window to the client, in segments."),
    ("termination_reason", "Who ended the request, in which phase, by which limit: see below."),
    ("time_iso8601", "The local time as 2026-01-31T23:59:59+00:00."),
    ("time_local", "The local time as 31/Jan/2026:23:59:59 +0000."),
    ("trace_id", "The trace of the client's traceparent, else that of $request_id."),
    (
        "traceparent",
        "The W3C trace context for the upstream: the trace of the client, or a new one, with a span of this request.",
    ),
    ("uid_got", "The name and value of the cookie that the client sent, by userid."),
    (
        "uid_reset",
        "Set it to anything but empty and 0 and userid gives a new cookie; log tells the old one too.",
    ),
    ("uid_set", "The name and value of the cookie that the client is given, by userid."),
    (
        "upstream_addr",
        "The servers that were asked; a comma between tries, a colon after an internal redirect.",
    ),
    ("upstream_bytes_received", "Bytes that each server sent."),
    ("upstream_bytes_sent", "Bytes that each server was sent."),
    ("upstream_cache_etag", "The ETag of an answer in a cache; empty, since none is asked."),
    (
        "upstream_cache_last_modified",
        "The Last-Modified of an answer in a cache; empty, since none is asked.",
    ),
    ("upstream_cache_status", "What a cache had for the request; empty, since none is asked."),
    ("upstream_connect_time", "The time to connect to each server, in seconds; 0.000 for a kept connection."),
    ("upstream_cookie_", "The cookie of this name that the server sets."),
    ("upstream_header_time", "The time until the head of each server's answer was there, in seconds."),
    ("upstream_http_", "The server's field of this name, in lower case and with underscores."),
    ("upstream_response_length", "Bytes of the body of each server's answer."),
    ("upstream_response_time", "The time until each server's answer was there, in seconds."),
    ("upstream_send_time", "The time until each server had been sent the whole request, in seconds."),
    ("upstream_status", "The status of each server's answer; 502 or 504 where there was none."),
    ("upstream_trailer_", "The field of this name behind the body of the server's answer."),
    ("uri", "The path of the request, decoded and normalized, as internal redirects change it."),
    ("zstd_ratio", "How much smaller Zstandard made the answer: 5.25 is a little less than a fifth."),
];

/// The line for a variable.
pub fn line(name: &str) -> Option<&'static str> {
    VARIABLES.iter().find(|(known, _)| *known == name).map(|(_, line)| *line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::modules;

    #[test]
    fn each_variable_has_a_line_and_each_line_a_variable() {
        let declared: Vec<&str> =
            modules::VARIABLES.iter().flat_map(|list| list.iter()).map(|v| v.name).collect();
        let missing: Vec<&&str> = declared.iter().filter(|name| line(name).is_none()).collect();
        assert!(missing.is_empty(), "add a line to src/http/glossary.rs for {missing:?}");
        let left: Vec<&str> =
            VARIABLES.iter().map(|(name, _)| *name).filter(|name| !declared.contains(name)).collect();
        assert!(left.is_empty(), "no module declares {left:?}");
        assert!(VARIABLES.is_sorted_by_key(|(name, _)| *name), "by name");
    }
}
