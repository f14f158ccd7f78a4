//! TLS to clients (`ssl_*`): its directives, what becomes of them, and its variables.
//!
//! A server's settings become one `net::tls::server::Server` when the configuration has been read; handshakes
//! are made by `http/handshake.rs`. Touches: files of certificates and keys, while the configuration is
//! read. Behaviour: nginx.org, ngx_http_ssl_module, ngx_http_v2_module and ngx_http_v3_module.

mod client_certificate;
mod dynamic;
mod status;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest;
use client_certificate::{days_remaining, show};
use rustls::KeyLog;
use rustls::server::ProducesTickets;

use crate::config::directive::{Accepted, accepted, custom, flag, millis, number, one_of, size, text};
use crate::config::inherit::replace;
use crate::config::{self, Arity, Diagnostic, Inherit, Keyword, Node, Setting, Span, keywords, settings};
use crate::http::config::compile::Cx;
use crate::http::config::tls_files::{
    Words, add_words, chosen, key_log_file, load_pair, passwords, read, reported, shown,
};
use crate::http::modules::{BlockConf, Directive, ModuleTable};
use crate::http::request::Request;
use crate::http::scope::{Script, Variable};
use crate::net::tls::certificate::Certificate;
use crate::net::tls::context::{self, Context};
use crate::net::tls::ocsp::cache;
use crate::net::tls::ocsp::staples::Staples;
use crate::net::tls::pem;
use crate::net::tls::server::{self, Clients, Server};
use crate::net::tls::session_cache::{self, SessionCache, Zone, Zones};
use crate::net::tls::settings::{self as selection, Choice, Selected};
use crate::net::tls::ticket::{Keys, SharedKeys, TicketKey, Ticketer};
use crate::net::tls::verify::{ClientVerifier, Mode, Purpose, Trust};
use crate::net::tls::watch::{Files, is_ocsp_response};
use crate::net::tls::{Info, certificate_compression, ciphers, conf_command, names};
use crate::proto::client_hello::ClientHello;
use crate::script::value;
use crate::script::variable::{Argument, variable};

/// `ssl_verify_client`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyClient {
    Off,
    On,
    Optional,
    OptionalNoCa,
}
keywords!(VerifyClient { "off" => Off, "on" => On, "optional" => Optional, "optional_no_ca" => OptionalNoCa });

/// `ssl_ocsp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ocsp {
    Off,
    On,
    Leaf,
}
keywords!(Ocsp { "off" => Off, "on" => On, "leaf" => Leaf });

settings! {
    #[derive(Debug)]
    pub struct Conf {
        certificates: Vec<Words> => replace,
        keys: Vec<Words> => replace,
        /// The values of both, in the same order, for names with variables.
        certificate_scripts: Vec<Arc<Script>> => replace,
        key_scripts: Vec<Arc<Script>> => replace,
        certificate_cache: Inherit<Arc<dynamic::Cache>>,
        password_file: Inherit<Box<str>>,
        protocols: Inherit<Words>,
        ciphers: Inherit<Box<str>>,
        prefer_server_ciphers: Setting<bool> = false,
        ecdh_curve: Inherit<Box<str>>,
        conf_commands: Vec<Words> => replace,
        verify_client: Setting<VerifyClient> = VerifyClient::Off,
        verify_depth: Setting<u64> = 1,
        client_certificate: Inherit<Box<str>>,
        trusted_certificate: Inherit<Box<str>>,
        crl: Inherit<Box<str>>,
        session_cache: Inherit<Words>,
        session_tickets: Setting<bool> = true,
        ticket_keys: Vec<Words> => replace,
        session_timeout_ms: Setting<u64> = 300_000,
        buffer_size: Setting<u64> = 16_384,
        early_data: Setting<bool> = false,
        reject_handshake: Setting<bool> = false,
        certificate_compression: Setting<bool> = false,
        handshake_timeout_ms: Inherit<u64>,
        handshakes_max: Setting<u64> = 1024,
        stapling: Setting<bool> = false,
        stapling_file: Inherit<Box<str>>,
        stapling_responder: Inherit<Box<str>>,
        stapling_verify: Setting<bool> = false,
        ocsp: Setting<Ocsp> = Ocsp::Off,
        ocsp_responder: Inherit<Box<str>>,
        ocsp_cache: Inherit<cache::Directive>,
        key_log: Inherit<Box<str>>,
    }
}

