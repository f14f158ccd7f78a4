//! The record layer of a TLS connection after its handshake.
//!
//! rustls makes the handshake; then its keys and sequence numbers move here. So an idle connection costs two
//! cipher contexts instead of the whole state of a handshake, records are sealed straight into the buffer that
//! is sent, and a connection can move to another process: [`Secrets`] are all that it needs there.
//!
//! Touches: nothing; bytes in, bytes out. Truth: RFC 8446 §5, §4.6.3 and §7.2 (TLS 1.3), RFC 5246 §6.2, RFC
//! 5288 and RFC 7905 (AES-GCM and ChaCha20-Poly1305 in TLS 1.2).

use std::fmt;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use rustls::ConnectionTrafficSecrets;
use zeroize::Zeroize;

use crate::runtime::buffer::Buffer;

/// Bytes of a record's header: type, version, length.
pub const HEAD_BYTES: usize = 5;
/// The most plaintext of one record (RFC 8446 §5.1).
pub const PLAIN_BYTES_MAX: usize = 1 << 14;
/// The most bytes that follow the header of a record: plaintext, and 256 bytes of padding and tag at most
/// (RFC 8446 §5.2). TLS 1.2 allows 2048 (RFC 5246 §6.2.3) for ciphers that are not available here.
pub const CIPHER_BYTES_MAX: usize = PLAIN_BYTES_MAX + 256;
/// The most bytes that a record adds to its plaintext: header, explicit nonce, type, tag.
pub const OVERHEAD_BYTES: usize = HEAD_BYTES + 8 + 1 + TAG_BYTES;
const TAG_BYTES: usize = 16;

/// The nonce of AES-GCM in TLS 1.2 that a record carries.
const EXPLICIT_BYTES: usize = 8;
/// The longest traffic secret: a SHA-384.
const SECRET_BYTES: usize = 48;
/// The most records that AES-GCM may protect with one key (RFC 8446 §5.5).
const RECORDS_MAX: u64 = 1 << 24;

/// What a record contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    ChangeCipherSpec,
    Alert,
    Handshake,
    Data,
}

impl Content {
    fn number(self) -> u8 {
        match self {
            Self::ChangeCipherSpec => 20,
            Self::Alert => 21,
            Self::Handshake => 22,
            Self::Data => 23,
        }
    }

    fn of(number: u8) -> Option<Self> {
        [Self::ChangeCipherSpec, Self::Alert, Self::Handshake, Self::Data]
            .into_iter()
            .find(|content| content.number() == number)
    }
}

/// The reason why a record is refused: each ends the connection with an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It was not sealed with the connection's key, or was changed on its way.
    BadRecord,
    /// It is longer than the protocol allows.
    TooLong,
    /// Its header or its content is not one that may come now.
    Unexpected,
    /// The key has protected as many records as it may.
    KeyIsWorn,
}

impl Error {
    /// The alert for the peer (RFC 8446 §6).
    pub fn alert(self) -> u8 {
        match self {
            Self::BadRecord => 20,
            Self::TooLong => 22,
            Self::Unexpected => 10,
            Self::KeyIsWorn => 80,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::BadRecord => "a record cannot be decrypted",
            Self::TooLong => "a record is too long",
            Self::Unexpected => "an unexpected message",
            Self::KeyIsWorn => "the key has protected as many records as it may",
        })
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error.to_string())
    }
}

/// How the records of a cipher suite look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// The content's type is inside, and the whole nonce follows from the sequence number.
    Tls13,
    /// Eight bytes of the nonce stand in front of the record's content.
    Tls12Gcm,
    /// The whole nonce follows from the sequence number (RFC 7905).
    Tls12ChaCha,
}

/// A cipher suite, as far as records are concerned.
#[derive(Debug)]
pub struct Suite {
    pub number: u16,
    form: Form,
    aead: &'static aead::Algorithm,
    /// The hash of TLS 1.3's key schedule.
    hash: hmac::Algorithm,
}

macro_rules! suites {
    ($($name:ident $number:literal $form:ident $aead:ident $hash:ident,)*) => {
        static SUITES: [Suite; 9] = [$(
            Suite { number: $number, form: Form::$form, aead: &aead::$aead, hash: hmac::$hash },
        )*];
    };
}

