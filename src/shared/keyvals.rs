//! Changes of key-value zones on their way: from an operator's process to the master, and from the master to all.
//!
//! Pure data. What a change does to a zone is decided in `master/keyvals.rs`.

use crate::base::frame::Fields;
use crate::script::keyval::table::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// The answers to a change of something that is not there, or is there already.
pub const NO_ZONE: &str = "keyval not found";
pub const NO_KEY: &str = "keyval key not found";
pub const KEY_EXISTS: &str = "key already exists";

/// The longest name of a zone in an order.
pub const NAME_BYTES_MAX: usize = 255;
/// Maximum size of all pairs of one order, as they are encoded.
pub const PAIRS_BYTES_MAX: usize = 15 * 1024;
/// Bytes of an encoded pair besides its key and value.
const PAIR_HEAD_BYTES: usize = 14;

/// A change of a zone, as an operator asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Add pairs whose keys are not there yet; several only to an empty zone.
    Add(Vec<NewPair>),
    /// Change the value of a key that is there, or the time that it stays.
    Set(NewPair),
    Remove(Box<str>),
    /// Remove all pairs.
    Clear,
}

/// A pair as an operator gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPair {
    pub key: Box<str>,
    /// `None`: the value that is there stays.
    pub value: Option<Box<str>>,
    /// How long it stays; `None`: as long as the zone's `timeout` says.
    pub expire_ms: Option<u64>,
}

impl NewPair {
    /// Its length as a part of an order.
    fn encoded_bytes(&self) -> usize {
        PAIR_HEAD_BYTES + self.key.len() + self.value.as_ref().map_or(0, |value| value.len())
    }

    fn write(&self, out: &mut Vec<u8>) {
        vector(out, self.key.as_bytes(), KEY_BYTES_MAX);
        out.push(u8::from(self.value.is_some()));
        vector(out, self.value.as_deref().unwrap_or("").as_bytes(), VALUE_BYTES_MAX);
        out.push(u8::from(self.expire_ms.is_some()));
        out.extend_from_slice(&self.expire_ms.unwrap_or(0).to_le_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let key = text(fields, KEY_BYTES_MAX)?.into();
        let has_value = fields.flag()?;
        let value = text(fields, VALUE_BYTES_MAX)?;
        let has_expiry = fields.flag()?;
        let expire_ms = fields.u64()?;
        let is_canonical = (has_value || value.is_empty()) && (has_expiry || expire_ms == 0);
        is_canonical.then(|| Self {
            key,
            value: has_value.then(|| value.into()),
            expire_ms: has_expiry.then_some(expire_ms),
        })
    }
}

impl Change {
    /// # Errors
    /// The limit of a text that is too long, or of all pairs together, for the operator.
    pub fn check(&self) -> Result<(), String> {
        let key = |key: &str| match key.len() <= KEY_BYTES_MAX {
            true => Ok(()),
            false => Err(format!("a key has at most {KEY_BYTES_MAX} bytes")),
        };
        let pair = |pair: &NewPair| match pair.value.as_ref().map_or(0, |value| value.len()) {
            ..=VALUE_BYTES_MAX => key(&pair.key),
            _ => Err(format!("a value has at most {VALUE_BYTES_MAX} bytes")),
        };
        match self {
            Self::Add(_) if self.encoded_bytes() > PAIRS_BYTES_MAX => {
                Err(format!("the pairs of one request have at most {PAIRS_BYTES_MAX} bytes"))
            }
            Self::Add(pairs) => pairs.iter().try_for_each(pair),
            Self::Set(new) => pair(new),
            Self::Remove(gone) => key(gone),
            Self::Clear => Ok(()),
        }
    }

    /// The length of its pairs as a part of an order.
    pub fn encoded_bytes(&self) -> usize {
        match self {
            Self::Add(pairs) => pairs.iter().map(NewPair::encoded_bytes).sum(),
            Self::Set(pair) => pair.encoded_bytes(),
            Self::Remove(_) | Self::Clear => 0,
        }
    }