const BOTH: config::Context = config::Context::HTTP.or(config::Context::SERVER);

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("ssl_certificate", BOTH, Arity::exactly(1), |c: &mut Conf, cx, node| add_file((&mut c.certificates, &mut c.certificate_scripts), cx, node),
        "Names a file with the server's certificate and the certificates of its chain, in PEM. Given several times, with keys of different kinds, each client \
         gets one that it can check. Certificates and keys in files are used anew when the files change, without a reload; a pair that does not fit, or is not \
         valid today, is reported, and the old one stays. Warnings in the log and of -t come 14 days before a certificate expires."),
    custom("ssl_certificate_key", BOTH, Arity::exactly(1), |c: &mut Conf, cx, node| add_file((&mut c.keys, &mut c.key_scripts), cx, node),
        "Names the file with the private key of the ssl_certificate with the same position."),
    custom("ssl_certificate_cache", BOTH, Arity::between(1, 3), |c: &mut Conf, _, node| dynamic::set_cache(c, node),
        "Keeps certificates whose names have variables: at most max= certificates and keys, until they have not been used for inactive= (10s). They are read \
         again after valid= (60s). With off, each handshake reads them.").default("off"),
    text("ssl_password_file", BOTH, |c| &mut c.password_file, "Names a file with the passwords of encrypted private keys, one a line; they are tried in turn."),
    custom("ssl_protocols", BOTH, Arity::at_least(1), |c: &mut Conf, _, node| c.protocols.put(Words::of(node), node),
        "Enables these versions of TLS: TLSv1.2 and TLSv1.3. Older ones are not available.").default("TLSv1.2 TLSv1.3"),
    text("ssl_ciphers", BOTH, |c| &mut c.ciphers,
        "Sets the cipher suites of TLS 1.2 in OpenSSL's notation. There are six: ECDHE with ECDSA or RSA, and AES-128-GCM, AES-256-GCM or ChaCha20-Poly1305."),
    flag("ssl_prefer_server_ciphers", BOTH, |c| &mut c.prefer_server_ciphers, "Chooses cipher suites in the server's order, not in the client's."),
    text("ssl_ecdh_curve", BOTH, |c| &mut c.ecdh_curve,
        "Sets the groups of the key exchange, first choice first: X25519MLKEM768, SecP256r1MLKEM768, X25519, prime256v1, secp384r1; auto selects all."),
    custom("ssl_conf_command", BOTH, Arity::exactly(2), |c: &mut Conf, _, node| add_words(&mut c.conf_commands, node),
        "Sets what OpenSSL's configuration command of this name sets; commands that mean nothing here are reported and ignored."),
    one_of("ssl_verify_client", BOTH, |c| &mut c.verify_client,
        "Asks clients for a certificate: on requires a valid one, optional accepts none, optional_no_ca also accepts one whose issuer is unknown; the result \
         is in $ssl_client_verify."),
    number("ssl_verify_depth", BOTH, (0, 100), |c| &mut c.verify_depth, "Limits how many intermediate certificates a client's chain may have."),
    text("ssl_client_certificate", BOTH, |c| &mut c.client_certificate,
        "Names a file with the CA certificates that clients' certificates are checked with; their names are sent to clients."),
    text("ssl_trusted_certificate", BOTH, |c| &mut c.trusted_certificate,
        "Names a file with CA certificates that clients' certificates are checked with; their names are not sent."),
    text("ssl_crl", BOTH, |c| &mut c.crl, "Names a file with lists of revoked certificates, which clients' certificates are checked with."),
    custom("ssl_session_cache", BOTH, Arity::between(1, 2), |c: &mut Conf, _, node| c.session_cache.put(Words::of(node), node),
        "Keeps sessions for clients that come back: off, none, or shared:NAME:SIZE, which all workers share.").default("none"),
    flag("ssl_session_tickets", BOTH, |c| &mut c.session_tickets, "Lets clients resume sessions with tickets."),
    custom("ssl_session_ticket_key", BOTH, Arity::exactly(1), |c: &mut Conf, _, node| add_words(&mut c.ticket_keys, node),
        "Names a file with a key for tickets, 48 or 80 random bytes. The first one encrypts, all decrypt. Without it the workers share keys that change \
         by themselves."),
    millis("ssl_session_timeout", BOTH, |c| &mut c.session_timeout_ms, "Sets how long a session can be resumed."),
    size("ssl_buffer_size", BOTH, |c| &mut c.buffer_size, "Sets the maximum size of a record."),
    flag("ssl_early_data", BOTH, |c| &mut c.early_data,
        "Answers requests in the first packet of a resumed TLS 1.3 session at once. Each session can do that once, so it requires ssl_session_cache \
         shared:. Backends should be told by proxy_set_header Early-Data $ssl_early_data, and answer 425 where a repetition would do harm."),
    flag("ssl_reject_handshake", BOTH, |c| &mut c.reject_handshake,
        "Refuses handshakes for the names of this server; in the default server, for all unknown names."),
    flag("ssl_certificate_compression", BOTH, |c| &mut c.certificate_compression, "Compresses certificates for clients that support it (RFC 8879)."),
    millis("ssl_handshake_timeout", BOTH, |c| &mut c.handshake_timeout_ms,
        "Sets how long a handshake may take. Default: client_header_timeout."),
    number("ssl_handshakes_max", config::Context::HTTP, (1, 1 << 20), |c| &mut c.handshakes_max,
        "Limits how many handshakes a worker makes at a time. When one more client comes, the oldest is given up: its client may have stopped."),
    one_of("ssl_ocsp", BOTH, |c| &mut c.ocsp,
        "Asks the OCSP responders of clients' certificates whether they have been revoked: on for all certificates of the chain, leaf for the client's own. \
         A client is refused if its certificate is not good, or if no responder tells."),
    text("ssl_ocsp_responder", BOTH, |c| &mut c.ocsp_responder,
        "Sets the URL (http://) of the OCSP responder to ask about clients' certificates, instead of the one that each certificate names."),
    custom("ssl_ocsp_cache", BOTH, Arity::exactly(1), |c: &mut Conf, _, node| status::set_cache(c, node),
        "Keeps the status of clients' certificates for as long as the OCSP response is valid: off, or shared:NAME:SIZE, which all workers share.")
        .default("off"),
    flag("ssl_stapling", BOTH, |c| &mut c.stapling,
        "Sends OCSP responses for the server's certificates. They come from ssl_stapling_file, or from the responder that the certificate names, which is \
         asked by the first handshake and then every hour, for all workers; a handshake does not wait for it. The certificate's issuer must follow it in its \
         file, or be in ssl_trusted_certificate."),
    text("ssl_stapling_file", BOTH, |c| &mut c.stapling_file,
        "Names a file with an OCSP response (DER) for the first certificate. It is used anew when it changes, as certificates are."),
    text("ssl_stapling_responder", BOTH, |c| &mut c.stapling_responder,
        "Sets the URL (http://) of the OCSP responder for ssl_stapling, instead of the one that each certificate names."),
    flag("ssl_stapling_verify", BOTH, |c| &mut c.stapling_verify,
        "Sends an OCSP response only if it is signed for the certificate's issuer, whose chain must end at a root in ssl_trusted_certificate."),
    text("ssl_key_log", BOTH, |c| &mut c.key_log,
        "Names a file that the secrets of all connections are written to, for debugging with a packet analyzer. Anyone who reads it can decrypt them."),
    accepted("ssl_dhparam", BOTH, Arity::exactly(1), Accepted::Words, "No effect: key exchanges with finite-field Diffie-Hellman are not available."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("http2", empty, "The negotiated HTTP/2 protocol; always empty, since HTTP/2 is not available."),
    variable("http3", empty, "The negotiated HTTP/3 protocol; always empty, since HTTP/3 is not available."),
    variable("ssl_alpn_protocol", |r, _, out| info(r, |info| extend(out, &info.protocol)), "The protocol selected by ALPN."),
    variable("ssl_cipher", |r, _, out| info(r, |info| extend(out, info.cipher().as_bytes())), "The cipher suite of the connection, in OpenSSL's words."),
    variable("ssl_ciphers", |r, _, out| hello(r, |hello| list(out, &hello.cipher_suites, names::cipher)),
        "The cipher suites that the client supports; those without a name in OpenSSL as hexadecimal numbers."),
    variable("ssl_client_cert", |r, _, out| show(r, out, |s| s.pem_folded()), "The client's certificate, with its lines indented; no value without one."),
    variable("ssl_client_escaped_cert", |r, _, out| show(r, out, |s| s.pem_escaped()), "The client's certificate, URL-encoded; no value without one."),
    variable("ssl_client_fingerprint", |r, _, out| show(r, out, |s| s.fingerprint()), "The SHA-1 of the client's certificate; no value without one."),
    variable("ssl_client_i_dn", |r, _, out| show(r, out, |s| s.issuer_dn()), "The issuer DN of the client's certificate; no value without one."),
    variable("ssl_client_i_dn_legacy", |r, _, out| show(r, out, |s| s.issuer_dn_legacy()),
        "The issuer DN of the client's certificate, in the old format; no value without one."),
    variable("ssl_client_raw_cert", |r, _, out| show(r, out, |s| s.pem()), "The client's certificate; no value without one."),
    variable("ssl_client_s_dn", |r, _, out| show(r, out, |s| s.subject_dn()), "The subject DN of the client's certificate; no value without one."),
    variable("ssl_client_s_dn_legacy", |r, _, out| show(r, out, |s| s.subject_dn_legacy()),
        "The subject DN of the client's certificate, in the old format; no value without one."),
    variable("ssl_client_serial", |r, _, out| show(r, out, |s| s.serial()), "The serial number of the client's certificate; no value without one."),
    variable("ssl_client_sigalg", |r, _, out| info(r, |info| info.client_signature_scheme.is_some_and(|s| name_or_number(out, s, names::signature_scheme))),
        "The algorithm of the client's signature; no value without a certificate, or if a session was resumed."),
    variable("ssl_client_v_end", |r, _, out| show(r, out, |s| s.not_after()), "The date on which the client's certificate expires; no value without one."),
    variable("ssl_client_v_remain", |r, _, out| show(r, out, days_remaining), "The days until the client's certificate expires; no value without one."),
    variable("ssl_client_v_start", |r, _, out| show(r, out, |s| s.not_before()),
        "The date from which the client's certificate is valid; no value without one."),
    variable("ssl_client_verify", |r, _, out| info(r, |info| verified(info, out)),
        "The result of checking the client's certificate: SUCCESS, FAILED:reason, or NONE without a certificate."),
    variable("ssl_curve", |r, _, out| info(r, |info| info.group.is_some_and(|group| name_or_number(out, group, names::group))),
        "The group of the key exchange."),
    variable("ssl_curves", |r, _, out| hello(r, |hello| list(out, &hello.groups, names::group)), "The groups that the client supports."),
    variable("ssl_early_data", |r, _, out| info(r, |info| extend(out, if info.is_early.get() { b"1" } else { b"" })),
        "1 while the request's TLS handshake is not complete: the request may be a copy of one that was sent earlier. Otherwise no value."),
    variable("ssl_ech_outer_server_name", none, "The public name of Encrypted Client Hello, which is not available: no value."),
    variable("ssl_ech_status", none, "The result of Encrypted Client Hello, which is not available: no value."),
    variable("ssl_protocol", |r, _, out| info(r, |info| extend(out, info.version().as_bytes())), "The TLS version of the connection: TLSv1.2 or TLSv1.3."),
    variable("ssl_server_name", |r, _, out| hello(r, |hello| extend(out, hello.server_name.as_bytes())), "The server name that the client requested by SNI."),
    variable("ssl_session_id", |r, _, out| hello(r, |hello| hex(out, &hello.session_id)),
        "The id of the TLS session that the client sent, in hexadecimal digits."),
    variable("ssl_session_reused", |r, _, out| info(r, |info| extend(out, if info.is_resumed { b"r" } else { b"." })),
        "r if the TLS session was resumed, otherwise a dot."),
    variable("ssl_sigalg", |r, _, out| info(r, |info| info.signature_scheme.is_some_and(|s| name_or_number(out, s, names::signature_scheme))),
        "The algorithm of the server's signature; no value if a session was resumed."),
    variable("ssl_sigalgs", |r, _, out| hello(r, |hello| list(out, &hello.signature_schemes, names::signature_scheme)),
        "The signature algorithms that the client supports."),
];