suites! {
    TLS13_AES_128_GCM_SHA256 0x1301 Tls13 AES_128_GCM HMAC_SHA256,
    TLS13_AES_256_GCM_SHA384 0x1302 Tls13 AES_256_GCM HMAC_SHA384,
    TLS13_CHACHA20_POLY1305_SHA256 0x1303 Tls13 CHACHA20_POLY1305 HMAC_SHA256,
    ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 0xc02b Tls12Gcm AES_128_GCM HMAC_SHA256,
    ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 0xc02c Tls12Gcm AES_256_GCM HMAC_SHA384,
    ECDHE_RSA_WITH_AES_128_GCM_SHA256 0xc02f Tls12Gcm AES_128_GCM HMAC_SHA256,
    ECDHE_RSA_WITH_AES_256_GCM_SHA384 0xc030 Tls12Gcm AES_256_GCM HMAC_SHA384,
    ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 0xcca8 Tls12ChaCha CHACHA20_POLY1305 HMAC_SHA256,
    ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 0xcca9 Tls12ChaCha CHACHA20_POLY1305 HMAC_SHA256,
}

impl Suite {
    /// The suite of a number (IANA's registry); `None`: it is not supported.
    pub fn of(number: u16) -> Option<&'static Self> {
        SUITES.iter().find(|suite| suite.number == number)
    }

    pub fn is_tls13(&self) -> bool {
        self.form == Form::Tls13
    }

    /// Bytes of a record in front of its plaintext: the header, and the nonce if the record carries it.
    pub fn head_bytes(&self) -> usize {
        HEAD_BYTES + if self.form == Form::Tls12Gcm { EXPLICIT_BYTES } else { 0 }
    }

    /// Bytes of a record behind its plaintext: the type of TLS 1.3, and the tag.
    pub fn tail_bytes(&self) -> usize {
        usize::from(self.is_tls13()) + TAG_BYTES
    }

    /// Bytes of a direction's secret.
    pub fn secret_bytes(&self) -> usize {
        match self.form {
            Form::Tls13 => self.hash.digest_algorithm().output_len(),
            Form::Tls12Gcm | Form::Tls12ChaCha => self.aead.key_len() + aead::NONCE_LEN,
        }
    }
}

/// What one direction's keys are made from: the traffic secret of TLS 1.3, or the key and the nonce's fixed
/// part of TLS 1.2. Erased when dropped, and never printed.
pub struct Secret([u8; SECRET_BYTES]);

impl Secret {
    /// The traffic secret of TLS 1.3. `None`: it is longer than that of any suite.
    pub fn of_traffic(bytes: &[u8]) -> Option<Self> {
        let mut secret = Self([0; SECRET_BYTES]);
        secret.0.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(secret)
    }

    /// The key and the nonce of TLS 1.2.
    pub fn of_key(keys: &ConnectionTrafficSecrets) -> Option<Self> {
        let (key, iv) = match keys {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv }
            | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
            | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key.as_ref(), iv.as_ref()),
            _ => return None,
        };
        let mut secret = Self([0; SECRET_BYTES]);
        secret.0.get_mut(..key.len())?.copy_from_slice(key);
        secret.0.get_mut(key.len()..key.len() + iv.len())?.copy_from_slice(iv);
        Some(secret)
    }

    /// The bytes of the suite's secret, for the process that the connection moves to.
    pub fn bytes(&self, suite: &Suite) -> &[u8] {
        &self.0[..suite.secret_bytes()]
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret")
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446 §7.1); at most one block of the hash.
fn expand(hash: hmac::Algorithm, secret: &[u8], label: &str, out: &mut [u8]) {
    let key = hmac::Key::new(hash, secret);
    let mut context = hmac::Context::with_key(&key);
    context.update(&(out.len() as u16).to_be_bytes());
    context.update(&[(b"tls13 ".len() + label.len()) as u8]);
    context.update(b"tls13 ");
    context.update(label.as_bytes());
    context.update(&[0, 1]); // an empty context; the number of the block
    let block = context.sign();
    debug_assert!(out.len() <= block.as_ref().len());
    let length = out.len();
    out.copy_from_slice(&block.as_ref()[..length]);
}

