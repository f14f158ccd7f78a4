//! The TLS of a QUIC connection: rustls makes the handshake, and the server's settings are chosen by the ClientHello.
//!
//! Touches: nothing; quinn-proto calls with the bytes of CRYPTO frames. Truth: RFC 9001.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io::Cursor;
use std::rc::Rc;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use quinn_proto::crypto::{
    self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectionId, Side, TransportError, TransportErrorCode};
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::CertificateDer;
use rustls::quic::{KeyChange, Secrets, ServerConnection, Suite, Version};
use rustls::{HandshakeKind, ServerConfig};

use crate::net::tls::{Info, handshake, verify};
use crate::proto::client_hello::{self, ClientHello};

/// The version that is spoken: 1 (RFC 9000 §15).
pub const VERSION: u32 = 1;

/// The alert for a client whose name has no certificate (RFC 6066 §3), or that may not have one here.
const UNRECOGNIZED_NAME: u8 = 112;
const UNEXPECTED_MESSAGE: u8 = 10;
const DECODE_ERROR: u8 = 50;
const INTERNAL_ERROR: u8 = 80;

/// Chooses the settings of a handshake by the client's first message; `None` refuses the client.
pub type Choose = Rc<dyn Fn(&ClientHello) -> Option<Arc<ServerConfig>>>;

thread_local! {
    /// The choice for the connection that is being handled.
    static CHOOSE: RefCell<Option<Choose>> = const { RefCell::new(None) };
}

/// Handles a connection whose handshake may be in progress: `choose` is asked if its ClientHello becomes complete.
///
/// quinn-proto demands that its sessions may be sent between threads, which a worker's state may not; so a session does not
/// keep the choice.
pub fn choosing<T>(choose: &Choose, act: impl FnOnce() -> T) -> T {
    CHOOSE.set(Some(Rc::clone(choose)));
    let result = act();
    CHOOSE.set(None);
    result
}

/// The factory by which quinn-proto makes the sessions of new connections.
pub struct Sessions;

/// The suite of Initial packets, whatever is negotiated (RFC 9001 §5.2).
fn initial_suite() -> Option<Suite> {
    TLS13_AES_128_GCM_SHA256.tls13()?.quic_suite()
}

fn keys(keys: rustls::quic::Keys) -> Keys {
    Keys {
        header: KeyPair { local: Box::new(keys.local.header), remote: Box::new(keys.remote.header) },
        packet: KeyPair { local: Box::new(keys.local.packet), remote: Box::new(keys.remote.packet) },
    }
}

fn initial_keys(dst_cid: &ConnectionId) -> Option<Keys> {
    Some(keys(initial_suite()?.keys(dst_cid, rustls::Side::Server, Version::V1)))
}

/// RFC 9001 §5.8.
const RETRY_KEY: [u8; 16] =
    [0xbe, 0x0c, 0x69, 0x0b, 0x9f, 0x66, 0x57, 0x5a, 0x1d, 0x76, 0x6b, 0x54, 0xe3, 0x68, 0xc8, 0x4e];
const RETRY_NONCE: [u8; 12] = [0x46, 0x15, 0x99, 0xd3, 0x5d, 0x63, 0x2b, 0xf2, 0x23, 0x98, 0x25, 0xbb];

impl crypto::ServerConfig for Sessions {
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        if version != VERSION {
            return Err(UnsupportedVersion);
        }
        initial_keys(dst_cid).ok_or(UnsupportedVersion)
    }

    fn retry_tag(&self, _: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        let mut pseudo = vec![orig_dst_cid.len() as u8];
        pseudo.extend_from_slice(orig_dst_cid);
        pseudo.extend_from_slice(packet);
        let sealed = UnboundKey::new(&AES_128_GCM, &RETRY_KEY).and_then(|key| {
            let nonce = Nonce::assume_unique_for_key(RETRY_NONCE);
            LessSafeKey::new(key).seal_in_place_separate_tag(nonce, Aad::from(pseudo), &mut [])
        });
        let mut tag = [0; 16];
        if let Ok(sealed) = sealed {
            tag.copy_from_slice(sealed.as_ref());
        }
        tag
    }

    fn start_session(self: Arc<Self>, _: u32, params: &TransportParameters) -> Box<dyn crypto::Session> {
        Box::new(Session {
            params: *params,
            hello: Vec::new(),
            begun: None,
            done: None,
            next_secrets: None,
            signature: None,
            client_signature: None,
            has_told: false,
        })
    }
}

/// A session whose ClientHello has arrived.
struct Begun {
    tls: ServerConnection,
    hello: Box<ClientHello>,
}