impl BlockConf for Conf {}

/// No value: `-` in the access log.
fn none(_: &mut Request, _: &Argument, _: &mut Vec<u8>) -> bool {
    false
}

/// An empty value.
fn empty(_: &mut Request, _: &Argument, _: &mut Vec<u8>) -> bool {
    true
}

/// Writes a value of the connection's TLS; false without TLS.
fn info(request: &Request, write: impl FnOnce(&Info) -> bool) -> bool {
    request.connection.tls.as_deref().is_some_and(write)
}

fn hello(request: &Request, write: impl FnOnce(&ClientHello) -> bool) -> bool {
    info(request, |info| info.hello.as_deref().is_some_and(write))
}

/// An empty value is no value.
fn extend(out: &mut Vec<u8>, bytes: &[u8]) -> bool {
    out.extend_from_slice(bytes);
    !bytes.is_empty()
}

fn name_or_number(out: &mut Vec<u8>, number: u16, name: fn(u16) -> Option<&'static str>) -> bool {
    match name(number) {
        Some(name) => out.write_all(name.as_bytes()),
        None => write!(out, "0x{number:04x}"),
    }
    .is_ok()
}

/// Writes names, or numbers without a name, with colons between. Values that clients send to keep servers
/// tolerant (GREASE, RFC 8701) are included, as in nginx.
fn list(out: &mut Vec<u8>, numbers: &[u16], name: fn(u16) -> Option<&'static str>) -> bool {
    for (index, value) in numbers.iter().enumerate() {
        if index > 0 {
            out.push(b':');
        }
        name_or_number(out, *value, name);
    }
    !numbers.is_empty()
}