/// The protection of one direction: its key, its secret, and the number of its next record.
#[derive(Debug)]
pub struct Direction {
    suite: &'static Suite,
    key: LessSafeKey,
    iv: [u8; aead::NONCE_LEN],
    secret: Secret,
    sequence: u64,
}

impl Direction {
    /// Begins with `sequence` as the number of the next record.
    pub fn new(suite: &'static Suite, secret: Secret, sequence: u64) -> Self {
        let mut key = [0; 32];
        let mut iv = [0; aead::NONCE_LEN];
        let key_bytes = suite.aead.key_len();
        let bytes = secret.bytes(suite);
        match suite.form {
            Form::Tls13 => {
                expand(suite.hash, bytes, "key", &mut key[..key_bytes]);
                expand(suite.hash, bytes, "iv", &mut iv);
            }
            Form::Tls12Gcm | Form::Tls12ChaCha => {
                key[..key_bytes].copy_from_slice(&bytes[..key_bytes]);
                iv.copy_from_slice(&bytes[key_bytes..]);
            }
        }
        let unbound = UnboundKey::new(suite.aead, &key[..key_bytes]).expect("a key of the suite's length");
        key.zeroize();
        Self { suite, key: LessSafeKey::new(unbound), iv, secret, sequence }
    }

    /// Keys that protect nothing, in the place of those that were taken.
    pub fn blank(suite: &'static Suite) -> Self {
        Self::new(suite, Secret([0; SECRET_BYTES]), RECORDS_MAX)
    }

