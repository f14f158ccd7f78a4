//! What master and workers tell each other, as messages of one packet each.
//!
//! Pure data; descriptors travel beside the bytes.

use crate::http::Handover;

/// The number of a listening socket in the list of a worker, the same in all of one generation.
pub type SlotIndex = u32;

/// From the master to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToWorker {
    /// A newer generation runs: stop accepting, hand idle connections back, finish, leave.
    Drain,
    /// Graceful stop: stop accepting, close idle connections, finish, leave.
    Quit,
    /// Go on with an idle connection; its descriptor comes with the message.
    Adopt(Handover),
    /// Accept from these slots too (indexes into the worker's list).
    Lease(Vec<SlotIndex>),
    /// Accept from these no more.
    Release(Vec<SlotIndex>),
    /// Open the logs anew.
    Reopen,
    /// Give a sign of life.
    Ping,
}

/// From a worker to the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToMaster {
    /// It accepts.
    Ready,
    /// An idle connection for the newer generation; its descriptor comes with the message.
    HandOver(Handover),
    /// A task has panicked: replace this worker gracefully.
    Replace,
    /// The answer to a ping.
    Pong,
    /// It was told to leave, and accepts no more: what waited in its queues is accepted.
    Closed,
    /// Where a name of an upstream leads now, for the workers that come (`upstream/known.rs`).
    Learned(String),
}

/// The longest message.
pub const BYTES_MAX: usize = 8192;

/// The most slots in one message.
pub const SLOTS_MAX: usize = (BYTES_MAX - 1) / size_of::<SlotIndex>();

impl ToWorker {
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Drain => b"D".to_vec(),
            Self::Quit => b"Q".to_vec(),
            Self::Adopt(handover) => with_tag(b'A', &handover.to_bytes()),
            Self::Lease(slots) => with_tag(b'L', &numbers(slots)),
            Self::Release(slots) => with_tag(b'U', &numbers(slots)),
            Self::Reopen => b"O".to_vec(),
            Self::Ping => b"I".to_vec(),
        }
    }

    /// `None`: no message of this version.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        Some(match tag {
            b'D' => Self::Drain,
            b'Q' => Self::Quit,
            b'A' => Self::Adopt(Handover::from_bytes(rest)?),
            b'L' => Self::Lease(from_numbers(rest)),
            b'U' => Self::Release(from_numbers(rest)),
            b'O' => Self::Reopen,
            b'I' => Self::Ping,
            _ => return None,
        })
    }
}

impl ToMaster {
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Ready => b"R".to_vec(),
            Self::HandOver(handover) => with_tag(b'H', &handover.to_bytes()),
            Self::Replace => b"P".to_vec(),
            Self::Pong => b"I".to_vec(),
            Self::Closed => b"C".to_vec(),
            Self::Learned(text) => with_tag(b'N', text.as_bytes()),
        }
    }

    /// `None`: no message of this version.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        Some(match tag {
            b'R' => Self::Ready,
            b'H' => Self::HandOver(Handover::from_bytes(rest)?),
            b'P' => Self::Replace,
            b'I' => Self::Pong,
            b'C' => Self::Closed,
            b'N' => Self::Learned(String::from_utf8(rest.to_vec()).ok()?),
            _ => return None,
        })
    }
}

fn with_tag(tag: u8, rest: &[u8]) -> Vec<u8> {
    [&[tag], rest].concat()
}

fn numbers(list: &[SlotIndex]) -> Vec<u8> {
    list.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn from_numbers(bytes: &[u8]) -> Vec<SlotIndex> {
    bytes.as_chunks().0.iter().map(|number| SlotIndex::from_le_bytes(*number)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_slots_fit_into_a_message() {
        let slots: Vec<SlotIndex> = (0..SLOTS_MAX as SlotIndex).map(|slot| slot * 1_000_003).collect();
        let bytes = ToWorker::Lease(slots.clone()).to_bytes();
        assert!((BYTES_MAX - size_of::<SlotIndex>()..=BYTES_MAX).contains(&bytes.len()));
        assert_eq!(ToWorker::from_bytes(&bytes), Some(ToWorker::Lease(slots)));
    }

    #[test]
    fn messages_survive_the_journey() {
        let handover = Handover {
            listen: "127.0.0.1:80".into(),
            requests: 1,
            idle_ms_left: 2,
            opened_ms_ago: 3,
            number: 4,
            proxy: "00ff".into(),
        };
        let to_worker = [
            ToWorker::Drain,
            ToWorker::Quit,
            ToWorker::Adopt(handover.clone()),
            ToWorker::Lease(vec![1, 700]),
            ToWorker::Release(vec![]),
            ToWorker::Reopen,
            ToWorker::Ping,
        ];
        for message in to_worker {
            assert_eq!(ToWorker::from_bytes(&message.to_bytes()), Some(message));
        }
        let to_master = [
            ToMaster::Ready,
            ToMaster::HandOver(handover),
            ToMaster::Replace,
            ToMaster::Pong,
            ToMaster::Closed,
            ToMaster::Learned("group a.test \n10.0.0.1 80 0 0".to_owned()),
        ];
        for message in to_master {
            assert_eq!(ToMaster::from_bytes(&message.to_bytes()), Some(message));
        }
        assert_eq!(ToWorker::from_bytes(b""), None);
        assert_eq!(ToMaster::from_bytes(b"Hx"), None);
    }
}
