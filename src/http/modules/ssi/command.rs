//! The syntax of SSI commands: where a command starts and ends, its name and its parameters.
//!
//! Pure text. Syntax: nginx.org, ngx_http_ssi_module, "SSI Commands".

/// The start of a command.
const BEGIN: &[u8] = b"<!--#";
const END: &[u8] = b"-->";

/// A longer command is not run.
const COMMAND_BYTES_MAX: usize = 64 * 1024;

/// A command: `name parameter="value" …`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Command {
    pub name: Vec<u8>,
    parameters: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The next element of a text, with its length in bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Text without a command; the start of a command may follow.
    Text(usize),
    /// A complete command.
    Command(Result<Command, Broken>, usize),
    /// Part of a command that is already known to be broken. It is dropped; the command ends with
    /// [`Found::Command`].
    Dropped(usize),
    /// An unfinished command, or nothing.
    Partial,
}

/// Why a command cannot be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    Syntax,
    /// The value of a parameter exceeds the allowed length.
    ValueTooLong,
    CommandTooLong,
}

/// The position in a text: where to search for the next command, or, inside a command, for its end.
///
/// Each byte is looked at once, however the text is cut into pieces and whatever it contains: a command that
/// gets too long is not given up and searched for others, but read to the next `-->`, as in nginx.
#[derive(Debug, Default)]
pub struct Cursor {
    /// Everything before this position has been returned.
    at: usize,
    /// Inside a command: its end is not before this position.
    searched: usize,
    is_inside: bool,
    quote: Option<u8>,
    /// Bytes since the opening quote, inside quotes.
    quoted_bytes: usize,
    broken: Option<Broken>,
}

impl Command {
    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.parameters.iter().find(|(known, _)| known == name.as_bytes()).map(|(_, value)| &**value)
    }
}

impl Cursor {
    pub fn at(&self) -> usize {
        self.at
    }

    /// Resets the position after the text was cut off before [`Cursor::at`].
    pub fn rewind(&mut self) {
        self.searched = self.searched.saturating_sub(self.at);
        self.at = 0;
    }

    /// Finds the next element of `text` after [`Cursor::at`], and advances past it.
    ///
    /// `value_max`: maximum length of a parameter's value. `is_end`: nothing follows the text.
    pub fn next(&mut self, text: &[u8], value_max: usize, is_end: bool) -> Found {
        if !self.is_inside {
            let rest = &text[self.at..];
            let length = match memchr::memmem::find(rest, BEGIN) {
                Some(0) => 0,
                Some(at) => at,
                None if is_end => rest.len(),
                None => rest.len() - held_back(rest),
            };
            if length > 0 {
                self.at += length;
                return Found::Text(length);
            }
            if !rest.starts_with(BEGIN) {
                return Found::Partial;
            }
            *self = Self { at: self.at, searched: self.at + BEGIN.len(), is_inside: true, ..Self::default() };
        }
        let start = self.at;
        if self.search(text, value_max) {
            let end = self.searched + END.len();
            let command = match self.broken {
                Some(broken) => Err(broken),
                None => parse(&text[start + BEGIN.len()..self.searched]).ok_or(Broken::Syntax),
            };
            *self = Self { at: end, searched: end, ..Self::default() };
            return Found::Command(command, end - start);
        }
        if self.broken.is_some() {
            self.at = if is_end { text.len() } else { self.searched };
            self.searched = self.at;
        } else if is_end {
            *self = Self { at: text.len(), searched: text.len(), ..Self::default() };
            return if text.len() > start { Found::Text(text.len() - start) } else { Found::Partial };
        }
        if self.at > start { Found::Dropped(self.at - start) } else { Found::Partial }
    }