    /// Appends it to the payload of a message.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Add(pairs) => {
                out.push(b'a');
                pairs.iter().for_each(|pair| pair.write(out));
            }
            Self::Set(pair) => {
                out.push(b's');
                pair.write(out);
            }
            Self::Remove(key) => {
                out.push(b'r');
                vector(out, key.as_bytes(), KEY_BYTES_MAX);
            }
            Self::Clear => out.push(b'c'),
        }
    }

    /// Reads the rest of a payload.
    pub fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(match fields.u8()? {
            b'a' => {
                let mut pairs = Vec::new();
                while !fields.0.is_empty() {
                    pairs.push(NewPair::read(fields)?);
                }
                Self::Add(pairs)
            }
            b's' => Self::Set(NewPair::read(fields)?),
            b'r' => Self::Remove(text(fields, KEY_BYTES_MAX)?.into()),
            b'c' => Self::Clear,
            _ => return None,
        })
    }
}

/// News of a zone, by its number, for all processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    pub zone: u32,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// `expires_ms`: on the monotonic clock.
    Put {
        key: Box<[u8]>,
        value: Box<[u8]>,
        expires_ms: Option<u64>,
    },
    Remove {
        key: Box<[u8]>,
    },
    Clear,
}

impl News {
    /// Appends it to the payload of a message.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.zone.to_le_bytes());
        match &self.what {
            What::Put { key, value, expires_ms } => {
                out.push(b'p');
                vector(out, key, KEY_BYTES_MAX);
                vector(out, value, VALUE_BYTES_MAX);
                out.push(u8::from(expires_ms.is_some()));
                out.extend_from_slice(&expires_ms.unwrap_or(0).to_le_bytes());
            }
            What::Remove { key } => {
                out.push(b'r');
                vector(out, key, KEY_BYTES_MAX);
            }
            What::Clear => out.push(b'c'),
        }
    }

    /// Reads a whole payload.
    pub fn read(mut fields: Fields<'_>) -> Option<Self> {
        let zone = fields.u32()?;
        let bytes = |fields: &mut Fields<'_>, max: usize| -> Option<Box<[u8]>> {
            Some(fields.vector16().filter(|bytes| bytes.len() <= max)?.into())
        };
        let what = match fields.u8()? {
            b'p' => {
                let (key, value) = (bytes(&mut fields, KEY_BYTES_MAX)?, bytes(&mut fields, VALUE_BYTES_MAX)?);
                let (has_expiry, at_ms) = (fields.flag()?, fields.u64()?);
                if !has_expiry && at_ms != 0 {
                    return None;
                }
                What::Put { key, value, expires_ms: has_expiry.then_some(at_ms) }
            }
            b'r' => What::Remove { key: bytes(&mut fields, KEY_BYTES_MAX)? },
            b'c' => What::Clear,
            _ => return None,
        };
        fields.end(Self { zone, what })
    }
}

fn vector(out: &mut Vec<u8>, bytes: &[u8], max: usize) {
    assert!(bytes.len() <= max, "Change::check was asked");
    out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn text<'a>(fields: &mut Fields<'a>, max: usize) -> Option<&'a str> {
    std::str::from_utf8(fields.vector16().filter(|bytes| bytes.len() <= max)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: Option<&str>, expire_ms: Option<u64>) -> NewPair {
        NewPair { key: key.into(), value: value.map(Box::from), expire_ms }
    }

    #[test]
    fn news_is_read_as_it_was_written_and_no_part_of_it_is_any() {
        let put = |expires_ms| What::Put { key: b"k"[..].into(), value: b"v\0"[..].into(), expires_ms };
        for what in
            [put(None), put(Some(0)), put(Some(u64::MAX)), What::Remove { key: b""[..].into() }, What::Clear]
        {
            let news = News { zone: 7, what };
            let mut bytes = Vec::new();
            news.write(&mut bytes);
            for length in 0..bytes.len() {
                assert_eq!(News::read(Fields(&bytes[..length])), None, "{news:?} {length}");
            }
            assert_eq!(News::read(Fields(&bytes)), Some(news));
            bytes.push(0);
            assert_eq!(News::read(Fields(&bytes)), None);
        }
    }

    #[test]
    fn the_encoded_length_is_that_of_the_encoding() {
        for pair in [pair("", None, None), pair("key", Some("value"), Some(5))] {
            let mut bytes = Vec::new();
            pair.write(&mut bytes);
            assert_eq!(bytes.len(), pair.encoded_bytes());
        }
    }
}
