//! The head of a uwsgi request: its variables in one packet, which the body follows.
//!
//! Touches: nothing. uwsgi-docs, "The uwsgi Protocol": numbers are little-endian.

use crate::proto::cgi::{Pairs, Unsendable};

const HEADER_BYTES: usize = 4;
/// The most that all variables may take together.
pub const VARIABLES_BYTES_MAX: usize = 65_535;

/// The variables of a request.
pub struct Variables<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    refused: Option<Unsendable>,
}

impl<'a> Variables<'a> {
    /// `modifiers`: the two numbers by which the server chooses what handles the request.
    pub fn begin((first, second): (u8, u8), out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        out.extend_from_slice(&[first, 0, 0, second]);
        Self { out, start, refused: None }
    }

    /// Appends bytes as they are, instead of a variable.
    pub fn append(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Completes the packet. Errors: a variable, or all together, are too long.
    pub fn end(self) -> Result<(), Unsendable> {
        if let Some(why) = self.refused {
            return Err(why);
        }
        let bytes = self.out.len() - self.start - HEADER_BYTES;
        let Ok(size) = u16::try_from(bytes) else {
            return Err(Unsendable::TooMany { bytes, max: VARIABLES_BYTES_MAX });
        };
        self.out[self.start + 1..self.start + 3].copy_from_slice(&size.to_le_bytes());
        Ok(())
    }
}

impl Pairs for Variables<'_> {
    fn push(&mut self, name: &[u8], keeps_empty: bool, value: impl FnOnce(&mut Vec<u8>)) {
        let start = self.out.len();
        self.out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        self.out.extend_from_slice(name);
        let place = self.out.len();
        self.out.extend_from_slice(&[0, 0]);
        value(self.out);
        let length = self.out.len() - place - 2;
        if length == 0 && !keeps_empty {
            return self.out.truncate(start);
        }
        match (u16::try_from(name.len()), u16::try_from(length)) {
            (Ok(_), Ok(length)) => self.out[place..place + 2].copy_from_slice(&length.to_le_bytes()),
            _ => {
                let bytes = name.len() + length;
                let why = Unsendable::TooLong { name: name.into(), bytes, max: VARIABLES_BYTES_MAX };
                self.refused.get_or_insert(why);
                self.out.truncate(start);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(pairs: &[(&str, usize)]) -> Result<Vec<u8>, Unsendable> {
        let mut out = b"before".to_vec();
        let mut variables = Variables::begin((5, 7), &mut out);
        for (name, length) in pairs {
            variables.push(name.as_bytes(), true, |out| out.extend(std::iter::repeat_n(b'v', *length)));
        }
        variables.push(b"NOT", false, |_| {});
        variables.end().map(|()| out)
    }

    #[test]
    fn variables_are_a_packet() {
        let expected = [&b"before\x05\x0d\0\x07"[..], b"\x01\0A\x02\0vv", b"\x02\0BB\0\0"].concat();
        assert_eq!(packet(&[("A", 2), ("BB", 0)]).unwrap(), expected);
        assert_eq!(packet(&[]).unwrap(), b"before\x05\0\0\x07");
        let large = packet(&[("A", 65_530)]).unwrap();
        assert_eq!((large.len(), &large[7..9]), (6 + 4 + 65_535, &b"\xff\xff"[..]));
    }

    #[test]
    fn bytes_of_their_own_count_as_variables() {
        let appended = |length| {
            let mut out = Vec::new();
            let mut variables = Variables::begin((0, 0), &mut out);
            variables.push(b"A", true, |out| out.push(b'v'));
            variables.append(&vec![b's'; length]);
            variables.end().map(|()| out)
        };
        assert_eq!(appended(3).unwrap(), b"\0\x09\0\0\x01\0A\x01\0vsss");
        assert_eq!(appended(65_529).unwrap()[1..3], [0xff, 0xff]);
        let max = VARIABLES_BYTES_MAX;
        assert_eq!(appended(65_530), Err(Unsendable::TooMany { bytes: 65_536, max }));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let max = VARIABLES_BYTES_MAX;
        assert_eq!(packet(&[("A", 65_531)]), Err(Unsendable::TooMany { bytes: 65_536, max }));
        assert_eq!(packet(&[("A", 40_000), ("B", 40_000)]), Err(Unsendable::TooMany { bytes: 80_010, max }));
        let name = b"A"[..].into();
        assert_eq!(packet(&[("A", 65_536)]), Err(Unsendable::TooLong { name, bytes: 65_537, max }));
    }
}