    /// Searches for a `-->` outside quotes. True: it is at `searched`.
    fn search(&mut self, text: &[u8], value_max: usize) -> bool {
        while let Some(&byte) = text.get(self.searched) {
            #[cfg(test)]
            tests::LOOKED.set(tests::LOOKED.get() + 1);
            if self.broken.is_none() && self.searched - self.at > COMMAND_BYTES_MAX {
                self.break_off(Broken::CommandTooLong);
            }
            let mut bytes = 1;
            match (byte, self.quote) {
                (b'\\', Some(_)) if self.searched + 1 == text.len() => return false,
                (b'\\', Some(_)) => {
                    self.quoted_bytes += 1 + usize::from(!matches!(text[self.searched + 1], b'"' | b'\''));
                    bytes = 2;
                }
                (byte, Some(open)) if byte == open => self.quote = None,
                (_, Some(_)) => self.quoted_bytes += 1,
                (b'"' | b'\'', None) if self.broken.is_none() => {
                    self.quote = Some(byte);
                    self.quoted_bytes = 0;
                }
                (b'-', None) => match &text[self.searched..] {
                    rest if rest.starts_with(END) => return true,
                    b"-" | b"--" => return false,
                    _ => {}
                },
                _ => {}
            }
            self.searched += bytes;
            if self.quoted_bytes > value_max && self.quote.is_some() {
                self.break_off(Broken::ValueTooLong);
            }
        }
        false
    }

    /// Marks the command as broken: only the next `-->` ends it.
    fn break_off(&mut self, why: Broken) {
        (self.broken, self.quote) = (Some(why), None);
    }
}

/// How many bytes at the end may be the start of a command.
fn held_back(input: &[u8]) -> usize {
    (1..BEGIN.len()).rev().find(|&count| input.ends_with(&BEGIN[..count])).unwrap_or(0)
}

fn parse(text: &[u8]) -> Option<Command> {
    let mut rest = text.trim_ascii();
    let mut command = Command { name: word(&mut rest), ..Command::default() };
    while !rest.is_empty() {
        let name = word(&mut rest);
        rest = rest.strip_prefix(b"=")?.trim_ascii_start();
        let (quote @ (b'"' | b'\''), quoted) = rest.split_first()? else { return None };
        let mut value = Vec::new();
        let mut bytes = quoted.iter().enumerate();
        let used = loop {
            match bytes.next()? {
                (at, byte) if byte == quote => break at + 1,
                // an escaped quote does not end the value; other backslashes are kept, for example for a
                // condition's expression
                (_, b'\\') => match bytes.next()?.1 {
                    other @ (b'"' | b'\'') => value.push(*other),
                    other => value.extend_from_slice(&[b'\\', *other]),
                },
                (_, byte) => value.push(*byte),
            }
        };
        rest = quoted[used..].trim_ascii_start();
        command.parameters.push((name, value));
    }
    (!command.name.is_empty()).then_some(command)
}