/// The result of a complete handshake.
struct Done {
    cipher_suite: u16,
    group: Option<u16>,
    protocol: Box<[u8]>,
    is_resumed: bool,
    hello: Box<ClientHello>,
    peer_chain: Arc<[CertificateDer<'static>]>,
}

impl Begun {
    fn result(&self) -> Done {
        let tls = &self.tls;
        Done {
            cipher_suite: tls.negotiated_cipher_suite().map_or(0, |suite| suite.suite().into()),
            group: tls.negotiated_key_exchange_group().map(|group| group.name().into()),
            protocol: tls.alpn_protocol().unwrap_or_default().into(),
            is_resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
            hello: self.hello.clone(),
            peer_chain: tls.peer_certificates().unwrap_or_default().into(),
        }
    }
}

/// One connection's TLS.
struct Session {
    params: TransportParameters,
    /// The start of the ClientHello, until it is complete.
    hello: Vec<u8>,
    begun: Option<Box<Begun>>,
    /// Set in place of `begun` when rustls has nothing more to say: its connection takes several KiB, for nothing.
    done: Option<Box<Done>>,
    next_secrets: Option<Secrets>,
    /// The scheme with which the server has signed.
    signature: Option<u16>,
    /// The scheme with which the client has signed.
    client_signature: Option<u16>,
    has_told: bool,
}

fn alert(description: u8, reason: impl Into<String>) -> TransportError {
    TransportError { code: TransportErrorCode::crypto(description), frame: None, reason: reason.into() }
}

impl Session {
    /// Chooses the settings once the ClientHello is complete. `Ok(false)`: it is not.
    fn begin(&mut self) -> Result<bool, TransportError> {
        let hello = match client_hello::parse_message(&self.hello) {
            Ok(Some(hello)) => hello,
            Ok(None) => return Ok(false),
            Err(_) => return Err(alert(DECODE_ERROR, "malformed ClientHello")),
        };
        let choose = CHOOSE.with_borrow(Clone::clone);
        let config = choose.and_then(|choose| choose(&hello));
        let Some(config) = config else {
            return Err(alert(UNRECOGNIZED_NAME, "no certificate for this name"));
        };
        let mut params = Vec::new();
        self.params.write(&mut params);
        let tls = ServerConnection::new(config, Version::V1, params)
            .map_err(|error| alert(INTERNAL_ERROR, error.to_string()))?;
        self.begun = Some(Box::new(Begun { tls, hello: Box::new(hello) }));
        Ok(true)
    }

    fn tls(&self) -> Option<&ServerConnection> {
        Some(&self.begun.as_deref()?.tls)
    }
}

impl crypto::Session for Session {
    fn initial_keys(&self, dst_cid: &ConnectionId, _: Side) -> Keys {
        initial_keys(dst_cid).expect("the provider has the suite that QUIC demands")
    }

    /// An [`Info`], boxed, once the ClientHello has arrived.
    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        let (result, is_early);
        let done = match (&self.done, &self.begun) {
            (Some(done), _) => {
                is_early = false;
                done
            }
            (None, Some(begun)) => {
                is_early = begun.tls.is_handshaking();
                result = begun.result();
                &result
            }
            (None, None) => return None,
        };
        Some(Box::new(Info {
            is_tls13: true,
            cipher_suite: done.cipher_suite,
            group: done.group,
            signature_scheme: self.signature,
            client_signature_scheme: self.client_signature,
            protocol: done.protocol.clone(),
            is_resumed: done.is_resumed,
            is_early: Cell::new(is_early),
            hello: Some(done.hello.clone()),
            peer_chain: Arc::clone(&done.peer_chain),
            verdict: Cell::default(),
        }))
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        None // `Info` has it
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        let keys = self.tls()?.zero_rtt_keys()?;
        Some((Box::new(keys.header), Box::new(keys.packet)))
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        self.done.is_none() && self.tls().is_none_or(|tls| tls.is_handshaking())
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        if self.done.is_some() {
            // A client has nothing to say then: keys are updated without TLS (RFC 9001 §6), and certificates are not asked for
            // later (§4.4).
            return Err(alert(UNEXPECTED_MESSAGE, "a message of TLS behind the handshake"));
        }
        let begins = self.begun.is_none();
        if begins {
            self.hello.extend_from_slice(buf);
            if !self.begin()? {
                return Ok(false);
            }
        }
        let Some(begun) = self.begun.as_deref_mut() else { return Ok(false) };
        handshake::take_signature();
        let held = std::mem::take(&mut self.hello);
        let read = begun.tls.read_hs(if begins { &held } else { buf });
        self.signature = handshake::take_signature().or(self.signature);
        self.client_signature = verify::taken_scheme().map(u16::from).or(self.client_signature);
        if let Err(error) = read {
            return Err(match begun.tls.alert() {
                Some(description) => alert(description.into(), error.to_string()),
                None => TransportError {
                    code: TransportErrorCode::PROTOCOL_VIOLATION,
                    frame: None,
                    reason: error.to_string(),
                },
            });
        }
        // Told once: ALPN is selected as soon as the ClientHello has been understood.
        let tells = !self.has_told && begun.tls.alpn_protocol().is_some();
        self.has_told |= tells;
        Ok(tells)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        match self.tls().and_then(|tls| tls.quic_transport_parameters()) {
            None => Ok(None),
            Some(bytes) => Ok(Some(TransportParameters::read(Side::Server, &mut Cursor::new(bytes))?)),
        }
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let begun = self.begun.as_deref_mut()?;
        let before = buf.len();
        match begun.tls.write_hs(buf) {
            Some(KeyChange::Handshake { keys: new }) => Some(keys(new)),
            Some(KeyChange::OneRtt { keys: new, next }) => {
                self.next_secrets = Some(next);
                Some(keys(new))
            }
            None => {
                if buf.len() == before && !begun.tls.is_handshaking() {
                    self.done = Some(Box::new(begun.result()));
                    self.begun = None;
                }
                None
            }
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let keys = self.next_secrets.as_mut()?.next_packet_keys();
        Some(KeyPair { local: Box::new(keys.local), remote: Box::new(keys.remote) })
    }

    fn is_valid_retry(&self, _: &ConnectionId, _: &[u8], _: &[u8]) -> bool {
        false // a server gets none
    }

    fn export_keying_material(
        &self,
        _: &mut [u8],
        _: &[u8],
        _: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        Err(ExportKeyingMaterialError) // nobody asks for any
    }
}
