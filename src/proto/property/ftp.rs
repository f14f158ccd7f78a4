//! Properties of FTP: commands of clients, replies of servers, and the addresses in both.
//!
//! Touches: nothing; panics when a property does not hold. Truth: RFC 959, RFC 2428.

use std::net::SocketAddr;

use crate::proto::ftp::address::{parse_eprt, parse_port, plain, port_of_227, port_of_229, write_six};
use crate::proto::ftp::command;
use crate::proto::ftp::reply::Replies;

/// Reads `input` as lines of a client: each command is a part of its line, and says the same when it is sent on.
pub fn reads_ftp_commands(input: &[u8]) {
    for line in input.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(parsed) = command::parse(line) else { continue };
        assert!(line.ends_with(parsed.text) && parsed.text.ends_with(parsed.argument));
        assert!(!parsed.text.contains(&b'\r') && !parsed.text.contains(&0));
        assert_eq!(parsed.is_signalled, parsed.text.len() < line.len());
        let again = command::parse(parsed.text).expect("what is sent on is a command");
        assert_eq!((again.verb, again.argument, again.is_signalled), (parsed.verb, parsed.argument, false));
        if let Some(address) = parse_port(parsed.argument) {
            let mut written = Vec::new();
            write_six(address, &mut written);
            assert_eq!(parse_port(&written), Some(address));
        }
        if let Ok(address) = parse_eprt(parsed.argument) {
            let family = if address.is_ipv4() { 1 } else { 2 };
            let written = format!("|{family}|{}|{}|", address.ip(), address.port());
            assert_eq!(parse_eprt(written.as_bytes()).map(without_scope), Ok(without_scope(address)));
            assert_eq!(plain(plain(address)), plain(address));
        }
    }
}

fn without_scope(address: SocketAddr) -> (std::net::IpAddr, u16) {
    (address.ip(), address.port())
}

/// Reads `input` as lines of a server: a reply begins and ends with its code, and none begins within another.
pub fn reads_ftp_replies(input: &[u8]) {
    let mut replies = Replies::default();
    for line in input.split(|byte| *byte == b'\n') {
        let was_inside = replies.is_inside();
        match replies.take(line) {
            Ok(part) => {
                assert_eq!(part.is_first, !was_inside);
                assert_eq!(part.is_last, !replies.is_inside());
                assert!((100..600).contains(&part.code));
                let code = part.code.to_string();
                assert!(!part.is_last && !part.is_first || line.starts_with(code.as_bytes()));
            }
            Err(_) => assert!(!was_inside && !replies.is_inside()),
        }
        for port in [port_of_227(line), port_of_229(line)].into_iter().flatten() {
            assert!(port > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    const PIECES: [&[u8]; 26] = [
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"-",
        b",",
        b"|",
        b"(",
        b")",
        b"\xff\xf4\xff\xf2",
        b"ABOR",
        b"RETR a b",
        b"PORT ",
        b"EPRT ",
        b"|1|192.0.2.1|5000|",
        b"|2|2001:db8::1%1|5000|",
        b"192,0,2,1,19,136",
        b"256,",
        b"00000",
        b"227 (",
        b"229 (|||",
        b"211-a",
        b"211 b",
        b"2",
        b"65536",
    ];

    fn input() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![select(&PIECES[..]).prop_map(<[u8]>::to_vec), vec(any::<u8>(), 0..6)];
        vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn lines_of_both_sides_keep_their_properties(input in input()) {
            reads_ftp_commands(&input);
            reads_ftp_replies(&input);
        }

        #[test]
        fn addresses_are_read_as_they_are_written(a: u8, b: u8, c: u8, d: u8, port in 1u16..) {
            let address = std::net::SocketAddrV4::new([a, b, c, d].into(), port);
            let mut written = b"227 Entering Passive Mode (".to_vec();
            write_six(address, &mut written);
            prop_assert_eq!(port_of_227(&written), Some(port));
            let told = format!("229 Extended (|||{port}|)");
            prop_assert_eq!(port_of_229(told.as_bytes()), Some(port));
        }
    }
}