    pub fn suite(&self) -> &'static Suite {
        self.suite
    }

    /// The secret and the number of the next record, for the process that the connection moves to.
    pub fn parts(&self) -> (&[u8], u64) {
        (self.secret.bytes(self.suite), self.sequence)
    }

    /// The keys that follow a KeyUpdate (RFC 8446 §7.2).
    pub fn update(&mut self) {
        let mut next = Secret([0; SECRET_BYTES]);
        let length = self.suite.secret_bytes();
        expand(self.suite.hash, self.secret.bytes(self.suite), "traffic upd", &mut next.0[..length]);
        *self = Self::new(self.suite, next, 0);
    }

    /// True when the key has protected so many records that it should be replaced.
    pub fn is_worn(&self) -> bool {
        self.sequence >= RECORDS_MAX - 1024
    }

    /// As after many records.
    #[cfg(test)]
    pub fn wear(&mut self) {
        self.sequence = RECORDS_MAX - 1024;
    }

    fn nonce(&self) -> [u8; aead::NONCE_LEN] {
        let mut nonce = self.iv;
        for (byte, sequence) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= sequence;
        }
        nonce
    }

    /// Appends one record with this content to `out`, which has [`OVERHEAD_BYTES`] more space than the content.
    ///
    /// Errors: the key is worn. In TLS 1.2 the connection has then to end, since nothing replaces its key.
    pub fn seal(&mut self, content: Content, parts: &[&[u8]], out: &mut Buffer) -> Result<(), Error> {
        let start = self.suite.head_bytes();
        let mut end = start;
        for part in parts {
            out.space()[end..end + part.len()].copy_from_slice(part);
            end += part.len();
        }
        let count = self.seal_in_place(content, out.space(), end - start)?;
        out.filled(count);
        Ok(())
    }

    /// Makes a record at the start of `space`, whose plaintext of `length` bytes is in its place already: behind
    /// [`Suite::head_bytes`], with room for [`Suite::tail_bytes`] after it. Returns the length of the record.
    ///
    /// Errors: as for [`Direction::seal`].
    pub fn seal_in_place(
        &mut self,
        content: Content,
        space: &mut [u8],
        length: usize,
    ) -> Result<usize, Error> {
        if self.sequence >= RECORDS_MAX {
            return Err(Error::KeyIsWorn);
        }
        let nonce = self.nonce();
        let (head_bytes, tail_bytes) = (self.suite.head_bytes(), self.suite.tail_bytes());
        let whole = head_bytes + length + tail_bytes;
        let follows = whole - HEAD_BYTES;
        let outer = if self.suite.is_tls13() { Content::Data } else { content };
        let (head, body) = space[..whole].split_at_mut(head_bytes);
        head[..3].copy_from_slice(&[outer.number(), 3, 3]);
        head[3..HEAD_BYTES].copy_from_slice(&(follows as u16).to_be_bytes());
        let explicit = &mut head[HEAD_BYTES..];
        explicit.copy_from_slice(&nonce[4..4 + explicit.len()]);
        let (text, tag_space) = body.split_at_mut(length + tail_bytes - TAG_BYTES);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = match self.suite.form {
            Form::Tls13 => {
                text[length] = content.number();
                self.key.seal_in_place_separate_tag(nonce, Aad::from(&head[..HEAD_BYTES]), text)
            }
            Form::Tls12Gcm | Form::Tls12ChaCha => {
                let aad = aad12(self.sequence, content.number(), length);
                self.key.seal_in_place_separate_tag(nonce, Aad::from(aad), text)
            }
        };
        let tag = tag.map_err(|_| Error::KeyIsWorn)?; // it fails for lengths that no record has
        tag_space.copy_from_slice(tag.as_ref());
        self.sequence += 1;
        Ok(whole)
    }

    /// Decrypts a record in place. Returns its content and the range of its plaintext in `record`.
    ///
    /// `record` is complete, its header included ([`record_length`]).
    pub fn open(&mut self, record: &mut [u8]) -> Result<(Content, std::ops::Range<usize>), Error> {
        let (head, body) = record.split_at_mut(HEAD_BYTES);
        let outer = Content::of(head[0]).ok_or(Error::Unexpected)?;
        match self.suite.form {
            Form::Tls13 => {
                if outer != Content::Data {
                    return Err(Error::Unexpected);
                }
                let nonce = Nonce::assume_unique_for_key(self.nonce());
                let text = self
                    .key
                    .open_in_place(nonce, Aad::from(&head[..HEAD_BYTES]), body)
                    .map_err(|_| Error::BadRecord)?;
                // Zeros after the type are padding.
                let end = text.iter().rposition(|byte| *byte != 0).ok_or(Error::Unexpected)?;
                let content = Content::of(text[end]).ok_or(Error::Unexpected)?;
                if end > PLAIN_BYTES_MAX {
                    return Err(Error::TooLong);
                }
                self.sequence += 1;
                Ok((content, HEAD_BYTES..HEAD_BYTES + end))
            }
            Form::Tls12Gcm | Form::Tls12ChaCha => {
                let explicit_bytes = if self.suite.form == Form::Tls12Gcm { EXPLICIT_BYTES } else { 0 };
                let mut nonce = self.nonce();
                let (explicit, text) = body.split_at_mut_checked(explicit_bytes).ok_or(Error::BadRecord)?;
                if explicit_bytes > 0 {
                    nonce[..4].copy_from_slice(&self.iv[..4]);
                    nonce[4..].copy_from_slice(explicit);
                }
                let length = text.len().checked_sub(TAG_BYTES).ok_or(Error::BadRecord)?;
                if length > PLAIN_BYTES_MAX {
                    return Err(Error::TooLong);
                }
                let aad = aad12(self.sequence, outer.number(), length);
                let nonce = Nonce::assume_unique_for_key(nonce);
                self.key.open_in_place(nonce, Aad::from(aad), text).map_err(|_| Error::BadRecord)?;
                self.sequence += 1;
                let start = HEAD_BYTES + explicit_bytes;
                Ok((outer, start..start + length))
            }
        }
    }
}

/// The additional data of TLS 1.2 (RFC 5246 §6.2.3.3).
fn aad12(sequence: u64, content: u8, length: usize) -> [u8; 13] {
    let mut aad = [0; 13];
    aad[..8].copy_from_slice(&sequence.to_be_bytes());
    aad[8..11].copy_from_slice(&[content, 3, 3]);
    aad[11..].copy_from_slice(&(length as u16).to_be_bytes());
    aad
}

/// Total length of the record at the start of `data`; `None`: its header has not arrived completely.
pub fn record_length(data: &[u8]) -> Result<Option<usize>, Error> {
    let Some(head) = data.get(..HEAD_BYTES) else { return Ok(None) };
    if !(20..=23).contains(&head[0]) || head[1] != 3 {
        return Err(Error::Unexpected);
    }
    let length = usize::from(head[3]) << 8 | usize::from(head[4]);
    if length > CIPHER_BYTES_MAX {
        return Err(Error::TooLong);
    }
    Ok(Some(HEAD_BYTES + length))
}
