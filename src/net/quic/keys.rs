//! The keys by which this server knows its own connection IDs, tokens and stateless resets again.
//!
//! All of them come from one secret, which all processes share: that of `quic_host_key`, or a random one in shared
//! memory. Touches: nothing. Behaviour: nginx.org, `quic_host_key`; RFC 9000 §8.1.4 and §10.3.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::{digest, hkdf, hmac};
use quinn_proto::crypto::{HandshakeTokenKey, HmacKey};

use crate::shm;

/// The keys of a configuration.
#[derive(Clone)]
pub struct Keys {
    pub(super) reset: Arc<dyn HmacKey>,
    pub(super) token: Arc<dyn HandshakeTokenKey>,
    pub(super) id: [u8; 16],
    pub(super) post: [u8; 32],
}

impl fmt::Debug for Keys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Keys")
    }
}

impl Keys {
    /// The keys that come from the contents of a file.
    pub fn of_secret(secret: &[u8]) -> Self {
        let derived = |label: &[u8]| {
            let mut hash = digest::Context::new(&digest::SHA256);
            hash.update(b"pronghorn quic ");
            hash.update(label);
            hash.update(secret);
            hash.finish()
        };
        let (reset, token, id) = (derived(b"reset"), derived(b"token"), derived(b"id"));
        let mut post = [0; 32];
        post.copy_from_slice(derived(b"post").as_ref());
        let mut id_key = [0; 16];
        id_key.copy_from_slice(&id.as_ref()[..16]);
        Self {
            reset: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset.as_ref())),
            token: Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(token.as_ref())),
            id: id_key,
            post,
        }
    }

    /// The keys of this server's processes, if the configuration has none.
    pub fn of_process() -> Self {
        Self::of_secret(&shm::secret())
    }
}
