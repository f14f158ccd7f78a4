//! Certificates from an authority that speaks ACME (`acme_issuer`, `acme_certificate`), and the answers to its
//! challenges.
//!
//! The directives become a plan (`net/acme/`), for which a process of its own works. The handler runs first in the
//! post-read phase, so that no setting of a server is in the way. Touches: files of keys, while the configuration is
//! read.
//! Behaviour: nginx.org, ngx_http_acme_module.

use std::net::IpAddr;
use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::base::base64;
use crate::base::number::parse_size;
use crate::config::directive::{block, custom, flag, millis};
use crate::config::inherit::{duplicate, own};
use crate::config::{Arity, Context, Diagnostic, Node, Setting, Span, params, settings};
use crate::http::config::compile::Cx;
use crate::http::config::server::{Listen, Server};
use crate::http::modules::{BlockConf, Confs, Directive, ModuleTable};
use crate::http::request::Request;
use crate::http::response::{Body, Response};
use crate::http::scope::Variable;
use crate::http::verdict::{Reply, Verdict};
use crate::net::acme::challenges::{self, OF_ONE_MAX};
use crate::net::acme::{
    External, Identifier, Issuer, KeyKind, Method as Challenge, Plan, Profile, Wanted, file_name,
};
use crate::net::resolver;
use crate::net::tls::pem::{self, Passwords};
use crate::proto::message::Method;
use crate::script::variable::{Argument, variable};
use crate::shared::resolver as resolvers;
use crate::shared::tls::files;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        /// `acme_certificate` of a server.
        certificate: Option<Certificate> => own,
        /// The block is an `acme_issuer`.
        issuer: Block => own,
        /// There is an issuer, and so perhaps a challenge.
        is_on: Setting<bool> = false,
        verifies: Setting<bool> = true,
        has_common_name: Setting<bool> = false,
        resolver_timeout_ms: Setting<u64> = 30_000,
    }
}

/// An `acme_certificate`.
#[derive(Clone, Debug)]
struct Certificate {
    issuer: Box<str>,
    identifiers: Vec<(Box<str>, Span)>,
    key: KeyKind,
    span: Span,
}

/// The directives of an `acme_issuer`.
#[derive(Debug, Default)]
pub struct Block {
    uri: Option<Box<str>>,
    account_key: Option<Option<Zeroizing<Vec<u8>>>>,
    challenge: Option<Challenge>,
    contacts: Vec<String>,
    external: Option<External>,
    preferred_chain: Option<Box<str>>,
    profile: Option<Profile>,
    trusted: Option<Box<str>>,
    state_path: Option<PathBuf>,
    accepts_terms: bool,
    resolver: Option<std::sync::Arc<resolver::Settings>>,
}

/// The issuers while the configuration is read, and then the plan.
#[derive(Debug, Default)]
pub struct Table {
    pub plan: Plan,
    /// Those of the issuers.
    spans: Vec<Span>,
    /// There is an `acme_shared_zone`.
    has_zone: bool,
}

impl ModuleTable for Table {
    fn open(cx: &mut Cx) -> Self {
        std::mem::take(&mut cx.drafts.acme)
    }
}

