//! The text of SSI commands: where one begins and ends, its name and its parameters.
//!
//! Pure text. Syntax: nginx.org, ngx_http_ssi_module, "SSI Commands".

/// What a command begins with.
pub const BEGIN: &[u8] = b"<!--#";

/// A command: `name parameter="value" …`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Command {
    pub name: Vec<u8>,
    parameters: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What stands at the begin of a text.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// So many bytes are no command; what follows may be the begin of one.
    Text(usize),
    /// A command of so many bytes; `None`: one that cannot be read.
    Command(Option<Command>, usize),
    /// A command that has not ended yet.
    Partial,
}

impl Command {
    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.parameters.iter().find(|(known, _)| known == name.as_bytes()).map(|(_, value)| &**value)
    }
}

/// Finds what `input` begins with. `is_end`: nothing follows it.
pub fn find(input: &[u8], is_end: bool) -> Found {
    match memchr::memmem::find(input, BEGIN) {
        Some(0) => {}
        Some(at) => return Found::Text(at),
        None => {
            let held = if is_end { 0 } else { held_back(input) };
            return if held == input.len() { Found::Partial } else { Found::Text(input.len() - held) };
        }
    }
    match end(&input[BEGIN.len()..]) {
        Some(length) => {
            let text = &input[BEGIN.len()..BEGIN.len() + length];
            Found::Command(parse(text), BEGIN.len() + length + b"-->".len())
        }
        None => Found::Partial,
    }
}

/// Bytes at the end that may be the begin of a command.
fn held_back(input: &[u8]) -> usize {
    (1..BEGIN.len()).rev().find(|&count| input.ends_with(&BEGIN[..count])).unwrap_or(0)
}

/// Where the `-->` is that no quotes hold.
fn end(text: &[u8]) -> Option<usize> {
    let mut quote = None;
    let mut at = 0;
    while at < text.len() {
        match (text[at], quote) {
            (b'\\', Some(_)) => at += 1,
            (byte, Some(open)) if byte == open => quote = None,
            (byte @ (b'"' | b'\''), None) => quote = Some(byte),
            (b'-', None) if text[at..].starts_with(b"-->") => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
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
                // a quote that ends nothing; any other means itself, to a condition's expression for one
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

/// Takes a word of letters and `_`, and the space behind it; in lower case.
fn word(rest: &mut &[u8]) -> Vec<u8> {
    let length = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
    let (word, after) = rest.split_at(length);
    *rest = after.trim_ascii_start();
    word.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(text: &str) -> Option<Command> {
        match find(text.as_bytes(), true) {
            Found::Command(command, length) if length == text.len() => command,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn finds_text_commands_and_what_may_become_one() {
        assert_eq!(find(b"abc", false), Found::Text(3));
        assert_eq!(find(b"abc<!-", false), Found::Text(3));
        assert_eq!(find(b"<!--", false), Found::Partial);
        assert_eq!(find(b"<!--", true), Found::Text(4));
        assert_eq!(find(b"ab<!--#echo", false), Found::Text(2));
        assert_eq!(find(b"<!--#echo var=\"-->", false), Found::Partial);
        assert!(matches!(find(b"<!--#endif -->x", false), Found::Command(Some(_), 14)));
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
