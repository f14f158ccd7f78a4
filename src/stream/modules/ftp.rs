//! Relaying FTP instead of bytes (`ftp` and the directives about data connections).
//!
//! The relay itself is `stream/proxy/ftp/`. Touches: the session's variables.

use std::io::Write;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::base::number::parse_u64;
use crate::config::directive::{custom, flag, millis, one_of, size};
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, Setting, settings};
use crate::log;
use crate::script::Scope;
use crate::script::value;
use crate::script::variable::variable;
pub use crate::shared::starttls::StartTls;
use crate::stream::config::compile::Cx;
use crate::stream::modules::{BlockConf, Directive};
use crate::stream::scope::{Script, Variable};
use crate::stream::session::Session;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        is_on: Setting<bool> = false,
        /// `None`: any free port.
        data_ports: Inherit<Option<RangeInclusive<u16>>>,
        data_address: Inherit<Script>,
        starttls: Setting<StartTls> = StartTls::Off,
        data_timeout: Setting<u64> = 60_000,
        line_size: Setting<u64> = 4096,
    }
}

/// The facts about a session of FTP; `None`: it is of another protocol.
pub type State = Option<Box<Facts>>;

#[derive(Debug, Default)]
pub struct Facts {
    /// The argument of the last USER.
    pub user: Box<[u8]>,
    /// Transfers that the server has begun.
    pub transfers: u64,
}

/// `ftp_data_address` has become something else than an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAddress;

/// A worker may not bind ports below.
const PORT_MIN: u64 = 1024;

const BOTH: Context = Context::IN_STREAM;

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    flag("ftp", BOTH, |c| &mut c.is_on,
        "Relays FTP instead of bytes: PASV, EPSV, PORT and EPRT are translated, and data connections are relayed over ports of our own. To servers \
         they are made in passive mode, whatever clients ask for."),
    custom("ftp_data_ports", BOTH, Arity::exactly(1), data_ports,
        "Sets the ports that clients connect to for data, such as 40000-40999, from 1024 on; 0 takes any free port. Each transfer in progress needs one, \
         in each address that clients connect to.").default("0"),
    custom("ftp_data_address", BOTH, Arity::exactly(1), data_address,
        "Sets the IPv4 address that the reply to PASV tells clients to connect to, if it is another than the one that they connected to, as behind NAT. The \
         value may have variables.").default("the address that the client connected to"),
    one_of("ftp_starttls", BOTH, |c| &mut c.starttls,
        "Encrypts control connections on AUTH TLS, and data connections after PROT P, with the certificate of the server. With only, clients must do both."),
    millis("ftp_data_timeout", BOTH, |c| &mut c.data_timeout,
        "Limits the time for opening both connections of a transfer. Once it runs, proxy_timeout limits the time without a byte."),
    size("ftp_line_size", BOTH, |c| &mut c.line_size,
        "Limits a command of a client, and a line of a server's reply; a session ends at a longer one."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("ftp_user", |session, _, out| {
        let Some(facts) = session.states.ftp.as_deref().filter(|facts| !facts.user.is_empty()) else { return false };
        out.extend_from_slice(&facts.user);
        true
    }, "The name that an FTP client logs in with."),
    variable("ftp_transfers", |session, _, out| match session.states.ftp.as_deref() {
        Some(facts) => write!(out, "{}", facts.transfers).is_ok(),
        None => false,
    }, "The number of transfers of an FTP session, listings included."),
];

impl BlockConf for Conf {}

impl Conf {
    /// `ftp`
    pub fn is_on(&self) -> bool {
        self.is_on.get()
    }

    /// `ftp_starttls`, of a server that relays FTP.
    pub fn starttls(&self) -> StartTls {
        if self.is_on() { self.starttls.get() } else { StartTls::Off }
    }

    /// `ftp_data_ports`; `None`: any.
    pub fn data_ports(&self) -> Option<RangeInclusive<u16>> {
        self.data_ports.as_ref().cloned().flatten()
    }

    pub fn data_timeout_ms(&self) -> u64 {
        self.data_timeout.get()
    }

    /// `ftp_line_size`
    pub fn line_bytes_max(&self) -> usize {
        usize::try_from(self.line_size.get()).unwrap_or(usize::MAX).max(LINE_BYTES_LEAST)
    }

    /// The address that PASV tells; `None`: that of the control connection. Errors: the value is no IPv4 address, which is
    /// logged.
    pub fn data_address(&self, session: &mut Session) -> Result<Option<IpAddr>, NoAddress> {
        let Some(script) = self.data_address.as_ref() else { return Ok(None) };
        let text = script.to_vec(session);
        if std::mem::take(&mut session.values.gave_up) {
            return Err(NoAddress);
        }
        let parsed = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
        if parsed.is_none() {
            let shown = log::Text(&text);
            log::error!(
                session.logger(),
                &*session,
                "\"ftp_data_address\" has become \"{shown}\", which is no IPv4 address"
            );
        }
        parsed.map(|address: std::net::Ipv4Addr| Some(address.into())).ok_or(NoAddress)
    }
}

/// A command of any use fits.
const LINE_BYTES_LEAST: usize = 128;

fn data_ports(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let text = node.arg(0);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| parse_u64(text.as_bytes()).filter(|port| (PORT_MIN..=65535).contains(port));
    let ports = match (port(first), port(last)) {
        _ if text == "0" => None,
        (Some(first), Some(last)) if first <= last => Some(first as u16..=last as u16),
        _ => {
            let message = format!("invalid ports \"{text}\"");
            let help = "write a range from 1024 to 65535: ftp_data_ports 40000-40999;";
            return Err(Diagnostic::error(node.arg_span(0), message).help(help));
        }
    };
    conf.data_ports.put(ports, node)
}

fn data_address(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let text = node.arg(0);
    if !value::has_variables(text) && text.parse::<std::net::Ipv4Addr>().is_err() {
        let message = format!("invalid IPv4 address \"{text}\"");
        let help = "PASV tells IPv4 addresses only; clients of IPv6 connect to the address that they know";
        return Err(Diagnostic::error(node.arg_span(0), message).help(help));
    }
    conf.data_address.put(Script::compile(&node.args[0], cx)?, node)
}