const ISSUER: Context = Context::ISSUER;

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    block("acme_issuer", Context::HTTP, Arity::exactly(1), issuer,
        "Names an authority that gives certificates by ACME (RFC 8555), and the account there. One process asks it for those of all servers, renews \
         them, and has the workers answer its challenges.")
        .opens(&[(Context::HTTP, ISSUER)]),
    custom("uri", ISSUER, Arity::exactly(1), uri, "Sets the URL of the authority's directory, which begins with https://. It must be set."),
    custom("account_key", ISSUER, Arity::exactly(1), account_key,
        "Names a file with the account's private key (ECDSA P-256), or is ecdsa:256: a key is made and kept in state_path.").default("ecdsa:256"),
    custom("challenge", ISSUER, Arity::exactly(1), challenge,
        "Sets how the authority checks that a name leads here: http-01 (or http) asks port 80, tls-alpn-01 (or tls-alpn) makes a handshake at port 443.")
        .default("http-01"),
    flag("common_name_in_csr", ISSUER, |conf: &mut Conf| &mut conf.has_common_name,
        "Puts the first name into the common name of the request, which some authorities refuse and others need."),
    custom("contact", ISSUER, Arity::at_least(1), contact, "Sets where the authority may tell of trouble: addresses of mail, or URLs."),
    custom("external_account_key", ISSUER, Arity::exactly(2), external_account_key,
        "Sets the id of an account that the authority has outside of ACME, and the file of its key, or data: and the key, in base64url."),
    custom("preferred_chain", ISSUER, Arity::exactly(1), preferred_chain,
        "Prefers the chain whose topmost certificate is issued by this common name, if the authority offers several."),
    custom("profile", ISSUER, Arity::between(1, 2), profile,
        "Asks for a profile of certificates. With require nothing is asked for if the authority does not have it."),
    custom("resolver", ISSUER, Arity::at_least(1), resolver,
        "Sets the name servers that are asked for the authority's address; by default those of the http block, or the system's resolver."),
    millis("resolver_timeout", ISSUER, |conf: &mut Conf| &mut conf.resolver_timeout_ms, "Limits how long the authority's name is looked up."),
    custom("ssl_trusted_certificate", ISSUER, Arity::exactly(1), trusted_certificate,
        "Names a file with the authorities by which the server of the directory is judged; by default those of the system."),
    flag("ssl_verify", ISSUER, |conf: &mut Conf| &mut conf.verifies, "Judges the certificate of the server of the directory."),
    custom("state_path", ISSUER, Arity::exactly(1), state_path,
        "Names the folder for the account, certificates and their keys, relative to the prefix. It belongs to the workers' user; by default it is acme_NAME."),
    custom("accept_terms_of_service", ISSUER, Arity::exactly(0), accept_terms,
        "Agrees to the terms of the authority, without which most open no account."),
    custom("acme_shared_zone", Context::HTTP, Arity::exactly(1), shared_zone,
        "Is checked and has no effect: challenges reach the workers by messages, and certificates are kept in files.").default("zone=ngx_acme_shared:256k"),
    custom("acme_certificate", Context::SERVER, Arity::at_least(1), certificate,
        "Wants a certificate of this issuer for the names and addresses that follow, or for those of server_name. key= is the kind of its key: ecdsa:256 \
         (the default), ecdsa:384, ecdsa:521, rsa:2048, rsa:3072 or rsa:4096. It is used where ssl_certificate and ssl_certificate_key are \
         $acme_certificate and $acme_certificate_key; until it is there handshakes are refused."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("acme_certificate", file, "The certificate of acme_certificate, for ssl_certificate."),
    variable("acme_certificate_key", file, "Its key, for ssl_certificate_key."),
];

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        self.is_on.get()
    }
}

fn file(request: &mut Request, _: &Argument, out: &mut Vec<u8>) -> bool {
    let issued = request.server.issued.as_deref();
    out.extend_from_slice(issued.unwrap_or("").as_bytes());
    issued.is_some()
}

fn issuer(outer: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let name = node.arg(0);
    let _ = outer.is_on.set(true, node.span); // there may be several
    let conf = cx.block(node, ISSUER).acme.map(|conf| *conf).unwrap_or_default();
    let Conf { issuer: draft, verifies, has_common_name, resolver_timeout_ms, .. } = conf;
    if name.is_empty() || cx.drafts.acme.plan.issuers.iter().any(|it| &*it.name == name) {
        return Err(Diagnostic::error(node.span, format!("duplicate acme_issuer \"{name}\"")));
    }
    let Some(uri) = draft.uri else {
        let help = "write \"uri https://.../directory;\" into it";
        return Err(
            Diagnostic::error(node.span, format!("\"uri\" is not set in acme_issuer \"{name}\"")).help(help)
        );
    };
    let account_key = draft.account_key.flatten();
    if account_key.is_some() && draft.external.is_some() {
        let message = "\"account_key\" with a file and \"external_account_key\" cannot be used together";
        return Err(
            Diagnostic::error(node.span, message).help("remove \"account_key\": a key is made and kept")
        );
    }
    let trusted = match &draft.trusted {
        None => None,
        Some(file) => {
            let Some(data) = files::read_trusted(file, files::CERTIFICATES, node.span, cx) else {
                return Ok(());
            };
            let list = pem::certificates(&data);
            let failed =
                |error| Diagnostic::error(node.span, format!("cannot load certificate \"{file}\": {error}"));
            Some(list.map_err(failed)?)
        }
    };
    if !draft.accepts_terms {
        let message = format!(
            "acme_issuer \"{name}\" does not accept the terms of its authority, which may then open no account"
        );
        let warning = Diagnostic::warning(node.span, message);
        cx.diagnostics.push(warning.help("read them, and write \"accept_terms_of_service;\""));
    }
    let state_path = draft.state_path.unwrap_or_else(|| cx.path(&format!("acme_{name}")));
    let is_taken = |it: &&Issuer| it.state_path == state_path;
    if let Some(other) = cx.drafts.acme.plan.issuers.iter().find(is_taken) {
        let message = format!("\"state_path\" of acme_issuer \"{name}\" is that of \"{}\"", other.name);
        return Err(Diagnostic::error(node.span, message).help("give each issuer a folder of its own"));
    }
    cx.need_folder(&state_path);
    cx.drafts.acme.spans.push(node.span);
    cx.drafts.acme.plan.issuers.push(Issuer {
        name: name.into(),
        uri,
        account_key,
        method: draft.challenge.unwrap_or_default(),
        has_common_name: has_common_name.get(),
        contacts: draft.contacts,
        external: draft.external,
        preferred_chain: draft.preferred_chain,
        profile: draft.profile,
        trusted,
        verifies: verifies.get(),
        accepts_terms: draft.accepts_terms,
        state_path,
        resolver: draft.resolver,
        resolver_timeout_ms: resolver_timeout_ms.get(),
    });
    Ok(())
}

