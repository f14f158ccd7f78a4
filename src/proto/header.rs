//! Field names that the proxy knows, and fields as ranges of a head's bytes.
//!
//! Pure. Names compare without regard to case (RFC 9110 §5.1).

use std::ops::Range;

/// A known field name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Id {
    Accept,
    AcceptCharset,
    AcceptEncoding,
    AcceptLanguage,
    AcceptRanges,
    Age,
    Allow,
    Authorization,
    CacheControl,
    Connection,
    ContentDisposition,
    ContentEncoding,
    ContentLanguage,
    ContentLength,
    ContentLocation,
    ContentRange,
    ContentType,
    Cookie,
    Date,
    Depth,
    Destination,
    ETag,
    Expect,
    Expires,
    Host,
    Http2Settings,
    IfMatch,
    IfModifiedSince,
    IfNoneMatch,
    IfRange,
    IfUnmodifiedSince,
    KeepAlive,
    LastModified,
    Link,
    Location,
    Origin,
    Overwrite,
    P3p,
    Pragma,
    ProxyAuthenticate,
    ProxyAuthorization,
    ProxyConnection,
    Range,
    Referer,
    Refresh,
    RetryAfter,
    Server,
    SetCookie,
    Status,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    UserAgent,
    Vary,
    Via,
    WwwAuthenticate,
    XAccelBuffering,
    XAccelCharset,
    XAccelExpires,
    XAccelLimitRate,
    XAccelRedirect,
    XForwardedFor,
    XForwardedProto,
    XRealIp,
}

impl Id {
    /// The id of a field name; `None` for names that mean nothing to the proxy.
    pub fn of(name: &[u8]) -> Option<Self> {
        let candidates: &[Self] = match name.len() {
            2 => &[Self::Te],
            3 => &[Self::Age, Self::P3p, Self::Via],
            4 => &[Self::Date, Self::ETag, Self::Host, Self::Link, Self::Vary],
            5 => &[Self::Allow, Self::Depth, Self::Range],
            6 => &[
                Self::Accept,
                Self::Cookie,
                Self::Expect,
                Self::Origin,
                Self::Pragma,
                Self::Server,
                Self::Status,
            ],
            7 => &[Self::Expires, Self::Referer, Self::Refresh, Self::Trailer, Self::Upgrade],
            8 => &[Self::IfMatch, Self::IfRange, Self::Location],
            9 => &[Self::Overwrite, Self::XRealIp],
            10 => &[Self::Connection, Self::KeepAlive, Self::SetCookie, Self::UserAgent],
            11 => &[Self::Destination, Self::RetryAfter],
            12 => &[Self::ContentType],
            13 => &[
                Self::AcceptRanges,
                Self::Authorization,
                Self::CacheControl,
                Self::ContentRange,
                Self::IfNoneMatch,
                Self::LastModified,
            ],
            14 => &[Self::AcceptCharset, Self::ContentLength, Self::Http2Settings],
            15 => &[
                Self::AcceptEncoding,
                Self::AcceptLanguage,
                Self::XAccelCharset,
                Self::XAccelExpires,
                Self::XForwardedFor,
            ],
            16 => &[
                Self::ContentEncoding,
                Self::ContentLanguage,
                Self::ContentLocation,
                Self::ProxyConnection,
                Self::WwwAuthenticate,
                Self::XAccelRedirect,
            ],
            17 => {
                &[Self::IfModifiedSince, Self::TransferEncoding, Self::XAccelBuffering, Self::XForwardedProto]
            }
            18 => &[Self::ProxyAuthenticate, Self::XAccelLimitRate],
            19 => &[Self::ContentDisposition, Self::IfUnmodifiedSince, Self::ProxyAuthorization],
            _ => return None,
        };
        candidates.iter().copied().find(|id| id.name().as_bytes().eq_ignore_ascii_case(name))
    }