fn verified(info: &Info, out: &mut Vec<u8>) -> bool {
    let verdict = info.verdict.get();
    match (verdict.outcome, verdict.status) {
        _ if info.peer_chain.is_empty() => out.extend_from_slice(b"NONE"),
        (Ok(()), Ok(())) => out.extend_from_slice(b"SUCCESS"),
        (Err(refusal), _) => out.extend_from_slice(format!("FAILED:{refusal}").as_bytes()),
        (Ok(()), Err(denial)) => out.extend_from_slice(format!("FAILED:{denial}").as_bytes()),
    }
    true
}

fn hex(out: &mut Vec<u8>, bytes: &[u8]) -> bool {
    bytes.iter().for_each(|byte| write!(out, "{byte:02x}").unwrap_or_default());
    !bytes.is_empty()
}

/// The memory that servers share, as declared while the configuration is read.
#[derive(Default)]
pub struct Loaded {
    zones: Zones,
    ocsp_zones: cache::Zones,
    /// By the names of their files.
    stapling: HashMap<Vec<Box<str>>, status::Trusted>,
    staples: Arc<Staples>,
    /// The certificates that share them.
    stapled_count: usize,
    /// By the lifetime of the tickets, in seconds.
    ticket_keys: HashMap<u32, Arc<SharedKeys>>,
}