/// Puts the value of a directive that may be given once.
fn put<T>(place: &mut Option<T>, value: T, node: &Node) -> Result<(), Diagnostic> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(duplicate(node)),
    }
}

fn uri(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let uri = node.arg(0);
    let is_plain = uri.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_plain || uri.strip_prefix("https://").is_none_or(str::is_empty) {
        let message = format!("invalid URL \"{uri}\"");
        let help = "an authority is asked over https: https://HOST/PATH";
        return Err(Diagnostic::error(node.arg_span(0), message).help(help));
    }
    put(&mut conf.issuer.uri, uri.into(), node)
}

fn account_key(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let (word, span) = (node.arg(0), node.arg_span(0));
    let help = "accounts have ECDSA P-256 keys (ES256) here: write ecdsa:256, or the name of a file with one";
    match word {
        "ecdsa" | "ecdsa:256" => return put(&mut conf.issuer.account_key, None, node),
        "ecdsa:384" | "ecdsa:521" | "rsa" | "rsa:2048" | "rsa:3072" | "rsa:4096" => {
            let message = format!("account keys of the kind \"{word}\" are not supported");
            return Err(Diagnostic::error(span, message).help(help));
        }
        _ if word.starts_with("ecdsa:") => {
            return Err(Diagnostic::error(span, format!("unsupported curve in \"{word}\"")).help(help));
        }
        _ if word.starts_with("rsa:") => {
            return Err(Diagnostic::error(span, format!("unsupported key size in \"{word}\"")).help(help));
        }
        _ => {}
    }
    let Some(data) = files::read(word, "account key", span, cx) else { return Ok(()) };
    let failed = |why: &str| {
        let message = format!("cannot load account key \"{}\": {why}", files::shown(word));
        Diagnostic::error(span, message).help(help)
    };
    let key = pem::private_key(&data, &Passwords::default()).map_err(|error| failed(&error.to_string()))?;
    // The form that the signer takes, whatever form the file has.
    let pair = rcgen::KeyPair::try_from(&*key).map_err(|error| failed(&error.to_string()))?;
    if !pair.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256) {
        return Err(failed("it is of another kind"));
    }
    put(&mut conf.issuer.account_key, Some(Zeroizing::new(pair.serialize_der())), node)
}

fn challenge(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let value = match node.arg(0) {
        "http" | "http-01" => Challenge::Http01,
        "tls-alpn" | "tls-alpn-01" => Challenge::TlsAlpn01,
        other => {
            let message = format!("unsupported challenge: {other}");
            return Err(Diagnostic::error(node.arg_span(0), message).help("write http-01 or tls-alpn-01"));
        }
    };
    put(&mut conf.issuer.challenge, value, node)
}

fn contact(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    for index in 0..node.args.len() {
        let word = node.arg(index);
        let is_plain = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_plain {
            let message = format!("invalid contact \"{word}\"");
            return Err(
                Diagnostic::error(node.arg_span(index), message).help("write an address of mail, or a URL")
            );
        }
        let has_scheme = word.split_once(':').is_some_and(|(scheme, _)| !scheme.contains('@'));
        conf.issuer.contacts.push(if has_scheme { word.to_owned() } else { format!("mailto:{word}") });
    }
    Ok(())
}