/// Takes a word of letters and `_`, in lower case, and the space after it.
fn word(rest: &mut &[u8]) -> Vec<u8> {
    let length = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
    let (word, after) = rest.split_at(length);
    *rest = after.trim_ascii_start();
    word.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE_MAX: usize = 256;

    thread_local! {
        /// Bytes of commands that were looked at.
        pub static LOOKED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    fn command(text: &str) -> Option<Command> {
        match Cursor::default().next(text.as_bytes(), VALUE_MAX, true) {
            Found::Command(command, length) if length == text.len() => command.ok(),
            other => panic!("{other:?}"),
        }
    }

    fn first(text: &[u8], is_end: bool) -> Found {
        Cursor::default().next(text, VALUE_MAX, is_end)
    }

    /// The result for a text that arrives in pieces of this many bytes: texts as they are, commands by name,
    /// broken ones as `!`.
    fn read(text: &[u8], piece_bytes: usize) -> String {
        let (mut cursor, mut input, mut out) = (Cursor::default(), Vec::new(), String::new());
        let mut pieces = text.chunks(piece_bytes).peekable();
        while let Some(piece) = pieces.next() {
            input.extend_from_slice(piece);
            loop {
                let at = cursor.at();
                match cursor.next(&input, VALUE_MAX, pieces.peek().is_none()) {
                    Found::Text(length) => {
                        out.push_str(std::str::from_utf8(&input[at..at + length]).unwrap())
                    }
                    Found::Command(Ok(command), _) => {
                        out.push_str(&format!("({})", String::from_utf8(command.name).unwrap()));
                    }
                    Found::Command(Err(_), _) => out.push('!'),
                    Found::Dropped(_) => {}
                    Found::Partial => break,
                }
            }
            input.drain(..cursor.at());
            cursor.rewind();
            assert!(input.len() <= COMMAND_BYTES_MAX + piece_bytes + BEGIN.len(), "{}", input.len());
        }
        out
    }

    #[test]
    fn finds_text_commands_and_what_may_become_one() {
        assert_eq!(first(b"abc", false), Found::Text(3));
        assert_eq!(first(b"abc<!-", false), Found::Text(3));
        assert_eq!(first(b"<!--", false), Found::Partial);
        assert_eq!(first(b"<!--", true), Found::Text(4));
        assert_eq!(first(b"ab<!--#echo", false), Found::Text(2));
        assert_eq!(first(b"<!--#echo var=\"-->", false), Found::Partial);
        assert!(matches!(first(b"<!--#endif -->x", false), Found::Command(Ok(_), 14)));
    }

    #[test]
    fn pieces_of_any_size_are_read_alike() {
        let long = "x".repeat(300);
        let cases = [
            (
                "a<!--#echo -->b<!-- c --><!--#set v=\"-->\\\"\" -->d<!--",
                "a(echo)b<!-- c -->(set)d<!--".to_owned(),
            ),
            ("a<!--#<!--#<!--#b-->c", "a!c".to_owned()),
            ("a<!--# c", "a<!--# c".to_owned()),
            // the value is too long: the end of the next command ends this one
            (&*format!("a<!--#echo var=\"{long} -->b<!--#echo -->"), "a!b(echo)".to_owned()),
            (&*format!("a<!--#echo var=\"{long} --"), "a".to_owned()),
        ];
        for (text, expected) in cases {
            for piece_bytes in 1..text.len() + 1 {
                assert_eq!(read(text.as_bytes(), piece_bytes), expected, "{text} in pieces of {piece_bytes}");
            }
        }
    }

    #[test]
    fn the_work_is_in_proportion_to_the_text() {
        for bytes in [100_000, 200_000, 400_000] {
            for pattern in [
                "<!--#",
                "<!--#\"",
                "<!--#' -",
                "<!--# -- ",
                "<!--#a b=\"\\",
                "<!--#'-->' ",
                "<!--#a -->",
                "-",
            ] {
                let text = pattern.repeat(bytes / pattern.len());
                for piece_bytes in [7, 4096, bytes] {
                    LOOKED.set(0);
                    read(text.as_bytes(), piece_bytes);
                    let looked = LOOKED.get();
                    // a dash at the end of a piece is examined again
                    assert!(
                        looked <= text.len() + bytes / piece_bytes * 2,
                        "{pattern}: {looked} of {bytes} in pieces of {piece_bytes}"
                    );
                }
            }
        }
    }

    #[test]
    fn reads_names_and_parameters() {
        let include = command(r#"<!--#include virtual="/a?b=-->" wait='yes' -->"#).unwrap();
        assert_eq!(include.name, b"include");
        assert_eq!(include.get("virtual"), Some(&b"/a?b=-->"[..]));
        assert_eq!(include.get("wait"), Some(&b"yes"[..]));
        assert_eq!(include.get("stub"), None);
        let set = command(r#"<!--# set var = "a" value="say \"hi\" \$x" -->"#).unwrap();
        assert_eq!(set.get("value"), Some(&br#"say "hi" \$x"#[..]));
        for bad in ["<!--#-->", "<!--#echo var-->", "<!--#echo var=x-->"] {
            assert_eq!(command(bad), None, "{bad}");
        }
    }
}
