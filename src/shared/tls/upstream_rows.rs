//! The rows of the `…_ssl_*` directives about TLS to upstreams.
//!
//! The settings are `upstream.rs`. A family's settings implement [`Secures`]; its table lists these rows with their full
//! names. Touches: nothing. Behaviour: nginx.org, `proxy_ssl_*` of ngx_http_proxy_module and ngx_stream_proxy_module.

use crate::config::directive::{custom, flag, number, text};
use crate::config::{Arity, Context, Directive};
use crate::script::{Compile, Scope};
use crate::shared::tls::files::{Words, add_words, certificate_cache};
use crate::shared::tls::upstream::{self, Settings};

/// The settings of a family of directives whose connections may use TLS.
pub trait Secures: 'static {
    type Scope: Scope;

    fn tls(&mut self) -> &mut Settings<Self::Scope>;
}

const ONE: Arity = Arity::exactly(1);
const MANY: Arity = Arity::at_least(1);

/// `…_ssl_session_reuse`
#[rustfmt::skip]
pub const fn session_reuse<C: Secures, X: 'static>(name: &'static str, contexts: Context) -> Directive<C, X> {
    flag(name, contexts, |c: &mut C| &mut c.tls().session_reuse, "Resumes TLS sessions with upstreams.")
}

/// `…_ssl_protocols`
#[rustfmt::skip]
pub const fn protocols<C: Secures, X: 'static>(name: &'static str, contexts: Context) -> Directive<C, X> {
    custom(name, contexts, MANY, |c: &mut C, _, node| c.tls().protocols.put(Words::of(node), node),
        "Enables these versions of TLS to upstreams: TLSv1.2 and TLSv1.3. Older ones are not available.").default("TLSv1.2 TLSv1.3")
}

/// `…_ssl_ciphers`
#[rustfmt::skip]
pub const fn ciphers<C: Secures, X: 'static>(name: &'static str, contexts: Context) -> Directive<C, X> {
    text(name, contexts, |c: &mut C| &mut c.tls().ciphers,
        "Sets the cipher suites of TLS 1.2 to upstreams in OpenSSL's notation. There are six: ECDHE with ECDSA or RSA, and AES-128-GCM, \
         AES-256-GCM or ChaCha20-Poly1305.").default("DEFAULT")
}

/// `…_ssl_conf_command`
#[rustfmt::skip]
pub const fn conf_command<C: Secures, X: 'static>(name: &'static str, contexts: Context) -> Directive<C, X> {
    custom(name, contexts, Arity::exactly(2), |c: &mut C, _, node| add_words(&mut c.tls().conf_commands, node),
        "Sets what OpenSSL's configuration command of this name sets; commands that mean nothing here are reported and ignored. The commands Certificate and \
         PrivateKey take the place of the certificate.")
}

/// `…_ssl_name`
#[rustfmt::skip]
pub const fn name<C: Secures, X: Compile<Scope = C::Scope> + 'static>(
    name: &'static str, contexts: Context, doc: &'static str, default: &'static str,
) -> Directive<C, X> {
    custom(name, contexts, ONE, |c: &mut C, cx, node| upstream::script(&mut c.tls().name, cx, node), doc).default(default)
}

/// `…_ssl_server_name`
#[rustfmt::skip]
pub const fn server_name<C: Secures, X: 'static>(name: &'static str, contexts: Context) -> Directive<C, X> {
    flag(name, contexts, |c: &mut C| &mut c.tls().server_name,
        "Sends the name to upstreams in the handshake (SNI), for servers that choose their certificate by it.")
}

/// `…_ssl_verify`
#[rustfmt::skip]
pub const fn verify<C: Secures, X: 'static>(name: &'static str, contexts: Context, doc: &'static str) -> Directive<C, X> {
    flag(name, contexts, |c: &mut C| &mut c.tls().verify, doc)
}