fn external_account_key(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let (word, span) = (node.arg(1), node.arg_span(1));
    let Some(data) = files::read(word, "external account key", span, cx) else { return Ok(()) };
    let text: Vec<u8> = data
        .trim_ascii()
        .iter()
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => *other,
        })
        .filter(|byte| *byte != b'=')
        .collect();
    let text = Zeroizing::new([&text[..], &b"==="[..(4 - text.len() % 4) % 4]].concat());
    let key = base64::decode(&text).filter(|key| !key.is_empty());
    let key = key.ok_or_else(|| Diagnostic::error(span, "invalid base64url encoded value"))?;
    put(&mut conf.issuer.external, External { id: node.arg(0).into(), key: Zeroizing::new(key) }, node)
}

fn preferred_chain(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    put(&mut conf.issuer.preferred_chain, node.arg(0).into(), node)
}

fn profile(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let is_required = node.args.len() > 1;
    if is_required && node.arg(1) != "require" {
        return Err(params::invalid_parameter(&node.args[1], &["require"]));
    }
    put(&mut conf.issuer.profile, Profile { name: node.arg(0).into(), is_required }, node)
}

fn resolver(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let settings = resolvers::read(node, cx)?;
    put(&mut conf.issuer.resolver, settings.into(), node)
}

fn trusted_certificate(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    put(&mut conf.issuer.trusted, node.arg(0).into(), node)
}

fn state_path(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if node.arg(0) == "off" {
        let message = "\"state_path off\" is not supported: every start would ask for new certificates";
        return Err(Diagnostic::error(node.arg_span(0), message)
            .help("name a folder, in /dev/shm if nothing is to be kept"));
    }
    let path = cx.path(node.arg(0));
    put(&mut conf.issuer.state_path, path, node)
}

fn accept_terms(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if std::mem::replace(&mut conf.issuer.accepts_terms, true) {
        return Err(duplicate(node));
    }
    Ok(())
}

fn shared_zone(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let span = node.arg_span(0);
    let Some(value) = params::value(&node.args[0], "zone") else {
        return Err(Diagnostic::error(span, "\"acme_shared_zone\" must have \"zone\" parameter"));
    };
    let size =
        value.split_once(':').filter(|(name, _)| !name.is_empty()).and_then(|(_, size)| parse_size(size));
    if size.is_none() {
        return Err(Diagnostic::error(span, format!("invalid zone size \"{}\"", node.arg(0))));
    }
    if std::mem::replace(&mut cx.drafts.acme.has_zone, true) {
        return Err(duplicate(node));
    }
    Ok(())
}

fn certificate(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let (mut identifiers, mut key) = (Vec::new(), KeyKind::default());
    for (index, word) in node.args.iter().enumerate().skip(1) {
        match params::value(word, "key") {
            Some(value) => key = key_kind(value, node.arg_span(index))?,
            None => identifiers.push(((&*word.text).into(), word.span)),
        }
    }
    let certificate = Certificate { issuer: node.arg(0).into(), identifiers, key, span: node.span };
    put(&mut conf.certificate, certificate, node)
}

fn key_kind(text: &str, span: Span) -> Result<KeyKind, Diagnostic> {
    Ok(match text {
        "ecdsa" | "ecdsa:256" => KeyKind::Ecdsa256,
        "ecdsa:384" => KeyKind::Ecdsa384,
        "ecdsa:521" => KeyKind::Ecdsa521,
        "rsa" | "rsa:2048" => KeyKind::Rsa2048,
        "rsa:3072" => KeyKind::Rsa3072,
        "rsa:4096" => KeyKind::Rsa4096,
        _ => {
            let help = "write ecdsa:256, ecdsa:384, ecdsa:521, rsa:2048, rsa:3072 or rsa:4096";
            return Err(Diagnostic::error(span, format!("invalid \"key\" value \"{text}\"")).help(help));
        }
    })
}

/// Makes the plan when all servers are complete, and notes the file of each server's certificate.
pub fn complete(listens: &[Listen], servers: &mut [Server], root: &Confs, cx: &mut Cx) {
    let mut table = std::mem::take(&mut cx.drafts.acme);
    for issuer in &mut table.plan.issuers {
        if issuer.resolver.is_none() {
            issuer.resolver = root.resolver.settings().cloned();
        }
    }
    for server in servers.iter_mut() {
        let conf = std::sync::Arc::clone(&server.root.confs.acme);
        let Some(wish) = &conf.certificate else { continue };
        let outcome = wanted(wish, server, &table.plan, cx);
        match outcome {
            Ok(wanted) => {
                let path = table.plan.issuers[wanted.issuer].state_path.join(file_name(&wanted.stem));
                server.issued = Some(path.to_string_lossy().into());
                let is_same = |it: &Wanted| it.issuer == wanted.issuer && it.stem == wanted.stem;
                if !table.plan.wanted.iter().any(is_same) {
                    table.plan.wanted.push(wanted);
                }
            }
            Err(diagnostic) => cx.diagnostics.push(diagnostic),
        }
    }
    warn_of_ports(listens, &table, cx);
    cx.drafts.acme = table;
}