impl Loaded {
    /// Counts certificates whose OCSP responses workers share.
    fn add_stapled(&mut self, count: usize) -> Arc<Staples> {
        self.stapled_count += count;
        Arc::clone(&self.staples)
    }
}

/// The memory that TLS shares between the workers.
#[derive(Debug)]
pub struct Table {
    zones: Vec<Arc<Zone>>,
    ocsp_zones: Vec<Arc<cache::Zone>>,
    staples: Arc<Staples>,
    ticket_keys: Vec<Arc<SharedKeys>>,
}

impl ModuleTable for Table {
    fn open(cx: &mut Cx) -> Self {
        let loaded = std::mem::take(&mut cx.drafts.ssl);
        let table = Self {
            zones: loaded.zones.iter().cloned().collect(),
            ocsp_zones: loaded.ocsp_zones.iter().cloned().collect(),
            staples: loaded.staples,
            ticket_keys: loaded.ticket_keys.into_values().collect(),
        };
        if !cx.options.test_only {
            let zones = table.zones.iter().map(|zone| (zone.open(), zone.name()));
            let keys = table.ticket_keys.iter().map(|keys| (keys.open(), "ssl_session_tickets"));
            let caches = table.ocsp_zones.iter().map(|zone| (zone.open(), zone.name()));
            let count = loaded.stapled_count;
            let staples = (count > 0).then(|| (table.staples.open(count), "ssl_stapling"));
            for (outcome, name) in zones.chain(keys).chain(caches).chain(staples).collect::<Vec<_>>() {
                reported(outcome, "map the memory of", name, None, cx);
            }
        }
        table
    }

    fn add_zones(&self, zones: &mut Vec<u64>) {
        zones.extend(self.zones.iter().map(|zone| zone.id()));
        zones.extend(self.ocsp_zones.iter().map(|zone| zone.id()));
        zones.extend(self.staples.id());
        zones.extend(self.ticket_keys.iter().map(|keys| keys.id()));
    }