    /// The name in its usual spelling.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accept => "Accept",
            Self::AcceptCharset => "Accept-Charset",
            Self::AcceptEncoding => "Accept-Encoding",
            Self::AcceptLanguage => "Accept-Language",
            Self::AcceptRanges => "Accept-Ranges",
            Self::Age => "Age",
            Self::Allow => "Allow",
            Self::Authorization => "Authorization",
            Self::CacheControl => "Cache-Control",
            Self::Connection => "Connection",
            Self::ContentDisposition => "Content-Disposition",
            Self::ContentEncoding => "Content-Encoding",
            Self::ContentLanguage => "Content-Language",
            Self::ContentLength => "Content-Length",
            Self::ContentLocation => "Content-Location",
            Self::ContentRange => "Content-Range",
            Self::ContentType => "Content-Type",
            Self::Cookie => "Cookie",
            Self::Date => "Date",
            Self::Depth => "Depth",
            Self::Destination => "Destination",
            Self::ETag => "ETag",
            Self::Expect => "Expect",
            Self::Expires => "Expires",
            Self::Host => "Host",
            Self::Http2Settings => "HTTP2-Settings",
            Self::IfMatch => "If-Match",
            Self::IfModifiedSince => "If-Modified-Since",
            Self::IfNoneMatch => "If-None-Match",
            Self::IfRange => "If-Range",
            Self::IfUnmodifiedSince => "If-Unmodified-Since",
            Self::KeepAlive => "Keep-Alive",
            Self::LastModified => "Last-Modified",
            Self::Link => "Link",
            Self::Location => "Location",
            Self::Origin => "Origin",
            Self::Overwrite => "Overwrite",
            Self::P3p => "P3P",
            Self::Pragma => "Pragma",
            Self::ProxyAuthenticate => "Proxy-Authenticate",
            Self::ProxyAuthorization => "Proxy-Authorization",
            Self::ProxyConnection => "Proxy-Connection",
            Self::Range => "Range",
            Self::Referer => "Referer",
            Self::Refresh => "Refresh",
            Self::RetryAfter => "Retry-After",
            Self::Server => "Server",
            Self::SetCookie => "Set-Cookie",
            Self::Status => "Status",
            Self::Te => "TE",
            Self::Trailer => "Trailer",
            Self::TransferEncoding => "Transfer-Encoding",
            Self::Upgrade => "Upgrade",
            Self::UserAgent => "User-Agent",
            Self::Vary => "Vary",
            Self::Via => "Via",
            Self::WwwAuthenticate => "WWW-Authenticate",
            Self::XAccelBuffering => "X-Accel-Buffering",
            Self::XAccelCharset => "X-Accel-Charset",
            Self::XAccelExpires => "X-Accel-Expires",
            Self::XAccelLimitRate => "X-Accel-Limit-Rate",
            Self::XAccelRedirect => "X-Accel-Redirect",
            Self::XForwardedFor => "X-Forwarded-For",
            Self::XForwardedProto => "X-Forwarded-Proto",
            Self::XRealIp => "X-Real-IP",
        }
    }
}

/// One field of a head: where its name and value stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    name: (u32, u32),
    value: (u32, u32),
    pub id: Option<Id>,
}

impl Field {
    /// Ranges of the head's bytes; a head is far below 4 GiB.
    pub fn new(name: Range<usize>, value: Range<usize>, id: Option<Id>) -> Self {
        let short = |range: Range<usize>| (range.start as u32, range.end as u32);
        Self { name: short(name), value: short(value), id }
    }

    pub fn name<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        data.get(self.name.0 as usize..self.name.1 as usize).unwrap_or(b"")
    }

    /// Without the white space around it.
    pub fn value<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        data.get(self.value.0 as usize..self.value.1 as usize).unwrap_or(b"")
    }
}

/// True for the bytes of a token (RFC 9110 §5.6.2).
pub fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The items of a comma-separated list, trimmed, empty ones left out (RFC 9110 §5.6.1).
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case() {
        assert_eq!(Id::of(b"content-LENGTH"), Some(Id::ContentLength));
        assert_eq!(Id::of(Id::WwwAuthenticate.name().as_bytes()), Some(Id::WwwAuthenticate));
        assert_eq!(Id::of(b"x-unknown"), None);
        assert_eq!(Id::of(b""), None);
    }

    #[test]
    fn lists_skip_what_is_empty() {
        assert_eq!(list(b" close,, Upgrade ,").collect::<Vec<_>>(), [&b"close"[..], b"Upgrade"]);
    }
}
