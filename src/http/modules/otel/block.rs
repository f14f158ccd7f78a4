//! The directives of the whole `http` block: `otel_exporter`, and the attributes of the resource.
//!
//! They become the [`Target`] of all workers' spans. Touches: files of certificates, while the configuration is read.
//! Behaviour: nginx.org, ngx_otel_module.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::inherit::{Inherit, duplicate};
use crate::config::{Diagnostic, Node, Span};
use crate::http::config::compile::Cx;
use crate::http::modules::otel::{Conf, EXPORTER};
use crate::http::modules::{ModuleTable, Partial};
use crate::net::address::{Host, parse_upstream};
use crate::net::tls::client::{Client, Settings, Terms};
use crate::net::tls::settings::provider;
use crate::net::tls::verify::{Purpose, Trust};
use crate::net::tls::{authorities, pem};
use crate::proto::h2::hpack;
use crate::proto::header::Id;
use crate::proto::otlp::{Origin, PATH};
use crate::shared::tls::choices::Choices;
use crate::shared::tls::files;
use crate::upstream::otlp::Target;

/// The port of OTLP/gRPC.
const PORT: u16 = 4317;
/// nginx's default of `otel_service_name`.
const UNKNOWN_SERVICE: &str = "unknown_service:nginx";
const SERVICE_NAME: &str = "service.name";
/// The most certificates between that of the collector and its root.
const CHAIN_MAX: usize = 10;

/// The directives of an `otel_exporter`.
#[derive(Debug, Default)]
pub struct Block {
    endpoint: Option<(Box<str>, Span)>,
    trusted: Option<(Box<str>, Span)>,
    /// Names in lower case, with their values.
    headers: Vec<(Box<str>, Box<str>)>,
}

/// The directives that have been read so far.
#[derive(Debug, Default)]
pub struct Draft {
    exporter: Option<Target>,
    /// The first `otel_trace` that needs an exporter.
    wanted: Option<Span>,
    service_name: Option<Box<str>>,
    /// By name.
    attributes: BTreeMap<Box<str>, Box<str>>,
}

/// The target of the configuration; `None`: there is no `otel_exporter`.
#[derive(Debug)]
pub struct Table(pub Option<Target>);

impl ModuleTable for Table {
    fn open(cx: &mut Cx) -> Self {
        let Draft { exporter, wanted, service_name, mut attributes } = std::mem::take(&mut cx.drafts.otel);
        if let (None, Some(span)) = (&exporter, wanted) {
            let message = "\"otel_exporter\" block is missing";
            let help = "write \"otel_exporter { endpoint HOST:4317; }\" into the \"http\" block";
            cx.diagnostics.push(Diagnostic::error(span, message).help(help));
        }
        let Some(target) = exporter else { return Self(None) };
        match service_name {
            Some(name) => _ = attributes.insert(SERVICE_NAME.into(), name),
            None => _ = attributes.entry(SERVICE_NAME.into()).or_insert_with(|| UNKNOWN_SERVICE.into()),
        }
        let attributes = attributes.iter().map(|(name, value)| (&**name, &**value));
        let origin = Origin::new(attributes, ("pronghorn", env!("CARGO_PKG_VERSION")));
        Self(Some(Target { origin, ..target }))
    }
}

/// Notes that requests are traced, which needs an exporter.
pub fn require(span: Span, cx: &mut Cx) {
    cx.drafts.otel.wanted.get_or_insert(span);
}

pub fn exporter(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let Partial { otel, .. } = cx.block(node, EXPORTER);
    let conf = otel.map(|conf| *conf).unwrap_or_default();
    if cx.drafts.otel.exporter.is_some() {
        return Err(duplicate(node));
    }
    let Block { endpoint, trusted, headers } = conf.exporter;
    let Some((endpoint, span)) = endpoint else {
        let message = "\"otel_exporter\" requires \"endpoint\"";
        return Err(Diagnostic::error(node.span, message).help("write \"endpoint HOST:4317;\" into it"));
    };
    let (is_tls, authority) = without_scheme(&endpoint);
    let host = parse_upstream(authority, PORT)
        .map_err(|bad| Diagnostic::error(span, format!("{bad} in endpoint \"{endpoint}\"")))?;
    let (name, port) = match &host {
        Host::Unix(_) => (authority, None),
        Host::Inet { port, .. } => {
            let end = if authority.starts_with('[') {
                authority.find("]:").map(|at| at + 1)
            } else {
                authority.find(':')
            };
            end.map_or((authority, None), |end| (&authority[..end], Some(*port)))
        }
    };
    let host_name = match &host {
        Host::Unix(_) => "localhost",
        Host::Inet { name, .. } => name,
    };
    let terms = match is_tls {
        true => match client(trusted.as_ref(), span, cx) {
            Some(client) => Some(Arc::new(Terms::new(client, host_name, None))),
            None => return Ok(()), // an error was reported
        },
        false => {
            if let Some((_, span)) = trusted {
                let message = "\"trusted_certificate\" has no effect without https:// in \"endpoint\"";
                cx.diagnostics.push(Diagnostic::warning(span, message));
            }
            None
        }
    };
    let shown = if matches!(host, Host::Unix(_)) { "localhost" } else { authority };
    let head = head(is_tls, shown, &headers);
    let group = cx.upstreams.reference(name, port, false, host.clone(), span);
    cx.drafts.otel.exporter = Some(Target {
        group,
        endpoint: endpoint.clone(),
        terms,
        head,
        origin: Origin::default(), // until all its attributes are known
        interval_ms: conf.interval_ms.get(),
        spans_max: conf.batch_size.get(),
        batches_max: usize::try_from(conf.batch_count.get()).unwrap_or(usize::MAX),
    });
    Ok(())
}

