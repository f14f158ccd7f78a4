//! The protocols in which requests are passed on, and how each is named.
//!
//! Pure.

/// The protocol in which requests are passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    #[default]
    Http,
    FastCgi,
    Uwsgi,
    Scgi,
    Memcached,
    Grpc,
    /// Bytes in both directions, for CONNECT.
    Tunnel,
}

impl Protocol {
    /// The directive that passes requests on in this protocol.
    pub fn directive(self) -> &'static str {
        match self {
            Self::Http => "proxy_pass",
            Self::FastCgi => "fastcgi_pass",
            Self::Uwsgi => "uwsgi_pass",
            Self::Scgi => "scgi_pass",
            Self::Memcached => "memcached_pass",
            Self::Grpc => "grpc_pass",
            Self::Tunnel => "tunnel_pass",
        }
    }

    /// True if requests have URIs.
    pub fn has_uris(self) -> bool {
        matches!(self, Self::Http | Self::Grpc)
    }

    /// The scheme of upstreams' URLs in the error log.
    pub fn scheme(self, is_tls: bool) -> &'static str {
        match self {
            Self::Http if is_tls => "https",
            Self::Http => "http",
            Self::FastCgi => "fastcgi",
            Self::Uwsgi if is_tls => "suwsgi",
            Self::Uwsgi => "uwsgi",
            Self::Scgi => "scgi",
            Self::Memcached => "memcached",
            Self::Grpc if is_tls => "grpcs",
            Self::Grpc => "grpc",
            Self::Tunnel => "tunnel",
        }
    }

    /// The port of a server for which none is written; `None`: it must be written.
    pub fn default_port(self, is_tls: bool) -> Option<u16> {
        match self {
            Self::Http if is_tls => Some(443),
            Self::Http => Some(80),
            Self::FastCgi | Self::Uwsgi | Self::Scgi | Self::Memcached | Self::Grpc | Self::Tunnel => None,
        }
    }
}
