//! A server's replies, line by line (RFC 959 §4.2).
//!
//! Touches: nothing. A reply is `123 text`, or begins with `123-text` and ends with the first line that begins with `123 `; the lines
//! between may be anything. It is read a line at a time, so that one of any length takes no memory.

/// A line that begins no reply: it has no code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotReply;

/// A line of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub code: u16,
    pub is_first: bool,
    pub is_last: bool,
}

impl Part {
    /// True at the end of a reply after which another one follows to the same command.
    pub fn is_preliminary(self) -> bool {
        self.code < 200
    }

    /// True if the reply says that the command went well.
    pub fn is_positive(self) -> bool {
        self.code < 400
    }
}

/// Reads the lines of one connection's replies.
#[derive(Clone, Copy, Debug, Default)]
pub struct Replies {
    /// The code of the reply whose last line has not come.
    open: Option<u16>,
}

/// The code at the front of a line, from 100 to 599.
pub fn code(line: &[u8]) -> Option<u16> {
    let digits = line.first_chunk::<3>()?;
    if !matches!(digits[0], b'1'..=b'5') || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')))
}

impl Replies {
    /// Takes the next line, without its end.
    pub fn take(&mut self, line: &[u8]) -> Result<Part, NotReply> {
        let separator = line.get(3);
        match self.open {
            Some(open) => {
                let is_last = code(line) == Some(open) && matches!(separator, None | Some(b' '));
                if is_last {
                    self.open = None;
                }
                Ok(Part { code: open, is_first: false, is_last })
            }
            None => {
                let code = code(line).ok_or(NotReply)?;
                match separator {
                    None | Some(b' ') => Ok(Part { code, is_first: true, is_last: true }),
                    Some(b'-') => {
                        self.open = Some(code);
                        Ok(Part { code, is_first: true, is_last: false })
                    }
                    Some(_) => Err(NotReply),
                }
            }
        }
    }

    /// True between the first line of a reply and its last.
    pub fn is_inside(&self) -> bool {
        self.open.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Vec<Result<(u16, bool), NotReply>> {
        let mut replies = Replies::default();
        let mut take = |line: &&str| replies.take(line.as_bytes()).map(|part| (part.code, part.is_last));
        lines.iter().map(&mut take).collect()
    }

    #[test]
    fn a_reply_ends_with_the_line_that_has_its_code_and_a_space() {
        let lines = ["211-Features:", " SIZE", "226 no end", "211-still not", "2110", "211 End", "226 next"];
        let ends =
            [(211, false), (211, false), (211, false), (211, false), (211, false), (211, true), (226, true)];
        assert_eq!(read(&lines), ends.map(Ok));
        assert_eq!(read(&["230", "230-", "230"]), [Ok((230, true)), Ok((230, false)), Ok((230, true))]);
    }

    #[test]
    fn other_lines_are_no_replies() {
        for line in ["", "22", "2x0 a", "099 a", "600 a", "631 sealed", "2200 a", "SSH-2.0-OpenSSH", "220\ta"]
        {
            assert_eq!(read(&[line]), [Err(NotReply)], "{line}");
        }
    }
}
