//! The three protocols of mail, and how each one says what all of them have to say.
//!
//! Pure. The texts are nginx's.

use crate::net::clients;
use crate::proto::sasl::Method;

/// The protocol of a server's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Imap,
    Pop3,
    Smtp,
}

/// Why a session ends that has not logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    InternalError,
    /// The client's certificate is not trusted.
    BadCertificate,
    /// The client has no certificate.
    NoCertificate,
    /// The process stops.
    Leaving,
    /// The process needs the place of the connection for others.
    Crowded,
}

impl Protocol {
    pub const ALL: [Self; 3] = [Self::Imap, Self::Pop3, Self::Smtp];

    /// nginx's word for it, which is also its name in ALPN.
    pub fn name(self) -> &'static str {
        match self {
            Self::Imap => "imap",
            Self::Pop3 => "pop3",
            Self::Smtp => "smtp",
        }
    }

    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.name() == name)
    }

    /// The protocol of its connections in lists.
    pub fn of_clients(self) -> clients::Protocol {
        match self {
            Self::Imap => clients::Protocol::Imap,
            Self::Pop3 => clients::Protocol::Pop3,
            Self::Smtp => clients::Protocol::Smtp,
        }
    }

    /// The protocol that a port is for.
    pub fn of_port(port: u16) -> Option<Self> {
        match port {
            143 | 993 => Some(Self::Imap),
            110 | 995 => Some(Self::Pop3),
            25 | 465 | 587 => Some(Self::Smtp),
            _ => None,
        }
    }

    /// The last words to a client.
    pub fn farewell(self, farewell: Farewell) -> &'static str {
        match (self, farewell) {
            (Self::Imap, Farewell::InternalError) => "* BAD internal server error\r\n",
            (Self::Imap, Farewell::BadCertificate) => "* BYE SSL certificate error\r\n",
            (Self::Imap, Farewell::NoCertificate) => "* BYE No required SSL certificate\r\n",
            (Self::Imap, Farewell::Leaving) => "* BYE server is shutting down\r\n",
            (Self::Imap, Farewell::Crowded) => "* BYE too many connections\r\n",
            (Self::Pop3, Farewell::InternalError) => "-ERR internal server error\r\n",
            (Self::Pop3, Farewell::BadCertificate) => "-ERR SSL certificate error\r\n",
            (Self::Pop3, Farewell::NoCertificate) => "-ERR No required SSL certificate\r\n",
            (Self::Pop3, Farewell::Leaving) => "-ERR server is shutting down\r\n",
            (Self::Pop3, Farewell::Crowded) => "-ERR too many connections\r\n",
            (Self::Smtp, Farewell::InternalError) => "451 4.3.2 Internal server error\r\n",
            (Self::Smtp, Farewell::BadCertificate) => "421 4.7.1 SSL certificate error\r\n",
            (Self::Smtp, Farewell::NoCertificate) => "421 4.7.1 No required SSL certificate\r\n",
            (Self::Smtp, Farewell::Leaving) => "421 4.3.2 Server is shutting down\r\n",
            (Self::Smtp, Farewell::Crowded) => "421 4.3.2 Too many connections\r\n",
        }
    }
}

/// A way to log in that a server may allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    Plain,
    Login,
    Apop,
    CramMd5,
    External,
    /// Without logging in at all.
    None,
}

impl Allowed {
    /// In the order in which servers list them.
    pub const ALL: [Self; 6] =
        [Self::Plain, Self::Login, Self::Apop, Self::CramMd5, Self::External, Self::None];

    /// The word in `imap_auth` and its like.
    pub fn word(self) -> &'static str {
        match self {
            Self::Plain => Method::Plain.name(),
            Self::Login => "login",
            Self::Apop => Method::Apop.name(),
            Self::CramMd5 => Method::CramMd5.name(),
            Self::External => Method::External.name(),
            Self::None => Method::None.name(),
        }
    }

    /// The name of the SASL mechanism; `None`: it is not one.
    pub fn mechanism(self) -> Option<&'static str> {
        match self {
            Self::Plain => Some("PLAIN"),
            Self::Login => Some("LOGIN"),
            Self::CramMd5 => Some("CRAM-MD5"),
            Self::External => Some("EXTERNAL"),
            Self::Apop | Self::None => None,
        }
    }
}

/// The names of the mechanisms among these, in the order in which servers list them.
pub fn mechanisms(allowed: &[Allowed]) -> impl Iterator<Item = &'static str> {
    Allowed::ALL.into_iter().filter(|method| allowed.contains(method)).filter_map(Allowed::mechanism)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ports_lead_to_a_protocol() {
        for protocol in Protocol::ALL {
            assert_eq!(Protocol::of_name(protocol.name()), Some(protocol));
        }
        assert_eq!((Protocol::of_name("IMAP"), Protocol::of_port(80)), (None, None));
        let ports =
            [25, 110, 143, 465, 587, 993, 995].map(|port| Protocol::of_port(port).map(Protocol::name));
        let expected = ["smtp", "pop3", "imap", "smtp", "smtp", "imap", "pop3"].map(Some);
        assert_eq!(ports, expected);
    }

    #[test]
    fn mechanisms_are_listed_in_a_fixed_order() {
        let allowed = [Allowed::External, Allowed::None, Allowed::Apop, Allowed::Plain];
        assert_eq!(mechanisms(&allowed).collect::<Vec<_>>(), ["PLAIN", "EXTERNAL"]);
    }
}