/// Whether an endpoint begins with `https://`, and the rest of it.
fn without_scheme(endpoint: &str) -> (bool, &str) {
    for (scheme, is_tls) in [("https://", true), ("http://", false)] {
        if let Some(start) = endpoint.get(..scheme.len())
            && start.eq_ignore_ascii_case(scheme)
        {
            return (is_tls, &endpoint[scheme.len()..]);
        }
    }
    (false, endpoint)
}

/// The header block of each call. gRPC over HTTP/2, "Requests".
fn head(is_tls: bool, authority: &str, headers: &[(Box<str>, Box<str>)]) -> Vec<u8> {
    let mut out = Vec::new();
    hpack::put_indexed(hpack::METHOD_POST, &mut out);
    hpack::put_indexed(if is_tls { hpack::SCHEME_HTTPS } else { hpack::SCHEME_HTTP }, &mut out);
    hpack::put_named(hpack::PATH, PATH, &mut out);
    hpack::put_named(hpack::AUTHORITY, authority.as_bytes(), &mut out);
    let agent = concat!("pronghorn/", env!("CARGO_PKG_VERSION"));
    for (name, value) in [("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", agent)] {
        hpack::put_field(Id::of(name.as_bytes()), name.as_bytes(), value.as_bytes(), &mut out);
    }
    for (name, value) in headers {
        hpack::put_field(Id::of(name.as_bytes()), name.as_bytes(), value.as_bytes(), &mut out);
    }
    out
}

/// TLS to the collector, whose certificate is verified. `None`: an error was reported.
fn client(trusted: Option<&(Box<str>, Span)>, span: Span, cx: &mut Cx) -> Option<Arc<Client>> {
    let (name, span) = match trusted {
        Some((name, span)) => (&**name, *span),
        None => {
            let Some(path) = authorities::file() else {
                let message =
                    "the system has no file of CA certificates to verify the endpoint of \"otel_exporter\"";
                let help = "install the package ca-certificates, or set \"trusted_certificate\"";
                cx.diagnostics.push(Diagnostic::error(span, message).help(help));
                return None;
            };
            (path, span)
        }
    };
    let data = files::read_trusted(name, files::CERTIFICATES, span, cx)?;
    let list = files::reported(pem::certificates(&data), "load", name, Some(span), cx)?;
    let trust =
        files::reported(Trust::new(Purpose::Server, CHAIN_MAX, &list, &[]), "use", name, Some(span), cx)?;
    let (protocols, ciphers) = (Inherit::default(), Inherit::default());
    let choices = Choices { protocols: &protocols, ciphers: &ciphers, groups: None, commands: &[] };
    let selected = choices.select(cx)?;
    let settings = Settings {
        provider: provider(&selected),
        versions: selected.protocols.versions(),
        trust: Some(Arc::new(trust)),
        certificate: None,
        sends_name: true,
        protocols: vec![b"h2".to_vec()],
        reuses_sessions: true,
        key_log: None,
        prefix: "otel",
    };
    files::reported(Client::new(settings), "use", "https", Some(span), cx).map(Arc::new)
}

pub fn endpoint(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    put(&mut conf.exporter.endpoint, node)
}

pub fn trusted_certificate(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    put(&mut conf.exporter.trusted, node)
}

/// Puts the value of a directive that may be given once.
fn put(place: &mut Option<(Box<str>, Span)>, node: &Node) -> Result<(), Diagnostic> {
    match place.replace((node.arg(0).into(), node.arg_span(0))) {
        None => Ok(()),
        Some(_) => Err(duplicate(node)),
    }
}

/// Names that the call itself has, or that gRPC keeps for itself.
const RESERVED: [&str; 7] =
    ["te", "content-type", "user-agent", "host", "connection", "transfer-encoding", "content-length"];

pub fn header(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let (name, value) = (node.arg(0).to_ascii_lowercase(), node.arg(1));
    let is_name = !name.is_empty()
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.'));
    if !is_name || name.starts_with("grpc-") || RESERVED.contains(&&*name) {
        let message = "\"header\" directive of \"otel_exporter\" has invalid header name";
        return Err(Diagnostic::error(node.arg_span(0), message));
    }
    let is_plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if !is_plain || value.is_empty() || value.trim() != value {
        let message = "\"header\" directive of \"otel_exporter\" has invalid header value";
        return Err(Diagnostic::error(node.arg_span(1), message));
    }
    conf.exporter.headers.push((name.into(), value.into()));
    Ok(())
}

pub fn service_name(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    match cx.drafts.otel.service_name.replace(node.arg(0).into()) {
        None => Ok(()),
        Some(_) => Err(duplicate(node)),
    }
}

pub fn resource_attr(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    cx.drafts.otel.attributes.insert(node.arg(0).into(), node.arg(1).into());
    Ok(())
}