    fn tidy(&self) -> bool {
        self.ticket_keys.iter().for_each(|keys| keys.erase_expired());
        !self.ticket_keys.is_empty()
    }
}

impl Conf {
    /// `ssl_verify_client`; `None`: off.
    pub fn client_mode(&self) -> Option<Mode> {
        match self.verify_client.get() {
            VerifyClient::Off => None,
            VerifyClient::On => Some(Mode::On),
            VerifyClient::Optional => Some(Mode::Optional),
            VerifyClient::OptionalNoCa => Some(Mode::OptionalNoCa),
        }
    }

    /// `ssl_reject_handshake`.
    pub fn rejects_handshakes(&self) -> bool {
        self.reject_handshake.get()
    }

    /// `ssl_handshake_timeout`; `None`: that of a request's head.
    pub fn handshake_timeout_ms(&self) -> Option<u64> {
        self.handshake_timeout_ms.as_ref().copied()
    }

    /// `ssl_handshakes_max`.
    pub fn handshakes_max(&self) -> usize {
        usize::try_from(self.handshakes_max.get()).unwrap_or(usize::MAX)
    }

    /// True if there is something to make a handshake with.
    pub fn has_certificate(&self) -> bool {
        !self.certificates.is_empty()
    }

    /// Makes the server's side of TLS from these settings. `None`: it has no certificate, or an error was
    /// reported.
    pub fn server(&self, names: &[Box<str>], cx: &mut Cx) -> Option<Server> {
        let certificates = if self.is_dynamic() { Vec::new() } else { self.load(cx)? };
        let selected = self.selected(cx)?;
        let compresses = selected.certificate_compression.unwrap_or(self.certificate_compression.get());
        let (clients, trusted) = self.clients(cx)?;
        // Servers with the same name on other addresses differ by their certificates' files.
        let mut identity: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
        identity.extend(self.certificates.iter().map(|name| name.first().as_bytes()));
        let context = Context::new(&context::Settings {
            server: &identity,
            verify: self.verify_client.get().word(),
            depth: u32::try_from(self.verify_depth.get()).unwrap_or(u32::MAX),
            trusted: &trusted,
            crls: &[],
        });
        let issues_tickets = selected.session_tickets.unwrap_or(self.session_tickets.get());
        let key_log = self.key_log.as_ref().map(|name| &**name);
        let key_log = key_log_file(key_log, self.key_log.span(), cx)?;
        let settings = server::Settings {
            provider: selection::provider(&selected),
            versions: selected.protocols.versions().to_vec(),
            certificates,
            stapling: self.stapling_settings(cx)?,
            prefers_own_order: selected.server_preference.unwrap_or(self.prefer_server_ciphers.get()),
            sessions: Some(Arc::new(self.session_cache(context, cx)?)),
            // Early data is accepted once for each session, so sessions are kept instead.
            tickets: if issues_tickets && !self.early_data.get() {
                Some(self.ticketer(context, cx)?)
            } else {
                None
            },
            ticket_count: selected.ticket_count,
            clients,
            protocols: vec![b"http/1.1".to_vec(), b"http/1.0".to_vec(), b"http/0.9".to_vec()],
            takes_early_data: self.early_data.get(),
            key_log: key_log.map(|file| file as Arc<dyn KeyLog>),
            compressors: if compresses { certificate_compression::compressors() } else { Vec::new() },
            record_bytes: usize::try_from(self.buffer_size.get()).unwrap_or(usize::MAX),
        };
        match Server::new(settings) {
            Ok(server) => {
                self.report_unstapled(&server, cx);
                Some(server)
            }
            Err(error) => {
                cx.diagnostics.push(Diagnostic::error(self.certificates[0].span, error.to_string()));
                None
            }
        }
    }

    /// Protocols, cipher suites and groups; reports words without effect. `None`: an error was reported.
    fn selected(&self, cx: &mut Cx) -> Option<Selected> {
        let mut selected = Selected::default();
        if let Some(words) = self.protocols.as_ref() {
            let choice = selection::protocols(words.words.iter().map(|word| &**word));
            selected.protocols = chosen(choice, words.span, cx)?;
        }
        if let Some(list) = self.ciphers.as_ref() {
            selected.ciphers = chosen(ciphers::ciphers(list), self.ciphers.span().unwrap_or_default(), cx)?;
        }
        if let Some(list) = self.ecdh_curve.as_ref() {
            selected.groups =
                chosen(selection::groups(list), self.ecdh_curve.span().unwrap_or_default(), cx)?;
        }
        for command in &self.conf_commands {
            let dropped = conf_command::apply(&mut selected, &command.words[0], &command.words[1]);
            chosen(dropped.map(|dropped| Choice { value: (), dropped }), command.span, cx)?;
        }
        Some(selected)
    }

