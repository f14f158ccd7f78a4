//! Properties of the protocols of mail: commands of clients, replies of servers, answers of the authentication server.
//!
//! Touches: nothing; panics when a property does not hold. Truth: RFC 9051, RFC 1939, RFC 5321; nginx.org,
//! ngx_mail_auth_http_module.

use crate::proto::imap::{self, Awaited, Parsed, Reader};
use crate::proto::line::{Lines, Next};
use crate::proto::mail_auth::{self, Decision};
use crate::proto::{pop3, sasl, smtp};

/// The longest command; short, so that inputs reach it.
const MAX: usize = 64;

/// Reads `input` as a client's commands in IMAP, whole and in pieces of the lengths `cuts`: the result must be the same, and never longer
/// than the input. Its lines are commands of POP3 and SMTP, and answers to challenges, too.
pub fn reads_mail_commands(input: &[u8], cuts: &[u8]) {
    let whole = commands(input, &mut std::iter::repeat(input.len().max(1)));
    assert_eq!(commands(input, &mut cuts.iter().map(|cut| usize::from(*cut))), whole);
    for line in input.split(|byte| *byte == b'\n') {
        if let Some(command) = pop3::parse(line) {
            assert!(command.arguments.iter().all(|word| is_part(word, line)));
        }
        if let Some(command) = smtp::parse(line) {
            assert!(
                line.starts_with(command.text) && command.arguments.iter().all(|word| is_part(word, line))
            );
        }
        if let Ok(credentials) = sasl::plain(line) {
            assert!(!credentials.login.contains(&0));
        }
        if let Ok(credentials) = sasl::cram_md5(line) {
            assert!(!credentials.login.contains(&b' '));
        }
    }
}

fn is_part(word: &[u8], line: &[u8]) -> bool {
    !word.is_empty() && memchr::memmem::find(line, word).is_some() && !word.contains(&b'\r')
}

/// Everything that a client says, if it sends its bytes in these pieces. A piece is what fits a buffer, too.
fn commands(input: &[u8], pieces: &mut dyn Iterator<Item = usize>) -> Vec<Parsed> {
    let (mut reader, mut found) = (Reader::default(), Vec::new());
    let (mut begin, mut end) = (0, 0);
    loop {
        let (used, parsed) = reader.parse(&input[begin..end], MAX);
        assert!(used <= end - begin);
        begin += used;
        match parsed {
            Parsed::More if end == input.len() => return found,
            Parsed::More => {
                let room = MAX.saturating_sub(end - begin).max(1);
                end = input.len().min(end + pieces.next().unwrap_or(1).clamp(1, room));
            }
            Parsed::TooLong { .. } => {
                found.push(parsed);
                return found;
            }
            Parsed::Command(ref line) => {
                assert!(
                    !line.tag.is_empty()
                        && line.tag.len() <= imap::TAG_BYTES_MAX
                        && line.arguments.len() <= 3
                );
                let bytes: usize = line.arguments.iter().map(|argument| argument.0.len()).sum();
                assert!(bytes <= MAX, "{bytes}");
                found.push(parsed);
            }
            Parsed::Literal | Parsed::Invalid { .. } => found.push(parsed),
        }
    }
}

/// Reads `data` as the reply of a server, and as an answer of an authentication server.
pub fn reads_mail_replies(data: &[u8]) {
    for awaited in [Awaited::Greeting, Awaited::Permission, Awaited::End(b"a")] {
        if let imap::Reply::Good(length) | imap::Reply::Bad(length) = imap::reply(data, awaited, MAX) {
            assert!(length <= data.len() && data[..length].ends_with(b"\n"));
        }
    }
    if let smtp::Reply::Whole { length, code } = smtp::reply(data, MAX) {
        assert!(length <= data.len() && data[..length].ends_with(b"\n") && code <= 999);
    }
    if let Next::Line { text, whole } = Lines::default().next(data, MAX) {
        assert!(text < whole && whole <= data.len());
    }
    if let Ok(Some(answer)) = mail_auth::parse(data) {
        match answer.decision {
            Decision::Pass(pass) => assert!(pass.server.port() > 0),
            Decision::Refuse { text, code } => {
                let all = [&text[..], code.as_deref().unwrap_or_default()].concat();
                assert!(!all.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "it is one line");
            }
            Decision::Wait => {}
        }
    }
    let mut escaped = Vec::new();
    mail_auth::write_escaped(data, &mut escaped);
    smtp::write_xtext(data, &mut escaped);
    assert!(!escaped.iter().any(|byte| *byte <= b' '), "a client adds no field and no command");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_replies_hold_what_they_promise() {
        bolero::check!().with_type::<(Vec<u8>, Vec<u8>)>().for_each(|(input, cuts)| {
            reads_mail_commands(input, cuts);
            reads_mail_replies(input);
        });
        let pieces: [&[u8]; 12] = [
            b"a ",
            b"LOGIN ",
            b"{3}\r\n",
            b"{2+}\r\n",
            b"\"x\\\"\" ",
            b"AUTHENTICATE PLAIN",
            b"\r\n",
            b"\n",
            b"+}",
            b"* OK",
            b"Auth-Server: 127.0.0.1\r\n",
            b"250-",
        ];
        bolero::check!().with_type::<(Vec<u8>, Vec<u8>)>().for_each(|(choice, cuts)| {
            let text: Vec<u8> =
                choice.iter().flat_map(|index| pieces[usize::from(*index) % pieces.len()]).copied().collect();
            reads_mail_commands(&text, cuts);
            reads_mail_replies(&text);
        });
    }
}
