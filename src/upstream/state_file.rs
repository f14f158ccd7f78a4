//! The file that keeps the servers of a group (`state` in an `upstream` block), in nginx Plus' format: a `server` line
//! for each.
//!
//! The file is part of the configuration: it is read with it, and the master writes it anew at each change of the group
//! (`master/orders.rs`). Touches: that file. Behaviour: nginx.org, `state` of ngx_http_upstream_module.

use std::borrow::Cow;
use std::io;
use std::path::Path;

use crate::config::lexer::{self, Lexer, Token};
use crate::upstream::block;
use crate::upstream::edits;
use crate::upstream::group::Group;
use crate::upstream::peer::Server;

/// Maximum length of a file: more than 65,536 servers, which is the limit of a group.
pub const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The servers in a file; none if there is no such file. Without a `default_port` each has one of its own.
///
/// # Errors
/// The reason, with the number of the line if it is one line's.
pub fn read(path: &Path, default_port: Option<u16>) -> Result<Vec<Server>, String> {
    let shown = path.display();
    let text = match std::fs::metadata(path) {
        Ok(file) if file.len() > BYTES_MAX => {
            return Err(format!("\"{shown}\" has more than {BYTES_MAX} bytes"));
        }
        Ok(_) => std::fs::read_to_string(path),
        Err(error) => Err(error),
    };
    match text {
        Ok(text) => parse(&text, default_port).map_err(|(line, why)| format!("{why} in {shown}:{line}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(format!("reading \"{shown}\" failed {}", crate::log::Cause(&error))),
    }
}

/// The servers of a text; a fault comes with the number of its line.
fn parse(text: &str, default_port: Option<u16>) -> Result<Vec<Server>, (usize, String)> {
    let mut lexer = Lexer::new(text);
    let mut servers = Vec::new();
    let mut words: Vec<Cow<'_, str>> = Vec::new();
    let mut last = 0;
    loop {
        let (at, fault) = match lexer.token() {
            Ok(Token::Word { start, end, quoted }) => {
                words.push(lexer.meaning(start, end, quoted));
                last = end;
                continue;
            }
            Ok(Token::Semicolon(at)) => match server(&words, default_port) {
                Ok(server) => {
                    servers.push(server);
                    words.clear();
                    continue;
                }
                Err(why) => (at, why),
            },
            Ok(Token::End) if words.is_empty() => return Ok(servers),
            Ok(Token::End) => (last, NO_SEMICOLON.to_owned()),
            Err(lexer::Error::OpenWord { start }) => (start, NO_SEMICOLON.to_owned()),
            Ok(Token::Open(at)) => (at, "unexpected \"{\"".to_owned()),
            Ok(Token::Close(at)) => (at, "unexpected \"}\"".to_owned()),
            Err(lexer::Error::OpenQuote { start }) => (start, "a quote is not closed".to_owned()),
            Err(lexer::Error::AfterQuote { end, .. }) => {
                (end, "white space or \";\" is missing behind a quote".to_owned())
            }
        };
        return Err((1 + memchr::memchr_iter(b'\n', &text.as_bytes()[..at]).count(), fault));
    }
}

const NO_SEMICOLON: &str = "\";\" is missing at the end";

fn server(words: &[Cow<'_, str>], default_port: Option<u16>) -> Result<Server, String> {
    match words.split_first() {
        Some((first, rest)) if first == "server" && !rest.is_empty() => {
            edits::read_words(&rest.join(" "), default_port)
        }
        Some((first, _)) if first == "server" => Err("a server has no address".to_owned()),
        Some((word, _)) => Err(format!("\"{word}\" is not \"server\"")),
        None => Err("unexpected \";\"".to_owned()),
    }
}

/// The text that has the present servers of a group.
pub fn text(group: &Group) -> Vec<u8> {
    let lines = group.present().map(|(_, server)| format!("server {};\n", block::words(server).join(" ")));
    lines.collect::<String>().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_come_back_as_they_were_written() {
        let text_of = |servers: Vec<Server>| {
            String::from_utf8(text(&Group::new("state_file.test", servers))).expect("it is text")
        };
        let given = "# written by hand\nserver \"127.0.0.1:80\" weight=3\n  down; server unix:/run/a.sock;\n\n\
                     server [::1]:81 max_conns=2 backup;\n";
        let servers = parse(given, Some(80)).expect("good lines");
        let written = text_of(servers);
        let expected = "server 127.0.0.1:80 weight=3 down;\nserver unix:/run/a.sock;\n\
                        server [::1]:81 max_conns=2 backup;\n";
        assert_eq!(written, expected);
        assert_eq!(text_of(parse(&written, Some(80)).expect("our own lines")), expected);
        assert!(parse("", None).is_ok_and(|servers| servers.is_empty()));
    }

    #[test]
    fn a_bad_line_is_named_with_its_number() {
        for (text, line, why) in [
            ("server 127.0.0.1:80;\nserver 127.0.0.1:81 weight=x;\n", 2, "invalid parameter \"weight=x\""),
            ("server 127.0.0.1:80;\n\nupstream a;\n", 3, "\"upstream\" is not \"server\""),
            ("server;", 1, "a server has no address"),
            (";", 1, "unexpected \";\""),
            ("server 127.0.0.1:80", 1, "\";\" is missing at the end"),
            ("server 127.0.0.1:80 ", 1, "\";\" is missing at the end"),
            ("server 127.0.0.1:80 down;\nserver 127.0.0.1:81\n", 2, "\";\" is missing at the end"),
            ("server 127.0.0.1:80 'route=a\"b';", 1, "a server's line must not contain '\"'"),
            ("\nserver 127.0.0.1:80 {}", 2, "unexpected \"{\""),
            ("}", 1, "unexpected \"}\""),
            ("server \"127.0.0.1:80;\n\n", 1, "a quote is not closed"),
            ("server \"127.0.0.1:80\"weight=2;", 1, "white space or \";\" is missing behind a quote"),
        ] {
            let found = parse(text, Some(80)).expect_err(text);
            assert_eq!((found.0, &*found.1), (line, why), "{text}");
        }
    }
}
