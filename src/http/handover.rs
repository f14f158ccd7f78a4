//! An idle connection on its way from a worker of the old generation to one of the new.
//!
//! Pure data: the descriptor travels beside these bytes. The text form is stable across versions, since an
//! upgrade's two binaries read each other's: fields are added at the end, unknown ones are ignored.

/// What the new worker must know of a connection beside its descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// The address of the listener it was accepted on, as text.
    pub listen: String,
    pub requests: u64,
    pub idle_ms_left: u64,
    pub opened_ms_ago: u64,
    pub number: u64,
    /// The header of the PROXY protocol in hex; empty without one.
    pub proxy: String,
}

impl Handover {
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self { listen, requests, idle_ms_left, opened_ms_ago, number, proxy } = self;
        format!("{listen}\n{requests}\n{idle_ms_left}\n{opened_ms_ago}\n{number}\n{proxy}").into_bytes()
    }

    /// `None` when the bytes are no handover.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(bytes).ok()?.split('\n');
        let listen = lines.next()?.to_string();
        let mut number = || lines.next()?.parse::<u64>().ok();
        Some(Self {
            listen,
            requests: number()?,
            idle_ms_left: number()?,
            opened_ms_ago: number()?,
            number: number()?,
            proxy: lines.next().unwrap_or_default().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_journey_and_later_versions() {
        let handover = Handover {
            listen: "unix:/run/a b".into(),
            requests: 7,
            idle_ms_left: 60_000,
            opened_ms_ago: 5,
            number: 9,
            proxy: "0d0a".into(),
        };
        let mut bytes = handover.to_bytes();
        assert_eq!(Handover::from_bytes(&bytes).as_ref(), Some(&handover));
        let older = bytes.strip_suffix(b"\n0d0a").expect("its last line");
        let without = Handover { proxy: String::new(), ..handover.clone() };
        assert_eq!(Handover::from_bytes(older), Some(without));
        bytes.extend_from_slice(b"\nsomething newer");
        assert_eq!(Handover::from_bytes(&bytes), Some(handover));
        assert_eq!(Handover::from_bytes(b"127.0.0.1:80\nx"), None);
    }
}
