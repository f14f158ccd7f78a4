//! What applications say besides their responses: messages for the error log (FastCGI's standard error).
//!
//! Touches: the error log. Behaviour: nginx.org, `fastcgi_catch_stderr`.

use crate::http::request::Request;
use crate::http::request::error::Kind;
use crate::http::upstream::codec::Notes;
use crate::log;

/// Logs them. Errors: a message contains a text of `fastcgi_catch_stderr`.
#[cold]
pub(super) fn tell(request: &Request, notes: &Notes) -> Result<(), Kind> {
    let mut outcome = Ok(());
    for message in &notes.messages {
        let text = trimmed(message);
        if !text.is_empty() {
            let text = log::Text(text);
            log::error!(request.error_log(), request, "FastCGI sent in stderr: \"{text}\"");
        }
        if request.location.confs.fastcgi.catches(message) {
            outcome = Err(Kind::Caught);
        }
    }
    if let Some(bytes) = notes.is_cut {
        log::warn!(
            request.error_log(),
            request,
            "the other messages of this response are dropped, {bytes} bytes were logged: have the application write \
             its messages to a file of its own"
        );
    }
    if let Some(complaint) = notes.complaint {
        log::warn!(request.error_log(), request, "upstream sent {complaint}");
    }
    outcome
}

/// Without the end of the line and the dot before it, which nginx leaves out too.
fn trimmed(message: &[u8]) -> &[u8] {
    let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r' | b'.' | b' ');
    let length = message.iter().rposition(|byte| !is_end(byte)).map_or(0, |last| last + 1);
    &message[..length]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_line_is_not_logged() {
        for (message, expected) in
            [("PHP message: x.\r\n", "PHP message: x"), ("a\nb \n", "a\nb"), (" . \n", ""), ("", "")]
        {
            assert_eq!(trimmed(message.as_bytes()), expected.as_bytes(), "{message:?}");
        }
    }
}
