//! Connection IDs that tell which process has the connection, to us alone.
//!
//! An ID is one block of AES: the number of the process's lane, a mark that tells our own IDs from others, and random bytes.
//! Without the key it looks random (RFC 9000 §5.1). Touches: nothing but randomness.

use std::time::Duration;

use aes::Aes128;
use aes::cipher::{Block, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};

use crate::sys::random;

/// The bytes of an ID.
pub const BYTES: usize = 16;
/// Bytes that only our own IDs have in this place, but for one of four billion.
const MARK: [u8; 4] = *b"QIDv";
/// A packet with a short header tells its ID after the first byte (§17.3.1).
const SHORT_AT: usize = 1;
/// One with a long header after first byte, version and length (§17.2).
const LONG_AT: usize = 6;

/// Makes and reads IDs.
#[derive(Clone)]
pub struct Ids {
    cipher: Aes128,
    lane: u16,
}

impl Ids {
    /// `lane`: that of this process.
    pub fn new(key: &[u8; 16], lane: usize) -> Self {
        Self { cipher: Aes128::new(&(*key).into()), lane: u16::try_from(lane).unwrap_or(u16::MAX) }
    }

    /// The lane of the process that has made this ID; `None`: it is not ours.
    pub fn lane_of(&self, id: &[u8]) -> Option<usize> {
        let bytes: [u8; BYTES] = id.try_into().ok()?;
        let mut block: Block<Aes128> = bytes.into();
        self.cipher.decrypt_block(&mut block);
        (block[2..6] == MARK).then(|| usize::from(u16::from_be_bytes([block[0], block[1]])))
    }

    /// The lane of the process that has the connection of a datagram's first packet, if its ID is ours.
    pub fn lane_of_datagram(&self, datagram: &[u8]) -> Option<usize> {
        let first = *datagram.first()?;
        let at = match first & 0x80 {
            0 => SHORT_AT,
            _ if datagram.get(LONG_AT - 1) == Some(&(BYTES as u8)) => LONG_AT,
            _ => return None, // the client has chosen it
        };
        self.lane_of(datagram.get(at..at + BYTES)?)
    }
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; BYTES];
        bytes[..2].copy_from_slice(&self.lane.to_be_bytes());
        bytes[2..6].copy_from_slice(&MARK);
        bytes[6..14].copy_from_slice(&random::number().to_ne_bytes());
        bytes[14..].copy_from_slice(&random::number().to_ne_bytes()[..2]);
        let mut block: Block<Aes128> = bytes.into();
        self.cipher.encrypt_block(&mut block);
        ConnectionId::new(&block)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        self.lane_of(id).map(|_| ()).ok_or(InvalidCid)
    }

    fn cid_len(&self) -> usize {
        BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_tells_its_lane_to_us_alone() {
        let (mut ids, others) = (Ids::new(&[1; 16], 258), Ids::new(&[2; 16], 258));
        let (id, another) = (ids.generate_cid(), ids.generate_cid());
        assert_ne!(id, another);
        assert_eq!((ids.lane_of(&id), ids.lane_of(&another)), (Some(258), Some(258)));
        assert_eq!((others.lane_of(&id), ids.lane_of(&id[1..])), (None, None));
        assert!(ids.validate(&id).is_ok() && others.validate(&id).is_err());
        let short = [&[0x40][..], &id[..], b"rest"].concat();
        let long = [&[0xc0, 0, 0, 0, 1, 16][..], &id[..], b"rest"].concat();
        assert_eq!(ids.lane_of_datagram(&short), Some(258));
        assert_eq!(ids.lane_of_datagram(&long), Some(258));
        for length in 0..LONG_AT + BYTES {
            assert_eq!(ids.lane_of_datagram(&long[..length]), None);
        }
        (0..SHORT_AT + BYTES).for_each(|length| assert_eq!(ids.lane_of_datagram(&short[..length]), None));
    }
}
