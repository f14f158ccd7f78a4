//! The record that a request keeps of its way through the response cache.
//!
//! Written by the lookup and the pass, read by encoders, variables and counters.

use crate::cache::lock::Lock;
pub use crate::cache::status::Status;
use crate::cache::zone::Zone;
use crate::http::request::Request;
use crate::proto::header::Id;
use crate::proto::message::Method;

/// How the request to the upstream differs from the client's, because its response may be stored: it asks for the
/// whole, whatever the client has of it.
#[derive(Clone, Debug, Default)]
pub struct Fetch {
    /// A client's HEAD becomes a GET.
    pub is_get: bool,
    /// The validators of an expired response; empty: there are none.
    pub etag: Vec<u8>,
    pub last_modified: Vec<u8>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct State {
    pub status: Option<Status>,
    /// The cache that counts the response.
    pub zone: Option<&'static Zone>,
    /// `None`: the client's request is passed on as it is.
    pub fetch: Option<Fetch>,
    /// The request has no client but updates a stored response, whose lock it holds.
    pub update: Option<Lock>,
}

/// The fields of a client that are not passed on if the response may be stored (nginx's list).
pub const CONDITIONS: [Id; 6] =
    [Id::IfModifiedSince, Id::IfUnmodifiedSince, Id::IfNoneMatch, Id::IfMatch, Id::Range, Id::IfRange];

impl Fetch {
    /// The fields that ask whether the expired response is still the current one.
    pub fn validators(&self) -> impl Iterator<Item = (Id, &[u8])> {
        let all = [(Id::IfModifiedSince, &*self.last_modified), (Id::IfNoneMatch, &*self.etag)];
        all.into_iter().filter(|(_, value)| !value.is_empty())
    }
}

impl Request {
    /// The method of the request to the upstream, unless the configuration sets another one.
    #[inline]
    pub fn upstream_method(&self) -> Method {
        match self.fetch() {
            Some(fetch) if fetch.is_get => Method::Get,
            _ => self.method,
        }
    }

    /// How the request to the upstream differs, if its response may be stored.
    #[inline]
    pub fn fetch(&self) -> Option<&Fetch> {
        self.proxied.cache.as_ref().and_then(|cache| cache.fetch.as_ref())
    }
}