/// Authorities ask port 80 or 443, wherever the servers listen.
fn warn_of_ports(listens: &[Listen], table: &Table, cx: &mut Cx) {
    let listens_at = |port: u16, ssl: bool| {
        let mut tcp = listens.iter().filter(|listen| !listen.address.is_datagram());
        tcp.any(|listen| listen.address.port() == Some(port) && listen.ssl == ssl)
    };
    for (index, (issuer, span)) in table.plan.issuers.iter().zip(&table.spans).enumerate() {
        if !table.plan.wanted.iter().any(|wanted| wanted.issuer == index) {
            continue;
        }
        let (word, port, ssl, listen) = match issuer.method {
            Challenge::Http01 => ("http-01", 80, false, "listen 80;"),
            Challenge::TlsAlpn01 => ("tls-alpn-01", 443, true, "listen 443 ssl;"),
        };
        if !listens_at(port, ssl) {
            let message = format!(
                "no server has \"{listen}\", which the challenge {word} of acme_issuer \"{}\" asks",
                issuer.name
            );
            let help = "add it, unless another machine passes that port on to this one";
            cx.diagnostics.push(Diagnostic::warning(*span, message).help(help));
        }
    }
}

fn wanted(wish: &Certificate, server: &Server, plan: &Plan, cx: &mut Cx) -> Result<Wanted, Diagnostic> {
    let issuer = plan.issuers.iter().position(|it| it.name == wish.issuer);
    let issuer = issuer.ok_or_else(|| {
        let message = format!("issuer \"{}\" is missing", wish.issuer);
        Diagnostic::error(wish.span, message).help("define it with \"acme_issuer\" in the http block")
    })?;
    let mut identifiers = Vec::new();
    for (name, span) in &wish.identifiers {
        add_identifier(name, *span, &mut identifiers)?;
    }
    if wish.identifiers.is_empty() {
        for name in &server.names {
            if name.starts_with('~') {
                let message =
                    format!("\"acme_certificate\": unsupported regular expression in server_name: {name}");
                cx.diagnostics.push(Diagnostic::warning(wish.span, message));
            } else if !name.is_empty() {
                add_identifier(name, wish.span, &mut identifiers)?;
            }
        }
    }
    let count = identifiers.len();
    if count == 0 {
        let message = "\"acme_certificate\": no identifiers found in \"server_name\"";
        return Err(Diagnostic::error(wish.span, message).help("write names after the issuer"));
    }
    if count > OF_ONE_MAX {
        let message =
            format!("\"acme_certificate\" has {count} identifiers, a certificate {OF_ONE_MAX} at most");
        return Err(Diagnostic::error(wish.span, message).help("split the server"));
    }
    Ok(Wanted::new(issuer, identifiers, wish.key))
}

/// `.example.org` stands for two names, as in `server_name`.
fn add_identifier(name: &str, span: Span, list: &mut Vec<Identifier>) -> Result<(), Diagnostic> {
    let address = name.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(name);
    if let Ok(ip) = address.parse::<IpAddr>() {
        list.push(Identifier::Ip(ip));
        return Ok(());
    }
    let host = name.strip_prefix('.').unwrap_or(name).to_ascii_lowercase();
    let is_label = |label: &str| {
        let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(is_of_name)
    };
    if host.len() > 249 || !host.split('.').all(is_label) {
        let message = format!("\"acme_certificate\": invalid server name: {name}");
        let help =
            "wildcards and regular expressions are not possible: http-01 and tls-alpn-01 cannot prove them";
        return Err(Diagnostic::error(span, message).help(help));
    }
    if name.starts_with('.') {
        list.push(Identifier::Dns(format!("www.{host}").into()));
    }
    list.push(Identifier::Dns(host.into()));
    Ok(())
}

/// Answers the authority's question for a token (RFC 8555 §8.3), whatever the server has configured.
pub fn answer(request: &mut Request) -> Verdict {
    if request.method != Method::Get || !request.uri.starts_with(challenges::PATH) {
        return Verdict::Next;
    }
    let Some(text) = challenges::key_authorization(&request.uri) else { return Verdict::Next };
    request.keep_alive = false;
    let response = Response::with_type(200, b"text/plain");
    Verdict::Done(Reply::Response(Box::new(response), Body::Bytes(text.into_vec().into())))
}