    fn session_timeout_s(&self) -> u32 {
        u32::try_from(self.session_timeout_ms.get() / 1000).unwrap_or(u32::MAX)
    }

    /// `None`: an error was reported.
    fn session_cache(&self, context: Context, cx: &mut Cx) -> Option<SessionCache> {
        let Some(words) = self.session_cache.as_ref() else { return Some(SessionCache::none(context)) };
        let directive = match session_cache::Directive::parse(words.words.iter().map(|word| &**word)) {
            Ok(directive) => directive,
            Err(error) => {
                let diagnostic = Diagnostic::error(words.span, error.to_string()).help(error.help());
                cx.diagnostics.push(diagnostic);
                return None;
            }
        };
        if directive.builtin && cx.tls_files.noted.insert(words.span) {
            let message = "\"builtin\" is ignored: a worker has no cache of its own";
            let help = "write \"shared:SSL:10m\", which all workers share";
            cx.diagnostics.push(Diagnostic::warning(words.span, message).help(help));
        }
        match directive.kind {
            session_cache::Kind::Off => Some(SessionCache::off(context)),
            session_cache::Kind::None => Some(SessionCache::none(context)),
            session_cache::Kind::Shared { zone, bytes } => {
                let declared = cx.drafts.ssl.zones.declare(&zone, bytes);
                let zone = declared.map_err(|error| Diagnostic::error(words.span, error.to_string()));
                match zone {
                    Ok(zone) => Some(SessionCache::shared(zone, context, self.session_timeout_s())),
                    Err(diagnostic) => {
                        cx.diagnostics.push(diagnostic);
                        None
                    }
                }
            }
        }
    }

    /// `None`: an error was reported.
    fn ticketer(&self, context: Context, cx: &mut Cx) -> Option<Arc<dyn ProducesTickets>> {
        let timeout_s = self.session_timeout_s();
        let keys = if self.ticket_keys.is_empty() {
            let shared = cx.drafts.ssl.ticket_keys.entry(timeout_s);
            Keys::Shared(Arc::clone(shared.or_insert_with(|| Arc::new(SharedKeys::new(timeout_s)))))
        } else {
            let mut keys = Vec::new();
            for words in &self.ticket_keys {
                let path = cx.options.folder.join(words.first());
                let key = TicketKey::read(&path);
                keys.push(reported(key, "use", &path.to_string_lossy(), Some(words.span), cx)?);
            }
            Keys::Files(keys.into())
        };
        Some(Arc::new(Ticketer::new(keys, context, timeout_s)))
    }

    /// How clients are checked, and the digests of what they are checked with; the inner `None`: they are not
    /// asked. The outer one: an error was reported.
    fn clients(&self, cx: &mut Cx) -> Option<(Option<Clients>, Vec<[u8; 32]>)> {
        let Some(mode) = self.client_mode() else { return Some((None, Vec::new())) };
        let mut digests = Vec::new();
        let mut known = DefaultHasher::new();
        let mut list = |path: &Inherit<Box<str>>, cx: &mut Cx| {
            let Some(name) = path.as_ref() else { return Some(Vec::new()) };
            name.hash(&mut known);
            let data = read(name, "certificate", path.span().unwrap_or_default(), cx)?;
            data.hash(&mut known);
            digests.push(sha256(&data));
            reported(pem::certificates(&data), "load", name, path.span(), cx)
        };
        let named = list(&self.client_certificate, cx)?;
        let trusted = list(&self.trusted_certificate, cx)?;
        if named.is_empty() && trusted.is_empty() && mode != Mode::OptionalNoCa {
            let message = "no ssl_client_certificate or ssl_trusted_certificate for ssl_verify_client";
            let help = "name a file with the CA certificates that clients' certificates are checked with";
            let span = self.verify_client.span().unwrap_or_default();
            cx.diagnostics.push(Diagnostic::error(span, message).help(help));
            return None;
        }
        let lists = match self.crl.as_ref() {
            Some(name) => {
                let data = read(name, "CRL", self.crl.span().unwrap_or_default(), cx)?;
                data.hash(&mut known);
                digests.push(sha256(&data));
                reported(pem::revocation_lists(&data), "load", name, self.crl.span(), cx)?
            }
            None => Vec::new(),
        };
        let depth = usize::try_from(self.verify_depth.get()).unwrap_or(usize::MAX);
        depth.hash(&mut known);
        let trust = Trust::new(Purpose::Client, depth, named.iter().chain(&trusted), &lists);
        let span = self.client_certificate.span().or(self.trusted_certificate.span());
        let trust =
            reported(trust, "use", self.client_certificate.as_ref().map_or("", |name| name), span, cx)?;
        // A server that asks responders does not take clients of another one that does not.
        self.ocsp.get().word().hash(&mut known);
        self.ocsp_responder.as_ref().hash(&mut known);
        let id = known.finish().max(1);
        let verifier = ClientVerifier::new(&named);
        let status = self.status_check(mode, cx)?;
        Some((Some(Clients { verifier, trust: Arc::new(trust), status, id }), digests))
    }

