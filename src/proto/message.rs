//! Methods, versions and the delimiting of bodies, which all versions of HTTP share.
//!
//! Touches: nothing. RFC 9110 §9, RFC 4918 §9.

/// The way in which the body of a message is delimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyLength {
    #[default]
    None,
    Length(u64),
    /// The body marks its own end: in chunks, or in the frames of another protocol.
    Chunked,
    /// The body ends with the connection; responses only.
    UntilClose,
}

/// A request's method; `Other` for names that need no special treatment, whose text stays in the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Trace,
    Connect,
    Mkcol,
    Copy,
    Move,
    Propfind,
    Proppatch,
    Lock,
    Unlock,
    #[default]
    Other,
}

impl Method {
    const ALL: [(&'static str, Method); 16] = [
        ("GET", Method::Get),
        ("HEAD", Method::Head),
        ("POST", Method::Post),
        ("PUT", Method::Put),
        ("DELETE", Method::Delete),
        ("OPTIONS", Method::Options),
        ("PATCH", Method::Patch),
        ("TRACE", Method::Trace),
        ("CONNECT", Method::Connect),
        ("MKCOL", Method::Mkcol),
        ("COPY", Method::Copy),
        ("MOVE", Method::Move),
        ("PROPFIND", Method::Propfind),
        ("PROPPATCH", Method::Proppatch),
        ("LOCK", Method::Lock),
        ("UNLOCK", Method::Unlock),
    ];

    /// The method of this name (case-sensitive), `Other` when unknown.
    pub fn of(name: &[u8]) -> Self {
        Self::ALL.iter().find(|(text, _)| text.as_bytes() == name).map_or(Self::Other, |(_, method)| *method)
    }

    /// True for the methods that read a resource.
    pub fn is_get_or_head(self) -> bool {
        matches!(self, Self::Get | Self::Head)
    }

    /// The name on the wire; `None` for `Other`.
    pub fn name(self) -> Option<&'static str> {
        Self::ALL.iter().find(|(_, method)| *method == self).map(|(text, _)| *text)
    }
}

/// The version that decides framing and persistence; later minor versions count as 1.1 (RFC 9110 §2.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    Http10,
    #[default]
    Http11,
    Http2,
    Http3,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_methods_and_back() {
        for (text, method) in Method::ALL {
            assert_eq!(Method::of(text.as_bytes()), method);
            assert_eq!(method.name(), Some(text));
        }
        assert_eq!(Method::of(b"get"), Method::Other);
        assert_eq!(Method::Other.name(), None);
    }
}