/// `…_ssl_verify_depth`
#[rustfmt::skip]
pub const fn verify_depth<C: Secures, X: 'static>(name: &'static str, contexts: Context) -> Directive<C, X> {
    number(name, contexts, (0, 100), |c: &mut C| &mut c.tls().verify_depth,
        "Limits how many intermediate certificates an upstream's chain may have.")
}

/// `…_ssl_trusted_certificate`
#[rustfmt::skip]
pub const fn trusted_certificate<C: Secures, X: 'static>(name: &'static str, contexts: Context) -> Directive<C, X> {
    text(name, contexts, |c: &mut C| &mut c.tls().trusted_certificate,
        "Names a file with the CA certificates that upstreams' certificates are checked with. A copy of an upstream's own certificate in it is \
         accepted too. A changed file is used without a reload.")
}

/// `…_ssl_crl`
#[rustfmt::skip]
pub const fn crl<C: Secures, X: 'static>(name: &'static str, contexts: Context) -> Directive<C, X> {
    text(name, contexts, |c: &mut C| &mut c.tls().crl,
        "Names a file with lists of revoked certificates, which upstreams' certificates are checked with. A changed file is used without a reload.")
}

/// `…_ssl_certificate`
#[rustfmt::skip]
pub const fn certificate<C: Secures, X: Compile<Scope = C::Scope> + 'static>(name: &'static str, contexts: Context) -> Directive<C, X> {
    custom(name, contexts, ONE, |c: &mut C, cx, node| upstream::script(&mut c.tls().certificate, cx, node),
        "Names a file with our certificate for upstreams that ask for one, in PEM; an empty value means none. It is used anew when the files \
         change, without a reload. With variables it is loaded while serving.")
}

/// `…_ssl_certificate_key`
#[rustfmt::skip]
pub const fn certificate_key<C: Secures, X: Compile<Scope = C::Scope> + 'static>(name: &'static str, contexts: Context) -> Directive<C, X> {
    custom(name, contexts, ONE, |c: &mut C, cx, node| upstream::script(&mut c.tls().certificate_key, cx, node),
        "Names the file with the private key of that certificate.")
}

/// `…_ssl_certificate_cache`
#[rustfmt::skip]
pub const fn certificate_caches<C: Secures, X: 'static>(name: &'static str, contexts: Context) -> Directive<C, X> {
    custom(name, contexts, Arity::between(1, 3), |c: &mut C, _, node| c.tls().certificate_cache.put(certificate_cache(node)?, node),
        "Keeps certificates whose names have variables: at most max= certificates and keys, until they have not been used for inactive= \
         (10s). They are read again after valid= (60s). With off, each new connection reads them.").default("off")
}

/// `…_ssl_password_file`
#[rustfmt::skip]
pub const fn password_file<C: Secures, X: 'static>(name: &'static str, contexts: Context) -> Directive<C, X> {
    text(name, contexts, |c: &mut C| &mut c.tls().password_file,
        "Names a file with the passwords of encrypted private keys, one a line; they are tried in turn.")
}

/// `…_ssl_key_log`
#[rustfmt::skip]
pub const fn key_log<C: Secures, X: 'static>(name: &'static str, contexts: Context) -> Directive<C, X> {
    text(name, contexts, |c: &mut C| &mut c.tls().key_log,
        "Names a file that the secrets of connections to upstreams are written to, for debugging with a packet analyzer. Anyone who reads it can \
         decrypt them.")
}

/// `…_ssl_alpn`
#[rustfmt::skip]
pub const fn alpn<C: Secures, X: Compile<Scope = C::Scope> + 'static>(name: &'static str, contexts: Context) -> Directive<C, X> {
    custom(name, contexts, MANY, |c: &mut C, cx, node| upstream::alpn_scripts(&mut c.tls().alpn, cx, node),
        "Offers these protocols to upstreams by ALPN, except those whose value is empty; without it the extension is not sent.")
}