    /// The files of each certificate, in their order, each with its directive; `None`: it is not in files.
    pub fn files(&self, folder: &Path) -> impl Iterator<Item = (Option<Files>, Span)> {
        let path = |name: &str| folder.join(name);
        let passwords = self.password_file.as_ref().map(|name| path(name));
        let ocsp = self.stapled_file().map(path);
        let is_file =
            |words: &Words| !words.first().starts_with("data:") && !value::has_variables(words.first());
        self.certificates.iter().zip(&self.keys).enumerate().map(move |(index, (certificate, key))| {
            let files = (is_file(certificate) && is_file(key)).then(|| Files {
                certificate: path(certificate.first()),
                key: path(key.first()),
                passwords: passwords.clone(),
                ocsp: ocsp.clone().filter(|_| index == 0),
            });
            (files, certificate.span)
        })
    }

    /// `ssl_stapling_file`, with `ssl_stapling on`.
    fn stapled_file(&self) -> Option<&str> {
        self.stapling_file.as_ref().map(|name| &**name).filter(|_| self.stapling.get())
    }

    /// The OCSP response for the first certificate; empty: none. `None`: an error was reported.
    fn ocsp(&self, cx: &mut Cx) -> Option<Vec<u8>> {
        let Some(name) = self.stapled_file() else { return Some(Vec::new()) };
        let span = self.stapling_file.span().unwrap_or_default();
        let response = read(name, "OCSP response", span, cx)?.to_vec();
        if !is_ocsp_response(&response) {
            let message = format!("\"{name}\" is no successful OCSP response");
            let help = "write one in DER, as \"openssl ocsp -respout\" does";
            cx.diagnostics.push(Diagnostic::error(span, message).help(help));
            return None;
        }
        Some(response)
    }

    /// True if names of certificates or keys have variables: they are loaded for each handshake.
    pub fn is_dynamic(&self) -> bool {
        let mut names = self.certificates.iter().chain(&self.keys);
        names.any(|name| value::has_variables(name.first()))
    }

    fn load(&self, cx: &mut Cx) -> Option<Vec<Certificate>> {
        let passwords =
            passwords(self.password_file.as_ref().map(|name| &**name), self.password_file.span(), cx)?;
        let mut loaded = Vec::new();
        for (index, certificate) in self.certificates.iter().enumerate() {
            let Some(key) = self.keys.get(index) else {
                let message = format!(
                    "no \"ssl_certificate_key\" is defined for certificate \"{}\"",
                    shown(certificate.first())
                );
                cx.diagnostics.push(Diagnostic::error(certificate.span, message));
                return None;
            };
            loaded.push(load_pair(certificate.into(), key.into(), &passwords, cx)?);
        }
        let ocsp = self.ocsp(cx)?;
        if let Some(first) = loaded.first_mut().filter(|_| !ocsp.is_empty()) {
            *first = first.clone().with_ocsp(ocsp);
        }
        (!loaded.is_empty()).then_some(loaded)
    }
}

/// Adds the name of a file, which may have variables.
fn add_file(
    (names, scripts): (&mut Vec<Words>, &mut Vec<Arc<Script>>),
    cx: &mut Cx,
    node: &Node,
) -> Result<(), Diagnostic> {
    scripts.push(Arc::new(Script::compile(&node.args[0], cx)?));
    add_words(names, node)
}

fn sha256(data: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, data).as_ref().try_into().unwrap_or_default()
}
