//! The rows of the `ssl_*` directives that every language part has.
//!
//! Touches: nothing. Behaviour: nginx.org, ngx_http_ssl_module and ngx_stream_ssl_module.

/// The table of a part: its own rows, and the shared ones.
///
/// `ssl_rows!(Conf, (Context::HTTP, Context::SERVER), "the default of ssl_handshake_timeout", [own rows])`, where `Conf` is
/// the part's [`server::Conf`](crate::shared::tls::server::Conf), followed by its block and its servers. A macro, because the
/// rows of two lists become one table.
#[rustfmt::skip]
macro_rules! ssl_rows {
    ($conf:ty, ($outer:expr, $server:expr), $handshake_timeout:literal, [$($own:expr),* $(,)?]) => {{
        use $crate::config::directive::{Accepted, accepted, custom, flag, millis, number, one_of, size, text};
        use $crate::config::{Arity, Context};
        use $crate::shared::tls::files::{Words, add_words};
        use $crate::shared::tls::{dynamic, server, status};
        const CONTEXTS: Context = $outer.or($server);
        &[
            $($own,)*
    custom("ssl_certificate", CONTEXTS, Arity::exactly(1), |c: &mut $conf, cx, node|
        server::add_file((&mut c.certificates, &mut c.certificate_scripts), cx, node),
        "Names a file with the server's certificate and the certificates of its chain, in PEM. Given several times, with keys of different kinds, each client \
         gets one that it can check. Certificates and keys in files are used anew when the files change, without a reload; a pair that does not fit, or is not \
         valid today, is reported, and the old one stays. Warnings in the log and of -t come 14 days before a certificate expires."),
    custom("ssl_certificate_key", CONTEXTS, Arity::exactly(1), |c: &mut $conf, cx, node| server::add_file((&mut c.keys, &mut c.key_scripts), cx, node),
        "Names the file with the private key of the ssl_certificate with the same position."),
    custom("ssl_certificate_cache", CONTEXTS, Arity::between(1, 3), |c: &mut $conf, _, node| dynamic::set_cache(c, node),
        "Keeps certificates whose names have variables: at most max= certificates and keys, until they have not been used for inactive= (10s). They are read \
         again after valid= (60s). With off, each handshake reads them.").default("off"),
    text("ssl_password_file", CONTEXTS, |c: &mut $conf| &mut c.password_file,
        "Names a file with the passwords of encrypted private keys, one a line; they are tried in turn."),
    custom("ssl_protocols", CONTEXTS, Arity::at_least(1), |c: &mut $conf, _, node| c.protocols.put(Words::of(node), node),
        "Enables these versions of TLS: TLSv1.2 and TLSv1.3. Older ones are not available.").default("TLSv1.2 TLSv1.3"),
    text("ssl_ciphers", CONTEXTS, |c: &mut $conf| &mut c.ciphers,
        "Sets the cipher suites of TLS 1.2 in OpenSSL's notation. There are six: ECDHE with ECDSA or RSA, and AES-128-GCM, AES-256-GCM or ChaCha20-Poly1305."),
    flag("ssl_prefer_server_ciphers", CONTEXTS, |c: &mut $conf| &mut c.prefer_server_ciphers,
        "Chooses cipher suites in the server's order, not in the client's. If it is not set the server's order counts too, but a client that names \
         ChaCha20-Poly1305 first gets it."),
    text("ssl_ecdh_curve", CONTEXTS, |c: &mut $conf| &mut c.ecdh_curve,
        "Sets the groups of the key exchange, first choice first: X25519MLKEM768, SecP256r1MLKEM768, X25519, prime256v1, secp384r1; auto selects all."),
    custom("ssl_conf_command", CONTEXTS, Arity::exactly(2), |c: &mut $conf, _, node| add_words(&mut c.conf_commands, node),
        "Sets what OpenSSL's configuration command of this name sets; commands that mean nothing here are reported and ignored. The commands Certificate and \
         PrivateKey take the place of a certificate of the same kind."),
    one_of("ssl_verify_client", CONTEXTS, |c: &mut $conf| &mut c.verify_client,
        "Asks clients for a certificate: on requires a valid one, optional accepts none, optional_no_ca also accepts one whose issuer is unknown; the result \
         is in $ssl_client_verify."),
    number("ssl_verify_depth", CONTEXTS, (0, 100), |c: &mut $conf| &mut c.verify_depth,
        "Limits how many intermediate certificates a client's chain may have."),
    text("ssl_client_certificate", CONTEXTS, |c: &mut $conf| &mut c.client_certificate,
        "Names a file with the CA certificates that clients' certificates are checked with; their names are sent to clients. A changed file is used \
         without a reload: new workers take over, and sessions made under the old file are not resumed."),
    text("ssl_trusted_certificate", CONTEXTS, |c: &mut $conf| &mut c.trusted_certificate,
        "Names a file with CA certificates that clients' certificates are checked with; their names are not sent. A changed file is used without a reload."),
    text("ssl_crl", CONTEXTS, |c: &mut $conf| &mut c.crl,
        "Names a file with lists of revoked certificates, which clients' certificates are checked with. A changed file is used without a reload."),
    custom("ssl_session_cache", CONTEXTS, Arity::between(1, 2), |c: &mut $conf, _, node| c.session_cache.put(Words::of(node), node),
        "Keeps sessions for clients that come back: off, none, shared:NAME:SIZE, or builtin:SESSIONS (20480 without a number, 1048576 at most), \
         which servers with the same number share. All workers share both.").default("none"),
    flag("ssl_session_tickets", CONTEXTS, |c: &mut $conf| &mut c.session_tickets, "Lets clients resume sessions with tickets."),
    custom("ssl_session_ticket_key", CONTEXTS, Arity::exactly(1), |c: &mut $conf, _, node| add_words(&mut c.ticket_keys, node),
        "Names a file with a key for tickets, 48 or 80 random bytes. The first one encrypts, all decrypt. Without it the workers share keys that change \
         by themselves."),
    millis("ssl_session_timeout", CONTEXTS, |c: &mut $conf| &mut c.session_timeout_ms, "Sets how long a session can be resumed."),
    size("ssl_buffer_size", CONTEXTS, |c: &mut $conf| &mut c.buffer_size, "Sets the maximum size of a record."),
    flag("ssl_reject_handshake", CONTEXTS, |c: &mut $conf| &mut c.reject_handshake,
        "Refuses handshakes for the names of this server; in the default server, for all unknown names."),
    flag("ssl_certificate_compression", CONTEXTS, |c: &mut $conf| &mut c.certificate_compression,
        "Compresses certificates for clients that support it (RFC 8879)."),
    millis("ssl_handshake_timeout", CONTEXTS, |c: &mut $conf| &mut c.handshake_timeout_ms,
        "Sets how long a handshake may take.").default($handshake_timeout),
    number("ssl_handshakes_max", $outer, (1, 1 << 20), |c: &mut $conf| &mut c.handshakes_max,
        "Limits how many handshakes a worker makes at a time. When one more client comes, the oldest is given up: its client may have stopped."),
    one_of("ssl_ocsp", CONTEXTS, |c: &mut $conf| &mut c.ocsp,
        "Asks the OCSP responders of clients' certificates whether they have been revoked: on for all certificates of the chain, leaf for the client's own. \
         A client is refused if its certificate is not good, or if no responder tells."),
    text("ssl_ocsp_responder", CONTEXTS, |c: &mut $conf| &mut c.ocsp_responder,
        "Sets the URL (http://) of the OCSP responder to ask about clients' certificates, instead of the one that each certificate names."),
    custom("ssl_ocsp_cache", CONTEXTS, Arity::exactly(1), |c: &mut $conf, _, node| status::set_cache(c, node),
        "Keeps the status of clients' certificates for as long as the OCSP response is valid: off, or shared:NAME:SIZE, which all workers share.")
        .default("off"),
    flag("ssl_stapling", CONTEXTS, |c: &mut $conf| &mut c.stapling,
        "Sends OCSP responses for the server's certificates. They come from ssl_stapling_file, or from the responder that the certificate names, which is \
         asked by the first handshake and then every hour, for all workers; a handshake does not wait for it. The certificate's issuer must follow it in its \
         file, or be in ssl_trusted_certificate."),
    text("ssl_stapling_file", CONTEXTS, |c: &mut $conf| &mut c.stapling_file,
        "Names a file with an OCSP response (DER) for the first certificate. It is used anew when it changes, as certificates are."),
    text("ssl_stapling_responder", CONTEXTS, |c: &mut $conf| &mut c.stapling_responder,
        "Sets the URL (http://) of the OCSP responder for ssl_stapling, instead of the one that each certificate names."),
    flag("ssl_stapling_verify", CONTEXTS, |c: &mut $conf| &mut c.stapling_verify,
        "Sends an OCSP response only if it is signed for the certificate's issuer, whose chain must end at a root in ssl_trusted_certificate."),
    text("ssl_key_log", CONTEXTS, |c: &mut $conf| &mut c.key_log,
        "Names a file that the secrets of all connections are written to, for debugging with a packet analyzer. Anyone who reads it can decrypt them."),
    accepted("ssl_dhparam", CONTEXTS, Arity::exactly(1), Accepted::Words, "No effect: key exchanges with finite-field Diffie-Hellman are not available."),
        ]
    }};
}
pub(crate) use ssl_rows;
